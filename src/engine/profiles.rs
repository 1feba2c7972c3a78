//! Learns what is usual for each site, in the background, and answers what is expected now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::catalog::Catalog;
use crate::analytics::sqlite::Analytics;
use crate::clock::Clock;
use crate::domain::baseline::{Expectation, HISTORY, Profile, WINDOW};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::Baseline;
use crate::store::Store;
use crate::wake::ToLearner;

/// How old a profile may become.
const RELEARN_AFTER: Duration = Duration::from_secs(3_600);
/// A young site changes faster.
const RELEARN_YOUNG_AFTER: Duration = Duration::from_secs(300);
/// How often somebody asks whether there is anything to learn.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of every site that needs it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Profiles(Arc<RwLock<HashMap<SiteId, Profile>>>);

impl Profiles {
    pub fn expect(&self, site_id: SiteId, now: Timestamp, zone: &TimeZone) -> Option<Expectation> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&site_id)?.expect(now, zone)
    }

    fn age(&self, site_id: SiteId, now: Timestamp) -> Option<(Duration, bool)> {
        let profiles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        profiles.get(&site_id).map(|profile| (now.since(profile.learned_at), profile.is_young()))
    }

    fn put(&self, site_id: SiteId, profile: Profile) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(site_id, profile);
    }
}

/// The background duty.
pub struct Learner {
    pub store: Store,
    pub analytics: Analytics,
    pub profiles: Profiles,
    pub clock: Clock,
}

impl Learner {
    pub async fn run(self, mut calls: mpsc::Receiver<ToLearner>, stop: CancellationToken) -> anyhow::Result<()> {
        match self.store.operator_profiles().await {
            Ok(known) => known.into_iter().for_each(|(site_id, profile)| self.profiles.put(site_id, profile)),
            Err(error) => warn!(%error, "Profiles could not be read and are learned again: {error}"),
        }
        let mut catalog = Catalog::default();
        let mut asked = None;
        loop {
            if let Err(error) = self.learn_what_is_due(&mut catalog).await {
                warn!(%error, "Profiles could not be learned and will be later: {error}");
            }
            if let Some(ToLearner::Learn(answer)) = asked.take() {
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

    /// Learns the sites with a trigger that needs it and whose profile is missing or old.
    pub async fn learn_what_is_due(&self, catalog: &mut Catalog) -> anyhow::Result<()> {
        if self.store.catalog_version().await? != catalog.version || catalog.sites.is_empty() {
            *catalog = Catalog::new(self.store.watched().await?);
        }
        for (site_id, site) in &catalog.sites {
            if !site.spikes.iter().any(|spike| spike.spike.baseline == Baseline::Typical) {
                continue;
            }
            let now = self.clock.now();
            let due = self
                .profiles
                .age(*site_id, now)
                .is_none_or(|(age, young)| age >= if young { RELEARN_YOUNG_AFTER } else { RELEARN_AFTER });
            if !due {
                continue;
            }
            if let Some(profile) = self.learn(*site_id, &site.zone, now).await? {
                self.store.save_profile(site.account_id, *site_id, &profile, now).await?;
                debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
                self.profiles.put(*site_id, profile);
            }
        }
        Ok(())
    }

    async fn learn(&self, site_id: SiteId, zone: &TimeZone, now: Timestamp) -> anyhow::Result<Option<Profile>> {
        let Some(first) = self.analytics.first_hit_at(site_id).await? else { return Ok(None) };
        // The window that is still open would look like a drop.
        let width = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
        let aligned = |moment: Timestamp| Timestamp::from_micros(moment.micros().div_euclid(width) * width);
        let until = aligned(now);
        let from = aligned(first.max(now - HISTORY));
        if from >= until {
            return Ok(None);
        }
        let windows = self.analytics.window_counts(site_id, from, until, WINDOW).await?;
        Ok(Profile::learn(&windows, zone, now))
    }
}
