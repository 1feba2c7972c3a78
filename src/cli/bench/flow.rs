//! The whole way at full speed: hits come in through the front door, every evaluation step fires many events, and they
//! are delivered as fast as they are fired.
//!
//! A hit on one of the sites completes all its goals, each of which all its webhooks watch: `--webhooks` × `--goals` events
//! in one step. The next hit on that site is posted when the last of them has arrived. So what is under way is bounded,
//! the queue cannot grow, and what arrives in a second is what the product sustains: ingestion, evaluation, recording and
//! sending together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::cost::Moment;
use super::database::depth;
use super::home::{Account, Home};
use super::report::{Figure, Kind, Target};
use super::served::Launch;
use super::sink::Sink;
use super::stage::{Plan, set_up};
use super::trackers::{self, Http, Tracked, http};
use super::{World, ceiling};

const CEILING_COUNT: usize = 100_000;

/// Deliveries a second that are fired as fast as they are delivered, through the front door, and ÷ C
#[derive(Debug, clap::Args)]
pub struct Flow {
    #[command(flatten)]
    crowd: Crowd,
    /// Measured for so long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Ahead of it, until what is under way is steady
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
}

/// Sites on which one hit fires many events.
#[derive(Debug, Clone, clap::Args)]
pub struct Crowd {
    /// Sites
    #[arg(long, default_value_t = 128, value_parser = super::at_least_one())]
    sites: usize,
    /// Webhooks of each site
    #[arg(long, default_value_t = 8, value_parser = super::at_least_one())]
    webhooks: usize,
    /// Goals of each site, all completed by one hit
    #[arg(long, default_value_t = 8, value_parser = super::at_least_one())]
    goals: usize,
}

impl Crowd {
    /// Events one hit fires.
    pub fn events_a_hit(&self) -> usize {
        self.webhooks * self.goals
    }

    /// The sites, each with its number as the group its deliveries are counted in.
    pub fn plans(&self, account: &Account, url: impl Fn(usize, usize) -> String) -> Vec<Plan> {
        let site = |number| Plan {
            account: account.clone(),
            domain: format!("site-{number}.example"),
            urls: (0..self.webhooks).map(|index| url(number, index)).collect(),
            goals: (0..self.goals).map(|goal| json!({"page_path": format!("/all*/{goal}/*")})).collect(),
        };
        (0..self.sites).map(site).collect()
    }

    /// For each site the hit that completes everything there.
    pub fn hits(&self) -> Vec<Tracked> {
        // Goals begin with a slash whatever they are given as, so none of the numbers may be the first of the path.
        let page = format!("/all/{}/end", (0..self.goals).map(|goal| goal.to_string()).collect::<Vec<_>>().join("/"));
        let hit = |number| Tracked { name: "pageview", site: format!("site-{number}.example"), page: page.clone() };
        (0..self.sites).map(hit).collect()
    }
}

impl Flow {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let Crowd { sites, webhooks, goals } = self.crowd;
        for kind in world.databases() {
            let about = format!("{sites} sites, {webhooks} webhooks × {goals} goals each; ratio: ÷ C of the same run");
            let mut figure = Figure::new("flow", Some(kind), about);
            for _ in world.runs("flow", Some(kind)) {
                let count = CEILING_COUNT.min(self.crowd.events_a_hit() * sites * 10);
                let rate = self.once(world, kind, &mut figure);
                let (rate, ceiling) = ceiling::around(world, count, rate).await?;
                figure.add("ceiling_per_second", ceiling);
                figure.add("ratio", rate / ceiling);
            }
            let target = if kind == Kind::Sqlite { 0.48 } else { 0.40 };
            figure.target("ratio", Target::AtLeast(target));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(&self, world: &World, kind: Kind, figure: &mut Figure) -> anyhow::Result<f64> {
        let sink = Arc::new(Sink::with_groups(&world.clock, self.crowd.sites).await?);
        let home = Home::new(world, kind).await?;
        let launch = Launch { authorities_pem: sink.authority_pem.clone(), unlimited: true, ..Launch::default() };
        let served = home.serve(world, &launch).await?;
        set_up(&served, &self.crowd.plans(&home.account, |site, index| sink.url(site, index))).await?;
        let store = home.database.store().await?;
        let mut meter = home.meter().await?;
        let mut traffic = self.traffic(&sink, served.address);
        let measured = async {
            world.clock.sleep(Duration::from_secs(self.warm_up)).await;
            let (owed, arrived) = (depth(&store).await?, sink.arrived());
            let began = Moment::now(world, &served, meter.as_mut()).await?;
            world.clock.sleep(Duration::from_secs(self.seconds)).await;
            let ended = Moment::now(world, &served, meter.as_mut()).await?;
            let arrived = (sink.arrived() - arrived) as f64;
            let rate = arrived / (ended.seconds - began.seconds);
            figure.add("deliveries_per_second", rate);
            began.cpu_until(&ended, 1.0 / arrived).add_to(figure);
            figure.add("owed_at_first", owed);
            figure.add("owed_at_last", depth(&store).await?);
            figure.add("resident_mib", served.resident_mib()?);
            anyhow::Ok(rate)
        };
        let rate = tokio::select! {
            rate = measured => rate?,
            Some(failed) = traffic.join_next() => {
                failed??;
                anyhow::bail!("the traffic ended by itself");
            }
        };
        traffic.shutdown().await;
        store.close().await;
        served.stop().await?;
        home.discard().await?;
        Ok(rate)
    }

    /// One task a site; each runs until it is told to stop.
    fn traffic(&self, sink: &Arc<Sink>, server: SocketAddr) -> JoinSet<anyhow::Result<()>> {
        let (http, events) = (http(), self.crowd.events_a_hit() as u64);
        let mut tasks = JoinSet::new();
        for (site, hit) in self.crowd.hits().into_iter().enumerate() {
            tasks.spawn(one_site(http.clone(), server, hit, Arc::clone(sink), site, events));
        }
        tasks
    }
}

async fn one_site(
    http: Http,
    server: SocketAddr,
    hit: Tracked,
    sink: Arc<Sink>,
    site: usize,
    events: u64,
) -> anyhow::Result<()> {
    for number in 1.. {
        trackers::track(&http, server, &hit, site).await?;
        sink.wait_for_group(site, events * number).await?;
    }
    Ok(())
}
