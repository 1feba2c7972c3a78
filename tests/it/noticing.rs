//! What is noticed: families of traffic with a known truth, and live beside the back-test.

#![expect(clippy::print_stdout, reason = "the table is what somebody runs it for")]

use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use pulsehook::domain::backtest::{self, Firing};
use pulsehook::domain::baseline::WindowCount;
use pulsehook::domain::hit::{Device, Hit, Origin, PAGEVIEW, Page};
use pulsehook::domain::ids::SiteId;
use pulsehook::domain::time::Timestamp;
use pulsehook::domain::trigger::Settings;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

const DAY: usize = 288;
/// A Monday.
const START: Timestamp = Timestamp::from_secs(1_767_571_200);

/// What a family of traffic expects of a window, and what is really unusual in it.
struct Family {
    name: &'static str,
    days: usize,
    zone: &'static str,
    kind: &'static str,
    /// Expected visitors of the window, by its number and the local hour.
    rate: fn(usize, f64) -> f64,
    /// Windows in which something unusual goes on.
    truth: &'static [(usize, usize)],
}

fn daily(hour: f64) -> f64 {
    1.0 + 0.8 * ((hour - 14.0) / 24.0 * std::f64::consts::TAU).cos()
}

fn is_weekend(window: usize) -> bool {
    window / DAY % 7 >= 5
}

const LAUNCH: (usize, usize) = (40 * DAY + 120, 41 * DAY);

const FAMILIES: &[Family] = &[
    Family { name: "flat", days: 60, zone: "UTC", kind: "visitor_spike", rate: |_, _| 20.0, truth: &[] },
    Family {
        name: "daily",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |_, hour| 30.0 * daily(hour),
        truth: &[],
    },
    Family {
        name: "weekly",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * if is_weekend(window) { 12.0 } else { 40.0 },
        truth: &[],
    },
    Family {
        name: "growing",
        days: 90,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * 10.0 * 1.02_f64.powf(window as f64 / DAY as f64),
        truth: &[],
    },
    Family {
        name: "launch step",
        days: 70,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * if window >= LAUNCH.0 { 120.0 } else { 30.0 },
        truth: &[LAUNCH],
    },
    Family {
        name: "launch day",
        days: 70,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * if (LAUNCH.0..LAUNCH.1).contains(&window) { 200.0 } else { 30.0 },
        truth: &[LAUNCH],
    },
    Family {
        name: "holiday",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * if window / DAY == 42 { 8.0 } else { 30.0 },
        truth: &[],
    },
    Family {
        name: "clock change",
        days: 120,
        zone: "Europe/Berlin",
        kind: "visitor_spike",
        rate: |_, hour| 40.0 * daily(hour),
        truth: &[],
    },
    Family {
        name: "tiny, bursts",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, _| if (40 * DAY..40 * DAY + 3).contains(&window) { 25.0 } else { 0.25 },
        truth: &[(40 * DAY, 40 * DAY + 3)],
    },
    Family {
        name: "bot flood",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| {
            daily(hour) * 30.0 + if (45 * DAY + 30..45 * DAY + 36).contains(&window) { 400.0 } else { 0.0 }
        },
        truth: &[(45 * DAY + 30, 45 * DAY + 36)],
    },
    Family {
        name: "outage",
        days: 60,
        zone: "UTC",
        kind: "visitor_drop",
        rate: |window, hour| daily(hour) * if (45 * DAY + 100..45 * DAY + 124).contains(&window) { 0.0 } else { 30.0 },
        truth: &[(45 * DAY + 100, 45 * DAY + 124)],
    },
    Family {
        name: "daily, drops",
        days: 60,
        zone: "UTC",
        kind: "visitor_drop",
        rate: |_, hour| 30.0 * daily(hour),
        truth: &[],
    },
    Family {
        name: "after an outage",
        days: 60,
        zone: "UTC",
        kind: "visitor_spike",
        rate: |window, hour| daily(hour) * if (45 * DAY..46 * DAY).contains(&window) { 0.0 } else { 30.0 },
        truth: &[],
    },
];

/// A Poisson number: by waiting times while it is small, else by its normal neighbour.
#[expect(clippy::cast_possible_truncation, reason = "counts of a window are small")]
fn poisson(dice: &mut ChaCha8Rng, rate: f64) -> u32 {
    if rate < 50.0 {
        let mut count = 0;
        let mut product: f64 = dice.random();
        while product > (-rate).exp() {
            product *= dice.random::<f64>();
            count += 1;
        }
        return count;
    }
    let (one, other): (f64, f64) = (dice.random(), dice.random());
    let normal = (-2.0 * (1.0 - one).ln()).sqrt() * (std::f64::consts::TAU * other).cos();
    (rate + rate.sqrt() * normal).round().max(0.0) as u32
}

fn traffic(family: &Family, seed: u64) -> Vec<WindowCount> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let zone = TimeZone::get(family.zone).unwrap();
    (0..family.days * DAY)
        .map(|window| {
            let start = START + Duration::from_secs(300) * u32::try_from(window).unwrap();
            let local = zone.to_datetime(start.to_jiff());
            let hour = f64::from(local.hour()) + f64::from(local.minute()) / 60.0;
            WindowCount { start, visitors: poisson(&mut dice, (family.rate)(window, hour)) }
        })
        .collect()
}

fn default_firings(family: &Family, windows: &[WindowCount]) -> Vec<Firing> {
    let settings = Settings::parse(json!({"type": family.kind}).as_object().unwrap()).unwrap();
    let (direction, change) = settings.visitor_change().unwrap();
    let zone = TimeZone::get(family.zone).unwrap();
    backtest::run(direction, change, windows.iter().copied(), &zone, START).firings
}

/// `cargo test --test it families -- --nocapture` prints the table.
#[test]
fn families_with_a_known_truth_are_told_apart() {
    const SEEDS: u64 = 4;
    println!("{:16} {:>8} {:>18} {:>22}", "family", "found", "delay in minutes", "false alarms a month");
    for family in FAMILIES {
        let (mut found, mut delay, mut false_alarms) = (0, 0, 0);
        for seed in 0..SEEDS {
            let windows = traffic(family, seed);
            let fired: Vec<_> = default_firings(family, &windows)
                .iter()
                .map(|firing| usize::try_from(firing.timestamp.since(START).as_secs() / 300).unwrap())
                .collect();
            for (first, last) in family.truth {
                if let Some(window) = fired.iter().find(|window| (*first..*last).contains(*window)) {
                    found += 1;
                    delay += (window - first) * 5;
                }
            }
            let is_true = |window: &usize| family.truth.iter().any(|(first, last)| (*first..*last).contains(window));
            false_alarms += fired.iter().filter(|window| !is_true(window)).count();
        }
        let wanted = family.truth.len() * usize::try_from(SEEDS).unwrap();
        let months = (family.days as u64 * SEEDS) as f64 / 30.0;
        let a_month = false_alarms as f64 / months;
        println!(
            "{:16} {:>8} {:>18} {a_month:>22.2}",
            family.name,
            format!("{found}/{wanted}"),
            if found == 0 { "-".to_owned() } else { format!("{:.0}", delay as f64 / found as f64) },
        );
        assert_eq!(found, wanted, "{} was missed", family.name);
        assert!(found == 0 || delay / found <= 30, "{} was told late", family.name);
        assert!(a_month <= 0.5, "{} fires on nothing, {a_month} times a month", family.name);
    }
}

#[test]
fn a_site_with_three_visitors_an_hour_never_fires_on_noise() {
    let family = Family { name: "tiny", days: 365, zone: "UTC", kind: "visitor_spike", rate: |_, _| 0.25, truth: &[] };
    for seed in 0..5 {
        let windows = traffic(&family, seed);
        assert_eq!(default_firings(&family, &windows), [], "seed {seed}");
        // Even without the least number of visitors noise alone is not enough.
        let settings =
            Settings::parse(json!({"type": "visitor_spike", "min_visitors": 1}).as_object().unwrap()).unwrap();
        let (direction, change) = settings.visitor_change().unwrap();
        let fired = backtest::run(direction, change, windows, &TimeZone::UTC, START).firings;
        assert!(fired.len() <= 2, "seed {seed}: {fired:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the counts, nothing expected is negative or endless, and learning goes on from where it was saved.
    #[test]
    fn any_counts_can_be_learned_from(counts in prop::collection::vec(0u32..1_000_000, 1..600)) {
        use pulsehook::domain::baseline::Profile;
        let mut profile = Profile::new(START);
        for (window, visitors) in counts.iter().enumerate() {
            let start = START + Duration::from_secs(300) * u32::try_from(window).unwrap();
            if let Some(look) = profile.step(WindowCount { start, visitors: *visitors }, &TimeZone::UTC) {
                prop_assert!(look.spread.is_finite() && look.spread >= 1.0);
                prop_assert!(look.spread * look.spread >= look.rise.expected.min(look.fall.expected) * 0.99);
                prop_assert!(look.rise.expected.is_finite() && look.rise.expected >= look.fall.expected);
                prop_assert!(look.rise.score.is_finite() && look.fall.score.is_finite());
            }
        }
        let saved = serde_json::to_string(&profile).unwrap();
        prop_assert!(saved.len() < 32 * 1024, "{} bytes", saved.len());
        prop_assert_eq!(serde_json::from_str::<Profile>(&saved).unwrap(), profile);
    }
}

fn visit(site_id: SiteId, at: Timestamp, visitor: u64) -> Hit {
    Hit {
        site_id,
        at,
        name: PAGEVIEW.to_owned(),
        visitor,
        session: visitor,
        page: Page { hostname: SITE.to_owned(), pathname: "/".to_owned() },
        origin: Origin::default(),
        country: String::new(),
        device: Device::default(),
        props: Vec::new(),
        interactive: true,
        scroll_depth: None,
        engagement_ms: 0,
        revenue: None,
    }
}

/// Start of the window of each event of a type that arrived.
fn windows_of(endpoint: &Endpoint, event_type: &str) -> Vec<Timestamp> {
    let arrived = endpoint.arrived();
    let of_type =
        arrived.iter().map(crate::support::zoo::Arrived::json).filter(|event| event["event_type"] == event_type);
    of_type
        .map(|event| {
            let at: Timestamp = text(&event["timestamp"]).parse().unwrap();
            Timestamp::from_secs(at.secs() - at.secs().rem_euclid(300))
        })
        .collect()
}

on_both! {
    async fn live_says_what_the_back_test_says(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let mut app = TestApp::start(database).await;
        let site = app.site().await;
        let site_id = SiteId(text(&site["id"]).parse().unwrap());
        let mut dice = ChaCha8Rng::seed_from_u64(6);
        let began = app.now();
        // Three days of history, then the trigger.
        let mut visitor = 0;
        let mut history = Vec::new();
        for window in 1..=3 * 288 {
            for _ in 0..poisson(&mut dice, 15.0) {
                visitor += 1;
                let within = Duration::from_secs(dice.random_range(0..300));
                history.push(visit(site_id, began - Duration::from_secs(300) * window + within, visitor));
            }
        }
        app.analytics.import(history).await.unwrap();
        let triggers = json!([
            {"type": "visitor_spike", "notify_end": true},
            {"type": "visitor_drop", "notify_end": true, "sensitivity": "high"},
        ]);
        app.webhook(&endpoint.url(), triggers).await;
        app.drain().await;
        // A day of traffic with surges and an outage, and restarts in the middle of them.
        for window in 0..200u32 {
            let rate = match window {
                20..24 | 60 | 61 | 150..153 => 90.0,
                100..112 => 0.0,
                _ => 15.0,
            };
            let start = began + Duration::from_secs(300) * window;
            for _ in 0..2 {
                let visits = (0..poisson(&mut dice, rate / 2.0)).map(|_| {
                    visitor += 1;
                    visit(site_id, app.now() + Duration::from_secs(1), visitor)
                });
                let visits: Vec<_> = visits.collect();
                app.analytics.record(visits).await.unwrap();
                app.advance(Duration::from_secs(2));
                app.drain().await;
                app.advance(Duration::from_secs(148));
            }
            assert_eq!(app.now(), start + Duration::from_secs(300));
            app.drain().await;
            if window == 21 || window == 60 || window == 105 || window == 130 {
                let clock = app.clock.clone();
                let key = app.key.clone();
                let database = app.stop().await;
                app = TestApp::start_at(database, crate::support::app::Setup::default(), clock).await;
                app.key = key;
                app.drain().await;
            }
        }
        for (kind, sensitivity) in [("visitor_spike", "normal"), ("visitor_drop", "high")] {
            let body = json!({
                "type": kind, "sensitivity": sensitivity, "notify_end": true, "from": began.to_string(),
            });
            let answer = app.post(&format!("/api/sites/{SITE}/triggers/backtest"), body).await.expect(200);
            let firings = answer["firings"].as_array().unwrap();
            let moments = |name: &str| firings.iter().filter_map(|firing| firing[name].as_str()?.parse().ok()).collect();
            let expected: Vec<Timestamp> = moments("timestamp");
            let live = windows_of(&endpoint, kind);
            // A drop is told when its window has closed, at the beginning of the next.
            let shift = |window: &Timestamp| if kind == "visitor_drop" { *window - Duration::from_secs(300) } else { *window };
            let live: Vec<_> = live.iter().map(shift).collect();
            assert_eq!(live, expected, "{kind}");
            assert!(!live.is_empty(), "{kind} saw nothing");
            let ended: Vec<Timestamp> = moments("ended_at");
            assert_eq!(windows_of(&endpoint, &format!("{kind}_ended")).len(), ended.len(), "{kind}");
        }
        let arrived: Vec<_> = endpoint.arrived().iter().map(crate::support::zoo::Arrived::json).collect();
        let ids: Vec<_> = arrived.iter().map(|event| text(&event["event_id"]).to_owned()).collect();
        for event in &arrived {
            let kind = text(&event["event_type"]);
            let schema = pulsehook::http::schemas::schema(kind).expect("every type has a schema");
            assert!(jsonschema::is_valid(&schema, event), "{event:#}");
            if kind.ends_with("_ended") {
                let data = &event["data"];
                assert!(ids.iter().any(|id| id == text(&data["started_event_id"])), "{data}");
                assert!(data["duration_seconds"].as_u64().unwrap() > 0, "{data}");
            }
        }
        app.stop().await;
    }

    async fn a_back_test_answers_for_the_sites_own_history(database: Database) {
        let app = TestApp::start(database).await;
        let site = app.site().await;
        let site_id = SiteId(text(&site["id"]).parse().unwrap());
        let path = format!("/api/sites/{SITE}/triggers/backtest");
        let nothing = app.post(&path, json!({"type": "visitor_spike"})).await.expect(200);
        assert_eq!((&nothing["firings"], &nothing["series"]), (&json!([]), &json!([])));
        let mut dice = ChaCha8Rng::seed_from_u64(7);
        let mut hits = Vec::new();
        for window in 1..=20 * 288u32 {
            let rate = if window == 1_000 { 120.0 } else { 10.0 };
            for visitor in 0..poisson(&mut dice, rate) {
                let at = app.now() - Duration::from_secs(300) * window + Duration::from_secs(1);
                hits.push(visit(site_id, at, u64::from(window * 1_000 + visitor)));
            }
        }
        app.analytics.import(hits).await.unwrap();
        let answer = app.post(&path, json!({"type": "visitor_spike", "days": 10})).await.expect(200);
        let surge = app.now() - Duration::from_secs(300) * 1_000;
        let [firing] = answer["firings"].as_array().unwrap().as_slice() else { panic!("{answer:#}") };
        assert_eq!(firing["timestamp"], surge.to_string());
        assert!(text(&firing["reason"]).contains("visitors in five minutes"), "{firing}");
        assert!(answer["series"].as_array().unwrap().len() <= 2_000);
        assert_eq!(answer["windows"], 10 * 288);
        assert!(answer["suggestions"][0]["threshold"].is_u64(), "{}", answer["suggestions"]);
        for (body, field) in [
            (json!({"type": "goal_completion"}), "type"),
            (json!({"type": "visitor_spike", "days": 0}), "days"),
            (json!({"type": "visitor_spike", "days": 367}), "days"),
            (json!({"type": "visitor_spike", "days": 3, "from": "2026-01-01T00:00:00Z"}), "days"),
            (json!({"type": "visitor_spike", "from": "yesterday"}), "from"),
            (json!({"type": "visitor_spike", "to": "2099-01-01T00:00:00Z"}), "to"),
            (json!({"type": "visitor_spike", "from": "2026-02-20T00:00:00Z", "to": "2026-02-19T00:00:00Z"}), "from"),
            (json!({"type": "visitor_spike", "threshold": 0}), "threshold"),
            (json!({"type": "visitor_spike", "sensitivity": "extreme"}), "sensitivity"),
            (json!({"type": "visitor_spike", "frobnicate": 1}), "frobnicate"),
        ] {
            let answer = app.post(&path, body.clone()).await;
            assert_eq!(answer.status, 422, "{body}: {}", answer.text());
            answer.complaint(field);
        }
        app.post("/api/sites/nowhere.example/triggers/backtest", json!({"type": "visitor_spike"})).await.expect(404);
        app.stop().await;
    }
}
