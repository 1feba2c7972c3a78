//! The one writer of a node: takes batches from the [`Spill`] in their order and inserts them, one at a time.
//!
//! A batch is inserted under its token until ClickHouse says that it is stored. What became of an insert nobody answered is
//! not asked: it is repeated, and a batch whose token is known already is not stored again.

use std::sync::Arc;
use std::time::Duration;

use ::clickhouse::Client;
use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::errors::explain;
use super::rows::INSERT;
use super::spill::{Segment, Spill};
use super::tables::Tables;
use super::{Asker, within};
use crate::analytics::{AnalyticsError, Result};
use crate::clock::Clock;

/// How long hits gather before they are sent, unless there are enough for a batch earlier.
pub const GATHER: Duration = Duration::from_secs(1);
/// Between two tries: the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of rows that are compressed and sent at once.
const PIECE: usize = 1 << 20;

/// What batches go in with: at once, whole or not at all, and never twice.
pub fn for_inserts(client: Client) -> Client {
    client
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        // History of many years may be in one batch.
        .with_setting("max_partitions_per_insert_block", "0")
}

/// Inserts rows under a token.
///
/// # Errors
/// It is not known whether they are stored: repeat it with the same rows and token.
pub async fn insert(client: &Client, query_id: String, token: &str, rows: &Bytes) -> Result<()> {
    let insert = client.insert_formatted_with(INSERT).with_setting("query_id", query_id);
    let mut insert = insert.with_setting("insert_deduplication_token", token);
    let mut at = 0;
    while at < rows.len() {
        let end = rows.len().min(at + PIECE);
        insert.send(rows.slice(at..end)).await.map_err(explain)?;
        at = end;
    }
    insert.end().await.map_err(explain)
}

pub struct Writer {
    pub client: Client,
    pub tables: Arc<Tables>,
    pub spill: Spill,
    pub clock: Clock,
    pub asker: Asker,
}

struct Meters {
    rows: Counter,
    batches: Counter,
    failures: Counter,
    bytes: Gauge,
    oldest_seconds: Gauge,
}

impl Writer {
    /// Sends what there is until it is told to stop; then everything that is left once more, as far as ClickHouse takes it.
    pub async fn run(self, stop: CancellationToken) {
        let meters = Meters::new();
        let mut pause = FIRST_PAUSE;
        let mut complaint = None;
        loop {
            self.measure(&meters);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.gather() => {}
            }
            let Some(segment) = self.spill.oldest() else { continue };
            match self.store(&segment, &meters).await {
                Ok(()) => {
                    if complaint.take().is_some() {
                        info!("ClickHouse takes events again");
                    }
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    meters.failures.increment(1);
                    let said = error.to_string();
                    if complaint.as_ref() != Some(&said) {
                        warn!(%error, "ClickHouse does not take events, which wait in {}: {error}", self.spill.folder().display());
                        complaint = Some(said);
                    }
                    self.measure(&meters);
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.clock.sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        let _ = self.spill.end_batch().await;
        while let Some(segment) = self.spill.oldest() {
            if let Err(error) = self.store(&segment, &meters).await {
                let folder = self.spill.folder().display();
                warn!(%error, "Events wait in {folder} for the next start: {error}");
                break;
            }
        }
        self.measure(&meters);
    }

    /// Returns once there is a batch to send.
    async fn gather(&self) {
        self.spill.has_hits().await;
        tokio::select! {
            () = self.spill.has_batch() => {}
            () = self.clock.sleep(GATHER) => {
                let _ = self.spill.end_batch().await;
            }
        }
    }

    async fn store(&self, segment: &Segment, meters: &Meters) -> Result<()> {
        within(&self.clock, self.tables.ready()).await?;
        let (spill, of) = (self.spill.clone(), segment.clone());
        let read = tokio::task::spawn_blocking(move || spill.read(&of)).await;
        let read = read.map_err(|error| AnalyticsError::Unavailable(error.to_string()))?;
        let (rows, count) =
            read.map_err(|error| AnalyticsError::Unavailable(format!("a batch cannot be read: {error}")))?;
        crate::failpoint::hit("spill.before_insert");
        if count > 0 {
            let (query_id, rows) = (self.asker.id("insert"), Bytes::from(rows));
            within(&self.clock, insert(&self.client, query_id, &segment.token, &rows)).await?;
        }
        crate::failpoint::hit("spill.after_insert");
        self.spill.remove(segment);
        meters.rows.increment(count as u64);
        meters.batches.increment(1);
        Ok(())
    }

    fn measure(&self, meters: &Meters) {
        meters.bytes.set(self.spill.bytes() as f64);
        let waits = self.spill.oldest_since().map_or(Duration::ZERO, |since| self.clock.now().since(since));
        meters.oldest_seconds.set(waits.as_secs_f64());
    }
}

impl Meters {
    fn new() -> Self {
        Self {
            rows: counter!("pulsehook_clickhouse_rows_total"),
            batches: counter!("pulsehook_clickhouse_batches_total"),
            failures: counter!("pulsehook_clickhouse_insert_failures_total"),
            bytes: gauge!("pulsehook_spill_bytes"),
            oldest_seconds: gauge!("pulsehook_spill_oldest_seconds"),
        }
    }
}
