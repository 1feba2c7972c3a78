//! From a hit to a webhook that was received, through the front door.

use std::time::Duration;

use serde_json::json;

use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const SECOND: Duration = Duration::from_secs(1);

on_both! {
    async fn a_signup_reaches_the_endpoint(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion", "goal_id": goal["id"]}])).await;
        app.visit(1, "/pricing").await;
        app.convert(1, "Signup").await;
        app.convert(2, "Other").await;
        app.drain().await;

        let arrived = endpoint.arrived();
        assert_eq!(arrived.len(), 1);
        let payload = arrived[0].json();
        assert_eq!(payload["event_type"], "goal_completion");
        assert_eq!(payload["site_domain"], SITE);
        assert_eq!(payload["webhook_id"], webhook["id"]);
        assert_eq!(payload["trigger_id"], webhook["triggers"][0]["id"]);
        assert_eq!(payload["data"]["goal_id"], goal["id"]);
        assert_eq!(payload["data"]["goal_name"], "Signup");
        assert_eq!(payload["data"]["count"], 1);
        assert_eq!(arrived[0].header("webhook-id"), payload["event_id"].as_str());
        assert_eq!(arrived[0].header("x-webhook-event-type"), Some("goal_completion"));
        app.stop().await;
    }
}
