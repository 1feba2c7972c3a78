//! Software nobody here wrote: it verifies our deliveries, and feeds our ingestion.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;
use crate::support::process::{succeeded, tools};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};

/// As a user brings it: the key of the `sha256=` signature is its bytes.
const TEXT_SECRET: &str = "a secret of my own choosing";

/// What the libraries say: PyPI's and npm's Standard Webhooks, and GitHub's own.
#[derive(Debug, PartialEq, Eq)]
struct Verified {
    python: bool,
    node: bool,
    github: bool,
}

const ALL: Verified = Verified { python: true, node: true, github: true };
const NONE: Verified = Verified { python: false, node: false, github: false };

async fn verify(standard_secret: &str, text_secret: &str, arrived: &Arrived) -> Verified {
    let headers: serde_json::Map<_, _> =
        ["webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-signature"]
            .into_iter()
            .map(|name| (name.to_owned(), Value::from(arrived.header(name).expect("it is signed"))))
            .collect();
    let body = std::str::from_utf8(&arrived.body).unwrap();
    let given = json!({"secret": standard_secret, "text": text_secret, "headers": headers, "body": body}).to_string();
    let tools = tools();
    let mut python = Command::new(tools.join(".venv/bin/python"));
    python.arg(tools.join("verify.py"));
    let mut node = Command::new("node");
    node.arg(tools.join("verify.mjs"));
    let (python, node) = tokio::join!(run(python, &given), run(node, &given));
    Verified { python: python["standard"] == true, node: node["standard"] == true, github: node["github"] == true }
}

async fn run(mut command: Command, input: &str) -> Value {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it can be started");
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    serde_json::from_str(&succeeded(&output)).expect("it prints JSON")
}

on_both!({
    async fn deliveries_verify_with_libraries_of_others(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        // These libraries look at the real time.
        let app = TestApp::start_now(database).await;
        app.site().await;
        let body = json!({
            "url": endpoint.url(), "name": "Interop", "secret": TEXT_SECRET, "triggers": [{"type": "goal_completion"}]
        });
        let webhook = app.post(&format!("/api/sites/{SITE}/webhooks"), body).await.expect(201)["webhook"].clone();
        let standard = text(&webhook["signing_secret"]).to_owned();
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
        app.goal(json!({"event_name": "Ünïcode ✓"})).await;
        app.convert(1, "Ünïcode ✓").await;
        app.drain().await;
        let arrived = endpoint.arrived().remove(0);
        assert_eq!(verify(&standard, TEXT_SECRET, &arrived).await, ALL);

        assert_eq!(verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "another secret", &arrived).await, NONE);
        let mut changed = arrived.clone();
        changed.body.push(b' ');
        assert_eq!(verify(&standard, TEXT_SECRET, &changed).await, NONE);
        // The body alone does not tell how old it is; the standard signature does.
        let stale = secs_ago(600, &app);
        let key = pulsehook::domain::signature::SigningSecret::parse(TEXT_SECRET).unwrap();
        let signature = key.sign_standard(arrived.header("webhook-id").unwrap(), stale, &arrived.body);
        let old = arrived.with("webhook-timestamp", &stale.to_string()).with("webhook-signature", &signature);
        assert_eq!(verify(&standard, TEXT_SECRET, &old).await, Verified { github: true, ..NONE });

        // During a rotation the old secret still verifies, and so does the new one.
        let rotated = app.post(&format!("{path}/secret/rotate"), json!({})).await.expect(200);
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        let arrived = endpoint.arrived().pop().unwrap();
        for secret in [standard.as_str(), text(&rotated["signing_secret"])] {
            let verified = verify(secret, TEXT_SECRET, &arrived).await;
            assert!(verified.python && verified.node, "{verified:?}");
        }
        app.stop().await;
    }

    async fn published_trackers_feed_it_unchanged(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start(database).await;
        app.webhook_at(&endpoint).await;
        app.goal(json!({"page_path": "/pricing"})).await;
        app.goal(json!({"event_name": "Signup", "custom_props": {"plan": "pro"}, "display_name": "Signs up"})).await;
        app.goal(json!({"page_path": "/pricing", "scroll_threshold": 50})).await;
        let page_and_signup = vec!["Signs up", "Visit /pricing"];
        // The official one reports how far somebody scrolled, too.
        let with_scroll = vec!["Scroll 50% on /pricing", "Signs up", "Visit /pricing"];
        let mut seen = 0;
        for (tracker, expected) in [("plausible-tracker", page_and_signup), ("official", with_scroll)] {
            let mut node = Command::new("node");
            node.arg(tools().join("track.mjs")).args([tracker, &app.url(""), SITE]).kill_on_drop(true);
            let output = node.output().await.unwrap();
            let answers: Value = serde_json::from_str(&succeeded(&output)).unwrap();
            assert_eq!(answers, json!(vec![(202, Value::Null); expected.len()]), "{tracker}");
            app.drain().await;
            let arrived = endpoint.arrived();
            let fresh = &arrived[std::mem::replace(&mut seen, arrived.len())..];
            let mut names: Vec<_> = fresh.iter().map(|one| text(&one.json()["data"]["goal_name"]).to_owned()).collect();
            names.sort();
            assert_eq!(names, expected, "{tracker}");
            assert_eq!(fresh[0].json()["data"]["top_sources"][0]["source"], "newsletter", "{tracker}");
        }
        app.stop().await;
    }
});

fn secs_ago(secs: i64, app: &TestApp) -> i64 {
    app.now().secs() - secs
}
