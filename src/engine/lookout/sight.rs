//! What there is to see: when sites and goals were last heard of, what is usual for them, and how far counts have come.
//!
//! A silence says something only where the traffic can be seen. Time in which it could not be is not counted as silence: while
//! this process was not there to take hits, while the store did not answer, while nothing came in from any site, and for a
//! goal while its whole site was silent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::super::catalog::{ConditionTrigger, WatchedSite};
use crate::analytics::{Alike, Analytics, AnalyticsError, Totals};
use crate::clock::Clock;
use crate::domain::baseline::Sensitivity;
use crate::domain::condition::{Metric, Seen, Sign, Trouble};
use crate::domain::decide::Incident;
use crate::domain::goal::Goal;
use crate::domain::habit::{Habit, LEARN_EVERY, LEARNED, QUARTER, Quarters, Silence, learned_until, quarter_start};
use crate::domain::ids::{GoalId, SiteId, TriggerId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::{GoalStalled, Milestone, NoData, Settings};

/// Rows land late; so far is looked back again each time.
const OVERLAP: Duration = Duration::from_secs(900);
/// How often what is usual of all sites together is learned anew.
const LEARN_OF_ALL_EVERY: Duration = Duration::from_secs(3_600);
/// What happened at one moment may become visible one piece after the other, for so long: ClickHouse knows whole seconds.
const LANDS_WITHIN: Duration = Duration::from_secs(60);
/// How far back completions are counted: the longest month, or what a habit is learned from.
const COUNTED: Duration = Duration::from_secs(32 * 86_400);
/// From how many days the traffic of all sites together is learned.
const LEARNED_OF_ALL: Duration = Duration::from_secs(7 * 86_400);
/// Nothing is known of the silence before a trouble that lasted so long.
const TROUBLED: Duration = Duration::from_secs(60);
/// A count costs; it may take such a part of the time, as a divisor.
const COUNT_BUDGET: u32 = 20;

/// Troubles of triggers that were told and are not over.
pub type Open = HashSet<(TriggerId, Trouble)>;

/// Everything seen. All of it can be seen again.
pub struct Sight {
    clock: Clock,
    heard: HashMap<SiteId, Timestamp>,
    looked_at: Option<Timestamp>,
    habits: HashMap<SiteId, Learned>,
    /// Of all sites together.
    habit_of_all: Option<Learned>,
    /// Of sites whose silence says something.
    silences: HashMap<SiteId, Silence>,
    /// When sites that were silent were heard of again.
    back_at: HashMap<SiteId, Timestamp>,
    /// Sites that are silent as all others are.
    stale: HashSet<SiteId>,
    failing_since: Option<Timestamp>,
    /// What was silent before then may not have been.
    unknown_until: Timestamp,
    goals: HashMap<SiteId, Completions>,
    goal_habits: HashMap<GoalId, Learned>,
    totals: HashMap<(SiteId, Timestamp), Counting>,
    /// What milestones had come to when their triggers began.
    before: HashMap<(TriggerId, i64, Timestamp), u64>,
}

/// A habit, or that there is none, and up to when that was learned.
struct Learned {
    until: Timestamp,
    habit: Option<Habit>,
}

/// Completions of the goals of one site: how many in each quarter hour, and when the last of them was.
#[derive(Default)]
struct Completions {
    until: Timestamp,
    by_goal: HashMap<GoalId, BTreeMap<Timestamp, (u64, Timestamp)>>,
}

struct Counting {
    totals: Totals,
    /// When the site was last heard of by then.
    heard_at: Option<Timestamp>,
    counted_at: Timestamp,
    next_at: Timestamp,
}

impl Counting {
    /// Whether nothing can have come since, the site being last heard of at `heard_at`: what happened at the same moment may
    /// have landed later.
    fn is_complete(&self, heard_at: Option<Timestamp>) -> bool {
        self.heard_at == heard_at && heard_at.is_none_or(|heard_at| self.counted_at.since(heard_at) >= LANDS_WITHIN)
    }
}

/// How far a milestone's count has come.
pub struct Counted {
    pub now: u64,
    /// When its trigger began.
    pub before: u64,
    pub period_start: Timestamp,
}

impl Sight {
    pub fn new(analytics: &Analytics, clock: Clock) -> Self {
        // Of hits that we take ourselves those are lost that came while we were away.
        let takes_hits = matches!(analytics, Analytics::Embedded(_));
        let unknown_until = if takes_hits { clock.now() } else { Timestamp::EPOCH };
        Self {
            clock,
            heard: HashMap::new(),
            looked_at: None,
            habits: HashMap::new(),
            habit_of_all: None,
            silences: HashMap::new(),
            back_at: HashMap::new(),
            stale: HashSet::new(),
            failing_since: None,
            unknown_until,
            goals: HashMap::new(),
            goal_habits: HashMap::new(),
            totals: HashMap::new(),
            before: HashMap::new(),
        }
    }

    /// Since when the store does not answer.
    pub fn failing_since(&self) -> Option<Timestamp> {
        self.failing_since
    }

    /// Looks at everything these sites' triggers ask for.
    ///
    /// # Errors
    /// The store did not answer. Nothing is known then.
    pub async fn look(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        open: &Open,
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let seen = self.read(analytics, sites, open, now).await;
        match &seen {
            Ok(()) => {
                if let Some(since) = self.failing_since.take()
                    && now.since(since) >= TROUBLED
                {
                    self.unknown_until = now;
                }
            }
            Err(_) => drop(self.failing_since.get_or_insert(now)),
        }
        seen
    }

    async fn read(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        open: &Open,
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let since = self.looked_at.map_or(now - LEARNED, |looked_at| looked_at - OVERLAP);
        for (site_id, last_at) in analytics.last_hits(since).await? {
            let last = self.heard.entry(site_id).or_insert(last_at);
            // Clocks differ.
            *last = last_at.min(now).max(*last);
        }
        self.looked_at = Some(now);
        self.learn_sites(analytics, sites, now).await?;
        self.find_silences(analytics, sites, now).await?;
        self.count_completions(analytics, sites, now).await?;
        self.learn_goals(sites, open, now);
        self.count_totals(analytics, sites, now).await
    }

    /// Learns what is usual for the sites whose silence is asked for, but while they are silent.
    async fn learn_sites(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let due: HashMap<SiteId, &WatchedSite> =
            sites.iter().filter(|(site_id, site)| self.is_to_be_learned(*site_id, site, now)).copied().collect();
        if due.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = due.keys().copied().collect();
        // Sites take turns, so this reaches a little further than most of them need.
        let (from, until) = (quarter_start(now - LEARNED - LEARN_EVERY), quarter_start(now));
        let mut learned = HashMap::new();
        analytics
            .quarters(&ids, from, until, |site_id, windows| {
                let Some(site) = due.get(&site_id) else { return };
                let busy = windows.iter().filter(|window| window.visitors > 0);
                let quarters: Quarters = busy.map(|window| (window.start, window.visitors.into())).collect();
                learned.insert(site_id, Habit::until(&quarters, learned_until(site_id, now), &site.zone));
            })
            .await?;
        for site_id in ids {
            let habit = learned.remove(&site_id).flatten();
            self.habits.insert(site_id, Learned { until: learned_until(site_id, now), habit });
        }
        Ok(())
    }

    fn is_to_be_learned(&self, site_id: SiteId, site: &WatchedSite, now: Timestamp) -> bool {
        let known = self.habits.get(&site_id);
        let is_due = known
            .is_none_or(|known| known.until < learned_until(site_id, now) && !self.silences.contains_key(&site_id));
        is_due && site.asks_for_silence()
    }

    /// Finds the sites whose silence says something, and whether that is a trouble of theirs.
    async fn find_silences(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let was_stale = !self.stale.is_empty();
        self.stale.clear();
        for (site_id, site) in sites {
            let Some(last_at) = self.heard.get(site_id).copied() else { continue };
            let silence = self.silence_of_site(*site_id, site, now).filter(Silence::speaks);
            let Some(silence) = silence else {
                if self.silences.remove(site_id).is_some() {
                    self.back_at.insert(*site_id, last_at);
                }
                continue;
            };
            self.silences.insert(*site_id, silence);
            if self.others_are_silent(analytics, *site_id, now).await? {
                self.stale.insert(*site_id);
            }
        }
        if was_stale && self.stale.is_empty() {
            self.unknown_until = now;
        }
        Ok(())
    }

    fn silence_of_site(&self, site_id: SiteId, site: &WatchedSite, now: Timestamp) -> Option<Silence> {
        let last_at = self.heard.get(&site_id)?;
        let habit = self.habits.get(&site_id)?.habit.as_ref()?;
        Some(habit.silence((*last_at).max(self.unknown_until), now, Sensitivity::Normal, &site.zone))
    }

    /// Whether all other sites together, which are not usually, are silent too. Where this site is the only one nobody can
    /// tell the one from the other, and it is the site's silence.
    async fn others_are_silent(
        &mut self,
        analytics: &Analytics,
        site_id: SiteId,
        now: Timestamp,
    ) -> Result<bool, AnalyticsError> {
        let others = self.heard.iter().filter(|(other, _)| **other != site_id);
        let Some(last_at) = others.map(|(_, last_at)| *last_at).max() else { return Ok(false) };
        if self.habit_of_all.as_ref().is_none_or(|known| now.since(known.until) >= LEARN_OF_ALL_EVERY) {
            let until = quarter_start(last_at);
            let quarters = analytics.quarters_of_all(quarter_start(until - LEARNED_OF_ALL), until).await?;
            self.habit_of_all = Some(Learned { until: now, habit: Habit::until(&quarters, until, &TimeZone::UTC) });
        }
        let Some(all) = self.habit_of_all.as_ref().and_then(|known| known.habit.as_ref()) else { return Ok(false) };
        let own = self.habits.get(&site_id).and_then(|known| known.habit.as_ref()).map_or(0.0, |habit| habit.per_day);
        let share_of_others = (1.0 - own / all.per_day).clamp(0.0, 1.0);
        let silence = all.silence(last_at.max(self.unknown_until), now, Sensitivity::Normal, &TimeZone::UTC);
        Ok(Silence { missed: silence.missed * share_of_others, ..silence }.speaks())
    }

    /// Counts what completed the goals of sites that ask for it. Of those that were counted before only what is new.
    async fn count_completions(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let asking: HashMap<SiteId, &WatchedSite> =
            sites.iter().filter(|(_, site)| site.asks_for_completions()).copied().collect();
        self.goals.retain(|site_id, _| asking.contains_key(site_id));
        let until = now + Duration::from_secs(1);
        let oldest = quarter_start(now - COUNTED);
        let (known, anew): (Vec<_>, Vec<_>) =
            asking.keys().copied().partition(|site_id| self.goals.contains_key(site_id));
        let since = known.iter().filter_map(|site_id| self.goals.get(site_id)).map(|counted| counted.until).min();
        let since = since.map_or(oldest, |since| quarter_start(since - OVERLAP).max(oldest));
        for (ids, from) in [(anew, oldest), (known, since)] {
            if ids.is_empty() {
                continue;
            }
            let asked: Vec<_> = ids.iter().map(|site_id| (*site_id, asking[site_id].goal_names())).collect();
            let mut found: HashMap<SiteId, Vec<(GoalId, Alike)>> = HashMap::new();
            analytics
                .alike(&asked, None, from..until, QUARTER, |hit, alike| {
                    let Some(site) = asking.get(&hit.site_id) else { return };
                    let goals = site.goals.matches(hit).map(|goal| (goal.id, alike));
                    found.entry(hit.site_id).or_default().extend(goals);
                })
                .await?;
            for site_id in ids {
                let completions = self.goals.entry(site_id).or_default();
                completions.until = now;
                for quarters in completions.by_goal.values_mut() {
                    quarters.retain(|quarter, _| (oldest..from).contains(quarter));
                }
                for (goal_id, alike) in found.remove(&site_id).unwrap_or_default() {
                    let quarters = completions.by_goal.entry(goal_id).or_default();
                    let (count, last_at) = quarters.entry(alike.start).or_insert((0, alike.last_at));
                    *count += alike.count;
                    *last_at = alike.last_at.max(*last_at);
                }
            }
        }
        Ok(())
    }

    fn learn_goals(&mut self, sites: &[(SiteId, &WatchedSite)], open: &Open, now: Timestamp) {
        for (site_id, site) in sites {
            for watched in &site.conditions {
                let Settings::GoalStalled(settings) = &watched.trigger.settings else { continue };
                let known = self.goal_habits.get(&settings.goal_id);
                let is_open = open.contains(&(watched.trigger.id, Trouble::GoalStalled));
                let until = learned_until(*site_id, now);
                if known.is_some_and(|known| is_open || known.until >= until) {
                    continue;
                }
                let counted = self.goals.get(site_id).and_then(|counted| counted.by_goal.get(&settings.goal_id));
                let quarters = counted.into_iter().flatten().map(|(quarter, (count, _))| (*quarter, *count)).collect();
                let habit = Habit::until(&quarters, until, &site.zone);
                self.goal_habits.insert(settings.goal_id, Learned { until, habit });
            }
        }
    }

    /// Counts what milestones are made of, where there may be more than before.
    async fn count_totals(
        &mut self,
        analytics: &Analytics,
        sites: &[(SiteId, &WatchedSite)],
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let (mut wanted, mut begun) = (HashSet::new(), HashSet::new());
        for (site_id, site) in sites {
            for watched in &site.conditions {
                let Settings::Milestone(settings) = &watched.trigger.settings else { continue };
                let period_start = settings.period.start(now, &site.zone);
                let since = began(watched);
                let key = (watched.trigger.id, watched.trigger.version, period_start);
                begun.insert(key);
                if since > period_start && !self.before.contains_key(&key) {
                    let before = count_before(analytics, (*site_id, site), settings, period_start, since).await?;
                    self.before.insert(key, before);
                }
                if settings.metric != Metric::Conversions {
                    wanted.insert((*site_id, period_start));
                }
            }
        }
        self.before.retain(|key, _| begun.contains(key));
        self.totals.retain(|key, _| wanted.contains(key));
        for (site_id, period_start) in wanted {
            let heard_at = self.heard.get(&site_id).copied();
            let known = self.totals.get(&(site_id, period_start));
            if known.is_some_and(|known| known.is_complete(heard_at) || now < known.next_at) {
                continue;
            }
            let began = self.clock.monotonic();
            let totals = analytics.totals(site_id, period_start, now + Duration::from_secs(1)).await?;
            let took = self.clock.monotonic().saturating_sub(began);
            let next_at = now + took * COUNT_BUDGET;
            self.totals.insert((site_id, period_start), Counting { totals, heard_at, counted_at: now, next_at });
        }
        Ok(())
    }

    pub fn no_data(&self, site_id: SiteId, settings: &NoData, open: Option<&Incident>, now: Timestamp) -> Seen {
        let Some(last_at) = self.heard.get(&site_id).copied().filter(|_| self.failing_since.is_none()) else {
            return Seen::UNKNOWN;
        };
        let is_theirs = !self.stale.contains(&site_id);
        let silence = self.silences.get(&site_id).copied().filter(|_| is_theirs);
        Seen::no_data(settings.after, last_at, last_at.max(self.unknown_until), silence, open, now)
    }

    pub fn goal_stalled(
        &self,
        site_id: SiteId,
        site: &WatchedSite,
        settings: &GoalStalled,
        open: Option<&Incident>,
        now: Timestamp,
    ) -> Seen {
        let counted = self.goals.get(&site_id).and_then(|counted| counted.by_goal.get(&settings.goal_id));
        let last_at = counted.and_then(|quarters| quarters.values().map(|(_, last_at)| *last_at).max());
        let Some(last_at) = last_at.filter(|_| self.failing_since.is_none()) else { return Seen::UNKNOWN };
        let back_at = self.back_at.get(&site_id).copied().unwrap_or(Timestamp::EPOCH);
        let since = last_at.max(self.unknown_until).max(back_at);
        let habit = self.goal_habits.get(&settings.goal_id).and_then(|known| known.habit.as_ref());
        let is_visited = !self.silences.contains_key(&site_id);
        let silence =
            habit.filter(|_| is_visited).map(|habit| habit.silence(since, now, settings.sensitivity, &site.zone));
        Seen::goal_stalled(last_at, silence, open, now)
    }

    /// Whether the store has not answered for so long.
    pub fn unreachable(&self, after: Duration, now: Timestamp) -> Sign {
        match self.failing_since {
            None => Sign::Gone(now),
            Some(since) if now.since(since) >= after => Sign::There(since),
            Some(_) => Sign::Unknown,
        }
    }

    /// Whether nothing has come in from any site for so long, as far as this one can tell.
    pub fn stale(&self, site_id: SiteId, after: Duration, open: Option<&Incident>, now: Timestamp) -> Sign {
        let Some(newest) = self.heard.values().copied().max().filter(|_| self.failing_since.is_none()) else {
            return Sign::Unknown;
        };
        match open {
            Some(open) if newest > open.started_at => Sign::Gone(newest),
            Some(_) => Sign::There(newest),
            None if self.stale.contains(&site_id) && now.since(newest) >= after => Sign::There(newest),
            None => Sign::Unknown,
        }
    }

    /// How far a milestone's count has come; `None` while nobody can tell.
    pub fn counted(
        &self,
        site_id: SiteId,
        site: &WatchedSite,
        watched: &ConditionTrigger,
        settings: &Milestone,
        now: Timestamp,
    ) -> Option<Counted> {
        if self.failing_since.is_some() {
            return None;
        }
        let period_start = settings.period.start(now, &site.zone);
        let count = match settings.metric {
            Metric::Visitors => self.totals.get(&(site_id, period_start))?.totals.visitors,
            Metric::Pageviews => self.totals.get(&(site_id, period_start))?.totals.pageviews,
            Metric::Conversions => {
                let by_goal = &self.goals.get(&site_id)?.by_goal;
                let wanted =
                    by_goal.iter().filter(|(goal_id, _)| settings.goal_id.is_none_or(|wanted| wanted == **goal_id));
                wanted.flat_map(|(_, quarters)| quarters.range(period_start..)).map(|(_, (count, _))| *count).sum()
            }
        };
        let before = if began(watched) > period_start {
            *self.before.get(&(watched.trigger.id, watched.trigger.version, period_start))?
        } else {
            0
        };
        Some(Counted { now: count, before, period_start })
    }
}

impl WatchedSite {
    fn asks_for_silence(&self) -> bool {
        self.conditions.iter().any(|watched| !matches!(watched.trigger.settings, Settings::Milestone(_)))
    }

    fn asks_for_completions(&self) -> bool {
        self.conditions.iter().any(|watched| match &watched.trigger.settings {
            Settings::GoalStalled(_) => true,
            Settings::Milestone(settings) => settings.metric == Metric::Conversions,
            _ => false,
        })
    }

    fn goal_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.goals.goals().iter().map(|goal| goal.kind.hit_name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// From when on a trigger counts as it does now.
fn began(watched: &ConditionTrigger) -> Timestamp {
    watched.since.max(watched.trigger.updated_at)
}

/// What a milestone's count had come to before its trigger began.
async fn count_before(
    analytics: &Analytics,
    (site_id, site): (SiteId, &WatchedSite),
    settings: &Milestone,
    from: Timestamp,
    until: Timestamp,
) -> Result<u64, AnalyticsError> {
    match settings.metric {
        Metric::Visitors => Ok(analytics.totals(site_id, from, until).await?.visitors),
        Metric::Pageviews => Ok(analytics.totals(site_id, from, until).await?.pageviews),
        Metric::Conversions => {
            let mut before = 0;
            let asked = [(site_id, site.goal_names())];
            analytics
                .alike(&asked, None, from..until, QUARTER, |hit, alike| {
                    if hit.site_id != site_id {
                        return;
                    }
                    let is_wanted = |goal: &&Goal| settings.goal_id.is_none_or(|wanted| wanted == goal.id);
                    before += alike.count * site.goals.matches(hit).filter(is_wanted).count() as u64;
                })
                .await?;
            Ok(before)
        }
    }
}
