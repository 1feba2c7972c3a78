//! What whoever runs an installation is told, and the deliveries of a whole site.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

on_both!({
    async fn nodes_queue_and_traffic_are_told(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(500)]).await;
        let hook = app.webhook_at(&endpoint).await;
        let told = app.get("/api/operation").await.expect(200);
        let nodes = told["nodes"].as_array().unwrap();
        assert_eq!((nodes.len(), &nodes[0]["version"]), (1, &json!(env!("CARGO_PKG_VERSION"))), "{told}");
        assert_eq!(nodes[0]["roles"], json!(["api", "ingest", "engine"]));
        assert_eq!((&nodes[0]["shards"], &told["shards"]), (&json!(256), &json!({"total": 256, "held": 256})));
        assert_eq!(told["queue"], json!({"deliveries": 0, "oldest_due_at": null}));
        assert_eq!(told["traffic"], json!({"newest_at": null, "hits_last_hour": 0}));

        app.advance(Duration::from_secs(3_600));
        let told = app.get("/api/operation").await.expect(200);
        assert!(told["nodes"][0]["unseen_seconds"].as_i64().unwrap() < 20, "who answers is alive: {told}");

        hook.send_test().await;
        app.visit(1, "/").await;
        app.drain().await;
        let told = app.get("/api/operation").await.expect(200);
        assert_eq!(told["queue"]["deliveries"], 1);
        assert!(
            text(&told["queue"]["oldest_due_at"]) > app.now().to_string().as_str(),
            "it waits for its second attempt"
        );
        assert_eq!(told["traffic"], json!({"newest_at": app.now().to_string(), "hits_last_hour": 1}));
        assert!(told["evaluation"]["hits_behind"].as_i64().unwrap() <= 1, "{told}");
        app.stop().await;
    }

    async fn a_site_has_one_list_of_the_deliveries_of_all_its_webhooks(database: Database) {
        let app = TestApp::start(database).await;
        let good = Endpoint::http([Behaviour::status(200)]).await;
        let bad = Endpoint::http([Behaviour::status(410)]).await;
        app.site().await;
        let mut hooks = Vec::new();
        for endpoint in [&good, &bad] {
            let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
            hooks.push(text(&webhook["id"]).to_owned());
        }
        let mut sent = Vec::new();
        for round in 0..5 {
            let hook = &hooks[usize::from(round == 3)];
            let told = app.post(&format!("/api/sites/{SITE}/webhooks/{hook}/test"), json!({})).await.expect(202);
            sent.insert(0, told["delivery"]["id"].clone());
            app.drain().await;
            app.advance(Duration::from_secs(1));
        }
        // Another site's are another's.
        app.post("/api/sites", json!({"domain": "other.example"})).await.expect(201);
        let other = json!({"name": "Other", "url": good.url(), "triggers": [{"type": "goal_completion"}]});
        let other = app.post("/api/sites/other.example/webhooks", other).await.expect(201);
        let other = text(&other["webhook"]["id"]).to_owned();
        app.post(&format!("/api/sites/other.example/webhooks/{other}/test"), json!({})).await.expect(202);
        app.drain().await;

        let list = async |query: &str| app.get(&format!("/api/sites/{SITE}/deliveries{query}")).await.expect(200);
        let ids = |told: &Value| {
            told["deliveries"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
        };
        let all = list("").await;
        assert_eq!(ids(&all), sent);
        assert_eq!(all["pagination"], json!({"limit": 20, "total_count": 5}));
        let first = list("?limit=2").await;
        let second = list(&format!("?limit=2&cursor={}", text(&first["pagination"]["next_cursor"]))).await;
        let third = list(&format!("?limit=2&cursor={}", text(&second["pagination"]["next_cursor"]))).await;
        assert_eq!([ids(&first), ids(&second), ids(&third)].concat(), sent);
        assert_eq!(third["pagination"].get("next_cursor"), None);
        let failed = list("?status=failed").await;
        assert_eq!((ids(&failed), &failed["deliveries"][0]["webhook_id"]), (vec![sent[1].clone()], &json!(hooks[1])));
        let told = app.get(&format!("/api/sites/{SITE}/pulse")).await.expect(200)["pulses"].clone();
        let of = |hook: &String| {
            told.as_array().unwrap().iter().find(|pulse| pulse["webhook_id"] == **hook).unwrap().clone()
        };
        let figures = |pulse: &Value| ["deliveries", "delivered", "failed"].map(|name| pulse[name].as_i64().unwrap());
        assert_eq!((figures(&of(&hooks[0])), figures(&of(&hooks[1]))), ([4, 4, 0], [1, 0, 1]));
        assert_eq!(of(&hooks[0])["last"]["id"], sent[0]);
        assert_eq!((told.as_array().unwrap().len(), &of(&hooks[1])["last"]["status"]), (2, &json!("failed")));
        assert_eq!(list(&format!("?webhook_id={}", hooks[0])).await["pagination"]["total_count"], 4);
        assert_eq!(list(&format!("?webhook_id={other}")).await["pagination"]["total_count"], 0);
        app.advance(Duration::from_secs(90_000));
        let told = app.get(&format!("/api/sites/{SITE}/pulse")).await.expect(200);
        assert!(
            told["pulses"]
                .as_array()
                .unwrap()
                .iter()
                .all(|pulse| pulse["deliveries"] == 0 && pulse["last"].is_object()),
            "{told}"
        );
        assert!(!app.get(&format!("/api/sites/{SITE}/deliveries?status=well")).await.complaint("status").is_empty());
        app.stop().await;
    }
});
