//! Notices in traffic that others write: asks ClickHouse what is there, again and again, and reports what is new.
//!
//! Rows have no id, whole-second times, and land late and out of order, so each step asks about everything of the last
//! minute, and once a minute of the last ten: for the rows of the seconds that are new, for a digest of each one before, and
//! then for the rows of those whose digest is not that of the rows read last. A row is known by a hash of what is in it and
//! by its second; how many like it were reported is remembered ([`View`]), and the difference is what is new. The table only
//! grows, so a count never falls: a replica that lags shows less for a while and harms nothing. The counts commit with the
//! events, under the leases of the shards, so a crash repeats what was not committed and nothing else.
//!
//! One step, top to bottom, is [`Poller::step`]: four statements at most, whatever the number of sites and triggers, and one
//! more for every fifty filters of spikes and drops. What ClickHouse does not answer is not known; it is never taken for
//! zero, and is made up for later ([`CATCH_UP`]).

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::catalog::{Catalog, Memory, Scope};
use super::completions::{CountedName, Found};
use super::firing::{Firing, Seen};
use super::late::Late;
use super::leases::Leases;
use super::news::{Counts, News, Reports, View, Waiting};
use crate::analytics::AnalyticsError;
use crate::analytics::clickhouse::{Asked, ClickHouse, Digest, Seconds, Sites, Visitors};
use crate::clock::Clock;
use crate::domain::ids::{SiteId, TriggerId};
use crate::domain::time::Timestamp;
use crate::store::catalog::Selection;
use crate::store::observations::{Gap, Looked, Reported};
use crate::store::outbox::Step;
use crate::store::shards::{Lease, SHARDS};
use crate::store::{Store, StoreError};
use crate::wake::{Answer, ToEvaluator};

/// Rows land so late as a rule: Plausible writes every five seconds, and its nodes and replicas lag.
const OVERLAP: Duration = Duration::from_secs(60);
/// And so late in most places: more rows of the newest second that was read are likely then.
const STILL_COMING: Duration = Duration::from_secs(10);
/// Once a minute everything is asked for that is not older than this.
pub const SWEEP: Duration = Duration::from_secs(600);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// What nobody looked at for a while is made up for so far back. What is older is stale news; it is noted as a gap.
pub const CATCH_UP: Duration = Duration::from_secs(900);
/// How long it is remembered what was reported: as long as it may be met again.
const REMEMBERED: Duration = Duration::from_secs(900 + 600 + 300);
/// How often it is saved how far was looked: that writes every shard, whatever fired.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// How long gaps are shown.
const GAPS_FOR: Duration = Duration::from_secs(30 * 86_400);
/// The part of its time that ClickHouse is to spend on us at most, as a divisor.
const BUDGET: u32 = 4;
/// How long it is left alone at most when it does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a step is repeated at once when somebody was faster.
const OVERTAKEN_IN_A_ROW: usize = 3;

/// What the poller works with.
pub struct Poller {
    pub store: Store,
    pub clickhouse: ClickHouse,
    pub leases: Leases,
    pub clock: Clock,
    pub interval: Duration,
    pub firing: Firing,
}

/// What it knows between two steps. All of it can be read again.
struct Knowledge {
    catalog: Catalog,
    questions: Questions,
    memories: HashMap<TriggerId, Memory>,
    /// By shard, of the shards this node works for.
    views: foldhash::HashMap<i32, View>,
    /// By second, what all its rows were made of that were read for these views and this catalog.
    digests: HashMap<i64, Digest>,
    visitors: HashMap<Scope, Visitors>,
    /// Memory for the rows of the next step.
    waiting: Waiting,
    swept_at: Timestamp,
    saved_at: Timestamp,
}

/// What is asked for of the sites of these views: it changes with those and with the catalog.
#[derive(Default)]
struct Questions {
    /// Sites with spikes or drops.
    with_changes: Vec<SiteId>,
    /// Those of them of which all visitors are counted.
    unfiltered: Vec<SiteId>,
    /// And what else is counted of any.
    filtered: Vec<Scope>,
    /// Sites whose hits may complete something.
    with_completions: Vec<SiteId>,
    /// The names of hits somebody watches.
    names: Vec<String>,
    /// Whether it matters where hits were.
    with_place: bool,
    /// The shards of all of these.
    shards: HashSet<i32>,
}

/// What was read in a step.
struct Read<'a> {
    found: Vec<Found<'a, u64>>,
    counts: Vec<Counts>,
    waiting: Waiting,
    /// By second, what the rows were made of.
    digests: HashMap<i64, Digest>,
    visitors: HashMap<Scope, Visitors>,
    /// What nobody will look at any more.
    gaps: Vec<Gap>,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Analytics(#[from] AnalyticsError),
}

impl StepError {
    /// Somebody else was faster, and nothing is wrong.
    fn is_overtaken(&self) -> bool {
        matches!(self, Self::Store(StoreError::Overtaken | StoreError::LeaseLost))
    }
}

impl Poller {
    pub async fn run(self, mut calls: mpsc::Receiver<ToEvaluator>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut knowledge: Option<Knowledge> = None;
        let mut late = Late::default();
        let mut answers: Vec<Answer> = Vec::new();
        let mut failing_since: Option<Timestamp> = None;
        let mut failures: u32 = 0;
        // Nodes that start together do not ask together.
        let mut next = self.clock.now() + self.interval.mul_f64(self.firing.chance.unit());
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                call = calls.recv() => match call {
                    // What is known is compared with the configuration's version at the beginning of every step.
                    Some(ToEvaluator::ConfigurationChanged(answer)) => {
                        self.refresh(&mut knowledge).await;
                        let _ = answer.send(());
                        continue;
                    }
                    Some(ToEvaluator::Look(answer)) => answers.push(answer),
                    None => break,
                },
                () = self.clock.sleep_until(next) => {}
            }
            let began = self.clock.now();
            let spent_before = self.clickhouse.time_spent();
            let outcome = self.look(&mut knowledge, &mut late).await;
            let spent = self.clickhouse.time_spent().saturating_sub(spent_before);
            let mut wait = self.interval.max(spent * BUDGET);
            match outcome {
                Ok(()) => {
                    failures = 0;
                    if let Some(since) = failing_since.take() {
                        let seconds = self.clock.now().since(since).as_secs();
                        info!("The traffic can be looked at again after {seconds} s");
                    }
                }
                Err(cause) => {
                    counter!("pulsehook_evaluations_total", "result" => "failed").increment(1);
                    failures += 1;
                    match (&cause, failing_since) {
                        (StepError::Analytics(AnalyticsError::Refused(_)), None) => {
                            error!(%cause, "The traffic cannot be looked at until somebody mends this: {cause}");
                        }
                        (_, None) => warn!(%cause, "The traffic cannot be looked at and is made up for later: {cause}"),
                        (_, Some(_)) => {}
                    }
                    failing_since.get_or_insert(began);
                    wait = wait.max((self.interval * 2u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE));
                }
            }
            gauge!("pulsehook_analytics_unknown_seconds")
                .set(failing_since.map_or(0.0, |since| self.clock.now().since(since).as_secs_f64()));
            next = began + wait;
            for answer in answers.drain(..) {
                // Nobody waiting any more is no reason to stop.
                let _ = answer.send(());
            }
        }
        Ok(())
    }

    /// One step, repeated when somebody was faster.
    async fn look(&self, knowledge: &mut Option<Knowledge>, late: &mut Late) -> Result<(), StepError> {
        let mut overtaken = 0;
        loop {
            let mut known = match knowledge.take() {
                Some(known) => known,
                None => self.learn().await?,
            };
            match self.step(&mut known).await {
                Ok(()) => {
                    *knowledge = Some(known);
                    // It is for a metric: whatever goes wrong with it does not make a step fail.
                    late.look(&self.clickhouse, self.clock.now()).await;
                    return Ok(());
                }
                Err(error) if error.is_overtaken() && overtaken < OVERTAKEN_IN_A_ROW => overtaken += 1,
                Err(error) => {
                    // What ClickHouse does not answer changes nothing of what is known.
                    *knowledge = matches!(error, StepError::Analytics(_)).then_some(known);
                    return Err(error);
                }
            }
        }
    }

    /// Reads what is there, decides, commits, hands over.
    async fn step(&self, known: &mut Knowledge) -> Result<(), StepError> {
        let started = self.clock.monotonic();
        let now = self.clock.now();
        self.take_over(known, now).await?;
        let sweeps = now.since(known.swept_at) >= SWEEP_EVERY;
        // Whether the configuration is still what is known of it is asked meanwhile; where it is not, what was read is
        // dropped.
        let read = loop {
            let waiting = std::mem::take(&mut known.waiting);
            let (version, read) = tokio::join!(self.store.catalog_version(), self.read(known, waiting, now, sweeps));
            if version? == known.catalog.version {
                break read?;
            }
            self.read_catalog(known).await?;
        };
        let Read { found, counts, waiting, digests, visitors, gaps } = read;
        let mut step = Step::default();
        let moment = |found: &Found<'_, u64>| {
            format!("{}-{:016x}:{}", found.tally.first_at.secs(), found.rows, CountedName(found.by.counted().1))
        };
        // No row is noticed before it was written, and some are written while they are asked for.
        let noticed_at = self.clock.now();
        self.firing.add_completions(&mut step, found, moment, noticed_at);
        let memories = self.judge(known, &visitors, &mut step, now).await?;
        let looked = self.clock.monotonic().saturating_sub(started);
        histogram!("pulsehook_look_seconds").record(looked.as_secs_f64());
        self.commit(known, step, counts, gaps, now).await?;
        for view in known.views.values_mut() {
            view.looked_until = now;
        }
        known.memories.extend(memories);
        known.digests.extend(digests);
        known.visitors = visitors;
        known.waiting = waiting;
        if sweeps {
            // Now and then it is given back: what one long text needed is not kept for ever.
            known.waiting = Waiting::default();
            known.swept_at = now;
            self.forget(known, now).await?;
        }
        counter!("pulsehook_evaluations_total", "result" => "ok").increment(1);
        histogram!("pulsehook_evaluation_seconds").record(self.clock.monotonic().saturating_sub(started).as_secs_f64());
        Ok(())
    }

    /// Asks for hits and visitors of the sites that are watched here, and says what nobody will look at any more.
    async fn read<'a>(
        &self,
        known: &'a Knowledge,
        waiting: Waiting,
        now: Timestamp,
        sweeps: bool,
    ) -> Result<Read<'a>, AnalyticsError> {
        let oldest = known.views.values().map(|view| view.looked_until).min().unwrap_or(now);
        let overlap = if sweeps { SWEEP } else { OVERLAP };
        let since = (oldest - OVERLAP).min(now - overlap).max(now - CATCH_UP - OVERLAP);
        let fresh = known.first_fresh_second(oldest).max(since.secs());
        let mut news = News::new(&known.catalog, &known.views, waiting);
        let (visitors, digests) =
            tokio::try_join!(self.visitors(known, now), self.hits(known, since.secs()..fresh, &mut news))?;
        let watched = known.views.values().filter(|view| known.questions.shards.contains(&view.lease.shard));
        let gaps = watched.filter_map(|view| {
            let until_at = now - CATCH_UP;
            let gap = Gap { shard: view.lease.shard, from_at: view.looked_until, until_at };
            (view.looked_until < until_at).then_some(gap)
        });
        let gaps: Vec<_> = gaps.collect();
        if let Some(gap) = gaps.first() {
            warn!(
                "Nobody looked at the traffic from {} until {}: what happened then is not reported",
                gap.from_at, gap.until_at
            );
        }
        let (found, counts, waiting) = news.into_parts();
        Ok(Read { found, counts, waiting, digests, visitors, gaps })
    }

    /// Who is on the sites with spikes and drops.
    async fn visitors(&self, known: &Knowledge, now: Timestamp) -> Result<HashMap<Scope, Visitors>, AnalyticsError> {
        let Questions { unfiltered, filtered, .. } = &known.questions;
        let mut visitors = HashMap::new();
        if !unfiltered.is_empty() {
            let of_sites = self.clickhouse.visitors(Sites(unfiltered), now).await?;
            visitors.extend(of_sites.into_iter().map(|(site_id, seen)| (Scope::of_site(site_id), seen)));
        }
        if !filtered.is_empty() {
            let scopes = || filtered.iter().filter_map(|scope| Some((scope, known.catalog.filter_of(scope)?)));
            let asked: Vec<_> = scopes().map(|(scope, filter)| (scope.site_id, filter)).collect();
            let seen = self.clickhouse.visitors_like(&asked, now).await?;
            visitors.extend(scopes().map(|(scope, _)| scope.clone()).zip(seen));
        }
        Ok(visitors)
    }

    /// Shows `news` the rows since the end of `before`, and those of the seconds in it that add up to something else than
    /// what was read of them. Answers what was shown of each second.
    async fn hits(
        &self,
        known: &Knowledge,
        before: Range<i64>,
        news: &mut News<'_>,
    ) -> Result<HashMap<i64, Digest>, AnalyticsError> {
        let Questions { with_completions, names, with_place, .. } = &known.questions;
        if with_completions.is_empty() || names.is_empty() {
            return Ok(HashMap::new());
        }
        let of = Asked { sites: Sites(with_completions), names, with_place: *with_place };
        let fresh = Seconds::Since(before.end);
        let (there, mut shown) = tokio::try_join!(
            self.clickhouse.digests(of, before),
            self.clickhouse.hits(of, fresh, |row| news.take_in(row)),
        )?;
        let moved = there.into_iter().filter(|(second, digest)| known.digests.get(second) != Some(digest));
        let moved: Vec<_> = moved.map(|(second, _)| second).collect();
        shown.extend(self.clickhouse.hits(of, Seconds::Only(&moved), |row| news.take_in(row)).await?);
        Ok(shown)
    }

    /// Adds to `step` what spike triggers make of their sites' visitors. Answers what they remember afterwards.
    async fn judge(
        &self,
        known: &Knowledge,
        visitors: &HashMap<Scope, Visitors>,
        step: &mut Step,
        now: Timestamp,
    ) -> Result<Vec<(TriggerId, Memory)>, AnalyticsError> {
        let mut memories = Vec::new();
        for site_id in &known.questions.with_changes {
            let Some(site) = known.catalog.sites.get(site_id) else { continue };
            let seen = |scope: &Scope| {
                let seen = visitors.get(scope).copied().unwrap_or_default();
                let is_news = known.visitors.get(scope).copied().unwrap_or_default() != seen;
                Some(Seen { current: seen.current, previous: seen.previous, open: seen.open, is_news })
            };
            let judged = site.judge(seen, &self.firing.profiles, &known.memories, now);
            for mut judged in judged {
                let trigger_id = site.changes[judged.position].trigger.id;
                let before = known.memories.get(&trigger_id).copied().unwrap_or_default();
                self.firing.add_judged(step, *site_id, site, before, &mut judged, now).await?;
                memories.push((trigger_id, judged.memory));
            }
        }
        Ok(memories)
    }

    /// Makes a step durable and passes on what is owed now. A step without news is saved now and then.
    async fn commit(
        &self,
        known: &mut Knowledge,
        step: Step,
        counts: Vec<Counts>,
        gaps: Vec<Gap>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut reported = Vec::new();
        for ((shard, secs, identity), count) in counts.into_iter().flatten() {
            let Some(view) = known.views.get(&shard) else { continue };
            if count > view.reported.of(secs, identity) {
                reported.push(Reported { shard, at: Timestamp::from_micros(secs * 1_000_000), identity, count });
            }
        }
        let is_due = now.since(known.saved_at) >= SAVE_EVERY;
        if known.views.is_empty() || (step.is_empty() && reported.is_empty() && gaps.is_empty() && !is_due) {
            return Ok(());
        }
        let leases = known.views.values().map(|view| view.lease).collect();
        // Whoever looks next from there knows what was reported since.
        let until = (is_due || !gaps.is_empty()).then_some(now);
        let looked = Looked { leases, until, catalog_version: known.catalog.version, reported, gaps };
        let owed = self.store.observe(self.leases.node(), &step, &looked, now).await?;
        known.saved_at = until.unwrap_or(known.saved_at);
        for row in looked.reported {
            if let Some(view) = known.views.get_mut(&row.shard) {
                view.reported.set(row.at.secs(), row.identity, row.count);
            }
        }
        self.firing.announce(step.fired, owed).await;
        Ok(())
    }

    /// Begins with the shards this node works for by now, and leaves the others.
    async fn take_over(&self, known: &mut Knowledge, now: Timestamp) -> Result<(), StoreError> {
        let held: HashMap<i32, Lease> =
            (0..SHARDS).filter_map(|shard| Some((shard, self.leases.lease(shard)?))).collect();
        let before = known.views.len();
        known.views.retain(|shard, view| held.get(shard) == Some(&view.lease));
        if held.len() == known.views.len() {
            if known.views.len() < before {
                known.questions = Questions::about(&known.catalog, &known.views);
            }
            return Ok(());
        }
        let looked_until: HashMap<i32, Option<Timestamp>> =
            self.store.looked_until(self.leases.node()).await?.into_iter().collect();
        for (shard, lease) in held {
            if known.views.contains_key(&shard) {
                continue;
            }
            let looked_until = looked_until.get(&shard).copied().flatten();
            let mut reported = Reports::default();
            // Where nobody ever looked nothing can have been reported.
            if looked_until.is_some() {
                for row in self.store.operator_reported(shard, now - REMEMBERED).await? {
                    reported.set(row.at.secs(), row.identity, row.count);
                }
            }
            let looked_until = looked_until.unwrap_or(now);
            known.views.insert(shard, View { lease, looked_until, reported });
        }
        known.questions = Questions::about(&known.catalog, &known.views);
        // Who reports for a shard has it known that somebody looked.
        known.saved_at = Timestamp::EPOCH;
        // What landed late while they were on their way is found by a sweep.
        known.swept_at = Timestamp::EPOCH;
        known.digests.clear();
        // Whoever had them moved the states on.
        self.read_memories(known).await
    }

    async fn forget(&self, known: &mut Knowledge, now: Timestamp) -> Result<(), StoreError> {
        let before = now - REMEMBERED;
        let secs = before.secs();
        for view in known.views.values_mut() {
            view.reported.forget_before(secs);
        }
        known.digests.retain(|at, _| *at >= secs);
        let shards: Vec<_> = known.views.keys().copied().collect();
        self.store.operator_forget_reported(&shards, before, now - GAPS_FOR).await?;
        Ok(())
    }

    async fn learn(&self) -> Result<Knowledge, StoreError> {
        let mut known = Knowledge {
            catalog: Catalog::default(),
            questions: Questions::default(),
            memories: HashMap::new(),
            views: foldhash::HashMap::default(),
            digests: HashMap::new(),
            visitors: HashMap::new(),
            waiting: Waiting::default(),
            // A new beginning looks back as far as a sweep does.
            swept_at: Timestamp::EPOCH,
            saved_at: Timestamp::EPOCH,
        };
        self.read_catalog(&mut known).await?;
        Ok(known)
    }

    async fn read_catalog(&self, known: &mut Knowledge) -> Result<(), StoreError> {
        let watched = self.store.watched(Selection::All).await?;
        known.catalog = std::mem::take(&mut known.catalog).renewed(watched);
        known.questions = Questions::about(&known.catalog, &known.views);
        known.digests.clear();
        self.read_memories(known).await
    }

    async fn read_memories(&self, known: &mut Knowledge) -> Result<(), StoreError> {
        for (trigger_id, fired, state) in self.store.operator_trigger_states().await? {
            let state = serde_json::from_str(&state).unwrap_or_default();
            known.memories.insert(trigger_id, Memory { fired, state });
        }
        let triggers = known.catalog.triggers();
        known.memories.retain(|id, _| triggers.contains(id));
        Ok(())
    }

    /// Reads the configuration now. If it cannot be read, everything is read again with the next step.
    async fn refresh(&self, knowledge: &mut Option<Knowledge>) {
        if let Some(known) = knowledge
            && self.read_catalog(known).await.is_err()
        {
            *knowledge = None;
        }
    }
}

impl Knowledge {
    /// The first second of which rows are read without asking whether anything changed: the newest of which any were read, as
    /// long as more of it may come as a rule, or the one after it. `looked_at` is when the last look was.
    fn first_fresh_second(&self, looked_at: Timestamp) -> i64 {
        let Some(newest) = self.digests.keys().max().copied() else { return 0 };
        if newest >= (looked_at - STILL_COMING).secs() { newest } else { newest + 1 }
    }
}

impl Questions {
    fn about(catalog: &Catalog, views: &foldhash::HashMap<i32, View>) -> Self {
        let mut questions = Self { names: catalog.names_wanted(), ..Self::default() };
        for (site_id, site) in catalog.sites.iter().filter(|(_, site)| views.contains_key(&site.shard)) {
            questions.shards.insert(site.shard);
            if !site.changes.is_empty() {
                questions.with_changes.push(*site_id);
            }
            for (scope, filter) in &site.scopes {
                match filter {
                    Some(_) => questions.filtered.push(scope.clone()),
                    None => questions.unfiltered.push(*site_id),
                }
            }
            if !site.completions.is_empty() {
                questions.with_completions.push(*site_id);
            }
            questions.with_place |= site.has_filters;
        }
        questions
    }
}

impl Catalog {
    /// The names hits can have that somebody watches, for their own sake or because they complete a goal.
    fn names_wanted(&self) -> Vec<String> {
        let goals = self.sites.values().filter(|site| site.wants_goals()).flat_map(|site| site.goals.goals());
        let names = goals.map(|goal| goal.kind.hit_name());
        let events = self.sites.values().flat_map(|site| site.by_event.keys().map(String::as_str));
        let names: std::collections::BTreeSet<_> = names.chain(events).collect();
        names.into_iter().map(str::to_owned).collect()
    }
}
