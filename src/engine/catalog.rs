//! What is watched, arranged for looking at hits: by site, then by goal.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tracing::error;

use crate::domain::decide::{ChangeState, Direction};
use crate::domain::filter::{Filter, Filters};
use crate::domain::goal::Goal;
use crate::domain::goal_index::GoalIndex;
use crate::domain::ids::{AccountId, GoalId, SiteId, TriggerId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Baseline, Batch, CustomEvent, Settings, Trigger, VisitorChange};
use crate::domain::webhook::Format;
use crate::store::catalog::{Watched, WatchedTrigger};
use crate::store::shards::shard_of;

/// Everything that is watched, at one version of the configuration.
#[derive(Default)]
pub struct Catalog {
    pub version: i64,
    /// Nobody outside chooses their ids.
    pub sites: foldhash::HashMap<SiteId, WatchedSite>,
}

pub struct WatchedSite {
    pub account_id: AccountId,
    pub domain: String,
    pub zone: TimeZone,
    pub shard: i32,
    pub goals: GoalIndex,
    pub changes: Vec<ChangeTrigger>,
    /// Whose visitors those are about, each once, with what lets them through.
    pub scopes: Vec<(Scope, Option<Filter>)>,
    pub completions: Vec<CompletionTrigger>,
    /// Whether any of those has a filter: then what hits are besides their name and page matters.
    pub has_filters: bool,
    /// What no single hit shows.
    pub conditions: Vec<ConditionTrigger>,
    /// By the name of the custom event they want, positions among `completions`.
    pub by_event: HashMap<String, Vec<usize>>,
    /// By the goal they want, in the order of goals, positions among `completions`: those are too large to be looked through
    /// for every hit.
    by_goal: Box<[(GoalId, u32)]>,
    /// The same of those that want every goal.
    of_any_goal: Box<[u32]>,
}

/// What completions are counted by: the trigger, and the goal unless it wants a custom event.
pub type Counted = (TriggerId, Option<GoalId>);

/// Whose visitors are counted: all of a site, or those whose visits a filter lets through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    pub site_id: SiteId,
    pub filters: Option<Arc<Filters>>,
}

impl Scope {
    pub fn of_site(site_id: SiteId) -> Self {
        Self { site_id, filters: None }
    }

    fn new(site_id: SiteId, filters: &Filters) -> Self {
        let filters = (*filters != Filters::default()).then(|| Arc::new(filters.clone()));
        Self { site_id, filters }
    }
}

/// A spike or a drop.
pub struct ChangeTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
    pub direction: Direction,
    pub settings: VisitorChange,
    pub scope: Scope,
}

/// Counts what visitors do: completions of goals, or a custom event.
///
/// There are hundreds of thousands of them, and each hit is held against all of its site: only what that and the event need
/// is kept, side by side.
pub struct CompletionTrigger {
    pub id: TriggerId,
    pub webhook_id: WebhookId,
    pub version: i64,
    pub format: Format,
    pub since: Timestamp,
    pub wants: Wants,
    /// Apart, as few have one.
    pub filter: Option<Box<Filter>>,
    pub batch: Option<Batch>,
    pub max_age: Duration,
    pub shadow: bool,
}

/// Watches for what stays away, adds up or cannot be seen.
pub struct ConditionTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
}

pub enum Wants {
    /// One goal, or all of the site.
    Goals(Option<GoalId>),
    Event(Box<CustomEvent>),
}

/// What a trigger remembers, and how many events it has fired.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub fired: i64,
    pub state: ChangeState,
}

impl Catalog {
    pub fn new(watched: Watched) -> Self {
        Self::default().renewed(watched)
    }

    /// What is watched by now. Of what is still the same the dearest part is kept.
    #[must_use]
    pub fn renewed(self, watched: Watched) -> Self {
        let mut before = self.sites;
        for (trigger_id, why) in &watched.unreadable {
            error!(trigger.id = %trigger_id, "Trigger {trigger_id} rests, its settings cannot be read: {why}");
        }
        let mut goals: HashMap<SiteId, Vec<Goal>> = HashMap::new();
        for goal in watched.goals {
            goals.entry(goal.site_id).or_default().push(goal);
        }
        let mut sites: foldhash::HashMap<_, _> = watched
            .sites
            .into_iter()
            .map(|site| {
                let goals = goals.remove(&site.id).unwrap_or_default();
                let watched = WatchedSite {
                    account_id: site.account_id,
                    // Time zones are checked when a site is created; one that left the database since means UTC.
                    zone: TimeZone::get(&site.timezone).unwrap_or(TimeZone::UTC),
                    domain: site.domain,
                    shard: shard_of(site.id),
                    goals: before.remove(&site.id).map(|site| site.goals).unwrap_or_default().renewed(goals),
                    changes: Vec::new(),
                    scopes: Vec::new(),
                    completions: Vec::new(),
                    has_filters: false,
                    conditions: Vec::new(),
                    by_event: HashMap::new(),
                    by_goal: Box::default(),
                    of_any_goal: Box::default(),
                };
                (site.id, watched)
            })
            .collect();
        for WatchedTrigger { trigger, format, since } in watched.triggers {
            let Some(site) = sites.get_mut(&trigger.site_id) else { continue };
            match &trigger.settings {
                Settings::VisitorSpike(settings) => {
                    let (direction, settings) = (Direction::Rise, settings.clone());
                    site.add_change(trigger, format, since, direction, settings);
                }
                Settings::VisitorDrop(settings) => {
                    let (direction, settings) = (Direction::Fall, settings.clone());
                    site.add_change(trigger, format, since, direction, settings);
                }
                Settings::GoalCompletion(completion) => {
                    let (wants, filter) = (Wants::Goals(completion.goal_id), Filter::new(&completion.filters));
                    site.completions.push(CompletionTrigger::new(&trigger, format, since, wants, filter));
                }
                Settings::CustomEvent(event) => {
                    site.by_event.entry(event.event_name.clone()).or_default().push(site.completions.len());
                    let (wants, filter) = (Wants::Event(Box::new(event.clone())), Filter::new(&event.filters));
                    site.completions.push(CompletionTrigger::new(&trigger, format, since, wants, filter));
                }
                Settings::GoalStalled(_)
                | Settings::Milestone(_)
                | Settings::NoData(_)
                | Settings::ErrorCondition(_) => site.conditions.push(ConditionTrigger { trigger, format, since }),
                // How webhooks are doing is the keeper's to see.
                Settings::WebhookHealth(_) => {}
            }
        }
        // What is left has nothing to do with traffic.
        sites.retain(|_, site| !site.changes.is_empty() || !site.completions.is_empty() || !site.conditions.is_empty());
        for site in sites.values_mut() {
            site.arrange();
            site.has_filters = site.completions.iter().any(|completion| completion.filter.is_some());
            site.completions.shrink_to_fit();
            site.changes.shrink_to_fit();
            site.conditions.shrink_to_fit();
        }
        sites.shrink_to_fit();
        Self { version: watched.version, sites }
    }

    /// Whose current visitors matter.
    pub fn scopes(&self) -> HashSet<Scope> {
        self.sites.values().flat_map(|site| &site.scopes).map(|(scope, _)| scope.clone()).collect()
    }

    /// What lets the visits of a scope through; `None` where all count.
    pub fn filter_of(&self, scope: &Scope) -> Option<&Filter> {
        let scopes = &self.sites.get(&scope.site_id)?.scopes;
        scopes.iter().find(|(known, _)| known == scope)?.1.as_ref()
    }

    /// Every trigger that hits are looked at for.
    pub fn triggers(&self) -> HashSet<TriggerId> {
        self.sites
            .values()
            .flat_map(|site| {
                let changes = site.changes.iter().map(|change| change.trigger.id);
                changes.chain(site.completions.iter().map(|completion| completion.id))
            })
            .collect()
    }
}

impl CompletionTrigger {
    fn new(trigger: &Trigger, format: Format, since: Timestamp, wants: Wants, filter: Option<Filter>) -> Self {
        Self {
            id: trigger.id,
            webhook_id: trigger.webhook_id,
            version: trigger.version,
            format,
            since,
            wants,
            filter: filter.map(Box::new),
            batch: trigger.settings.batch(),
            max_age: trigger.settings.max_age(),
            shadow: trigger.settings.shadow(),
        }
    }
}

impl WatchedSite {
    pub fn wants_goals(&self) -> bool {
        !self.by_goal.is_empty() || !self.of_any_goal.is_empty()
    }

    /// Of whom it has to be known what is usual.
    pub fn to_be_profiled(&self) -> impl Iterator<Item = (&Scope, Option<&Filter>)> {
        let is_typical = |change: &ChangeTrigger| change.settings.baseline == Baseline::Typical;
        let scopes = self
            .scopes
            .iter()
            .filter(move |(scope, _)| self.changes.iter().any(|change| is_typical(change) && change.scope == *scope));
        scopes.map(|(scope, filter)| (scope, filter.as_ref()))
    }

    /// The triggers that want completions of a goal.
    pub fn wanting(&self, goal_id: GoalId) -> impl Iterator<Item = &CompletionTrigger> {
        let first = self.by_goal.partition_point(|(wanted, _)| *wanted < goal_id);
        let of_goal = self.by_goal[first..].iter().take_while(move |(wanted, _)| *wanted == goal_id);
        let positions = of_goal.map(|(_, position)| position).chain(&self.of_any_goal);
        positions.map(|position| &self.completions[*position as usize])
    }

    fn arrange(&mut self) {
        let (mut by_goal, mut of_any_goal) = (Vec::new(), Vec::new());
        for (position, completion) in (0u32..).zip(&self.completions) {
            match completion.wants {
                Wants::Goals(Some(goal_id)) => by_goal.push((goal_id, position)),
                Wants::Goals(None) => of_any_goal.push(position),
                Wants::Event(_) => {}
            }
        }
        by_goal.sort_unstable();
        self.by_goal = by_goal.into();
        self.of_any_goal = of_any_goal.into();
    }

    fn add_change(
        &mut self,
        trigger: Trigger,
        format: Format,
        since: Timestamp,
        direction: Direction,
        settings: VisitorChange,
    ) {
        let scope = Scope::new(trigger.site_id, &settings.filters);
        let scope = match self.scopes.iter().find(|(known, _)| *known == scope) {
            Some((known, _)) => known.clone(),
            None => {
                self.scopes.push((scope.clone(), Filter::new(&settings.filters)));
                scope
            }
        };
        self.changes.push(ChangeTrigger { trigger, format, since, direction, settings, scope });
    }
}
