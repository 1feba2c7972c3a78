//! Keeps our accounts, sites and goals what the Plausible beside us says they are. One node does: the one that works for
//! the first shard.
//!
//! What cannot be read is left as it is known: a Plausible that is away for an hour changes nothing here.

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::leases::Leases;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::directory::plausible::Plausible;
use crate::domain::mirror::Changes;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};
use crate::wake::{ToMirror, Wake};

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What goes on going wrong is said this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Whoever works for this shard does it for everybody.
const SHARD: i32 = 0;

pub struct Mirror {
    pub store: Store,
    pub plausible: Plausible,
    pub leases: Leases,
    pub clock: Clock,
    pub chance: Chance,
    pub wake: Wake,
}

impl Mirror {
    pub async fn run(self, mut calls: mpsc::Receiver<ToMirror>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut asked = None;
        let mut complained_at: Option<Timestamp> = None;
        loop {
            match self.look().await {
                Ok(()) => complained_at = None,
                Err(error) => {
                    let now = self.clock.now();
                    counter!("pulsehook_mirror_failures_total").increment(1);
                    if complained_at.is_none_or(|at| now.since(at) >= COMPLAIN_EVERY) {
                        error!("Plausible's sites and goals cannot be followed; what is known stays: {error:#}");
                        complained_at = Some(now);
                    }
                }
            }
            if let Some(ToMirror::Look(answer)) = asked.take() {
                // Nobody waiting any more is no reason to stop.
                let _ = answer.send(());
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(call) = calls.recv() => asked = Some(call),
                () = self.clock.sleep(LOOK_EVERY) => {}
            }
        }
        self.plausible.close().await;
        Ok(())
    }

    /// Reads both and changes what differs.
    async fn look(&self) -> anyhow::Result<()> {
        let Some(lease) = self.leases.lease(SHARD) else { return Ok(()) };
        let now = self.clock.now();
        let truth = self.plausible.truth(now).await?;
        let known = self.store.mirrored().await?;
        anyhow::ensure!(
            known.sites.is_empty() || !truth.owners.is_empty() || !truth.sites.is_empty(),
            "Plausible's database is empty, and its sites were there before; is plausible_database_url the right one?"
        );
        let changes = Changes::between(&known, &truth);
        if changes.is_empty() {
            return Ok(());
        }
        let id = || self.chance.uuid_v7(now);
        let touched = match self.store.mirror(self.leases.node(), lease, &changes, now, id).await {
            // Whoever works for the shard now has looked, or will.
            Err(StoreError::LeaseLost) => return Ok(()),
            outcome => outcome?,
        };
        self.wake.webhooks_changed(&touched).await;
        tell(&changes);
        Ok(())
    }
}

fn tell(changes: &Changes) {
    for (account, turned) in &changes.accounts {
        if *turned {
            let state = if account.suspended { "suspended" } else { "resumed" };
            info!(account.id = %account.id, "Account {} is {state}, as its team is in Plausible", account.name);
        }
    }
    info!(
        sites.new = changes.new_sites.len(),
        sites.changed = changes.sites.len(),
        sites.gone = changes.forgotten_sites.len(),
        goals.new = changes.new_goals.len(),
        goals.gone = changes.forgotten_goals.len(),
        "Followed Plausible: {} sites are new, {} changed and {} gone; {} goals came and {} went",
        changes.new_sites.len(),
        changes.sites.len(),
        changes.forgotten_sites.len(),
        changes.new_goals.len(),
        changes.forgotten_goals.len()
    );
}
