//! The long-running duties, one file each: noticing ([`evaluator`]), sending ([`dispatcher`], [`sender`], [`settler`]),
//! learning ([`profiles`]), holding shards ([`leases`]) and tidying up ([`janitor`]).
//!
//! This room does not know HTTP servers, and nothing outside calls into it but through [`crate::wake::Wake`]. All duties
//! are started and stopped here; one that ends by itself takes the process down. Start reading at
//! [`dispatcher::Dispatcher::run`] or [`evaluator::Evaluator::run`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::analytics::sqlite::Analytics;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::address::AddressPolicy;
use crate::domain::ids::NodeId;
use crate::domain::vault::Keyring;
use crate::store::Store;
use crate::wake::Wake;

pub mod catalog;
pub mod dispatcher;
pub mod egress;
pub mod evaluator;
pub mod janitor;
pub mod leases;
pub mod live;
pub mod profiles;
pub mod ready;
pub mod sender;
pub mod settler;
pub mod target;

/// What the engine works with.
pub struct Engine {
    pub store: Store,
    pub analytics: Analytics,
    pub sender: Arc<sender::Sender>,
    pub keyring: Keyring,
    pub policy: AddressPolicy,
    pub clock: Clock,
    pub chance: Chance,
    pub node: NodeId,
    pub evaluation_interval: Duration,
    pub retention: Duration,
}

/// A started engine.
pub struct Running {
    pub wake: Wake,
    duties: Duties,
    stop: CancellationToken,
    /// Kept apart: shards are given back only after the last outcome is written.
    leases: Duties,
    release: CancellationToken,
}

type Duties = JoinSet<(&'static str, anyhow::Result<()>)>;

impl Engine {
    /// Takes its shards and starts every duty.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(self) -> anyhow::Result<Running> {
        let stop = CancellationToken::new();
        let held = leases::Leases::new(self.node, self.clock.clone());
        leases::claim(&self.store, &held).await?;
        let known = profiles::Profiles::default();
        let (evaluator_calls, to_evaluator) = mpsc::channel(64);
        let (dispatcher_calls, to_dispatcher) = mpsc::channel(64);
        let (leases_calls, to_leases) = mpsc::channel(64);
        let (learner_calls, to_learner) = mpsc::channel(64);
        let (hand_over, fresh) = mpsc::channel(256);
        let (settle, outcomes) = mpsc::channel(4_096);
        let (written, settled) = mpsc::channel(256);

        let evaluator = evaluator::Evaluator {
            store: self.store.clone(),
            analytics: self.analytics.clone(),
            leases: held.clone(),
            profiles: known.clone(),
            clock: self.clock.clone(),
            chance: self.chance.clone(),
            interval: self.evaluation_interval,
            hand_over,
        };
        let dispatcher = dispatcher::Dispatcher {
            store: self.store.clone(),
            leases: held.clone(),
            sender: self.sender,
            targets: target::Targets::new(self.store.clone(), self.keyring, self.policy, self.clock.clone()),
            clock: self.clock.clone(),
            chance: self.chance,
            fresh,
            settle,
            settled,
        };
        let settler = settler::Settler {
            store: self.store.clone(),
            leases: held.clone(),
            clock: self.clock.clone(),
            outcomes,
            written,
        };
        let learner = profiles::Learner {
            store: self.store.clone(),
            analytics: self.analytics.clone(),
            profiles: known,
            clock: self.clock.clone(),
        };
        let janitor = janitor::Janitor {
            store: self.store.clone(),
            analytics: self.analytics,
            clock: self.clock,
            retention: self.retention,
        };

        let mut duties = JoinSet::new();
        let token = stop.clone();
        duties.spawn(async move { ("evaluator", evaluator.run(to_evaluator, token).await) });
        let token = stop.clone();
        duties.spawn(async move { ("dispatcher", dispatcher.run(to_dispatcher, token).await) });
        duties.spawn(async move { ("settler", settler.run().await) });
        let token = stop.clone();
        duties.spawn(async move { ("learner", learner.run(to_learner, token).await) });
        let token = stop.clone();
        duties.spawn(async move { ("janitor", janitor.run(token).await) });
        let mut leases = JoinSet::new();
        let release = CancellationToken::new();
        let (token, store) = (release.clone(), self.store);
        leases.spawn(async move { ("leases", leases::run(store, held, to_leases, token).await) });
        let wake = Wake::new(evaluator_calls, dispatcher_calls, learner_calls, leases_calls);
        Ok(Running { wake, duties, stop, leases, release })
    }
}

impl Running {
    /// Returns when a duty ends by itself, which none should.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.duties.join_next() => ended,
            Some(ended) = self.leases.join_next() => ended,
            else => return std::future::pending().await,
        };
        match ended {
            Ok((duty, Err(error))) => error.context(format!("the {duty} failed")),
            Ok((duty, Ok(()))) => anyhow::anyhow!("the {duty} stopped by itself"),
            Err(panic) => anyhow::anyhow!("a duty of the engine panicked: {panic}"),
        }
    }

    /// Lets every duty finish what it has begun, then gives the shards back.
    ///
    /// # Errors
    /// A duty failed on its way out; the others were stopped all the same.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let worked = join_all(&mut self.duties).await;
        self.release.cancel();
        worked.and(join_all(&mut self.leases).await)
    }
}

async fn join_all(duties: &mut Duties) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = duties.join_next().await {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((duty, Err(error))) => outcome = Err(error.context(format!("the {duty} failed while stopping"))),
            Err(panic) => outcome = Err(anyhow::anyhow!("a duty of the engine panicked while stopping: {panic}")),
        }
    }
    outcome
}
