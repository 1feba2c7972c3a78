//! ClickHouse is away while hits come in at a steady rate: how they are answered meanwhile, how soon they are there when it
//! is back, and whether every one of them is there once.

use std::time::Duration;

use super::World;
use super::clickhouse::Server;
use super::door::Door;
use super::home::Home;
use super::report::{Figure, Kind, Target, percentile};
use super::served::Launch;
use super::stage::{Plan, set_up};
use super::trackers::{Tracked, at_a_rate};

const SITE: &str = "example.com";
/// Before ClickHouse goes and after it is back.
const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// What has not arrived so long after the last answer is missing.
const PATIENCE: Duration = Duration::from_secs(120);

/// Events that come in while ClickHouse is away: answered, kept, and there once when it is back
#[derive(Debug, clap::Args)]
pub struct Outage {
    /// ClickHouse is away for so long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Events a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
}

impl Outage {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let Some(server) = &world.clickhouse else {
            world.progress("outage is left out: it needs --clickhouse");
            return Ok(());
        };
        let about = format!("ClickHouse is away for {} s while {} events a second come in", self.seconds, self.rate);
        let mut figure = Figure::new("outage", None, about);
        for _ in world.runs("outage", None) {
            self.once(world, server, &mut figure).await?;
        }
        figure.target("missing", Target::AtMost(0.0));
        figure.target("twice", Target::AtMost(0.0));
        world.show(&figure);
        Ok(())
    }

    async fn once(&self, world: &World, server: &Server, figure: &mut Figure) -> anyhow::Result<()> {
        let database = server.create_database(world).await?;
        let door = Door::before(database.authority().to_owned()).await?;
        let home = Home::new(world, Kind::Sqlite).await?;
        let analytics_url = database.url.replacen(database.authority(), &door.address.to_string(), 1);
        let served = home.serve(world, &Launch { analytics_url, ..Launch::default() }).await?;
        set_up(&served, &[Plan::silent(&home.account, SITE, Vec::new())]).await?;
        let away = Duration::from_secs(self.seconds);
        let total = usize::try_from((BEFORE + away + AFTER).as_secs())? * self.rate as usize;
        // Each can be told from every other.
        let turns: Vec<_> =
            (0..total).map(|number| Tracked { page: format!("/{number}"), ..Tracked::pageview(SITE) }).collect();
        let began = world.clock.now();
        let comes_and_goes = async {
            world.clock.sleep_until(began + BEFORE).await;
            door.shut();
            world.clock.sleep_until(began + BEFORE + away).await;
            door.open();
            Ok(())
        };
        let posted = at_a_rate(world, served.address, &turns, f64::from(self.rate), total);
        let (answers, ()) = tokio::try_join!(posted, comes_and_goes)?;
        let answered_at = world.clock.monotonic();
        let mut there = database.rows().await?;
        while there < total as u64 && world.clock.monotonic() - answered_at < PATIENCE {
            world.clock.sleep(BETWEEN_LOOKS).await;
            there = database.rows().await?;
        }
        figure.add("all_there_after_ms", (world.clock.monotonic() - answered_at).as_secs_f64() * 1e3);
        // What would come twice comes with the next batch.
        served.stop().await?;
        let (rows, pages) = (database.rows().await?, database.pages().await?);
        figure.add("answer_p50_ms", percentile(&answers, 50));
        figure.add("answer_p99_ms", percentile(&answers, 99));
        figure.add("missing", total as f64 - pages as f64);
        figure.add("twice", rows as f64 - pages as f64);
        home.discard().await?;
        database.discard().await
    }
}
