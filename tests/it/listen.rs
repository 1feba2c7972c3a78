//! `listen`: events of a site arrive at a local server while they fire, and the webhook's endpoint gets each just once.

use std::process::Stdio;

use pulsehook::domain::signature::{SigningSecret, verify_body, verify_standard};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::app::{Answer, SITE, http_client, text};
use crate::support::process::{Served, key, pulsehook};
use crate::support::zoo::{Behaviour, Endpoint};
use crate::support::{Database, on_both};

struct Listening {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Listening {
    /// Returns once it listens.
    async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut hints = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = hints.next_line().await.unwrap().expect("it listens in the end");
            if line == "Listening." {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = hints.next_line().await {} });
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    async fn line(&mut self) -> String {
        self.said.next_line().await.unwrap().expect("it goes on")
    }

    /// As with Ctrl-C.
    async fn interrupt(mut self) -> i32 {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
        self.child.wait().await.unwrap().code().expect("it ends by itself")
    }
}

on_both!({
    async fn events_are_forwarded_as_they_fire(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(500), Behaviour::status(200)]).await;
        let local = Endpoint::http([Behaviour::status(204)]).await;
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let http = http_client();
        let ask = async |url: &str, path: &str, body: Value| {
            Answer::of(http.request(Method::POST, format!("{url}{path}")).bearer_auth(&key).json(&body)).await
        };
        ask(&served.url, "/api/sites", json!({"domain": SITE})).await.expect(201);
        let body = json!({"url": endpoint.url(), "name": "Mine", "format": "cloudevents",
            "triggers": [{"type": "goal_completion"}], "retry_schedule": "1s,1s"});
        let made = ask(&served.url, &format!("/api/sites/{SITE}/webhooks"), body).await.expect(201);
        let webhook_id = text(&made["webhook"]["id"]).to_owned();
        let test = format!("/api/sites/{SITE}/webhooks/{webhook_id}/test");
        ask(&served.url, &test, json!({})).await.expect(202);
        endpoint.wait_for(1).await;

        let mut command = pulsehook(&database);
        command.env("PULSEHOOK_SERVER", &served.url).env("PULSEHOOK_KEY", &key);
        command.args(["listen", "--site", SITE, "--forward-to", &local.url(), "--json", "--print-json"]);
        let mut listening = Listening::start(command).await;
        let first: Value = serde_json::from_str(&listening.line().await).unwrap();
        let secret = SigningSecret::parse(text(&first["signing_secret"])).unwrap();
        let sent = ask(&served.url, &test, json!({})).await.expect(202);
        // What fired before may have been so a moment ago; what fires now comes for certain.
        let line = loop {
            let line: Value = serde_json::from_str(&listening.line().await).unwrap();
            if line["event_id"] == sent["delivery"]["id"] {
                break line;
            }
        };
        assert_eq!((&line["status"], &line["event_type"], &line["error"]), (&json!(204), &json!("test"), &Value::Null));
        assert_eq!((&line["payload"], &line["webhook_id"]), (&sent["delivery"]["payload"], &json!(webhook_id)));
        assert!(line["ms"].is_u64());
        let id = text(&line["event_id"]);
        let arrived = local.arrived().into_iter().find(|arrived| arrived.header("webhook-id") == Some(id)).unwrap();
        let header = |name: &str| arrived.header(name).unwrap_or_else(|| panic!("{name} is missing"));
        let at: i64 = header("webhook-timestamp").parse().unwrap();
        verify_standard(&secret, id, header("webhook-timestamp"), header("webhook-signature"), &arrived.body, at)
            .unwrap();
        verify_body(&secret, header("x-webhook-signature"), &arrived.body).unwrap();
        assert_eq!((header("x-webhook-event-id"), header("x-webhook-event-type")), (id, "test"));
        assert_eq!(header("content-type"), "application/cloudevents+json; charset=utf-8");
        assert!(header("user-agent").starts_with("Pulsehook/"));

        // While the server is away nothing can be heard; what fired then is told afterwards, once.
        let address = served.url.trim_start_matches("http://").to_owned();
        assert!(served.stop().await.success());
        let mut command = pulsehook(&database);
        command.env("PULSEHOOK_LISTEN", &address);
        let served = Served::run(command).await;
        let sent = ask(&served.url, &test, json!({})).await.expect(202);
        loop {
            let line: Value = serde_json::from_str(&listening.line().await).unwrap();
            if line["event_id"] == sent["delivery"]["id"] {
                break;
            }
        }
        let mut ids: Vec<_> =
            local.arrived().iter().map(|arrived| arrived.header("webhook-id").unwrap().to_owned()).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "nothing is forwarded twice");
        assert_eq!(listening.interrupt().await, 0);
        assert!(served.stop().await.success());
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listen_says_what_is_wrong() {
    crate::support::in_time(async {
        let database = Database::sqlite();
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let fails = async |key: &str, arguments: &[&str]| {
            let mut command = pulsehook(&database);
            command.env("PULSEHOOK_SERVER", &served.url).env("PULSEHOOK_KEY", key).arg("listen").args(arguments);
            let output = command.output().await.unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        let here = ["--site", SITE, "--forward-to", "localhost:9"];
        let (code, said) = fails(&key, &["--site", SITE, "--forward-to", "https://example.com/"]).await;
        assert!(code == 2 && said.contains("--allow-external"), "{code}: {said}");
        let (code, said) = fails(&key, &here).await;
        assert!(code == 1 && said.contains("There is nothing here, or it is not yours"), "{code}: {said}");
        let (code, said) = fails("phk_wrong", &here).await;
        assert!(code == 1 && said.contains("API key"), "{code}: {said}");
        assert!(served.stop().await.success());
    })
    .await;
}
