//! Writes outcomes, as many at once as have come in while the commit before was under way.

use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::mpsc;
use tracing::warn;

use super::leases::Leases;
use crate::clock::Clock;
use crate::domain::ids::EventId;
use crate::store::outcomes::Settled;
use crate::store::shards::Lease;
use crate::store::{Store, StoreError};

/// Most outcomes one commit takes.
const BATCH: usize = 2_000;
/// When so many came in during a commit, the next one waits a little for more: half as many commits cost a tenth less.
const MANY: usize = 64;
const GATHER: Duration = Duration::from_millis(5);
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
}

impl Settler {
    /// Runs until the dispatcher is gone and everything it passed on is written.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        while self.outcomes.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() >= MANY {
                self.clock.sleep(GATHER).await;
                while batch.len() < BATCH
                    && let Ok(settled) = self.outcomes.try_recv()
                {
                    batch.push(settled);
                }
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

    /// Does not return before the outcomes are written or have become somebody else's.
    async fn write(&self, batch: &mut Vec<Settled>) {
        let mut pause = FIRST_PAUSE;
        // The store writes them in this order, which is the one in which they lie.
        batch.sort_unstable_by_key(|settled| settled.event_id);
        while !batch.is_empty() {
            let failure = match self.store.settle(self.leases.node(), &leases_of(batch), batch, self.clock.now()).await
            {
                Ok(()) => return,
                Err(StoreError::LeaseLost) => self.leave_out_what_is_not_ours(batch).await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failure {
                counter!("pulsehook_settle_failures_total").increment(1);
                warn!(%error, "{} outcomes could not be written and are kept: {error}", batch.len());
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                if let Err(error) = self.leave_out_what_is_written(batch).await {
                    warn!(%error, "The database does not tell what it has: {error}");
                }
            }
        }
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
