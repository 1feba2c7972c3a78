//! What is noticed: families of traffic with a known truth, and live beside the back-test.

#![expect(clippy::print_stdout, reason = "the table is what somebody runs it for")]

use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use pulsehook::domain::backtest::{self, Firing};
use pulsehook::domain::baseline::WindowCount;
use pulsehook::domain::hit::{Hit, PAGEVIEW, Page};
use pulsehook::domain::ids::SiteId;
use pulsehook::domain::time::Timestamp;
use pulsehook::domain::trigger::Settings;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::support::app::{SITE, Setup, TestApp, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};
use crate::support::{Database, on_both, within};

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

/// Something that happens as often as this, in a quarter hour, and the quarter hours in which it does not.
struct Habitual {
    name: &'static str,
    rate: fn(usize, f64) -> f64,
    /// How many come at once.
    at_once: u32,
    silent: (usize, usize),
}

const QUARTERS_A_DAY: usize = 96;
/// Half of the days are learned from before anything is judged.
const HABITUAL_DAYS: usize = 56;
/// Ten in the morning of the forty-third day, a Monday.
const SILENT_FROM: usize = 42 * QUARTERS_A_DAY + 40;

const HABITUALS: &[Habitual] = &[
    Habitual { name: "steady", rate: |_, _| 3.0, at_once: 1, silent: (SILENT_FROM, SILENT_FROM + 16) },
    Habitual { name: "by day", rate: |_, hour| 2.0 * daily(hour), at_once: 1, silent: (SILENT_FROM, SILENT_FROM + 16) },
    Habitual {
        name: "office hours",
        rate: |quarter, hour| {
            let is_weekend = quarter / QUARTERS_A_DAY % 7 >= 5;
            if is_weekend || !(8.0..18.0).contains(&hour) { 0.02 } else { 4.0 }
        },
        at_once: 1,
        silent: (SILENT_FROM, SILENT_FROM + 16),
    },
    Habitual { name: "in bursts", rate: |_, _| 0.5, at_once: 6, silent: (SILENT_FROM, SILENT_FROM + 96) },
    Habitual { name: "six a day", rate: |_, _| 0.06, at_once: 1, silent: (SILENT_FROM, SILENT_FROM + 4 * 96) },
];

/// `cargo test --test it silences -- --nocapture` prints the table.
#[test]
fn silences_with_a_known_truth_are_told_apart() {
    use pulsehook::domain::baseline::Sensitivity;
    use pulsehook::domain::habit::{Habit, QUARTER, Quarters};
    const SEEDS: u64 = 4;
    println!("{:16} {:>8} {:>18} {:>22}", "family", "found", "delay in minutes", "false alarms a month");
    for family in HABITUALS {
        let (mut found, mut delay, mut false_alarms) = (0, 0, 0);
        for seed in 0..SEEDS {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let (mut quarters, mut last_at, mut told, mut habit) = (Quarters::new(), START, false, None);
            for quarter in 0..HABITUAL_DAYS * QUARTERS_A_DAY {
                let start = START + QUARTER * u32::try_from(quarter).unwrap();
                let is_silent = (family.silent.0..family.silent.1).contains(&quarter);
                let rate = (family.rate)(quarter, (quarter % QUARTERS_A_DAY) as f64 / 4.0);
                let count = if is_silent { 0 } else { poisson(&mut dice, rate) * family.at_once };
                if count > 0 {
                    quarters.insert(start, count.into());
                    (last_at, told) = (start + QUARTER / 2, false);
                }
                if quarter < HABITUAL_DAYS / 2 * QUARTERS_A_DAY {
                    continue;
                }
                if quarter % QUARTERS_A_DAY == 0 && !told {
                    habit = Habit::learn(&quarters, START, start, &TimeZone::UTC);
                }
                let Some(habit) = habit.as_ref().filter(|_| !told) else { continue };
                if habit.silence(last_at, start + QUARTER, Sensitivity::Normal, &TimeZone::UTC).speaks() {
                    told = true;
                    if is_silent {
                        found += 1;
                        delay += (quarter + 1 - family.silent.0) * 15;
                    } else {
                        false_alarms += 1;
                    }
                }
            }
        }
        let months = (HABITUAL_DAYS as u64 / 2 * SEEDS) as f64 / 30.0;
        let a_month = f64::from(false_alarms) / months;
        let told = format!("{found}/{SEEDS}");
        println!("{:16} {told:>8} {:>18} {a_month:>22.2}", family.name, delay / found.max(1));
        assert_eq!(found as u64, SEEDS, "{} was missed", family.name);
        assert!(a_month <= 2.2, "{} is told of nothing {a_month} times a month, not once in two weeks", family.name);
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
    let page = Page { hostname: SITE.to_owned(), pathname: "/".to_owned() };
    Hit { page, ..Hit::new(site_id, at, visitor, PAGEVIEW) }
}

/// The kinds of triggers that are compared, each with its settings.
const COMPARED: [(&str, &str); 3] = [
    ("visitor_spike", r#"{"type": "visitor_spike", "notify_end": true}"#),
    ("visitor_drop", r#"{"type": "visitor_drop", "notify_end": true, "sensitivity": "high"}"#),
    ("visitor_spike", r#"{"type": "visitor_spike", "notify_end": true, "page": "/blog.posts/*", "min_visitors": 5}"#),
];
const HALF_WINDOW: Duration = Duration::from_secs(150);

/// A day of traffic, as chance has it.
struct Scenario {
    windows: u32,
    rate: f64,
    /// Windows, by how much there is more of.
    surges: Vec<(std::ops::Range<u32>, f64)>,
    /// The same, on the pages of the blog alone.
    blog: Vec<(std::ops::Range<u32>, f64)>,
    outage: std::ops::Range<u32>,
    restarts: Vec<u32>,
}

impl Scenario {
    fn of(dice: &mut ChaCha8Rng) -> Self {
        let mut window = |from: u32, most: u32| {
            let start = dice.random_range(from..from + 25);
            start..start + dice.random_range(1..most + 1)
        };
        let (first, second, third) = (window(5, 4), window(105, 3), window(60, 3));
        let outage_start = 38;
        let outage = outage_start..outage_start + dice.random_range(8..13u32);
        let surges = vec![(first.clone(), dice.random_range(5.0..8.0)), (second, dice.random_range(5.0..8.0))];
        let blog = vec![(third, dice.random_range(6.0..9.0))];
        // One in the middle of a surge, one in the outage, others anywhere.
        let restarts =
            vec![first.start, outage.start + 5, dice.random_range(60..130u32), dice.random_range(60..130u32)];
        Self { windows: 140, rate: dice.random_range(12.0..25.0), surges, blog, outage, restarts }
    }

    /// Visitors of the blog and of the rest that are to be expected in a window.
    fn rates(&self, window: u32) -> (f64, f64) {
        if self.outage.contains(&window) {
            return (0.0, 0.0);
        }
        let times = |surges: &[(std::ops::Range<u32>, f64)]| {
            surges.iter().find(|(surge, _)| surge.contains(&window)).map_or(1.0, |(_, times)| *times)
        };
        let rate = self.rate * times(&self.surges);
        (rate * 0.3 * times(&self.blog), rate * 0.7)
    }
}

/// Where the traffic goes.
enum Feed<'a> {
    Ours,
    ClickHouse(&'a ClickHouse),
}

impl Feed<'_> {
    async fn write(&self, app: &TestApp, visits: Vec<Hit>, is_history: bool) {
        match self {
            Self::Ours if is_history => app.analytics.import(visits).await.unwrap(),
            Self::Ours => app.analytics.record(visits).await.unwrap(),
            Self::ClickHouse(clickhouse) if !visits.is_empty() => {
                let row = |hit: &Hit| Row {
                    site: hit.site_id.0,
                    at: hit.at,
                    visitor: hit.visitor,
                    path: if hit.page.pathname == "/" { "/" } else { "/blog.posts/one" },
                    ..Row::default()
                };
                clickhouse.insert(&visits.iter().map(row).collect::<Vec<_>>()).await;
            }
            Self::ClickHouse(_) => {}
        }
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

/// Visits of a span that chance has, none of them by anybody who was there before.
fn visits(
    site_id: SiteId,
    at: impl Fn(&mut ChaCha8Rng) -> Timestamp,
    (blog, rest): (f64, f64),
    visitor: &mut u64,
    dice: &mut ChaCha8Rng,
) -> Vec<Hit> {
    let mut all = Vec::new();
    for (path, rate) in [("/blog.posts/one", blog), ("/", rest)] {
        for _ in 0..poisson(dice, rate) {
            *visitor += 1;
            let mut hit = visit(site_id, at(dice), *visitor);
            path.clone_into(&mut hit.page.pathname);
            all.push(hit);
        }
    }
    all
}

/// Whatever a day brings, and whatever restarts lie in it: what fired live is what the back-test says, and ends as often.
async fn live_and_the_back_test_agree(database: Database, feed: Feed<'_>, seed: u64) {
    let mut app = TestApp::start_with(database, feed.setup()).await;
    let site = app.site().await;
    let site_id = SiteId(text(&site["id"]).parse().unwrap());
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let scenario = Scenario::of(&mut dice);
    let began = app.now();
    // Four days of history, then the triggers.
    let mut visitor = 0;
    let mut history = Vec::new();
    for window in 1..=4 * 288 {
        let start = began - Duration::from_secs(300) * window;
        let at = |dice: &mut ChaCha8Rng| start + Duration::from_secs(dice.random_range(0..300));
        let rates = (scenario.rate * 0.3, scenario.rate * 0.7);
        history.extend(visits(site_id, at, rates, &mut visitor, &mut dice));
    }
    feed.write(&app, history, true).await;
    let mut endpoints = Vec::new();
    for (_, settings) in COMPARED {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let settings: serde_json::Value = serde_json::from_str(settings).unwrap();
        app.webhook(&endpoint.url(), json!([settings])).await;
        endpoints.push(endpoint);
    }
    app.drain().await;
    for window in 0..scenario.windows {
        let (blog, rest) = scenario.rates(window);
        for _ in 0..2 {
            let at = app.now() + Duration::from_secs(1);
            let new = visits(site_id, |_| at, (blog / 2.0, rest / 2.0), &mut visitor, &mut dice);
            feed.write(&app, new, false).await;
            app.advance(Duration::from_secs(2));
            app.drain().await;
            app.advance(HALF_WINDOW - Duration::from_secs(2));
        }
        assert_eq!(app.now(), began + Duration::from_secs(300) * (window + 1));
        app.drain().await;
        if scenario.restarts.contains(&window) {
            let (clock, key) = (app.clock.clone(), app.key.clone());
            app = TestApp::start_at(app.stop().await, feed.setup(), clock).await;
            app.key = key;
            app.drain().await;
        }
    }
    // What closed last is learned a while after.
    app.advance(Duration::from_secs(20));
    app.drain().await;
    let mut all = Vec::new();
    for ((kind, settings), endpoint) in COMPARED.iter().zip(&endpoints) {
        let mut body: serde_json::Value = serde_json::from_str(settings).unwrap();
        body["from"] = json!(began.to_string());
        let answer = app.post(&format!("/api/sites/{SITE}/triggers/backtest"), body).await.expect(200);
        let firings = answer["firings"].as_array().unwrap();
        let moments = |name: &str| firings.iter().filter_map(|firing| firing[name].as_str()?.parse().ok()).collect();
        let expected: Vec<Timestamp> = moments("timestamp");
        let arrived: Vec<_> = endpoint.arrived().iter().map(Arrived::json).collect();
        let of_type = |event_type: &str| -> Vec<Timestamp> {
            let of_type = arrived.iter().filter(|event| event["event_type"] == event_type);
            of_type.map(|event| text(&event["timestamp"]).parse().unwrap()).collect()
        };
        let live = of_type(kind);
        assert_eq!(
            live.len(),
            expected.len(),
            "seed {seed}, {settings}: {live:?} live and {expected:?} in the back-test"
        );
        for (live, window) in live.iter().zip(&expected) {
            // A rise is told while its window is open, where that can be seen; a drop when it has closed, and what rows
            // that land late show a while later.
            let (from, until) = match (&feed, *kind) {
                (Feed::Ours, "visitor_spike") => (0, 300),
                (Feed::Ours, _) => (300, 301),
                (Feed::ClickHouse(_), _) => (0, 600),
            };
            let after = live.since(*window).as_secs();
            assert!(live >= window && (from..until).contains(&after), "seed {seed}, {settings}: {live} for {window}");
        }
        let ended: Vec<Timestamp> = moments("ended_at");
        assert_eq!(of_type(&format!("{kind}_ended")).len(), ended.len(), "seed {seed}, {settings}");
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
        all.push(live.len());
    }
    assert!(all.iter().all(|fired| *fired > 0), "seed {seed}: {all:?}");
    app.stop().await;
}

/// `SEED=123` has it try the day of that number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_says_what_the_back_test_says_on_another_day() {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let another_day = live_and_the_back_test_agree(Database::sqlite(), Feed::Ours, seed.unwrap_or(7));
    within(Duration::from_secs(180), Box::pin(another_day)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_says_what_the_back_test_says_on_a_third_day() {
    let third_day = live_and_the_back_test_agree(Database::postgres().await, Feed::Ours, 8);
    within(Duration::from_secs(180), Box::pin(third_day)).await;
}

/// Each look of the poller asks a real ClickHouse, so a day takes a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_says_what_the_back_test_says_in_clickhouse() {
    within(Duration::from_secs(400), async {
        let clickhouse = ClickHouse::empty().await;
        Box::pin(live_and_the_back_test_agree(Database::sqlite(), Feed::ClickHouse(&clickhouse), 9)).await;
    })
    .await;
}

on_both!({
    async fn live_says_what_the_back_test_says(database: Database) {
        live_and_the_back_test_agree(database, Feed::Ours, 6).await;
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
            (json!({"type": "error_condition"}), "type"),
            (json!({"type": "webhook_health"}), "type"),
            (json!({"type": "goal_stalled", "goal_id": "999"}), "goal_id"),
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
});
