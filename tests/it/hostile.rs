//! Endpoints that mean harm: whatever they send, an attempt ends in time with an outcome, and costs a little memory.

use std::time::Duration;

use pulsehook::clock::Clock;
use pulsehook::domain::time::Timestamp;
use serde_json::{Value, json};

use crate::sending::{assert_outcome, first_attempt, first_attempt_after};
use crate::support::app::{Answer, SITE, Setup, TestApp, http_client, text};
use crate::support::process::{Served, key, pulsehook};
use crate::support::zoo::{Behaviour, Certificate, Endpoint};
use crate::support::{Database, on_both, within};

const ATTEMPT_BUDGET: Duration = Duration::from_secs(15);
const BODY_BUDGET: Duration = Duration::from_secs(3);
const MIB: u64 = 1 << 20;

fn endless(head: &str, more: &str) -> Behaviour {
    Behaviour::Endless(head.as_bytes().to_vec(), more.as_bytes().to_vec())
}

fn answer(text: &str) -> Behaviour {
    Behaviour::Answer(text.as_bytes().to_vec())
}

/// An answer with this much of announcements before it.
fn announced(times: usize) -> String {
    format!("{}HTTP/1.1 204 X\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(times))
}

/// An answer with so many header lines.
fn headers(count: usize, value_bytes: usize) -> String {
    let value = "y".repeat(value_bytes);
    let lines: String = (0..count - 1).map(|number| format!("x-{number}: {value}\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}\r\n")
}

on_both!({
    async fn floods_end_by_themselves(database: Database) {
        let app = TestApp::start(database).await;
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for (what, behaviour, outcome) in [
            ("a header without end", endless("HTTP/1.1 200 OK\r\nx: ", "y"), "headers_too_large"),
            ("headers without end", endless("HTTP/1.1 200 OK\r\n", "x: y\r\n"), "headers_too_large"),
            ("a header's name without end", endless("HTTP/1.1 200 OK\r\n", "x"), "headers_too_large"),
            ("a reason without end", endless("HTTP/1.1 200 ", "y"), "headers_too_large"),
            ("empty lines", endless("", "\r\n"), "headers_too_large"),
            ("announcements without end", endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"), "http_invalid"),
            ("to go on, again and again", endless("", "HTTP/1.1 100 Continue\r\n\r\n"), "http_invalid"),
            ("nine announcements", answer(&announced(9)), "http_invalid"),
            ("eight announcements", answer(&announced(8)), "success"),
            ("64 headers", answer(&headers(64, 1)), "success"),
            ("65 headers", answer(&headers(65, 1)), "headers_too_large"),
            ("15 KiB of headers", answer(&headers(15, 1_024)), "success"),
            ("17 KiB of headers", answer(&headers(17, 1_024)), "headers_too_large"),
            ("a body without end", endless("HTTP/1.1 200 OK\r\n\r\n", "x"), "success"),
            (
                "a body as long as can be said",
                endless("HTTP/1.1 500 X\r\ncontent-length: 18446744073709551613\r\n\r\n", "x"),
                "server_error",
            ),
            ("tiny chunks", endless(chunked, "1\r\nx\r\n"), "success"),
            (
                "extensions of chunks",
                endless(chunked, "1;a=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\nx\r\n"),
                "success",
            ),
            ("an extension without end", endless(&format!("{chunked}1;"), "a=b;"), "success"),
            ("a chunk too long to be", answer(&format!("{chunked}fffffffffffffffff\r\nx")), "success"),
            ("trailers without end", endless(&format!("{chunked}0\r\n"), "x: y\r\n"), "success"),
        ] {
            let endpoint = Endpoint::http([behaviour]).await;
            let delivery = first_attempt(&app, &endpoint.url()).await;
            assert_eq!(delivery["attempts"][0]["outcome"], outcome, "{what}: {delivery}");
            assert!(delivery["response_body"].as_str().unwrap_or_default().len() <= 4_096, "{what}");
            assert_eq!(endpoint.arrived().len(), 1, "{what}");
        }
        app.stop().await;
    }

    async fn what_is_ambiguous_is_refused(database: Database) {
        let app = TestApp::start(database).await;
        for (what, bytes, outcome) in [
            ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", "http_invalid"),
            ("lengths in one line", "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nabc", "http_invalid"),
            ("the same length twice", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab", "success"),
            ("a negative length", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "http_invalid"),
            ("a length with a sign", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab", "http_invalid"),
            (
                "a length beyond numbers",
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
                "http_invalid",
            ),
            ("a name with a space", "HTTP/1.1 200 OK\r\nx y: z\r\n\r\n", "http_invalid"),
            ("a zero byte", "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", "http_invalid"),
            ("a return by itself", "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n", "http_invalid"),
            ("a folded line", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n", "http_invalid"),
            ("no number for a status", "HTTP/1.1 abc OK\r\n\r\n", "http_invalid"),
            ("a status below 100", "HTTP/1.1 099 OK\r\n\r\n", "http_invalid"),
            ("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "http_invalid"),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http_invalid"),
            ("a version to come", "HTTP/3.0 200 OK\r\n\r\n", "http_invalid"),
            ("something else", "220 smtp.example.com ESMTP\r\n", "http_invalid"),
            ("HTTP/1.0", "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "success"),
        ] {
            let endpoint = Endpoint::http([answer(bytes)]).await;
            let delivery = first_attempt(&app, &endpoint.url()).await;
            assert_eq!(delivery["attempts"][0]["outcome"], outcome, "{what}: {delivery}");
        }
        app.stop().await;
    }

    async fn drips_are_waited_for_only_so_long(database: Database) {
        let app = TestApp::start(database).await;
        let every = Duration::from_millis(10);
        let drip = |head: &str| Behaviour::Drip(head.as_bytes().to_vec(), vec![b'x'], every);
        let endpoint = Endpoint::http([drip("HTTP/1.1 200 OK\r\nx: ")]).await;
        let delivery = first_attempt_after(&app, &endpoint, ATTEMPT_BUDGET).await;
        assert_outcome(&delivery, "timeout", "did not answer within 15 seconds");
        // A number that never ends is no number yet.
        let endpoint = Endpoint::http([endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "0")]).await;
        let delivery = first_attempt_after(&app, &endpoint, BODY_BUDGET).await;
        assert_outcome(&delivery, "success", "");
        let endpoint = Endpoint::http([drip("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")]).await;
        let delivery = first_attempt_after(&app, &endpoint, BODY_BUDGET).await;
        assert_outcome(&delivery, "success", "");
        app.stop().await;
    }

    async fn nothing_is_unpacked(database: Database) {
        use std::io::Write as _;
        let app = TestApp::start(database).await;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&vec![0; 64 << 20]).unwrap();
        let packed = packed.finish().unwrap();
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len())
                .into_bytes();
        bytes.extend(&packed);
        let endpoint = Endpoint::http([Behaviour::Answer(bytes)]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "success", "");
        // As it came: gzip's first bytes, and no more than is kept.
        let shown = text(&delivery["response_body"]);
        assert!(shown.starts_with('\u{1f}') && shown.chars().count() <= 4_096);
        assert_eq!(endpoint.arrived()[0].header("accept-encoding"), Some("identity"));
        app.stop().await;
    }

    async fn no_retry_after_is_believed_beyond_a_day(database: Database) {
        let app = TestApp::start(database).await;
        let day = Duration::from_secs(86_400);
        for said in [
            "0",
            "7",
            "-1",
            "NaN",
            "1e3",
            "0x10",
            "999999999999",
            "99999999999999999999999999",
            "soon",
            "1, 2",
            "",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
            "Wed, 31 Feb 2026 10:00:00 GMT",
            "\x01",
            "7\r\nretry-after: 999999",
        ] {
            let endpoint = Endpoint::http([Behaviour::with_headers(503, &format!("retry-after: {said}\r\n"))]).await;
            let delivery = first_attempt(&app, &endpoint.url()).await;
            if said.contains('\x01') {
                assert_outcome(&delivery, "http_invalid", "");
                continue;
            }
            assert_outcome(&delivery, "server_error", "not available");
            let next: Timestamp = text(&delivery["next_attempt_at"]).parse().unwrap();
            let wait = next.since(app.now());
            assert!(wait >= Duration::from_secs(5) && wait <= day + day / 10, "{said:?}: {wait:?}");
        }
        app.stop().await;
    }

    async fn what_an_answer_says_is_shown_as_text(database: Database) {
        let app = TestApp::start(database).await;
        let hostile = "HTTP/1.1 302 X\r\nset-cookie: sid=1\r\nlocation: https://x.example/\x1b[31m<script>\r\n\
            server: \u{202e}evil\r\ncontent-length: 31\r\n\r\n<script>alert(1)</script>\x1b]0;x\x07";
        let endpoint = Endpoint::http([answer(&hostile.replace('\x1b', "\t"))]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "redirect", "<script>");
        assert!(!delivery.to_string().contains("sid=1"), "{delivery}");
        assert!(!text(&delivery["attempts"][0]["error_message"]).contains('\t'));
        let endpoint = Endpoint::http([answer(hostile)]).await;
        assert_outcome(&first_attempt(&app, &endpoint.url()).await, "http_invalid", "");
        app.stop().await;
    }

    async fn each_failure_of_tls_has_its_name(database: Database) {
        let certificate = Certificate::signed_for(&["127.0.0.1"]);
        let app = TestApp::start_with(database, Setup::trusting(&certificate)).await;
        let alert = |number: u8| vec![21, 3, 3, 0, 2, 2, number];
        for (what, behaviour, outcomes) in [
            ("no cipher in common", Behaviour::AnswerAtHello(alert(40)), &["tls_no_common_params"][..]),
            ("no version in common", Behaviour::AnswerAtHello(alert(70)), &["tls_no_common_params"]),
            ("a name it does not know", Behaviour::AnswerAtHello(alert(112)), &["tls_protocol"]),
            ("an error of its own", Behaviour::AnswerAtHello(alert(80)), &["tls_protocol"]),
            ("a certificate it wants", Behaviour::AnswerAtHello(alert(116)), &["tls_protocol"]),
            ("an alert that is none", Behaviour::AnswerAtHello(vec![21, 3, 3, 0, 1, 2]), &["tls_protocol"]),
            ("a record too long", Behaviour::AnswerAtHello(vec![22, 3, 3, 255, 255, 1, 2, 3]), &["tls_protocol"]),
            ("a record that is none", Behaviour::AnswerAtHello(vec![22, 3, 3, 0, 4, 99, 0, 0, 0]), &["tls_protocol"]),
            // Older than 1.2: a hello of 1.0 with a cipher of its time.
            (
                "TLS 1.0",
                Behaviour::AnswerAtHello(
                    [&[22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1][..], &[7; 32], &[0, 0, 47, 0]].concat(),
                ),
                &["tls_no_common_params", "tls_protocol"],
            ),
            ("something else", Behaviour::AnswerAtHello(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), &["tls_protocol"]),
            ("nothing, and closed", Behaviour::AnswerAtHello(Vec::new()), &["closed_early", "connection_reset"]),
        ] {
            let endpoint = Endpoint::http([behaviour]).await;
            let delivery = first_attempt(&app, &endpoint.url().replace("http:", "https:")).await;
            let outcome = text(&delivery["attempts"][0]["outcome"]);
            assert!(outcomes.contains(&outcome), "{what}: {delivery}");
        }
        app.stop().await;
    }
});

/// Two hundred endpoints that stream without end, each in a way of its own, and one that behaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_floods_cost_little_memory_and_hold_nobody_up() {
    within(Duration::from_secs(120), floods(Database::sqlite())).await;
}

const FLOODS: usize = 200;

async fn floods(database: Database) {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let drip = |head: &str, more: &str| {
        Behaviour::Drip(head.as_bytes().to_vec(), more.as_bytes().to_vec(), Duration::from_millis(100))
    };
    let kinds = [
        endless("HTTP/1.1 200 OK\r\n\r\n", "x"),
        endless(chunked, "1;a=bbbbbbbbbbbb\r\nx\r\n"),
        endless("HTTP/1.1 200 OK\r\n", "x: y\r\n"),
        endless("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        drip("HTTP/1.1 200 OK\r\nx: ", "y"),
        drip(chunked, "1\r\nx\r\n"),
        drip("", "HTTP/1.1 200"),
        Behaviour::HangAfterReading,
    ];
    let good = Endpoint::http([Behaviour::status(200)]).await;
    let mut command = pulsehook(&database);
    command.env("PULSEHOOK_MAX_WEBHOOKS_PER_ACCOUNT", "1000");
    let key = key(&database).await;
    let served = Served::run(command).await;
    let http = http_client();
    let call = async |method: reqwest::Method, path: &str, body: Value, expected: u16| {
        let request = http.request(method, format!("{}{path}", served.url)).bearer_auth(&key);
        Answer::of(if body.is_null() { request } else { request.json(&body) }).await.expect(expected)
    };
    let webhooks = format!("/api/sites/{SITE}/webhooks");
    call(reqwest::Method::POST, "/api/sites", json!({"domain": SITE}), 201).await;
    let create = async |url: &str| {
        let body = json!({"name": "x", "url": url, "triggers": [{"type": "goal_completion"}]});
        let webhook = call(reqwest::Method::POST, &webhooks, body, 201).await;
        format!("{webhooks}/{}", text(&webhook["webhook"]["id"]))
    };
    let test = async |webhook: &str| {
        let sent = call(reqwest::Method::POST, &format!("{webhook}/test"), json!({}), 202).await;
        format!("{webhook}/deliveries/{}", text(&sent["delivery"]["id"]))
    };
    let outcome = async |delivery: &str| {
        let delivery = call(reqwest::Method::GET, delivery, Value::Null, 200).await["delivery"].clone();
        delivery["attempts"].as_array().unwrap().first().map(|attempt| attempt["outcome"].as_str().unwrap().to_owned())
    };
    let clock = Clock::system();
    let good_webhook = create(&good.url()).await;
    for _ in 0..20 {
        test(&good_webhook).await;
    }
    good.wait_for(20).await;
    let mut endpoints = Vec::new();
    let mut hooks = Vec::new();
    for kind in kinds.iter().cycle().take(FLOODS) {
        let endpoint = Endpoint::http([kind.clone()]).await;
        hooks.push(create(&endpoint.url()).await);
        endpoints.push(endpoint);
    }
    let before = served.resident();
    let began = clock.monotonic();
    let mut waiting = Vec::new();
    for webhook in &hooks {
        waiting.push(test(webhook).await);
    }
    let mut most = before;
    let mut good_took = None;
    let mine = test(&good_webhook).await;
    let asked = clock.monotonic();
    while !waiting.is_empty() {
        // They are real processes with a real clock.
        clock.sleep(Duration::from_millis(100)).await;
        let mut still = Vec::new();
        for delivery in waiting {
            if outcome(&delivery).await.is_none() {
                still.push(delivery);
            }
            most = most.max(served.resident());
            if good_took.is_none() && outcome(&mine).await.is_some() {
                good_took = Some(clock.monotonic().saturating_sub(asked));
            }
        }
        waiting = still;
    }
    let took = clock.monotonic().saturating_sub(began);
    let grown = most.saturating_sub(before);
    assert!(grown < 50 * MIB, "{} MiB more than before", grown / MIB);
    // The last one began a moment after the first; the longest is 15 seconds of silence.
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(good_took.is_some_and(|took| took < Duration::from_secs(10)), "{good_took:?}");
    assert!(endpoints.iter().all(|endpoint| endpoint.arrived().len() <= 3), "an attempt a time");
    assert!(served.stop().await.success());
}
