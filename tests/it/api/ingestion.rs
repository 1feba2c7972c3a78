//! `POST /api/event`, as Plausible's trackers expect it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, BROWSER, SITE, TestApp};
use crate::support::on_both;

on_both!({
    async fn trackers_are_answered_as_by_plausible(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let post = async |kind: &str, agent: &str, body: String| {
            let request =
                app.request(Method::POST, "/api/event").header("content-type", kind).header("user-agent", agent);
            Answer::of(request.header("origin", "https://example.com").body(body)).await
        };
        let short = json!({"n": "pageview", "u": "https://example.com/", "d": SITE}).to_string();
        let long = json!({"name": "pageview", "url": "https://example.com/", "domain": SITE}).to_string();
        for (kind, body) in [
            ("application/json", &short),
            ("text/plain", &short),
            ("application/x-www-form-urlencoded", &long),
            ("text/plain;charset=UTF-8", &long),
        ] {
            let answer = post(kind, BROWSER, body.clone()).await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (202, "ok"));
            assert_eq!(answer.header("x-plausible-dropped"), None);
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        }
        // Robots and unknown sites are dropped, politely.
        let unknown = json!({"n": "pageview", "u": "https://other.example/", "d": "other.example"}).to_string();
        let spam =
            json!({"n": "pageview", "u": "https://example.com/", "d": SITE, "r": "https://semalt.com/x"}).to_string();
        for (agent, body) in
            [("Googlebot/2.1 (+http://www.google.com/bot.html)", &short), (BROWSER, &unknown), (BROWSER, &spam)]
        {
            let answer = post("application/json", agent, body.clone()).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-plausible-dropped")), (202, Some("1")), "{body}");
        }
        // Several sites in one event.
        let two = json!({"n": "pageview", "u": "https://example.com/", "d": "example.com,other.example"}).to_string();
        assert_eq!(post("text/plain", BROWSER, two).await.header("x-plausible-dropped"), Some("1"));
        for (body, field) in [
            ("{".to_owned(), "request"),
            (json!({"u": "https://example.com/", "d": SITE}).to_string(), "event_name"),
            (json!({"n": "pageview", "d": SITE}).to_string(), "url"),
            (json!({"n": "pageview", "u": "not an address", "d": SITE}).to_string(), "url"),
            (json!({"n": "x".repeat(200), "u": "https://example.com/", "d": SITE}).to_string(), "event_name"),
        ] {
            let answer = post("application/json", BROWSER, body.clone()).await;
            assert!(answer.expect(400)["errors"][field].is_array(), "{body}: {}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        }
        let large = json!({"n": "pageview", "u": "https://example.com/", "d": SITE, "p": {"a": "x".repeat(1_100_000)}});
        let answer = post("application/json", BROWSER, large.to_string()).await;
        // Whoever keeps the connection would lose the request after it.
        assert_eq!((answer.status.as_u16(), answer.header("connection")), (413, Some("close")));

        let preflight = app.request(Method::OPTIONS, "/api/event").header("access-control-request-method", "POST");
        let answer = Answer::of(preflight).await;
        assert!(answer.status.is_success() && answer.header("access-control-allow-methods").unwrap().contains("POST"));
        app.stop().await;
    }

    async fn a_site_tells_since_when_its_events_arrive(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let path = format!("/api/sites/{SITE}/traffic");
        assert_eq!(app.get(&path).await.expect(200), json!({"first_event_at": null}));
        let first = app.clock.now().to_string();
        app.visit(1, "/").await;
        app.advance(std::time::Duration::from_secs(60));
        app.visit(2, "/").await;
        assert_eq!(app.get(&path).await.expect(200), json!({"first_event_at": first}));
        app.get("/api/sites/other.example/traffic").await.expect(404);
        app.stop().await;
    }

    async fn engagement_needs_a_visit_before_it(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let engagement = json!({"n": "engagement", "u": "https://example.com/", "d": SITE, "sd": 50, "e": 3000});
        assert_eq!(app.track(1, engagement.clone()).await.header("x-plausible-dropped"), Some("1"));
        app.visit(1, "/").await;
        assert_eq!(app.track(1, engagement).await.header("x-plausible-dropped"), None);
        app.stop().await;
    }

    async fn nothing_personal_is_stored(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let address = "198.51.100.77";
        let body = json!({"n": "pageview", "u": "https://example.com/secret-free?token=abc", "d": SITE});
        let request =
            app.request(Method::POST, "/api/event").header("user-agent", BROWSER).header("x-forwarded-for", address);
        Answer::of(request.json(&body)).await.expect_text(202);
        app.drain().await;
        let database = app.stop().await;
        let mut stored = Vec::new();
        for entry in std::fs::read_dir(database.folder.path()).unwrap().flatten().filter(|entry| entry.path().is_file())
        {
            stored.extend(std::fs::read(entry.path()).unwrap());
        }
        let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(holds("/secret-free"), "the hit itself is there");
        for personal in [address, "rv:121.0", "token=abc"] {
            assert!(!holds(personal), "{personal} is stored");
        }
    }

    /// What is not written into the files themselves until later is lost to whoever copies or moves them.
    async fn a_stopped_server_leaves_whole_files(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.visit(1, "/").await;
        let database = app.stop().await;
        let names = std::fs::read_dir(database.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name == "analytics.db"), "{names:?}");
        let beside = names.iter().find(|name| name.ends_with("-wal") || name.ends_with("-shm"));
        assert_eq!(beside, None, "somebody still has it open");
    }

    async fn the_address_a_proxy_names_counts_only_if_the_proxy_is_trusted(database: Database) {
        let endpoint = crate::support::zoo::Endpoint::http([crate::support::zoo::Behaviour::status(200)]).await;
        let setup = crate::support::app::Setup {
            settings: vec![("trusted_proxies", "10.0.0.0/8".to_owned())],
            ..Default::default()
        };
        let app = TestApp::start_with(database, setup).await;
        app.site().await;
        let spike: Value = json!([{"type": "visitor_spike", "baseline": "fixed", "min_visitors": 2}]);
        app.webhook(&endpoint.url(), spike).await;
        for visitor in 1..=5 {
            app.visit(visitor, "/").await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 0, "they all come from one address, whatever they claim");
        app.stop().await;
    }
});
