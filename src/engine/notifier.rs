//! Wake-ups between nodes: one notice for everything that was put into queues of other nodes within a few milliseconds, and
//! an ear for theirs. Losing one loses time, never a delivery.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock::Clock;
use crate::store::{Store, StoreError};
use crate::wake::ToDispatcher;

/// At most one notice within this time.
const DEBOUNCE: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_secs(1);

/// Notices waiting to be said; with so many on their way one more tells nobody anything new.
pub const WAITING: usize = 1_024;

/// Says what is to be said until `stop`.
pub async fn speak(
    store: Store,
    clock: Clock,
    mut outbox: mpsc::Receiver<i32>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(shard) = outbox.recv() => shard,
        };
        let mut shards = BTreeSet::from([first]);
        while let Ok(shard) = outbox.try_recv() {
            shards.insert(shard);
        }
        let shards: Vec<_> = shards.into_iter().collect();
        if let Err(error) = store.notify(&shards).await {
            debug!(%error, "Other nodes were not told and will find out by themselves: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = clock.sleep(DEBOUNCE) => {}
        }
    }
}

/// Passes on what others say until `stop`.
pub async fn listen(
    store: Store,
    clock: Clock,
    dispatcher: mpsc::Sender<ToDispatcher>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let hear = async {
            let Some(mut notices) = store.notices().await? else { return std::future::pending().await };
            loop {
                let shards = notices.next().await?;
                if dispatcher.send(ToDispatcher::Heard(shards)).await.is_err() {
                    // It is stopping, and so are we.
                    std::future::pending::<()>().await;
                }
            }
        };
        let Err(error): Result<std::convert::Infallible, StoreError> = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            heard = hear => heard,
        };
        debug!(%error, "Other nodes cannot be heard; the next sweep finds what they put into the queue: {error}");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = clock.sleep(PAUSE) => {}
        }
    }
}
