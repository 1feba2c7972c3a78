//! Removes what has outlived its retention, in small batches, so that nobody waits for it.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::analytics::sqlite::Analytics;
use crate::clock::Clock;
use crate::domain::baseline::HISTORY;
use crate::domain::ids::EventId;
use crate::domain::time::Timestamp;
use crate::store::Store;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the size of the queue is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
const BATCH: i64 = 500;
const IDEMPOTENCY: Duration = Duration::from_secs(86_400);

pub struct Janitor {
    pub store: Store,
    pub analytics: Analytics,
    pub clock: Clock,
    pub retention: Duration,
}

impl Janitor {
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut next_sweep = self.clock.now() + LOOK_EVERY;
        loop {
            if let Err(error) = self.measure().await {
                debug!(%error, "The queue could not be measured: {error}");
            }
            if self.clock.now() >= next_sweep {
                if let Err(error) = self.sweep(&stop).await {
                    warn!(%error, "Old rows could not be removed and will be later: {error}");
                }
                next_sweep = self.clock.now() + LOOK_EVERY;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.clock.sleep(MEASURE_EVERY) => {}
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
        while !stop.is_cancelled() {
            let removed = self.store.operator_prune_events(before, first_id_of(before), BATCH).await?;
            counter!("pulsehook_pruned_total").increment(removed);
            if removed < BATCH.cast_unsigned() {
                break;
            }
        }
        self.store.operator_prune_idempotency_keys(now - IDEMPOTENCY).await?;
        self.store.operator_prune_sessions(now).await?;
        // What is usual needs its history, whatever the retention of deliveries.
        self.analytics.prune(now - self.retention.max(HISTORY + LOOK_EVERY)).await?;
        Ok(())
    }
}

/// The smallest id an event of `moment` could have: ids begin with their time.
fn first_id_of(moment: Timestamp) -> EventId {
    let millis = u64::try_from(moment.millis()).unwrap_or(0);
    EventId(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
}
