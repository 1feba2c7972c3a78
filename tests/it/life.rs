//! The life of endpoints that fail: left alone when they mostly fail, warned about, disabled at last, and well again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{SECRET, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const HOUR: Duration = Duration::from_secs(3_600);
const FIRST_PARK: Duration = Duration::from_secs(30);

/// What the account's other webhook was told: state of the failing one and when it ends.
fn told(listener: &Endpoint) -> Vec<(String, String)> {
    let mut told: Vec<_> = listener
        .arrived()
        .iter()
        .map(crate::support::zoo::Arrived::json)
        .map(|event| {
            assert_eq!(event["event_type"], "webhook_health");
            let data = &event["data"];
            (text(&data["state"]).to_owned(), text(&data["disabled_at"]).to_owned())
        })
        .collect();
    told.dedup();
    told
}

async fn send_test(app: &TestApp, path: &str) -> String {
    let answer = app.post(&format!("{path}/test"), json!({})).await.expect(202);
    text(&answer["delivery"]["id"]).to_owned()
}

async fn show(app: &TestApp, path: &str) -> Value {
    app.get(path).await.expect(200)["webhook"].clone()
}

on_both!({
    async fn an_endpoint_that_fails_for_five_days_is_warned_about_and_disabled(database: Database) {
        let (dead, listener) =
            (Endpoint::http([Behaviour::status(500)]).await, Endpoint::http([Behaviour::status(200)]).await);
        let app = TestApp::start(database).await;
        app.site().await;
        let body = json!({
            "name": "Sales", "url": dead.url(), "secret": SECRET, "retry_schedule": "12h",
            "triggers": [{"type": "goal_completion"}],
        });
        let failing = app.post(&format!("/api/sites/{SITE}/webhooks"), body).await.expect(201)["webhook"].clone();
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&failing["id"]));
        app.webhook(&listener.url(), json!([{"type": "webhook_health"}])).await;
        send_test(&app, &path).await;
        app.drain().await;
        assert_eq!(show(&app, &path).await["status"], "failing");
        assert_eq!(listener.arrived().len(), 0);

        let last = "2026-03-02T10:00:00Z".to_owned();
        for (hours, times) in [(1, 1), (23, 2), (72, 3)] {
            app.advance(HOUR * hours);
            send_test(&app, &path).await;
            app.drain().await;
            assert_eq!(listener.arrived().len(), times);
            assert_eq!(told(&listener), [("failing".to_owned(), last.clone())]);
        }
        app.advance(HOUR * 24);
        app.drain().await;
        assert_eq!(listener.arrived().len(), 4);
        assert_eq!(told(&listener).last().unwrap().0, "disabled");
        let webhook = show(&app, &path).await;
        assert_eq!(webhook["status"], "disabled");
        assert!(text(&webhook["status_reason"]).contains("five days"), "{webhook}");
        app.post(&format!("{path}/test"), json!({})).await.expect(409);

        // Enabled again it begins anew, with what still waited when it was disabled, if anything did.
        app.patch(&path, json!({"active": true})).await.expect(200);
        app.drain().await;
        let enabled = show(&app, &path).await;
        let anew = [("active", Value::Null), ("failing", json!(app.now().to_string()))];
        assert!(anew.contains(&(text(&enabled["status"]), enabled["failing_since"].clone())), "{enabled}");
        app.stop().await;
    }

    async fn an_endpoint_that_is_gone_is_told_at_once(database: Database) {
        let (gone, listener) =
            (Endpoint::http([Behaviour::status(410)]).await, Endpoint::http([Behaviour::status(200)]).await);
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&gone).await;
        app.webhook(&listener.url(), json!([{"type": "webhook_health"}])).await;
        hook.send_test().await;
        app.drain().await;
        assert_eq!(listener.arrived().len(), 1);
        let event = listener.arrived()[0].json();
        assert_eq!(event["data"]["state"], "disabled");
        assert!(text(&event["data"]["reason"]).contains("410"), "{event}");
        app.stop().await;
    }

    async fn an_endpoint_that_mostly_fails_is_left_alone_and_asked_once(database: Database) {
        let mut script = vec![Behaviour::status(500); 11];
        script.push(Behaviour::status(200));
        let endpoint = Endpoint::http(script).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let mut sent = Vec::new();
        for _ in 0..10 {
            sent.push(hook.send_test().await);
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 10);
        assert!(hook.show().await["left_alone_until"].is_string());

        // What comes now waits, and no attempt of it is used up.
        let waits = hook.send_test().await;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 10);
        assert_eq!(hook.delivery(&waits).await["attempt"], 0);

        // One probe, which fails: twice the time.
        app.advance(FIRST_PARK + Duration::from_secs(1));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 11);
        app.advance(2 * FIRST_PARK + Duration::from_secs(1));
        app.drain().await;
        for id in sent.iter().chain([&waits]) {
            assert_eq!(hook.delivery(id).await["status"], "success");
        }
        let webhook = hook.show().await;
        assert_eq!((&webhook["status"], &webhook["left_alone_until"]), (&json!("active"), &Value::Null));
        app.stop().await;
    }

    async fn a_breaker_stays_open_over_a_restart(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(500)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        for _ in 0..12 {
            hook.send_test().await;
        }
        app.drain().await;
        let (key, path) = (app.key.clone(), hook.path.clone());
        let attempts = endpoint.arrived().len();
        let database = app.stop().await;
        let mut app = TestApp::start(database).await;
        app.key = key;
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), attempts);
        assert!(show(&app, &path).await["left_alone_until"].is_string());
        // Another address is another endpoint.
        let repaired = Endpoint::http([Behaviour::status(200)]).await;
        app.patch(&path, json!({"url": repaired.url()})).await.expect(200);
        // Those that were never attempted go at once, and must not be under way while time passes.
        app.drain().await;
        app.advance(Duration::from_secs(60));
        app.drain().await;
        assert_eq!(repaired.arrived().len(), 12);
        app.stop().await;
    }

    async fn a_webhook_is_asked_no_faster_than_its_rate(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        app.patch(&hook.path, json!({"rate_limit": 5})).await.expect(200);
        assert_eq!(hook.show().await["rate_limit"], 5);
        for _ in 0..12 {
            hook.send_test().await;
        }
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 5);
        app.advance(Duration::from_secs(1));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 10);
        for rate in [json!(0), json!(1_001), json!("fast")] {
            let answer = app.patch(&hook.path, json!({"rate_limit": rate})).await;
            assert!(answer.complaint("rate_limit").contains("from 1 to 1000"));
        }
        app.stop().await;
    }
});
