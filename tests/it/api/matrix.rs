//! Every operation of the OpenAPI document, asked for by every kind of actor. An operation this does not know fails it, so
//! that nobody adds a way in without saying for whom.

use std::collections::BTreeMap;
use std::time::Duration;

use pulsehook::domain::access::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::people::Person;
use crate::support::app::{Answer, SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

/// Who may ask for something.
#[derive(Debug, Clone, Copy, PartialEq)]
enum For {
    /// Anybody; what else it takes is in the body.
    Anybody,
    /// Whoever has this role in the account, also a key for the one site.
    Role(Role),
    /// The same, but no key for one site.
    WholeAccount(Role),
    /// People who signed in.
    Person,
}

fn whom(method: &str, path: &str) -> For {
    use For::{Anybody, Person, WholeAccount};
    let role = For::Role;
    match (method, path) {
        (_, "/api/setup" | "/api/sign-up" | "/api/session" | "/api/event") => Anybody,
        ("post", "/api/invitations/look" | "/api/invitations/accept") => Anybody,
        ("get", "/api/schemas/" | "/api/schemas/{event_type}" | "/health/live" | "/health/ready" | "/metrics") => {
            Anybody
        }
        (_, "/api/sessions" | "/api/sessions/{id}" | "/api/session/account" | "/api/me/password") => Person,
        ("get", "/api/me") => role(Role::Viewer),
        ("get", "/api/members") => WholeAccount(Role::Viewer),
        ("patch" | "delete", "/api/members/{id}") => WholeAccount(Role::Admin),
        (_, "/api/invitations" | "/api/invitations/{id}" | "/api/keys" | "/api/keys/{id}") => WholeAccount(Role::Admin),
        ("get", "/api/audit" | "/api/operation") | ("patch", "/api/account") => WholeAccount(Role::Admin),
        ("delete", "/api/account") => WholeAccount(Role::Owner),
        ("get", "/api/sites") => role(Role::Viewer),
        ("post", "/api/sites") => WholeAccount(Role::Editor),
        ("post", "/api/sites/{site}/triggers/backtest") => role(Role::Viewer),
        ("get", path) if path.starts_with("/api/sites/{site}") => role(Role::Viewer),
        ("post" | "put" | "patch" | "delete", path) if path.starts_with("/api/sites/{site}") => role(Role::Editor),
        _ => panic!("{method} {path}: say here who may ask for it"),
    }
}

/// What the placeholders of paths stand for.
type Ids = BTreeMap<&'static str, String>;

/// One of everything, in an account.
async fn furnish(app: &TestApp, endpoint: &Endpoint) -> Ids {
    let hook = app.webhook_at(endpoint).await;
    let goal = app.goal(json!({"event_name": "Canary goal"})).await;
    let delivery = hook.send_test().await;
    app.drain().await;
    let trigger = text(&hook.show().await["triggers"][0]["id"]).to_owned();
    let resend = app.post(&format!("{}/resend", hook.path), json!({"status": "success"})).await.expect(202);
    let invitation =
        app.post("/api/invitations", json!({"email": "canary@example.com", "role": "viewer"})).await.expect(201);
    let key = app.post("/api/keys", json!({"name": "Canary key", "role": "viewer"})).await.expect(201);
    [
        ("site", SITE.to_owned()),
        ("webhook", hook.path.rsplit('/').next().unwrap().to_owned()),
        ("goal", text(&goal["id"]).to_owned()),
        ("trigger_id", trigger),
        ("delivery_id", delivery),
        ("resend_id", text(&resend["resend"]["id"]).to_owned()),
        ("invitation", text(&invitation["invitation"]["id"]).to_owned()),
        ("key", text(&key["api_key"]["id"]).to_owned()),
    ]
    .into()
}

fn nowhere() -> Ids {
    let nothing = "0192aaaa-0000-7000-8000-000000000000".to_owned();
    let ids = ["webhook", "trigger_id", "delivery_id", "resend_id", "invitation", "key", "session"];
    let mut ids: Ids = ids.map(|name| (name, nothing.clone())).into();
    ids.extend([
        ("site", "nowhere.example".to_owned()),
        ("goal", "999999".to_owned()),
        ("member", "999999".to_owned()),
    ]);
    ids
}

fn fill(path: &str, ids: &Ids) -> String {
    let id = match path {
        path if path.contains("/webhooks/{id}") => "webhook",
        path if path.contains("/goals/{id}") => "goal",
        path if path.starts_with("/api/members") => "member",
        path if path.starts_with("/api/invitations") => "invitation",
        path if path.starts_with("/api/sessions") => "session",
        _ => "key",
    };
    let mut filled = path.replace("{id}", &ids[id]).replace("{event_type}", "visitor_spike");
    for (name, value) in ids {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    assert!(!filled.contains('{'), "{path}: say what stands for its placeholders");
    filled
}

fn operations() -> Vec<(String, String)> {
    let document = serde_json::to_value(pulsehook::http::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let known = ["get", "put", "post", "patch", "delete"];
    paths
        .iter()
        .flat_map(|(path, item)| methods(item).into_iter().map(|method| (method, path.clone())))
        .filter(|(method, _)| known.contains(&method.as_str()))
        .collect()
}

fn method(name: &str) -> Method {
    name.to_uppercase().parse().unwrap()
}

async fn ask(app: &TestApp, method: &Method, path: &str, credential: Option<&str>) -> Answer {
    let mut request = app.request(method.clone(), path);
    request = match credential {
        Some(cookie) if cookie.contains('=') => {
            request.header("cookie", cookie).header("sec-fetch-site", "same-origin")
        }
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    // Streams would go on.
    let request = if *method == Method::GET { request } else { request.json(&json!({})) };
    if path.ends_with("/stream") {
        return Answer::head_of(request).await;
    }
    Answer::of(request).await
}

on_both!({
    async fn who_may_not_is_told_so_whatever_he_asks_for(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let mut ids = furnish(&app, &endpoint).await;
        let member = Person::join(&app, "member@example.com", Role::Viewer).await;
        let other = Person::join(&app, "other@example.com", Role::Viewer).await;
        ids.extend([("member", other.id), ("session", "0011223344556677".to_owned())]);
        app.post("/api/sites", json!({"domain": "other.example"})).await.expect(201);
        let one_site =
            app.post("/api/keys", json!({"name": "One", "role": "editor", "site": "other.example"})).await.expect(201);
        let one_site = text(&one_site["key"]).to_owned();
        let expired = app
            .post(
                "/api/keys",
                json!({
                    "name": "Old", "role": "owner", "expires_at": (app.now() + Duration::from_secs(60)).to_string()
                }),
            )
            .await
            .expect(201);
        let deleted = app.post("/api/keys", json!({"name": "Gone", "role": "owner"})).await.expect(201);
        app.delete(&format!("/api/keys/{}", text(&deleted["api_key"]["id"]))).await.expect(204);
        app.advance(Duration::from_secs(61));
        let (suspended_id, suspended) = app.account("Suspended", Role::Owner).await;
        app.store.suspend_account(&app.change(suspended_id), true).await.unwrap();
        let mut keys = BTreeMap::new();
        for role in Role::ALL {
            keys.insert(role, app.account("Test account", role).await.1);
        }
        for (name, path) in operations() {
            let (method, whom, path) = (method(&name), whom(&name, &path), fill(&path, &ids));
            let status = async |credential: Option<&str>| ask(&app, &method, &path, credential).await.status.as_u16();
            if whom == For::Anybody {
                let status = status(None).await;
                assert!(![401, 404, 405].contains(&status) && status < 500, "{method} {path} of anybody: {status}");
                continue;
            }
            for credential in [None, Some("phk_nothing"), Some(text(&expired["key"])), Some(text(&deleted["key"]))] {
                assert_eq!(status(credential).await, 401, "{method} {path} with {credential:?}");
            }
            assert_eq!(status(Some("pulsehook_session=made-up")).await, 401, "{method} {path}");
            let answer = ask(&app, &method, &path, Some(&suspended)).await;
            assert_eq!(answer.expect(403)["code"], "account_suspended", "{method} {path}");
            let needed = match whom {
                For::Person => {
                    let answer = ask(&app, &method, &path, Some(&app.key)).await;
                    assert_eq!(answer.expect(403)["code"], "session_only", "{method} {path}");
                    continue;
                }
                For::Role(role) | For::WholeAccount(role) => role,
                For::Anybody => unreachable!(),
            };
            for role in Role::ALL {
                let below = role < needed;
                if below {
                    let answer = ask(&app, &method, &path, Some(&keys[&role])).await;
                    assert_eq!(answer.expect(403)["code"], "role_too_low", "{method} {path} as {role}");
                } else if method != Method::DELETE {
                    let status = status(Some(&keys[&role])).await;
                    assert!(
                        ![401, 403, 404, 405].contains(&status) && status < 500,
                        "{method} {path} as {role}: {status}"
                    );
                }
            }
            let viewer = ask(&app, &method, &path, Some(&member.cookie)).await;
            assert_eq!(viewer.status == 403, needed > Role::Viewer, "{method} {path} by a viewer who signed in");
            let answer = ask(&app, &method, &path, Some(&one_site)).await;
            match whom {
                For::WholeAccount(_) => assert_eq!(answer.status, 403, "{method} {path} with a key for one site"),
                _ if path.contains(SITE) => {
                    assert_eq!(answer.status, 404, "{method} {path} with a key for another site");
                }
                _ => assert!(!answer.text().contains(SITE), "{method} {path} with a key for another site"),
            }
        }
        app.stop().await;
    }

    async fn what_is_somebody_elses_answers_byte_for_byte_like_what_is_not(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let mut theirs = furnish(&app, &endpoint).await;
        let member = Person::join(&app, "canary-member@example.com", Role::Owner).await;
        let session = app.request(Method::GET, "/api/sessions").header("cookie", &member.cookie);
        let session = text(&Answer::of(session).await.expect(200)["sessions"][0]["id"]).to_owned();
        theirs.extend([("member", member.id.clone()), ("session", session)]);
        let (_, stranger) = app.account("Strangers", Role::Owner).await;
        app.post_as(&stranger, "/api/sites", json!({"domain": "strange.example"})).await.expect(201);
        let own_site =
            |ids: &Ids| Ids::from_iter(ids.clone().into_iter().chain([("site", "strange.example".to_owned())]));
        let (nowhere, theirs_in_own) = (nowhere(), own_site(&theirs));
        for (name, path) in operations() {
            let (method, whom) = (method(&name), whom(&name, &path));
            if whom == For::Anybody || whom == For::Person || !path.contains('{') {
                let answer = ask(&app, &method, &path, Some(&stranger)).await;
                if method == Method::GET && !path.contains('{') && path.starts_with("/api/") {
                    for canary in [SITE, "Canary", "canary", "Test account"] {
                        assert!(!answer.text().contains(canary), "{path} shows {canary}");
                    }
                }
                continue;
            }
            // Through their site, and, where there is more than a site, through one's own.
            let deep = path.starts_with("/api/sites/{site}/") && path.matches('{').count() > 1;
            for ids in [Some(&theirs), deep.then_some(&theirs_in_own)].into_iter().flatten() {
                let path = fill(&path, ids);
                let there = ask(&app, &method, &path, Some(&stranger)).await;
                let nothing = ask(&app, &method, &fill(&operation_path(&path, ids), &nowhere), Some(&stranger)).await;
                assert_eq!(there.status, 404, "{method} {path}: {}", there.text());
                assert_eq!(there.body, nothing.body, "{method} {path}");
                let fields = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
                assert_eq!(fields(&there), fields(&nothing), "{method} {path}");
            }
        }
        let webhook = format!("/api/sites/{SITE}/webhooks/{}", theirs["webhook"]);
        assert_eq!(app.get(&webhook).await.status, 200, "and nothing happened to it");
        assert_eq!(app.get("/api/members").await.expect(200)["members"].as_array().unwrap().len(), 1);
        app.stop().await;
    }
});

/// The path with its placeholders back in place of the ids.
fn operation_path(path: &str, ids: &Ids) -> String {
    path.split('/')
        .map(|part| match ids.iter().find(|(_, id)| id.as_str() == part) {
            Some((name, _)) => format!("{{{name}}}"),
            None => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/")
}
