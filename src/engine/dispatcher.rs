//! Where a delivery happens, from top to bottom: read what is due, give everybody a turn, attempt, decide what the
//! outcome means, and let the settler write it.
//!
//! One task owns all of it, so a barrier is one answer: after [`ToDispatcher::WebhookChanged`] was answered no attempt
//! starts here that the old state would have allowed. Nothing is written before an attempt has an outcome; what was under
//! way when the process died is due again when the next one starts. What it holds of the queue is in
//! [`super::backlog`], whose turn it is in [`super::ready`], what is known of endpoints in [`super::target`].

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;
use metrics::{counter, gauge, histogram};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::backlog::{Backlog, Found, Known};
use super::crew::{Crew, Seat, Work};
use super::inbox::Inbox;
use super::leases::Leases;
use super::meters::Meters;
use super::sender::Sender;
use super::settler::Written;
use super::target::{Target, Targets};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::ids::WebhookId;
use crate::domain::outcome::{Attempted, Outcome};
use crate::domain::pace::Told;
use crate::domain::settle::{Ended, GiveUpReason, Next, settle};
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::store::outcomes::{AttemptRow, Life, Settled, Standing};
use crate::store::queue::Due;
use crate::store::shards::Lease;
use crate::wake::{Answer, ToDispatcher};

/// How often everything that waits is looked at, whatever we were told: this is the truth, wake-ups are speed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The same while a look takes longer than a 400th of that: others wait for the time it takes, and in less than one of a
/// hundred attempts that is to be noticed. Later would be too late for what nobody told us.
const SWEEP_AT_LEAST_EVERY: Duration = Duration::from_secs(2);
const SWEEPS_ARE_ONE_IN: u32 = 400;
/// How long a webhook that is paused, disabled or unreadable is left alone; a change made here ends it at once.
const DEAD_FOR: Duration = Duration::from_secs(5);
/// Endpoints that nothing was sent to for so long are forgotten.
const IDLE_FOR: Duration = Duration::from_secs(600);
/// How long what is under way may take once the process is asked to stop.
const GRACE: Duration = Duration::from_secs(20);
/// Calls and outcomes dealt with before the next turns are handed out.
const AT_ONCE: usize = 256;

pub struct Dispatcher {
    pub store: Store,
    pub leases: Leases,
    pub sender: Arc<Sender>,
    pub inbox: Arc<Inbox>,
    pub targets: Targets,
    /// To other nodes: something waits in the queue of this shard.
    pub notify: mpsc::Sender<i32>,
    pub clock: Clock,
    pub chance: Chance,
    pub backlog: Backlog,
    pub fresh: mpsc::Receiver<Vec<Due>>,
    pub settle: mpsc::Sender<Settled>,
    pub written: mpsc::UnboundedReceiver<Vec<Written>>,
    /// Tells the settler that somebody waits until all is written.
    pub hurry: Arc<Notify>,
}

/// A delivery whose turn it is.
struct Order {
    due: Due,
    lease: Lease,
    target: Arc<Target>,
}

/// An attempt that is over.
struct Finished {
    order: Order,
    /// `None`: it was not made after all.
    attempted: Option<Attempted>,
    seat: Seat<Order>,
}

/// What an attempt is made with, and who hears of it.
#[derive(Clone)]
struct Means {
    sender: Arc<Sender>,
    inbox: Arc<Inbox>,
    clock: Clock,
    finish: mpsc::UnboundedSender<Finished>,
}

/// What happens while it runs.
struct Under {
    tasks: TaskTracker,
    crew: Crew<Means>,
    found: mpsc::UnboundedSender<Found>,
    /// Those who want to know when nothing is left to do.
    draining: Vec<Answer>,
    /// The configuration cannot be read: nothing is sent until it can.
    unsure: bool,
    /// From one look at everything that waits to the next.
    sweep_every: Duration,
    meters: Meters,
}

impl Work for Means {
    type Order = Order;

    async fn carry_out(&self, order: Order, seat: Seat<Order>) -> bool {
        let attempted = self.attempt(&order).await;
        self.finish.send(Finished { order, attempted, seat }).is_ok()
    }
}

impl Means {
    async fn attempt(&self, Order { due, target, .. }: &Order) -> Option<Attempted> {
        let now = self.clock.now();
        match due.expires_at {
            // The webhook was changed since the turn was handed out.
            _ if target.is_revoked() => None,
            Some(expires_at) if expires_at <= now => Some(Attempted::expired(now)),
            _ => {
                crate::failpoint::hit("dispatcher.before_send");
                let outgoing = target.outgoing(due, now);
                let attempted = match target.inbox() {
                    // Apart, since it is large and seldom: every attempt would have room for it.
                    Some(owner) => Box::pin(self.inbox.attempt(owner, &outgoing, now)).await,
                    None => self.sender.attempt(&outgoing, now).await,
                };
                crate::failpoint::hit("dispatcher.after_send");
                Some(attempted)
            }
        }
    }
}

impl Dispatcher {
    pub async fn run(mut self, mut calls: mpsc::Receiver<ToDispatcher>, stop: CancellationToken) -> anyhow::Result<()> {
        // Not bounded: there are never more of them than attempts under way and looks at the queue.
        let (finish, mut finished) = mpsc::unbounded_channel::<Finished>();
        let (found_tx, mut found) = mpsc::unbounded_channel::<Found>();
        let (sender, inbox, clock) = (Arc::clone(&self.sender), Arc::clone(&self.inbox), self.clock.clone());
        let mut under = Under {
            tasks: TaskTracker::new(),
            crew: Crew::new(Means { sender, inbox, clock, finish }),
            found: found_tx,
            draining: Vec::new(),
            unsure: false,
            sweep_every: SWEEP_EVERY,
            meters: Meters::default(),
        };
        let mut lease_changes = self.leases.changes();
        let mut sweep_at = self.clock.now();
        let mut over = Vec::new();
        let mut written = Vec::new();
        loop {
            let moment = wakes_at([
                Some(sweep_at).filter(|_| self.backlog.may_look()),
                self.backlog.next_coming(),
                self.backlog.ready.next_moment().filter(|_| !under.unsure),
            ]);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(call) = calls.recv() => self.answer(call, &mut under, &mut sweep_at),
                _ = self.written.recv_many(&mut written, AT_ONCE) => {}
                _ = finished.recv_many(&mut over, AT_ONCE) => {}
                Some(fresh) = self.fresh.recv() => self.take_fresh(fresh).await,
                Some(found) = found.recv() => self.take_found(found, &mut under).await,
                _ = lease_changes.changed() => {
                    self.backlog.forget_what_waits();
                    self.targets.forget_all();
                    sweep_at = self.clock.now();
                }
                () = self.clock.sleep_until(moment.unwrap_or_default()), if moment.is_some() => {}
            }
            if !over.is_empty() {
                // Whoever is through wakes this task, which is then the next to run: without letting the others go first it
                // would do all of this for each of them.
                tokio::task::yield_now().await;
                take_more(&mut finished, &mut over);
                take_more(&mut self.written, &mut written);
            }
            for written in written.drain(..).flatten() {
                self.leases.rest(written.shard);
                self.backlog.written(&written);
            }
            for over in over.drain(..) {
                under.crew.take_back(self.finish(over, &mut under.meters).await);
            }
            if sweep_at <= self.clock.now() && self.backlog.may_look() {
                sweep_at = self.clock.now() + under.sweep_every;
                self.backlog.grow_older(self.clock.now());
                under.crew.thin_out();
                self.look(&under);
            }
            self.backlog.grow_due(self.clock.now());
            under.unsure = !self.start_what_can(&mut under).await;
            self.read_on(&under);
            self.answer_drained(&mut under, &mut sweep_at);
        }
        self.wind_down(under, finished).await;
        Ok(())
    }

    fn answer(&mut self, call: ToDispatcher, under: &mut Under, sweep_at: &mut Timestamp) {
        match call {
            ToDispatcher::WebhookChanged(id, shard, answer) => {
                self.targets.forget(id);
                self.backlog.forget_webhook(id);
                let _ = answer.send(self.leases.may_be_elsewhere(shard));
                *sweep_at = self.clock.now();
            }
            ToDispatcher::QueueChanged(shard) => {
                self.backlog.seek(shard);
                *sweep_at = self.clock.now();
                if self.leases.lease(shard).is_none() {
                    self.tell(shard);
                }
            }
            ToDispatcher::Heard(shards) => {
                for shard in shards.into_iter().filter(|shard| self.leases.lease(*shard).is_some()) {
                    self.backlog.doubt(shard);
                    *sweep_at = self.clock.now();
                }
            }
            ToDispatcher::Drain(answer) => {
                self.backlog.doubt_all();
                under.draining.push(answer);
            }
        }
    }

    /// Tells the node that owns a shard. Never waits: its own sweep finds out too.
    fn tell(&self, shard: i32) {
        let _ = self.notify.try_send(shard);
    }

    /// Asks the database what waits, without waiting for the answer.
    fn look(&mut self, under: &Under) {
        let now = self.clock.now();
        let look = self.backlog.looks(!under.draining.is_empty(), now);
        self.backlog.ready.forget_idle(now - IDLE_FOR);
        let (store, found, clock) = (self.store.clone(), under.found.clone(), self.clock.clone());
        under.tasks.spawn(async move {
            let began = clock.monotonic();
            // A dispatcher that has stopped does not need to know, and nobody is to wait for the connection.
            let waiting = tokio::select! {
                waiting = store.waiting(&look) => waiting,
                () = found.closed() => return,
            };
            let took = clock.monotonic().saturating_sub(began);
            let _ = found.send(Found::Waiting { took, waiting });
        });
    }

    /// Reads more of the lanes that run low, without waiting for it.
    fn read_on(&mut self, under: &Under) {
        let Some((reading, wanted)) = self.backlog.wants() else { return };
        let (store, found, clock) = (self.store.clone(), under.found.clone(), self.clock.clone());
        let now = clock.now();
        under.tasks.spawn(async move {
            let began = clock.monotonic();
            let rows = store.due(&wanted, now).await;
            if let Ok(rows) = &rows {
                histogram!("pulsehook_claim_seconds").record(clock.monotonic().saturating_sub(began).as_secs_f64());
                counter!("pulsehook_claimed_total").increment(rows.len() as u64);
            }
            let _ = found.send(Found::Due { reading, wanted, rows });
        });
    }

    async fn take_found(&mut self, found: Found, under: &mut Under) {
        match found {
            Found::Waiting { took, waiting: Ok(waiting) } => {
                under.sweep_every = (took * SWEEPS_ARE_ONE_IN).clamp(SWEEP_EVERY, SWEEP_AT_LEAST_EVERY);
                let (leases, now) = (&self.leases, self.clock.now());
                self.backlog.waiting(waiting, took, now, |shard| leases.lease(shard).is_some());
            }
            Found::Waiting { waiting: Err(error), .. } => {
                self.backlog.looked_in_vain();
                warn!(%error, "The queue could not be read: {error}");
            }
            Found::Due { reading, wanted, rows: Ok(rows) } => {
                let rows = self.backlog.due(reading, &wanted, rows, self.clock.now());
                self.take(rows, Known::Read).await;
            }
            Found::Due { reading, rows: Err(error), .. } => {
                self.backlog.read_in_vain(reading);
                warn!(%error, "Due deliveries could not be read: {error}");
            }
        }
    }

    /// What this node fired itself it need not read.
    async fn take_fresh(&mut self, fresh: Vec<Due>) {
        let mut ours = Vec::with_capacity(fresh.len());
        for due in fresh {
            if self.leases.lease(due.shard).is_none() {
                self.tell(due.shard);
            } else if self.backlog.has_room_for(&due, self.clock.now()) {
                ours.push(due);
            } else {
                self.backlog.leave(&due, self.clock.now());
            }
        }
        self.take(ours, Known::ByNews).await;
    }

    async fn take(&mut self, rows: Vec<Due>, known: Known) {
        let now = self.clock.now();
        let strangers: HashSet<_> = rows
            .iter()
            .map(|due| due.webhook_id)
            .filter(|id| !self.backlog.ready.knows(*id) || self.targets.get(*id).is_none())
            .collect();
        match self.targets.load(&strangers).await {
            Ok(dead) => {
                for id in &strangers {
                    if dead.contains(id) {
                        self.backlog.park(*id, now + DEAD_FOR);
                    } else if let Some(target) = self.targets.get(*id) {
                        if let Some(parked) = target.health().parked.filter(|parked| parked.until > now) {
                            self.backlog.park(*id, parked.until);
                        }
                        let pace = self.targets.pace(target, now);
                        self.backlog.ready.meet(*id, target.account_id, Arc::clone(&target.host), pace, now);
                    }
                }
            }
            // The next sweep brings them back.
            Err(error) => {
                warn!(%error, "Webhooks could not be read: {error}");
                strangers.iter().for_each(|id| self.backlog.park(*id, now + SWEEP_EVERY));
            }
        }
        for due in rows {
            self.backlog.take(due, known, now);
        }
    }

    /// Hands out turns until nobody can take one. `false`: nobody knows whether that would be right.
    async fn start_what_can(&mut self, under: &mut Under) -> bool {
        if self.backlog.ready.is_resting() && self.backlog.ready.next_moment().is_none_or(|at| at > self.clock.now()) {
            return true;
        }
        match self.targets.confirm().await {
            Ok(moved) => moved.into_iter().for_each(|id| self.backlog.forget_webhook(id)),
            Err(error) if self.targets.is_confirmed() => debug!(%error, "The configuration was not confirmed: {error}"),
            Err(error) => {
                warn!(%error, "Nothing is sent while the configuration cannot be read: {error}");
                return false;
            }
        }
        let now = self.clock.now();
        while let Some(due) = self.backlog.take_turn(now) {
            match (self.leases.lease(due.shard), self.targets.get(due.webhook_id)) {
                (Some(lease), Some(target)) => {
                    self.leases.work(due.shard);
                    let target = Arc::clone(target);
                    under.crew.give(Order { due, lease, target }, &under.tasks);
                }
                _ => self.backlog.put_back(&due, now),
            }
        }
        gauge!("pulsehook_in_flight").set(self.backlog.ready.in_flight() as f64);
        true
    }

    /// Decides what an outcome means and passes it on to be written. Answers who made the attempt.
    async fn finish(&mut self, finished: Finished, meters: &mut Meters) -> Seat<Order> {
        let Finished { order: Order { due, lease, target }, attempted, seat } = finished;
        let now = self.clock.now();
        let id = due.webhook_id;
        let Some(attempted) = attempted else {
            self.leases.rest(due.shard);
            self.backlog.put_back(&due, now);
            return seat;
        };
        let turn = self.backlog.ready.done(id, told_by(&attempted), now);
        let standing = crate::domain::settle::Standing {
            attempt: u32::try_from(due.attempt + 1).unwrap_or(u32::MAX),
            expires_at: due.expires_at,
        };
        let next = settle(&standing, &attempted, &target.schedule, self.chance.unit(), now);
        report(meters, &due, &attempted, &next, now);
        let gone = matches!(next, Next::GiveUp { reason: GiveUpReason::EndpointGone });
        let life = match (&next, &attempted.outcome) {
            _ if gone => Life::Disable { reason: attempted.outcome.advice() },
            (_, Outcome::Expired) => Life::AsBefore,
            (_, outcome) if outcome.is_ours() => Life::AsBefore,
            (_, outcome) => target.note(outcome.is_success(), now),
        };
        if gone {
            self.targets.forget(id);
            self.backlog.park(id, now + DEAD_FOR);
        } else if let Some(crate::domain::breaker::Turn::Opened(parked)) = turn {
            info!(
                webhook.id = %id,
                "Most attempts at webhook {id} fail; it is left alone until {} and then asked once", parked.until
            );
            self.backlog.park(id, parked.until);
        } else if let Some(moment) = asked_to_wait(&attempted, now) {
            self.backlog.ready.hold_until(id, moment);
            self.backlog.park(id, moment);
        }
        let settled = Settled {
            lease,
            event_id: due.event_id,
            account_id: due.account_id,
            webhook_id: id,
            attempt: row(&due, attempted),
            standing: standing_after(&due, &next),
            life,
            turn,
        };
        self.backlog.settles();
        // A full channel means the database is slow: waiting here is what slows us down too.
        let _ = self.settle.send(settled).await;
        seat
    }

    /// Only a look that finds nothing, begun after everything was written, proves that nothing is left.
    fn answer_drained(&mut self, under: &mut Under, sweep_at: &mut Timestamp) {
        if under.draining.is_empty() {
            return;
        }
        if !self.backlog.is_idle() {
            self.hurry.notify_one();
            return;
        }
        if self.backlog.is_clean() {
            for answer in under.draining.drain(..) {
                let _ = answer.send(());
            }
        } else if self.backlog.may_look() {
            *sweep_at = self.clock.now() + SWEEP_EVERY;
            self.look(under);
        }
    }

    /// Lets what is under way finish, within reason, and passes its outcomes on.
    async fn wind_down(mut self, under: Under, mut finished: mpsc::UnboundedReceiver<Finished>) {
        let Under { tasks, crew, found, mut meters, .. } = under;
        drop((crew, found));
        tasks.close();
        let clock = self.clock.clone();
        let grace = clock.sleep(GRACE);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                over = finished.recv() => match over {
                    Some(over) => self.finish(over, &mut meters).await.dismiss(),
                    None => break,
                },
                Some(written) = self.written.recv() => {
                    written.iter().for_each(|written| self.leases.rest(written.shard));
                }
                () = &mut grace => {
                    let left = self.backlog.ready.in_flight();
                    warn!("{left} attempts did not end in time; they are due again at the next start");
                    break;
                }
            }
        }
    }
}

/// Adds what is there already, up to [`AT_ONCE`] in all.
fn take_more<T>(from: &mut mpsc::UnboundedReceiver<T>, to: &mut Vec<T>) {
    while to.len() < AT_ONCE
        && let Ok(one) = from.try_recv()
    {
        to.push(one);
    }
}

/// When there is something to do although nobody says anything. What cannot be done is no reason to wake up, or the
/// dispatcher would do nothing else: a second look while one is under way, a turn while nothing may be sent.
fn wakes_at(moments: [Option<Timestamp>; 3]) -> Option<Timestamp> {
    moments.into_iter().flatten().min()
}

/// Counts and logs what became of an attempt.
fn report(meters: &mut Meters, due: &Due, attempted: &Attempted, next: &Next, now: Timestamp) {
    let number = number_of(due);
    let outcome = attempted.outcome.code();
    meters.attempted(outcome);
    match next {
        Next::Delivered => {
            meters.delivered(now.since(due.event_id.recorded_at()));
            debug!(
                delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number,
                "Delivered {} on attempt {number}", due.event_id
            );
        }
        Next::Retry { due_at, .. } => {
            meters.retried();
            info!(
                delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number, outcome,
                "Attempt {number} of {} ended with {outcome}; the next one is at {due_at}", due.event_id
            );
        }
        Next::GiveUp { reason } => {
            meters.failed();
            warn!(
                delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number, outcome,
                "Gave up {} after attempt {number} ended with {outcome}: {}", due.event_id, reason.code()
            );
        }
    }
}

/// What an attempt says about how much its endpoint can bear.
fn told_by(attempted: &Attempted) -> Told {
    match &attempted.outcome {
        outcome if outcome.is_success() => Told::Well,
        Outcome::Expired => Told::Nothing,
        outcome if outcome.is_ours() => Told::Nothing,
        Outcome::Timeout(_) | Outcome::ConnectRefused | Outcome::ConnectionReset | Outcome::Unreachable => {
            Told::Overwhelmed
        }
        Outcome::Responded { status: 429 | 502..=504, .. } => Told::Overwhelmed,
        _ => Told::Refused,
    }
}

/// Until when an endpoint that is busy wants to be left alone, by everything that goes to it.
fn asked_to_wait(attempted: &Attempted, now: Timestamp) -> Option<Timestamp> {
    let busy = matches!(attempted.outcome, Outcome::Responded { status: 429 | 503, .. });
    let wait = attempted.response.as_ref()?.retry_after.filter(|_| busy)?;
    Some(now + wait)
}

fn number_of(due: &Due) -> i32 {
    due.attempt + due.other_attempts + 1
}

/// The attempt as it will be written.
fn row(due: &Due, attempted: Attempted) -> AttemptRow {
    let Attempted { outcome, started_at, duration, phases, response } = attempted;
    let advice = (!outcome.is_success()).then(|| outcome.advice());
    let (code, headers, body) = match response {
        Some(response) => {
            let headers = &response.headers;
            let headers = (!headers.is_empty()).then(|| serde_json::to_string(headers).expect("texts serialise"));
            (Some(i32::from(response.status)), headers, Some(response.body))
        }
        None => (None, None, None),
    };
    AttemptRow {
        number: number_of(due),
        started_at,
        duration_ms: i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
        outcome: outcome.code(),
        advice,
        response_code: code,
        response_headers: headers,
        response_body: body,
        phases: phases.packed(),
    }
}

fn standing_after(due: &Due, next: &Next) -> Standing {
    match next {
        Next::Delivered => Standing::Over { ended: Ended::Success, reason: None },
        Next::GiveUp { reason } => Standing::Over { ended: Ended::Failed, reason: Some(reason.code()) },
        Next::Retry { due_at, counted: true } => {
            Standing::Again { attempt: due.attempt + 1, other_attempts: due.other_attempts, due_at: *due_at }
        }
        Next::Retry { due_at, counted: false } => {
            Standing::Again { attempt: due.attempt, other_attempts: due.other_attempts + 1, due_at: *due_at }
        }
    }
}

impl Backlog {
    /// Nothing to be sent to a webhook for a while.
    fn forget_webhook(&mut self, id: WebhookId) {
        self.unpark(id);
        self.drop_waiting(id);
        self.ready.forget(id);
    }
}
