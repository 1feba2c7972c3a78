//! What one account's backlog does to another account: everything due for the one, a single delivery now and then for the
//! other.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use super::World;
use super::arrivals::{gather, millis};
use super::home::{Home, accounts};
use super::queue;
use super::report::{Figure, Kind, Target, percentile};
use super::served::Launch;
use super::sink::Sink;
use super::stage::{Plan, set_up};

/// Not the backlog's host, whose limit is its own affair.
const OTHER_HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Delay of another account's single delivery while one account has 100,000 due
#[derive(Debug, clap::Args)]
pub struct Starve {
    /// Deliveries of the account with the backlog
    #[arg(long, default_value_t = 100_000, value_parser = super::at_least_one())]
    count: usize,
    /// Its webhooks
    #[arg(long, default_value_t = 100, value_parser = super::at_least_one())]
    webhooks: usize,
    /// Single deliveries of the other account, one after the other
    #[arg(long, default_value_t = 30, value_parser = super::at_least_one())]
    singles: usize,
}

impl Starve {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            let about = format!("a test's 202 to its POST while another account has {} deliveries due", self.count);
            let mut figure = Figure::new("starve", Some(kind), about);
            for _ in world.runs("starve", Some(kind)) {
                self.once(world, kind, &mut figure).await?;
            }
            figure.target("worst_ms", Target::AtMost(1_000.0));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(&self, world: &World, kind: Kind, figure: &mut Figure) -> anyhow::Result<()> {
        let crowded = Sink::start(&world.clock).await?;
        let quiet = Sink::keeping(&world.clock, OTHER_HOST).await?;
        let launch = Launch {
            authorities_pem: format!("{}{}", crowded.authority_pem, quiet.authority_pem),
            unlimited: false,
            ..Launch::default()
        };
        let home = Home::new(world, kind).await?;
        let other = accounts(world, &home.database, 1).await?.remove(0);
        let served = home.serve(world, &launch).await?;
        let urls = (0..self.webhooks).map(|index| crowded.url(0, index)).collect();
        let plans = [
            Plan::silent(&home.account, "crowded.example", urls),
            Plan::silent(&other, "quiet.example", vec![quiet.url(0, 0)]),
        ];
        let hooks = set_up(&served, &plans).await?;
        served.stop().await?;
        queue::fill(world, &home.database, &hooks[0], self.count).await?;

        let served = home.serve(world, &launch).await?;
        crowded.wait_for(1).await?;
        let path = format!("/api/sites/{}/webhooks/{}/test", hooks[1][0].site_id, hooks[1][0].webhook_id);
        let (mut waits, began) = (Vec::with_capacity(self.singles), world.clock.monotonic());
        for _ in 0..self.singles {
            served.api.post(&other, &path, &json!({})).await?;
            let answered_at = world.clock.now();
            let arrived = gather(world, &quiet, 1, PATIENCE).await?;
            waits.push(arrived.first().map_or(millis(PATIENCE), |one| millis(one.at.since(answered_at))));
            // Not in step with anything the server does at regular times.
            world.clock.sleep(Duration::from_secs_f64(world.chance.unit() / 5.0)).await;
        }
        let seconds = (world.clock.monotonic() - began).as_secs_f64();
        figure.add("median_ms", percentile(&waits, 50));
        figure.add("worst_ms", percentile(&waits, 100));
        figure.add("backlog_per_second", crowded.arrived() as f64 / seconds);
        figure.add("backlog_left", self.count as f64 - crowded.arrived() as f64);
        served.kill().await?;
        home.discard().await
    }
}
