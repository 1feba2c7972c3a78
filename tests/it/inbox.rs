//! The built-in inbox: deliveries take the way they always take, to its very end, and are seen without an endpoint.

use std::time::Duration;

use pulsehook::domain::ids::{EventId, WebhookId};
use pulsehook::domain::inbox::{KEPT_MOST, Verdict};
use pulsehook::domain::signature::{SigningSecret, verify_body, verify_standard};
use pulsehook::engine::janitor::Janitor;
use pulsehook::store::inbox::InboxRequest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::app::{SECRET, SITE, TestApp, text};
use crate::support::on_both;

async fn webhook(app: &TestApp, body: Value) -> String {
    let mut whole = json!({"name": "Inbox", "url": "inbox:", "triggers": [{"type": "goal_completion"}]});
    whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let webhook = app.post(&format!("/api/sites/{SITE}/webhooks"), whole).await.expect(201)["webhook"].clone();
    assert_eq!(webhook["url"], "inbox:");
    format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]))
}

async fn requests(app: &TestApp, path: &str) -> Vec<Value> {
    app.get(&format!("{path}/inbox")).await.expect(200)["requests"].as_array().unwrap().clone()
}

async fn send_test(app: &TestApp, path: &str) -> Value {
    let sent = app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    app.get(&format!("{path}/deliveries/{}", text(&sent["delivery"]["id"]))).await.expect(200)["delivery"].clone()
}

fn header<'a>(request: &'a Value, name: &str) -> &'a str {
    let headers = request["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header["name"] == name);
    text(&found.unwrap_or_else(|| panic!("no {name}: {request}"))["value"])
}

on_both!({
    async fn a_signed_delivery_is_seen_there_and_nothing_is_dialled(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let path = webhook(&app, json!({"secret": SECRET, "headers": {"X-Team": "growth"}})).await;
        assert_eq!(requests(&app, &path).await, Vec::<Value>::new());
        let delivery = send_test(&app, &path).await;
        assert_eq!((&delivery["status"], &delivery["response_code"]), (&json!("success"), &json!(200)));
        let kept = requests(&app, &path).await;
        let [request] = kept.as_slice() else { panic!("{kept:?}") };
        assert_eq!(request["verdict"], "verified");
        assert_eq!(request["event_id"], delivery["id"]);
        assert_eq!(header(request, "webhook-id"), text(&delivery["id"]));
        assert_eq!(header(request, "x-webhook-event-type"), "test");
        assert_eq!(header(request, "content-type"), "application/json");
        assert_eq!(header(request, "x-team"), "[redacted]", "what the owner keeps secret is secret here");
        let (secret, body) = (SigningSecret::parse(SECRET).unwrap(), text(&request["body"]).as_bytes());
        let (timestamp, signature) = (header(request, "webhook-timestamp"), header(request, "webhook-signature"));
        let now = app.now().secs();
        assert_eq!(verify_standard(&secret, text(&delivery["id"]), timestamp, signature, body, now), Ok(()));
        assert_eq!(verify_body(&secret, header(request, "x-webhook-signature"), body), Ok(()));
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), delivery["payload"]);
        assert_eq!(app.dialled(), Vec::new());

        // What fires by itself goes the same way, and a resend comes under the same id.
        app.goal(json!({"event_name": "Signup"})).await;
        app.convert(1, "Signup").await;
        app.drain().await;
        assert_eq!(header(&requests(&app, &path).await[0], "x-webhook-event-type"), "goal_completion");
        app.post(&format!("{path}/deliveries/{}/resend", text(&delivery["id"])), json!({})).await.expect(202);
        app.drain().await;
        let kept = requests(&app, &path).await;
        assert_eq!((kept.len(), &kept[0]["event_id"]), (3, &delivery["id"]));
        assert_eq!(app.dialled(), Vec::new());
        app.stop().await;
    }

    async fn what_is_not_signed_is_not_said_to_be(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let path = webhook(&app, json!({})).await;
        send_test(&app, &path).await;
        app.post(&format!("{path}/secret/rotate"), json!({})).await.expect(200);
        send_test(&app, &path).await;
        app.post(&format!("{path}/secret/rotate"), json!({})).await.expect(200);
        send_test(&app, &path).await;
        let verdicts: Vec<_> = requests(&app, &path).await.iter().map(|one| one["verdict"].clone()).collect();
        assert_eq!(verdicts, ["verified", "verified", "unsigned"]);
        app.stop().await;
    }

    async fn no_other_address_leads_there(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for url in
            ["inbox:x", "inbox://127.0.0.1/", "inbox:/", "INBOX:", " inbox:", "inbox", "inbox:?", "file:///etc/passwd"]
        {
            let body = json!({"name": "Inbox", "url": url, "triggers": [{"type": "goal_completion"}]});
            let refused = app.post(&format!("/api/sites/{SITE}/webhooks"), body).await;
            assert!(!refused.complaint("url").is_empty(), "{url}");
        }
        let check = app
            .post(&format!("/api/sites/{SITE}/webhooks/check"), json!({"url": "inbox:", "ping": true}))
            .await
            .expect(200);
        assert_eq!((&check["ok"], check["steps"].as_array().unwrap().len()), (&json!(true), 1));
        assert_eq!(app.dialled(), Vec::new());
        app.stop().await;
    }

    async fn it_keeps_few_requests_for_a_day_and_none_of_a_webhook_that_is_gone(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let (full, other) = (webhook(&app, json!({})).await, webhook(&app, json!({"name": "Other"})).await);
        let id = |path: &str| path.rsplit('/').next().unwrap().parse::<WebhookId>().unwrap();
        send_test(&app, &other).await;
        for number in 0..KEPT_MOST + 5 {
            app.advance(Duration::from_secs(1));
            let request = InboxRequest {
                id: Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, app.now().secs().unsigned_abs(), 0)),
                event_id: EventId(Uuid::from_u128(u128::from(number))),
                verdict: Verdict::Unsigned,
                headers: "[]".to_owned(),
                body: vec![0xff, b'x'],
                received_at: app.now(),
            };
            app.store.keep_in_inbox(app.account_id, id(&full), &request).await.unwrap();
        }
        let kept = requests(&app, &full).await;
        assert_eq!(kept.len(), KEPT_MOST as usize);
        assert_eq!(kept[0]["event_id"], Uuid::from_u128(u128::from(KEPT_MOST + 4)).to_string());
        assert_eq!(requests(&app, &other).await.len(), 1, "one webhook's are not another's to push out");

        app.delete(&full).await.expect(204);
        let (_, webhook_id) = (app.get(&format!("{full}/inbox")).await.expect(404), id(&full));
        assert_eq!(app.store.inbox(app.account_id, webhook_id).await.unwrap(), Vec::new());

        let janitor = Janitor {
            store: app.store.clone(),
            analytics: app.analytics.clone(),
            clock: app.clock.clock(),
            retention: Duration::from_secs(30 * 86_400),
            audit_retention: Duration::from_secs(365 * 86_400),
        };
        app.advance(Duration::from_secs(86_000));
        janitor.sweep(&CancellationToken::new()).await.unwrap();
        assert_eq!(requests(&app, &other).await.len(), 1);
        app.advance(Duration::from_secs(500));
        janitor.sweep(&CancellationToken::new()).await.unwrap();
        assert_eq!(requests(&app, &other).await.len(), 0);
        app.stop().await;
    }
});
