//! Removes what has outlived its retention, in small batches, so that nobody waits for it.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::analytics::Analytics;
use crate::clock::Clock;
use crate::domain::backtest::KEPT;
use crate::domain::inbox;
use crate::domain::time::Timestamp;
use crate::store::Store;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the size of the queue is measured, unless it is so long that counting takes a while.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Part of the time that measuring may take.
const MEASURE_SHARE: u32 = 100;
const BATCH: i64 = 500;
const IDEMPOTENCY: Duration = Duration::from_secs(86_400);
/// Processes nobody has seen for so long are forgotten.
const NODES: Duration = Duration::from_secs(86_400);

pub struct Janitor {
    pub store: Store,
    pub analytics: Analytics,
    pub clock: Clock,
    pub retention: Duration,
    pub audit_retention: Duration,
}

impl Janitor {
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut next_sweep = self.clock.now() + LOOK_EVERY;
        loop {
            let began = self.clock.monotonic();
            if let Err(error) = self.measure().await {
                debug!(%error, "The queue could not be measured: {error}");
            }
            let pause = MEASURE_EVERY.max((self.clock.monotonic() - began) * MEASURE_SHARE);
            if self.clock.now() >= next_sweep {
                if let Err(error) = self.sweep(&stop).await {
                    warn!(%error, "Old rows could not be removed and will be later: {error}");
                }
                next_sweep = self.clock.now() + LOOK_EVERY;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.clock.sleep(pause) => {}
            }
        }
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let depth = self.store.operator_depth().await?;
        let age = depth.oldest_due_at.map_or(Duration::ZERO, |due| self.clock.now().since(due));
        gauge!("pulsehook_queue_depth").set(depth.deliveries as f64);
        gauge!("pulsehook_queue_oldest_due_seconds").set(age.as_secs_f64());
        Ok(())
    }

    /// Removes everything that is too old by now.
    pub async fn sweep(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let now = self.clock.now();
        let before = now - self.retention;
        self.store.operator_make_days(now).await?;
        self.remove(stop, Removes::Unwanted(before)).await?;
        counter!("pulsehook_days_dropped_total").increment(self.store.operator_drop_days(before).await?);
        self.remove(stop, Removes::Old(before)).await?;
        self.remove(stop, Removes::Deleted).await?;
        self.store.operator_forget_nodes(NODES).await?;
        self.store.operator_prune_idempotency_keys(now - IDEMPOTENCY).await?;
        self.store.operator_prune_inbox(now - inbox::KEPT_FOR).await?;
        self.store.operator_prune_sessions(now).await?;
        self.store.operator_prune_invitations(now).await?;
        self.remove(stop, Removes::Noted(now - self.audit_retention)).await?;
        self.store.operator_prune_resends(before).await?;
        self.store.operator_prune_gathered().await?;
        // What is usual and back-tests need their history, whatever the retention of deliveries.
        self.analytics.prune(now - self.retention.max(KEPT + LOOK_EVERY)).await?;
        Ok(())
    }

    async fn remove(&self, stop: &CancellationToken, removes: Removes) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let removed = match removes {
                Removes::Unwanted(before) => self.store.operator_give_up_old(before, BATCH).await?,
                Removes::Old(before) => self.store.operator_prune_events(before, BATCH).await?,
                Removes::Noted(before) => self.store.operator_prune_audit(before, BATCH).await?,
                Removes::Deleted => self.store.operator_remove_deleted(BATCH).await?,
            };
            counter!("pulsehook_pruned_total").increment(removed);
            if removed < BATCH.cast_unsigned() {
                break;
            }
        }
        Ok(())
    }
}

/// What goes, a little at a time.
#[derive(Clone, Copy)]
enum Removes {
    /// Deliveries that wait for a webhook nothing is sent to.
    Unwanted(Timestamp),
    Old(Timestamp),
    /// Entries of audit logs.
    Noted(Timestamp),
    /// Deliveries of webhooks that were deleted.
    Deleted,
}
