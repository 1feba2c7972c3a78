//! What is watched, arranged for looking at hits: by site, then by goal.

use std::collections::{HashMap, HashSet};

use jiff::tz::TimeZone;
use tracing::error;

use crate::domain::decide::{ChangeState, Direction};
use crate::domain::filter::Filter;
use crate::domain::goal::{Goal, GoalIndex};
use crate::domain::ids::{AccountId, GoalId, SiteId, TriggerId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Baseline, CustomEvent, Settings, Trigger, VisitorChange};
use crate::domain::webhook::Format;
use crate::store::catalog::{Watched, WatchedTrigger};
use crate::store::shards::shard_of;

/// Everything that is watched, at one version of the configuration.
#[derive(Default)]
pub struct Catalog {
    pub version: i64,
    pub sites: HashMap<SiteId, WatchedSite>,
}

pub struct WatchedSite {
    pub account_id: AccountId,
    pub domain: String,
    pub zone: TimeZone,
    pub shard: i32,
    pub goals: HashMap<GoalId, Goal>,
    pub index: GoalIndex,
    pub changes: Vec<ChangeTrigger>,
    pub completions: Vec<CompletionTrigger>,
    /// What no single hit shows.
    pub conditions: Vec<ConditionTrigger>,
    /// By the name of the custom event they want, positions among `completions`.
    pub by_event: HashMap<String, Vec<usize>>,
}

/// What completions are counted by: the trigger, and the goal unless it wants a custom event.
pub type Counted = (TriggerId, Option<GoalId>);

/// A spike or a drop.
pub struct ChangeTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
    pub direction: Direction,
    pub settings: VisitorChange,
}

/// Counts what visitors do: completions of goals, or a custom event.
pub struct CompletionTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
    pub wants: Wants,
    pub filter: Option<Filter>,
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
    Event(CustomEvent),
}

/// What a trigger remembers, and how many events it has fired.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub fired: i64,
    pub state: ChangeState,
}

impl Catalog {
    pub fn new(watched: Watched) -> Self {
        for (trigger_id, why) in &watched.unreadable {
            error!(trigger.id = %trigger_id, "Trigger {trigger_id} rests, its settings cannot be read: {why}");
        }
        let mut goals: HashMap<SiteId, Vec<Goal>> = HashMap::new();
        for goal in watched.goals {
            goals.entry(goal.site_id).or_default().push(goal);
        }
        let mut sites: HashMap<_, _> = watched
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
                    index: GoalIndex::new(&goals),
                    goals: goals.into_iter().map(|goal| (goal.id, goal)).collect(),
                    changes: Vec::new(),
                    completions: Vec::new(),
                    conditions: Vec::new(),
                    by_event: HashMap::new(),
                };
                (site.id, watched)
            })
            .collect();
        for WatchedTrigger { trigger, format, since } in watched.triggers {
            let Some(site) = sites.get_mut(&trigger.site_id) else { continue };
            match &trigger.settings {
                Settings::VisitorSpike(settings) => {
                    let (direction, settings) = (Direction::Rise, settings.clone());
                    site.changes.push(ChangeTrigger { trigger, format, since, direction, settings });
                }
                Settings::VisitorDrop(settings) => {
                    let (direction, settings) = (Direction::Fall, settings.clone());
                    site.changes.push(ChangeTrigger { trigger, format, since, direction, settings });
                }
                Settings::GoalCompletion(completion) => {
                    let (wants, filter) = (Wants::Goals(completion.goal_id), Filter::new(&completion.filters));
                    site.completions.push(CompletionTrigger { trigger, format, since, wants, filter });
                }
                Settings::CustomEvent(event) => {
                    site.by_event.entry(event.event_name.clone()).or_default().push(site.completions.len());
                    let (wants, filter) = (Wants::Event(event.clone()), Filter::new(&event.filters));
                    site.completions.push(CompletionTrigger { trigger, format, since, wants, filter });
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
        Self { version: watched.version, sites }
    }

    /// Sites whose current visitors matter.
    pub fn sites_with_changes(&self) -> HashSet<SiteId> {
        self.sites.iter().filter(|(_, site)| !site.changes.is_empty()).map(|(id, _)| *id).collect()
    }

    /// Every trigger that hits are looked at for.
    pub fn triggers(&self) -> HashSet<TriggerId> {
        self.sites
            .values()
            .flat_map(|site| {
                let changes = site.changes.iter().map(|change| change.trigger.id);
                changes.chain(site.completions.iter().map(|completion| completion.trigger.id))
            })
            .collect()
    }
}

impl WatchedSite {
    pub fn wants_goals(&self) -> bool {
        self.completions.iter().any(|completion| matches!(completion.wants, Wants::Goals(_)))
    }

    /// Whether what hits are besides their name and page matters.
    pub fn has_filters(&self) -> bool {
        self.completions.iter().any(|completion| completion.filter.is_some())
    }

    /// Whether what is usual for it has to be known.
    pub fn needs_a_profile(&self) -> bool {
        self.changes.iter().any(|change| change.settings.baseline == Baseline::Typical)
    }
}
