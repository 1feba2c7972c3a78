//! Sees what no single hit shows: a site that sends nothing, a goal that is not completed any more, a count that passes a
//! round number, and that nothing can be seen at all. It also tells the batches that are due.
//!
//! One look, top to bottom, is [`Lookout::look`]: it gathers what there is to see ([`sight`]), asks of each trigger whether
//! its trouble is there, gone or unknown ([`condition`](crate::domain::condition)), and commits what begins and ends with what
//! the triggers remember of it. What the analytics store does not answer is unknown, and unknown begins and ends nothing
//! but the trouble that it does not answer. Of two nodes that look, the one whose commit comes second is refused.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use metrics::histogram;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::sight::{Open, Sight};
use super::catalog::{Catalog, CompletionTrigger, ConditionTrigger, WatchedSite};
use super::firing::Firing;
use super::leases::Leases;
use crate::analytics::Analytics;
use crate::clock::Clock;
use crate::domain::condition::{Edge, Remembered, Sign, Trouble, edge, milestone};
use crate::domain::decide::Incident;
use crate::domain::event::{Addressee, Data, Event};
use crate::domain::goal::Goal;
use crate::domain::ids::{EventId, SiteId, TriggerId};
use crate::domain::tally::Counted;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{ErrorCondition, Milestone, Settings};
use crate::store::catalog::Selection;
use crate::store::gathered::{Batched, Fate, Part, SETTLED_AT_ONCE};
use crate::store::outbox::{Fired, StateChange, Step};
use crate::store::{Store, StoreError};
use crate::wake::{Answer, ToLookout};

mod sight;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A batch of so many parts is folded into one.
const FOLDED: i64 = 50;
/// The part of its time that looking may take, as a divisor.
const BUDGET: u32 = 4;

pub struct Lookout {
    pub store: Store,
    pub analytics: Analytics,
    pub leases: Leases,
    /// Whether shards are shared out to this node; one that only takes hits looks at those it took.
    pub shares_work: bool,
    pub clock: Clock,
    pub firing: Firing,
}

/// What it knows between two looks. All of it can be read again.
struct Known {
    catalog: Catalog,
    kept: HashMap<TriggerId, Kept>,
    sight: Sight,
}

/// What a trigger remembers, and how often that changed.
#[derive(Clone, Default)]
struct Kept {
    fired: i64,
    state: Remembered,
}

/// A trigger as it is looked at.
#[derive(Clone, Copy)]
struct Watched<'a> {
    site_id: SiteId,
    site: &'a WatchedSite,
    watched: &'a ConditionTrigger,
}

impl Lookout {
    pub async fn run(self, mut calls: mpsc::Receiver<ToLookout>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut known = Known {
            catalog: Catalog::default(),
            kept: HashMap::new(),
            sight: Sight::new(&self.analytics, self.clock.clone()),
        };
        let mut asked: Option<Answer> = None;
        loop {
            let began = self.clock.monotonic();
            match self.look(&mut known).await {
                Ok(()) => {}
                // What is known of the triggers is old; the next look reads it again.
                Err(StoreError::Overtaken) => known.catalog = Catalog::default(),
                Err(error) => {
                    warn!(%error, "What no hit shows could not be looked at and will be later: {error}");
                    known.catalog = Catalog::default();
                }
            }
            if let Some(answer) = asked.take() {
                // Nobody waiting any more is no reason to stop.
                let _ = answer.send(());
            }
            let spent = self.clock.monotonic().saturating_sub(began);
            histogram!("pulsehook_lookout_seconds").record(spent.as_secs_f64());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(ToLookout::Look(answer)) = calls.recv() => asked = Some(answer),
                () = self.clock.sleep(LOOK_EVERY.max(spent * BUDGET)) => {}
            }
        }
    }

    async fn look(&self, known: &mut Known) -> Result<(), StoreError> {
        let now = self.clock.now();
        if self.store.catalog_version().await? != known.catalog.version || known.catalog.version == 0 {
            self.read(known).await?;
        }
        self.settle_batches(known, now).await?;
        let here = known.catalog.sites.iter().filter(|(_, site)| !site.conditions.is_empty() && self.is_ours(site));
        let here: Vec<_> = here.map(|(id, site)| (*id, site)).collect();
        if here.is_empty() {
            return Ok(());
        }
        let open = known.kept.iter().flat_map(|(id, kept)| kept.state.incidents.keys().map(|trouble| (*id, *trouble)));
        let open: Open = open.collect();
        if let Err(error) = known.sight.look(&self.analytics, &here, &open, now).await
            && known.sight.failing_since() == Some(now)
        {
            warn!(%error, "Nobody can tell what happens on the sites: {error}");
        }
        let mut step = Step::default();
        let mut changed: HashMap<TriggerId, Kept> = HashMap::new();
        for (site_id, site) in here {
            for watched in &site.conditions {
                let trigger_id = watched.trigger.id;
                let mut kept = known.kept.get(&trigger_id).cloned().unwrap_or_default();
                let before = kept.fired;
                let watched = Watched { site_id, site, watched };
                self.judge(watched, &known.sight, &mut kept, &mut step, now);
                if kept.fired != before {
                    changed.insert(trigger_id, kept);
                }
            }
        }
        if !step.is_empty() {
            let (fired, owed) = self.store.record(step, now).await?;
            self.firing.announce(fired, owed).await;
            known.kept.extend(changed);
        }
        Ok(())
    }

    /// Tells the batches that are due, and folds those of many parts.
    async fn settle_batches(&self, known: &Known, now: Timestamp) -> Result<(), StoreError> {
        let batches = self.store.operator_batches().await?;
        if batches.is_empty() {
            return Ok(());
        }
        let mut wants = HashMap::new();
        for (site_id, site) in known.catalog.sites.iter().filter(|(_, site)| self.is_ours(site)) {
            for watched in &site.completions {
                wants.insert(watched.id, (*site_id, site, watched));
            }
        }
        let wants = Gathering { wants, firing: &self.firing, now };
        let due: Vec<_> = batches.into_iter().filter(|batch| wants.is_to_be_settled(batch)).collect();
        for batches in due.chunks(SETTLED_AT_ONCE) {
            let taken = self.store.take_batches(batches).await?;
            let mut fates = Vec::with_capacity(batches.len());
            for batch in batches {
                fates.extend(taken.parts_of(batch).map(|parts| (*batch, wants.fate(batch, parts))));
            }
            let (fired, owed) = taken.settle(fates, now).await?;
            if !fired.is_empty() {
                self.firing.announce(fired, owed).await;
            }
        }
        Ok(())
    }

    fn is_ours(&self, site: &WatchedSite) -> bool {
        !self.shares_work || self.leases.lease(site.shard).is_some()
    }

    /// Reads what is watched, and what is remembered of it.
    async fn read(&self, known: &mut Known) -> Result<(), StoreError> {
        // What waits is told also when its trigger tells at once by now.
        let watched = self.store.watched(Selection::Unseen).await?;
        let catalog = std::mem::take(&mut known.catalog).renewed(watched);
        let triggers: HashSet<_> =
            catalog.sites.values().flat_map(|site| &site.conditions).map(|watched| watched.trigger.id).collect();
        known.kept.clear();
        if !triggers.is_empty() {
            for (trigger_id, fired, state) in self.store.operator_trigger_states().await? {
                if triggers.contains(&trigger_id) {
                    let state = serde_json::from_str(&state).unwrap_or_default();
                    known.kept.insert(trigger_id, Kept { fired, state });
                }
            }
        }
        known.catalog = catalog;
        Ok(())
    }

    /// Adds to `step` what is to be said of a trigger now, and to `kept` that it was said.
    fn judge(&self, at: Watched<'_>, sight: &Sight, kept: &mut Kept, step: &mut Step, now: Timestamp) {
        match &at.watched.trigger.settings {
            Settings::NoData(settings) => {
                let seen = sight.no_data(at.site_id, settings, kept.open(Trouble::NoData), now);
                let data = |since| Data::no_data(since, &seen.silence(since), now);
                let finding = Finding { trouble: Trouble::NoData, sign: seen.sign, data: &data, goal: None };
                self.follow(at, &finding, settings.notify_end, kept, step, now);
            }
            Settings::GoalStalled(settings) => {
                // A goal that is gone stalls no more.
                let Some(goal) = at.site.goals.goal(settings.goal_id) else { return };
                let open = kept.open(Trouble::GoalStalled);
                let seen = sight.goal_stalled(at.site_id, at.site, settings, open, now);
                let data = |since| Data::goal_stalled(goal, since, &seen.silence(since), now);
                let finding = Finding { trouble: Trouble::GoalStalled, sign: seen.sign, data: &data, goal: Some(goal) };
                self.follow(at, &finding, settings.notify_end, kept, step, now);
            }
            Settings::ErrorCondition(settings) => {
                for trouble in ErrorCondition::CONDITIONS.into_iter().filter(|trouble| settings.wants(*trouble)) {
                    let sign = match trouble {
                        Trouble::AnalyticsUnreachable => sight.unreachable(settings.after, now),
                        _ => sight.stale(at.site_id, settings.after, kept.open(trouble), now),
                    };
                    let data = |since| Data::error_condition(trouble, since, now);
                    let finding = Finding { trouble, sign, data: &data, goal: None };
                    self.follow(at, &finding, settings.notify_end, kept, step, now);
                }
            }
            Settings::Milestone(settings) => self.count(at, settings, sight, kept, step, now),
            // Others see to those.
            Settings::VisitorSpike(_)
            | Settings::VisitorDrop(_)
            | Settings::GoalCompletion(_)
            | Settings::CustomEvent(_)
            | Settings::WebhookHealth(_) => {}
        }
    }

    /// Tells when a trouble begins and, where that is wanted, when it is over.
    fn follow(
        &self,
        at: Watched<'_>,
        finding: &Finding<'_>,
        notify_end: bool,
        kept: &mut Kept,
        step: &mut Step,
        now: Timestamp,
    ) {
        let before = kept.fired;
        let id = EventId(self.firing.chance.uuid_v7(now));
        let trouble = finding.trouble;
        match edge(kept.open(trouble), finding.sign) {
            Edge::None => {}
            Edge::Begins(incident) => {
                kept.fired += 1;
                kept.state.incidents.insert(trouble, Incident { event_id: Some(id), ..incident });
                let moment = format!("{}:{}", trouble.as_str(), kept.fired);
                let event = at.event(id, moment, (finding.data)(incident.started_at), now);
                step.fired.push(at.fired(event, kept.change(at, before)));
            }
            Edge::Ends(incident, ended_at) => {
                kept.fired += 1;
                kept.state.incidents.remove(&trouble);
                let change = kept.change(at, before);
                if !notify_end {
                    step.states.push(change);
                    return;
                }
                let moment = format!("{}_ended:{}", trouble.as_str(), kept.fired);
                let event = at.event(id, moment, Data::over(trouble, &incident, ended_at, finding.goal), now);
                step.fired.push(at.fired(event, change));
            }
        }
    }

    /// Tells when a count has passed a milestone.
    fn count(
        &self,
        at: Watched<'_>,
        settings: &Milestone,
        sight: &Sight,
        kept: &mut Kept,
        step: &mut Step,
        now: Timestamp,
    ) {
        let Some(counted) = sight.counted(at.site_id, at.site, at.watched, settings, now) else { return };
        let told = kept.state.milestone.as_ref();
        let reached = milestone(&settings.marks, counted.now, counted.before, told, counted.period_start);
        let Some(reached) = reached else { return };
        let before = kept.fired;
        kept.fired += 1;
        kept.state.milestone = Some(reached);
        let goal = settings.goal_id.and_then(|goal_id| at.site.goals.goal(goal_id));
        let data = Data::milestone(settings.metric, settings.period, &reached, counted.now, goal);
        // Whatever is forgotten of it, none is told twice in a period.
        let moment = format!(
            "milestone:{}:{}:{}:{}",
            settings.metric.as_str(),
            settings.period.as_str(),
            reached.period_start.secs(),
            reached.milestone
        );
        let event = at.event(EventId(self.firing.chance.uuid_v7(now)), moment, data, now);
        step.fired.push(at.fired(event, kept.change(at, before)));
    }
}

/// What becomes of batches.
struct Gathering<'a> {
    /// By the trigger: its site, and what it wants to be told.
    wants: HashMap<TriggerId, (SiteId, &'a WatchedSite, &'a CompletionTrigger)>,
    firing: &'a Firing,
    now: Timestamp,
}

impl Gathering<'_> {
    /// Whether it is due, or has many parts. One whose trigger rests waits with it.
    fn is_to_be_settled(&self, batch: &Batched) -> bool {
        self.wants.contains_key(&batch.trigger_id) && (self.is_due(batch) || batch.parts >= FOLDED)
    }

    fn is_due(&self, batch: &Batched) -> bool {
        let settings = self.wants.get(&batch.trigger_id).and_then(|(.., watched)| watched.batch);
        let count = u64::try_from(batch.count).unwrap_or(0);
        settings.is_none_or(|settings| settings.is_due(count, batch.first_at, self.now))
    }

    fn fate(&self, batch: &Batched, parts: &[Part]) -> Fate {
        let read = parts.iter().filter_map(|part| serde_json::from_str::<Counted>(&part.part).ok());
        let Some((counted, (site_id, site, watched))) = Counted::together(read).zip(self.wants.get(&batch.trigger_id))
        else {
            return Fate::Dropped;
        };
        if !self.is_due(batch) {
            return Fate::Folded(serde_json::to_string(&counted).expect("names and numbers serialise"));
        }
        let moment = format!("batch:{}", parts[0].moment);
        let goal = batch.goal_id().and_then(|goal_id| site.goals.goal(goal_id));
        if goal.is_none() && batch.goal_id().is_some() {
            return Fate::Dropped;
        }
        let id = EventId(self.firing.chance.uuid_v7(self.now));
        let fired = self.firing.completion(id, (*site_id, site), (*watched, goal), counted, moment, self.now);
        fired.map_or(Fate::Dropped, |fired| Fate::Told(Box::new(fired)))
    }
}

/// What was seen of a trouble of a trigger, and what is to be said of it.
struct Finding<'a> {
    trouble: Trouble,
    sign: Sign,
    /// Of a trouble that began then.
    data: &'a dyn Fn(Timestamp) -> Data,
    goal: Option<&'a Goal>,
}

impl Kept {
    fn open(&self, trouble: Trouble) -> Option<&Incident> {
        self.state.incidents.get(&trouble)
    }

    fn change(&self, at: Watched<'_>, before: i64) -> StateChange {
        StateChange {
            trigger_id: at.watched.trigger.id,
            account_id: at.watched.trigger.account_id,
            fired_before: before,
            fired: self.fired,
            state: serde_json::to_string(&self.state).expect("a state is plain data"),
        }
    }
}

impl Watched<'_> {
    fn event(&self, id: EventId, moment: String, data: Data, now: Timestamp) -> Event {
        let trigger = &self.watched.trigger;
        let addressee = Addressee {
            account_id: self.site.account_id,
            site_id: self.site_id,
            site_domain: &self.site.domain,
            webhook_id: trigger.webhook_id,
            format: self.watched.format,
            trigger: Some((trigger.id, trigger.settings.max_age())),
        };
        Event::new(id, &addressee, moment, data, now)
    }

    fn fired(&self, event: Event, change: StateChange) -> Fired {
        Fired {
            event,
            shard: self.site.shard,
            trigger_version: Some(self.watched.trigger.version),
            state: Some(change),
            shadow: self.watched.trigger.settings.shadow(),
        }
    }
}
