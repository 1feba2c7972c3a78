//! Writes outcomes: a few as soon as they come, many together.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::leases::Leases;
use crate::clock::Clock;
use crate::domain::ids::EventId;
use crate::domain::time::Timestamp;
use crate::store::outcomes::Settled;
use crate::store::shards::Lease;
use crate::store::{Store, StoreError};

/// Most outcomes one commit takes.
const BATCH: usize = 2_000;
/// When so many came in within a second, each commit waits a little for more: nobody waits for an outcome, and those who
/// record events wait for every commit beside their own.
const MANY: usize = 64;
const GATHER: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An outcome that is written, or has become somebody else's.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub event_id: EventId,
    pub shard: i32,
}

pub struct Settler {
    pub store: Store,
    pub leases: Leases,
    pub clock: Clock,
    pub outcomes: mpsc::Receiver<Settled>,
    /// Not bounded: there are never more of them than outcomes that were passed on, and a settler that waits for the
    /// dispatcher while that waits for the settler would wait for ever.
    pub written: mpsc::UnboundedSender<Vec<Written>>,
    /// Somebody waits until all is written.
    pub hurry: Arc<Notify>,
    /// Nothing new is begun, so there is nothing to wait for.
    pub stop: CancellationToken,
}

/// How many outcomes came in lately.
struct Influx {
    began_at: Timestamp,
    /// In the second that runs, and in the one before it.
    counts: [usize; 2],
}

impl Influx {
    fn count(&mut self, outcomes: usize, now: Timestamp) {
        let passed = now.since(self.began_at);
        if passed >= SECOND {
            self.counts = [0, if passed < 2 * SECOND { self.counts[0] } else { 0 }];
            self.began_at = now;
        }
        self.counts[0] += outcomes;
    }

    fn is_fast(&self) -> bool {
        self.counts.iter().any(|count| *count >= MANY)
    }
}

impl Settler {
    /// Runs until the dispatcher is gone and everything it passed on is written.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut influx = Influx { began_at: self.clock.now(), counts: [0; 2] };
        while self.outcomes.recv_many(&mut batch, BATCH).await > 0 {
            let at_first = batch.len();
            influx.count(at_first, self.clock.now());
            if influx.is_fast() {
                self.gather(&mut batch).await;
                influx.count(batch.len() - at_first, self.clock.now());
            }
            let written = batch
                .iter()
                .map(|settled: &Settled| Written { event_id: settled.event_id, shard: settled.lease.shard })
                .collect();
            histogram!("pulsehook_settle_batch").record(batch.len() as f64);
            self.write(&mut batch).await;
            batch.clear();
            // The dispatcher may be gone already; nobody needs to know then.
            let _ = self.written.send(written);
        }
        Ok(())
    }

    /// Waits for more, unless somebody waits for these.
    async fn gather(&mut self, batch: &mut Vec<Settled>) {
        tokio::select! {
            () = self.clock.sleep(GATHER) => {}
            () = self.hurry.notified() => {}
            () = self.stop.cancelled() => {}
        }
        while batch.len() < BATCH
            && let Ok(settled) = self.outcomes.try_recv()
        {
            batch.push(settled);
        }
    }

    /// Does not return before the outcomes are written or have become somebody else's.
    async fn write(&self, batch: &mut Vec<Settled>) {
        let mut pause = FIRST_PAUSE;
        // The store writes them in this order, which is the one in which they lie. Each is large, so it is moved once.
        batch.sort_by_cached_key(|settled| settled.event_id);
        let mut left = Arc::new(std::mem::take(batch));
        while !left.is_empty() {
            let failure = match self.store.settle(self.leases.node(), &leases_of(&left), &left, self.clock.now()).await
            {
                Ok(()) => break,
                Err(StoreError::LeaseLost) => self.leave_out_what_is_not_ours(Arc::make_mut(&mut left)).await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failure {
                counter!("pulsehook_settle_failures_total").increment(1);
                warn!(%error, "{} outcomes could not be written and are kept: {error}", left.len());
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                if let Err(error) = self.leave_out_what_is_written(Arc::make_mut(&mut left)).await {
                    warn!(%error, "The database does not tell what it has: {error}");
                }
            }
        }
        // There is room in it for the next ones.
        *batch = Arc::into_inner(left).unwrap_or_default();
    }

    /// A commit that nobody confirmed may have happened: what is there is not written again.
    async fn leave_out_what_is_written(&self, batch: &mut Vec<Settled>) -> Result<(), StoreError> {
        let recorded = self.store.recorded_attempts(batch).await?;
        batch.retain(|settled| !recorded.contains(&(settled.event_id, settled.attempt.number)));
        Ok(())
    }

    /// Results under a lease that somebody else holds now change nothing: the new owner attempts again.
    async fn leave_out_what_is_not_ours(&self, batch: &mut Vec<Settled>) -> Result<(), StoreError> {
        let held = self.store.held_shards(self.leases.node()).await?;
        let before = batch.len();
        batch.retain(|settled| {
            held.iter().any(|lease| (lease.shard, lease.epoch) == (settled.lease.shard, settled.lease.epoch))
        });
        let late = before - batch.len();
        counter!("pulsehook_late_outcomes_total").increment(late as u64);
        warn!("{late} outcomes came after their shards had gone to another node; it will attempt them again");
        Ok(())
    }
}

fn leases_of(batch: &[Settled]) -> Vec<Lease> {
    let mut leases: Vec<_> = batch.iter().map(|settled| settled.lease).collect();
    leases.sort_unstable_by_key(|lease| (lease.shard, lease.epoch));
    leases.dedup_by_key(|lease| (lease.shard, lease.epoch));
    leases
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_000);

    #[test]
    fn many_within_a_second_are_fast_until_a_second_without() {
        let mut influx = Influx { began_at: START, counts: [0; 2] };
        influx.count(MANY - 1, START);
        assert!(!influx.is_fast());
        influx.count(1, START + SECOND / 2);
        assert!(influx.is_fast());
        influx.count(1, START + SECOND);
        assert!(influx.is_fast(), "the last second still counts");
        influx.count(1, START + SECOND * 2);
        assert!(!influx.is_fast());
        influx.count(MANY, START + SECOND * 3);
        influx.count(1, START + SECOND * 9);
        assert!(!influx.is_fast(), "long ago");
    }
}
