//! What is secret, and what a visitor brings, is found nowhere it does not belong: not in logs at their most talkative, not in
//! metrics, not in the database's bytes, not in an answer, not in what is sent.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::support::app::{Answer, SITE, TestApp, http_client, text};
use crate::support::process::{Served, key, pulsehook};
use crate::support::zoo::{Behaviour, Endpoint};
use crate::support::{Database, in_time, on_both};

/// Secrets of the owner.
const SECRET: &str = "canary-secret-4f1d2a";
const NEXT_SECRET: &str = "canary-next-secret-93b";
const HEADER: &str = "Bearer canary-header-71c0";
/// Part of an address, in its path and its query: who may edit it sees it, nobody else does.
const TOKEN: &str = "canary-token-2be4";
/// Of a visitor.
const ADDRESS: &str = "198.51.100.177";
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0 canary-agent";
const QUERY: &str = "canary-query-5d";
const REFERRER_QUERY: &str = "canary-referrer-8a";
const PROPERTY: &str = "canary-property-6e";
/// Of the machine: see `support/process.rs`.
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

#[track_caller]
fn assert_absent(place: &str, bytes: &[u8], canaries: &[&str]) {
    for canary in canaries {
        let found = bytes.windows(canary.len()).position(|window| window == canary.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(80)..(at + 80).min(bytes.len())];
            panic!("{canary} in {place}: …{}…", String::from_utf8_lossy(around));
        }
    }
}

/// Everything in a folder, except what holds the master key on purpose.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_is_found_where_it_does_not_belong() {
    in_time(seed_and_look(Database::sqlite())).await;
}

async fn seed_and_look(database: Database) {
    let good = Endpoint::http([Behaviour::status(200)]).await;
    let bad = Endpoint::http([Behaviour::Reset, Behaviour::status(500), Behaviour::Close]).await;
    let key = key(&database).await;
    let mut command = pulsehook(&database);
    command.env("PULSEHOOK_LOG_LEVEL", "trace");
    let served = Served::run(command).await;
    let http = http_client();
    let mut answers: Vec<u8> = Vec::new();
    let mut call = async |method: Method, path: &str, body: Value| {
        let mut request = http.request(method, format!("{}{path}", served.url)).bearer_auth(&key);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = Answer::of(request).await;
        answers.extend(&answer.body);
        answers.extend(format!("{:?}", answer.headers).into_bytes());
        answer
    };
    call(Method::POST, "/api/sites", json!({"domain": SITE})).await.expect(201);
    call(Method::POST, &format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})).await.expect(201);
    let webhooks = format!("/api/sites/{SITE}/webhooks");
    let mut hooks = Vec::new();
    for endpoint in [&good, &bad] {
        let url = format!("{}/{TOKEN}?token={TOKEN}", endpoint.url());
        let body = json!({"name": "x", "url": url, "secret": SECRET, "headers": {"Authorization": HEADER},
            "triggers": [{"type": "goal_completion"}]});
        let webhook = call(Method::POST, &webhooks, body).await.expect(201);
        hooks.push(format!("{webhooks}/{}", text(&webhook["webhook"]["id"])));
    }
    for hook in &hooks {
        call(Method::POST, &format!("{hook}/test"), json!({})).await.expect(202);
        call(Method::POST, &format!("{hook}/secret/rotate"), json!({"secret": NEXT_SECRET})).await.expect(200);
        call(Method::POST, &format!("{hook}/test"), json!({})).await.expect(202);
        // What is refused is not repeated.
        for body in [
            json!({"secret": [SECRET]}),
            json!({"secret": format!("whsec_{SECRET}")}),
            json!({"headers": {"Host": HEADER}}),
            json!({"headers": {"X-A": format!("{HEADER}\r\n")}}),
            json!({"headers": [HEADER]}),
            json!({"name": "", "secret": NEXT_SECRET}),
        ] {
            call(Method::PATCH, hook, body.clone()).await.expect(422);
            call(Method::PUT, hook, body).await.expect(422);
        }
    }
    let check = json!({"url": good.url(), "ping": true, "secret": SECRET});
    call(Method::POST, &format!("{webhooks}/check"), check).await.expect(200);
    let check =
        json!({"url": format!("https://user:{TOKEN}@127.0.0.1/{TOKEN}?{TOKEN}"), "ping": true, "secret": SECRET});
    call(Method::POST, &format!("{webhooks}/check"), check).await.expect(200);
    let event = json!({"n": "Signup", "u": format!("https://{SITE}/welcome?key={QUERY}#{QUERY}"), "d": SITE,
        "r": format!("https://search.example/?q={REFERRER_QUERY}"), "p": {"plan": PROPERTY}});
    let tracked = http.post(format!("{}/api/event", served.url)).header("user-agent", AGENT);
    Answer::of(tracked.header("x-forwarded-for", ADDRESS).json(&event)).await.expect_text(202);
    // Two tests, a ping and the goal; the first of the other endpoint's is cut, and tried again.
    good.wait_for(4).await;
    bad.wait_for(3).await;
    for hook in &hooks {
        let list = call(Method::GET, &format!("{hook}/deliveries"), Value::Null).await.expect(200);
        for delivery in list["deliveries"].as_array().unwrap() {
            call(Method::GET, &format!("{hook}/deliveries/{}", text(&delivery["id"])), Value::Null).await.expect(200);
        }
    }
    for path in [&webhooks, "/api/audit", "/api/keys", "/api/me", "/api/members", "/health/ready", "/api/sites"] {
        call(Method::GET, path, Value::Null).await.expect(200);
    }
    // Who may only read is not told what is behind the host.
    let grant = json!({"name": "Reader", "role": "viewer"});
    let reader = text(&call(Method::POST, "/api/keys", grant).await.expect(201)["key"]).to_owned();
    let listed = Answer::of(http.get(format!("{}{webhooks}", served.url)).bearer_auth(&reader)).await;
    assert_eq!(listed.expect(200)["webhooks"].as_array().unwrap().len(), 2);
    assert_absent("a reader's answer", &listed.body, &[TOKEN]);
    let audit = call(Method::GET, "/api/audit", Value::Null).await;
    audit.expect(200);
    assert_absent("the audit log", &audit.body, &[TOKEN]);
    let metrics = Answer::of(http.get(format!("{}/metrics", served.url))).await.expect_text(200);
    let log = served.log();
    assert!(log.contains("DEBUG") && log.contains("Delivered"), "little was logged: {log}");

    let secrets = [SECRET, NEXT_SECRET, HEADER, key.as_str(), MASTER_KEY];
    let visitors = [ADDRESS, "canary-agent", QUERY, REFERRER_QUERY];
    assert_absent("the log", log.as_bytes(), &secrets);
    assert_absent("the log", log.as_bytes(), &visitors);
    assert_absent("the log", log.as_bytes(), &[TOKEN, PROPERTY]);
    assert_absent("the metrics", metrics.as_bytes(), &secrets);
    assert_absent("the metrics", metrics.as_bytes(), &[TOKEN, PROPERTY, ADDRESS, QUERY, SITE, "127.0.0.1"]);
    assert_absent("an answer", &answers, &secrets);
    assert_absent("an answer", &answers, &visitors);
    assert!(good.arrived().iter().any(|arrived| arrived.header("authorization") == Some(HEADER)));
    let mut signups = 0;
    for arrived in good.arrived().iter().chain(&bad.arrived()) {
        assert_absent("a payload", &arrived.body, &secrets);
        assert_absent("a payload", &arrived.body, &visitors);
        assert_absent("a payload", &arrived.body, &[PROPERTY]);
        let head = arrived.head.replace(HEADER, "");
        assert_absent("a request's head", head.as_bytes(), &secrets);
        signups += usize::from(arrived.json()["event_type"] == "goal_completion");
    }
    assert!(signups >= 1, "the visitor's goal was told");
    assert!(served.stop().await.success());
    let files = files(database.folder.path());
    assert!(files.iter().any(|(name, _)| name.ends_with("pulsehook.db")), "{:?}", files.len());
    for (name, bytes) in files {
        assert_absent(&name, &bytes, &secrets);
        assert_absent(&name, &bytes, &visitors);
        assert_absent(&name, &bytes, &[TOKEN]);
    }
}

/// Runs a statement where no rule looks.
async fn write(database_url: &str, statement: &'static str, ids: [&str; 2]) {
    let [first, second] = ids.map(|id| id.parse::<uuid::Uuid>().unwrap());
    let rows = if database_url.starts_with("sqlite:") {
        let mut connection = SqliteConnection::connect(database_url).await.unwrap();
        let done = sqlx::query(statement).bind(first).bind(second).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        done.rows_affected()
    } else {
        let mut connection = PgConnection::connect(database_url).await.unwrap();
        let done = sqlx::query(statement).bind(first).bind(second).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        done.rows_affected()
    };
    assert_eq!(rows, 1);
}

on_both!({
    async fn a_secret_opens_only_in_its_own_row_and_column(database: Database) {
        let (mine, theirs) =
            (Endpoint::http([Behaviour::status(200)]).await, Endpoint::http([Behaviour::status(200)]).await);
        let app = TestApp::start(database).await;
        app.site().await;
        let (_, stranger) = app.account("Strangers", pulsehook::domain::access::Role::Owner).await;
        app.post_as(&stranger, "/api/sites", json!({"domain": "strange.example"})).await.expect(201);
        let body = |url: &str, secret: &str| {
            json!({"name": "x", "url": url, "secret": secret, "headers": {"X-A": HEADER},
            "triggers": [{"type": "goal_completion"}]})
        };
        let create = async |key: &str, site: &str, body: Value| {
            let webhook = app.post_as(key, &format!("/api/sites/{site}/webhooks"), body).await.expect(201);
            text(&webhook["webhook"]["id"]).to_owned()
        };
        let their_id = create(&stranger, "strange.example", body(&theirs.url(), SECRET)).await;
        for (what, statement) in [
            (
                "another's secret",
                "UPDATE webhooks SET secret = (SELECT secret FROM webhooks WHERE id = $2) WHERE id = $1",
            ),
            (
                "another's headers",
                "UPDATE webhooks SET headers = (SELECT headers FROM webhooks WHERE id = $2) WHERE id = $1",
            ),
            (
                "another's address",
                "UPDATE webhooks SET sealed_url = (SELECT sealed_url FROM webhooks WHERE id = $2) WHERE id = $1",
            ),
            ("another column", "UPDATE webhooks SET secret = headers WHERE id = $1 AND id <> $2"),
            (
                "the column before",
                "UPDATE webhooks SET previous_secret = secret, previous_valid_until = 9000000000000000 WHERE id = $1 AND id <> $2",
            ),
        ] {
            let id = create(&app.key, SITE, body(&mine.url(), NEXT_SECRET)).await;
            write(&app.database.url, statement, [&id, &their_id]).await;
            let path = format!("/api/sites/{SITE}/webhooks/{id}");
            app.post(&format!("{path}/test"), json!({})).await.expect(202);
            app.drain().await;
            assert_eq!((mine.arrived().len(), theirs.arrived().len()), (0, 0), "{what}");
            let shown = app.get(&path).await;
            assert_absent(what, &shown.body, &[SECRET, NEXT_SECRET]);
            app.delete(&path).await.expect(204);
        }
        // As it was it works.
        let id = create(&app.key, SITE, body(&mine.url(), NEXT_SECRET)).await;
        app.post(&format!("/api/sites/{SITE}/webhooks/{id}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(mine.arrived().len(), 1);
        app.stop().await;
    }
});
