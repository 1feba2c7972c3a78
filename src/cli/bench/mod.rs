//! `bench`: the load generator behind every figure, as a command, so that anybody can repeat them on their machine.
//!
//! The real server does the work: this process starts `serve` of its own executable as a child, on a throw-away folder
//! or a fresh database of the cluster `--postgres` names (and of the ClickHouse `--clickhouse` names), and plays the world around it: trackers that post
//! ([`trackers`]), endpoints that answer ([`sink`]) or hang ([`hanging`]), an outage that filled the queue ([`queue`]).
//! All of them share the machine, so ratios say more than numbers.
//!
//! One file is one figure, and its first lines define it. What they have in common:
//!
//! * **Each value is the median of `--runs` runs.** A ratio is taken within a run, whose ceiling is measured before and
//!   after, so that a machine that is slower for a while is slower for both.
//! * **C** ([`ceiling`]) is what the product's own sender reaches over HTTPS on loopback when nothing is recorded.
//! * **Units are in the names**: `_per_second`, `_ms`, `_us` (microseconds of CPU, user and system, for one delivery),
//!   `_mib` (resident), `_bytes`.
//! * **A target stands beside its value**; `MISSED` marks one that was not met. To miss one is a finding, not a failure:
//!   the exit code only says whether it could be measured.
//! * **Nothing is assumed.** What cannot be measured here (the CPU of a database on another machine, a peer that is not
//!   installed) has no row, or is said in a line.
//!
//! Durability is never weakened for a figure: SQLite runs as `serve` runs it, and PostgreSQL as `--postgres` is
//! configured; `make bench` starts one with everything on. The limits that protect endpoints are off where the figure is
//! what the product can do (`drain`, `flow`, `backlog`, `history`) and at their defaults everywhere else.
//!
//! This room may name the engine's sender and speak SQL, which the rest of the command line may not: it is a measuring
//! device. It knows the product's insides in four places only: [`queue::fill`] records events, [`ceiling`] builds the
//! sender, [`history`], [`customers`] and [`noticing`] have the tables' columns, and [`ingest`] gives hits to the writer.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand};

use self::postgres::Cluster;
use self::report::{Figure, Kind};
use super::{output, serve};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::telemetry;

mod anchor;
mod arrivals;
mod backlog;
mod ceiling;
mod clickhouse;
mod cost;
mod customers;
mod database;
mod door;
mod drain;
mod flow;
mod hanging;
mod history;
mod home;
mod ingest;
mod isolation;
mod latency;
mod noticing;
mod outage;
mod postgres;
mod queue;
mod report;
mod scale;
mod served;
mod sink;
mod stage;
mod start;
mod starve;
mod trackers;
mod usage;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "`make bench` builds it, starts a private PostgreSQL and ClickHouse and measures everything; `make bench \
                        ONLY=drain` one figure."
)]
pub struct Bench {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Runs each value is the median of
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print one JSON object a figure and line
    #[arg(long, global = true)]
    json: bool,
    /// A PostgreSQL cluster in which databases may be made; without it only SQLite is measured
    #[arg(long, global = true, value_name = "URL")]
    postgres: Option<String>,
    /// A ClickHouse in which databases may be made; without it nothing is measured there
    #[arg(long, global = true, value_name = "URL")]
    clickhouse: Option<String>,
    /// Measure on this database only
    #[arg(long, global = true, value_name = "KIND")]
    database: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Which {
    All(All),
    Start(start::Start),
    Ingest(ingest::Ingest),
    Ceiling(ceiling::Ceiling),
    #[command(hide = true)]
    Client(ceiling::Client),
    Drain(drain::Drain),
    Flow(flow::Flow),
    Latency(latency::Latency),
    Isolation(isolation::Isolation),
    Starve(starve::Starve),
    Backlog(backlog::Backlog),
    History(history::History),
    Scale(scale::Scale),
    Noticing(noticing::Noticing),
    Outage(outage::Outage),
    Anchor(anchor::Anchor),
}

/// Every figure, one after the other
#[derive(Debug, clap::Args)]
struct All {
    /// Small counts: whether everything can be measured here, not what it measures
    #[arg(long)]
    quick: bool,
}

/// What `all` measures, as it would be typed, and the small counts of `--quick`.
const EVERYTHING: &[(&[&str], &[&str])] = &[
    (&["start"], &["--count", "1"]),
    (&["ingest"], &["--count", "200", "--rows", "2000"]),
    (&["ceiling"], &["--count", "1000"]),
    (&["drain"], &["--count", "1000"]),
    (&["drain", "--snapshot"], &["--count", "1000"]),
    (&["flow"], &["--sites", "8", "--seconds", "2", "--warm-up", "1"]),
    (&["latency"], &["--sites", "8", "--seconds", "2", "--drain-count", "1000", "--rate", "500", "--tests", "20"]),
    (&["isolation"], &["--healthy", "10", "--hanging", "50", "--seconds", "3", "--lead", "1"]),
    (&["starve"], &["--count", "2000", "--singles", "3"]),
    (&["backlog"], &["--count", "5000", "--webhooks", "50", "--deliver", "1000"]),
    (&["history"], &["--count", "1000", "--sizes", "1000,10000"]),
    (&["scale"], &["--sites", "100", "--triggers", "2", "--rows", "50", "--seconds", "3"]),
    (&["noticing"], &["--sites", "50", "--visits", "100", "--years", "1", "--batches", "20"]),
    (&["outage"], &["--seconds", "2", "--rate", "50"]),
    (&["anchor"], &["--count", "1000"]),
];

/// A line of [`EVERYTHING`].
#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    which: Which,
}

/// Of none of them there is nothing to measure, and what is waited for would never come.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// What every figure works with.
struct World {
    clock: Clock,
    chance: Chance,
    /// This program.
    executable: PathBuf,
    cluster: Option<Cluster>,
    clickhouse: Option<clickhouse::Server>,
    common: Common,
}

impl Bench {
    pub async fn run(self) -> anyhow::Result<()> {
        telemetry::start_logs(None, "error");
        let world = World::new(self.common)?;
        let stop = serve::stop_signal()?;
        tokio::select! {
            outcome = self.which.run(&world) => outcome,
            // Dropped like this, children are killed and folders removed.
            () = stop => anyhow::bail!("interrupted"),
        }
    }
}

impl Which {
    /// Each is boxed: their futures are large, and one of them comes back here.
    async fn run(&self, world: &World) -> anyhow::Result<()> {
        match self {
            Self::All(all) => Box::pin(all.run(world)).await,
            Self::Start(figure) => Box::pin(figure.run(world)).await,
            Self::Ingest(figure) => Box::pin(figure.run(world)).await,
            Self::Ceiling(figure) => Box::pin(figure.run(world)).await,
            Self::Client(client) => Box::pin(client.run(world)).await,
            Self::Drain(figure) => Box::pin(figure.run(world)).await,
            Self::Flow(figure) => Box::pin(figure.run(world)).await,
            Self::Latency(figure) => Box::pin(figure.run(world)).await,
            Self::Isolation(figure) => Box::pin(figure.run(world)).await,
            Self::Starve(figure) => Box::pin(figure.run(world)).await,
            Self::Backlog(figure) => Box::pin(figure.run(world)).await,
            Self::History(figure) => Box::pin(figure.run(world)).await,
            Self::Scale(figure) => Box::pin(figure.run(world)).await,
            Self::Noticing(figure) => Box::pin(figure.run(world)).await,
            Self::Outage(figure) => Box::pin(figure.run(world)).await,
            Self::Anchor(figure) => Box::pin(figure.run(world)).await,
        }
    }
}

impl All {
    /// A figure that cannot be measured does not keep the others from it.
    async fn run(&self, world: &World) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for (words, small) in EVERYTHING {
            let small = if self.quick { *small } else { &[] };
            let line = Line::try_parse_from(["bench"].iter().chain(*words).chain(small))?;
            if let Err(error) = line.which.run(world).await {
                let name = words.join(" ");
                output::complain(&error.context(format!("{name} could not be measured")));
                failed.push(name);
            }
        }
        anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
        Ok(())
    }
}

impl World {
    fn new(common: Common) -> anyhow::Result<Self> {
        let cluster = common.postgres.as_deref().map(Cluster::parse).transpose()?;
        anyhow::ensure!(
            cluster.is_some() || common.database != Some(Kind::Postgres),
            "--database postgres needs a cluster: --postgres postgres://user@host:5432"
        );
        let clickhouse = common.clickhouse.as_deref().map(clickhouse::Server::parse).transpose()?;
        let executable = std::env::current_exe().context("this program's own file cannot be found")?;
        // Thousands of endpoints that hang are thousands of connections; if they may not be, that shows soon enough.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        Ok(Self { clock: Clock::system(), chance: Chance::from_system(), executable, cluster, clickhouse, common })
    }

    /// The databases to measure on.
    fn databases(&self) -> Vec<Kind> {
        let both = [(Kind::Sqlite, true), (Kind::Postgres, self.cluster.is_some())];
        let wanted = |kind| self.common.database.is_none_or(|only| only == kind);
        both.into_iter().filter(|(kind, there)| *there && wanted(*kind)).map(|(kind, _)| kind).collect()
    }

    fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("this needs --postgres")
    }

    /// The runs of a figure; says each on standard error as it begins.
    fn runs(&self, name: &str, on: Option<Kind>) -> impl Iterator<Item = u32> {
        let on = on.map_or(String::new(), |kind| format!(" on {kind}"));
        let runs = self.common.runs;
        (1..=runs).inspect(move |run| output::hint(&format!("{name}{on}, run {run} of {runs}")))
    }

    fn progress(&self, text: &str) {
        output::hint(text);
    }

    fn show(&self, figure: &Figure) {
        figure.show(self.common.json);
    }

    /// Seconds `work` took.
    async fn timed(&self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
        let began = self.clock.monotonic();
        work.await?;
        Ok((self.clock.monotonic() - began).as_secs_f64())
    }
}

/// What `measured` answers, and the mean of what `reference` is before and after it: the machine's speed changes within
/// seconds.
async fn between<T>(
    reference: impl AsyncFn() -> anyhow::Result<f64>,
    measured: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, f64)> {
    let before = reference().await?;
    let answer = measured.await?;
    let after = reference().await?;
    Ok((answer, f64::midpoint(before, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_typed() {
        for (words, small) in EVERYTHING {
            Line::try_parse_from(["bench"].iter().chain(*words)).unwrap();
            Line::try_parse_from(["bench"].iter().chain(*words).chain(*small)).unwrap();
        }
    }
}
