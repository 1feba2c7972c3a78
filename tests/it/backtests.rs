//! What a trigger would have done, and what it did: live beside the back-test for everything but spikes and drops, which
//! `noticing.rs` compares.

use std::time::Duration;

use pulsehook::domain::hit::{Hit, PAGEVIEW, Page};
use pulsehook::domain::ids::SiteId;
use pulsehook::domain::time::Timestamp;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::app::{SITE, Setup, TestApp, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};
use crate::support::{Database, on_both, within};

const STEP: Duration = Duration::from_secs(600);
const HALF: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
const HISTORY_STEPS: u32 = 10 * 144;

/// Where the traffic goes.
enum Feed<'a> {
    Ours,
    ClickHouse(&'a ClickHouse),
}

impl Feed<'_> {
    async fn write(&self, app: &TestApp, hits: Vec<Hit>, is_history: bool) {
        match self {
            _ if hits.is_empty() => {}
            Self::Ours if is_history => app.analytics.import(hits).await.unwrap(),
            Self::Ours => app.analytics.record(hits).await.unwrap(),
            Self::ClickHouse(clickhouse) => {
                let row = |hit: &Hit| Row {
                    site: hit.site_id.0,
                    at: hit.at,
                    visitor: hit.visitor,
                    name: if hit.name == PAGEVIEW { PAGEVIEW } else { "Signup" },
                    path: if hit.page.pathname == "/" { "/" } else { "/pricing" },
                    ..Row::default()
                };
                clickhouse.insert(&hits.iter().map(row).collect::<Vec<_>>()).await;
            }
        }
    }

    /// Thirty hours; each look of the poller asks a real ClickHouse, so there it is less.
    fn steps(&self) -> usize {
        if matches!(self, Self::Ours) { 180 } else { 130 }
    }

    fn setup(&self) -> Setup {
        match self {
            Self::Ours => Setup::default(),
            Self::ClickHouse(clickhouse) => {
                Setup { settings: vec![("analytics_url", clickhouse.url())], ..Setup::default() }
            }
        }
    }
}

/// A step's visits and conversions, as chance has them.
fn hits(
    site_id: SiteId,
    at: Timestamp,
    (visits, converts): (u64, f64),
    visitor: &mut u64,
    dice: &mut ChaCha8Rng,
) -> Vec<Hit> {
    let mut all = Vec::new();
    let mut add = |name: &str, path: &str, visitor: u64| {
        let page = Page { hostname: SITE.to_owned(), pathname: path.to_owned() };
        all.push(Hit { page, ..Hit::new(site_id, at, visitor, name) });
    };
    for _ in 0..visits {
        *visitor += 1;
        add(PAGEVIEW, "/", *visitor);
        if dice.random_bool(0.3) {
            add(PAGEVIEW, "/pricing", *visitor);
        }
    }
    if visits > 0 && dice.random_bool(converts) {
        add("Signup", "/pricing", *visitor);
    }
    all
}

fn moments(of: &[Value], name: &str) -> Vec<Timestamp> {
    of.iter().filter_map(|one| one[name].as_str()?.parse().ok()).collect()
}

async fn live_and_the_back_test_agree(database: Database, feed: Feed<'_>, seed: u64) {
    let app = TestApp::start_with(database, feed.setup()).await;
    let site = app.site().await;
    let site_id = SiteId(text(&site["id"]).parse().unwrap());
    let goal = app.goal(json!({"event_name": "Signup"})).await;
    app.goal(json!({"page_path": "/pricing"})).await;
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let (began, mut visitor) = (app.now(), 0);
    let mut history = Vec::new();
    for step in (1..=HISTORY_STEPS).rev() {
        let visits = dice.random_range(1..6);
        history.extend(hits(site_id, began - STEP * step + SECOND, (visits, 0.6), &mut visitor, &mut dice));
    }
    feed.write(&app, history, true).await;
    let compared = [
        json!({"type": "no_data", "notify_end": true}),
        json!({"type": "goal_stalled", "goal_id": goal["id"], "notify_end": true}),
        json!({"type": "milestone", "metric": "visitors", "list": [50, 200, 350]}),
        json!({"type": "milestone", "metric": "pageviews", "period": "week", "step": 250}),
        json!({"type": "milestone", "metric": "conversions", "step": 40}),
        json!({"type": "goal_completion", "goal_id": goal["id"]}),
        json!({"type": "goal_completion", "batch": "25m"}),
        json!({"type": "goal_completion", "goal_id": goal["id"], "batch": 7}),
        json!({"type": "custom_event", "event_name": "Signup", "page": "/pri*"}),
    ];
    let mut endpoints = Vec::new();
    for settings in &compared {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        app.webhook(&endpoint.url(), json!([settings])).await;
        endpoints.push(endpoint);
    }
    app.drain().await;
    let silent = dice.random_range(20..40);
    let stalls = dice.random_range(70..90);
    for step in 0..feed.steps() {
        let visits = if (silent..silent + 15).contains(&step) { 0 } else { dice.random_range(1..6) };
        let converts = if (stalls..stalls + 60).contains(&step) { 0.0 } else { 0.6 };
        app.advance(SECOND);
        let new = hits(site_id, app.now(), (visits, converts), &mut visitor, &mut dice);
        feed.write(&app, new, false).await;
        app.advance(SECOND);
        app.drain().await;
        app.advance(HALF);
        app.drain().await;
        app.advance(STEP - HALF - 2 * SECOND);
    }
    assert_eq!(app.now(), began + STEP * u32::try_from(feed.steps()).unwrap());
    for (settings, endpoint) in compared.iter().zip(&endpoints) {
        let mut body = settings.clone();
        body["from"] = json!(began.to_string());
        let answer = app.post(&format!("/api/sites/{SITE}/triggers/backtest"), body).await.expect(200);
        let firings = answer["firings"].as_array().unwrap();
        let kind = text(&settings["type"]);
        let events: Vec<_> = endpoint.arrived().iter().map(Arrived::json).collect();
        let of_type =
            |kind: &str| events.iter().filter(|event| event["event_type"] == kind).cloned().collect::<Vec<_>>();
        let mut live = of_type(kind);
        live.sort_by_key(|event| text(&event["timestamp"]).parse::<Timestamp>().unwrap());
        assert!(!live.is_empty(), "seed {seed}: {settings} never fired");
        assert_eq!(
            live.len(),
            firings.len(),
            "seed {seed}, {settings}: {live:#?} live and {firings:#?} in the back-test"
        );
        assert_eq!(answer["firings_total"], live.len());
        let late = match kind {
            "milestone" => HALF,
            "no_data" | "goal_stalled" => STEP,
            _ => HALF + 2 * SECOND,
        };
        for (live, would) in moments(&live, "timestamp").iter().zip(moments(firings, "timestamp")) {
            assert!(*live >= would && live.since(would) <= late, "seed {seed}, {settings}: {live} live, {would}");
        }
        let ended: Vec<_> = of_type(&format!("{kind}_ended")).iter().map(|event| event["data"].clone()).collect();
        assert_eq!(moments(&ended, "ended_at"), moments(firings, "ended_at"), "seed {seed}, {settings}");
        let mut counts: Vec<_> = live.iter().map(|event| event["data"]["count"].clone()).collect();
        let mut observed: Vec<_> = firings.iter().map(|firing| firing["observed"].clone()).collect();
        if kind == "goal_completion" {
            // Of two goals that are told at the same moment.
            counts.sort_by_key(Value::as_u64);
            observed.sort_by_key(Value::as_u64);
        }
        match kind {
            "no_data" | "goal_stalled" => assert!(observed.iter().all(|count| *count == 0)),
            _ => assert_eq!(counts, observed, "seed {seed}, {settings}"),
        }
    }
    app.stop().await;
}

/// `SEED=123` has it try the days of that number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_does_what_the_back_test_says() {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let days = live_and_the_back_test_agree(Database::sqlite(), Feed::Ours, seed.unwrap_or(11));
    within(Duration::from_secs(400), Box::pin(days)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_does_what_the_back_test_says_on_other_days() {
    let days = live_and_the_back_test_agree(Database::postgres().await, Feed::Ours, 12);
    within(Duration::from_secs(400), Box::pin(days)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_does_what_the_back_test_says_in_clickhouse() {
    within(Duration::from_secs(900), async {
        let clickhouse = ClickHouse::empty().await;
        Box::pin(live_and_the_back_test_agree(Database::sqlite(), Feed::ClickHouse(&clickhouse), 13)).await;
    })
    .await;
}

on_both!({
    async fn a_back_test_of_what_is_counted_has_filters_and_says_what_it_cannot(database: Database) {
        let app = TestApp::start(database).await;
        let site = app.site().await;
        let site_id = SiteId(text(&site["id"]).parse().unwrap());
        let goal = app.goal(json!({"event_name": "Signup", "custom_props": {"plan": "pro"}})).await;
        let path = format!("/api/sites/{SITE}/triggers/backtest");
        let hit = |minutes: u32, visitor, path: &str, plan: &str| {
            let page = Page { hostname: SITE.to_owned(), pathname: path.to_owned() };
            let mut hit = Hit { page, ..Hit::new(site_id, app.now() - 60 * SECOND * minutes, visitor, "Signup") };
            hit.props = vec![("plan".to_owned(), plan.to_owned())];
            hit
        };
        let hits = vec![
            hit(300, 1, "/a", "pro"),
            hit(300, 2, "/a", "pro"),
            hit(200, 3, "/b", "pro"),
            hit(100, 4, "/a", "free"),
        ];
        app.analytics.import(hits).await.unwrap();
        let observed = async |body: Value| -> Vec<u64> {
            let answer = app.post(&path, body).await.expect(200);
            answer["firings"].as_array().unwrap().iter().map(|firing| firing["observed"].as_u64().unwrap()).collect()
        };
        assert_eq!(observed(json!({"type": "goal_completion", "goal_id": goal["id"], "days": 1})).await, [2, 1]);
        assert_eq!(observed(json!({"type": "goal_completion", "page": "/a", "days": 1})).await, [2]);
        assert_eq!(observed(json!({"type": "custom_event", "event_name": "Signup", "days": 1})).await, [2, 1, 1]);
        let free = json!({"type": "custom_event", "event_name": "Signup", "properties": {"plan": "free"}, "days": 1});
        assert_eq!(observed(free).await, [1]);
        let batch = json!({"type": "custom_event", "event_name": "Signup", "batch": 4, "days": 1});
        let answer = app.post(&path, batch).await.expect(200);
        assert_eq!(answer["firings"][0]["reason"], "\"Signup\" happened 4 times within 3 hours.");
        assert_eq!(answer["windows"], 288);
        let conversions = json!({"type": "milestone", "metric": "conversions", "step": 3, "period": "month"});
        assert_eq!(observed(conversions).await, [3]);
        assert_eq!(observed(json!({"type": "no_data"})).await, [0; 0], "four hits are no habit");
        for (body, sentence) in [
            (json!({"type": "error_condition"}), "does not say what else went wrong"),
            (json!({"type": "webhook_health"}), "does not say what else went wrong"),
        ] {
            let answer = app.post(&path, body).await;
            assert_eq!(answer.status, 422);
            assert!(answer.text().contains(sentence), "{}", answer.text());
        }
        app.stop().await;
    }
});
