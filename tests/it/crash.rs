//! Killed between any two steps of the flow: after a restart every moment has exactly one event, and every event ends
//! delivered. Out of disk: it goes on by itself once there is room.

use std::collections::HashMap;

use pulsehook::analytics::sqlite::{Embedded, HitSeq};
use pulsehook::domain::time::Timestamp;
use pulsehook::store::Store;
use pulsehook::store::deliveries::Filter;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Database;
use crate::support::app::{Answer, BROWSER, SITE, http_client, text};
use crate::support::process::{Served, key};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};

const SIGNUPS: u32 = 12;
/// Visitors at which the spike fires.
const RUSH: u32 = 5;

/// What an owner set up, and how to talk to the server wherever it listens now.
struct Stage {
    database: Database,
    endpoint: Endpoint,
    http: reqwest::Client,
    key: String,
}

impl Stage {
    async fn new(database: Database) -> Self {
        let key = key(&database).await;
        // The first answer is a failure, so that a retry is among what is interrupted.
        let endpoint = Endpoint::http([500, 200].map(Behaviour::status)).await;
        Self { database, endpoint, http: http_client(), key }
    }

    async fn api(&self, served: &Served, path: &str, body: Value) -> Value {
        self.ask(served, path, body).await.expect(201)
    }

    async fn ask(&self, served: &Served, path: &str, body: Value) -> Answer {
        let request = self.http.request(Method::POST, format!("{}{path}", served.url)).bearer_auth(&self.key);
        Answer::of(request.json(&body)).await
    }

    async fn set_up(&self, served: &Served) {
        self.api(served, "/api/sites", json!({"domain": SITE})).await;
        self.api(served, &format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})).await;
        let webhook = json!({
            "url": self.endpoint.url(), "name": "Crash test", "retry_schedule": "1s,1s,1s,1s,1s,1s,1s,1s",
            "triggers": [
                {"type": "goal_completion"},
                {"type": "visitor_spike", "baseline": "fixed", "min_visitors": RUSH, "cooldown": "1h"},
            ],
        });
        self.api(served, &format!("/api/sites/{SITE}/webhooks"), webhook).await;
    }

    /// Whether it was answered 202. Nobody knows what became of one that was not.
    async fn sign_up(&self, served: &Served, visitor: u32) -> bool {
        let request = self.http.request(Method::POST, format!("{}/api/event", served.url));
        let body = json!({"n": "Signup", "u": format!("https://{SITE}/"), "d": SITE});
        let request = request.header("user-agent", BROWSER).header("x-forwarded-for", format!("203.0.113.{visitor}"));
        matches!(request.json(&body).send().await, Ok(answer) if answer.status() == 202)
    }

    async fn stored_signups(&self) -> u64 {
        let analytics = Embedded::open(&self.database.folder.path().join("analytics.db")).await.unwrap();
        let hits = analytics.hits_after(HitSeq(0), 1_000).await.unwrap();
        analytics.close().await;
        hits.len() as u64
    }
}

/// By event id: type and count, each once however often it arrived.
fn events(arrived: &[Arrived]) -> HashMap<String, (String, u64)> {
    arrived
        .iter()
        .map(|one| {
            let payload = one.json();
            let count = payload["data"]["count"].as_u64().unwrap_or(1);
            (text(&payload["event_id"]).to_owned(), (text(&payload["event_type"]).to_owned(), count))
        })
        .collect()
}

fn total(arrived: &[Arrived], event_type: &str) -> u64 {
    events(arrived).values().filter(|(kind, _)| kind == event_type).map(|(_, count)| count).sum()
}

async fn survives(database: Database, failpoint: &str) {
    let stage = Stage::new(database).await;
    let mut served = Served::start(&stage.database, Some(failpoint)).await;
    stage.set_up(&served).await;
    let mut answered = 0;
    let mut died = false;
    for visitor in 1..=SIGNUPS {
        if served.is_dead() {
            served = Served::start(&stage.database, None).await;
            died = true;
        }
        answered += u64::from(stage.sign_up(&served, visitor).await);
        if visitor == 1 {
            // The first one makes its way alone, so that the others come in later commits.
            tokio::select! {
                () = stage.endpoint.wait_for(1) => {}
                _ = served.died() => {}
            }
        }
        if visitor == SIGNUPS / 2 && !died {
            // Half of it is enough to reach any step.
            let status = served.died().await;
            assert!(!status.success(), "{status}");
        }
    }
    if served.is_dead() {
        served = Served::start(&stage.database, None).await;
    }
    let stored = stage.stored_signups().await;
    assert!(stored >= answered, "a hit that was answered 202 is gone: {stored} of {answered}");
    assert!(stored <= u64::from(SIGNUPS));
    stage
        .endpoint
        .wait_until(|arrived| {
            let delivered = events(&arrived[1..]);
            delivered.len() == events(arrived).len()
                && total(arrived, "goal_completion") >= stored
                && total(arrived, "visitor_spike") >= 1
        })
        .await;
    assert!(served.stop().await.success());

    // Nothing came twice under another name, and the record agrees with what arrived.
    let arrived = stage.endpoint.arrived();
    assert_eq!(total(&arrived, "goal_completion"), stored);
    assert_eq!(total(&arrived, "visitor_spike"), 1);
    let store = Store::open(&stage.database.url).await.unwrap();
    let account = store.find_or_create_account("Owner", Timestamp::EPOCH).await.unwrap();
    let site = store.site(account, SITE).await.unwrap().unwrap();
    let webhook = store.webhooks_of_site(account, site.id).await.unwrap().remove(0);
    let deliveries = store.deliveries(account, webhook.id, &Filter::default(), 1_000, 0).await.unwrap();
    store.close().await;
    assert_eq!(deliveries.len(), events(&arrived).len());
    for delivery in deliveries {
        assert_eq!(delivery.status, "success", "{delivery:?}");
    }
}

macro_rules! survives {
    ($($name:ident: $failpoint:literal,)*) => {
        $(
            mod $name {
                use super::*;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    crate::support::in_time(survives(Database::sqlite(), $failpoint)).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    crate::support::in_time(async { survives(Database::postgres().await, $failpoint).await }).await;
                }
            }
        )*
    };
}

survives! {
    before_a_hit_is_committed: "ingest.before_commit",
    after_a_hit_is_committed: "ingest.after_commit:2",
    before_an_event_is_committed: "evaluator.before_commit",
    after_an_event_is_committed: "evaluator.after_commit",
    before_a_later_event_is_committed: "evaluator.before_commit:2",
    before_the_request_is_sent: "dispatcher.before_send:2",
    after_the_answer_came: "dispatcher.after_send:2",
    before_an_outcome_is_committed: "settle.before_commit",
    after_an_outcome_is_committed: "settle.after_commit",
    after_a_later_outcome_is_committed: "settle.after_commit:2",
}

crate::support::on_both!({
    async fn killed_from_outside_at_any_moment(database: Database) {
        let stage = Stage::new(database).await;
        let mut served = Served::start(&stage.database, None).await;
        stage.set_up(&served).await;
        let mut answered = 0;
        for visitor in 1..=SIGNUPS {
            answered += u64::from(stage.sign_up(&served, visitor).await);
            if visitor % 4 == 0 {
                served.kill().await;
                served = Served::start(&stage.database, None).await;
            }
        }
        assert_eq!(answered, u64::from(SIGNUPS));
        stage.endpoint.wait_until(|arrived| total(arrived, "goal_completion") >= u64::from(SIGNUPS)).await;
        assert!(served.stop().await.success());
        assert_eq!(total(&stage.endpoint.arrived(), "goal_completion"), u64::from(SIGNUPS));
        assert_eq!(total(&stage.endpoint.arrived(), "visitor_spike"), 1);
    }

    async fn a_full_disk_is_told_and_outlived(database: Database) {
        let stage = Stage::new(database).await;
        let served = Served::start_on_a_small_disk(&stage.database).await;
        stage.set_up(&served).await;
        assert!(stage.sign_up(&served, 1).await);
        // A failure, and the retry that it asks for.
        stage.endpoint.wait_for(2).await;

        served.fill_the_disk().await;
        for visitor in 2..=SIGNUPS {
            assert!(!stage.sign_up(&served, visitor).await, "what is not stored is not accepted");
        }
        served.said("could not be stored and were refused").await;
        if stage.database.url.starts_with("sqlite") {
            let refused = stage.ask(&served, "/api/sites", json!({"domain": "full.example"})).await;
            assert_eq!(refused.expect(503)["code"], "unavailable");
        }

        served.empty_the_disk().await;
        stage.api(&served, "/api/sites", json!({"domain": "room.example"})).await;
        for visitor in 2..=SIGNUPS {
            assert!(stage.sign_up(&served, visitor).await);
        }
        stage.endpoint.wait_until(|arrived| total(arrived, "goal_completion") >= u64::from(SIGNUPS)).await;
        let about_hits = |line: &&str| line.contains("were refused") || line.contains("Answered 503");
        let told = served.log().lines().filter(about_hits).count();
        assert!(told < SIGNUPS as usize / 2, "a log that grows with every hit is full soon, too: {}", served.log());
        assert!(served.stop().await.success());
        assert_eq!(total(&stage.endpoint.arrived(), "goal_completion"), u64::from(SIGNUPS));
        assert_eq!(stage.stored_signups().await, u64::from(SIGNUPS));
    }

    async fn a_second_process_in_the_same_folder_does_not_disturb_the_first(database: Database) {
        let served = Served::start(&database, None).await;
        let second = crate::support::process::pulsehook(&database).arg("serve").output();
        if database.url.starts_with("sqlite") {
            let output = second.await.unwrap();
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("another pulsehook process works in"), "{said}");
        } else {
            // There it is another node.
            drop(second);
            let other = Served::start(&database, None).await;
            assert!(other.stop().await.success());
        }
        assert!(served.stop().await.success());
    }
});
