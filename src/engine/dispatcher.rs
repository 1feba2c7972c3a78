//! Where a delivery happens, from top to bottom: read what is due, give everybody a turn, attempt, decide what the
//! outcome means, and let the settler write it.
//!
//! One task owns all of it, so a barrier is one answer: after [`ToDispatcher::WebhookChanged`] was answered no attempt
//! starts that the old state would have allowed. Nothing is written before an attempt has an outcome; what was under way
//! when the process died is due again when the next one starts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::leases::Leases;
use super::ready::Ready;
use super::sender::Sender;
use super::settler::Verdicts;
use super::target::{Loaded, Target, Targets};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::outcome::Attempted;
use crate::domain::settle::{GiveUpReason, Next, settle};
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::store::queue::{AttemptRow, Due, Ended, News, Settled, Standing, Waiting};
use crate::store::shards::Lease;
use crate::wake::{Answer, ToDispatcher};

/// Attempts under way at once, over all webhooks.
const IN_FLIGHT: usize = 1_024;
/// Deliveries of one webhook kept in memory; the rest waits in the database.
const KEPT_PER_WEBHOOK: usize = 256;
/// Below this many more of them are read.
const REFILL_BELOW: usize = 64;
/// How often everything that waits is looked at, whatever we were told: this is the truth, wake-ups are speed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a webhook that is paused, disabled or unreadable is left alone; a change made here ends it at once.
const PARKED_FOR: Duration = Duration::from_secs(5);
/// How long what is under way may take once the process is asked to stop.
const GRACE: Duration = Duration::from_secs(20);

pub struct Dispatcher {
    pub store: Store,
    pub leases: Leases,
    pub sender: Arc<Sender>,
    pub targets: Targets,
    pub clock: Clock,
    pub chance: Chance,
    pub fresh: mpsc::Receiver<Vec<Due>>,
    pub settle: mpsc::Sender<Settled>,
    pub settled: mpsc::Receiver<Verdicts>,
}

/// What the dispatcher remembers of what is owed. The database has all of it.
#[derive(Default)]
struct Memory {
    ready: Ready,
    /// Everything in memory: waiting for its turn, under way, or being written.
    held: HashSet<EventId>,
    /// How far the queue of a webhook has been read, where there may be more.
    read_until: HashMap<WebhookId, (Waiting, (Timestamp, EventId))>,
    /// Webhooks that nothing can be sent to, and until when nobody asks again.
    parked: HashMap<WebhookId, Timestamp>,
    in_flight: usize,
    next_due_at: Option<Timestamp>,
    swept_at: Option<Timestamp>,
    /// Those who want to know when nothing is left to do.
    draining: Vec<Answer>,
}

/// An attempt that is over.
struct Finished {
    due: Due,
    lease: Lease,
    target: Arc<Target>,
    attempted: Attempted,
}

impl Dispatcher {
    pub async fn run(mut self, mut calls: mpsc::Receiver<ToDispatcher>, stop: CancellationToken) -> anyhow::Result<()> {
        let tasks = TaskTracker::new();
        let (finish, mut finished) = mpsc::channel::<Finished>(IN_FLIGHT);
        let mut memory = Memory::default();
        let mut lease_changes = self.leases.changes();
        let mut sweep_at = self.clock.now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(call) = calls.recv() => match call {
                    ToDispatcher::WebhookChanged(id, answer) => {
                        self.forget(&mut memory, id);
                        let _ = answer.send(());
                        sweep_at = self.clock.now();
                    }
                    ToDispatcher::QueueChanged => sweep_at = self.clock.now(),
                    ToDispatcher::Drain(answer) => {
                        memory.draining.push(answer);
                        memory.swept_at = None;
                        sweep_at = self.clock.now();
                    }
                },
                Some(verdicts) = self.settled.recv() => self.take_note(&mut memory, verdicts),
                Some(over) = finished.recv() => {
                    self.finish(&mut memory, over).await;
                    while let Ok(over) = finished.try_recv() {
                        self.finish(&mut memory, over).await;
                    }
                }
                Some(fresh) = self.fresh.recv() => self.take_fresh(&mut memory, fresh),
                _ = lease_changes.changed() => {
                    memory.forget_everything_waiting();
                    sweep_at = self.clock.now();
                }
                () = self.clock.sleep_until(sweep_at) => {
                    self.sweep(&mut memory).await;
                    let soon = memory.next_due_at.filter(|due| *due > self.clock.now());
                    let regular = self.clock.now() + SWEEP_EVERY;
                    sweep_at = soon.map_or(regular, |soon| soon.min(regular));
                }
            }
            self.refill(&mut memory).await;
            self.start_what_can(&mut memory, &tasks, &finish).await;
            if memory.is_idle() && !memory.draining.is_empty() && memory.swept_at.is_some() {
                // Only a sweep that finds nothing proves that nothing is left.
                self.sweep(&mut memory).await;
                self.start_what_can(&mut memory, &tasks, &finish).await;
                if memory.is_idle() {
                    for answer in memory.draining.drain(..) {
                        let _ = answer.send(());
                    }
                }
            }
        }
        self.wind_down(memory, tasks, finish, finished).await;
        Ok(())
    }

    /// Reads what has fallen due for every webhook that has room.
    async fn sweep(&self, memory: &mut Memory) {
        let now = self.clock.now();
        let waiting = match self.store.waiting().await {
            Ok(waiting) => waiting,
            Err(error) => {
                warn!(%error, "The queue could not be read: {error}");
                return;
            }
        };
        memory.swept_at = Some(now);
        memory.next_due_at = None;
        memory.parked.retain(|_, until| *until > now);
        for webhook in waiting {
            if self.leases.lease(webhook.shard).is_none() || memory.is_parked(webhook.webhook_id, now) {
                continue;
            }
            if webhook.next_due_at > now {
                let earliest = memory.next_due_at.map_or(webhook.next_due_at, |due| due.min(webhook.next_due_at));
                memory.next_due_at = Some(earliest);
                continue;
            }
            if memory.ready.waiting_for(webhook.webhook_id) < REFILL_BELOW {
                self.read(memory, webhook, (Timestamp::from_micros(i64::MIN), EventId(Uuid::nil()))).await;
            }
        }
    }

    /// Reads on where a webhook's queue is longer than what is kept in memory.
    async fn refill(&self, memory: &mut Memory) {
        let low: Vec<_> = memory
            .read_until
            .iter()
            .filter(|(id, _)| memory.ready.waiting_for(**id) < REFILL_BELOW)
            .map(|(_, position)| *position)
            .collect();
        for (webhook, after) in low {
            self.read(memory, webhook, after).await;
        }
    }

    async fn read(&self, memory: &mut Memory, webhook: Waiting, after: (Timestamp, EventId)) {
        let limit = i64::try_from(KEPT_PER_WEBHOOK).unwrap_or(i64::MAX);
        memory.read_until.remove(&webhook.webhook_id);
        match self.store.due(&webhook, self.clock.now(), after, limit).await {
            Ok(rows) => {
                if let Some(last) = rows.last().filter(|_| rows.len() == KEPT_PER_WEBHOOK) {
                    memory.read_until.insert(webhook.webhook_id, (webhook, (last.due_at, last.event_id)));
                }
                rows.into_iter().for_each(|due| memory.take(due));
            }
            Err(error) => warn!(%error, webhook.id = %webhook.webhook_id, "Due deliveries could not be read: {error}"),
        }
    }

    fn take_fresh(&self, memory: &mut Memory, fresh: Vec<Due>) {
        for due in fresh {
            if memory.ready.waiting_for(due.webhook_id) < KEPT_PER_WEBHOOK
                && !memory.is_parked(due.webhook_id, self.clock.now())
                && self.leases.lease(due.shard).is_some()
            {
                memory.take(due);
            }
        }
    }

    /// Hands out turns until nobody can take one.
    async fn start_what_can(&self, memory: &mut Memory, tasks: &TaskTracker, finish: &mpsc::Sender<Finished>) {
        while memory.in_flight < IN_FLIGHT
            && let Some(due) = memory.ready.take_turn()
        {
            let Some(lease) = self.leases.lease(due.shard) else {
                memory.put_back(&due);
                continue;
            };
            match self.targets.get(due.webhook_id).await {
                Loaded::Live(target) => self.start(memory, tasks, finish, due, lease, target),
                Loaded::NotLive => {
                    memory.put_back(&due);
                    memory.park(due.webhook_id, self.clock.now() + PARKED_FOR);
                }
                Loaded::Unknown => {
                    // The database is away; the sweep will bring it back.
                    memory.put_back(&due);
                    return;
                }
            }
        }
        gauge!("pulsehook_in_flight").set(memory.in_flight as f64);
    }

    fn start(
        &self,
        memory: &mut Memory,
        tasks: &TaskTracker,
        finish: &mpsc::Sender<Finished>,
        due: Due,
        lease: Lease,
        target: Arc<Target>,
    ) {
        memory.in_flight += 1;
        let (sender, clock, finish) = (Arc::clone(&self.sender), self.clock.clone(), finish.clone());
        tasks.spawn(async move {
            let now = clock.now();
            let attempted = match due.expires_at {
                Some(expires_at) if expires_at <= now => Attempted::expired(now),
                _ => {
                    crate::failpoint::hit("dispatcher.before_send");
                    let attempted = sender.attempt(&target.outgoing(&due, now)).await;
                    crate::failpoint::hit("dispatcher.after_send");
                    attempted
                }
            };
            // The receiver lives as long as the dispatcher, which waits for this task.
            let _ = finish.send(Finished { due, lease, target, attempted }).await;
        });
    }

    /// Decides what an outcome means and passes it on to be written.
    async fn finish(&self, memory: &mut Memory, finished: Finished) {
        let Finished { due, lease, target, attempted } = finished;
        memory.in_flight -= 1;
        memory.ready.done(due.webhook_id);
        let now = self.clock.now();
        let standing = crate::domain::settle::Standing {
            attempt: u32::try_from(due.attempt + 1).unwrap_or(u32::MAX),
            expires_at: due.expires_at,
        };
        let next = settle(&standing, &attempted, &target.schedule, self.chance.unit(), now);
        let settled = record(&due, lease, &target, &attempted, &next);
        self.report(&due, &settled, &next, now);
        if matches!(next, Next::GiveUp { reason: GiveUpReason::EndpointGone }) {
            memory.park(due.webhook_id, now + PARKED_FOR);
            self.targets.forget(due.webhook_id);
        } else {
            self.targets.note(due.webhook_id, &settled.news, now);
        }
        // A full channel means the database is slow: waiting here is what slows us down too.
        let _ = self.settle.send(settled).await;
    }

    fn report(&self, due: &Due, settled: &Settled, next: &Next, now: Timestamp) {
        let number = settled.attempt.number;
        let outcome = &settled.attempt.outcome;
        counter!("pulsehook_attempts_total", "outcome" => outcome.clone()).increment(1);
        match next {
            Next::Delivered => {
                counter!("pulsehook_deliveries_total", "result" => "delivered").increment(1);
                histogram!("pulsehook_delivery_seconds").record(now.since(due.inserted_at).as_secs_f64());
                debug!(
                    delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number,
                    "Delivered {} on attempt {number}", due.event_id
                );
            }
            Next::Retry { due_at, .. } => {
                counter!("pulsehook_deliveries_total", "result" => "retried").increment(1);
                info!(
                    delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number, outcome,
                    "Attempt {number} of {} ended with {outcome}; the next one is at {due_at}", due.event_id
                );
            }
            Next::GiveUp { reason } => {
                counter!("pulsehook_deliveries_total", "result" => "failed").increment(1);
                warn!(
                    delivery.id = %due.event_id, webhook.id = %due.webhook_id, attempt = number, outcome,
                    "Gave up {} after attempt {number} ended with {outcome}: {}", due.event_id, reason.code()
                );
            }
        }
    }

    /// What was written is not ours to remember any more.
    fn take_note(&self, memory: &mut Memory, verdicts: Verdicts) {
        for (event_id, due_at) in verdicts {
            memory.held.remove(&event_id);
            if let Some(due_at) = due_at {
                let earliest = memory.next_due_at.map_or(due_at, |earlier| earlier.min(due_at));
                memory.next_due_at = Some(earliest);
            }
        }
    }

    fn forget(&self, memory: &mut Memory, webhook_id: WebhookId) {
        self.targets.forget(webhook_id);
        memory.drop_waiting(webhook_id);
        memory.parked.remove(&webhook_id);
    }

    /// Lets what is under way finish, within reason, and passes its outcomes on.
    async fn wind_down(
        mut self,
        mut memory: Memory,
        tasks: TaskTracker,
        finish: mpsc::Sender<Finished>,
        mut finished: mpsc::Receiver<Finished>,
    ) {
        drop(finish);
        tasks.close();
        let grace = self.clock.sleep(GRACE);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                over = finished.recv() => match over {
                    Some(over) => self.finish(&mut memory, over).await,
                    None => break,
                },
                Some(verdicts) = self.settled.recv() => self.take_note(&mut memory, verdicts),
                () = &mut grace => {
                    warn!("{} attempts did not end in time; they are due again at the next start", memory.in_flight);
                    break;
                }
            }
        }
    }
}

impl Memory {
    fn take(&mut self, due: Due) {
        if self.held.insert(due.event_id) {
            self.ready.push(due);
        }
    }

    /// A turn that was not taken.
    fn put_back(&mut self, due: &Due) {
        self.held.remove(&due.event_id);
        self.ready.done(due.webhook_id);
    }

    fn park(&mut self, webhook_id: WebhookId, until: Timestamp) {
        self.drop_waiting(webhook_id);
        self.parked.insert(webhook_id, until);
    }

    fn is_parked(&self, webhook_id: WebhookId, now: Timestamp) -> bool {
        self.parked.get(&webhook_id).is_some_and(|until| *until > now)
    }

    fn drop_waiting(&mut self, webhook_id: WebhookId) {
        for dropped in self.ready.reset(webhook_id) {
            self.held.remove(&dropped);
        }
        self.read_until.remove(&webhook_id);
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.in_flight == 0 && self.read_until.is_empty()
    }

    fn forget_everything_waiting(&mut self) {
        for event_id in self.ready.clear() {
            self.held.remove(&event_id);
        }
        self.read_until.clear();
    }
}

/// The outcome as it will be written.
fn record(due: &Due, lease: Lease, target: &Target, attempted: &Attempted, next: &Next) -> Settled {
    let number = due.attempt + due.other_attempts + 1;
    let response = attempted.response.as_ref();
    let attempt = AttemptRow {
        number,
        started_at: attempted.started_at,
        duration_ms: i64::try_from(attempted.duration.as_millis()).unwrap_or(i64::MAX),
        outcome: attempted.outcome.code().to_owned(),
        advice: attempted.outcome.advice(),
        response_code: response.map(|response| i32::from(response.status)),
        response_headers: response.map(|response| serde_json::json!(response.headers).to_string()),
        response_body: response.map(|response| response.body.clone()),
    };
    let failing = target.failing_since().is_some();
    let (standing, news) = match next {
        Next::Delivered => {
            let news = if failing { News::Healthy } else { News::Nothing };
            (Standing::Over { ended: Ended::Success, reason: None }, news)
        }
        Next::Retry { due_at, counted } => {
            let (attempt, other_attempts) = match counted {
                true => (due.attempt + 1, due.other_attempts),
                false => (due.attempt, due.other_attempts + 1),
            };
            let news = if failing || !counted { News::Nothing } else { News::Failing };
            (Standing::Again { attempt, other_attempts, due_at: *due_at }, news)
        }
        Next::GiveUp { reason } => {
            let news = match reason {
                GiveUpReason::EndpointGone => News::Disable { reason: attempted.outcome.advice() },
                GiveUpReason::Expired => News::Nothing,
                _ if failing => News::Nothing,
                _ => News::Failing,
            };
            (Standing::Over { ended: Ended::Failed, reason: Some(reason.code()) }, news)
        }
    };
    Settled {
        lease,
        event_id: due.event_id,
        account_id: due.account_id,
        webhook_id: due.webhook_id,
        attempt,
        standing,
        news,
    }
}
