//! Triggers that count what visitors do, on both stores of traffic.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{SITE, Setup, TestApp, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const SECOND: Duration = Duration::from_secs(1);

async fn always() -> Endpoint {
    Endpoint::http([Behaviour::status(200)]).await
}

fn data(endpoint: &Endpoint) -> Vec<Value> {
    endpoint.arrived().iter().map(|one| one.json()["data"].clone()).collect()
}

fn total(endpoint: &Endpoint) -> u64 {
    data(endpoint).iter().map(|data| data["count"].as_u64().unwrap()).sum()
}

/// The same app on the same database, later.
async fn restarted(app: TestApp, setup: impl FnOnce() -> Setup) -> TestApp {
    let clock = app.clock.clone();
    TestApp::start_at(app.stop().await, setup(), clock).await
}

fn download(url: &str, plan: &str) -> Value {
    json!({"n": "Download", "u": url, "d": SITE, "p": {"plan": plan, "email": "somebody@example.org"}})
}

on_both! {
    async fn one_trigger_that_cannot_be_read_stops_no_other(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let broken = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        // As a node of a later version may have written it.
        let settings = json!({"type": "from_tomorrow"}).to_string();
        let sql = "UPDATE triggers SET settings = $1 WHERE id = $2";
        app.database.rewrite(sql, &settings, text(&broken["triggers"][0]["id"])).await;
        let app = restarted(app, Setup::default).await;
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(total(&endpoint), 1);
        app.stop().await;
    }

    async fn a_custom_event_is_counted_and_tells_only_the_properties_that_are_listed(database: Database) {
        let endpoint = always().await;
        let app = TestApp::start(database).await;
        app.site().await;
        let trigger = json!({"type": "custom_event", "event_name": "Download", "include_properties": ["plan", "size"]});
        let webhook = app.webhook(&endpoint.url(), json!([trigger])).await;
        assert_eq!(webhook["triggers"][0]["include_properties"], json!(["plan", "size"]));
        let page = format!("https://{SITE}/files");
        app.track(1, download(&page, "pro")).await;
        app.track(2, download(&page, "free")).await;
        app.track(3, download(&page, "pro")).await;
        app.convert(1, "Other").await;
        app.visit(1, "/files").await;
        app.drain().await;
        assert_eq!(total(&endpoint), 3);
        let mut plans = std::collections::BTreeMap::new();
        for arrived in endpoint.arrived() {
            assert_eq!(arrived.header("x-webhook-event-type"), Some("custom_event"));
            let payload = arrived.json();
            let schema = app.get("/api/schemas/custom_event").await.expect(200);
            let validator = jsonschema::validator_for(&schema).unwrap();
            assert!(validator.is_valid(&payload), "{payload}");
            assert!(!payload.to_string().contains("somebody"), "{payload}");
            let data = &payload["data"];
            assert_eq!(data["event_name"], "Download");
            assert_eq!(data["top_pages"][0]["page"], "/files");
            assert_eq!(data["properties"]["size"], json!([]));
            for value in data["properties"]["plan"].as_array().unwrap() {
                *plans.entry(text(&value["value"]).to_owned()).or_insert(0) += value["count"].as_u64().unwrap();
            }
        }
        assert_eq!(plans, [("free".to_owned(), 1), ("pro".to_owned(), 2)].into());

        let app = restarted(app, Setup::default).await;
        app.drain().await;
        assert_eq!(total(&endpoint), 3, "nothing is told again after a restart");
        app.track(4, download(&page, "pro")).await;
        app.drain().await;
        assert_eq!(data(&endpoint).last().unwrap()["reason"], "\"Download\" happened once.");
        assert_eq!(total(&endpoint), 4);
        app.stop().await;
    }

    async fn filters_let_through_what_is_like_them(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let endpoints = [always().await, always().await, always().await, always().await, always().await];
        let event = json!({"type": "custom_event", "event_name": "Download"});
        let triggers = [
            json!({"type": "goal_completion", "page": "/blog/*"}),
            json!({"type": "goal_completion", "source": "Direct / None", "hostname": "www.shop.example.com"}),
            json!({"type": "custom_event", "event_name": "Download", "properties": {"plan": "pro"}, "page": "/a"}),
            json!({"type": "custom_event", "event_name": "Download", "source": "Hacker News"}),
            event,
        ];
        for (endpoint, trigger) in endpoints.iter().zip(&triggers) {
            app.webhook(&endpoint.url(), json!([trigger])).await;
        }
        for (visitor, (name, url, referrer)) in [
            ("Signup", format!("https://{SITE}/blog/a/b"), ""),
            ("Signup", format!("https://{SITE}/blogs"), "https://news.ycombinator.com/"),
            ("Signup", "https://shop.example.com/".to_owned(), ""),
            ("Signup", "https://shop.example.com/".to_owned(), "https://news.ycombinator.com/"),
        ].into_iter().enumerate() {
            let visitor = u32::try_from(visitor).unwrap();
            app.track(visitor, json!({"n": name, "u": url, "d": SITE, "r": referrer})).await;
        }
        let hacker_news = |plan, path| {
            let mut body = download(&format!("https://{SITE}{path}"), plan);
            body["r"] = json!("https://news.ycombinator.com/");
            body
        };
        app.track(11, hacker_news("pro", "/a")).await;
        app.track(12, hacker_news("free", "/a")).await;
        app.track(13, hacker_news("pro", "/a/b")).await;
        app.track(14, download(&format!("https://{SITE}/a"), "pro")).await;
        app.drain().await;
        assert_eq!(endpoints.each_ref().map(total), [1, 1, 2, 3, 4]);
        app.stop().await;
    }

    async fn in_clickhouse_the_same_is_counted_once(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let setup = || Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() };
        let app = TestApp::start_with(database, setup()).await;
        let site: i64 = text(&app.site().await["id"]).parse().unwrap();
        app.goal(json!({"event_name": "Signup"})).await;
        let [plain, from_germany, on_shop] = [always().await, always().await, always().await];
        let event = json!({"type": "custom_event", "event_name": "Download", "include_properties": ["plan"]});
        app.webhook(&plain.url(), json!([event, {"type": "goal_completion"}])).await;
        let german = json!({"type": "custom_event", "event_name": "Download", "country": "de"});
        app.webhook(&from_germany.url(), json!([german])).await;
        let shop = json!({"type": "goal_completion", "hostname": "shop.example.com"});
        app.webhook(&on_shop.url(), json!([shop])).await;
        app.drain().await;
        let row = |name, hostname, country| {
            let props = &[("plan", "pro"), ("email", "somebody@example.org")];
            Row { site, name, hostname, country, props, at: app.now(), ..Row::default() }
        };
        // Rows that differ in nothing but where they were, each in one order and then in the other.
        let rows = [
            row("Download", "example.com", "DE"),
            row("Download", "example.com", ""),
            row("Signup", "example.com", "FR"),
            row("Signup", "shop.example.com", "FR"),
        ];
        let look = async |app: &TestApp| {
            app.advance(5 * SECOND);
            app.drain().await;
        };
        clickhouse.insert(&rows[1..3]).await;
        look(&app).await;
        let counts = || [&plain, &from_germany, &on_shop].map(total);
        assert_eq!(counts(), [2, 0, 0]);
        clickhouse.insert(&[rows[0], rows[3]]).await;
        for _ in 0..3 {
            look(&app).await;
            assert_eq!(counts(), [4, 1, 1]);
        }
        let downloads: Vec<_> = data(&plain).into_iter().filter(|data| !data["event_name"].is_null()).collect();
        assert_eq!(downloads[0]["properties"], json!({"plan": [{"value": "pro", "count": 1}]}));
        let app = restarted(app, setup).await;
        look(&app).await;
        assert_eq!(counts(), [4, 1, 1], "nothing is told again after a restart");
        app.stop().await;
    }
}
