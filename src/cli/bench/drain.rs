//! From a full queue to an empty one, every attempt on disk: the product's throughput, and what a delivery costs.

use std::time::Duration;

use super::cost::{Cpu, Moment};
use super::database::emptied;
use super::home::Home;
use super::postgres::Meter;
use super::queue::{self, Filled};
use super::report::{Figure, Kind, Target};
use super::served::{Launch, Served};
use super::sink::Sink;
use super::stage::{Hook, Plan, set_up};
use super::{World, between, ceiling};

/// Endpoints the deliveries go to: enough that none of them is what everything waits for.
pub const WEBHOOKS: usize = 8;
const QUARTERS: usize = 4;

/// Deliveries a second from a full queue, every attempt on disk, and ÷ C; CPU, WAL and commits for each
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Deliveries in the queue
    #[arg(long, default_value_t = 100_000, value_parser = super::at_least_one())]
    count: usize,
    /// Webhooks they are owed to, each as many; with many, little of what is written together lies together
    #[arg(long, default_value_t = WEBHOOKS, value_parser = super::at_least_one())]
    webhooks: usize,
    /// Drain twice in each run, the second time while another connection holds a snapshot open, and compare
    #[arg(long)]
    snapshot: bool,
    /// Seconds that snapshot is held before the drain that counts: the queue is filled and drained meanwhile, again and
    /// again
    #[arg(long, default_value_t = 0, requires = "snapshot")]
    held_for: u64,
}

/// What is in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    pub count: usize,
    pub webhooks: usize,
}

/// Who else has the database open during a drain.
#[derive(Debug, Clone, Copy)]
pub enum Beside {
    Nobody,
    /// A transaction that has read the queue and stays open, and so long already when the drain begins.
    ASnapshot(Duration),
}

/// What emptying a queue took.
pub struct Drained {
    /// From the first arrival to the moment nothing is owed any more.
    pub per_second: f64,
    /// Arrivals a second in each quarter of them.
    quarters: Vec<f64>,
    cpu: Cpu,
    peak_mib: f64,
    wal_bytes: Option<f64>,
    commits: Option<f64>,
}

impl Drain {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            let figure = if self.snapshot {
                self.beside_a_snapshot(world, kind).await?
            } else {
                self.clean(world, kind).await?
            };
            world.show(&figure);
        }
        Ok(())
    }

    fn owed(&self) -> Owed {
        Owed { count: self.count, webhooks: self.webhooks }
    }

    async fn clean(&self, world: &World, kind: Kind) -> anyhow::Result<Figure> {
        let about = format!("{} deliveries to {} webhooks; ratio: ÷ C of the same run", self.count, self.webhooks);
        let mut figure = Figure::new("drain", Some(kind), about);
        for _ in world.runs("drain", Some(kind)) {
            let drained = full_queue(world, kind, self.owed(), Beside::Nobody);
            let (drained, ceiling) = ceiling::around(world, self.count, drained).await?;
            figure.add("deliveries_per_second", drained.per_second);
            figure.add("ceiling_per_second", ceiling);
            figure.add("ratio", drained.per_second / ceiling);
            drained.add_to(&mut figure);
        }
        match kind {
            Kind::Sqlite => figure.target("ratio", Target::AtLeast(0.60)),
            Kind::Postgres => {
                figure.target("ratio", Target::AtLeast(0.45));
                figure.target("postgres_cpu_us", Target::AtMost(15.0));
                figure.target("wal_bytes_per_delivery", Target::AtMost(700.0));
            }
        }
        Ok(figure)
    }

    async fn beside_a_snapshot(&self, world: &World, kind: Kind) -> anyhow::Result<Figure> {
        let about = format!(
            "{} deliveries while a transaction holds its snapshot, for {} s before; ratio: ÷ without, before and after it",
            self.count, self.held_for
        );
        let beside = Beside::ASnapshot(Duration::from_secs(self.held_for));
        let mut figure = Figure::new("drain --snapshot", Some(kind), about);
        for _ in world.runs("drain --snapshot", Some(kind)) {
            let drained = |beside| Box::pin(full_queue(world, kind, self.owed(), beside));
            let clean = async || Ok(drained(Beside::Nobody).await?.per_second);
            let (held, clean) = between(clean, drained(beside)).await?;
            figure.add("deliveries_per_second", held.per_second);
            figure.add("clean_per_second", clean);
            figure.add("ratio", held.per_second / clean);
            held.add_to(&mut figure);
        }
        figure.target("ratio", Target::AtLeast(0.9));
        figure.target("last_quarter_over_first", Target::AtLeast(0.9));
        Ok(figure)
    }
}

impl Drained {
    fn add_to(&self, figure: &mut Figure) {
        self.cpu.add_to(figure);
        if let (Some(wal_bytes), Some(commits)) = (self.wal_bytes, self.commits) {
            figure.add("wal_bytes_per_delivery", wal_bytes);
            figure.add("commits_per_delivery", commits);
        }
        for (index, rate) in self.quarters.iter().enumerate() {
            figure.add(format!("quarter_{}_per_second", index + 1), *rate);
        }
        if let (Some(first), Some(last)) = (self.quarters.first(), self.quarters.last()) {
            figure.add("last_quarter_over_first", last / first);
        }
        figure.add("peak_mib", self.peak_mib);
    }
}

/// A new database with what is `owed`, drained.
pub async fn full_queue(world: &World, kind: Kind, owed: Owed, beside: Beside) -> anyhow::Result<Drained> {
    let Owed { count, webhooks } = owed;
    let sink = Sink::start(&world.clock).await?;
    let home = Home::new(world, kind).await?;
    let hooks = hooks(world, &home, &sink, webhooks).await?;
    let held = match beside {
        Beside::Nobody => None,
        Beside::ASnapshot(span) => {
            let snapshot = home.database.hold_snapshot().await?;
            let until = world.clock.monotonic() + span;
            while world.clock.monotonic() < until {
                let filled = queue::fill(world, &home.database, &hooks, count).await?;
                let drained = drain(world, &home, &sink, count, &filled).await?;
                let left = until.saturating_sub(world.clock.monotonic()).as_secs();
                world.progress(&format!("  {:.0}/s, and {left} s to go", drained.per_second));
            }
            Some(snapshot)
        }
    };
    let filled = queue::fill(world, &home.database, &hooks, count).await?;
    let drained = drain(world, &home, &sink, count, &filled).await?;
    drop(held);
    home.discard().await?;
    Ok(drained)
}

/// So many webhooks, on one site.
pub async fn hooks(world: &World, home: &Home, sink: &Sink, count: usize) -> anyhow::Result<Vec<Hook>> {
    let served = home.serve(world, &launch(sink)).await?;
    let urls = (0..count).map(|index| sink.url(0, index)).collect();
    let hooks = set_up(&served, &[Plan::silent(&home.account, "example.com", urls)]).await?;
    served.stop().await?;
    Ok(hooks.concat())
}

fn launch(sink: &Sink) -> Launch {
    Launch { authorities_pem: sink.authority_pem.clone(), unlimited: true, ..Launch::default() }
}

/// Starts the server on a queue of `count` deliveries and measures until it is empty.
pub async fn drain(world: &World, home: &Home, sink: &Sink, count: usize, filled: &Filled) -> anyhow::Result<Drained> {
    let store = home.database.store().await?;
    let commits = Commits::begin(home).await?;
    let mut meter = home.meter().await?;
    let before = sink.arrived();
    let served = Served::spawn(world, &home.database.url, home.folder.path(), &launch(sink))?;
    sink.wait_for(before + 1).await?;
    let began = Moment::now(world, &served, meter.as_mut()).await?;
    let seconds = queue::follow(world, sink, before, count, QUARTERS).await?;
    let ended = emptied(world, &store, filled, async || Moment::now(world, &served, meter.as_mut()).await).await?;
    let peak_mib = served.peak_resident_mib()?;
    store.close().await;
    served.stop().await?;
    let each = 1.0 / count as f64;
    Ok(Drained {
        per_second: count as f64 / (ended.seconds - began.seconds),
        quarters: seconds.iter().map(|seconds| count as f64 / QUARTERS as f64 / seconds).collect(),
        cpu: began.cpu_until(&ended, each),
        peak_mib,
        wal_bytes: began.wal_until(&ended, each),
        commits: commits.end(each).await?,
    })
}

/// Transactions of the whole life of the server: its start and its end are in it, and the looks at the queue's depth.
struct Commits(Option<(Meter, String, f64)>);

impl Commits {
    async fn begin(home: &Home) -> anyhow::Result<Self> {
        let Some((cluster, name)) = &home.database.place else { return Ok(Self(None)) };
        let mut meter = cluster.meter().await?;
        let before = meter.commits(name).await?;
        Ok(Self(Some((meter, name.clone(), before))))
    }

    /// A delivery's share. To be asked when the server is gone: its connections report when they end.
    async fn end(self, each: f64) -> anyhow::Result<Option<f64>> {
        let Some((mut meter, name, before)) = self.0 else { return Ok(None) };
        Ok(Some((meter.commits(&name).await? - before) * each))
    }
}
