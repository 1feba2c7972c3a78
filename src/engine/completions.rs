//! What hits complete: which triggers want to know of a hit, and what was counted for each of them in one step. Both ways of
//! noticing share it; they differ in what they call the rows.

use super::catalog::{CompletionTrigger, Counted, Wants, WatchedSite};
use crate::domain::goal::Goal;
use crate::domain::hit::Hit;
use crate::domain::ids::{GoalId, SiteId};
use crate::domain::tally::Tally;
use crate::domain::time::Timestamp;

/// A trigger that wants to know of a hit, and the goal the hit completes if the trigger is for goals.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub site: &'a WatchedSite,
    pub trigger: &'a CompletionTrigger,
    pub goal: Option<&'a Goal>,
}

/// What was counted for one trigger, and in which rows.
pub struct Found<'a, R> {
    pub site_id: SiteId,
    pub by: Wanted<'a>,
    pub tally: Tally,
    pub rows: R,
}

/// What was found in one step, in the order in which it was found first.
pub struct Completions<'a, R> {
    found: Vec<Found<'a, R>>,
    positions: foldhash::HashMap<Counted, usize>,
}

/// A name for what is counted, in the moments of events.
pub struct CountedName(pub Option<GoalId>);

impl std::fmt::Display for CountedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(goal_id) => goal_id.fmt(f),
            None => f.write_str("event"),
        }
    }
}

impl WatchedSite {
    /// The triggers, `among` those asked, that want to know of this hit. A trigger wants nothing that happened before
    /// `since` it lives; the store may keep whole seconds only, so `since` is cut to those by the caller.
    pub fn wanted(
        &self,
        hit: &Hit,
        cut: impl Fn(Timestamp) -> Timestamp,
        among: impl Fn(&CompletionTrigger) -> bool,
    ) -> Vec<Wanted<'_>> {
        if self.completions.is_empty() {
            return Vec::new();
        }
        let wants = |trigger: &CompletionTrigger| {
            among(trigger)
                && cut(trigger.since) <= hit.at
                && trigger.filter.as_ref().is_none_or(|filter| filter.lets_through(hit))
        };
        let mut wanted = Vec::new();
        for position in self.by_event.get(&hit.name).into_iter().flatten().copied() {
            let trigger = &self.completions[position];
            if wants(trigger) && trigger.props_hold(hit) {
                wanted.push(Wanted { site: self, trigger, goal: None });
            }
        }
        for goal in self.goals.matches(hit).filter(|goal| cut(goal.inserted_at) <= hit.at) {
            let triggers = self.wanting(goal.id).filter(|trigger| wants(trigger));
            wanted.extend(triggers.map(|trigger| Wanted { site: self, trigger, goal: Some(goal) }));
        }
        wanted
    }
}

impl CompletionTrigger {
    /// Of a custom event: whether its properties are the wanted ones.
    fn props_hold(&self, hit: &Hit) -> bool {
        match &self.wants {
            Wants::Goals(_) => true,
            Wants::Event(event) => event.wants_props_of(hit),
        }
    }
}

impl Wanted<'_> {
    pub fn counted(&self) -> Counted {
        (self.trigger.id, self.goal.map(|goal| goal.id))
    }

    fn count(&self, tally: &mut Tally, hit: &Hit) {
        tally.count += 1;
        tally.first_at = tally.first_at.min(hit.at);
        tally.last_at = tally.last_at.max(hit.at);
        tally.pages.add(&hit.page.pathname, hit.visitor);
        tally.sources.add(&hit.origin.source, hit.visitor);
        if let Wants::Event(event) = &self.trigger.wants {
            for name in &event.include_properties {
                if let Some(value) = hit.prop(name) {
                    tally.add_property(name, value);
                }
            }
        }
    }
}

impl<R> Default for Completions<'_, R> {
    fn default() -> Self {
        Self { found: Vec::new(), positions: foldhash::HashMap::default() }
    }
}

impl<'a, R> Completions<'a, R> {
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.found.reserve(more);
        self.positions.reserve(more);
    }

    /// What was counted, each once.
    pub fn counted(&self) -> impl Iterator<Item = Counted> {
        self.found.iter().map(|found| found.by.counted())
    }

    /// Counts a hit for a trigger that wants it. Answers the rows it was counted in before, `none` if there are none, for this
    /// one to be added.
    pub fn count(&mut self, wanted: Wanted<'a>, hit: &Hit, none: R) -> &mut R {
        let position = *self.positions.entry(wanted.counted()).or_insert_with(|| {
            self.found.push(Found { site_id: hit.site_id, by: wanted, tally: Tally::new(hit.at), rows: none });
            self.found.len() - 1
        });
        let found = &mut self.found[position];
        wanted.count(&mut found.tally, hit);
        &mut found.rows
    }

    pub fn into_vec(self) -> Vec<Found<'a, R>> {
        self.found
    }
}
