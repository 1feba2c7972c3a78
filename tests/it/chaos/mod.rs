//! Crash runs: real nodes under load are killed and paused, PostgreSQL crashes, connections are cut when a commit is under
//! way. Then everything heals, the queue empties, the nodes stop, and a judge goes through what clients were promised,
//! what arrived, and what the databases say.
//!
//! `make test` has a short run on each database; `make chaos` a long one. The seed fixes every choice; when a choice falls
//! into place is up to the machine. Start reading at [`run`] and [`checker`].

use std::fmt;
use std::time::Duration;

mod checker;
mod dice;
mod evidence;
mod history;
mod load;
mod nemesis;
mod node;
mod proxy;
mod receiver;
mod report;
mod world;

use history::{Answer, FaultKind, Moment};
use nemesis::Rhythm;
use report::Report;
use world::World;

/// Of a run in `make test`.
const SHORT: Duration = Duration::from_secs(8);
/// A run of this length has long rests and troubles that take their time.
const LONG: Duration = Duration::from_secs(60);
const SEED: u64 = 1;
const NODES: usize = 3;
/// Once nothing goes wrong any more, everything is delivered so soon.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a database that is about to be empty.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub length: Duration,
    pub on_postgres: bool,
    pub nodes: usize,
    /// How many of the nodes visitors reach.
    pub takers: usize,
}

impl Plan {
    /// A short run, unless the environment wants another: `CHAOS_SECONDS`, `CHAOS_SEED` and `CHAOS_TAKERS`.
    fn from_environment(on_postgres: bool) -> Self {
        let number = |name| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number, but it is {text}")))
        };
        let nodes = if on_postgres { NODES } else { 1 };
        let takers = number("CHAOS_TAKERS").map_or(nodes, |takers| usize::try_from(takers).unwrap_or(nodes));
        Self {
            seed: number("CHAOS_SEED").unwrap_or(SEED),
            length: number("CHAOS_SECONDS").map_or(SHORT, Duration::from_secs),
            on_postgres,
            nodes,
            takers: takers.clamp(1, nodes),
        }
    }

    fn rhythm(&self) -> Rhythm {
        if self.length < LONG { Rhythm::short() } else { Rhythm::long() }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, length, nodes, takers, .. } = self;
        let database = if self.on_postgres { "PostgreSQL" } else { "SQLite" };
        let secs = length.as_secs();
        write!(f, "chaos on {database}: seed {seed}, {secs} s, {nodes} nodes, {takers} of them take hits")
    }
}

/// From the first node's start to the verdict.
#[expect(clippy::print_stdout, reason = "the seed and the report are what a long run is for")]
async fn run(plan: Plan) {
    println!("{plan}");
    let mut world = World::start(plan).await;
    let until = world.history.now() + plan.length;
    tokio::join!(load::run(&world, until), nemesis::run(&world, plan.rhythm(), until));
    let healed_within = heal(&world).await;
    world.stop().await;
    let evidence = evidence::gather(&world).await;
    let verdict = checker::check(&evidence);
    let report = Report { plan, evidence: &evidence, verdict: &verdict, healed_within }.to_string();
    println!("{report}");
    assert!(verdict.findings.is_empty(), "{report}");
    let happened = |kind| evidence.log.faults.iter().filter(|fault| fault.kind == kind).count();
    let enough = happened(FaultKind::Kill) >= 3
        && (!plan.on_postgres || (happened(FaultKind::Restart) >= 1 && happened(FaultKind::CutAfterCommit) >= 2));
    assert!(enough, "too little went wrong to prove anything\n{report}");
}

/// Nothing goes wrong any more. Waits until everything promised has arrived and nothing is owed; says how long it took.
async fn heal(world: &World) -> Duration {
    let began = world.history.now();
    world.receiver.heal();
    for node in &world.nodes {
        node.listens().await;
        // An earlier version need not know everything that is owed in a file of this one's.
        if !world.plan.on_postgres && node.is_of_the_past() {
            node.restart().await;
        }
    }
    let mut answers = world.history.answers();
    while !is_settled(world).await {
        if world.history.now() > began + HEALS_WITHIN {
            let secs = HEALS_WITHIN.as_secs();
            world.history.complain(format!("not everything was delivered within {secs} s after the last fault"));
            break;
        }
        // Nothing that arrives need be waited out, and what does not arrive is seen by looking.
        tokio::select! {
            _ = answers.changed() => {}
            () = world.history.pause(LOOKS_EVERY) => {}
        }
    }
    world.history.now() - began
}

async fn is_settled(world: &World) -> bool {
    let hooks = evidence::hooks(world);
    let expected = checker::expected(&hooks, &evidence::stored(world).await);
    let everything_arrived = {
        let log = world.history.log();
        let delivered = checker::delivered(&hooks, &log);
        let arrived = |id: &str, since: Moment| {
            log.requests.iter().any(|request| request.succeeded() && request.id == id && request.arrived_at >= since)
        };
        expected.iter().all(|(key, count)| delivered.get(key).copied().unwrap_or_default() >= *count)
            && log.tests.iter().flat_map(|test| &test.id).all(|id| arrived(id, Moment::ZERO))
            && log.resends.iter().all(|resend| resend.answer == Answer::Unknown || arrived(&resend.id, resend.sent_at))
    };
    everything_arrived && evidence::owed(&world.database_url).await == Some(0)
}

/// What a crash run proves, on each database.
mod survives {
    use super::*;

    async fn survives(on_postgres: bool) {
        let plan = Plan::from_environment(on_postgres);
        crate::support::within(plan.length + HEALS_WITHIN * 3, Box::pin(run(plan))).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        survives(false).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        survives(true).await;
    }
}
