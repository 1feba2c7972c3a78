//! Learns what is usual for each site, in the background, and answers what is expected now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::catalog::{Catalog, Scope, WatchedSite};
use super::leases::Leases;
use crate::analytics::Analytics;
use crate::analytics::clickhouse::{ClickHouse, Sites};
use crate::clock::Clock;
use crate::domain::baseline::{HISTORY, Profile, WINDOW, WindowCount, window_start};
use crate::domain::filter::Filter;
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::store::catalog::Selection;
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
    profiles: HashMap<Scope, Profile>,
    /// When their history was last asked for, whatever came of it.
    asked_at: HashMap<Scope, Timestamp>,
    saved_at: HashMap<SiteId, Timestamp>,
}

impl Profiles {
    /// Shows what is known of somebody's visitors.
    pub fn with<T>(&self, scope: &Scope, look: impl FnOnce(Option<&Profile>) -> T) -> T {
        look(self.0.read().unwrap_or_else(PoisonError::into_inner).profiles.get(scope))
    }

    fn until(&self, scope: &Scope) -> Option<Timestamp> {
        self.with(scope, |profile| profile.map(|profile| profile.until))
    }

    fn put(&self, scope: Scope, profile: Profile) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).profiles.insert(scope, profile);
    }

    /// Forgets what was learned for a filter that nobody has any more.
    fn keep_only(&self, wanted: &HashSet<Scope>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |scope: &Scope| scope.filters.is_none() || wanted.contains(scope);
        known.profiles.retain(|scope, _| is_wanted(scope));
        known.asked_at.retain(|scope, _| is_wanted(scope));
    }

    /// Learns from windows that follow what is known. Nothing is learned twice.
    fn step(&self, scope: &Scope, windows: &[WindowCount], zone: &TimeZone) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(profile) = known.profiles.get_mut(scope) else { return };
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
        known.profiles.get(&Scope::of_site(site_id)).filter(|_| is_due).cloned()
    }

    fn saved(&self, site_id: SiteId, now: Timestamp) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).saved_at.insert(site_id, now);
    }

    /// Whether their history was asked for a moment ago.
    fn was_asked_for(&self, scope: &Scope, now: Timestamp) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.asked_at.get(scope).is_some_and(|asked_at| now.since(*asked_at) < ASK_AGAIN_AFTER)
    }

    fn asked_for(&self, scopes: impl IntoIterator<Item = Scope>, now: Timestamp) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.asked_at.extend(scopes.into_iter().map(|scope| (scope, now)));
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
            Ok(known) => {
                known.into_iter().for_each(|(site_id, profile)| self.profiles.put(Scope::of_site(site_id), profile));
            }
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
        if self.store.catalog_version().await? != catalog.version || catalog.version == 0 {
            let watched = self.store.watched(Selection::Changes).await?;
            *catalog = std::mem::take(catalog).renewed(watched);
        }
        let now = self.clock.now();
        // In ClickHouse each node learns what it judges by; a file has the hits of its own.
        let (closed, everybody) = match &self.analytics {
            Analytics::Embedded(_) => (window_start(now), true),
            Analytics::ClickHouse(_) => (window_start(now - LANDING), false),
        };
        let is_ours = |site: &WatchedSite| everybody || self.leases.lease(site.shard).is_some();
        let mut together = HashMap::new();
        let mut alone = Vec::new();
        for site in catalog.sites.values().filter(|site| is_ours(site)) {
            for (scope, filter) in site.to_be_profiled() {
                if scope.filters.is_none() && !everybody {
                    together.insert(scope.site_id, site);
                } else {
                    alone.push((scope, filter, site));
                }
            }
        }
        let wanted = alone.iter().map(|(scope, ..)| (*scope).clone()).collect();
        for (scope, filter, site) in alone {
            if self.profiles.until(scope).is_none_or(|until| until < closed) {
                self.follow(scope, filter, site, closed, now).await?;
                self.save(scope, site, now).await?;
            }
        }
        self.profiles.keep_only(&wanted);
        if let Analytics::ClickHouse(clickhouse) = &self.analytics {
            self.follow_together(clickhouse, &together, now).await?;
        }
        Ok(())
    }

    /// What is usual behind a filter is learned anew after a restart: it is one history read for one trigger.
    async fn save(&self, scope: &Scope, site: &WatchedSite, now: Timestamp) -> anyhow::Result<()> {
        let Scope { site_id, filters: None } = *scope else { return Ok(()) };
        if let Some(profile) = self.profiles.to_save(site_id, now) {
            self.store.save_profile(site.account_id, site_id, &profile, now).await?;
            self.profiles.saved(site_id, now);
        }
        Ok(())
    }

    /// Learns the windows that closed since, or everything when nothing is known or older history has appeared.
    async fn follow(
        &self,
        scope: &Scope,
        filter: Option<&Filter>,
        site: &WatchedSite,
        closed: Timestamp,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let site_id = scope.site_id;
        let known =
            self.profiles.with(scope, |profile| profile.map(|known| (known.began, known.until, known.is_young())));
        let oldest = window_start(now - HISTORY);
        if let Some((began, until, is_young)) = known
            && until >= oldest
        {
            let asks = is_young && !self.profiles.was_asked_for(scope, now);
            let first = if asks { self.analytics.first_hit_at(site_id).await? } else { None };
            if asks {
                self.profiles.asked_for([scope.clone()], now);
            }
            if first.is_none_or(|first| window_start(first).max(oldest) >= began) {
                let windows = self.analytics.window_counts_of(site_id, filter, until, closed, WINDOW).await?;
                self.profiles.step(scope, &windows, &site.zone);
                return Ok(());
            }
        }
        let Some(first) = self.analytics.first_hit_at(site_id).await? else { return Ok(()) };
        let from = window_start(first).max(oldest);
        let windows = self.analytics.window_counts_of(site_id, filter, from, closed, WINDOW).await?;
        if let Some(profile) = Profile::learn(&windows, &site.zone) {
            debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
            self.profiles.put(scope.clone(), profile);
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
            let scope = Scope::of_site(*site_id);
            let known = self.profiles.with(&scope, |profile| profile.map(|known| (known.until, known.is_young())));
            match known {
                Some((until, _)) if until >= closed => {}
                Some((until, false)) if until >= oldest => {
                    behind.push(*site_id);
                    since = since.min(until);
                }
                _ if self.profiles.was_asked_for(&scope, now) => {}
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
            self.profiles.asked_for(anew.iter().copied().map(Scope::of_site), now);
            for (site_id, profile) in learned {
                debug!(site.id = %site_id, "Learned what is usual for site {site_id}");
                self.profiles.put(Scope::of_site(site_id), profile);
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
                let Some((site, until)) = sites.get(site_id).zip(self.profiles.until(&Scope::of_site(*site_id))) else {
                    continue;
                };
                let counted = counts.remove(site_id).unwrap_or_default();
                let mut start = until;
                let mut windows = Vec::new();
                while start < closed {
                    windows.push(WindowCount { start, visitors: counted.get(&start).copied().unwrap_or(0) });
                    start = start + WINDOW;
                }
                self.profiles.step(&Scope::of_site(*site_id), &windows, &site.zone);
            }
        }
        for site_id in anew.iter().chain(&behind) {
            if let Some(site) = sites.get(site_id) {
                self.save(&Scope::of_site(*site_id), site, now).await?;
            }
        }
        Ok(())
    }
}
