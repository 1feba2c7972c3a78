//! Endpoints that misbehave: each ends in a recorded outcome and a sentence somebody can act on.

use std::time::Duration;

use rustls::HandshakeKind;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::app::{SITE, Setup, TestApp, names, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Certificate, Endpoint, read_request};

const TLS_BUDGET: Duration = Duration::from_secs(5);
const BODY_BUDGET: Duration = Duration::from_secs(3);
const ATTEMPT_BUDGET: Duration = Duration::from_secs(15);

/// What the first attempt at `url` came to.
pub async fn first_attempt(app: &TestApp, url: &str) -> Value {
    first_attempt_while(app, url, std::future::ready(())).await
}

/// The same for an endpoint that keeps us waiting: `span` passes as soon as it was spoken to and somebody waits for it.
pub async fn first_attempt_after(app: &TestApp, endpoint: &Endpoint, span: Duration) -> Value {
    let waits = app.clock.another_waits(span);
    let time = async {
        endpoint.wait_for(1).await;
        waits.await;
        app.advance(span);
    };
    first_attempt_while(app, &endpoint.url(), time).await
}

pub async fn first_attempt_while(app: &TestApp, url: &str, meanwhile: impl Future<Output = ()>) -> Value {
    if app.get(&format!("/api/sites/{SITE}")).await.status == 404 {
        app.site().await;
    }
    let webhook = app.webhook(url, json!([{"type": "goal_completion"}])).await;
    let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
    let sent = app.post(&format!("{path}/test"), json!({})).await.expect(202);
    tokio::join!(app.drain(), meanwhile);
    let delivery = app.get(&format!("{path}/deliveries/{}", text(&sent["delivery"]["id"]))).await.expect(200);
    app.delete(&path).await.expect(204);
    delivery["delivery"].clone()
}

#[track_caller]
pub fn assert_outcome(delivery: &Value, outcome: &str, sentence: &str) {
    let attempt = &delivery["attempts"][0];
    assert_eq!(attempt["outcome"], outcome, "{delivery}");
    let said = attempt["error_message"].as_str().unwrap_or("Delivered.");
    assert!(said.contains(sentence), "{said}");
}

on_both!({
    async fn statuses_mean_what_they_say(database: Database) {
        let app = TestApp::start(database).await;
        for (status, headers, outcome, sentence) in [
            (200, "", "success", ""),
            (204, "", "success", ""),
            (299, "", "success", ""),
            (
                301,
                "location: https://elsewhere.example/\r\n",
                "redirect",
                "redirects to https://elsewhere.example/, which is not",
            ),
            (307, "", "redirect", "Put the final address in"),
            (400, "", "client_error", "Its answer below may say why"),
            (401, "", "client_error", "a custom header, the signature"),
            (404, "", "client_error", "Check the address"),
            (405, "", "client_error", "does not accept POST"),
            (410, "", "client_error", "gone for good"),
            (413, "", "client_error", "Raise its limit"),
            (429, "retry-after: 7\r\n", "client_error", "slow down"),
            (500, "", "server_error", "Look into its logs"),
            (502, "", "server_error", "The proxy in front"),
            (503, "retry-after: 7\r\n", "server_error", "not available"),
        ] {
            let endpoint = Endpoint::http([Behaviour::with_headers(status, headers)]).await;
            let delivery = first_attempt(&app, &endpoint.url()).await;
            assert_outcome(&delivery, outcome, sentence);
            assert_eq!(delivery["response_code"], status);
            assert_eq!(endpoint.arrived().len(), 1);
        }
        app.stop().await;
    }

    async fn silence_is_a_timeout(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::HangAfterReading]).await;
        let delivery = first_attempt_after(&app, &endpoint, ATTEMPT_BUDGET).await;
        assert_outcome(&delivery, "timeout", "did not answer within 15 seconds");
        assert_eq!(delivery["attempts"][0]["duration_ms"], 15_000);

        let endpoint = Endpoint::http([Behaviour::AnswerAndHang(b"HTTP/1.1 200 OK\r\nx-drip: ".to_vec())]).await;
        let delivery = first_attempt_after(&app, &endpoint, ATTEMPT_BUDGET).await;
        assert_outcome(&delivery, "timeout", "did not answer within 15 seconds");
        app.stop().await;
    }

    async fn a_body_is_read_only_so_far_and_so_long(database: Database) {
        let app = TestApp::start(database).await;
        let dripping = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning".to_vec();
        let endpoint = Endpoint::http([Behaviour::AnswerAndHang(dripping)]).await;
        let delivery = first_attempt_after(&app, &endpoint, BODY_BUDGET).await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(delivery["response_body"], "the beginning");

        let endless = b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n".to_vec();
        let endpoint = Endpoint::http([Behaviour::Endless(endless, vec![b'x'])]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "server_error", "Look into its logs");
        assert_eq!(text(&delivery["response_body"]).len(), 4_096);

        // Binary garbage is shown as text and breaks nothing.
        let garbage = b"HTTP/1.1 400 X\r\ncontent-length: 4\r\n\r\n\xff\x00\x01<".to_vec();
        let endpoint = Endpoint::http([Behaviour::Answer(garbage)]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert!(text(&delivery["response_body"]).ends_with('<'), "{delivery}");
        app.stop().await;
    }

    /// The head came in time, and that is what counts.
    async fn an_answer_at_the_last_moment_is_an_answer(database: Database) {
        const LEFT: Duration = Duration::from_millis(997);
        let app = TestApp::start(database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let begins = app.clock.another_waits(ATTEMPT_BUDGET);
        // Open until the delivery is over.
        let open = std::cell::Cell::new(None);
        let endpoint = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            read_request(&mut connection, &mut Vec::new()).await.unwrap();
            // The request may be here before the attempt that makes it has looked at the clock.
            begins.await;
            app.advance(ATTEMPT_BUDGET - LEFT);
            let reads = app.clock.another_waits(LEFT);
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning").await.unwrap();
            open.set(Some(connection));
            reads.await;
            app.advance(LEFT);
        };
        let delivery = first_attempt_while(&app, &url, endpoint).await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(delivery["response_body"], "the beginning");
        app.stop().await;
    }

    async fn connections_that_break(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::Close]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "closed_early", "closed the connection without an answer");

        let endpoint = Endpoint::http([Behaviour::Reset]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "connection_reset", "cut the connection");

        let delivery = first_attempt(&app, &nobody_listens().await).await;
        assert_outcome(&delivery, "connect_refused", "Nothing listens at this address");

        let endpoint = Endpoint::http([Behaviour::Answer(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "http_invalid", "not HTTP");

        let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
        let endpoint = Endpoint::http([Behaviour::with_headers(200, &many)]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "headers_too_large", "Send fewer of them");
        app.stop().await;
    }

    async fn certificates_are_checked(database: Database) {
        let good = Certificate::signed_for(&["127.0.0.1"]);
        let app = TestApp::start_with(database, Setup::trusting(&good)).await;
        let endpoint = Endpoint::https([Behaviour::status(200)], &good).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "success", "");

        let endpoint = Endpoint::https([Behaviour::status(200)], &good.sibling(&["elsewhere.example"])).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "tls_cert_name", "for another host name");

        let endpoint = Endpoint::https([Behaviour::status(200)], &good.expired_sibling()).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "tls_cert_expired", "has expired");

        let unknown = Certificate::signed_for(&["127.0.0.1"]);
        let endpoint = Endpoint::https([Behaviour::status(200)], &unknown).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "tls_cert_untrusted", "not signed by an authority");

        let plain = Endpoint::http([Behaviour::AnswerAtHello(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())]).await;
        let delivery = first_attempt(&app, &plain.url().replace("http:", "https:")).await;
        assert_outcome(&delivery, "tls_protocol", "serves HTTPS and not plain HTTP");

        let silent = Endpoint::http([Behaviour::HangAtHello]).await;
        let url = silent.url().replace("http:", "https:");
        let time = async {
            silent.wait_for(1).await;
            app.advance(TLS_BUDGET);
        };
        let delivery = first_attempt_while(&app, &url, time).await;
        assert_outcome(&delivery, "tls_timeout", "handshake did not finish in time");
        app.stop().await;
    }

    async fn a_host_that_is_known_is_not_asked_for_its_certificate_again(database: Database) {
        let certificate = Certificate::signed_for(&["127.0.0.1"]);
        let app = TestApp::start_with(database, Setup::trusting(&certificate)).await;
        let closing = Behaviour::with_headers(200, "connection: close\r\n");
        for script in [vec![closing.clone(), closing], vec![Behaviour::status(200)]] {
            let keeps = script.len() == 1;
            let endpoint = Endpoint::https(script, &certificate).await;
            let first = first_attempt(&app, &endpoint.url()).await;
            assert_outcome(&first, "success", "");
            let second = first_attempt(&app, &endpoint.url()).await;
            assert_outcome(&second, "success", "");
            let handshakes = endpoint.handshakes();
            let resumed = handshakes.iter().filter(|kind| **kind == HandshakeKind::Resumed).count();
            // A second connection to it, or none at all.
            assert_eq!((handshakes.len(), resumed), if keeps { (1, 0) } else { (2, 1) }, "{handshakes:?}");
        }
        app.stop().await;
    }

    async fn names_lead_only_where_they_may(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let resolver = names([
            ("good.example", &["127.0.0.1"]),
            ("inside.example", &["10.1.2.3"]),
            ("mixed.example", &["127.0.0.1", "169.254.169.254"]),
            ("six.example", &["fd00::1"]),
        ]);
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), ..Setup::default() }).await;
        let port = endpoint.address.port();
        let at = |name: &str| format!("http://{name}:{port}/hook");
        assert_outcome(&first_attempt(&app, &at("good.example")).await, "success", "");
        assert_eq!(endpoint.arrived()[0].header("host"), Some(format!("good.example:{port}").as_str()));
        for name in ["inside.example", "mixed.example", "six.example"] {
            let delivery = first_attempt(&app, &at(name)).await;
            assert_outcome(&delivery, "forbidden_address", "may not reach");
        }
        assert_outcome(&first_attempt(&app, &at("nowhere.example")).await, "dns_nxdomain", "does not exist");
        assert_eq!(endpoint.arrived().len(), 1);
        // When the test ends it is checked that nothing else was dialled.
        app.stop().await;
    }

    async fn a_redirect_is_not_followed(database: Database) {
        let elsewhere = Endpoint::http([Behaviour::status(200)]).await;
        let location = format!("location: {}\r\n", elsewhere.url());
        let endpoint = Endpoint::http([Behaviour::with_headers(302, &location)]).await;
        let app = TestApp::start(database).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "redirect", "which is not followed");
        assert_eq!(elsewhere.arrived().len(), 0);
        app.stop().await;
    }

    async fn what_a_rule_forbids_today_is_not_sent_though_it_was_saved_yesterday(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let (path, id) = (hook.path.clone(), hook.send_test().await);
        app.drain().await;
        app.post(&format!("{path}/deliveries/{id}/resend"), json!({})).await.expect(202);
        let clock = app.clock.clone();
        let database = app.stop().await;
        let sent = endpoint.arrived().len();
        let strict = Setup { settings: vec![("egress_allow_http", "false".to_owned())], ..Setup::default() };
        let app = TestApp::start_at(database, strict, clock).await;
        app.post(&format!("{path}/deliveries/{id}/resend"), json!({})).await.expect(202);
        app.drain().await;
        let delivery = app.get(&format!("{path}/deliveries/{id}")).await.expect(200)["delivery"].clone();
        let last = delivery["attempts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["outcome"], "forbidden_url");
        assert!(text(&last["error_message"]).contains("must start with https://"), "{last}");
        assert_eq!(endpoint.arrived().len(), sent);
        app.stop().await;
    }

    async fn the_request_is_what_the_contract_says(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        hook.send_test().await;
        app.drain().await;
        let arrived = &endpoint.arrived()[0];
        assert!(arrived.head.starts_with("POST /hook HTTP/1.1"), "{}", arrived.head);
        assert_eq!(arrived.header("content-type"), Some("application/json"));
        assert_eq!(arrived.header("user-agent"), Some(concat!("Pulsehook/", env!("CARGO_PKG_VERSION"))));
        assert_eq!(arrived.header("x-webhook-event-id"), arrived.header("webhook-id"));
        assert_eq!(arrived.header("x-webhook-event-type"), Some("test"));
        assert_eq!(arrived.header("accept-encoding"), Some("identity"));
        let timestamp: i64 = arrived.header("webhook-timestamp").unwrap().parse().unwrap();
        assert_eq!(timestamp, app.now().secs());
        assert!(arrived.header("webhook-signature").unwrap().starts_with("v1,"));
        assert!(arrived.header("x-webhook-signature").unwrap().starts_with("sha256="));

        // Without a secret nothing pretends to be signed.
        app.patch(&hook.path, json!({"secret": null})).await.expect(200);
        hook.send_test().await;
        app.drain().await;
        let arrived = &endpoint.arrived()[1];
        assert_eq!(arrived.header("webhook-signature"), None);
        assert_eq!(arrived.header("x-webhook-signature"), None);
        app.stop().await;
    }

    /// What arrives has the headers of everybody and the one that was accepted, whatever its owner wrote.
    async fn no_custom_header_brings_another_with_it(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let send = async || {
            hook.send_test().await;
            app.drain().await;
            let head = endpoint.arrived().last().unwrap().head.clone();
            let names = head
                .lines()
                .skip(1)
                .filter(|line| !line.is_empty())
                .map(|line| line.split(':').next().unwrap().to_ascii_lowercase());
            (names.collect::<Vec<_>>(), endpoint.arrived().last().unwrap().clone())
        };
        let (usual, _) = send().await;
        let (mut accepted, mut refused) = (0, 0);
        let names = [
            "X-A",
            "x-a",
            "X_A",
            "X-Ä",
            "X-A ",
            " X-A",
            "X-A:",
            "X-A\r\nHost",
            "X-A\nX-B",
            "X\u{0}A",
            "",
            "X-A\u{2028}",
            "\u{fe0f}X",
            "X-A;b=c",
            "X(A)",
            "X/A",
        ];
        let values = [
            "x",
            " x ",
            "",
            "x\r\nX-B: y",
            "x\nX-B: y",
            "x\r\n\r\nGET / HTTP/1.1",
            "x\u{0}y",
            "x\u{7f}",
            "ü",
            "\u{2028}X-B: y",
            "x\tX-B: y",
            "\u{85}X-B: y",
            "嘊嘍X-B: y",
            "\"x\", X-B: y",
        ];
        for name in names {
            for value in values {
                let answer = app.patch(&hook.path, json!({"headers": {name: value}})).await;
                if answer.status == 422 {
                    refused += 1;
                    continue;
                }
                answer.expect(200);
                accepted += 1;
                let (arrived, request) = send().await;
                let mut expected = usual.clone();
                expected.push(name.to_ascii_lowercase());
                let sorted = |mut names: Vec<String>| {
                    names.sort();
                    names
                };
                assert_eq!(sorted(arrived), sorted(expected), "{name:?}: {value:?}");
                assert_eq!(request.header(name), Some(value.trim()), "{name:?}: {value:?}");
                assert_eq!(request.json()["event_type"], "test");
                app.advance(std::time::Duration::from_secs(1));
            }
        }
        assert!(accepted >= 9 && refused > 150, "{accepted} accepted, {refused} refused");
        app.stop().await;
    }

    async fn every_format_has_its_shape(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for (format, content_type, field) in [
            ("json", "application/json", "/data/message"),
            ("cloudevents", "application/cloudevents+json; charset=utf-8", "/specversion"),
            ("slack", "application/json", "/text"),
            ("discord", "application/json", "/content"),
            ("teams", "application/json", "/type"),
        ] {
            let endpoint = Endpoint::http([Behaviour::status(200)]).await;
            let body = json!({
                "name": format, "url": endpoint.url(), "format": format, "triggers": [{"type": "goal_completion"}]
            });
            let webhook = app.post(&format!("/api/sites/{SITE}/webhooks"), body).await.expect(201)["webhook"].clone();
            let path = format!("/api/sites/{SITE}/webhooks/{}/test", text(&webhook["id"]));
            app.post(&path, json!({})).await.expect(202);
            app.drain().await;
            let arrived = &endpoint.arrived()[0];
            assert_eq!(arrived.header("content-type"), Some(content_type), "{format}");
            assert!(arrived.json().pointer(field).is_some(), "{format}: {}", String::from_utf8_lossy(&arrived.body));
        }
        app.stop().await;
    }
});

pub async fn nobody_listens() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/hook", listener.local_addr().unwrap())
}
