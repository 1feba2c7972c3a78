//! Looking at an address before a webhook is made of it: what is told, what is not, and how often one may ask.

use std::time::Duration;

use pulsehook::domain::access::Role;
use pulsehook::domain::signature::{SigningSecret, verify_standard};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, SECRET, SITE, Setup, TestApp, names, resolver, text};
use crate::support::on_both;
use crate::support::process::{Served, key, pulsehook, succeeded};
use crate::support::zoo::{Behaviour, Certificate, Endpoint};

const CHECK: &str = "/api/sites/example.com/webhooks/check";
const TLS_BUDGET: Duration = Duration::from_secs(5);
const ATTEMPT_BUDGET: Duration = Duration::from_secs(15);
const STEPS: [&str; 7] = ["syntax", "https", "address", "dns", "connection", "certificate", "ping"];

/// Nothing private may be reached, and http may not be used.
fn strict() -> Vec<(&'static str, String)> {
    vec![("egress_allow", String::new()), ("egress_allow_http", "false".to_owned())]
}

async fn check(app: &TestApp, url: &str) -> Value {
    app.post(CHECK, json!({"url": url})).await.expect(200)
}

/// The states of the steps in their order, by their first letters, with the sentences of the one that failed.
#[track_caller]
fn told(answer: &Value) -> (String, String) {
    let steps = answer["steps"].as_array().unwrap();
    let mut letters = String::new();
    let mut said = String::new();
    for (step, name) in steps.iter().zip(STEPS) {
        assert_eq!(step["step"], name, "{answer}");
        letters.push(text(&step["state"]).chars().next().unwrap());
        assert!(text(&step["message"]).ends_with('.'), "{step}");
        if step["state"] == "failed" {
            said = format!("{} {}", text(&step["message"]), text(&step["fix"]));
        }
    }
    assert_eq!(answer["ok"], !letters.contains('f'), "{answer}");
    (letters, said)
}

#[track_caller]
fn assert_told(answer: &Value, states: &str, sentence: &str) {
    let (letters, said) = told(answer);
    assert_eq!(letters, states, "{answer}");
    assert!(said.contains(sentence), "{said}");
}

on_both!({
    async fn what_is_wrong_with_the_address_itself_is_told_by_step(database: Database) {
        let app = TestApp::start_with(database, Setup { settings: strict(), ..Setup::default() }).await;
        app.site().await;
        for (url, states, sentence) in [
            ("", "fsssss", "is required"),
            ("hooks.example.com/in", "fsssss", "must start with https://"),
            ("https://hooks.example.com/a b", "fsssss", "Write spaces as %20"),
            ("https://", "fsssss", "Write it like https://"),
            ("https://me:secret@hooks.example.com/", "fsssss", "in a custom header"),
            ("http://hooks.example.com/in", "ofssss", "must start with https://"),
            ("gopher://hooks.example.com/in", "ofssss", "must start with https://"),
            ("https://hooks.example.com:22/in", "oofsss", "port 22"),
        ] {
            let answer = check(&app, url).await;
            assert_told(&answer, states, sentence);
            assert!(!answer.to_string().contains("secret"), "{answer}");
        }
        assert_eq!(app.dialled(), []);
        for (body, field) in [
            (json!({}), "url"),
            (json!({"url": 5}), "url"),
            (json!({"url": "https://a.example/", "ping": "yes"}), "ping"),
            (json!({"url": "https://a.example/", "ping": true, "secret": "short"}), "secret"),
            (json!({"url": "https://a.example/", "format": "xml"}), "format"),
            (json!({"url": "https://a.example/", "method": "GET"}), "method"),
        ] {
            assert!(!app.post(CHECK, body.clone()).await.complaint(field).is_empty(), "{body}");
        }
        app.stop().await;
    }

    async fn what_is_forbidden_is_told_in_the_same_bytes_and_never_dialled(database: Database) {
        // Somebody listens on the one, nobody on the other: nobody learns which.
        let listening = Endpoint::http([Behaviour::status(200)]).await;
        let resolver = names([
            ("inside.example", &["10.1.2.3"]),
            ("loops.example", &["127.0.0.1"]),
            ("mixed.example", &["93.184.215.14", "169.254.169.254"]),
            ("six.example", &["fd00::1"]),
        ]);
        let setup = Setup { settings: strict(), resolver: Some(resolver), ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        let port = listening.address.port();
        let mut answers = Vec::new();
        for host in [
            format!("127.0.0.1:{port}"),
            "127.0.0.1:8444".to_owned(),
            "2130706433".to_owned(),
            "0x7f.1".to_owned(),
            "[::ffff:127.0.0.1]".to_owned(),
            "[::1]".to_owned(),
            "169.254.169.254".to_owned(),
            "168.63.129.16".to_owned(),
            "localhost".to_owned(),
            "db.internal".to_owned(),
            "router".to_owned(),
            "inside.example".to_owned(),
            format!("loops.example:{port}"),
            "mixed.example".to_owned(),
            "six.example".to_owned(),
        ] {
            let answer = app.post(CHECK, json!({"url": format!("https://{host}/in"), "ping": true})).await;
            assert_told(&answer.expect(200), "oofssss", "Webhooks may not reach this address. Use a public address.");
            answers.push(answer.body);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        assert_eq!((app.dialled(), listening.arrived().len()), (Vec::new(), 0));
        app.stop().await;
    }

    async fn how_far_one_comes_is_told(database: Database) {
        let good = Certificate::signed_for(&["good.example"]);
        let resolver = names([("good.example", &["127.0.0.1"])]);
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), ..Setup::trusting(&good) }).await;
        app.site().await;
        let at = |name: &str, endpoint: &Endpoint| format!("https://{name}:{}/hook", endpoint.address.port());
        assert_told(&check(&app, "https://nowhere.example/in").await, "oosfss", "The host name does not exist.");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let refused = check(&app, &format!("https://{closed}/in")).await;
        assert_told(&refused, "ooosfs", "Nothing listens");

        let plain = Endpoint::http([Behaviour::AnswerAtHello(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())]).await;
        assert_told(&check(&app, &at("good.example", &plain)).await, "ooooof", "serves HTTPS and not plain HTTP");
        let wrong = Endpoint::https([Behaviour::status(200)], &good.sibling(&["elsewhere.example"])).await;
        assert_told(&check(&app, &at("good.example", &wrong)).await, "ooooof", "for another host name");
        let expired = Endpoint::https([Behaviour::status(200)], &good.expired_sibling()).await;
        let answer = check(&app, &expired.url()).await;
        assert_told(&answer, "ooosof", "has expired");
        let unknown = Endpoint::https([Behaviour::status(200)], &Certificate::signed_for(&["good.example"])).await;
        assert_told(&check(&app, &at("good.example", &unknown)).await, "ooooof", "an authority we trust");

        let fine = Endpoint::https([Behaviour::status(200)], &good).await;
        for _ in 0..2 {
            let answer = check(&app, &at("good.example", &fine)).await;
            assert_told(&answer, "oooooo", "");
            assert_eq!(answer["ok"], true);
        }
        assert_eq!(fine.arrived().len(), 0, "without a ping nothing is sent");
        let plain = Endpoint::http([Behaviour::status(200)]).await;
        let answer = check(&app, &plain.url()).await;
        assert_told(&answer, "ooosos", "");
        assert!(text(&answer["steps"][1]["fix"]).contains("Use https://"), "{answer}");
        app.stop().await;
    }

    async fn a_certificate_is_looked_at_though_its_host_is_known(database: Database) {
        let certificate = Certificate::signed_for(&["127.0.0.1"]);
        let app = TestApp::start_with(database, Setup::trusting(&certificate)).await;
        let closing = Behaviour::with_headers(200, "connection: close\r\n");
        let endpoint = Endpoint::https([closing], &certificate).await;
        let hook = app.webhook_at(&endpoint).await;
        hook.send_test().await;
        app.drain().await;
        check(&app, &endpoint.url()).await;
        check(&app, &endpoint.url()).await;
        let handshakes = endpoint.handshakes();
        assert!(handshakes.iter().all(|kind| *kind == rustls::HandshakeKind::Full), "{handshakes:?}");
        app.stop().await;
    }

    async fn a_ping_is_signed_and_told_like_an_attempt(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let ping =
            async |url: &str| app.post(CHECK, json!({"url": url, "ping": true, "secret": SECRET})).await.expect(200);
        let fine = Endpoint::http([Behaviour::status(204)]).await;
        assert_told(&ping(&fine.url()).await, "ooososo", "");
        let arrived = fine.arrived().remove(0);
        assert_eq!(
            (arrived.json()["event_type"].clone(), arrived.header("x-webhook-event-type")),
            (json!("test"), Some("test"))
        );
        let header = |name: &str| arrived.header(name).unwrap().to_owned();
        let secret = SigningSecret::parse(SECRET).unwrap();
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        verify_standard(&secret, &id, &timestamp, &header("webhook-signature"), &arrived.body, app.now().secs())
            .unwrap();

        let elsewhere = Endpoint::http([Behaviour::status(200)]).await;
        let location = format!("location: {}\r\n", elsewhere.url());
        for (behaviour, sentence) in [
            (Behaviour::status(500), "The endpoint failed (500). Look into its logs."),
            (Behaviour::status(401), "with the secret your receiver knows"),
            (Behaviour::status(404), "Check the path"),
            (Behaviour::with_headers(307, &location), "which is not followed. Put the final address in."),
            (Behaviour::Close, "closed the connection without an answer"),
            (Behaviour::Answer(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "not HTTP"),
        ] {
            let endpoint = Endpoint::http([behaviour]).await;
            assert_told(&ping(&endpoint.url()).await, "ooososf", sentence);
            assert_eq!(endpoint.arrived().len(), 1, "it is not tried again");
        }
        assert_eq!(elsewhere.arrived().len(), 0);

        let silent = Endpoint::http([Behaviour::HangAfterReading]).await;
        let waits = app.clock.another_waits(ATTEMPT_BUDGET);
        let time = async {
            silent.wait_for(1).await;
            waits.await;
            app.advance(ATTEMPT_BUDGET);
        };
        let url = silent.url();
        let (answer, ()) = tokio::join!(ping(&url), time);
        assert_told(&answer, "ooososf", "did not answer within 15 seconds");

        // Without a secret it is signed with one of its own, and in the shape that was asked for.
        let room = Endpoint::http([Behaviour::status(200)]).await;
        let body = json!({"url": room.url(), "ping": true, "format": "slack"});
        assert_told(&app.post(CHECK, body).await.expect(200), "ooososo", "");
        let arrived = room.arrived().remove(0);
        assert!(arrived.header("webhook-signature").is_some() && arrived.json()["text"].is_string());
        assert_eq!(app.get("/api/sites/example.com/webhooks").await.expect(200)["webhooks"], json!([]));
        app.stop().await;
    }

    async fn an_account_may_look_thirty_times_a_minute_and_four_at_once(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        // Nobody else begins to wait meanwhile.
        app.drain().await;
        let silent = Endpoint::http([Behaviour::HangAtHello]).await;
        let url = silent.url().replace("http:", "https:");
        let mut hanging = Vec::new();
        for number in 1..=4 {
            let waits = app.clock.another_waits(TLS_BUDGET);
            let request = app.request(Method::POST, CHECK).bearer_auth(&app.key).json(&json!({"url": url}));
            hanging.push(tokio::spawn(Answer::of(request)));
            silent.wait_for(number).await;
            waits.await;
        }
        let fifth = app.post(CHECK, json!({"url": url})).await;
        assert_eq!(fifth.expect(429)["code"], "too_many_requests");
        assert!(fifth.header("retry-after").is_some());
        // It is the account that has to wait, and nobody else.
        let (_, stranger) = app.account("Strangers", Role::Owner).await;
        app.post_as(&stranger, "/api/sites", json!({"domain": "strange.example"})).await.expect(201);
        let theirs = "/api/sites/strange.example/webhooks/check";
        app.post_as(&stranger, theirs, json!({"url": "https://10.0.0.1/"})).await.expect(200);
        app.advance(TLS_BUDGET);
        for answer in hanging {
            assert_told(&answer.await.unwrap().expect(200), "ooosof", "handshake did not finish in time");
        }
        // Whoever goes away makes room too.
        let request = app.request(Method::POST, CHECK).bearer_auth(&app.key).json(&json!({"url": url}));
        let gone = tokio::spawn(Answer::of(request));
        silent.wait_for(5).await;
        gone.abort();
        for _ in 5..30 {
            app.post(CHECK, json!({"url": "https://10.0.0.1/"})).await.expect(200);
        }
        let once = async || {
            let request = app.request(Method::POST, CHECK).bearer_auth(&app.key).header("idempotency-key", "once");
            Answer::of(request.json(&json!({"url": "https://10.0.0.1/"}))).await
        };
        let refused = once().await;
        refused.expect(429);
        assert_eq!(refused.header("retry-after"), Some("55"));
        app.advance(Duration::from_secs(55));
        once().await.expect(200);
        app.stop().await;
    }

    async fn one_host_is_looked_at_so_often_whoever_looks(database: Database) {
        let app =
            TestApp::start_with(database, Setup { resolver: Some(resolver(|_| Vec::new())), ..Setup::default() }).await;
        let mut lookers = Vec::new();
        for name in ["one", "two", "three"] {
            let (_, key) = app.account(name, Role::Owner).await;
            let domain = format!("{name}.example");
            app.post_as(&key, "/api/sites", json!({"domain": domain})).await.expect(201);
            lookers.push((key, format!("/api/sites/{domain}/webhooks/check")));
        }
        let look = async |looker: usize, url: &str| {
            let (key, path) = &lookers[looker];
            app.post_as(key, path, json!({"url": url})).await
        };
        // Names of one owner are one to us, and what is refused as it is written is asked of nobody.
        for number in 0..30 {
            look(0, &format!("https://a{number}.target.example/hook")).await.expect(200);
            look(1, &format!("https://target.example:{}/{number}", 2_000 + number)).await.expect(200);
        }
        let refused = look(2, "https://b.target.example/").await;
        assert_eq!(refused.expect(429)["code"], "too_many_requests");
        assert_eq!(refused.header("retry-after"), Some("1"));
        look(2, "https://b.target.example:22/").await.expect(200);
        look(2, "https://other.example/").await.expect(200);
        look(2, "https://1.1.1.1:1/").await.expect(200);
        app.advance(Duration::from_secs(1));
        look(2, "https://b.target.example/").await.expect(200);
        look(2, "https://target.example/").await.expect(429);
        app.stop().await;
    }

    async fn only_editors_of_the_site_may_look(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let body = json!({"url": "https://10.0.0.1/"});
        let (_, viewer) = app.account("Test account", Role::Viewer).await;
        assert_eq!(app.post_as(&viewer, CHECK, body.clone()).await.expect(403)["code"], "role_too_low");
        let (_, editor) = app.account("Test account", Role::Editor).await;
        app.post_as(&editor, CHECK, body.clone()).await.expect(200);
        let (_, stranger) = app.account("Strangers", Role::Owner).await;
        for body in [body.clone(), json!({})] {
            let theirs = app.post_as(&stranger, CHECK, body.clone()).await;
            let nothing = app.post_as(&stranger, "/api/sites/nowhere.example/webhooks/check", body).await;
            assert_eq!((theirs.status.as_u16(), theirs.body), (404, nothing.body));
        }
        assert_eq!(Answer::of(app.request(Method::POST, CHECK).json(&body)).await.status, 401);
        app.stop().await;
    }

    async fn an_address_may_be_saved_whatever_was_found(database: Database) {
        let app = TestApp::start_with(database, Setup { resolver: Some(names([])), ..Setup::default() }).await;
        app.site().await;
        assert_told(&check(&app, "https://not-yet.example/in").await, "oosfss", "It may be saved as it is.");
        app.webhook("https://not-yet.example/in", json!([{"type": "goal_completion"}])).await;
        assert_eq!(app.dialled(), []);
        app.stop().await;
    }

    async fn the_command_line_tells_it_too(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(500)]).await;
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let run = async |arguments: &[&str]| {
            let mut command = pulsehook(&database);
            command.args(arguments).env("PULSEHOOK_SERVER", &served.url).env("PULSEHOOK_KEY", &key);
            command.output().await.unwrap()
        };
        succeeded(&run(&["sites", "create", SITE]).await);
        let url = endpoint.url();
        let said = succeeded(&run(&["webhooks", "check", &url, "--site", SITE]).await);
        assert!(said.contains("connection   ok       A connection could be opened."), "{said}");
        let pinged = run(&["webhooks", "check", &url, "--site", SITE, "--ping"]).await;
        let said = String::from_utf8_lossy(&pinged.stdout);
        assert_eq!(pinged.status.code(), Some(1), "{said}");
        assert!(
            said.contains("ping         failed   The endpoint failed (500).\n") && said.contains("Look into its logs."),
            "{said}"
        );
        let forbidden = run(&["webhooks", "check", "https://10.0.0.1/", "--site", SITE, "--json"]).await;
        let answer: Value = serde_json::from_slice(&forbidden.stdout).unwrap();
        assert_told(&answer, "oofsss", "may not reach");
        assert_eq!(forbidden.status.code(), Some(1));
        assert!(served.stop().await.success());
    }
});
