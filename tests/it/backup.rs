//! `backup`: a copy made under load has everything that was answered before it began.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Database;
use crate::support::app::{Answer, BROWSER, SITE, http_client, text};
use crate::support::process::{Served, key, pulsehook, succeeded};
use crate::support::zoo::{Behaviour, Endpoint};

/// Completions in the deliveries a server knows of.
async fn completions(http: &reqwest::Client, url: &str, key: &str, webhook: &str) -> u64 {
    let (mut sum, mut cursor) = (0, String::new());
    loop {
        let path = format!("{url}/api/sites/{SITE}/webhooks/{webhook}/deliveries?limit=100&cursor={cursor}");
        let page = Answer::of(http.get(path).bearer_auth(key)).await.expect(200);
        let deliveries = page["deliveries"].as_array().unwrap();
        sum += deliveries.iter().map(|delivery| delivery["payload"]["data"]["count"].as_u64().unwrap()).sum::<u64>();
        match page["pagination"]["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return sum,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_what_was_answered_before_it() {
    crate::support::in_time(async {
        let database = Database::sqlite();
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let http = http_client();
        let ask = async |path: &str, body: Value| {
            Answer::of(http.request(Method::POST, format!("{}{path}", served.url)).bearer_auth(&key).json(&body)).await
        };
        ask("/api/sites", json!({"domain": SITE})).await.expect(201);
        ask(&format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})).await.expect(201);
        let body = json!({"url": endpoint.url(), "name": "Mine", "generate_secret": true, "triggers": [{"type": "goal_completion"}]});
        let made = ask(&format!("/api/sites/{SITE}/webhooks"), body).await.expect(201);
        let webhook = text(&made["webhook"]["id"]).to_owned();
        let (begun, answered, over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
        let load = async || {
            while !over.load(Ordering::SeqCst) {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                let address = format!("203.0.{}.{}", number / 250 % 250, number % 250);
                let hit = json!({"n": "Signup", "u": format!("https://{SITE}/"), "d": SITE});
                let request = http.post(format!("{}/api/event", served.url)).header("user-agent", BROWSER);
                let answer = Answer::of(request.header("x-forwarded-for", address).json(&hit)).await;
                assert_eq!(answer.status, 202);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        };
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("copy");
        let backup = async || {
            while answered.load(Ordering::SeqCst) < 200 {
                tokio::task::yield_now().await;
            }
            let before = answered.load(Ordering::SeqCst);
            let output = pulsehook(&database).arg("backup").arg(&to).output().await.unwrap();
            let during = answered.load(Ordering::SeqCst) - before;
            over.store(true, Ordering::SeqCst);
            (before, during, output)
        };
        let ((before, during, output), ..) = tokio::join!(backup(), load(), load(), load(), load());
        let said = succeeded(&output);
        assert!(said.contains("pulsehook.db") && said.contains("analytics.db"), "{said}");
        let hints = String::from_utf8(output.stderr).unwrap();
        assert!(hints.contains("Not included: the master key"), "{hints}");
        assert!(during > 0, "nothing came in while it was copied");
        // A second one does not touch the first.
        let again = pulsehook(&database).arg("backup").arg(&to).output().await.unwrap();
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8(again.stderr).unwrap().contains("nothing is overwritten"));
        let mut names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["analytics.db", "pulsehook.db"]);
        assert_eq!(std::fs::read_dir(copy.path()).unwrap().count(), 1, "nothing unfinished is left");
        assert!(served.stop().await.success());

        let url = format!("sqlite://{}", to.join("pulsehook.db").display());
        let mut command = pulsehook(&Database { url, folder: tempfile::tempdir().unwrap() });
        command.env("PULSEHOOK_DATA_DIR", &to).current_dir(&to);
        let restored = Served::run(command).await;
        // What was answered and not yet noticed is noticed now.
        let mut found = 0;
        let mut found_before = None;
        while found < u64::from(before) || found_before != Some(found) {
            found_before = Some(found);
            found = completions(&http, &restored.url, &key, &webhook).await;
        }
        assert!(found <= u64::from(begun.load(Ordering::SeqCst)), "{found} completions of {begun:?} hits");
        // What comes in from here on counts, although the traffic's copy is older than the other one.
        for number in 1..=40 {
            let hit = json!({"n": "Signup", "u": format!("https://{SITE}/"), "d": SITE});
            let request = http.post(format!("{}/api/event", restored.url)).header("user-agent", BROWSER);
            let answer = Answer::of(request.header("x-forwarded-for", format!("198.51.100.{number}")).json(&hit)).await;
            assert_eq!(answer.status, 202);
        }
        while completions(&http, &restored.url, &key, &webhook).await < found + 40 {}
        // Its secret is readable, and it goes on where it was.
        let path = format!("/api/sites/{SITE}/webhooks/{webhook}/test");
        let sent = Answer::of(http.post(format!("{}{path}", restored.url)).bearer_auth(&key)).await.expect(202);
        let id = text(&sent["delivery"]["id"]).to_owned();
        endpoint.wait_until(|arrived| arrived.iter().any(|arrived| arrived.header("webhook-id") == Some(&id))).await;
        let arrived = endpoint.arrived().into_iter().find(|arrived| arrived.header("webhook-id") == Some(&id)).unwrap();
        assert!(arrived.header("webhook-signature").is_some());
        assert!(restored.stop().await.success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_on_this_machine_is_said() {
    crate::support::in_time(async {
        let database = Database::postgres().await;
        let served = Served::start(&database, None).await;
        let to = database.folder.path().join("copy");
        let output = pulsehook(&database).arg("backup").arg(&to).arg("--json").output().await.unwrap();
        let said: Value = serde_json::from_str(&succeeded(&output)).unwrap();
        assert_eq!(said["files"].as_array().unwrap().len(), 1);
        assert_eq!(said["files"][0]["name"], "analytics.db");
        assert!(text(&said["elsewhere"][0]).contains("pg_dump"), "{said}");
        assert!(served.stop().await.success());
        let mut command = pulsehook(&database);
        command.env("PULSEHOOK_ANALYTICS_URL", "clickhouse://user:secret@127.0.0.1:1/x");
        let output = command.arg("backup").arg(database.folder.path().join("other")).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("pg_dump") && said.contains("ClickHouse") && !said.contains("secret"), "{said}");
    })
    .await;
}
