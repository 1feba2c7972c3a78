//! Learns what is usual for each site, in the background, and answers what is expected now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::catalog::{Catalog, WatchedSite};
use super::leases::Leases;
use crate::analytics::Analytics;
use crate::analytics::clickhouse::{ClickHouse, Sites};
use crate::clock::Clock;
use crate::domain::baseline::{Expectation, HISTORY, Profile, WINDOW};
use crate::domain::ids::{AccountId, SiteId};
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
pub struct Profiles(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    profiles: HashMap<SiteId, Profile>,
    /// When the history of a site was last asked for, whatever came of it.
    asked_at: HashMap<SiteId, Timestamp>,
}

impl Profiles {
    pub fn expect(&self, site_id: SiteId, now: Timestamp, zone: &TimeZone) -> Option<Expectation> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).profiles.get(&site_id)?.expect(now, zone)
    }

    fn age(&self, site_id: SiteId, now: Timestamp) -> Option<(Duration, bool)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.profiles.get(&site_id).map(|profile| (now.since(profile.learned_at), profile.is_young()))
    }

    fn put(&self, site_id: SiteId, profile: Profile) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).profiles.insert(site_id, profile);
    }

    /// Whether its history was asked for a moment ago.
    fn was_asked_for(&self, site_id: SiteId, now: Timestamp) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.asked_at.get(&site_id).is_some_and(|asked_at| now.since(*asked_at) < RELEARN_YOUNG_AFTER)
    }

    fn asked_for(&self, sites: &[SiteId], now: Timestamp) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.asked_at.extend(sites.iter().map(|site_id| (*site_id, now)));
    }
}

/// The background duty.
pub struct Learner {
    pub store: Store,
    pub analytics: Analytics,
    pub leases: Leases,
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
        let now = self.clock.now();
        let needs = |site: &WatchedSite| site.spikes.iter().any(|spike| spike.spike.baseline == Baseline::Typical);
        let is_due = |site_id: SiteId| {
            let age = self.profiles.age(site_id, now);
            age.is_none_or(|(age, young)| age >= if young { RELEARN_YOUNG_AFTER } else { RELEARN_AFTER })
        };
        let due = catalog.sites.iter().filter(|(site_id, site)| needs(site) && is_due(**site_id));
        match &self.analytics {
            Analytics::Embedded(_) => {
                for (site_id, site) in due {
                    if let Some(profile) = self.learn(*site_id, &site.zone, now).await? {
                        self.keep(site.account_id, *site_id, profile, now).await?;
                    }
                }
            }
            Analytics::ClickHouse(clickhouse) => {
                // Each node learns what it judges by.
                let ours = due.filter(|(_, site)| self.leases.lease(site.shard).is_some());
                let due: HashMap<_, _> = ours.map(|(site_id, site)| (*site_id, site)).collect();
                self.learn_together(clickhouse, &due, now).await?;
            }
        }
        Ok(())
    }

    async fn keep(
        &self,
        account_id: AccountId,
        site_id: SiteId,
        profile: Profile,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        self.store.save_profile(account_id, site_id, &profile, now).await?;
        debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
        self.profiles.put(site_id, profile);
        Ok(())
    }

    /// All that are due from one statement: it reads the same parts of the table for one site as for all.
    async fn learn_together(
        &self,
        clickhouse: &ClickHouse,
        due: &HashMap<SiteId, &WatchedSite>,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        // A site nobody visits has no history; it is asked for again no sooner than one that has.
        let due: HashMap<_, _> =
            due.iter().filter(|(site_id, _)| !self.profiles.was_asked_for(**site_id, now)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = due.keys().map(|site_id| **site_id).collect();
        let until = aligned(now);
        let mut learned = Vec::new();
        clickhouse
            .histories(Sites(&ids), aligned(now - HISTORY), until, WINDOW, |site_id, windows| {
                let Some(site) = due.get(&site_id) else { return };
                learned.extend(Profile::learn(windows, &site.zone, now).map(|profile| (site_id, site, profile)));
            })
            .await?;
        self.profiles.asked_for(&ids, now);
        for (site_id, site, profile) in learned {
            self.keep(site.account_id, site_id, profile, now).await?;
        }
        Ok(())
    }

    async fn learn(&self, site_id: SiteId, zone: &TimeZone, now: Timestamp) -> anyhow::Result<Option<Profile>> {
        let Some(first) = self.analytics.first_hit_at(site_id).await? else { return Ok(None) };
        let until = aligned(now);
        let from = aligned(first.max(now - HISTORY));
        if from >= until {
            return Ok(None);
        }
        let windows = self.analytics.window_counts(site_id, from, until, WINDOW).await?;
        Ok(Profile::learn(&windows, zone, now))
    }
}

/// Where the window begins that `moment` is in. The window that is still open would look like a drop.
fn aligned(moment: Timestamp) -> Timestamp {
    let width = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(moment.micros().div_euclid(width) * width)
}
