//! Puts what somebody wants sent once more into the queue, a little at a time: as much as its endpoint takes in the next
//! moments, so that a range of any length is under way and can still be stopped.

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::leases::Leases;
use crate::clock::Clock;
use crate::domain::pace::Limits;
use crate::domain::resend::kept_waiting;
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
            let fed = self.feed().await.unwrap_or_else(|error| {
                warn!(%error, "Deliveries to be resent could not be put into the queue and will be later: {error}");
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

    /// Whether there is a range under way.
    async fn feed(&self) -> Result<bool, StoreError> {
        let mut fed = false;
        for (resend, rate) in self.store.operator_running_resends().await? {
            if self.leases.lease(resend.shard).is_none() {
                continue;
            }
            fed = true;
            let limits = Limits { rate: rate.or(self.limits.rate), ..self.limits };
            let most = kept_waiting(limits.resends(), FEED_EVERY);
            match self.store.feed_resend(&resend, most, self.clock.now()).await {
                Ok(0) => {}
                Ok(queued) => {
                    counter!("pulsehook_resends_total").increment(queued);
                    self.wake.queue_changed(resend.shard).await;
                }
                Err(StoreError::Overtaken) => {
                    info!(webhook.id = %resend.webhook_id, "Resend {} was changed and goes on or not as it says now", resend.id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fed)
    }
}
