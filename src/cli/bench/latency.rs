//! How long it takes: from a hit to its POST at a steady rate, from an event's record to its POST under load, and from
//! the answer of an API that does not own the shard to the POST.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::task::JoinSet;

use super::arrivals::{Delivered, gather, hit_to_post_ms, millis};
use super::drain::{Beside, Owed, WEBHOOKS};
use super::flow::Crowd;
use super::home::{Folder, Home};
use super::report::{Figure, Kind, Target, percentile};
use super::served::{Launch, Served};
use super::sink::Sink;
use super::stage::{Hook, Plan, set_up};
use super::trackers::{Tracked, all, at_a_rate};
use super::{World, drain};
use crate::store::shards::shard_of;

const SITE: &str = "example.com";
const RATES: [usize; 2] = [100, 1_000];
/// Of what the queue drains at.
const LOAD: f64 = 0.25;
/// Under load nothing is judged before it has been kept up for so long: all at once 64 connections are opened, and both ends
/// of each handshake are on the same processors. What that second is like is told by itself.
const WARM_UP: Duration = Duration::from_secs(1);
/// Nothing arriving for so long means that nothing will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for two nodes to have shared out the work.
const SETTLING: Duration = Duration::from_secs(12);

/// Hit to POST at 100/s and 1,000/s, record to POST at 25 % load, API to POST across nodes
#[derive(Debug, clap::Args)]
pub struct Latency {
    /// Each rate is kept up for so long
    #[arg(long, default_value_t = 10, value_parser = super::at_least_one())]
    seconds: usize,
    /// Deliveries of the drain the load is a quarter of
    #[arg(long, default_value_t = 50_000, value_parser = super::at_least_one())]
    drain_count: usize,
    /// Events a second under load, in place of a quarter of a measured drain
    #[arg(long)]
    rate: Option<f64>,
    /// Tests sent through the other node
    #[arg(long, default_value_t = 150, value_parser = super::at_least_one())]
    tests: usize,
    /// Tests a second
    #[arg(long, default_value_t = 10.0)]
    tests_per_second: f64,
    #[command(flatten)]
    crowd: Crowd,
}

impl Latency {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            world.show(&self.hit_to_post(world, kind).await?);
            world.show(&self.under_load(world, kind).await?);
            if kind == Kind::Postgres {
                world.show(&self.other_node(world).await?);
            }
        }
        Ok(())
    }

    /// Hits of one site that has one webhook: those of one evaluation share a POST.
    async fn hit_to_post(&self, world: &World, kind: Kind) -> anyhow::Result<Figure> {
        let about = "from a tracked event's record to the arrival of its POST; beside it the tracker's own answer";
        let mut figure = Figure::new("latency hit to post", Some(kind), about);
        for _ in world.runs("latency, hit to POST", Some(kind)) {
            let (sink, home, served) = stage(world, kind).await?;
            let plan = Plan::with_signups(&home.account, SITE, vec![sink.url(0, 0)]);
            set_up(&served, &[plan]).await?;
            let signups = [Tracked::signup(SITE)];
            for rate in RATES {
                let hits = rate * self.seconds;
                let (delivered, answers) = tokio::try_join!(
                    gather(world, &sink, hits, PATIENCE),
                    at_a_rate(world, served.address, &signups, rate as f64, hits),
                )?;
                let waits = hit_to_post_ms(&delivered);
                anyhow::ensure!(waits.len() == hits, "{} of {hits} completions arrived", waits.len());
                add_percentiles(&mut figure, &format!("at_{rate}_per_second"), &waits);
                figure.add(format!("at_{rate}_per_second_answer_p99_ms"), percentile(&answers, 99));
            }
            served.stop().await?;
            home.discard().await?;
        }
        figure.target("at_1000_per_second_p99_ms", Target::AtMost(250.0));
        Ok(figure)
    }

    /// Many sites with many webhooks, so that the POSTs are as many as the load says.
    async fn under_load(&self, world: &World, kind: Kind) -> anyhow::Result<Figure> {
        let about = "from an event's record, its commit included, to the arrival of its POST at 25 % of the drain rate";
        let mut figure = Figure::new("latency under load", Some(kind), about);
        for _ in world.runs("latency, under load", Some(kind)) {
            let rate = match self.rate {
                Some(rate) => rate,
                None => {
                    let owed = Owed { count: self.drain_count, webhooks: WEBHOOKS };
                    LOAD * drain::full_queue(world, kind, owed, Beside::Nobody).await?.per_second
                }
            };
            let delivered = self.loaded(world, kind, rate).await?;
            let first = delivered.iter().map(Delivered::recorded_at).min().context("nothing was delivered")?;
            let is_first = |one: &Delivered| one.recorded_at() < first + WARM_UP;
            let (at_first, steady): (Vec<_>, Vec<_>) = delivered.into_iter().partition(is_first);
            anyhow::ensure!(!steady.is_empty(), "at {rate} events a second nothing came after the first second");
            let waits = |of: &[Delivered]| of.iter().map(Delivered::since_record_ms).collect::<Vec<_>>();
            figure.add("events_per_second_wanted", rate);
            figure.add("posts_per_second", rate_of(&steady));
            add_percentiles(&mut figure, "record_to_post", &waits(&steady));
            figure.add("in_the_first_second_p99_ms", percentile(&waits(&at_first), 99));
        }
        figure.target("record_to_post_p50_ms", Target::AtMost(5.0));
        figure.target("record_to_post_p99_ms", Target::AtMost(25.0));
        Ok(figure)
    }

    async fn loaded(&self, world: &World, kind: Kind, rate: f64) -> anyhow::Result<Vec<Delivered>> {
        let (sink, home, served) = stage(world, kind).await?;
        set_up(&served, &self.crowd.plans(&home.account, |site, index| sink.url(site, index))).await?;
        let hits_per_second = rate / self.crowd.events_a_hit() as f64;
        let hits = whole(hits_per_second * (WARM_UP.as_secs_f64() + self.seconds as f64)).max(1);
        let turns = self.crowd.hits();
        let completions = hits * self.crowd.events_a_hit();
        let (delivered, _) = tokio::try_join!(
            gather(world, &sink, completions, PATIENCE),
            at_a_rate(world, served.address, &turns, hits_per_second, hits),
        )?;
        let counted = hit_to_post_ms(&delivered).len();
        anyhow::ensure!(counted == completions, "{counted} of {completions} completions arrived");
        served.stop().await?;
        home.discard().await?;
        Ok(delivered)
    }

    /// Two nodes on one database. The one that does not own the site's shard is asked for tests; the other one has to hear
    /// of each.
    async fn other_node(&self, world: &World) -> anyhow::Result<Figure> {
        let about =
            format!("{} tests through the node that does not own the shard, from its 202 to the arrival", self.tests);
        let mut figure = Figure::new("latency across nodes", Some(Kind::Postgres), about);
        for _ in world.runs("latency, across nodes", Some(Kind::Postgres)) {
            let (sink, home, first) = stage(world, Kind::Postgres).await?;
            let folder = Folder::new(world)?;
            let launch = Launch { authorities_pem: sink.authority_pem.clone(), unlimited: false, ..Launch::default() };
            let second = Served::start(world, &home.database.url, folder.path(), &launch).await?;
            let hooks = set_up(&first, &[Plan::silent(&home.account, SITE, vec![sink.url(0, 0)])]).await?.concat();
            world.clock.sleep(SETTLING).await;
            let owner = owner_of(&home, &hooks[0]).await?;
            let is_first = node_of(&home.folder)? == owner;
            anyhow::ensure!(is_first || node_of(&folder)? == owner, "neither node owns the shard");
            let asked = if is_first { &second } else { &first };
            let waits = self.tests(world, &sink, &home, asked, &hooks[0]).await?;
            add_percentiles(&mut figure, "answer_to_post", &waits);
            first.stop().await?;
            second.stop().await?;
            home.discard().await?;
        }
        figure.target("answer_to_post_p99_ms", Target::AtMost(1_000.0));
        Ok(figure)
    }

    /// Sends them at a steady rate and answers the milliseconds from each answer to its arrival.
    async fn tests(
        &self,
        world: &World,
        sink: &Sink,
        home: &Home,
        asked: &Served,
        hook: &Hook,
    ) -> anyhow::Result<Vec<f64>> {
        let path = Arc::new(format!("/api/sites/{}/webhooks/{}/test", hook.site_id, hook.webhook_id));
        let began = world.clock.now();
        let sending = async {
            let mut tasks = JoinSet::new();
            for number in 0..self.tests {
                let span = Duration::from_secs_f64(number as f64 / self.tests_per_second);
                world.clock.sleep_until(began + span).await;
                let (api, clock, account, path) =
                    (asked.api.clone(), world.clock.clone(), home.account.clone(), Arc::clone(&path));
                tasks.spawn(async move {
                    let answer = api.post(&account, &path, &json!({})).await?;
                    let id = answer["delivery"]["id"].as_str().context("a test was answered without its id")?;
                    Ok((id.to_owned(), clock.now()))
                });
            }
            all(tasks).await
        };
        let (delivered, answered) = tokio::try_join!(gather(world, sink, self.tests, PATIENCE), sending)?;
        answered
            .iter()
            .map(|(id, answered_at)| {
                let arrived = delivered.iter().find(|one| one.event_id == *id).context("a test did not arrive")?;
                Ok(millis(arrived.at.since(*answered_at)))
            })
            .collect()
    }
}

/// A sink that keeps what arrives, and a server that may reach it.
async fn stage(world: &World, kind: Kind) -> anyhow::Result<(Sink, Home, Served)> {
    let sink = Sink::keeping(&world.clock, Ipv4Addr::LOCALHOST).await?;
    let home = Home::new(world, kind).await?;
    let launch = Launch { authorities_pem: sink.authority_pem.clone(), unlimited: false, ..Launch::default() };
    let served = home.serve(world, &launch).await?;
    Ok((sink, home, served))
}

fn add_percentiles(figure: &mut Figure, name: &str, values: &[f64]) {
    figure.add(format!("{name}_p50_ms"), percentile(values, 50));
    figure.add(format!("{name}_p99_ms"), percentile(values, 99));
}

#[expect(clippy::cast_possible_truncation, reason = "a count of hits is far from where that begins")]
fn whole(count: f64) -> usize {
    count.round() as usize
}

fn rate_of(delivered: &[Delivered]) -> f64 {
    let times = || delivered.iter().map(|one| one.at);
    let (Some(first), Some(last)) = (times().min(), times().max()) else { return 0.0 };
    delivered.len() as f64 / last.since(first).as_secs_f64().max(0.001)
}

/// The node that sends for a webhook.
async fn owner_of(home: &Home, hook: &Hook) -> anyhow::Result<String> {
    let owner = home.database.owner_of_shard(shard_of(hook.site_id)).await?;
    owner.context("nobody owns the shard")
}

/// A node's name is in its data folder.
fn node_of(folder: &Folder) -> anyhow::Result<String> {
    let name = std::fs::read_to_string(folder.path().join("node")).context("the node has no name")?;
    Ok(name.trim().to_owned())
}
