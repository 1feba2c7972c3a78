//! Limits that hold when requests race, and requests that are repeated.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::{Answer, SITE, Setup, TestApp, text};
use crate::support::on_both;

const WEBHOOKS: &str = "/api/sites/example.com/webhooks";

fn webhook(name: &str) -> Value {
    json!({"url": "https://hooks.example.com/in", "name": name, "triggers": [{"type": "goal_completion"}]})
}

on_both! {
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

        // At once, too.
        let answers = join_all((0..5).map(|_| post("k3", &body))).await;
        assert!(answers.iter().all(|answer| answer.status == 201 || answer.status == 409));
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"].as_array().unwrap().len(), 2);
        app.stop().await;
    }
}
