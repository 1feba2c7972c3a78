//! The documents: OpenAPI as committed, schemas that fit what is sent, health and metrics.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

#[test]
fn the_committed_openapi_document_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let document = format!("{}\n", pulsehook::http::openapi().to_pretty_json().unwrap());
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == document,
        "openapi.json is out of date: run the tests once with UPDATE_OPENAPI=1 and commit it"
    );
}

#[test]
fn every_operation_names_its_errors_and_its_door() {
    let document = serde_json::to_value(pulsehook::http::openapi()).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let open = path.starts_with("/health")
                || path.starts_with("/api/schemas")
                || ["/metrics", "/api/event", "/api/setup", "/api/sign-up"].contains(&path.as_str())
                || ["/api/invitations/look", "/api/invitations/accept"].contains(&path.as_str())
                || (path == "/api/session" && method == "post");
            assert_eq!(operation.get("security").is_none(), open, "{method} {path}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
            assert!(!text(&operation["summary"]).is_empty());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let in_path = path.contains(&format!("{{{}}}", text(&parameter["name"])));
                assert_eq!(parameter["in"], if in_path { "path" } else { "query" }, "{method} {path}");
            }
            for (status, answer) in answers.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
                let kinds: Vec<_> = answer["content"].as_object().into_iter().flat_map(|kinds| kinds.keys()).collect();
                assert!(
                    kinds == ["application/problem+json"]
                        || kinds.is_empty()
                        || path == "/health/ready"
                        || path == "/api/event",
                    "{method} {path} {status}: {kinds:?}"
                );
            }
            if !open && path != "/api/session" {
                assert!(answers.contains_key("401"), "{method} {path}");
            }
        }
    }
}

on_both!({
    async fn what_cannot_be_read_of_an_address_is_a_problem_too(database: Database) {
        let app = TestApp::start(database).await;
        for path in ["/api/audit?limit=1&limit=2", "/api/sites/%ff", "/api/audit?limit=%ff&cursor=x&cursor=y"] {
            let answer = app.get(path).await;
            assert_eq!(answer.expect(400)["code"], "unreadable_address", "{path}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
        app.stop().await;
    }

    async fn what_is_sent_fits_its_schema(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 2});
        let webhook = app.webhook(&endpoint.url(), json!([spike, {"type": "goal_completion"}])).await;
        for visitor in 1..=2 {
            app.convert(visitor, "Signup").await;
        }
        app.post(&format!("/api/sites/{SITE}/webhooks/{}/test", text(&webhook["id"])), json!({})).await.expect(202);
        app.drain().await;
        let mut seen = Vec::new();
        for arrived in endpoint.arrived() {
            let payload = arrived.json();
            let event_type = text(&payload["event_type"]).to_owned();
            let path = app.get(&format!("/api/schemas/{event_type}")).await.expect(200);
            let validator = jsonschema::validator_for(&path).unwrap();
            let problems: Vec<_> = validator.iter_errors(&payload).map(|problem| problem.to_string()).collect();
            assert!(problems.is_empty(), "{payload}: {problems:?}");
            // And the schema says something: without its data the payload does not fit.
            let mut broken = payload.clone();
            broken["data"] = json!({});
            assert!(!validator.is_valid(&broken));
            assert_only_aggregates(&payload);
            seen.push(event_type);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["goal_completion", "test", "visitor_spike"]);
        app.get("/api/schemas/nonsense").await.expect(404);
        app.stop().await;
    }

    async fn health_metrics_and_pages(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        hook.send_test().await;
        app.visit(1, "/").await;
        app.drain().await;
        let open = async |path: &str| Answer::of(app.request(Method::GET, path)).await;
        assert_eq!(open("/health/live").await.expect(200)["ok"], true);
        let ready = open("/health/ready").await.expect(200);
        assert_eq!((&ready["database"], &ready["analytics"]), (&json!(true), &json!(true)));
        let metrics = open("/metrics").await.text();
        for name in [
            "pulsehook_hits_total",
            "pulsehook_deliveries_total",
            "pulsehook_attempts_total",
            "pulsehook_queue_depth",
            "pulsehook_queue_oldest_due_seconds",
            "pulsehook_evaluation_seconds",
            "pulsehook_delivery_seconds",
            "pulsehook_claim_seconds",
            "pulsehook_claimed_total",
        ] {
            assert!(metrics.contains(name), "{name} is missing");
        }
        assert_eq!(open("/api/openapi.json").await.expect(200)["openapi"].as_str().map(|v| &v[..2]), Some("3."));
        for path in ["/docs", "/", "/setup?token=x"] {
            let page = open(path).await;
            assert!(page.header("content-type").unwrap().starts_with("text/html"), "{path}");
            let policy = page.header("content-security-policy").unwrap();
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
            // Where the web interface was built, its script is a file; nowhere is one in a page.
            let html = page.text();
            assert!(html.matches("<script").count() == html.matches(" src=\"./").count(), "{path}: {html}");
            assert!(!html.contains("<style") && !html.contains(" style="), "{path}: {html}");
        }
        assert_eq!(open("/api/nothing").await.expect(404)["code"], "not_found");
        let wrong = Answer::of(app.request(Method::PUT, "/api/sites")).await;
        assert_eq!(wrong.expect(405)["code"], "method_not_allowed");
        app.stop().await;
    }
});

/// Nothing about single visitors leaves the house.
fn assert_only_aggregates(payload: &Value) {
    const ALLOWED: &[&str] = &[
        "event_id",
        "event_type",
        "version",
        "site_id",
        "site_domain",
        "timestamp",
        "webhook_id",
        "trigger_id",
        "data",
        "current_visitors",
        "previous_visitors",
        "change_percent",
        "threshold",
        "baseline",
        "basis",
        "score",
        "spread",
        "score_minutes",
        "rise_by_source",
        "rise_by_page",
        "rise_by_country",
        "name",
        "visitors_before",
        "share_percent",
        "reason",
        "started_event_id",
        "started_at",
        "ended_at",
        "duration_seconds",
        "window_seconds",
        "top_sources",
        "top_pages",
        "source",
        "page",
        "visitors",
        "goal_id",
        "goal_name",
        "goal_type",
        "count",
        "window_start",
        "window_end",
        "test",
        "message",
    ];
    match payload {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert!(ALLOWED.contains(&name.as_str()), "{name} is not on the list of what may leave the house");
                assert_only_aggregates(value);
            }
        }
        Value::Array(items) => items.iter().for_each(assert_only_aggregates),
        Value::String(text) => assert!(!text.contains("203.0.") && !text.contains("Mozilla"), "{text}"),
        _ => {}
    }
}
