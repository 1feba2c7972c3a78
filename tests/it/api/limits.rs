//! Limits that hold when requests race, and requests that are repeated.

use std::net::IpAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::app::{Answer, SITE, Setup, TestApp, text};
use crate::support::on_both;

const WEBHOOKS: &str = "/api/sites/example.com/webhooks";

fn webhook(name: &str) -> Value {
    json!({"url": "https://hooks.example.com/in", "name": name, "triggers": [{"type": "goal_completion"}]})
}

/// A client with this address.
async fn connect(app: &TestApp, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(app.address).await.unwrap()
}

/// What is answered, up to the end of the body.
async fn ask(client: &mut TcpStream, path: &str) -> String {
    client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    loop {
        let mut part = [0; 4_096];
        let count = client.read(&mut part).await.unwrap();
        assert_ne!(count, 0, "it ends early: {answer}");
        answer.push_str(std::str::from_utf8(&part[..count]).unwrap());
        let length = answer.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.len());
        if body.is_some() && body == length.and_then(|length| length.parse().ok()) {
            return answer;
        }
    }
}

on_both!({
    async fn the_eleventh_webhook_is_refused_though_twenty_ask_at_once(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.post("/api/sites", json!({"domain": "second.example"})).await.expect(201);
        let answers = join_all((0..20).map(|index| {
            // The limit is the account's, whatever the site.
            let site = if index % 2 == 0 { SITE } else { "second.example" };
            let app = &app;
            async move { app.post(&format!("/api/sites/{site}/webhooks"), webhook(&index.to_string())).await }
        }))
        .await;
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
        assert_eq!((created, refused.len()), (10, 10));
        for answer in refused {
            let problem = answer.expect(422);
            assert_eq!(problem["code"], "limit_reached");
            assert!(text(&problem["detail"]).contains("at most 10 webhooks"), "{problem}");
        }
        let list = app.get(WEBHOOKS).await.expect(200);
        let first = text(&list["webhooks"][0]["id"]).to_owned();
        app.delete(&format!("{WEBHOOKS}/{first}")).await.expect(204);
        app.post(WEBHOOKS, webhook("in its place")).await.expect(201);
        app.stop().await;
    }

    async fn the_operator_sets_the_limit(database: Database) {
        let setup = Setup { settings: vec![("max_webhooks_per_account", "1".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        app.post(WEBHOOKS, webhook("one")).await.expect(201);
        assert_eq!(app.post(WEBHOOKS, webhook("two")).await.expect(422)["code"], "limit_reached");
        app.stop().await;
    }

    async fn sites_keys_and_triggers_have_an_end(database: Database) {
        let setup = Setup { settings: vec![("max_sites_per_account", "2".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        let sites = join_all((0..5).map(|index| {
            let app = &app;
            async move { app.post("/api/sites", json!({"domain": format!("{index}.example")})).await }
        }))
        .await;
        assert_eq!(sites.iter().filter(|answer| answer.status == 201).count(), 2, "though five ask at once");
        let refused = sites.iter().find(|answer| answer.status != 201).unwrap().expect(422);
        assert!(text(&refused["detail"]).contains("at most 2 sites"), "{refused}");
        let domain = app.get("/api/sites").await.expect(200)["sites"][0]["domain"].clone();
        let mut body = webhook("one");
        let path = format!("/api/sites/{}/webhooks", text(&domain));
        let spike = |threshold: u32| json!({"type": "visitor_spike", "threshold": threshold + 1});
        body["triggers"] = (0..201).map(spike).collect();
        assert!(app.post(&path, body.clone()).await.complaint("triggers").contains("at most 200"));
        body["triggers"] = (0..200).map(spike).collect();
        let created = app.post(&path, body).await.expect(201);
        let more = app.post(&format!("{path}/{}/triggers", text(&created["webhook"]["id"])), spike(300)).await;
        assert_eq!(more.expect(422)["code"], "limit_reached");
        app.stop().await;
    }

    async fn who_asks_too_often_is_told_when_to_come_back(database: Database) {
        let setup = Setup { settings: vec![("api_rate", "2".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        for _ in 0..20 {
            app.get("/api/me").await.expect(200);
        }
        let refused = app.get("/api/me").await;
        assert_eq!(refused.expect(429)["code"], "too_many_requests");
        assert_eq!(refused.header("retry-after"), Some("1"));
        let (_, other) = app.account("Other", pulsehook::domain::access::Role::Owner).await;
        Answer::of(app.request(reqwest::Method::GET, "/api/me").bearer_auth(&other)).await.expect(200);
        app.advance(std::time::Duration::from_secs(1));
        assert_eq!(
            [app.get("/api/me").await.status, app.get("/api/me").await.status, app.get("/api/me").await.status],
            [200, 200, 429]
        );
        // Who has no key has a budget too, and others keep theirs.
        let strange = async |address: &str| {
            let request = app.request(reqwest::Method::GET, "/api/me").header("x-forwarded-for", address);
            Answer::of(request.bearer_auth("phk_guess")).await.status.as_u16()
        };
        for _ in 0..300 {
            assert_eq!(strange("203.0.113.7").await, 401);
        }
        assert_eq!((strange("203.0.113.8").await, strange("198.51.100.1").await), (429, 401));
        // Nor is there a way around it.
        let request = app.request(reqwest::Method::POST, "/api/sites").header("idempotency-key", "x");
        let around = request.header("x-forwarded-for", "203.0.113.9").bearer_auth("phk_guess").json(&json!({}));
        assert_eq!(Answer::of(around).await.status, 429);
        app.stop().await;
    }

    async fn a_password_is_tried_so_often_and_its_owner_gets_in_from_elsewhere(database: Database) {
        let app = TestApp::start(database).await;
        crate::api::people::Person::join(&app, "me@example.com", pulsehook::domain::access::Role::Owner).await;
        let sign_in = async |address: &str, password: &str| {
            let body = json!({"email": "me@example.com", "password": password});
            let request = app.request(reqwest::Method::POST, "/api/session").header("x-forwarded-for", address);
            Answer::of(request.json(&body)).await.status.as_u16()
        };
        for _ in 0..10 {
            assert_eq!(sign_in("203.0.113.7", "guess").await, 401);
        }
        assert_eq!(sign_in("203.0.113.99", "correct horse battery").await, 429, "the same network");
        assert_eq!(
            sign_in("198.51.100.1, 203.0.113.7", "correct horse battery").await,
            429,
            "whatever comes before it"
        );
        assert_eq!(sign_in("198.51.100.1", "correct horse battery").await, 204);
        app.advance(std::time::Duration::from_secs(6));
        assert_eq!(sign_in("203.0.113.7", "correct horse battery").await, 204);
        app.stop().await;
    }

    async fn no_more_connections_are_held_than_there_is_room_for(database: Database) {
        let setup = Setup { settings: vec![("max_connections", "4".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut client = connect(&app, "127.0.0.1").await;
            assert!(ask(&mut client, "/health/ready").await.starts_with("HTTP/1.1 200"));
            held.push(client);
        }
        let refused = ask(&mut connect(&app, "127.0.0.1").await, "/api/me").await;
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        for line in [
            "retry-after: 1\r\n",
            "connection: close\r\n",
            "application/problem+json",
            "\"code\":\"busy\"",
            "x-request-id: ",
        ] {
            assert!(refused.contains(line), "{line} in {refused}");
        }
        // Nobody is to restart it for that.
        let live = ask(&mut connect(&app, "127.0.0.1").await, "/health/live").await;
        assert!(live.starts_with("HTTP/1.1 200") && live.contains("connection: close\r\n"), "{live}");
        // Those who are in go on.
        assert!(ask(&mut held[0], "/health/live").await.starts_with("HTTP/1.1 200"));
        drop(held.pop());
        // That somebody went away is noticed before long.
        while !ask(&mut connect(&app, "127.0.0.1").await, "/health/ready").await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
        drop(held);
        app.stop().await;
    }

    async fn nobody_takes_all_the_connections(database: Database) {
        let settings =
            vec![("max_connections_per_address", "3".to_owned()), ("trusted_proxies", "127.0.0.9/32".to_owned())];
        let app = TestApp::start_with(database, Setup { settings, ..Setup::default() }).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut client = connect(&app, "127.0.0.5").await;
            assert!(ask(&mut client, "/health/ready").await.starts_with("HTTP/1.1 200"));
            held.push(client);
        }
        let refused = ask(&mut connect(&app, "127.0.0.5").await, "/health/ready").await;
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("connection: close\r\n"), "{refused}");
        // Others have theirs, and a proxy that is trusted as many as it needs.
        for from in ["127.0.0.6", "127.0.0.9", "127.0.0.9", "127.0.0.9", "127.0.0.9"] {
            let mut client = connect(&app, from).await;
            assert!(ask(&mut client, "/health/ready").await.starts_with("HTTP/1.1 200"), "{from}");
            held.push(client);
        }
        app.stop().await;
    }

    async fn a_body_that_drips_in_is_not_waited_for(database: Database) {
        let app = TestApp::start(database).await;
        #[expect(clippy::disallowed_methods, reason = "a client of a test")]
        let mut slow = TcpStream::connect(app.address).await.unwrap();
        let head = format!(
            "POST /api/sites HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\r\n{{",
            app.key
        );
        let waits = app.clock.another_waits(std::time::Duration::from_secs(20));
        slow.write_all(head.as_bytes()).await.unwrap();
        waits.await;
        app.advance(std::time::Duration::from_secs(20));
        let mut answer = vec![0; 12];
        slow.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 400");
        app.stop().await;
    }

    async fn a_repeated_post_happens_once(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let post = async |key: &str, body: &Value| {
            let request = app.request(reqwest::Method::POST, WEBHOOKS).bearer_auth(&app.key);
            Answer::of(request.header("idempotency-key", key).json(body)).await
        };
        let mut body = webhook("one");
        body["generate_secret"] = json!(true);
        let first = post("k1", &body).await;
        let second = post("k1", &body).await;
        assert_eq!((first.expect(201), second.expect(201)), (second.json(), first.json()));
        assert_eq!(second.header("idempotent-replayed"), Some("true"));
        assert_eq!(post("k1", &webhook("other")).await.expect(409)["code"], "idempotency_mismatch");
        let wrong = post("k2", &json!({})).await;
        assert_eq!(post("k2", &json!({})).await.body, wrong.body);
        assert_eq!(post("", &body).await.status, 422);
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"].as_array().unwrap().len(), 1);

        // Somebody else's is another, though it is called the same.
        let (_, stranger) = app.account("Strangers", pulsehook::domain::access::Role::Owner).await;
        let theirs =
            app.request(reqwest::Method::POST, "/api/sites").bearer_auth(&stranger).header("idempotency-key", "k1");
        let theirs = Answer::of(theirs.json(&json!({"domain": "strange.example"}))).await;
        assert_eq!(
            (theirs.expect(201)["site"]["domain"].as_str(), theirs.header("idempotent-replayed")),
            (Some("strange.example"), None)
        );

        // At once, too.
        let answers = join_all((0..5).map(|_| post("k3", &body))).await;
        assert!(answers.iter().all(|answer| answer.status == 201 || answer.status == 409));
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"].as_array().unwrap().len(), 2);
        app.stop().await;
    }
});
