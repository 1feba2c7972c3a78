//! Hits on disk a second, beside the same server answering hits it does not store.

use super::World;
use super::home::Home;
use super::report::{Figure, Kind, Target};
use super::served::Launch;
use super::stage::{Plan, set_up};
use super::trackers::{Tracked, flood, http};

const SITE: &str = "example.com";
const CONNECTIONS: usize = 64;

/// Tracked events on disk a second, and ÷ answered but not stored
#[derive(Debug, clap::Args)]
pub struct Ingest {
    /// Events of each kind
    #[arg(long, default_value_t = 20_000)]
    count: usize,
}

impl Ingest {
    /// On one database only: hits go to the analytics database, which is SQLite with both.
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let about =
            format!("{} events over {CONNECTIONS} connections; ratio: stored ÷ answered, not stored", self.count);
        let mut figure = Figure::new("ingest", None, about);
        let home = Home::new(world, Kind::Sqlite).await?;
        let served = home.serve(world, &Launch::default()).await?;
        set_up(&served, &[Plan::silent(&home.account, SITE, Vec::new())]).await?;
        let (http, stored, unknown) = (http(), Tracked::pageview(SITE), Tracked::pageview("unknown.example"));
        let post = async |tracked: &Tracked, count: usize| {
            let seconds = world.timed(flood(&http, served.address, tracked, count, CONNECTIONS)).await?;
            anyhow::Ok(count as f64 / seconds)
        };
        // Caches and connections.
        post(&stored, self.count / 4 + 1).await?;
        for _ in world.runs("ingest", None) {
            let (stored, answered) = (post(&stored, self.count).await?, post(&unknown, self.count).await?);
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
}
