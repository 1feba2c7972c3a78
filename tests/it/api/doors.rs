//! What goes in comes out, and what is wrong is said by field.

use pulsehook::domain::access::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Answer, SECRET, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const GOALS: &str = "/api/sites/example.com/goals";
const WEBHOOKS: &str = "/api/sites/example.com/webhooks";

fn webhook(field: &str, value: Value) -> Value {
    let mut body = json!({
        "url": "https://hooks.example.com/in", "name": "Hook", "triggers": [{"type": "goal_completion"}]
    });
    body[field] = value;
    body
}

/// What is shown, without the moment it was changed at.
fn undated(mut shown: Value) -> Value {
    shown.as_object_mut().unwrap().remove("updated_at");
    shown
}

/// Whatever is not `settable` of an object, or is known of such objects in the house, keeps its value whoever sets it; all
/// that is shown, sent back at once, changes nothing. `show` shows the object at `path`, or what has it at `pointer`: all of
/// that stays as it is.
async fn stays_as_it_is(app: &TestApp, path: &str, settable: &str, pointer: &str, show: impl AsyncFn() -> Value) {
    const INNER: [&str; 8] =
        ["account_id", "version", "verified", "owner", "disabled_at", "sealed_url", "previous_secret", "succeeded_at"];
    let values = [json!("00000000-0000-7000-8000-000000000001"), json!(2), json!(true), json!("2020-01-01T00:00:00Z")];
    let shown = show().await;
    let (before, object) = (undated(shown.clone()), shown.pointer(pointer).unwrap());
    let fields = object.as_object().unwrap().keys().map(String::as_str).chain(INNER);
    for field in fields.filter(|field| !settable.split(' ').any(|settable| settable == *field)) {
        for value in &values {
            let answer = app.patch(path, json!({field: value})).await;
            assert!([200, 422].contains(&answer.status.as_u16()), "{field}: {}", answer.text());
            assert_eq!(undated(show().await), before, "{path}: {field} = {value}");
        }
    }
    app.patch(path, object.clone()).await.expect(200);
    assert_eq!(undated(show().await), before, "{path}");
}

on_both!({
    async fn sites_are_created_changed_and_deleted(database: Database) {
        let app = TestApp::start(database).await;
        let created = app.post("/api/sites", json!({"domain": "Example.COM", "timezone": "Europe/Berlin"})).await;
        let site = created.expect(201)["site"].clone();
        assert_eq!((text(&site["domain"]), text(&site["timezone"])), (SITE, "Europe/Berlin"));
        assert!(created.header("x-request-id").is_some());
        let id = text(&site["id"]);
        for name in [id, SITE] {
            assert_eq!(app.get(&format!("/api/sites/{name}")).await.expect(200)["site"], site);
        }
        assert_eq!(app.get("/api/sites").await.expect(200)["sites"], json!([site]));
        let renamed = app.patch("/api/sites/example.com", json!({"domain": "example.org"})).await.expect(200);
        assert_eq!((&renamed["site"]["id"], &renamed["site"]["domain"]), (&site["id"], &json!("example.org")));
        app.get("/api/sites/example.com").await.expect(404);
        app.post("/api/sites", json!({"domain": "example.org"})).await.expect(409);
        app.delete("/api/sites/example.org").await.expect(204);
        app.get(&format!("/api/sites/{id}")).await.expect(404);
        app.stop().await;
    }

    async fn a_site_that_cannot_be_is_refused(database: Database) {
        let app = TestApp::start(database).await;
        for (body, field) in [
            (json!({}), "domain"),
            (json!({"domain": ""}), "domain"),
            (json!({"domain": "not a domain"}), "domain"),
            (json!({"domain": 5}), "domain"),
            (json!({"domain": "x".repeat(300)}), "domain"),
            (json!({"domain": "example.com", "timezone": "Mars/Olympus"}), "timezone"),
            (json!({"domain": "example.com", "colour": "red"}), "colour"),
        ] {
            let answer = app.post("/api/sites", body.clone()).await;
            assert!(!answer.complaint(field).is_empty(), "{body}");
        }
        app.stop().await;
    }

    async fn goals_of_every_kind(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for (body, kind, display_name) in [
            (json!({"event_name": "Signup"}), "event", "Signup"),
            (json!({"page_path": "/thanks*"}), "page", "Visit /thanks*"),
            (json!({"page_path": "/blog/**", "scroll_threshold": 75}), "scroll", "Scroll 75% on /blog/**"),
            (json!({"event_name": "Buy", "currency": "EUR", "display_name": "Buys"}), "event", "Buys"),
            (
                json!({"event_name": "Buy", "custom_props": {"plan": "pro"}, "display_name": "Buys pro"}),
                "event",
                "Buys pro",
            ),
        ] {
            let goal = app.post(GOALS, body.clone()).await.expect(201)["goal"].clone();
            assert_eq!((text(&goal["goal_type"]), text(&goal["display_name"])), (kind, display_name), "{body}");
            for (field, value) in body.as_object().unwrap() {
                assert_eq!(&goal[field], value, "{body}");
            }
        }
        let goals = app.get(GOALS).await.expect(200)["goals"].as_array().unwrap().clone();
        assert_eq!(goals.len(), 5);
        app.delete(&format!("{GOALS}/{}", text(&goals[0]["id"]))).await.expect(204);
        app.delete(&format!("{GOALS}/{}", text(&goals[0]["id"]))).await.expect(404);
        app.stop().await;
    }

    async fn a_goal_that_cannot_be_is_refused(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for (body, field) in [
            (json!({}), "event_name"),
            (json!({"event_name": "A", "page_path": "/a"}), "event_name"),
            (json!({"event_name": ""}), "event_name"),
            (json!({"event_name": "x".repeat(200)}), "event_name"),
            (json!({"page_path": ""}), "page_path"),
            (json!({"page_path": 5}), "page_path"),
            (json!({"page_path": "/a", "scroll_threshold": 101}), "scroll_threshold"),
            (json!({"event_name": "A", "scroll_threshold": 50}), "scroll_threshold"),
            (json!({"event_name": "A", "currency": "euro"}), "currency"),
            (json!({"event_name": "A", "custom_props": {"a": 1}}), "custom_props"),
        ] {
            let answer = app.post(GOALS, body.clone()).await;
            assert!(!answer.complaint(field).is_empty(), "{body}");
        }
        app.post(GOALS, json!({"event_name": "A"})).await.expect(201);
        assert_eq!(app.post(GOALS, json!({"event_name": "A"})).await.expect(409)["code"], "goal_exists");
        app.stop().await;
    }

    async fn a_webhook_reads_back_and_shows_its_secret_once(database: Database) {
        let app = TestApp::start(database).await;
        let site = app.site().await;
        let body = json!({
            "url": "HTTPS://Hooks.Example.com:443/in?x=1", "name": " Hook ", "generate_secret": true,
            "headers": {"X-Token": "canary-of-a-header"}, "format": "slack", "retry_schedule": "1m,5m,15m",
            "triggers": [{"type": "visitor_spike", "threshold": 80}, {"type": "goal_completion"}]
        });
        let created = app.post(WEBHOOKS, body).await.expect(201)["webhook"].clone();
        let secret = text(&created["signing_secret"]).to_owned();
        assert!(secret.starts_with("whsec_"));
        assert_eq!(created["url"], "https://hooks.example.com/in?x=1");
        assert_eq!(
            (&created["name"], &created["active"], &created["status"]),
            (&json!("Hook"), &json!(true), &json!("active"))
        );
        assert_eq!((&created["secret"], &created["site_id"]), (&json!(true), &site["id"]));
        assert_eq!(created["retry_schedule"], "1m,5m,15m");
        let spike = &created["triggers"][0];
        assert_eq!(
            (&spike["type"], &spike["threshold"], &spike["baseline"]),
            (&json!("visitor_spike"), &json!(80), &json!("typical"))
        );

        let path = format!("{WEBHOOKS}/{}", text(&created["id"]));
        let shown = app.get(&path).await;
        assert!(!shown.text().contains(&secret) && !shown.text().contains("canary-of-a-header"), "{}", shown.text());
        let shown = shown.expect(200)["webhook"].clone();
        assert!(shown.get("signing_secret").is_none());
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"], json!([shown]));

        // A client may send back what it got, and nothing changes but the version.
        for method in [Method::PUT, Method::PATCH] {
            let answer = Answer::of(app.request(method, &path).bearer_auth(&app.key).json(&shown)).await.expect(200);
            assert_eq!(answer["webhook"], shown);
        }
        app.stop().await;
    }

    async fn a_part_of_a_webhook_is_changed_with_put_and_patch(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let created =
            app.post(WEBHOOKS, webhook("secret", json!("sixteen characters"))).await.expect(201)["webhook"].clone();
        // The standard spelling of the same bytes, for libraries that know only that.
        assert_eq!(created["signing_secret"], "whsec_c2l4dGVlbiBjaGFyYWN0ZXJz");
        let path = format!("{WEBHOOKS}/{}", text(&created["id"]));
        let put = app.request(Method::PUT, &path).bearer_auth(&app.key).json(&json!({"name": "Renamed"}));
        let changed = Answer::of(put).await.expect(200)["webhook"].clone();
        assert_eq!(
            (&changed["name"], &changed["url"], &changed["secret"]),
            (&json!("Renamed"), &created["url"], &json!(true))
        );
        let changed = app.patch(&path, json!({"active": false})).await.expect(200)["webhook"].clone();
        assert_eq!((&changed["name"], &changed["status"]), (&json!("Renamed"), &json!("paused")));

        // Triggers are replaced as a whole; those that stay the same keep their id.
        let goal_trigger = created["triggers"][0].clone();
        let triggers = json!([{"type": "goal_completion"}, {"type": "visitor_spike", "threshold": 70}]);
        let changed = app.patch(&path, json!({"triggers": triggers})).await.expect(200)["webhook"].clone();
        let ids: Vec<_> = changed["triggers"].as_array().unwrap().iter().map(|trigger| text(&trigger["id"])).collect();
        assert!(ids.len() == 2 && ids.contains(&text(&goal_trigger["id"])), "{changed}");
        let spike = changed["triggers"].as_array().unwrap().iter().find(|one| one["type"] == "visitor_spike").unwrap();
        let mut edited = spike.clone();
        edited["threshold"] = json!(90);
        let changed = app.patch(&path, json!({"triggers": [edited]})).await.expect(200)["webhook"].clone();
        assert_eq!(changed["triggers"].as_array().unwrap().len(), 1);
        assert_eq!((&changed["triggers"][0]["id"], &changed["triggers"][0]["threshold"]), (&spike["id"], &json!(90)));
        assert!(!app.patch(&path, json!({"triggers": []})).await.complaint("triggers").is_empty());
        app.stop().await;
    }

    async fn a_webhook_that_cannot_be_is_refused(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let kept = app.post(WEBHOOKS, webhook("name", json!("Kept"))).await.expect(201)["webhook"].clone();
        let path = format!("{WEBHOOKS}/{}", text(&kept["id"]));
        let kept = app.get(&path).await.expect(200)["webhook"].clone();
        for (field, value) in [
            ("url", json!("")),
            ("url", json!("ftp://hooks.example.com")),
            ("url", json!("https:hooks.example.com")),
            ("url", json!("https://user:pass@hooks.example.com/")),
            ("url", json!("https://hooks.example.com/#part")),
            ("url", json!("https://hooks.example.com\\@inside/")),
            ("url", json!(" https://hooks.example.com/")),
            ("url", json!("https://10.0.0.1/")),
            ("url", json!("https://[::1]/")),
            ("url", json!("https://[::ffff:169.254.169.254]/")),
            ("url", json!("https://2852039166/")),
            ("url", json!("https://hooks.example.com:22/")),
            ("url", json!(format!("https://hooks.example.com/{}", "a".repeat(2_048)))),
            ("url", json!(7)),
            ("name", json!("")),
            ("name", json!("x".repeat(256))),
            ("secret", json!("too short")),
            ("secret", json!("whsec_not*base64*at*all")),
            ("format", json!("xml")),
            ("headers", json!({"webhook-id": "mine"})),
            ("headers", json!({"Host": "inside"})),
            ("headers", json!({"X-Bad": "a\r\nX-Other: b"})),
            ("headers", json!({"Bad Name": "x"})),
            ("headers", json!(["x"])),
            ("retry_schedule", json!("soon")),
            ("active", json!("yes")),
            ("triggers", json!([])),
            ("triggers", json!("spike")),
            ("triggers", json!([{"type": "goal_completion"}, {"type": "goal_completion"}])),
            ("colour", json!("red")),
        ] {
            let answer = app.post(WEBHOOKS, webhook(field, value.clone())).await;
            let problem = answer.expect(422);
            let named = problem["errors"].as_object().unwrap().keys().any(|key| key.starts_with(field));
            assert!(named, "{field} {value}: {problem}");
            let answer = app.patch(&path, json!({field: value})).await;
            assert_eq!(answer.status, 422, "{field} {value}: {}", answer.text());
        }
        assert_eq!(app.get(&path).await.expect(200)["webhook"], kept, "a refused change changes nothing");
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"].as_array().unwrap().len(), 1);
        let body = json!({"url": "https://hooks.example.com/"});
        let problem = app.post(WEBHOOKS, body).await.expect(422);
        assert_eq!(problem["errors"]["name"], json!(["is required"]));
        assert!(problem["errors"]["triggers"].is_array());
        for (trigger, field) in [
            (json!({"type": "visitor_spike", "threshold": 0}), "triggers[0].threshold"),
            (json!({"type": "visitor_spike", "threshold": 10_001}), "triggers[0].threshold"),
            (json!({"type": "goal_completion", "goal_id": "999"}), "triggers[0].goal_id"),
            (json!({"type": "page_on_fire"}), "triggers[0].type"),
            (json!("spike"), "triggers[0]"),
        ] {
            assert!(!app.post(WEBHOOKS, webhook("triggers", json!([trigger]))).await.complaint(field).is_empty());
        }
        app.stop().await;
    }

    async fn triggers_are_added_changed_and_removed(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let created = app.post(WEBHOOKS, webhook("name", json!("Hook"))).await.expect(201)["webhook"].clone();
        let path = format!("{WEBHOOKS}/{}/triggers", text(&created["id"]));
        let trigger = app.post(&path, json!({"type": "goal_completion", "goal_id": goal["id"]})).await.expect(201);
        let trigger = trigger["trigger"].clone();
        assert_eq!(trigger["goal_id"], goal["id"]);
        let twin = app.post(&path, json!({"type": "goal_completion", "goal_id": goal["id"]})).await.expect(409);
        assert_eq!(twin["code"], "trigger_exists");
        let one = format!("{path}/{}", text(&trigger["id"]));
        let twin = app.patch(&one, json!({"goal_id": null})).await.expect(409);
        assert_eq!(twin["code"], "trigger_exists");
        let changed = app.patch(&one, json!({"shadow": true})).await.expect(200);
        assert_eq!((&changed["trigger"]["shadow"], &changed["trigger"]["goal_id"]), (&json!(true), &goal["id"]));
        assert!(!app.patch(&one, json!({"type": "visitor_spike"})).await.complaint("type").is_empty());
        app.delete(&one).await.expect(204);
        app.delete(&one).await.expect(404);
        app.patch(&one, json!({"shadow": false})).await.expect(404);
        app.stop().await;
    }

    async fn bodies_that_are_no_json_are_answered_400(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        for path in ["/api/sites", GOALS, WEBHOOKS, "/api/keys", "/api/setup", "/api/session"] {
            for body in ["{", "[]", "\"text\"", "null", "{\"a\":}", "\u{0}"] {
                let request = app.request(Method::POST, path).bearer_auth(&app.key).body(body);
                let answer = Answer::of(request.header("content-type", "application/json")).await;
                assert_eq!(answer.expect(400)["code"], "unreadable_body", "{path} {body}");
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            }
            let large = app.request(Method::POST, path).bearer_auth(&app.key).body(vec![b' '; 70_000]);
            assert_eq!(Answer::of(large).await.expect(413)["status"], 413, "{path}");
        }
        app.stop().await;
    }

    async fn deliveries_are_listed_page_by_page(database: Database) {
        let endpoint = crate::support::zoo::Endpoint::http([crate::support::zoo::Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let mut sent = Vec::new();
        for _ in 0..7 {
            sent.push(hook.send_test().await);
            app.advance(std::time::Duration::from_secs(1));
        }
        app.drain().await;
        sent.reverse();
        let list = format!("{}/deliveries", hook.path);
        let ids = |answer: &Value| -> Vec<String> {
            answer["deliveries"].as_array().unwrap().iter().map(|one| text(&one["id"]).to_owned()).collect()
        };
        let first = app.get(&format!("{list}?limit=3")).await.expect(200);
        assert_eq!(ids(&first), sent[..3]);
        let pagination = &first["pagination"];
        assert_eq!((&pagination["page"], &pagination["limit"]), (&json!(1), &json!(3)));
        assert_eq!((&pagination["total_pages"], &pagination["total_count"]), (&json!(3), &json!(7)));
        let last = app.get(&format!("{list}?limit=3&page=3")).await.expect(200);
        assert_eq!(ids(&last), sent[6..]);
        let mut cursor = text(&pagination["next_cursor"]).to_owned();
        let mut seen = ids(&first);
        loop {
            let page = app.get(&format!("{list}?limit=3&cursor={cursor}")).await.expect(200);
            seen.extend(ids(&page));
            match page["pagination"]["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, sent);
        let from = app.now() - std::time::Duration::from_secs(2);
        let narrowed = app.get(&format!("{list}?status=success&trigger_type=test&from={from}")).await.expect(200);
        assert_eq!(ids(&narrowed), sent[..2]);
        assert_eq!(ids(&app.get(&format!("{list}?status=failed")).await.expect(200)).len(), 0);
        assert_eq!(app.get(&format!("{list}?page=99")).await.expect(200)["deliveries"], json!([]));
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("page=0", "page"),
            ("page=-1", "page"),
            ("status=sent", "status"),
            ("trigger_type=x", "trigger_type"),
            ("from=yesterday", "from"),
            ("cursor=x", "cursor"),
        ] {
            assert!(!app.get(&format!("{list}?{query}")).await.complaint(field).is_empty(), "{query}");
        }
        app.stop().await;
    }

    async fn a_delivery_tells_everything_about_itself(database: Database) {
        let endpoint = crate::support::zoo::Endpoint::http([crate::support::zoo::Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        app.drain().await;
        let delivery = hook.delivery(&id).await;
        assert_eq!(delivery["event_id"], delivery["id"]);
        assert_eq!((&delivery["event_type"], &delivery["trigger_type"]), (&json!("test"), &Value::Null));
        assert_eq!(delivery["payload"], endpoint.arrived()[0].json());
        assert_eq!((&delivery["response_code"], &delivery["response_body"]), (&json!(200), &json!("status 200")));
        let attempt = &delivery["attempts"][0];
        assert_eq!((&attempt["number"], &attempt["response_code"]), (&json!(1), &json!(200)));
        assert!(attempt["duration_ms"].is_u64());
        app.stop().await;
    }

    /// What an answer shows may be sent back; what of it nobody may set stays as it is.
    async fn nobody_sets_what_is_not_his_to_set(database: Database) {
        const SITE: &str = "/api/sites/example.com";
        let app = TestApp::start(database).await;
        app.site().await;
        let webhook = app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
        let path = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
        let trigger = format!("{path}/triggers/{}", text(&webhook["triggers"][0]["id"]));
        let site = async || app.get(SITE).await.expect(200)["site"].clone();
        let webhook = async || app.get(&path).await.expect(200)["webhook"].clone();
        stays_as_it_is(&app, SITE, "domain timezone", "", site).await;
        let settable = "url name active format headers rate_limit retry_schedule triggers secret";
        stays_as_it_is(&app, &path, settable, "", webhook).await;
        let settable = "shadow page source country hostname goal_id";
        stays_as_it_is(&app, &trigger, settable, "/triggers/0", webhook).await;
        app.stop().await;
    }

    async fn what_is_behind_the_host_of_an_address_is_for_those_who_may_edit(database: Database) {
        const TOKEN: &str = "T0/B0/canary-of-an-address";
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        app.site().await;
        let host = endpoint.address.to_string();
        let url = format!("http://{host}/services/{TOKEN}?token=canary");
        let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
        let path = format!("{WEBHOOKS}/{}", text(&webhook["id"]));
        let (_, viewer) = app.account("Test account", Role::Viewer).await;
        let (_, editor) = app.account("Test account", Role::Editor).await;
        let shown = async |key: &str| {
            let one = Answer::of(app.request(Method::GET, &path).bearer_auth(key)).await.expect(200);
            let all = Answer::of(app.request(Method::GET, WEBHOOKS).bearer_auth(key)).await.expect(200);
            assert_eq!(one["webhook"], all["webhooks"][0]);
            text(&one["webhook"]["url"]).to_owned()
        };
        let cut = format!("http://{host}/…");
        assert_eq!(
            (shown(&app.key).await, shown(&editor).await, shown(&viewer).await),
            (url.clone(), url.clone(), cut.clone())
        );
        assert!(app.patch(&path, json!({"url": cut})).await.complaint("url").contains("is not the whole address"));
        // It arrives where it should.
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert!(endpoint.arrived()[0].head.starts_with(&format!("POST /services/{TOKEN}?token=canary ")));
        // The same again is no change; another is, and neither is told in the log.
        app.patch(&path, json!({"url": url})).await.expect(200);
        app.patch(&path, json!({"url": format!("{url}2")})).await.expect(200);
        let log = app.get("/api/audit").await.expect(200);
        let edits: Vec<_> =
            log["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "webhook.update").collect();
        assert_eq!(edits.len(), 2);
        assert!(edits[0].to_string().contains(&host) && !edits[1].to_string().contains(&host), "{edits:?}");
        assert!(!log.to_string().contains("canary"), "{log}");
        let stored =
            |webhook: &pulsehook::domain::webhook::Webhook| (webhook.url.clone(), webhook.sealed_url.is_some());
        let read =
            async || app.store.webhooks_of_site(app.account_id, pulsehook::domain::ids::SiteId(1)).await.unwrap();
        assert_eq!(stored(&read().await[0]), (host.clone(), true));
        // Where there is nothing behind it, there is nothing to hide.
        app.patch(&path, json!({"url": format!("http://{host}")})).await.expect(200);
        assert_eq!(stored(&read().await[0]), (format!("http://{host}/"), false));
        assert_eq!(shown(&viewer).await, format!("http://{host}/"));
        app.stop().await;
    }

    async fn the_secret_and_custom_headers_are_not_in_the_database(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        let mut body = webhook("secret", json!(SECRET));
        body["headers"] = json!({"X-Token": "canary-of-a-header"});
        app.post(WEBHOOKS, body).await.expect(201);
        let webhooks = app.store.webhooks_of_site(app.account_id, pulsehook::domain::ids::SiteId(1)).await.unwrap();
        let stored = format!("{webhooks:?}");
        assert!(webhooks[0].secret.is_some() && !stored.contains(SECRET) && !stored.contains("canary"), "{stored}");
        let database = app.stop().await;
        let mut looked_at = 0;
        for entry in std::fs::read_dir(database.folder.path()).unwrap().flatten().filter(|entry| entry.path().is_file())
        {
            looked_at += 1;
            let bytes = std::fs::read(entry.path()).unwrap();
            let holds = |canary: &[u8]| bytes.windows(canary.len()).any(|window| window == canary);
            assert!(!holds(SECRET.as_bytes()) && !holds(b"canary-of-a-header"), "{}", entry.path().display());
        }
        assert!(looked_at > 0);
    }
});
