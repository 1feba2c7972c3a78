//! People: how they come in, what they may do, and how they are shown out.

use std::time::Duration;

use pulsehook::directory::token_hash;
use pulsehook::domain::access::Role;
use pulsehook::store::facts::SETUP_TOKEN;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::app::{Answer, SITE, Setup, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const PASSWORD: &str = "correct horse battery";
const OTHER_PASSWORD: &str = "staple of eleven geese";

/// Somebody who is signed in.
pub struct Person {
    pub id: String,
    pub cookie: String,
}

impl Person {
    /// Somebody who came into the account of the app's key by invitation.
    pub async fn join(app: &TestApp, email: &str, role: Role) -> Self {
        let invited = app.post("/api/invitations", json!({"email": email, "role": role})).await.expect(201);
        let accepted = accept(app, token_of(&invited), PASSWORD).await;
        accepted.expect(201);
        Self::with(app, cookie_of(&accepted)).await
    }

    async fn with(app: &TestApp, cookie: String) -> Self {
        let me = Answer::of(app.request(Method::GET, "/api/me").header("cookie", &cookie)).await.expect(200);
        Self { id: text(&me["user"]["id"]).to_owned(), cookie }
    }

    pub async fn ask(&self, app: &TestApp, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = app.request(method, path).header("cookie", &self.cookie).header("sec-fetch-site", "same-origin");
        Answer::of(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    async fn get(&self, app: &TestApp, path: &str) -> Answer {
        self.ask(app, Method::GET, path, None).await
    }
}

async fn accept(app: &TestApp, token: &str, password: &str) -> Answer {
    let body = json!({"token": token, "password": password});
    Answer::of(app.request(Method::POST, "/api/invitations/accept").json(&body)).await
}

async fn sign_in(app: &TestApp, email: &str, password: &str) -> Answer {
    let body = json!({"email": email, "password": password});
    Answer::of(app.request(Method::POST, "/api/session").header("user-agent", "Browser of a test").json(&body)).await
}

fn token_of(invited: &Value) -> &str {
    text(&invited["link"]).split_once("/invitation?token=").unwrap().1
}

fn cookie_of(answer: &Answer) -> String {
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

async fn actions(app: &TestApp) -> Vec<Value> {
    app.get("/api/audit").await.expect(200)["entries"].as_array().unwrap().clone()
}

on_both!({
    async fn an_invitation_lets_one_person_in_once(database: Database) {
        let app = TestApp::start(database).await;
        let invite = async |body: Value| app.post("/api/invitations", body).await;
        let invited = invite(json!({"email": " New@Example.com ", "role": "editor"})).await.expect(201);
        assert_eq!(invited["invitation"]["email"], "new@example.com");
        let listed = app.get("/api/invitations").await.expect(200);
        assert_eq!(listed["invitations"][0]["role"], "editor");
        assert!(!listed.to_string().contains(token_of(&invited)));
        let look = async |token: &str| {
            Answer::of(app.request(Method::POST, "/api/invitations/look").json(&json!({ "token": token }))).await
        };
        let seen = look(token_of(&invited)).await.expect(200);
        assert_eq!((&seen["account"], &seen["has_password"]), (&json!("Test account"), &json!(false)));
        for password in ["short", "password1234", "new@example.com!"] {
            assert!(!accept(&app, token_of(&invited), password).await.complaint("password").is_empty());
        }
        // Invited again: only the newer link works.
        let again = invite(json!({"email": "new@example.com", "role": "viewer"})).await.expect(201);
        assert_eq!(accept(&app, token_of(&invited), PASSWORD).await.expect(403)["code"], "wrong_invitation");
        let accepted = accept(&app, token_of(&again), PASSWORD).await;
        accepted.expect(201);
        assert_eq!(accept(&app, token_of(&again), PASSWORD).await.expect(403)["code"], "wrong_invitation");
        assert_eq!(look(token_of(&again)).await.status, 403);
        let person = Person::with(&app, cookie_of(&accepted)).await;
        let me = person.get(&app, "/api/me").await.expect(200);
        assert_eq!((&me["role"], &me["user"]["email"]), (&json!("viewer"), &json!("new@example.com")));
        assert_eq!(
            invite(json!({"email": "new@example.com", "role": "viewer"})).await.expect(409)["code"],
            "already_a_member"
        );
        for (body, field) in [
            (json!({"role": "viewer"}), "email"),
            (json!({"email": "nobody", "role": "viewer"}), "email"),
            (json!({"email": "a@example.com", "role": "king"}), "role"),
        ] {
            assert!(!invite(body).await.complaint(field).is_empty());
        }
        // Taken back, or too old.
        let revoked = invite(json!({"email": "b@example.com", "role": "viewer"})).await.expect(201);
        let path = format!("/api/invitations/{}", text(&revoked["invitation"]["id"]));
        app.delete(&path).await.expect(204);
        app.delete(&path).await.expect(404);
        assert_eq!(accept(&app, token_of(&revoked), PASSWORD).await.status, 403);
        let late = invite(json!({"email": "c@example.com", "role": "viewer"})).await.expect(201);
        app.advance(Duration::from_secs(7 * 86_400 + 1));
        assert_eq!(accept(&app, token_of(&late), PASSWORD).await.status, 403);
        assert_eq!(app.get("/api/invitations").await.expect(200)["invitations"], json!([]));
        app.stop().await;
    }

    /// Where the web interface was not built in, the link still leads somewhere.
    async fn an_invitation_works_without_the_web_interface(database: Database) {
        let app = TestApp::start(database).await;
        let pages = pulsehook::http::pages::plain().with_state(app.api.clone());
        let send = async |method: Method, path: &str, form: String| {
            let request =
                http::Request::builder().method(method).uri(path).header("host", "x").header("origin", "http://x");
            let answer = pages.clone().oneshot(request.body(axum::body::Body::from(form)).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            let html = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            (head.status.as_u16(), head.headers, String::from_utf8(html.to_vec()).unwrap())
        };
        let invite = async |email: &str| {
            let invited = app.post("/api/invitations", json!({"email": email, "role": "viewer"})).await.expect(201);
            token_of(&invited).to_owned()
        };
        let form = |token: &str, password: &str| format!("token={token}&password={}", password.replace(' ', "+"));
        let token = invite("new@example.com").await;
        let (status, _, html) = send(Method::GET, &format!("/invitation?token={token}"), String::new()).await;
        assert!(status == 200 && html.contains("Join Test account") && html.contains("new@example.com"), "{html}");
        assert!(html.contains("new-password") && html.contains(&token), "{html}");
        let (status, _, html) = send(Method::POST, "/invitation", form(&token, "short")).await;
        assert!(status == 422 && html.contains("role=\"alert\"") && html.contains(&token), "{html}");
        let (status, headers, html) = send(Method::POST, "/invitation", form(&token, PASSWORD)).await;
        assert!(status == 200 && html.contains("Welcome"), "{html}");
        let cookie = headers["set-cookie"].to_str().unwrap().split(';').next().unwrap();
        let me = Answer::of(app.request(Method::GET, "/api/me").header("cookie", cookie)).await.expect(200);
        assert_eq!(me["user"]["email"], "new@example.com");
        // It works once, and what never was does not.
        for token in [&token, "<script>"] {
            let (status, _, html) = send(Method::POST, "/invitation", form(token, PASSWORD)).await;
            assert!(status == 403 && html.contains("does not work") && !html.contains("<script"), "{html}");
            let (status, _, html) = send(Method::GET, "/invitation?token=x", String::new()).await;
            assert!(status == 403 && html.contains("does not work"), "{html}");
        }
        // Who is here already needs the password he has.
        let (_, other) = app.account("Another <b>account", Role::Owner).await;
        let body = json!({"email": "new@example.com", "role": "viewer"});
        let token = token_of(&app.post_as(&other, "/api/invitations", body).await.expect(201)).to_owned();
        let (_, _, html) = send(Method::GET, &format!("/invitation?token={token}"), String::new()).await;
        assert!(html.contains("current-password") && html.contains("Another &lt;b&gt;account"), "{html}");
        assert_eq!(send(Method::POST, "/invitation", form(&token, "not the password")).await.0, 401);
        assert_eq!(send(Method::POST, "/invitation", form(&token, PASSWORD)).await.0, 200);
        // Another site cannot send the form.
        let token = invite("third@example.com").await;
        let request = http::Request::builder().method("POST").uri("/invitation").header("sec-fetch-site", "cross-site");
        let refused =
            pages.clone().oneshot(request.body(axum::body::Body::from(form(&token, PASSWORD))).unwrap()).await.unwrap();
        assert_eq!(refused.status(), 403);
        app.stop().await;
    }

    async fn somebody_is_in_several_accounts_and_goes_from_one_to_the_other(database: Database) {
        let app = TestApp::start(database).await;
        let person = Person::join(&app, "both@example.com", Role::Editor).await;
        let (other_id, other) = app.account("Other account", Role::Owner).await;
        app.post_as(&other, "/api/sites", json!({"domain": "other.example"})).await.expect(201);
        let invited = app
            .post_as(&other, "/api/invitations", json!({"email": "both@example.com", "role": "viewer"}))
            .await
            .expect(201);
        assert_eq!(accept(&app, token_of(&invited), OTHER_PASSWORD).await.expect(401)["code"], "wrong_password");
        accept(&app, token_of(&invited), PASSWORD).await.expect(201);
        let me = person.get(&app, "/api/me").await.expect(200);
        let accounts = me["accounts"].as_array().unwrap();
        assert_eq!(
            accounts.iter().map(|account| text(&account["name"])).collect::<Vec<_>>(),
            ["Test account", "Other account"]
        );
        let switch = async |cookie: &Person, id: &str| {
            cookie.ask(&app, Method::PUT, "/api/session/account", Some(json!({ "account_id": id }))).await
        };
        assert_eq!(switch(&person, "999999").await.status, 404);
        let switched = switch(&person, &other_id.to_string()).await;
        switched.expect(204);
        assert_eq!(person.get(&app, "/api/me").await.status, 401, "the token before works no more");
        let there = Person { id: person.id.clone(), cookie: cookie_of(&switched) };
        let me = there.get(&app, "/api/me").await.expect(200);
        assert_eq!((&me["account"]["name"], &me["role"]), (&json!("Other account"), &json!("viewer")));
        assert!(there.get(&app, "/api/sites").await.text().contains("other.example"));
        // Removed from where he is, he is nobody there; the rest stays.
        let removed =
            Answer::of(app.request(Method::DELETE, &format!("/api/members/{}", person.id)).bearer_auth(&other)).await;
        removed.expect(204);
        assert_eq!(there.get(&app, "/api/me").await.status, 401);
        let back = sign_in(&app, "both@example.com", PASSWORD).await;
        back.expect(204);
        let back = Person::with(&app, cookie_of(&back)).await;
        assert_eq!(back.get(&app, "/api/me").await.expect(200)["account"]["name"], "Test account");
        // He may leave, and then there is nothing left for him.
        back.ask(&app, Method::DELETE, &format!("/api/members/{}", person.id), None).await.expect(204);
        assert_eq!(sign_in(&app, "both@example.com", PASSWORD).await.expect(403)["code"], "no_account");
        app.stop().await;
    }

    async fn nobody_rises_above_himself_and_an_owner_stays(database: Database) {
        let app = TestApp::start(database).await;
        let owner = Person::join(&app, "owner@example.com", Role::Owner).await;
        let admin = Person::join(&app, "admin@example.com", Role::Admin).await;
        let editor = Person::join(&app, "editor@example.com", Role::Editor).await;
        let role = async |by: &Person, of: &Person, role: &str| {
            by.ask(&app, Method::PATCH, &format!("/api/members/{}", of.id), Some(json!({ "role": role }))).await
        };
        assert_eq!(role(&editor, &editor, "admin").await.expect(403)["code"], "role_too_low");
        assert_eq!(role(&admin, &editor, "owner").await.expect(403)["code"], "role_too_low");
        assert_eq!(role(&admin, &owner, "viewer").await.expect(403)["code"], "role_too_low");
        assert_eq!(role(&admin, &editor, "viewer").await.expect(200)["member"]["role"], "viewer");
        // It holds at once, for sessions that are open.
        let refused = editor.ask(&app, Method::POST, "/api/sites", Some(json!({"domain": "late.example"}))).await;
        assert_eq!(refused.status, 403);
        assert_eq!(role(&owner, &owner, "viewer").await.expect(409)["code"], "last_owner");
        let leave = owner.ask(&app, Method::DELETE, &format!("/api/members/{}", owner.id), None).await;
        assert_eq!(leave.expect(409)["code"], "last_owner");
        let invite = json!({"email": "second@example.com", "role": "owner"});
        assert_eq!(admin.ask(&app, Method::POST, "/api/invitations", Some(invite)).await.status, 403);
        role(&owner, &admin, "owner").await.expect(200);
        role(&owner, &owner, "viewer").await.expect(200);
        assert_eq!(admin.ask(&app, Method::DELETE, &format!("/api/members/{}", owner.id), None).await.status, 204);
        assert_eq!(owner.get(&app, "/api/me").await.status, 401);
        let entry =
            actions(&app).await.into_iter().find(|entry| entry["detail"]["role"] == json!(["editor", "viewer"]));
        let entry = entry.expect("the change is in the audit log");
        assert_eq!(
            (&entry["action"], &entry["actor"]),
            (&json!("member.update"), &json!(format!("user:{}", admin.id)))
        );
        app.stop().await;
    }

    async fn sessions_are_seen_ended_and_grow_old(database: Database) {
        let app = TestApp::start(database).await;
        let first = Person::join(&app, "me@example.com", Role::Owner).await;
        let second = Person::with(&app, cookie_of(&sign_in(&app, "me@example.com", PASSWORD).await)).await;
        let third = Person::with(&app, cookie_of(&sign_in(&app, "me@example.com", PASSWORD).await)).await;
        let listed = third.get(&app, "/api/sessions").await.expect(200);
        let sessions = listed["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), 3);
        assert_eq!(sessions.iter().filter(|session| session["current"] == true).count(), 1);
        assert!(sessions.iter().any(|session| session["user_agent"] == "Browser of a test"));
        let of_second = second.get(&app, "/api/sessions").await.expect(200);
        let current =
            of_second["sessions"].as_array().unwrap().iter().find(|session| session["current"] == true).unwrap();
        let path = format!("/api/sessions/{}", text(&current["id"]));
        third.ask(&app, Method::DELETE, &path, None).await.expect(204);
        third.ask(&app, Method::DELETE, &path, None).await.expect(404);
        assert_eq!(second.get(&app, "/api/me").await.status, 401);
        // Another password ends all others; it takes the one before.
        let change = async |by: &Person, current: &str, new: &str| {
            let body = json!({"current_password": current, "new_password": new});
            by.ask(&app, Method::PUT, "/api/me/password", Some(body)).await
        };
        assert!(
            change(&third, "wrong", OTHER_PASSWORD).await.complaint("current_password").contains("not your password")
        );
        assert!(!change(&third, PASSWORD, "me@example.com").await.complaint("new_password").is_empty());
        change(&third, PASSWORD, OTHER_PASSWORD).await.expect(204);
        assert_eq!(
            (first.get(&app, "/api/me").await.status.as_u16(), third.get(&app, "/api/me").await.status.as_u16()),
            (401, 200)
        );
        assert_eq!(sign_in(&app, "me@example.com", PASSWORD).await.status, 401);
        // Everywhere means here too.
        let fourth = Person::with(&app, cookie_of(&sign_in(&app, "me@example.com", OTHER_PASSWORD).await)).await;
        fourth.ask(&app, Method::DELETE, "/api/sessions", None).await.expect(204);
        assert_eq!(
            (third.get(&app, "/api/me").await.status.as_u16(), fourth.get(&app, "/api/me").await.status.as_u16()),
            (401, 401)
        );
        // Unused for half a day it ends; used it goes on, for a week.
        let idle = Person::with(&app, cookie_of(&sign_in(&app, "me@example.com", OTHER_PASSWORD).await)).await;
        for _ in 0..3 {
            app.advance(Duration::from_secs(11 * 3_600));
            idle.get(&app, "/api/me").await.expect(200);
        }
        app.advance(Duration::from_secs(12 * 3_600 + 1));
        assert_eq!(idle.get(&app, "/api/me").await.status, 401);
        let used = Person::with(&app, cookie_of(&sign_in(&app, "me@example.com", OTHER_PASSWORD).await)).await;
        for hours in 1..=18 {
            let expected = if hours * 10 < 7 * 24 { 200 } else { 401 };
            app.advance(Duration::from_secs(10 * 3_600));
            assert_eq!(used.get(&app, "/api/me").await.status, expected, "after {} hours", hours * 10);
        }
        let log = actions(&app).await;
        for action in [
            "session.create",
            "session.refuse",
            "session.delete",
            "session.delete_all",
            "user.password",
            "member.create",
        ] {
            assert!(log.iter().any(|entry| entry["action"] == action), "{action}: {log:?}");
        }
        let refused = log.iter().find(|entry| entry["action"] == "session.refuse").unwrap();
        assert_eq!((&refused["actor"], &refused["network"]), (&json!("stranger"), &json!("127.0.0.0/24")));
        assert!(refused["request_id"].is_string());
        app.stop().await;
    }

    async fn a_suspended_account_rests_and_goes_on(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let hook = app.webhook_at(&endpoint).await;
        app.goal(json!({"event_name": "Signup"})).await;
        let person = Person::join(&app, "me@example.com", Role::Owner).await;
        assert!(app.store.suspend_account(&app.change(app.account_id), true).await.unwrap().is_some());
        assert_eq!(app.store.suspend_account(&app.change(app.account_id), true).await.unwrap(), None);
        for answer in [person.get(&app, "/api/me").await, app.get(&hook.path).await] {
            assert_eq!(answer.expect(403)["code"], "account_suspended");
        }
        app.convert(1, "Signup").await;
        app.drain().await;
        assert!(endpoint.arrived().is_empty());
        app.advance(Duration::from_secs(60));
        app.store.suspend_account(&app.change(app.account_id), false).await.unwrap();
        app.advance(Duration::from_secs(1));
        // The node takes its shards again before it goes on.
        app.drain().await;
        person.get(&app, "/api/me").await.expect(200);
        app.convert(2, "Signup").await;
        app.drain().await;
        // A change behind the node's back is known within seconds, and nothing is passed over until then.
        app.advance(Duration::from_secs(10));
        app.drain().await;
        assert_eq!(endpoint.arrived().len(), 1, "what happened meanwhile is not made up for");
        app.stop().await;
    }

    async fn whose_account_is_suspended_goes_on_in_another(database: Database) {
        let app = TestApp::start(database).await;
        let person = Person::join(&app, "both@example.com", Role::Editor).await;
        let (_, other) = app.account("Other account", Role::Owner).await;
        let invite = json!({"email": "both@example.com", "role": "viewer"});
        let invited = app.post_as(&other, "/api/invitations", invite).await.expect(201);
        accept(&app, token_of(&invited), PASSWORD).await.expect(201);
        app.store.suspend_account(&app.change(app.account_id), true).await.unwrap();
        assert_eq!(person.get(&app, "/api/me").await.expect(403)["code"], "account_suspended");
        // Signed out is signed out, also when the account goes on later.
        person.ask(&app, Method::DELETE, "/api/session", None).await.expect(204);
        let signed_in = sign_in(&app, "both@example.com", PASSWORD).await;
        signed_in.expect(204);
        let elsewhere = Person::with(&app, cookie_of(&signed_in)).await;
        assert_eq!(elsewhere.get(&app, "/api/me").await.expect(200)["account"]["name"], "Other account");
        let body = json!({"account_id": app.account_id.to_string()});
        let refused = elsewhere.ask(&app, Method::PUT, "/api/session/account", Some(body)).await;
        assert_eq!(refused.expect(403)["code"], "account_suspended");
        assert_eq!(elsewhere.get(&app, "/api/me").await.status, 200, "and where he is he stays");
        app.store.suspend_account(&app.change(app.account_id), false).await.unwrap();
        assert_eq!(person.get(&app, "/api/me").await.status, 401);
        app.stop().await;
    }

    async fn what_nobody_has_to_be_known_for_may_carry_an_idempotency_key(database: Database) {
        let app = TestApp::start(database).await;
        let invited =
            app.post("/api/invitations", json!({"email": "a@example.com", "role": "viewer"})).await.expect(201);
        let post = async |path: &str, body: Value| {
            let request = app.request(Method::POST, path).header("idempotency-key", "once");
            Answer::of(request.json(&body)).await
        };
        let token = token_of(&invited);
        post("/api/invitations/look", json!({ "token": token })).await.expect(200);
        post("/api/invitations/accept", json!({"token": token, "password": PASSWORD})).await.expect(201);
        post("/api/sign-up", json!({})).await.expect(403);
        app.stop().await;
    }

    async fn an_account_goes_with_everything_in_it(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let hook = app.webhook_at(&endpoint).await;
        hook.send_test().await;
        app.drain().await;
        app.visit(1, "/").await;
        let stays = Person::join(&app, "stays@example.com", Role::Owner).await;
        Person::join(&app, "goes@example.com", Role::Viewer).await;
        let (_, other) = app.account("Other", Role::Owner).await;
        let invited = app
            .post_as(&other, "/api/invitations", json!({"email": "stays@example.com", "role": "viewer"}))
            .await
            .expect(201);
        accept(&app, token_of(&invited), PASSWORD).await.expect(201);
        let delete = async |body: Value| stays.ask(&app, Method::DELETE, "/api/account", Some(body)).await;
        assert!(!delete(json!({})).await.complaint("name").is_empty());
        assert!(delete(json!({"name": "Another"})).await.complaint("name").contains("name of the account"));
        delete(json!({"name": "Test account"})).await.expect(204);
        assert_eq!(app.get("/api/me").await.status, 401, "its keys work no more");
        assert_eq!(sign_in(&app, "goes@example.com", PASSWORD).await.status, 401);
        let signed_in = sign_in(&app, "stays@example.com", PASSWORD).await;
        let stays = Person::with(&app, cookie_of(&signed_in)).await;
        assert_eq!(stays.get(&app, "/api/me").await.expect(200)["account"]["name"], "Other");
        app.post_as(&other, "/api/sites", json!({"domain": SITE})).await.expect(201);
        app.stop().await;
    }

    async fn strangers_sign_up_only_where_that_is_open(database: Database) {
        let app = TestApp::start(database).await;
        let body =
            |email: &str| json!({"account": format!("Account of {email}"), "email": email, "password": PASSWORD});
        let closed = Answer::of(app.request(Method::POST, "/api/sign-up").json(&body("a@example.com"))).await;
        assert_eq!(closed.expect(403)["code"], "sign_up_closed");
        let setup = Setup { settings: vec![("sign_up", "true".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(app.stop().await, setup).await;
        let sign_up = async |body: &Value| Answer::of(app.request(Method::POST, "/api/sign-up").json(body)).await;
        let mut weak = body("a@example.com");
        weak["password"] = json!("a@example.com1");
        assert!(!sign_up(&weak).await.complaint("password").is_empty());
        let signed_up = sign_up(&body("a@example.com")).await;
        signed_up.expect(201);
        let person = Person::with(&app, cookie_of(&signed_up)).await;
        assert_eq!(person.get(&app, "/api/me").await.expect(200)["role"], "owner");
        assert_eq!(person.get(&app, "/api/sites").await.expect(200)["sites"], json!([]));
        assert_eq!(sign_up(&body("a@example.com")).await.expect(409)["code"], "taken");
        for index in 0..3 {
            sign_up(&body(&format!("{index}@example.com"))).await.expect(201);
        }
        let refused = sign_up(&body("late@example.com")).await;
        refused.expect(429);
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1);
        app.stop().await;
    }

    async fn a_key_for_one_site_sees_nothing_else(database: Database) {
        let app = TestApp::start(database).await;
        app.site().await;
        app.post("/api/sites", json!({"domain": "second.example"})).await.expect(201);
        let create = async |body: Value| app.post("/api/keys", body).await;
        assert!(!create(json!({"name": "x", "role": "admin", "site": SITE})).await.complaint("role").is_empty());
        assert!(
            !create(json!({"name": "x", "role": "viewer", "site": "nowhere.example"}))
                .await
                .complaint("site")
                .is_empty()
        );
        let created = create(json!({"name": "x", "role": "editor", "site": SITE})).await.expect(201);
        assert_eq!(created["api_key"]["site_id"], app.get(&format!("/api/sites/{SITE}")).await.json()["site"]["id"]);
        let key = text(&created["key"]);
        let sites = Answer::of(app.request(Method::GET, "/api/sites").bearer_auth(key)).await.expect(200);
        assert_eq!(sites["sites"].as_array().unwrap().len(), 1);
        app.post_as(key, &format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})).await.expect(201);
        app.post_as(key, "/api/sites/second.example/goals", json!({"event_name": "Signup"})).await.expect(404);
        app.post_as(key, "/api/sites", json!({"domain": "third.example"})).await.expect(403);
        app.delete(&format!("/api/sites/{SITE}")).await.expect(204);
        assert_eq!(
            Answer::of(app.request(Method::GET, "/api/me").bearer_auth(key)).await.status,
            401,
            "it goes with its site"
        );
        app.stop().await;
    }

    async fn cookies_and_headers_are_strict(database: Database) {
        let setup = Setup { settings: vec![("base_url", "https://hooks.example.com".to_owned())], ..Setup::default() };
        let app = TestApp::start_with(database, setup).await;
        app.store.set_fact(SETUP_TOKEN, &hex::encode(token_hash("the-token"))).await.unwrap();
        let body = json!({"token": "the-token", "account": "Mine", "email": "me@example.com", "password": PASSWORD});
        let done = Answer::of(app.request(Method::POST, "/api/setup").json(&body)).await;
        done.expect(201);
        let cookie = done.header("set-cookie").unwrap();
        assert!(cookie.starts_with("__Host-pulsehook_session="), "{cookie}");
        for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let me = Answer::of(app.request(Method::GET, "/api/me").header("cookie", cookie_of(&done))).await;
        me.expect(200);
        for (name, value) in [
            ("strict-transport-security", "max-age=31536000"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(me.header(name), Some(value));
        }
        assert!(me.header("content-security-policy").unwrap().contains("default-src 'none'"));
        // Without a word about where it comes from, a cookie changes nothing; another site's page signs nobody in.
        let silent = app
            .request(Method::POST, "/api/sites")
            .header("cookie", cookie_of(&done))
            .json(&json!({"domain": "a.example"}));
        assert_eq!(Answer::of(silent).await.expect(403)["code"], "cross_origin");
        let foreign =
            app.request(Method::POST, "/api/session").header("origin", "https://evil.example").json(&json!({}));
        assert_eq!(Answer::of(foreign).await.expect(403)["code"], "cross_origin");
        app.stop().await;
    }
});
