//! Notices: reads new hits, decides, and commits what fired together with how far it has read.
//!
//! One step, top to bottom, is [`Evaluator::step`]. A step runs when hits were committed, after the rest that [`Rhythm`]
//! says, and at the latest every evaluation interval. Whatever goes wrong with the database, the evaluator forgets what it
//! knows, reads it again from where the last commit left it, and looks again: hits are read in row order and a commit
//! moves the watermark with the events, so nothing is missed and nothing is counted twice.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::catalog::{Catalog, Counted, Memory, Scope};
use super::completions::{Completions, CountedName, Found};
use super::firing::{Firing, Judged, Seen};
use super::leases::Leases;
use super::profiles::Profiles;
use super::recordings::{Recordings, looked};
use super::rhythm::Rhythm;
use crate::analytics::sqlite::{Embedded, HitSeq};
use crate::clock::Clock;
use crate::domain::hit::Hit;
use crate::domain::ids::{SiteId, TriggerId};
use crate::domain::live::{LiveWindow, SPAN};
use crate::domain::time::Timestamp;
use crate::store::catalog::Selection;
use crate::store::outbox::{Step, Watermark};
use crate::store::{Store, StoreError};
use crate::wake::{Answer, ToEvaluator};

/// Hits read at once.
const BATCH: usize = 5_000;
/// A step takes in no more hits once it has so many events to record: the first are sent while the next are recorded, and
/// PostgreSQL has room for a statement with them in memory (4 MB by default).
const EVENTS_AT_ONCE: usize = 1_000;
/// How often a look is repeated at once when somebody was faster.
const OVERTAKEN_IN_A_ROW: usize = 3;
/// How often sites without a new visit are judged.
const JUDGES_ALL_EVERY: Duration = Duration::from_secs(1);
/// How often somebody else's change of the configuration is looked for, and the watermark saved without an event.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// What the evaluator works with.
pub struct Evaluator {
    pub store: Store,
    pub analytics: Embedded,
    pub leases: Leases,
    pub clock: Clock,
    pub interval: Duration,
    pub firing: Firing,
}

/// What it knows between two steps. All of it can be read again.
#[derive(Default)]
struct Knowledge {
    catalog: Catalog,
    memories: HashMap<TriggerId, Memory>,
    live: HashMap<Scope, LiveWindow>,
    /// The last hit read.
    cursor: HitSeq,
    /// The watermark in the database: it moves from here and from nowhere else.
    saved: HitSeq,
    /// With new visits since their triggers were last looked at.
    touched: HashSet<Scope>,
    /// When every site was last judged, whatever came in.
    judged_all_at: Timestamp,
    /// What was completed in this look, once for each event.
    fired: Vec<Counted>,
}

impl Evaluator {
    pub async fn run(self, mut calls: mpsc::Receiver<ToEvaluator>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut committed = self.analytics.committed();
        let mut knowledge = self.learn_until_it_works(&stop).await;
        let mut recordings = Recordings::new(self.store.clone(), self.firing.clone(), self.clock.clone());
        let mut rhythm = Rhythm::new(self.clock.now());
        let mut last_look = self.clock.now();
        let mut last_housekeeping = last_look;
        // Whatever came in before the first look is news.
        let mut news = true;
        let mut answers: Vec<Answer> = Vec::new();
        while !stop.is_cancelled() {
            let wait = if news { rhythm.rest() } else { self.interval };
            let mut outcome = Ok(());
            tokio::select! {
                () = stop.cancelled() => break,
                call = calls.recv() => {
                    let Some(call) = call else { break };
                    outcome = self.answer(call, &mut calls, &mut knowledge, &mut recordings, &mut answers).await;
                    if answers.is_empty() && outcome.is_ok() {
                        continue;
                    }
                    // Whoever asks wants to know of every site.
                    knowledge.judged_all_at = Timestamp::EPOCH;
                }
                changed = committed.changed(), if !news => {
                    if changed.is_err() {
                        break;
                    }
                    news = true;
                    // The first hit after a pause is looked at right away.
                    if self.clock.now().since(last_look) < rhythm.rest() {
                        continue;
                    }
                }
                ended = recordings.over(), if !recordings.is_empty() => match ended {
                    Ok(()) => continue,
                    Err(error) => outcome = Err(error.into()),
                },
                () = self.clock.sleep_until(last_look + wait) => {}
            }
            let began = self.clock.now();
            let housekeeping = began.since(last_housekeeping) >= HOUSEKEEPING;
            if housekeeping {
                last_housekeeping = began;
            }
            committed.mark_unchanged();
            news = false;
            if outcome.is_ok() {
                outcome = self.look(&mut knowledge, &mut recordings, housekeeping).await;
            }
            if outcome.is_ok() && !answers.is_empty() {
                outcome = recordings.over().await.map_err(LookError::from);
            }
            for _ in 0..OVERTAKEN_IN_A_ROW {
                let Err(LookError::Store(StoreError::Overtaken)) = outcome else { break };
                outcome = self.look_anew(&mut knowledge, &mut recordings, housekeeping, &stop).await;
            }
            if let Err(error) = outcome {
                warn!(%error, "A look at the traffic failed and will be repeated: {error}");
                counter!("pulsehook_evaluations_total", "result" => "failed").increment(1);
                let _ = recordings.over().await;
                self.pause(&stop).await;
                knowledge = self.learn_until_it_works(&stop).await;
                news = true;
            }
            last_look = self.clock.now();
            rhythm.looked(std::mem::take(&mut knowledge.fired).into_iter(), last_look);
            for answer in answers.drain(..) {
                let _ = answer.send(());
            }
        }
        let _ = recordings.over().await;
        Ok(())
    }

    /// Somebody changed what is watched, or looks at the same hits: what is known is old, and nothing is wrong. Whether that
    /// is so again shows when all is recorded.
    async fn look_anew(
        &self,
        knowledge: &mut Knowledge,
        recordings: &mut Recordings,
        housekeeping: bool,
        stop: &CancellationToken,
    ) -> Result<(), LookError> {
        let _ = recordings.over().await;
        *knowledge = self.learn_until_it_works(stop).await;
        self.look(knowledge, recordings, housekeeping).await?;
        Ok(recordings.over().await?)
    }

    /// Acts on calls; `answers` has those who want a look now. The configuration is read once for all who wait for that,
    /// however many changes they made.
    async fn answer(
        &self,
        call: ToEvaluator,
        calls: &mut mpsc::Receiver<ToEvaluator>,
        knowledge: &mut Knowledge,
        recordings: &mut Recordings,
        answers: &mut Vec<Answer>,
    ) -> Result<(), LookError> {
        let mut changed = Vec::new();
        for call in std::iter::once(call).chain(std::iter::from_fn(|| calls.try_recv().ok())) {
            match call {
                ToEvaluator::ConfigurationChanged(answer) => changed.push(answer),
                ToEvaluator::Look(answer) => answers.push(answer),
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let outcome = self.refresh_catalog(knowledge, recordings).await;
        // Where it cannot be read what is known is forgotten, so no step uses what was before either.
        for answer in changed {
            // Nobody waiting any more is no reason to stop.
            let _ = answer.send(());
        }
        outcome
    }

    /// Steps until every committed hit is read.
    async fn look(
        &self,
        knowledge: &mut Knowledge,
        recordings: &mut Recordings,
        housekeeping: bool,
    ) -> Result<(), LookError> {
        if housekeeping && self.store.catalog_version().await? != knowledge.catalog.version {
            self.refresh_catalog(knowledge, recordings).await?;
        }
        // What is read late is read together with what comes in meanwhile.
        recordings.over().await?;
        while self.step(knowledge, recordings).await? {}
        if housekeeping && knowledge.saved != knowledge.cursor {
            recordings.over().await?;
            let step = Step { watermark: self.watermark(knowledge, knowledge.cursor), ..Step::default() };
            self.store.record(step, self.clock.now()).await?;
            knowledge.saved = knowledge.cursor;
        }
        Ok(())
    }

    /// Reads a batch of hits, decides, has it recorded and handed over. Whether there may be more to read.
    async fn step(&self, knowledge: &mut Knowledge, recordings: &mut Recordings) -> Result<bool, LookError> {
        let started = self.clock.monotonic();
        let hits = self.analytics.hits_after(knowledge.cursor, BATCH).await?;
        // No hit is noticed before it happened.
        let now = self.clock.now();
        let Knowledge { catalog, live, touched, .. } = knowledge;
        let (completions, taken) = take_in(&hits, catalog, live, touched);
        knowledge.fired.extend(completions.counted());
        let more = hits.len() == BATCH || taken < hits.len();
        let last = hits[..taken].last().map_or(knowledge.cursor, |(seq, _)| *seq);
        let mut step = Step::default();
        let mut memories = Vec::new();
        let moment = |found: &Found<'_, RangeInclusive<HitSeq>>| {
            moment(self.analytics.source(), &found.rows, CountedName(found.by.counted().1))
        };
        self.firing.add_completions(&mut step, completions.into_vec(), moment, now);
        for (site_id, mut judged) in knowledge.judge(now, &self.leases, &self.firing.profiles) {
            let site = &knowledge.catalog.sites[&site_id];
            let trigger_id = site.changes[judged.position].trigger.id;
            let before = knowledge.memories.get(&trigger_id).copied().unwrap_or_default();
            self.firing.add_judged(&mut step, site_id, site, before, &mut judged, now).await?;
            memories.push((trigger_id, judged.memory));
        }
        if step.is_empty() {
            looked(self.clock.monotonic().saturating_sub(started));
        } else {
            step.watermark = self.watermark(knowledge, last);
            // What is known is ahead of the database until that is over. Should it fail all of it is forgotten.
            recordings.begin(step, now, started).await?;
            knowledge.saved = last;
        }
        knowledge.memories.extend(memories);
        knowledge.cursor = last;
        Ok(more)
    }

    /// The watermark's way to `to`, if there is any.
    fn watermark(&self, knowledge: &Knowledge, to: HitSeq) -> Option<Watermark> {
        let source = self.analytics.source().to_owned();
        let catalog_version = knowledge.catalog.version;
        (knowledge.saved != to).then_some(Watermark { source, from: knowledge.saved.0, to: to.0, catalog_version })
    }

    /// Reads everything again, from where the last commit left it.
    async fn learn(&self) -> Result<Knowledge, LookError> {
        let mut knowledge =
            Knowledge { catalog: Catalog::new(self.store.watched(Selection::All).await?), ..Knowledge::default() };
        for (trigger_id, fired, state) in self.store.operator_trigger_states().await? {
            let state = serde_json::from_str(&state).unwrap_or_default();
            knowledge.memories.insert(trigger_id, Memory { fired, state });
        }
        let newest = self.analytics.last_seq().await?;
        knowledge.saved = HitSeq(self.store.operator_watermark(self.analytics.source(), newest.0).await?);
        // Beyond the newest hit means that an older copy of the file was put back.
        knowledge.cursor = knowledge.saved.min(newest);
        let scopes = knowledge.catalog.scopes();
        self.fill(&mut knowledge, scopes).await?;
        Ok(knowledge)
    }

    /// Reads what is watched now. Hits that were looked at before and came to nothing may mean something now: they are
    /// looked at again, unless there are none.
    async fn refresh_catalog(&self, knowledge: &mut Knowledge, recordings: &mut Recordings) -> Result<(), LookError> {
        recordings.over().await?;
        if knowledge.saved != knowledge.cursor {
            *knowledge = self.learn().await?;
            return Ok(());
        }
        let before = knowledge.catalog.scopes();
        let watched = self.store.watched(Selection::All).await?;
        knowledge.catalog = std::mem::take(&mut knowledge.catalog).renewed(watched);
        let after = knowledge.catalog.scopes();
        knowledge.live.retain(|scope, _| after.contains(scope));
        let triggers = knowledge.catalog.triggers();
        // A trigger that is not watched now may be again; its memory is in the database.
        if triggers.iter().any(|id| !knowledge.memories.contains_key(id)) {
            for (trigger_id, fired, state) in self.store.operator_trigger_states().await? {
                let state = serde_json::from_str(&state).unwrap_or_default();
                knowledge.memories.insert(trigger_id, Memory { fired, state });
            }
        }
        knowledge.memories.retain(|id, _| triggers.contains(id));
        self.fill(knowledge, after.difference(&before).cloned().collect()).await
    }

    /// Loads the last ten minutes of those whose visitors were not watched before.
    async fn fill(&self, knowledge: &mut Knowledge, scopes: HashSet<Scope>) -> Result<(), LookError> {
        let now = self.clock.now();
        if scopes.iter().any(|scope| scope.filters.is_none()) {
            for (site_id, at, visitor) in self.analytics.visits_since(now - SPAN).await? {
                let scope = Scope::of_site(site_id);
                if scopes.contains(&scope) {
                    knowledge.live.entry(scope).or_default().add(at, visitor);
                }
            }
        }
        for scope in &scopes {
            let Some(filter) = knowledge.catalog.filter_of(scope) else { continue };
            let until = now + Duration::from_secs(1);
            for hit in self.analytics.visits_like(scope.site_id, filter, now - SPAN, until).await? {
                knowledge.live.entry(scope.clone()).or_default().add(hit.at, hit.visitor);
            }
        }
        knowledge.touched.extend(scopes);
        Ok(())
    }

    async fn learn_until_it_works(&self, stop: &CancellationToken) -> Knowledge {
        loop {
            match self.learn().await {
                Ok(knowledge) => return knowledge,
                Err(error) => warn!(%error, "What is watched could not be read and will be tried again: {error}"),
            }
            self.pause(stop).await;
            if stop.is_cancelled() {
                return Knowledge::default();
            }
        }
    }

    async fn pause(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.clock.sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Analytics(#[from] crate::analytics::AnalyticsError),
}

impl Knowledge {
    /// Looks at the spikes and drops of sites with new visits and, once a second, at those of all sites: visitors leave
    /// without a hit, and some wait to be armed again. Only what changed is answered.
    fn judge(&mut self, now: Timestamp, leases: &Leases, profiles: &Profiles) -> Vec<(SiteId, Judged)> {
        let mut touched = std::mem::take(&mut self.touched);
        let all = now.since(self.judged_all_at) >= JUDGES_ALL_EVERY;
        let sites: HashSet<SiteId> = if all {
            self.judged_all_at = now;
            self.catalog.sites.keys().copied().collect()
        } else {
            touched.iter().map(|scope| scope.site_id).collect()
        };
        let mut changed = Vec::new();
        for site_id in sites {
            let Some(site) = self.catalog.sites.get(&site_id).filter(|site| !site.changes.is_empty()) else { continue };
            for (scope, _) in &site.scopes {
                let Some(live) = self.live.get_mut(scope) else { continue };
                let before = live.current();
                live.advance(now);
                if live.current() != before {
                    touched.insert(scope.clone());
                }
            }
            let seen = |scope: &Scope| {
                let live = self.live.get(scope);
                // Somebody else may see its visitors; whoever works for it says when nobody does.
                if live.is_none() && leases.lease(site.shard).is_none() {
                    return None;
                }
                Some(Seen {
                    current: live.map_or(0, LiveWindow::current),
                    previous: live.map_or(0, LiveWindow::previous),
                    open: live.map_or(0, LiveWindow::open),
                    is_news: touched.contains(scope),
                })
            };
            let judged = site.judge(seen, profiles, &self.memories, now);
            changed.extend(judged.into_iter().map(|judged| (site_id, judged)));
        }
        if all {
            self.live.retain(|_, live| !live.is_empty());
        }
        changed
    }
}

/// Names what was counted in these hits. Hits are numbered by the file they are in, and each node has its own. A name is written
/// twice for every event, so it is short: of a file's name as much as no two will share. And it sorts by the first of the hits,
/// so that names lie where the index grows.
fn moment(source: &str, rows: &RangeInclusive<HitSeq>, counted: CountedName) -> String {
    let (first, last) = (rows.start().0, rows.end().0);
    format!("{source:.12}:{first:011x}+{:x}:{counted}", last - first)
}

/// Adds visits to the live windows and counts completions, until there are enough. Answers those, and how many of the hits it
/// took in.
fn take_in<'a>(
    hits: &[(HitSeq, Arc<Hit>)],
    catalog: &'a Catalog,
    live: &mut HashMap<Scope, LiveWindow>,
    touched: &mut HashSet<Scope>,
) -> (Completions<'a, RangeInclusive<HitSeq>>, usize) {
    let mut found = Completions::default();
    for (taken, (seq, hit)) in hits.iter().enumerate() {
        if found.len() >= EVENTS_AT_ONCE {
            return (found, taken);
        }
        let Some(site) = catalog.sites.get(&hit.site_id) else { continue };
        if hit.counts_as_visit() {
            for (scope, filter) in &site.scopes {
                if filter.as_ref().is_none_or(|filter| filter.lets_through(hit)) {
                    live.entry(scope.clone()).or_default().add(hit.at, hit.visitor);
                    touched.insert(scope.clone());
                }
            }
        }
        for wanted in site.wanted(hit, |since| since, |_| true) {
            let rows = found.count(wanted, hit, *seq..=*seq);
            *rows = *rows.start()..=*seq;
        }
    }
    (found, hits.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::GoalId;

    #[test]
    fn names_of_later_hits_sort_behind_those_of_earlier_ones_and_no_two_are_the_same() {
        let of = |source, first, last, goal| {
            moment(source, &(HitSeq(first)..=HitSeq(last)), CountedName(Some(GoalId(goal))))
        };
        let here = "640cfe53e095aa3d5d3af01ee6694741";
        let in_order = [
            of(here, 9, 9, 1),
            of(here, 9, 10, 1),
            of(here, 10, 10, 1),
            of(here, 10, 10, 2),
            of(here, 10, 1_000, 1),
            of(here, 1_000_000_000_000, 1_000_000_000_001, 1),
            of("740cfe53e095aa3d5d3af01ee6694741", 1, 1, 1),
        ];
        assert!(in_order.is_sorted_by(|a, b| a < b), "{in_order:?}");
        let event = moment(here, &(HitSeq(9)..=HitSeq(9)), CountedName(None));
        assert_eq!(event, "640cfe53e095:00000000009+0:event");
    }
}
