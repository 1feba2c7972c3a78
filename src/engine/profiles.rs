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
use crate::analytics::sqlite::Embedded;
use crate::clock::Clock;
use crate::domain::baseline::{HISTORY, Profile, WINDOW, WindowCount, window_start};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::wake::ToLearner;

/// How often a profile is saved. What came after is learned again after a restart, window by window.
const SAVE_EVERY: Duration = Duration::from_secs(3_600);
/// A site without history is asked for no sooner, nor is a young one whether older history was brought in.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// How often somebody asks whether there is anything to learn.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A window of ClickHouse's is closed so long after its end: rows land late.
const LANDING: Duration = Duration::from_secs(10);

/// What is known of every site that needs it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Profiles(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    profiles: HashMap<SiteId, Profile>,
    /// When the history of a site was last asked for, whatever came of it.
    asked_at: HashMap<SiteId, Timestamp>,
    saved_at: HashMap<SiteId, Timestamp>,
}

impl Profiles {
    /// Shows what is known of a site.
    pub fn with<T>(&self, site_id: SiteId, look: impl FnOnce(Option<&Profile>) -> T) -> T {
        look(self.0.read().unwrap_or_else(PoisonError::into_inner).profiles.get(&site_id))
    }

    fn until(&self, site_id: SiteId) -> Option<Timestamp> {
        self.with(site_id, |profile| profile.map(|profile| profile.until))
    }

    fn put(&self, site_id: SiteId, profile: Profile) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).profiles.insert(site_id, profile);
    }

    /// Learns from windows that follow what is known. Nothing is learned twice.
    fn step(&self, site_id: SiteId, windows: &[WindowCount], zone: &TimeZone) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(profile) = known.profiles.get_mut(&site_id) else { return };
        for window in windows {
            if window.start == profile.until {
                profile.step(*window, zone);
            }
        }
    }

    /// The profile, when it is time to save it.
    fn to_save(&self, site_id: SiteId, now: Timestamp) -> Option<Profile> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_due = known.saved_at.get(&site_id).is_none_or(|saved_at| now.since(*saved_at) >= SAVE_EVERY);
        known.profiles.get(&site_id).filter(|_| is_due).cloned()
    }

    fn saved(&self, site_id: SiteId, now: Timestamp) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).saved_at.insert(site_id, now);
    }

    /// Whether its history was asked for a moment ago.
    fn was_asked_for(&self, site_id: SiteId, now: Timestamp) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.asked_at.get(&site_id).is_some_and(|asked_at| now.since(*asked_at) < ASK_AGAIN_AFTER)
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

    /// Brings the profiles of sites with a trigger that needs one up to the last window that has closed.
    pub async fn learn_what_is_due(&self, catalog: &mut Catalog) -> anyhow::Result<()> {
        if self.store.catalog_version().await? != catalog.version || catalog.sites.is_empty() {
            *catalog = Catalog::new(self.store.watched().await?);
        }
        let now = self.clock.now();
        let watched = catalog.sites.iter().filter(|(_, site)| site.needs_a_profile());
        match &self.analytics {
            Analytics::Embedded(embedded) => {
                let closed = window_start(now);
                let behind = |site_id: SiteId| self.profiles.until(site_id).is_none_or(|until| until < closed);
                for (site_id, site) in watched.filter(|(site_id, _)| behind(**site_id)) {
                    self.follow(embedded, *site_id, site, closed, now).await?;
                    self.save(*site_id, site, now).await?;
                }
            }
            Analytics::ClickHouse(clickhouse) => {
                // Each node learns what it judges by.
                let ours = watched.filter(|(_, site)| self.leases.lease(site.shard).is_some());
                let ours: HashMap<_, _> = ours.map(|(site_id, site)| (*site_id, site)).collect();
                self.follow_together(clickhouse, &ours, now).await?;
            }
        }
        Ok(())
    }

    async fn save(&self, site_id: SiteId, site: &WatchedSite, now: Timestamp) -> anyhow::Result<()> {
        if let Some(profile) = self.profiles.to_save(site_id, now) {
            self.store.save_profile(site.account_id, site_id, &profile, now).await?;
            self.profiles.saved(site_id, now);
        }
        Ok(())
    }

    /// Learns the windows that closed since, or everything when nothing is known or older history has appeared.
    async fn follow(
        &self,
        embedded: &Embedded,
        site_id: SiteId,
        site: &WatchedSite,
        closed: Timestamp,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let known =
            self.profiles.with(site_id, |profile| profile.map(|known| (known.began, known.until, known.is_young())));
        let oldest = window_start(now - HISTORY);
        if let Some((began, until, is_young)) = known
            && until >= oldest
        {
            let asks = is_young && !self.profiles.was_asked_for(site_id, now);
            let first = if asks { embedded.first_hit_at(site_id).await? } else { None };
            if asks {
                self.profiles.asked_for(&[site_id], now);
            }
            if first.is_none_or(|first| window_start(first).max(oldest) >= began) {
                let windows = embedded.window_counts(site_id, until, closed, WINDOW).await?;
                self.profiles.step(site_id, &windows, &site.zone);
                return Ok(());
            }
        }
        let Some(first) = embedded.first_hit_at(site_id).await? else { return Ok(()) };
        let windows = embedded.window_counts(site_id, window_start(first).max(oldest), closed, WINDOW).await?;
        if let Some(profile) = Profile::learn(&windows, &site.zone) {
            debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
            self.profiles.put(site_id, profile);
        }
        Ok(())
    }

    /// All that are due from one statement: it reads the same parts of the table for one site as for all. Young sites are
    /// learned anew, so that history which was brought in later counts.
    async fn follow_together(
        &self,
        clickhouse: &ClickHouse,
        sites: &HashMap<SiteId, &WatchedSite>,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let closed = window_start(now - LANDING);
        let oldest = window_start(now - HISTORY);
        let (mut anew, mut behind) = (Vec::new(), Vec::new());
        let mut since = closed;
        for site_id in sites.keys() {
            let known = self.profiles.with(*site_id, |profile| profile.map(|known| (known.until, known.is_young())));
            match known {
                Some((until, _)) if until >= closed => {}
                Some((until, false)) if until >= oldest => {
                    behind.push(*site_id);
                    since = since.min(until);
                }
                _ if self.profiles.was_asked_for(*site_id, now) => {}
                _ => anew.push(*site_id),
            }
        }
        if !anew.is_empty() {
            let mut learned = Vec::new();
            clickhouse
                .histories(Sites(&anew), oldest, closed, WINDOW, |site_id, windows| {
                    let Some(site) = sites.get(&site_id) else { return };
                    learned.extend(Profile::learn(windows, &site.zone).map(|profile| (site_id, profile)));
                })
                .await?;
            self.profiles.asked_for(&anew, now);
            for (site_id, profile) in learned {
                debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
                self.profiles.put(site_id, profile);
            }
        }
        if !behind.is_empty() {
            let mut counts: HashMap<SiteId, HashMap<Timestamp, u32>> = HashMap::new();
            clickhouse
                .histories(Sites(&behind), since, closed, WINDOW, |site_id, windows| {
                    let counted = windows.iter().map(|window| (window.start, window.visitors));
                    counts.insert(site_id, counted.collect());
                })
                .await?;
            for site_id in &behind {
                let Some((site, until)) = sites.get(site_id).zip(self.profiles.until(*site_id)) else { continue };
                let counted = counts.remove(site_id).unwrap_or_default();
                let mut start = until;
                let mut windows = Vec::new();
                while start < closed {
                    windows.push(WindowCount { start, visitors: counted.get(&start).copied().unwrap_or(0) });
                    start = start + WINDOW;
                }
                self.profiles.step(*site_id, &windows, &site.zone);
            }
        }
        for site_id in anew.iter().chain(&behind) {
            if let Some(site) = sites.get(site_id) {
                self.save(*site_id, site, now).await?;
            }
        }
        Ok(())
    }
}
