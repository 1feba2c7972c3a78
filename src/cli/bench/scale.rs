//! A large operator: many sites and triggers over one ClickHouse, and traffic that lands every second.
//!
//! Sites, goals, webhooks and triggers are written by SQL: the API would be asked hundreds of thousands of times. Every row
//! completes one goal that one trigger watches, so each becomes an event, or shares one with others of its step. What is
//! measured is the time from a row's being visible in ClickHouse to the POST, and what a look costs, from the first
//! statement until everything is decided, beside what ClickHouse itself takes for its statements. To record what fired comes
//! on top, and grows with what fired.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::arrivals::{Delivered, gather, millis};
use super::customers::{Customers, PLACE, goal_name};
use super::home::Home;
use super::report::{Figure, Kind, Target, percentile};
use super::served::{Launch, Served};
use super::sink::Sink;
use super::{World, clickhouse};
use crate::domain::filter::Filters;
use crate::domain::hit::{Hit, Origin, Page};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{GoalCompletion, Settings};

/// How often traffic in ClickHouse is looked at by default.
const INTERVAL: Duration = Duration::from_secs(5);
/// How much later than a look the last of what it fired may leave.
const SENT_WITHIN: Duration = Duration::from_millis(500);
/// What has not arrived by then is missing.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_START: Duration = Duration::from_secs(300);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Row visible to POST and the cost of a look, with many sites and triggers over ClickHouse
#[derive(Debug, clap::Args)]
pub struct Scale {
    /// Sites
    #[arg(long, default_value_t = 10_000)]
    sites: i64,
    /// Triggers of each site
    #[arg(long, default_value_t = 10)]
    triggers: i64,
    /// Rows that land each second
    #[arg(long, default_value_t = 1_000, value_parser = super::at_least_one())]
    rows: usize,
    /// Rows land for so long
    #[arg(long, default_value_t = 40)]
    seconds: u64,
}

/// What the server and ClickHouse have done so far.
#[derive(Debug, Clone, Copy)]
struct Looks {
    looks: f64,
    /// Seconds they took until everything was decided.
    seconds: f64,
    /// The same until everything was recorded too.
    recorded_seconds: f64,
    /// Milliseconds ClickHouse took for their statements, where it says so.
    clickhouse_ms: Option<f64>,
}

impl Scale {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let Some(server) = &world.clickhouse else {
            world.progress("scale is left out: it needs --clickhouse");
            return Ok(());
        };
        for kind in world.databases() {
            let Self { sites, triggers, rows, .. } = self;
            let about = format!("{sites} sites with {triggers} triggers each, {rows} rows a second land in ClickHouse");
            let mut figure = Figure::new("scale", Some(kind), about);
            for _ in world.runs("scale", Some(kind)) {
                let traffic = server.create_database(world).await?;
                let outcome = self.once(world, kind, &traffic, &mut figure).await;
                traffic.discard().await?;
                outcome?;
            }
            figure.target("visible_to_post_p99_ms", Target::AtMost(millis(INTERVAL + SENT_WITHIN)));
            figure.target("look_over_clickhouse", Target::AtMost(1.3));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(
        &self,
        world: &World,
        kind: Kind,
        traffic: &clickhouse::Database,
        figure: &mut Figure,
    ) -> anyhow::Result<()> {
        let sink = Sink::keeping(&world.clock, Ipv4Addr::LOCALHOST).await?;
        let home = Home::new(world, kind).await?;
        let settings = Settings::GoalCompletion(GoalCompletion {
            batch: None,
            goal_id: Some(PLACE),
            filters: Filters::default(),
            shadow: false,
        });
        let customers = Customers { sites: self.sites, triggers: self.triggers, settings, url: sink.url(0, 0) };
        let first_site = customers.write(world, &home).await?;
        let authorities_pem = sink.authority_pem.clone();
        let launch = Launch { authorities_pem, unlimited: true, analytics_url: traffic.url.clone() };
        let served = home.serve(world, &launch).await?;
        let known = Looks::first(world, &served, traffic).await?;
        figure.add("idle_mib", served.resident_mib()?);
        let expected = self.rows * usize::try_from(self.seconds)?;
        let (visible, delivered) =
            tokio::try_join!(self.land(world, traffic, first_site), gather(world, &sink, expected, PATIENCE))?;
        let lags: Vec<f64> = delivered
            .iter()
            .filter_map(|one| Some(millis(one.at.since(*visible.get(&one.first_hit_at()?.secs())?))))
            .collect();
        let counted: u64 = delivered.iter().map(Delivered::hits).sum();
        figure.add("visible_to_post_p50_ms", percentile(&lags, 50));
        figure.add("visible_to_post_p99_ms", percentile(&lags, 99));
        figure.add("missing", expected as f64 - counted as f64);
        let seen = Looks::so_far(&served, traffic).await?;
        let looks = (seen.looks - known.looks).max(1.0);
        let look_ms = (seen.seconds - known.seconds) * 1e3 / looks;
        figure.add("look_ms", look_ms);
        figure.add("recorded_ms", (seen.recorded_seconds - known.recorded_seconds) * 1e3 / looks);
        if let (Some(before), Some(after)) = (known.clickhouse_ms, seen.clickhouse_ms) {
            let own = (after - before) / looks;
            figure.add("clickhouse_ms", own);
            figure.add("look_over_clickhouse", look_ms / own);
        }
        figure.add("peak_mib", served.peak_resident_mib()?);
        served.kill().await?;
        home.discard().await
    }

    /// Rows of every second, in one insert each, as they happen. Answers when those of each second were visible.
    async fn land(
        &self,
        world: &World,
        traffic: &clickhouse::Database,
        first_site: i64,
    ) -> anyhow::Result<HashMap<i64, Timestamp>> {
        let mut visible = HashMap::new();
        let mut next = world.clock.now().floor_to_second() + Duration::from_secs(1);
        let mut number: u64 = 0;
        for _ in 0..self.seconds {
            world.clock.sleep_until(next + Duration::from_millis(500)).await;
            let mut hits = Vec::with_capacity(self.rows);
            for _ in 0..self.rows {
                number += 1;
                // Far apart one after the other, so that no two of a second are alike.
                let spread = i64::try_from(number.wrapping_mul(0x9E37_79B9) % 0x7FFF_FFFF)?;
                let site = SiteId(first_site + spread % self.sites);
                hits.push(hit(site, next, &goal_name(spread / self.sites % self.triggers), number));
            }
            traffic.insert_alone(&hits).await?;
            visible.insert(next.secs(), world.clock.now());
            next = next + Duration::from_secs(1);
        }
        Ok(visible)
    }
}

impl Looks {
    /// Waits until the server has looked for the first time: then it knows what is watched.
    async fn first(world: &World, served: &Served, traffic: &clickhouse::Database) -> anyhow::Result<Self> {
        let began = world.clock.monotonic();
        loop {
            let looks = Self::so_far(served, traffic).await?;
            if looks.looks >= 1.0 {
                return Ok(looks);
            }
            let waited = world.clock.monotonic() - began;
            anyhow::ensure!(waited < LONGEST_START, "the server does not look at the traffic");
            world.clock.sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn so_far(served: &Served, traffic: &clickhouse::Database) -> anyhow::Result<Self> {
        let metrics = served.metrics().await?;
        Ok(Self {
            looks: metrics.value("pulsehook_look_seconds_count")?,
            seconds: metrics.value("pulsehook_look_seconds_sum")?,
            recorded_seconds: metrics.value("pulsehook_evaluation_seconds_sum")?,
            clickhouse_ms: traffic.own_time_of_looks().await?,
        })
    }
}

fn hit(site_id: SiteId, at: Timestamp, name: &str, visitor: u64) -> Hit {
    Hit {
        page: Page { hostname: "example.com".to_owned(), pathname: format!("/page/{}", visitor % 50) },
        origin: Origin { source: "Hacker News".to_owned(), ..Origin::default() },
        ..Hit::new(site_id, at, visitor, name)
    }
}
