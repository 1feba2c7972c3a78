//! What noticing costs: to try a trigger on the past, to learn what is usual and judge by it, and to look for what no hit shows.
//!
//! Back-tests of ninety days are asked of the API for one site whose hits are in the file of the embedded store, so that
//! reading them is part of it: each type once before it is measured. A year of many sites is counts alone, without a
//! database. Learning and judging are the pure functions that the evaluator calls for each site and window. The looks at
//! what no hit shows are those of a server that has been started over many sites with a trigger each: the first of them
//! learns what is usual for all, the ones after it are what stays.

use std::time::Duration;

use anyhow::Context as _;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use sqlx::Connection as _;

use super::customers::{Customers, PLACE, execute};
use super::home::Home;
use super::report::{Figure, Kind, Target};
use super::served::{Launch, Served};
use super::stage::{Plan, set_up};
use super::{World, usage};
use crate::analytics::sqlite::Embedded;
use crate::domain::backtest;
use crate::domain::baseline::{Direction, Profile, WINDOW, WindowCount};
use crate::domain::decide::{ChangeState, Observation, Verdict, decide};
use crate::domain::filter::Filters;
use crate::domain::hit::{Hit, PAGEVIEW, Page};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Batch, GoalCompletion, Settings, VisitorChange};

const SITE: &str = "example.com";
const DAY: Duration = Duration::from_secs(86_400);
const WINDOWS_A_DAY: u32 = 288;
/// Ninety days, and what is learned from before them.
const KEPT_DAYS: u32 = 90 + 56;
/// Days a site has been learned from before its cost is measured: then it has all that it will ever have.
const LEARNED_DAYS: u32 = 2;
/// Windows of each site that are measured.
const MEASURED: u32 = 12;
/// A day of these is enough for a site to have a habit.
const HITS_OF_QUIET_SITE: i64 = 48;
/// Looks after the first that are measured.
const LOOKS: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(600);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// Hits of one call.
const AT_ONCE: usize = 2_000;

/// Back-tests, learning and judging, and looks at what no hit shows: time and memory
#[derive(Debug, clap::Args)]
pub struct Noticing {
    /// Sites that are learned and looked at
    #[arg(long, default_value_t = 10_000)]
    sites: u32,
    /// Pageviews a day of the site whose ninety days are tried
    #[arg(long, default_value_t = 2_000)]
    visits: u32,
    /// Sites whose year of counts is tried
    #[arg(long, default_value_t = 100)]
    years: u32,
    /// Batches that are due at the same look
    #[arg(long, default_value_t = 5_000)]
    batches: u32,
}

impl Noticing {
    /// On one database only, but for the batches: hits are in the analytics database, whichever the queue is in.
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let Self { sites, visits, years, batches } = self;
        let about = format!(
            "90 days of a site with {visits} pageviews a day over the API, a year of {years} sites of counts; windows and looks \
             of {sites} sites"
        );
        let mut figure = Figure::new("noticing", None, about);
        for _ in world.runs("noticing", None) {
            self.learn_and_judge(world, &mut figure)?;
            self.years(world, &mut figure)?;
            self.back_tests(world, &mut figure).await?;
            self.looks(world, &mut figure).await?;
        }
        for kind in ["visitor_spike", "goal_completion", "goal_stalled", "milestone", "no_data"] {
            figure.target(&format!("{kind}_90_days_ms"), Target::AtMost(200.0));
        }
        figure.target("years_seconds", Target::AtMost(10.0));
        figure.target("learn_us_per_site", Target::AtMost(10.0));
        figure.target("judge_us_per_site", Target::AtMost(10.0));
        world.show(&figure);
        for kind in world.databases() {
            let about = format!("one look that tells {batches} batches of as many triggers");
            let mut figure = Figure::new("batches", Some(kind), about);
            for _ in world.runs("batches", Some(kind)) {
                self.batches(world, kind, &mut figure).await?;
            }
            figure.target("look_ms", Target::AtMost(10_000.0));
            world.show(&figure);
        }
        Ok(())
    }

    /// A step of every site: its window is judged and learned. Then what a look makes of the one that is open.
    fn learn_and_judge(&self, world: &World, figure: &mut Figure) -> anyhow::Result<()> {
        let change = default_spike()?;
        let began = beginning(world);
        let pid = std::process::id();
        let before = usage::resident_mib(pid);
        let mut profiles: Vec<_> = (0..self.sites).map(|_| Profile::new(began)).collect();
        for window in 0..LEARNED_DAYS * WINDOWS_A_DAY {
            for (site, profile) in (0..).zip(&mut profiles) {
                profile.step(count(began, site, window), &TimeZone::UTC);
            }
        }
        let after = usage::resident_mib(pid);
        let steps = f64::from(self.sites) * f64::from(MEASURED);
        let start = world.clock.monotonic();
        for window in 0..MEASURED {
            for (site, profile) in (0..).zip(&mut profiles) {
                profile.step(count(began, site, LEARNED_DAYS * WINDOWS_A_DAY + window), &TimeZone::UTC);
            }
        }
        let learned = world.clock.monotonic();
        let mut fired = 0_u64;
        for visitors in 0..MEASURED {
            for profile in &profiles {
                let look = profile.peek(visitors, &TimeZone::UTC);
                let observation = Observation { current: visitors, previous: 0, look };
                let now = profile.until + WINDOW;
                let (verdict, _) = decide(Direction::Rise, &change, ChangeState::default(), &observation, now);
                fired += u64::from(verdict != Verdict::Quiet);
            }
        }
        let judged = world.clock.monotonic();
        world.progress(&format!("  {fired} of {steps} looks would have fired"));
        figure.add("learn_us_per_site", micros(learned - start) / steps);
        figure.add("judge_us_per_site", micros(judged - learned) / steps);
        if let (Some(before), Some(after)) = (before, after) {
            figure.add("profile_kib_per_site", (after - before).max(0.0) * 1_024.0 / f64::from(self.sites));
        }
        Ok(())
    }

    fn years(&self, world: &World, figure: &mut Figure) -> anyhow::Result<()> {
        let change = default_spike()?;
        let began = beginning(world);
        let start = world.clock.monotonic();
        let mut firings = 0;
        for site in 0..self.years {
            let windows = (0..365 * WINDOWS_A_DAY).map(|window| count(began, site, window));
            firings += backtest::run(Direction::Rise, &change, windows, &TimeZone::UTC, began).firings.len();
        }
        let took = world.clock.monotonic() - start;
        world.progress(&format!("  {firings} firings in {} years", self.years));
        figure.add("years_seconds", took.as_secs_f64());
        Ok(())
    }

    async fn back_tests(&self, world: &World, figure: &mut Figure) -> anyhow::Result<()> {
        let home = Home::new(world, Kind::Sqlite).await?;
        let served = home.serve(world, &Launch::default()).await?;
        set_up(&served, &[Plan::silent(&home.account, SITE, Vec::new())]).await?;
        let goal = json!({"event_name": "Signup"});
        let goal = served.api.post(&home.account, &format!("/api/sites/{SITE}/goals"), &goal).await?;
        let goal_id = goal["goal"]["id"].clone();
        served.stop().await?;
        let mut connection = home.database.open_file().await?;
        let site: i64 = sqlx::query_scalar("SELECT min(id) FROM sites").fetch_one(&mut connection).await?;
        connection.close().await?;
        let analytics = Embedded::open(&home.folder.path().join("analytics.db")).await?;
        self.import(world, &analytics, SiteId(site)).await?;
        analytics.close().await;
        let served = home.serve(world, &Launch::default()).await?;
        for (kind, settings) in [
            ("visitor_spike", json!({})),
            ("goal_completion", json!({"goal_id": goal_id, "batch": "15m"})),
            ("goal_stalled", json!({"goal_id": goal_id})),
            ("milestone", json!({"metric": "visitors", "step": 1_000, "period": "week"})),
            ("no_data", json!({"after": "30m"})),
        ] {
            let mut body: Map<String, Value> = settings.as_object().cloned().unwrap_or_default();
            body.insert("type".to_owned(), kind.into());
            body.insert("days".to_owned(), 90.into());
            let (path, body) = (format!("/api/sites/{SITE}/triggers/backtest"), Value::Object(body));
            served.api.post(&home.account, &path, &body).await?;
            let start = world.clock.monotonic();
            let answer = served.api.post(&home.account, &path, &body).await?;
            let took = world.clock.monotonic() - start;
            world.progress(&format!("  {kind}: {} firings in {} windows", answer["firings_total"], answer["windows"]));
            figure.add(format!("{kind}_90_days_ms"), took.as_secs_f64() * 1e3);
        }
        served.kill().await?;
        home.discard().await
    }

    /// So many pageviews a day, more by day than by night, and a conversion for every twentieth.
    async fn import(&self, world: &World, analytics: &Embedded, site_id: SiteId) -> anyhow::Result<()> {
        let now = world.clock.now();
        let mut hits = Vec::with_capacity(AT_ONCE + 1);
        for day in 1..=KEPT_DAYS {
            let began = now - DAY * day;
            for number in 0..self.visits {
                // Squeezed towards the end of the day.
                let part = f64::from(number) / f64::from(self.visits.max(1));
                let at = began + DAY.mul_f64(part.sqrt());
                let visitor = u64::from(day) << 32 | u64::from(number / 2);
                hits.push(hit(site_id, at, PAGEVIEW, visitor));
                if number % 20 == 0 {
                    hits.push(hit(site_id, at, "Signup", visitor));
                }
                if hits.len() >= AT_ONCE {
                    analytics.import(std::mem::take(&mut hits)).await?;
                }
            }
        }
        Ok(analytics.import(hits).await?)
    }

    async fn looks(&self, world: &World, figure: &mut Figure) -> anyhow::Result<()> {
        let home = Home::new(world, Kind::Sqlite).await?;
        let settings = Settings::parse(json!({"type": "no_data"}).as_object().context("an object")?);
        let settings = settings.map_err(|invalid| anyhow::anyhow!("{invalid}"))?;
        let url = "https://example.com/".to_owned();
        let customers = Customers { sites: self.sites.into(), triggers: 1, settings, url };
        let first_site = customers.write(world, &home).await?;
        let analytics = Embedded::open(&home.folder.path().join("analytics.db")).await?;
        let now = world.clock.now();
        for hours in 1..=HITS_OF_QUIET_SITE {
            let at = now - Duration::from_secs(2 * 3_600) * u32::try_from(hours)?;
            let visits = (0..i64::from(self.sites)).map(|site| {
                let site_id = SiteId(first_site + site);
                hit(site_id, at, PAGEVIEW, site.unsigned_abs() << 16 | hours.unsigned_abs())
            });
            let visits: Vec<_> = visits.collect();
            for visits in visits.chunks(AT_ONCE) {
                analytics.import(visits.to_vec()).await?;
            }
        }
        analytics.close().await;
        let served = home.serve(world, &Launch::default()).await?;
        let first = looks(world, &served, 1.0).await?;
        let idle = served.resident_mib()?;
        let all = looks(world, &served, 1.0 + LOOKS).await?;
        figure.add("first_look_ms", first.seconds / first.looks * 1e3);
        figure.add("look_ms", (all.seconds - first.seconds) / (all.looks - first.looks) * 1e3);
        figure.add("server_mib", idle);
        served.kill().await?;
        home.discard().await
    }

    /// Batches of one trigger each, gathered an hour ago and due since. The first look of a server that is started tells them.
    async fn batches(&self, world: &World, kind: Kind, figure: &mut Figure) -> anyhow::Result<()> {
        let home = Home::new(world, kind).await?;
        let settings = GoalCompletion {
            goal_id: Some(PLACE),
            batch: Some(Batch::Every(Duration::from_secs(900))),
            filters: Filters::default(),
            // What is recorded is enough: to send it is another figure.
            shadow: true,
        };
        let settings = Settings::GoalCompletion(settings);
        let sites = i64::from(self.batches);
        let customers = Customers { sites, triggers: 1, settings, url: "https://example.com/".to_owned() };
        customers.write(world, &home).await?;
        let hour_ago = world.clock.now() - Duration::from_secs(3_600);
        let part = json!({
            "count": 1, "first_at": hour_ago, "last_at": hour_ago, "pages": {"/": 1}, "sources": {"": 1},
            "properties": {},
        });
        let gathered = format!(
            "INSERT INTO gathered (trigger_id, goal_id, moment, count, part, inserted_at)
            SELECT triggers.id, goals.id, 'bench', 1, '{part}', {}
            FROM triggers JOIN goals ON goals.site_id = triggers.site_id",
            hour_ago.micros()
        );
        execute(&home, vec![gathered]).await?;
        home.database.calm_down().await?;
        let served = home.serve(world, &Launch::default()).await?;
        let first = looks(world, &served, 1.0).await?;
        figure.add("look_ms", first.seconds / first.looks * 1e3);
        figure.add("told", first.told);
        served.kill().await?;
        home.discard().await
    }
}

/// Looks the server has had at what no hit shows, and seconds they took.
struct Looks {
    looks: f64,
    seconds: f64,
    /// Events of completions that were recorded and not sent.
    told: f64,
}

/// What they came to when there were so many.
async fn looks(world: &World, served: &Served, enough: f64) -> anyhow::Result<Looks> {
    let began = world.clock.monotonic();
    loop {
        let metrics = served.metrics().await?;
        let value = |name| metrics.value(name);
        let (looks, seconds) = (value("pulsehook_lookout_seconds_count")?, value("pulsehook_lookout_seconds_sum")?);
        let told = value("pulsehook_events_fired_total{type=\"goal_completion\",shadow=\"true\"}")?;
        if looks >= enough {
            return Ok(Looks { looks, seconds, told });
        }
        anyhow::ensure!(world.clock.monotonic() - began < PATIENCE, "the server does not look");
        world.clock.sleep(BETWEEN_LOOKS).await;
    }
}

fn default_spike() -> anyhow::Result<VisitorChange> {
    let settings = Settings::parse(json!({"type": "visitor_spike"}).as_object().context("an object")?);
    match settings.map_err(|invalid| anyhow::anyhow!("{invalid}"))? {
        Settings::VisitorSpike(change) => Ok(change),
        _ => anyhow::bail!("a spike is a spike"),
    }
}

/// A midnight a good year ago.
fn beginning(world: &World) -> Timestamp {
    let day = i64::try_from(DAY.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_secs((world.clock.now() - DAY * 366).secs().div_euclid(day) * day)
}

/// Visitors of a window: by day more than by night, each site by itself.
fn count(began: Timestamp, site: u32, window: u32) -> WindowCount {
    let noise = (site.wrapping_mul(2_654_435_761) ^ window.wrapping_mul(2_246_822_519)) >> 16;
    let by_day = if (84..252).contains(&(window % WINDOWS_A_DAY)) { 3 } else { 1 };
    WindowCount { start: began + WINDOW * window, visitors: by_day * (2 + site % 9) + noise % 7 }
}

fn hit(site_id: SiteId, at: Timestamp, name: &str, visitor: u64) -> Hit {
    let page = Page { hostname: SITE.to_owned(), pathname: format!("/page/{}", visitor % 50) };
    Hit { page, ..Hit::new(site_id, at, visitor, name) }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}
