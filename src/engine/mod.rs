//! The long-running duties, one file each: noticing ([`evaluator`]), sending ([`dispatcher`], [`sender`], [`settler`]),
//! seeing what no hit shows ([`lookout`]), learning ([`profiles`]), following another directory ([`mirror`]), looking at
//! addresses ([`checker`]), holding shards ([`leases`]) and tidying up ([`janitor`]).
//!
//! This room does not know HTTP servers, and nothing outside calls into it but through [`crate::wake::Wake`]. All duties
//! are started and stopped here; one that ends by itself takes the process down. Start reading at
//! [`dispatcher::Dispatcher::run`] or [`evaluator::Evaluator::run`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::analytics::Analytics;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::directory::plausible::Plausible;
use crate::domain::address::AddressPolicy;
use crate::domain::node::Roles;
use crate::domain::pace::Limits;
use crate::domain::vault::Keyring;
use crate::domain::webhook::BELIEVED_FOR;
use crate::store::Store;
use crate::store::queue::Due;
use crate::store::shards::Node;
use crate::wake::Wake;

mod apart;
pub mod backlog;
pub mod catalog;
pub mod checker;
mod completions;
mod crew;
pub mod dispatcher;
pub mod egress;
pub mod evaluator;
mod firing;
pub mod inbox;
pub mod janitor;
pub mod keeper;
mod late;
pub mod leases;
pub mod lookout;
pub mod looks;
mod meters;
pub mod mirror;
mod news;
pub mod notifier;
pub mod poller;
pub mod profiles;
pub mod ready;
mod recordings;
pub mod resender;
mod rhythm;
pub mod sender;
pub mod settler;
mod stopwatch;
pub mod target;
mod unread;

/// What the engine works with.
pub struct Engine {
    pub store: Store,
    pub analytics: Analytics,
    pub sender: Arc<sender::Sender>,
    pub checker: checker::Checker,
    pub keyring: Keyring,
    pub policy: AddressPolicy,
    pub clock: Clock,
    pub chance: Chance,
    pub node: Node,
    pub roles: Roles,
    pub limits: Limits,
    pub room: ready::Room,
    pub evaluation_interval: Duration,
    pub retention: Duration,
    pub audit_retention: Duration,
    /// Whose accounts, sites and goals are mirrored, where there is one beside us.
    pub plausible: Option<Plausible>,
}

/// A started engine.
pub struct Running {
    pub wake: Wake,
    store: Store,
    duties: Duties,
    stop: CancellationToken,
    /// Kept apart: shards are given back only after the last outcome is written.
    leases: Duties,
    release: CancellationToken,
}

type Duties = JoinSet<(&'static str, anyhow::Result<()>)>;

impl Engine {
    /// Takes its shards and starts the duties of its roles.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(self) -> anyhow::Result<Running> {
        let stop = CancellationToken::new();
        let (notify, to_others) = mpsc::channel(notifier::WAITING);
        let mut running = Running {
            wake: Wake {
                clock: self.clock.clone(),
                evaluator: None,
                dispatcher: None,
                learner: None,
                lookout: None,
                leases: None,
                keeper: None,
                resender: None,
                mirror: None,
                checker: None,
                notify,
                others_notice_within: BELIEVED_FOR,
            },
            store: self.store.clone(),
            duties: JoinSet::new(),
            stop: stop.clone(),
            leases: JoinSet::new(),
            release: CancellationToken::new(),
        };
        if let Err(error) = self.store.operator_make_days(self.clock.now()).await {
            // Somebody reads for long; the janitor tries again, and meanwhile there is a place for what belongs to no day.
            warn!(%error, "The partitions of the next days could not be made yet: {error}");
        }
        let held = leases::Leases::new(self.node.clone(), self.clock.clone());
        let (hand_over, fresh) = mpsc::channel(256);
        if self.roles.engine {
            leases::renew(&self.store, &held).await?;
            self.store.put_rows_off(self.clock.now()).await?;
            self.send(&mut running, &held, fresh);
            self.keep(&mut running, &held);
        }
        if let Some(firing) = self.notice(&mut running, &held, hand_over).await? {
            self.look_out(&mut running, &held, firing);
        }
        if let Some(plausible) = &self.plausible
            && self.roles.engine
        {
            self.follow(&mut running, &held, plausible.clone());
        }
        let (checker_calls, to_checker) = mpsc::channel(64);
        running.begin("checker", self.checker.clone().run(to_checker, stop.clone()));
        running.wake.checker = Some(checker_calls);
        running.begin("notifier", notifier::speak(self.store.clone(), self.clock.clone(), to_others, stop));
        Ok(running)
    }

    /// Starts the duty that notices what happens where the traffic is, if that is this node's to see, and answers what its
    /// events are made with.
    async fn notice(
        &self,
        running: &mut Running,
        held: &leases::Leases,
        hand_over: mpsc::Sender<Vec<Due>>,
    ) -> anyhow::Result<Option<firing::Firing>> {
        let (calls, to_noticing) = mpsc::channel(64);
        let firing = match &self.analytics {
            // Embedded analytics are the node's own: who takes hits in is the only one who can notice what they mean.
            Analytics::Embedded(embedded) if self.roles.ingest => {
                // Before the first hit can come in: what comes after this is to be looked at.
                let newest = embedded.last_seq().await?;
                self.store.operator_watermark(embedded.source(), newest.0).await?;
                let firing = self.learn(running, held, hand_over);
                let evaluator = evaluator::Evaluator {
                    store: self.store.clone(),
                    analytics: embedded.clone(),
                    leases: held.clone(),
                    clock: self.clock.clone(),
                    interval: self.evaluation_interval,
                    firing: firing.clone(),
                };
                running.begin("evaluator", evaluator.run(to_noticing, running.stop.clone()));
                firing
            }
            // What others write everybody can see: who works for a shard looks at it.
            Analytics::ClickHouse(clickhouse) if self.roles.engine => {
                let firing = self.learn(running, held, hand_over);
                let poller = poller::Poller {
                    store: self.store.clone(),
                    clickhouse: clickhouse.clone(),
                    leases: held.clone(),
                    clock: self.clock.clone(),
                    interval: self.evaluation_interval,
                    firing: firing.clone(),
                };
                running.begin("poller", poller.run(to_noticing, running.stop.clone()));
                firing
            }
            Analytics::Embedded(_) | Analytics::ClickHouse(_) => return Ok(None),
        };
        running.wake.evaluator = Some(calls);
        Ok(Some(firing))
    }

    /// Starts the duty that sees what no single hit shows.
    fn look_out(&self, running: &mut Running, held: &leases::Leases, firing: firing::Firing) {
        let (calls, to_lookout) = mpsc::channel(64);
        let lookout = lookout::Lookout {
            store: self.store.clone(),
            // What this takes is not to slow down who looks for spikes.
            analytics: match &self.analytics {
                Analytics::ClickHouse(clickhouse) => Analytics::ClickHouse(clickhouse.apart()),
                embedded => embedded.clone(),
            },
            leases: held.clone(),
            shares_work: self.roles.engine,
            clock: self.clock.clone(),
            firing,
        };
        running.begin("lookout", lookout.run(to_lookout, running.stop.clone()));
        running.wake.lookout = Some(calls);
    }

    /// Starts the duties that send what is owed: who asks for it, who writes down what came of it, and who says whose it is.
    fn send(&self, running: &mut Running, held: &leases::Leases, fresh: mpsc::Receiver<Vec<Due>>) {
        let (dispatcher_calls, to_dispatcher) = mpsc::channel(64);
        let (leases_calls, to_leases) = mpsc::channel(64);
        let (settle, outcomes) = mpsc::channel(4_096);
        let (written_tx, written) = mpsc::unbounded_channel();
        let hurry = Arc::new(Notify::new());
        let looks = if self.store.is_sqlite() { looks::Looks::at_everything() } else { looks::Looks::default() };
        let targets = target::Targets::new(
            self.store.clone(),
            self.keyring.clone(),
            self.policy.clone(),
            self.clock.clone(),
            self.limits,
        );
        let dispatcher = dispatcher::Dispatcher {
            store: self.store.clone(),
            leases: held.clone(),
            sender: Arc::clone(&self.sender),
            inbox: Arc::new(inbox::Inbox {
                store: self.store.clone(),
                clock: self.clock.clone(),
                chance: self.chance.clone(),
            }),
            targets,
            notify: running.wake.notify.clone(),
            clock: self.clock.clone(),
            chance: self.chance.clone(),
            backlog: backlog::Backlog::new(self.room, looks),
            fresh,
            settle,
            written,
            hurry: Arc::clone(&hurry),
        };
        let settler = settler::Settler {
            store: self.store.clone(),
            leases: held.clone(),
            clock: self.clock.clone(),
            outcomes,
            written: written_tx,
            hurry,
            stop: running.stop.clone(),
        };
        let stop = &running.stop;
        let listening =
            notifier::listen(self.store.clone(), self.clock.clone(), dispatcher_calls.clone(), stop.clone());
        let sending = dispatcher.run(to_dispatcher, stop.clone());
        let keeping = leases::run(self.store.clone(), held.clone(), to_leases, running.release.clone());
        running.begin("dispatcher", sending);
        running.begin("settler", settler.run());
        running.begin("listener", listening);
        running.leases.spawn(async move { ("leases", keeping.await) });
        running.wake.dispatcher = Some(dispatcher_calls);
        running.wake.leases = Some(leases_calls);
    }

    /// Starts the duties that see to what is sent: endpoints that fail, what is sent once more, and what is old.
    fn keep(&self, running: &mut Running, held: &leases::Leases) {
        let resender = resender::Resender {
            store: self.store.clone(),
            leases: held.clone(),
            clock: self.clock.clone(),
            limits: self.limits,
            wake: running.wake.clone(),
        };
        let keeper = keeper::Keeper {
            store: self.store.clone(),
            leases: held.clone(),
            clock: self.clock.clone(),
            chance: self.chance.clone(),
            wake: running.wake.clone(),
        };
        let janitor = janitor::Janitor {
            store: self.store.clone(),
            analytics: self.analytics.clone(),
            clock: self.clock.clone(),
            retention: self.retention,
            audit_retention: self.audit_retention,
        };
        let stop = running.stop.clone();
        let (keeper_calls, to_keeper) = mpsc::channel(64);
        running.begin("keeper", keeper.run(to_keeper, stop.clone()));
        let (resender_calls, to_resender) = mpsc::channel(64);
        running.begin("resender", resender.run(to_resender, stop.clone()));
        running.begin("janitor", janitor.run(stop));
        running.wake.keeper = Some(keeper_calls);
        running.wake.resender = Some(resender_calls);
    }

    /// Starts the duty that keeps sites and goals as Plausible has them.
    fn follow(&self, running: &mut Running, held: &leases::Leases, plausible: Plausible) {
        let (calls, to_mirror) = mpsc::channel(64);
        let mirror = mirror::Mirror {
            store: self.store.clone(),
            plausible,
            leases: held.clone(),
            clock: self.clock.clone(),
            chance: self.chance.clone(),
            wake: running.wake.clone(),
        };
        running.begin("mirror", mirror.run(to_mirror, running.stop.clone()));
        running.wake.mirror = Some(calls);
    }

    /// Starts the duty that learns what is usual, and answers what events are made with.
    fn learn(&self, running: &mut Running, held: &leases::Leases, hand_over: mpsc::Sender<Vec<Due>>) -> firing::Firing {
        let (learner_calls, to_learner) = mpsc::channel(64);
        let known = profiles::Profiles::default();
        let learner = profiles::Learner {
            store: self.store.clone(),
            analytics: self.analytics.clone(),
            leases: held.clone(),
            profiles: known.clone(),
            clock: self.clock.clone(),
        };
        running.begin("learner", learner.run(to_learner, running.stop.clone()));
        running.wake.learner = Some(learner_calls);
        firing::Firing {
            analytics: self.analytics.clone(),
            profiles: known,
            chance: self.chance.clone(),
            hand_over,
            notify: running.wake.notify.clone(),
        }
    }
}

impl Running {
    /// Starts a duty. `failed` and `stop` call it by its name.
    fn begin(&mut self, name: &'static str, duty: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.duties.spawn(async move { (name, duty.await) });
    }

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
        let queued = self.store.put_rows_off_no_longer().await.context("what is owed could not be put into the queue");
        self.release.cancel();
        worked.and(queued).and(join_all(&mut self.leases).await)
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
