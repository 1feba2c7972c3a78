//! Nobody is led to where webhooks may not go: not when an address is saved, not when it is sent to, not by a name that
//! changes its mind, and not by a row somebody else wrote. The addresses are in `fixtures/ssrf/addresses.json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use pulsehook::domain::address::AddressPolicy;
use pulsehook::domain::endpoint_url::EndpointUrl;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp, names, resolver, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const WEBHOOKS: &str = "/api/sites/example.com/webhooks";

/// Every address of the corpus that is written down: what it is for, and the text.
fn corpus() -> Vec<(String, String)> {
    let corpus = read_corpus();
    let groups = |kind: &str| corpus[kind].as_object().unwrap().clone().into_iter();
    let texts = |group: Value| group.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    let mut found = Vec::new();
    for (about, hosts) in groups("hosts") {
        let hosts: Vec<String> = texts(hosts);
        found.extend(hosts.into_iter().map(|host| (about.clone(), format!("https://{host}/hook"))));
    }
    for (about, urls) in groups("urls") {
        let urls: Vec<String> = texts(urls);
        found.extend(urls.into_iter().map(|url| (about.clone(), url)));
    }
    assert!(found.len() > 300, "{}", found.len());
    found
}

/// Names that lead inside.
fn traps() -> BTreeMap<String, Vec<IpAddr>> {
    let names = read_corpus()["names"].as_object().unwrap().clone();
    let addresses = |found: Value| found.as_array().unwrap().iter().map(|one| text(one).parse().unwrap()).collect();
    let canonical = |name: String| {
        let url = EndpointUrl::parse(&format!("https://{name}/"), &AddressPolicy::default()).unwrap();
        url.authority()
    };
    names.into_iter().map(|(name, found)| (canonical(name), addresses(found))).collect()
}

fn read_corpus() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ssrf/addresses.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// As strangers find it.
fn strict() -> Setup {
    let settings = vec![("egress_allow", String::new()), ("egress_allow_http", "false".to_owned())];
    Setup { settings, resolver: Some(resolver(|_| Vec::new())), ..Setup::default() }
}

fn refused(text: &str) -> bool {
    EndpointUrl::parse(text, &AddressPolicy::default()).is_err()
}

/// Changes an address where no rule looks: in the database.
async fn rewrite_url(database: &crate::support::Database, webhook_id: &str, url: &str) {
    database.rewrite("UPDATE webhooks SET url = $1, sealed_url = NULL WHERE id = $2", url, webhook_id).await;
}

/// The last attempt of a delivery: its outcome and its sentence.
async fn last_attempt(app: &TestApp, delivery: &str) -> (String, String) {
    let delivery = app.get(delivery).await.expect(200)["delivery"].clone();
    let attempt = delivery["attempts"].as_array().unwrap().last().unwrap_or_else(|| panic!("{delivery}")).clone();
    (text(&attempt["outcome"]).to_owned(), attempt["error_message"].as_str().unwrap_or_default().to_owned())
}

async fn send_test(app: &TestApp, webhook: &str) -> String {
    let sent = app.post(&format!("{webhook}/test"), json!({})).await.expect(202);
    app.drain().await;
    format!("{webhook}/deliveries/{}", text(&sent["delivery"]["id"]))
}

on_both!({
    async fn no_spelling_of_the_inside_can_be_saved(database: Database) {
        let app = TestApp::start_with(database, strict()).await;
        app.site().await;
        let webhook = app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
        let webhook = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
        for (about, url) in corpus() {
            let body = json!({"name": "x", "url": url, "triggers": [{"type": "goal_completion"}]});
            let sentence = app.post(WEBHOOKS, body).await.complaint("url");
            assert!(!sentence.is_empty(), "{about}: {url:?}");
            assert_eq!(app.patch(&webhook, json!({"url": url})).await.complaint("url"), sentence, "{about}: {url:?}");
            let checked = app.post(&format!("{WEBHOOKS}/check"), json!({"url": url, "ping": true})).await.expect(200);
            assert_eq!(checked["ok"], false, "{about}: {url:?}");
            // Nothing after the address was looked at.
            let steps = checked["steps"].as_array().unwrap();
            assert!(steps[3..].iter().all(|step| step["state"] == "skipped"), "{about}: {url:?}: {checked}");
            app.advance(Duration::from_secs(2));
        }
        let kept = app.get(WEBHOOKS).await.expect(200);
        assert_eq!(kept["webhooks"].as_array().unwrap().len(), 1);
        assert_eq!(kept["webhooks"][0]["url"], "https://hooks.example.com/in");
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    async fn a_row_somebody_else_wrote_is_not_sent_to(database: Database) {
        let app = TestApp::start_with(database, strict()).await;
        app.site().await;
        for (about, url) in corpus() {
            // No text in PostgreSQL can have it.
            if url.contains('\0') {
                continue;
            }
            let webhook = app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
            let id = text(&webhook["id"]).to_owned();
            rewrite_url(&app.database, &id, &url).await;
            let webhook = format!("{WEBHOOKS}/{id}");
            let delivery = send_test(&app, &webhook).await;
            let (outcome, sentence) = last_attempt(&app, &delivery).await;
            assert_eq!(outcome, "forbidden_url", "{about}: {url:?}");
            assert!(sentence.ends_with("Edit the webhook's URL."), "{about}: {url:?}: {sentence}");
            app.delete(&webhook).await.expect(204);
            // Tests have a budget.
            app.advance(Duration::from_millis(200));
        }
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    async fn what_was_edited_behind_our_back_is_neither_retried_nor_resent(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(500)]).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        let id = text(&webhook["id"]).to_owned();
        let webhook = format!("{WEBHOOKS}/{id}");
        let delivery = send_test(&app, &webhook).await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "server_error");
        // As after a restored backup: nobody here heard of it.
        let (clock, database) = (app.clock.clone(), app.stop().await);
        rewrite_url(&database, &id, "http://169.254.169.254/latest/meta-data/").await;
        let app = TestApp::start_at(database, Setup::default(), clock).await;
        let arrived = endpoint.arrived().len();
        app.advance(Duration::from_secs(6));
        app.drain().await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_url");
        app.post(&format!("{delivery}/resend"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_url");
        assert_eq!(endpoint.arrived().len(), arrived);
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    async fn a_name_with_one_forbidden_record_is_refused_at_every_turn(database: Database) {
        let traps = traps();
        let answers = traps.clone();
        let resolver = resolver(move |name| answers.get(name).cloned().unwrap_or_default());
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), ..strict() }).await;
        app.site().await;
        for name in traps.keys() {
            let url = format!("https://{name}/hook");
            let checked = app.post(&format!("{WEBHOOKS}/check"), json!({"url": url, "ping": true})).await.expect(200);
            let address = checked["steps"].as_array().unwrap().iter().find(|step| step["step"] == "address").unwrap();
            assert_eq!(address["message"], "Webhooks may not reach this address.", "{name}");
            // What it leads to is nobody's to know.
            for record in &traps[name] {
                assert!(!checked.to_string().contains(&record.to_string()), "{name}: {checked}");
            }
            app.advance(Duration::from_secs(2));
            // The name itself may be saved: what it leads to is judged each time it is sent to.
            let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
            let webhook = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
            let delivery = send_test(&app, &webhook).await;
            let (outcome, sentence) = last_attempt(&app, &delivery).await;
            assert_eq!(outcome, "forbidden_address", "{name}");
            assert!(!traps[name].iter().any(|record| sentence.contains(&record.to_string())), "{sentence}");
            app.delete(&webhook).await.expect(204);
        }
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    /// CVE-2022-3590, CVE-2023-26492: judged at one look-up, led elsewhere at the next.
    async fn a_name_that_changes_its_mind_leads_nowhere(database: Database) {
        let endpoint = Endpoint::http([Behaviour::with_headers(500, "connection: close\r\n")]).await;
        let now = Arc::new(Mutex::new(vec!["127.0.0.1"]));
        let (answers, asked) = (Arc::clone(&now), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let resolver = resolver(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            answers.lock().unwrap().iter().map(|text| text.parse().unwrap()).collect()
        });
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), ..Setup::default() }).await;
        app.site().await;
        let url = format!("http://rebinding.example:{}/hook", endpoint.address.port());
        let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
        let webhook = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
        let delivery = send_test(&app, &webhook).await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "server_error");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it is looked up once an attempt");
        for (records, span) in [(vec!["10.0.0.5"], 6), (vec!["127.0.0.1", "169.254.169.254"], 70), (vec!["::1"], 400)] {
            *now.lock().unwrap() = records;
            app.advance(Duration::from_secs(span));
            app.drain().await;
            assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_address");
        }
        app.post(&format!("{delivery}/resend"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_address");
        let checked = app.post(&format!("{WEBHOOKS}/check"), json!({"url": url})).await.expect(200);
        assert_eq!(checked["ok"], false);
        assert_eq!((endpoint.arrived().len(), app.dialled().len()), (1, 1));
        app.stop().await;
    }

    /// CVE-2026-41905, CVE-2024-39699, CVE-2022-1285: the first address was judged, the one it redirected to was not.
    async fn no_redirect_leads_inside(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for status in [301, 302, 303, 307, 308] {
            for location in [
                "http://169.254.169.254/latest/meta-data/",
                "//10.0.0.5/",
                "https://[::1]/",
                "gopher://127.0.0.1:6379/_x",
            ] {
                let script = [Behaviour::with_headers(status, &format!("location: {location}\r\n"))];
                let endpoint = Endpoint::http(script).await;
                let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
                let webhook = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
                let (outcome, sentence) = last_attempt(&app, &send_test(&app, &webhook).await).await;
                assert_eq!(outcome, "redirect");
                assert!(sentence.contains("which is not followed"), "{sentence}");
                assert_eq!(endpoint.arrived().len(), 1);
                app.delete(&webhook).await.expect(204);
            }
        }
        app.stop().await;
    }

    /// CVE-2023-46746, CVE-2024-9710, CVE-2025-1521, CVE-2025-1522: the form refused an address that saving it by another way
    /// let through, and the worker sent to whatever was saved. Here all of them end in the one connector.
    async fn what_one_door_refuses_no_other_lets_through(database: Database) {
        let inside = "http://127.0.0.1:8123/?query=SELECT%201";
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let setup = Setup { settings: vec![("egress_allow", String::new())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        let body = |url: &str| json!({"name": "x", "url": url, "triggers": [{"type": "goal_completion"}]});
        for url in [inside, &endpoint.url()] {
            assert!(
                app.post(WEBHOOKS, body(url)).await.complaint("url").contains("must not use port")
                    || app.post(WEBHOOKS, body(url)).await.complaint("url").contains("private network"),
                "{url}"
            );
            let webhook = app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
            let id = text(&webhook["id"]).to_owned();
            app.patch(&format!("{WEBHOOKS}/{id}"), json!({"url": url})).await.complaint("url");
            rewrite_url(&app.database, &id, url).await;
            let delivery = send_test(&app, &format!("{WEBHOOKS}/{id}")).await;
            assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_url", "{url}");
        }
        assert_eq!((endpoint.arrived().len(), app.dialled().len()), (0, 0));
        app.stop().await;
    }

    async fn what_the_operator_denies_is_refused_though_it_is_allowed(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let setup = Setup {
            settings: vec![("egress_deny", "127.0.0.1/32".to_owned())],
            resolver: Some(names([("denied.example", &["127.0.0.1"])])),
            ..Setup::default()
        };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        let body = json!({"name": "x", "url": endpoint.url(), "triggers": [{"type": "goal_completion"}]});
        assert!(app.post(WEBHOOKS, body).await.complaint("url").contains("private network"));
        let url = format!("http://denied.example:{}/hook", endpoint.address.port());
        let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
        let delivery = send_test(&app, &format!("{WEBHOOKS}/{}", text(&webhook["id"]))).await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "forbidden_address");
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    async fn addresses_that_do_not_answer_leave_the_others_their_turn(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        // Nobody listens at the others: a refusal has the next one tried at once.
        let resolver = names([("several.example", &["127.0.0.2", "127.0.0.3", "::1", "127.0.0.1"])]);
        let settings = vec![("egress_allow", "127.0.0.0/8,::1/128".to_owned())];
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), settings, ..Setup::default() }).await;
        app.site().await;
        let url = format!("http://several.example:{}/hook", endpoint.address.port());
        let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
        let delivery = send_test(&app, &format!("{WEBHOOKS}/{}", text(&webhook["id"]))).await;
        assert_eq!(last_attempt(&app, &delivery).await.0, "success");
        let dialled: Vec<_> = app.dialled().iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(dialled, ["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"], "one kind after the other");
        app.stop().await;
    }
});

/// Every way in which an IPv4 address has been written as the host of an address.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = u32::from(address);
    let rest = bits & 0xff_ffff;
    let low = bits & 0xffff;
    let dotted = address.to_string();
    let [high_half, low_half] = [bits >> 16, low];
    let wide: String =
        dotted.chars().map(|c| if c == '.' { '．' } else { char::from_u32(c as u32 + 0xfee0).unwrap() }).collect();
    let percent: String = dotted.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut found = vec![
        dotted.clone(),
        format!("{dotted}."),
        format!("{dotted}.."),
        format!("{bits}"),
        format!("{bits:#x}"),
        format!("0x{bits:X}"),
        format!("{bits:#013o}").replace("0o", "0"),
        format!("{a}.{rest}"),
        format!("{a}.{b}.{low}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.0x{c:x}.{d}"),
        format!("{a:#x}.{rest}"),
        format!("{a}.{b}.{low:#x}"),
        wide,
        percent,
        dotted.replace('.', "%2e"),
        dotted.replace('.', "。"),
        format!("user@{dotted}"),
        format!("example.com@{dotted}"),
        format!("{dotted}#.example.com"),
        format!("[::ffff:{dotted}]"),
        format!("[::FFFF:{high_half:x}:{low_half:x}]"),
        format!("[0:0:0:0:0:ffff:{high_half:04x}:{low_half:04x}]"),
        format!("[::{dotted}]"),
        format!("[::ffff:0:{dotted}]"),
        format!("[::5efe:{dotted}]"),
        format!("[fe80::5efe:{dotted}]"),
        format!("[2a00:1450::5efe:{dotted}]"),
        format!("[2a00:1450::200:5efe:{dotted}]"),
        format!("[2002:{high_half:x}:{low_half:x}::1]"),
        // Teredo has the client's address inverted.
        format!("[2001:0:{high_half:x}:{low_half:x}::{:x}:{:x}]", !high_half & 0xffff, !low_half & 0xffff),
        format!("[64:ff9b::{dotted}]"),
        format!("[64:ff9b:1::{dotted}]"),
        format!("[64:ff9b:1:{high_half:x}:{:x}:{:x}::]", c, u32::from(d) << 8),
    ];
    found.extend(
        [32, 40, 48, 56].map(|length| format!("[{}]", embedded("64:ff9b:1::".parse().unwrap(), length, address))),
    );
    found
}

/// RFC 6052 with a prefix of this length.
fn embedded(prefix: std::net::Ipv6Addr, length: usize, address: Ipv4Addr) -> std::net::Ipv6Addr {
    let mut octets = prefix.octets();
    let places = (length / 8..16).filter(|place| *place != 8);
    for (place, octet) in places.zip(address.octets()) {
        octets[place] = octet;
    }
    octets.into()
}

/// The networks of the corpus, as first and last address of each.
fn forbidden_ipv4() -> impl Strategy<Value = Ipv4Addr> {
    let corpus = read_corpus();
    let group =
        corpus["hosts"].as_object().unwrap().iter().find(|(about, _)| about.starts_with("IPv4 ranges")).unwrap().1;
    let bounds: Vec<u32> =
        group.as_array().unwrap().iter().map(|one| u32::from(text(one).parse::<Ipv4Addr>().unwrap())).collect();
    let ranges: Vec<_> = bounds.chunks(2).map(|pair| pair[0]..=pair[1]).collect();
    proptest::sample::select(ranges).prop_flat_map(|range| range).prop_map(Ipv4Addr::from)
}

fn is_forbidden(address: Ipv4Addr) -> bool {
    AddressPolicy::default().judge(address.into()).is_err()
}

proptest! {
    #[test]
    fn no_spelling_of_a_forbidden_address_is_accepted(address in forbidden_ipv4()) {
        for host in spellings(address) {
            prop_assert!(refused(&format!("https://{host}/")), "{host}");
        }
    }

    #[test]
    fn behind_nat64_every_prefix_length_is_looked_through(address in forbidden_ipv4(), public in any::<u32>()) {
        let public = Ipv4Addr::from(public);
        for length in [32, 40, 48, 56, 64, 96] {
            let prefix: std::net::Ipv6Addr = "2a01:64::".parse().unwrap();
            let nat64 = vec![format!("{prefix}/{length}").parse().unwrap()];
            let policy = AddressPolicy { nat64, ..AddressPolicy::default() };
            prop_assert!(policy.judge(embedded(prefix, length, address).into()).is_err());
            prop_assert_eq!(policy.judge(embedded(prefix, length, public).into()).is_err(), is_forbidden(public));
        }
    }

    #[test]
    fn public_addresses_are_accepted(bits in any::<u32>(), high in 0x2a00_u16..0x2c00, rest in any::<[u16; 6]>()) {
        let address = Ipv4Addr::from(bits);
        prop_assume!(!is_forbidden(address));
        let url = format!("https://{address}/");
        let parsed = EndpointUrl::parse(&url, &AddressPolicy::default());
        prop_assert_eq!(parsed.map(|parsed| parsed.as_str().to_owned()), Ok(url));
        let [b, c, d, e, f, g] = rest;
        prop_assume!(e != 0x5efe);
        prop_assume!(d != 0x5efe);
        let address = std::net::Ipv6Addr::from([high, b, c, 1, d, e, f, g]);
        let url = format!("https://[{address}]/");
        prop_assert!(!refused(&url), "{url}");
    }
}

/// Published bugs of others, each with what it teaches.
mod cves {
    use http::HeaderMap;
    use pulsehook::domain::headers;
    use pulsehook::domain::signature::{SigningSecret, verify_body, verify_standard};

    use super::*;

    /// IPv4 in IPv6 notation skipped the list of IPv4 networks.
    #[test]
    fn cve_2026_2455_cve_2026_35409_cve_2026_33480_mapped_addresses() {
        for address in ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1"] {
            assert!(refused(&format!("https://[::ffff:{address}]/")), "{address}");
        }
        assert!(refused("https://[::ffff:a9fe:a9fe]/"));
    }

    /// Only 127.0.0.1 was taken for loopback.
    #[test]
    fn cve_2024_46990_the_whole_of_loopback() {
        for host in ["127.0.0.2", "127.127.127.127", "127.255.255.254", "0.0.0.0", "[::]", "[::1]", "localhost"] {
            assert!(refused(&format!("https://{host}/")), "{host}");
        }
    }

    /// Leading zeros, short forms and mapped addresses were judged as something public.
    #[test]
    fn cve_2021_29922_cve_2021_29923_cve_2021_29921_cve_2021_28918_octal() {
        for host in ["0177.0.0.1", "010.8.8.8", "0127.0.0.1.", "012.0.0.5", "192.0250.1.1", "0000177.0.0.1"] {
            let url = EndpointUrl::parse(&format!("https://{host}/"), &AddressPolicy::default());
            // What is accepted is what the canonical form says, and that is what will be dialled.
            let public = ["0127.0.0.1.", "010.8.8.8"].contains(&host);
            assert_eq!(url.is_ok(), public, "{host}: {url:?}");
        }
        let octal = EndpointUrl::parse("https://010.8.8.8/", &AddressPolicy::default()).unwrap();
        assert_eq!(octal.as_str(), "https://8.8.8.8/");
    }

    /// "Is it private?" was answered with no for what the answer was not known of.
    #[test]
    fn cve_2023_42282_cve_2024_29415_cve_2024_24790_unknown_is_not_public() {
        for host in
            ["0x7f.1", "127.1", "01200034567", "012.1.2.3", "000:0:0000::01", "[::fFFf:127.0.0.1]", "[::ffff:7f00:1]"]
        {
            assert!(refused(&format!("https://{host}/")), "{host}");
        }
    }

    /// A dot at the end, or another case, was another name to the list.
    #[test]
    fn cve_2022_24825_cve_2022_29188_dots_case_and_brackets() {
        for host in [
            "localhost.",
            "LOCALHOST",
            "Metadata.Google.Internal.",
            "metadata.google.internal..",
            "[localhost]",
            "[127.0.0.1]",
        ] {
            assert!(refused(&format!("https://{host}/")), "{host}");
        }
    }

    /// A punycode label that decodes to plain ASCII made two names of one.
    #[test]
    fn cve_2024_12224_punycode_of_ascii() {
        for host in ["xn--localhost-.com", "xn--example-.org", "xn--localhost-", "xn--a.xn--localhost-"] {
            assert!(refused(&format!("https://{host}/")), "{host}");
        }
    }

    /// Only literals were judged, so that a name that leads inside passed. Names are judged by what they lead to:
    /// `a_name_with_one_forbidden_record_is_refused_at_every_turn`.
    #[test]
    fn ghsa_r2x7_427f_rq69_cve_2022_0870_names_are_not_literals() {
        assert!(traps().keys().any(|name| name.ends_with("nip.io")));
    }

    /// The parser that judged and the one that dialled read another host.
    #[test]
    fn cve_2018_8801_cve_2021_22214_two_parsers_one_answer() {
        for text in [
            "https://example.com\\@127.0.0.1/",
            "https://1.1.1.1 &@127.0.0.1# @example.com/",
            "https://127.0.0.1\t.example.com/",
        ] {
            assert!(refused(text), "{text:?}");
        }
        for (_, text) in corpus() {
            assert!(refused(&text), "{text:?}");
        }
        let accepted =
            EndpointUrl::parse("https://b\u{fc}cher.example.org/%2e%2e/x?y=%00", &AddressPolicy::default()).unwrap();
        let uri: http::Uri = accepted.as_str().parse().unwrap();
        assert_eq!(uri.host(), Some("xn--bcher-kva.example.org"));
    }

    /// Headers of an owner's steered proxies and unlocked metadata services.
    #[test]
    fn cve_2025_6454_custom_headers() {
        for name in [
            "Host",
            "X-Forwarded-Host",
            "X-Forwarded-For",
            "Proxy-Authorization",
            "Metadata",
            "Metadata-Flavor",
            "X-aws-ec2-metadata-token",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "Expect",
        ] {
            assert!(headers::check(name, "x").is_err(), "{name}");
        }
        for (name, value) in [
            ("X-A\r\nHost", "x"),
            ("X-A", "x\r\nHost: 169.254.169.254"),
            ("X-A", "x\n y"),
            ("X A", "x"),
            ("X-A:", "x"),
            ("", "x"),
        ] {
            assert!(headers::check(name, value).is_err(), "{name:?} {value:?}");
        }
        // What is accepted is one header, whatever it is made of.
        let (name, value) = headers::check("X-A", "a, b: c; \"d\"").unwrap();
        let map: HeaderMap = [(name, value)].into_iter().collect();
        assert_eq!(map.len(), 1);
    }

    /// A signature was compared only as far as the shorter one went.
    #[test]
    fn cve_2024_21491_a_part_of_a_signature_is_none() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let whole = secret.sign_standard("id", 1_772_013_600, b"{}");
        let verify = |header: &str| verify_standard(&secret, "id", "1772013600", header, b"{}", 1_772_013_600);
        assert!(verify(&whole).is_ok() && verify(&format!("v1,AAAA {whole}")).is_ok());
        for end in 0..whole.len() {
            assert!(verify(&whole[..end]).is_err(), "{end}");
        }
        for header in
            [format!("{whole}="), format!("v2{}", &whole[2..]), whole.to_uppercase(), format!("{whole},{whole}")]
        {
            assert!(verify(&header).is_err(), "{header}");
        }
        let body = secret.sign_body(b"{}");
        for end in 0..body.len() {
            assert!(verify_body(&secret, &body[..end], b"{}").is_err(), "{end}");
        }
    }
}
