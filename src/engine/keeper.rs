//! Keeps an eye on endpoints that fail: warns their accounts, disables those that are beyond hope, and tells the account's
//! other webhooks that asked to be told. What is due is decided by [`life::next_step`].

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::leases::Leases;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::event::{Addressee, Data, Event, HealthData};
use crate::domain::ids::EventId;
use crate::domain::life::{self, Step};
use crate::domain::time::Timestamp;
use crate::store::health::{Ailing, Told};
use crate::store::outbox::Fired;
use crate::store::shards::shard_of;
use crate::store::{Store, StoreError};
use crate::wake::{ToKeeper, Wake};

const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct Keeper {
    pub store: Store,
    pub leases: Leases,
    pub clock: Clock,
    pub chance: Chance,
    pub wake: Wake,
}

impl Keeper {
    pub async fn run(self, mut calls: mpsc::Receiver<ToKeeper>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut asked = None;
        loop {
            if let Err(error) = self.look().await {
                warn!(%error, "Failing webhooks could not be looked at and will be later: {error}");
            }
            if let Some(ToKeeper::Look(answer)) = asked.take() {
                // Nobody waiting any more is no reason to stop.
                let _ = answer.send(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(call) = calls.recv() => asked = Some(call),
                () = self.clock.sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        for ailing in self.store.operator_ailing(life::TOLD_ALL).await? {
            // One node sees to each.
            if self.leases.lease(shard_of(ailing.site_id)).is_none() {
                continue;
            }
            let told = match (ailing.disabled_reason.is_some(), life::next_step(&ailing.health, now)) {
                // Disabled by an answer of its own, such as 410.
                (true, _) => Told::Gone,
                (false, Some(Step::Disable)) => Told::GivenUp,
                (false, Some(Step::Warn { warnings })) => Told::Warned { warnings },
                (false, None) => continue,
            };
            self.tell(&ailing, told, now).await?;
        }
        Ok(())
    }

    async fn tell(&self, ailing: &Ailing, told: Told, now: Timestamp) -> Result<(), StoreError> {
        let mut fired = Vec::new();
        for listener in self.store.operator_health_listeners(ailing.account_id, ailing.webhook_id).await? {
            let addressee = Addressee {
                account_id: ailing.account_id,
                site_id: listener.site_id,
                site_domain: &listener.site_domain,
                webhook_id: listener.trigger.webhook_id,
                format: listener.format,
                trigger: Some((listener.trigger.id, listener.trigger.settings.max_age())),
            };
            let since = ailing.health.failing_since.map_or(0, Timestamp::micros);
            let moment = format!("health:{}:{since}:{}", ailing.webhook_id, told.number());
            let id = EventId(self.chance.uuid_v7(now));
            fired.push(Fired {
                event: Event::new(id, &addressee, moment, data(ailing, told, now), now),
                shard: shard_of(listener.site_id),
                trigger_version: Some(listener.trigger.version),
                state: None,
                shadow: listener.trigger.settings.shadow(),
            });
        }
        let Some(owed) = self.store.record_health(ailing, told, &fired, now).await? else {
            // It got well, or somebody changed it meanwhile.
            return Ok(());
        };
        counter!("pulsehook_webhooks_told_total", "state" => told.state().as_str()).increment(1);
        info!(
            webhook.id = %ailing.webhook_id, told = owed.len(),
            "Webhook {} is {}; {} other webhooks of the account are told", ailing.webhook_id, told.state().as_str(), owed.len()
        );
        if told == Told::GivenUp {
            self.wake.webhook_changed(ailing.webhook_id, shard_of(ailing.site_id)).await;
        }
        for fired in fired.iter().filter(|fired| owed.contains(&fired.event.id)) {
            self.wake.queue_changed(fired.shard).await;
        }
        Ok(())
    }
}

fn data(ailing: &Ailing, told: Told, now: Timestamp) -> Data {
    let failing_since = ailing.health.failing_since;
    let disabled_at = match told {
        Told::Warned { .. } => failing_since.map(|since| since + life::DISABLE_AFTER),
        Told::GivenUp | Told::Gone => Some(now),
    };
    Data::WebhookHealth(HealthData {
        failing_webhook_id: ailing.webhook_id,
        failing_webhook_name: ailing.name.clone(),
        failing_site_domain: ailing.site_domain.clone(),
        state: told.state(),
        failing_since,
        disabled_at,
        reason: ailing.disabled_reason.clone(),
    })
}
