//! Puts what somebody wants sent once more into the queue, a little at a time: as much as its endpoint takes in the next
//! moments, so that a range of any length is under way and can still be stopped.

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::leases::Leases;
use crate::clock::Clock;
use crate::domain::pace::Limits;
use crate::domain::resend::kept_waiting;
use crate::store::resends::Resend;
use crate::store::{Store, StoreError};
use crate::wake::{ToResender, Wake};

/// How often ranges under way are fed.
const FEED_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether another node has begun one.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct Resender {
    pub store: Store,
    pub leases: Leases,
    pub clock: Clock,
    /// Of webhooks that have none of their own.
    pub limits: Limits,
    pub wake: Wake,
}

impl Resender {
    pub async fn run(self, mut calls: mpsc::Receiver<ToResender>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut asked = None;
        loop {
            let fed = self.feed(&stop).await.unwrap_or_else(|error| {
                warn!(%error, "What is to be resent could not be read and will be later: {error}");
                true
            });
            if let Some(ToResender::Look(answer)) = asked.take() {
                // Nobody waiting any more is no reason to stop.
                let _ = answer.send(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(call) = calls.recv() => asked = Some(call),
                () = self.clock.sleep(if fed { FEED_EVERY } else { LOOK_EVERY }) => {}
            }
        }
    }

    /// Whether there is a range under way. One that cannot be fed does not keep the others from it.
    async fn feed(&self, stop: &CancellationToken) -> Result<bool, StoreError> {
        let mut fed = false;
        for (resend, rate) in self.store.operator_running_resends().await? {
            if self.leases.lease(resend.shard).is_none() {
                continue;
            }
            fed = true;
            let limits = Limits { rate: rate.or(self.limits.rate), ..self.limits };
            let most = kept_waiting(limits.resends(), FEED_EVERY);
            match self.feed_one(resend, most, stop).await {
                Ok(()) => {}
                Err(StoreError::Overtaken) => debug!("A range of resends was changed; it goes on as it says now"),
                Err(error) => warn!(%error, "A range could not be put into the queue and will be later: {error}"),
            }
        }
        Ok(fed)
    }

    async fn feed_one(&self, mut resend: Resend, most: u32, stop: &CancellationToken) -> Result<(), StoreError> {
        loop {
            let fed = self.store.feed_resend(&resend, most, self.clock.now()).await?;
            if fed.queued > 0 {
                counter!("pulsehook_resends_total").increment(fed.queued.unsigned_abs());
                self.wake.queue_changed(resend.shard).await;
            }
            if !fed.is_hungry || stop.is_cancelled() {
                return Ok(());
            }
            resend.cursor = fed.cursor;
        }
    }
}
