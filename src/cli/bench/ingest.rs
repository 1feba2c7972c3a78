//! Hits on disk a second, beside the same server answering hits it does not store; and with `--clickhouse` hits that arrive
//! there a second, beside what ClickHouse's driver brings there alone.

use std::time::Duration;

use tokio::task::JoinSet;

use super::World;
use super::clickhouse::{Database, Server};
use super::home::{Folder, Home};
use super::report::{Figure, Kind, Target};
use super::served::{Launch, Served};
use super::stage::{Plan, set_up};
use super::trackers::{Http, Tracked, all, flood, http};
use crate::analytics::clickhouse::{ClickHouse, Mode};
use crate::domain::hit::{Device, Hit, Origin, PAGEVIEW, Page};
use crate::domain::ids::{NodeId, SiteId};

const SITE: &str = "example.com";
const CONNECTIONS: usize = 64;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Hits of one call, where there is no HTTP: events of several sites, or an answer to a busy moment.
const AT_ONCE: usize = 100;
/// More than any run has.
const SPILL_LIMIT: u64 = 8 << 30;

/// Tracked events on disk a second, and ÷ answered but not stored; with --clickhouse those that arrive there too
#[derive(Debug, clap::Args)]
pub struct Ingest {
    /// Events of each kind
    #[arg(long, default_value_t = 20_000, value_parser = super::at_least_one())]
    count: usize,
    /// Events that go to ClickHouse without HTTP, through our writer and through the driver alone
    #[arg(long, default_value_t = 200_000, value_parser = super::at_least_one())]
    rows: usize,
}

impl Ingest {
    /// On one database only: hits go to the analytics database, whichever the queue is in.
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        self.embedded(world).await?;
        match &world.clickhouse {
            Some(server) => self.clickhouse(world, server).await,
            None => Ok(()),
        }
    }

    async fn embedded(&self, world: &World) -> anyhow::Result<()> {
        let about =
            format!("{} events over {CONNECTIONS} connections; ratio: stored ÷ answered, not stored", self.count);
        let mut figure = Figure::new("ingest", None, about);
        let home = Home::new(world, Kind::Sqlite).await?;
        let served = home.serve(world, &Launch::default()).await?;
        set_up(&served, &[Plan::silent(&home.account, SITE, Vec::new())]).await?;
        let (http, stored, unknown) = (http(), Tracked::pageview(SITE), Tracked::pageview("unknown.example"));
        // Caches and connections.
        post(world, &http, &served, &stored, self.count / 4 + 1).await?;
        for _ in world.runs("ingest", None) {
            let stored = post(world, &http, &served, &stored, self.count).await?;
            let answered = post(world, &http, &served, &unknown, self.count).await?;
            figure.add("stored_per_second", stored);
            figure.add("answered_per_second", answered);
            figure.add("ratio", stored / answered);
            figure.add("resident_mib", served.resident_mib()?);
        }
        figure.target("ratio", Target::AtLeast(0.5));
        served.stop().await?;
        home.discard().await?;
        world.show(&figure);
        Ok(())
    }

    async fn clickhouse(&self, world: &World, server: &Server) -> anyhow::Result<()> {
        let about = format!(
            "{} events over {CONNECTIONS} connections, {} without HTTP; ratio: our writer ÷ the driver alone",
            self.count, self.rows
        );
        let mut figure = Figure::new("ingest_clickhouse", None, about);
        let database = server.create_database(world).await?;
        let home = Home::new(world, Kind::Sqlite).await?;
        let launch = Launch { analytics_url: database.url.clone(), ..Launch::default() };
        let served = home.serve(world, &launch).await?;
        set_up(&served, &[Plan::silent(&home.account, SITE, Vec::new())]).await?;
        let (http, stored, unknown) = (http(), Tracked::pageview(SITE), Tracked::pageview("unknown.example"));
        let hits: Vec<_> = (0..self.rows).map(|number| hit(world, number)).collect();
        post(world, &http, &served, &stored, self.count / 4 + 1).await?;
        arrived(world, &database, (self.count / 4 + 1) as u64).await?;
        for _ in world.runs("ingest_clickhouse", None) {
            let before = database.rows().await?;
            let began = world.clock.monotonic();
            let acknowledged = post(world, &http, &served, &stored, self.count).await?;
            arrived(world, &database, before + self.count as u64).await?;
            let seconds = (world.clock.monotonic() - began).as_secs_f64();
            let answered = post(world, &http, &served, &unknown, self.count).await?;
            figure.add("acknowledged_per_second", acknowledged);
            figure.add("arrived_per_second", self.count as f64 / seconds);
            figure.add("answered_per_second", answered);
            figure.add("acknowledged_to_answered_ratio", acknowledged / answered);
            figure.add("resident_mib", served.resident_mib()?);
            let alone = self.rows as f64 / world.timed(database.insert_alone(&hits)).await?;
            let ours = through_the_writer(world, &database, &hits).await?;
            figure.add("writer_per_second", ours);
            figure.add("driver_alone_per_second", alone);
            figure.add("ratio", ours / alone);
        }
        figure.target("acknowledged_to_answered_ratio", Target::AtLeast(0.5));
        figure.target("ratio", Target::AtLeast(0.5));
        served.stop().await?;
        home.discard().await?;
        database.discard().await?;
        world.show(&figure);
        Ok(())
    }
}

/// Events answered a second.
async fn post(world: &World, http: &Http, served: &Served, tracked: &Tracked, count: usize) -> anyhow::Result<f64> {
    let seconds = world.timed(flood(http, served.address, tracked, count, CONNECTIONS)).await?;
    Ok(count as f64 / seconds)
}

/// Returns once so many rows are there.
async fn arrived(world: &World, database: &Database, count: u64) -> anyhow::Result<()> {
    while database.rows().await? < count {
        world.clock.sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// Hits a second from the first call to the last row in ClickHouse: on disk in between, as `serve` has them.
async fn through_the_writer(world: &World, database: &Database, hits: &[Hit]) -> anyhow::Result<f64> {
    let folder = Folder::new(world)?;
    let mode = Mode::Ours { chance: world.chance.clone() };
    let node = NodeId(world.chance.uuid_v7(world.clock.now()));
    let store = ClickHouse::connect(&database.address, node, world.clock.clone(), mode).await?;
    store.take_hits(folder.path(), SPILL_LIMIT)?;
    // Copied before: whoever has hits does not copy them.
    let mut calls: Vec<Vec<Vec<Hit>>> = vec![Vec::new(); CONNECTIONS];
    for (number, hits) in hits.chunks(AT_ONCE).enumerate() {
        calls[number % CONNECTIONS].push(hits.to_vec());
    }
    let began = world.clock.monotonic();
    let mut tasks = JoinSet::new();
    for calls in calls {
        let store = store.clone();
        tasks.spawn(async move {
            for hits in calls {
                store.record(hits).await?;
            }
            anyhow::Ok(())
        });
    }
    all(tasks).await?;
    store.settle().await?;
    let seconds = (world.clock.monotonic() - began).as_secs_f64();
    store.close().await;
    Ok(hits.len() as f64 / seconds)
}

/// A pageview as most are.
fn hit(world: &World, number: usize) -> Hit {
    let visitor = (number as u64 % 5_000).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let site_id = SiteId(i64::try_from(number % 100).unwrap_or(0));
    Hit {
        page: Page { hostname: SITE.to_owned(), pathname: format!("/articles/{}", number % 1_000) },
        origin: Origin {
            referrer: "news.ycombinator.com/item".to_owned(),
            source: "Hacker News".to_owned(),
            ..Origin::default()
        },
        device: Device {
            screen_size: "Desktop".to_owned(),
            browser: "Firefox".to_owned(),
            operating_system: "GNU/Linux".to_owned(),
        },
        props: vec![("plan".to_owned(), "pro".to_owned())],
        ..Hit::new(site_id, world.clock.now(), visitor, PAGEVIEW)
    }
}
