//! What is watched, arranged for looking at hits: by site, then by goal.

use std::collections::{HashMap, HashSet};

use jiff::tz::TimeZone;

use crate::domain::decide::{ChangeState, Direction};
use crate::domain::goal::{Goal, GoalIndex};
use crate::domain::ids::{AccountId, GoalId, SiteId, TriggerId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Baseline, Settings, Trigger, VisitorChange};
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
}

/// A spike or a drop.
pub struct ChangeTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
    pub direction: Direction,
    pub settings: VisitorChange,
}

pub struct CompletionTrigger {
    pub trigger: Trigger,
    pub format: Format,
    pub since: Timestamp,
    pub goal_id: Option<GoalId>,
}

/// What a trigger remembers, and how many events it has fired.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Memory {
    pub fired: i64,
    pub state: ChangeState,
}

impl Catalog {
    pub fn new(watched: Watched) -> Self {
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
                    let goal_id = completion.goal_id;
                    site.completions.push(CompletionTrigger { trigger, format, since, goal_id });
                }
                // How webhooks are doing is the keeper's to see.
                Settings::WebhookHealth(_) => {}
            }
        }
        // What is left has nothing to do with hits.
        sites.retain(|_, site| !site.changes.is_empty() || !site.completions.is_empty());
        Self { version: watched.version, sites }
    }

    /// Sites whose current visitors matter.
    pub fn sites_with_changes(&self) -> HashSet<SiteId> {
        self.sites.iter().filter(|(_, site)| !site.changes.is_empty()).map(|(id, _)| *id).collect()
    }

    /// Every trigger there is.
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
    /// Whether what is usual for it has to be known.
    pub fn needs_a_profile(&self) -> bool {
        self.changes.iter().any(|change| change.settings.baseline == Baseline::Typical)
    }
}
