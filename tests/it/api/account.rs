//! Who may do what, and what those who may not learn.

use reqwest::Method;
use serde_json::{Value, json};

use pulsehook::directory::token_hash;
use pulsehook::domain::access::Role;
use pulsehook::store::facts::SETUP_TOKEN;

use crate::support::app::{Answer, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

on_both!({
    async fn without_a_key_nothing_is_answered(database: Database) {
        let app = TestApp::start(database).await;
        for key in ["", "phk_", "phk_wrong", "sk_live_1", "phk_0000000000000000000000000000000000000000000000"] {
            for path in ["/api/sites", "/api/me", "/api/keys", "/api/audit", "/api/members", "/api/sites/1/webhooks"] {
                let answer =
                    Answer::of(app.request(Method::GET, path).header("authorization", format!("Bearer {key}"))).await;
                assert_eq!(answer.expect(401)["code"], "unauthorized");
            }
        }
        assert_eq!(Answer::of(app.request(Method::GET, "/api/me")).await.status, 401);
        app.stop().await;
    }

    async fn a_viewer_reads_and_an_editor_writes(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let hook = app.webhook_at(&endpoint).await;
        let id = hook.send_test().await;
        app.drain().await;
        let (_, viewer) = app.account("Test account", Role::Viewer).await;
        let (_, editor) = app.account("Test account", Role::Editor).await;
        let read = async |key: &str, path: &str| {
            Answer::of(app.request(Method::GET, path).bearer_auth(key)).await.status.as_u16()
        };
        for path in [hook.path.clone(), format!("{}/deliveries/{id}", hook.path), "/api/sites".to_owned()] {
            assert_eq!(read(&viewer, &path).await, 200, "{path}");
        }
        for path in ["/api/keys", "/api/audit"] {
            assert_eq!(read(&viewer, path).await, 403, "{path}");
        }
        let spike = json!({"type": "visitor_spike"});
        for (path, body) in [
            (format!("{}/test", hook.path), json!({})),
            (format!("{}/secret/rotate", hook.path), json!({})),
            (format!("{}/triggers", hook.path), spike.clone()),
            (format!("{}/deliveries/{id}/resend", hook.path), json!({})),
            (format!("{}/resend", hook.path), json!({})),
            (format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})),
        ] {
            let refused = app.post_as(&viewer, &path, body.clone()).await.expect(403);
            assert_eq!(refused["code"], "role_too_low", "{path}");
            let answer = app.post_as(&editor, &path, body).await;
            assert!(answer.status.is_success(), "{path}: {}", answer.text());
        }
        app.post_as(&editor, "/api/keys", json!({"name": "x", "role": "viewer"})).await.expect(403);
        let (_, admin) = app.account("Test account", Role::Admin).await;
        app.post_as(&admin, "/api/keys", json!({"name": "x", "role": "owner"})).await.expect(403);
        app.post_as(&admin, "/api/keys", json!({"name": "x", "role": "admin"})).await.expect(201);
        app.stop().await;
    }

    async fn somebody_elses_answers_exactly_like_nothing(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let hook = app.webhook_at(&endpoint).await;
        let delivery = hook.send_test().await;
        app.drain().await;
        let goal = app.goal(json!({"event_name": "Signup"})).await;
        let trigger = hook.show().await["triggers"][0]["id"].clone();
        let webhook = hook.path.rsplit('/').next().unwrap().to_owned();
        let (goal, trigger) = (text(&goal["id"]).to_owned(), text(&trigger).to_owned());
        let started = app.post(&format!("{}/resend", hook.path), json!({"status": "success"})).await.expect(202);
        let resend = text(&started["resend"]["id"]).to_owned();
        let (_, stranger) = app.account("Strangers", Role::Owner).await;
        app.post_as(&stranger, "/api/sites", json!({"domain": "strange.example"})).await.expect(201);
        let nothing = "0192aaaa-0000-7000-8000-000000000000";
        // Each operation with what exists elsewhere, and the same with what exists nowhere.
        let operations: Vec<(Method, String, String)> = [
            (Method::GET, "/api/sites/S".to_owned()),
            (Method::PATCH, "/api/sites/S".to_owned()),
            (Method::DELETE, "/api/sites/S".to_owned()),
            (Method::GET, "/api/sites/S/goals".to_owned()),
            (Method::POST, "/api/sites/S/goals".to_owned()),
            (Method::DELETE, "/api/sites/S/goals/G".to_owned()),
            (Method::GET, "/api/sites/S/webhooks".to_owned()),
            (Method::POST, "/api/sites/S/webhooks".to_owned()),
            (Method::GET, "/api/sites/S/webhooks/W".to_owned()),
            (Method::PUT, "/api/sites/S/webhooks/W".to_owned()),
            (Method::PATCH, "/api/sites/S/webhooks/W".to_owned()),
            (Method::DELETE, "/api/sites/S/webhooks/W".to_owned()),
            (Method::POST, "/api/sites/S/webhooks/W/test".to_owned()),
            (Method::POST, "/api/sites/S/webhooks/W/resend".to_owned()),
            (Method::GET, "/api/sites/S/webhooks/W/resends".to_owned()),
            (Method::GET, "/api/sites/S/webhooks/W/resends/R".to_owned()),
            (Method::PATCH, "/api/sites/S/webhooks/W/resends/R".to_owned()),
            (Method::POST, "/api/sites/S/webhooks/W/secret/rotate".to_owned()),
            (Method::POST, "/api/sites/S/webhooks/W/triggers".to_owned()),
            (Method::PATCH, "/api/sites/S/webhooks/W/triggers/T".to_owned()),
            (Method::DELETE, "/api/sites/S/webhooks/W/triggers/T".to_owned()),
            (Method::GET, "/api/sites/S/webhooks/W/deliveries".to_owned()),
            (Method::GET, "/api/sites/S/webhooks/W/deliveries/D".to_owned()),
            (Method::POST, "/api/sites/S/webhooks/W/deliveries/D/resend".to_owned()),
        ]
        .into_iter()
        .flat_map(|(method, path)| {
            let fill = |site: &str, webhook: &str, trigger: &str, delivery: &str, goal: &str| {
                let resend = if goal == "999999" { nothing } else { &resend };
                path.replace("/R", &format!("/{resend}"))
                    .replace("/S", &format!("/{site}"))
                    .replace("/W", &format!("/{webhook}"))
                    .replace("/T", &format!("/{trigger}"))
                    .replace("/D", &format!("/{delivery}"))
                    .replace("/G", &format!("/{goal}"))
            };
            // Through their site, and, where there is more than a site, through one's own.
            let elsewhere = fill(SITE, &webhook, &trigger, &delivery, &goal);
            let nowhere = fill("nowhere.example", nothing, nothing, nothing, "999999");
            let mixed = fill("strange.example", &webhook, &trigger, &delivery, &goal);
            let deep = path.matches('/').count() > 4;
            let mut pairs = vec![(method.clone(), elsewhere, nowhere.clone())];
            pairs.extend(deep.then_some((method, mixed, nowhere)));
            pairs
        })
        .collect();
        for (method, theirs, nowhere) in operations {
            let ask = async |path: &str| {
                let request = app.request(method.clone(), path).bearer_auth(&stranger);
                let request =
                    if matches!(method, Method::GET | Method::DELETE) { request } else { request.json(&json!({})) };
                Answer::of(request).await
            };
            let (theirs_answer, nowhere_answer) = (ask(&theirs).await, ask(&nowhere).await);
            assert_eq!(theirs_answer.status, 404, "{method} {theirs}: {}", theirs_answer.text());
            assert_eq!(theirs_answer.body, nowhere_answer.body, "{method} {theirs}");
        }
        assert_eq!(app.get(&hook.path).await.status, 200, "and nothing happened to it");
        app.stop().await;
    }

    async fn keys_are_shown_once_expire_and_stop_when_deleted(database: Database) {
        let app = TestApp::start(database).await;
        let expires = (app.now() + std::time::Duration::from_secs(3_600)).to_string();
        let created =
            app.post("/api/keys", json!({"name": "Deploy", "role": "viewer", "expires_at": expires})).await.expect(201);
        let key = text(&created["key"]).to_owned();
        assert!(key.starts_with("phk_"));
        let me = async |key: &str| Answer::of(app.request(Method::GET, "/api/me").bearer_auth(key)).await;
        assert_eq!(me(&key).await.expect(200)["role"], "viewer");
        let listed = app.get("/api/keys").await;
        assert!(!listed.text().contains(&key));
        assert_eq!(listed.expect(200)["keys"].as_array().unwrap().len(), 2);
        app.advance(std::time::Duration::from_secs(3_601));
        assert_eq!(me(&key).await.status, 401);
        let created = app.post("/api/keys", json!({"name": "Other", "role": "viewer"})).await.expect(201);
        let path = format!("/api/keys/{}", text(&created["api_key"]["id"]));
        app.delete(&path).await.expect(204);
        assert_eq!(me(text(&created["key"])).await.status, 401);
        for (body, field) in [
            (json!({"role": "viewer"}), "name"),
            (json!({"name": "x", "role": "king"}), "role"),
            (json!({"name": "x", "role": "viewer", "expires_at": "2001-01-01T00:00:00Z"}), "expires_at"),
            (json!({"name": "x", "role": "viewer", "expires_at": "soon"}), "expires_at"),
        ] {
            assert!(!app.post("/api/keys", body).await.complaint(field).is_empty());
        }
        app.stop().await;
    }

    async fn every_change_is_in_the_audit_log(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let hook = app.webhook_at(&endpoint).await;
        app.patch(&hook.path, json!({"active": false})).await.expect(200);
        app.delete(&hook.path).await.expect(204);
        let log = app.get("/api/audit").await.expect(200);
        let actions: Vec<_> =
            log["entries"].as_array().unwrap().iter().map(|entry| text(&entry["action"]).to_owned()).collect();
        for action in ["site.create", "webhook.create", "webhook.update", "webhook.delete"] {
            assert!(actions.iter().any(|done| done == action), "{actions:?}");
        }
        app.stop().await;
    }

    async fn the_first_owner_comes_in_by_the_link_and_only_once(database: Database) {
        let app = TestApp::start(database).await;
        app.store.set_fact(SETUP_TOKEN, &hex::encode(token_hash("the-token"))).await.unwrap();
        let body = |token: &str| {
            json!({
                "token": token, "account": "Mine", "email": "me@example.com", "password": "correct horse battery"
            })
        };
        let set_up = async |body: Value| Answer::of(app.request(Method::POST, "/api/setup").json(&body)).await;
        assert_eq!(set_up(body("another")).await.expect(403)["code"], "wrong_setup_token");
        let mut weak = body("the-token");
        weak["password"] = json!("short");
        assert!(set_up(weak).await.complaint("password").contains("at least"));
        let done = set_up(body("the-token")).await;
        let key = text(&done.expect(201)["key"]).to_owned();
        assert!(done.header("set-cookie").unwrap().contains("HttpOnly"));
        assert_eq!(set_up(body("the-token")).await.expect(403)["code"], "wrong_setup_token");
        let me = Answer::of(app.request(Method::GET, "/api/me").bearer_auth(&key)).await.expect(200);
        assert_eq!((&me["account"]["name"], &me["role"]), (&json!("Mine"), &json!("owner")));
        assert_eq!((&me["directory"], &me["analytics"]), (&json!("own"), &json!("embedded")));

        // Signing in gives a session; it counts only for requests of our own pages.
        let sign_in = async |password: &str| {
            let body = json!({"email": "me@example.com", "password": password});
            Answer::of(app.request(Method::POST, "/api/session").json(&body)).await
        };
        assert_eq!(sign_in("wrong").await.expect(401)["code"], "wrong_password");
        let session = sign_in("correct horse battery").await;
        session.expect(204);
        let cookie = session.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let with_cookie = |method: Method, path: &str| app.request(method, path).header("cookie", &cookie);
        Answer::of(with_cookie(Method::GET, "/api/me")).await.expect(200);
        let site = json!({"domain": "mine.example"});
        let foreign = with_cookie(Method::POST, "/api/sites").header("sec-fetch-site", "cross-site").json(&site);
        assert_eq!(Answer::of(foreign).await.expect(403)["code"], "cross_origin");
        let own = with_cookie(Method::POST, "/api/sites").header("sec-fetch-site", "same-origin").json(&site);
        Answer::of(own).await.expect(201);
        let out = with_cookie(Method::DELETE, "/api/session").header("sec-fetch-site", "same-origin");
        Answer::of(out).await.expect(204);
        Answer::of(with_cookie(Method::GET, "/api/me")).await.expect(401);
        for _ in 0..10 {
            sign_in("wrong again").await;
        }
        let refused = sign_in("correct horse battery").await;
        refused.expect(429);
        assert!(refused.header("retry-after").is_some());
        app.stop().await;
    }
});
