//! From something noticed to an event: what both ways of noticing share, the one that follows hits
//! ([`super::evaluator`]) and the one that asks for them ([`super::poller`]).

use std::collections::HashMap;
use std::time::Duration;

use jiff::tz::TimeZone;
use metrics::counter;
use tokio::sync::mpsc;
use tracing::info;
use uuid::Uuid;

use super::apart::side_by_side;
use super::catalog::{ChangeTrigger, CompletionTrigger, Memory, Scope, Wants, WatchedSite};
use super::completions::{Found, Wanted};
use super::profiles::Profiles;
use crate::analytics::{Analytics, AnalyticsError, Dimension};
use crate::chance::Chance;
use crate::domain::baseline::{Profile, WINDOW, window_start};
use crate::domain::decide::{ChangeState, Direction, Observation, Verdict, decide};
use crate::domain::event::{Addressee, Data, Event, Rise, Share, TopPage, TopSource, WhoCame};
use crate::domain::filter::{DIRECT, Filter};
use crate::domain::goal::Goal;
use crate::domain::ids::{EventId, SiteId, TriggerId, WebhookId};
use crate::domain::tally::{Counted, Ranking};
use crate::domain::time::Timestamp;
use crate::domain::trigger::Baseline;
use crate::store::gathered::Gathered;
use crate::store::outbox::{Fired, StateChange, Step};
use crate::store::queue::{Due, Lane};

/// A rise is held against the same five minutes so long before.
const COMPARED_WITH: Duration = Duration::from_secs(3_600);
/// So many events are built on two threads: what they are made of lies all over the memory, and waiting for it takes longer
/// than anything that is done with it.
const BUILT_APART: usize = 250;
/// Names that are compared at most.
const NAMES_COMPARED: usize = 100;

/// What events are made with, and where they go.
#[derive(Clone)]
pub struct Firing {
    pub analytics: Analytics,
    pub profiles: Profiles,
    pub chance: Chance,
    /// Where what fired goes, without a detour through the database.
    pub hand_over: mpsc::Sender<Vec<Due>>,
    /// To other nodes: something waits in the queue of this shard.
    pub notify: mpsc::Sender<i32>,
}

/// Who is on a site.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// In the last five minutes.
    pub current: u32,
    /// In the five minutes before those.
    pub previous: u32,
    /// In the window that is open.
    pub open: u32,
    /// Whether any of it changed.
    pub is_news: bool,
}

/// What a spike or a drop makes of its site now.
pub struct Judged {
    /// Among the site's spikes and drops.
    pub position: usize,
    pub memory: Memory,
    pub verdict: Verdict,
}

impl Firing {
    /// Adds completions to a step: an event of each, or a part of the batch it will tell of; `moment` names the rows they
    /// were counted in.
    pub fn add_completions<R: Send>(
        &self,
        step: &mut Step,
        mut found: Vec<Found<'_, R>>,
        moment: impl Fn(&Found<'_, R>) -> String + Sync,
        now: Timestamp,
    ) {
        let ids = ids_in_turn(&self.chance, found.iter().map(|found| found.by.trigger.webhook_id), now);
        let told = |found: Vec<Found<'_, R>>, ids: &[EventId]| {
            let mut told = Step::default();
            for (found, id) in found.into_iter().zip(ids) {
                let moment = moment(&found);
                self.add_completion(&mut told, *id, found, moment, now);
            }
            told
        };
        if found.len() < BUILT_APART {
            step.append(told(found, &ids));
            return;
        }
        let rest = found.split_off(found.len() / 2);
        let (ids, ids_of_rest) = ids.split_at(found.len());
        let (first, second) = side_by_side(|| told(found, ids), || told(rest, ids_of_rest));
        step.append(first);
        step.append(second);
    }

    fn add_completion<R>(&self, step: &mut Step, id: EventId, found: Found<'_, R>, moment: String, now: Timestamp) {
        let Found { site_id, by, tally, .. } = found;
        let Wanted { site, trigger, goal } = by;
        if trigger.batch.is_none() {
            let counted = tally.counted(Ranking::LISTED);
            step.fired.extend(self.completion(id, (site_id, site), (trigger, goal), counted, moment, now));
            return;
        }
        let count = i64::try_from(tally.count).unwrap_or(i64::MAX);
        let part = serde_json::to_string(&tally.counted(Counted::KEPT)).expect("names and numbers serialise");
        let (trigger_id, goal_id) = by.counted();
        step.gathered.push(Gathered { trigger_id, goal_id, moment, count, part });
    }

    /// The event of completions, of this goal if the trigger is for goals. `None` when nobody wants it any more.
    pub fn completion(
        &self,
        id: EventId,
        (site_id, site): (SiteId, &WatchedSite),
        (watched, goal): (&CompletionTrigger, Option<&Goal>),
        counted: Counted,
        moment: String,
        now: Timestamp,
    ) -> Option<Fired> {
        let data = match (&watched.wants, goal) {
            (Wants::Goals(_), Some(goal)) => Data::completions(goal, counted),
            (Wants::Event(settings), None) => Data::custom_event(settings, counted),
            // What was counted for it is not what it counts now.
            _ => return None,
        };
        let addressee = Addressee {
            account_id: site.account_id,
            site_id,
            site_domain: &site.domain,
            webhook_id: watched.webhook_id,
            format: watched.format,
            trigger: Some((watched.id, watched.max_age)),
        };
        Some(Fired {
            event: Event::new(id, &addressee, moment, data, now),
            shard: site.shard,
            trigger_version: Some(watched.version),
            state: None,
            shadow: watched.shadow,
        })
    }

    /// Adds what was judged of a site to a step: an event where something changed or is over, a state where only that is
    /// news.
    ///
    /// # Errors
    /// Who came and where they are could not be read.
    pub async fn add_judged(
        &self,
        step: &mut Step,
        site_id: SiteId,
        site: &WatchedSite,
        before: Memory,
        judged: &mut Judged,
        now: Timestamp,
    ) -> Result<(), AnalyticsError> {
        let watched = &site.changes[judged.position];
        let id = EventId(self.chance.uuid_v7(now));
        let (data, moment) = match &judged.verdict {
            Verdict::Quiet => {
                if judged.memory.state.is_news_after(&before.state) {
                    step.states.push(judged.change(watched, before));
                }
                return Ok(());
            }
            Verdict::Fire(change) => {
                if let Some(incident) = &mut judged.memory.state.incident {
                    incident.event_id = Some(id);
                }
                let filter = site.filter_of(&watched.scope);
                let came = self.who_came(site_id, filter, watched.direction, now).await?;
                let data = Data::change(watched.direction, &watched.settings, change, came);
                (data, format!("rise:{}", judged.memory.fired))
            }
            Verdict::End(ended) => (Data::ended(watched.direction, ended), format!("end:{}", judged.memory.fired)),
        };
        let addressee = Addressee {
            account_id: site.account_id,
            site_id,
            site_domain: &site.domain,
            webhook_id: watched.trigger.webhook_id,
            format: watched.format,
            trigger: Some((watched.trigger.id, watched.trigger.settings.max_age())),
        };
        step.fired.push(Fired {
            event: Event::new(id, &addressee, moment, data, now),
            shard: site.shard,
            trigger_version: Some(watched.trigger.version),
            state: Some(judged.change(watched, before)),
            shadow: watched.settings.shadow,
        });
        Ok(())
    }

    /// Who is there now, and for a rise what grew since an hour before.
    async fn who_came(
        &self,
        site_id: SiteId,
        filter: Option<&Filter>,
        direction: Direction,
        now: Timestamp,
    ) -> Result<WhoCame, AnalyticsError> {
        let from = now.floor_to_second() - WINDOW;
        let until = now + Duration::from_micros(1);
        let names = async |dimension, from, until| {
            self.analytics.top(site_id, filter, from, until, dimension, NAMES_COMPARED).await
        };
        let sources = names(Dimension::Source, from, until).await?;
        let pages = names(Dimension::Page, from, until).await?;
        let rise = match direction {
            Direction::Fall => None,
            Direction::Rise => {
                let (since, to) = (from - COMPARED_WITH, from - COMPARED_WITH + WINDOW);
                let countries = named_only(names(Dimension::Country, from, until).await?);
                let before = named_only(names(Dimension::Country, since, to).await?);
                Some(Rise {
                    rise_by_source: Share::of_rise(
                        &with_direct(names(Dimension::Source, since, to).await?),
                        &with_direct(sources.clone()),
                    ),
                    rise_by_page: Share::of_rise(&names(Dimension::Page, since, to).await?, &pages),
                    rise_by_country: Share::of_rise(&before, &countries),
                })
            }
        };
        let listed = |names| named_only(names).into_iter().take(Ranking::LISTED);
        Ok(WhoCame {
            sources: listed(sources).map(|(source, visitors)| TopSource { source, visitors }).collect(),
            pages: listed(pages).map(|(page, visitors)| TopPage { page, visitors }).collect(),
            rise,
        })
    }

    /// Passes on what was recorded and is `owed` now.
    pub async fn announce(&self, fired: Vec<Fired>, owed: Vec<EventId>) {
        let owed: foldhash::HashSet<EventId> = owed.into_iter().collect();
        let mut handed_over = Vec::with_capacity(owed.len());
        // To look up a metric costs more than to count.
        let mut counts: [HashMap<String, u64>; 2] = Default::default();
        for fired in fired {
            let event = fired.event;
            let counts = &mut counts[usize::from(fired.shadow)];
            match counts.get_mut(&event.event_type) {
                Some(count) => *count += 1,
                None => drop(counts.insert(event.event_type.clone(), 1)),
            }
            info!(
                event.id = %event.id, site.id = %event.site_id, webhook.id = %event.webhook_id,
                "Fired {} {}", event.event_type, event.id
            );
            if owed.contains(&event.id) {
                handed_over.push(due(event, fired.shard));
            }
        }
        for (counts, shadow) in counts.into_iter().zip(["false", "true"]) {
            for (event_type, count) in counts {
                counter!("pulsehook_events_fired_total", "type" => event_type, "shadow" => shadow).increment(count);
            }
        }
        // A dispatcher that cannot keep up is waited for.
        if let Err(mpsc::error::SendError(elsewhere)) = self.hand_over.send(handed_over).await {
            // This process does not send.
            for due in elsewhere {
                let _ = self.notify.try_send(due.shard);
            }
        }
    }
}

impl Judged {
    fn change(&self, watched: &ChangeTrigger, before: Memory) -> StateChange {
        StateChange {
            trigger_id: watched.trigger.id,
            account_id: watched.trigger.account_id,
            fired_before: before.fired,
            fired: self.memory.fired,
            state: serde_json::to_string(&self.memory.state).expect("a state is plain data"),
        }
    }
}

impl WatchedSite {
    /// What lets the visits of one of its scopes through; `None` where all count.
    fn filter_of(&self, scope: &Scope) -> Option<&Filter> {
        self.scopes.iter().find(|(known, _)| known == scope)?.1.as_ref()
    }

    /// What each spike and drop makes of what is `seen` of its visitors, where anything is. Only what changed is answered.
    pub fn judge(
        &self,
        seen: impl Fn(&Scope) -> Option<Seen>,
        profiles: &Profiles,
        memories: &HashMap<TriggerId, Memory>,
        now: Timestamp,
    ) -> Vec<Judged> {
        let mut changed = Vec::new();
        for (position, watched) in self.changes.iter().enumerate() {
            let Some(seen) = seen(&watched.scope) else { continue };
            let before = memories.get(&watched.trigger.id).copied().unwrap_or_default();
            let outcome = match watched.settings.baseline {
                Baseline::Typical => profiles.with(&watched.scope, |profile| {
                    let profile = profile?;
                    Some(watched.judge_windows(profile, before.state, &seen, &self.zone, now))
                }),
                _ => watched.judge_now(before.state, &seen, now),
            };
            let Some((verdict, state)) = outcome else { continue };
            let fired = before.fired + i64::from(verdict != Verdict::Quiet);
            if state != before.state {
                changed.push(Judged { position, memory: Memory { fired, state }, verdict });
            }
        }
        changed
    }
}

impl ChangeTrigger {
    /// Against the window before, or a fixed number: the last five minutes, as they slide. What neither saw anything new nor
    /// waits for anything is not asked.
    fn judge_now(&self, state: ChangeState, seen: &Seen, now: Timestamp) -> Option<(Verdict, ChangeState)> {
        let waits = !state.armed || state.since.is_some() || self.direction == Direction::Fall;
        if !seen.is_news && !waits && seen.current < self.settings.min_visitors {
            return None;
        }
        let observation = Observation { current: seen.current, previous: seen.previous, look: None };
        Some(decide(self.direction, &self.settings, state, &observation, now))
    }

    /// Against what is usual: each window once, when it has closed. A rise that can be seen before that is told at once,
    /// since a window only ever gains visitors; how great it was is known when the window has closed. Until the first
    /// verdict; the next step goes on from there.
    fn judge_windows(
        &self,
        profile: &Profile,
        mut state: ChangeState,
        seen: &Seen,
        zone: &TimeZone,
        now: Timestamp,
    ) -> (Verdict, ChangeState) {
        // What was seen before somebody wanted it this way is not held against them.
        let judged_until = *state.judged_until.get_or_insert(self.since.max(self.trigger.updated_at));
        for look in profile.looks_after(judged_until) {
            let observation = Observation { current: look.visitors, previous: 0, look: Some(*look) };
            let (verdict, next) = decide(self.direction, &self.settings, state, &observation, look.end());
            state = ChangeState { judged_until: Some(look.end()), ..next };
            if verdict != Verdict::Quiet {
                return (verdict, state);
            }
        }
        let is_open = profile.until == window_start(now) && state.judged_until <= Some(now);
        if self.direction == Direction::Fall || !is_open || seen.open < self.settings.min_visitors {
            return (Verdict::Quiet, state);
        }
        let Some(look) = profile.peek(seen.open, zone) else { return (Verdict::Quiet, state) };
        let observation = Observation { current: seen.open, previous: 0, look: Some(look) };
        match decide(self.direction, &self.settings, state, &observation, look.end()) {
            (verdict @ Verdict::Fire(_), next) => (verdict, next),
            _ => (Verdict::Quiet, state),
        }
    }
}

/// Without what has no name.
fn named_only(names: Vec<(String, u64)>) -> Vec<(String, u64)> {
    names.into_iter().filter(|(name, _)| !name.is_empty()).collect()
}

/// Visits without a source under the name they are shown with.
fn with_direct(names: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let name = |name: String| if name.is_empty() { DIRECT.to_owned() } else { name };
    names.into_iter().map(|(source, visitors)| (name(source), visitors)).collect()
}

/// A fresh event as the dispatcher wants it.
fn due(event: Event, shard: i32) -> Due {
    Due {
        event_id: event.id,
        account_id: event.account_id,
        webhook_id: event.webhook_id,
        shard,
        lane: Lane::First,
        attempt: 0,
        other_attempts: 0,
        due_at: event.inserted_at,
        expires_at: event.expires_at,
        event_type: event.event_type,
        format: event.format,
        payload: event.payload.into(),
    }
}

/// Ids for events of these webhooks, in whose order the first of each come before all second ones, and so on. That is how they
/// are sent if there are many: webhooks take turns. What is written down of those that are through together lies together then.
fn ids_in_turn(chance: &Chance, webhooks: impl Iterator<Item = WebhookId>, now: Timestamp) -> Vec<EventId> {
    let mut turns_of: foldhash::HashMap<WebhookId, usize> = foldhash::HashMap::default();
    let turn = |webhook_id| {
        let turns = turns_of.entry(webhook_id).or_default();
        *turns += 1;
        *turns
    };
    let mut turns: Vec<_> = webhooks.map(turn).enumerate().map(|(index, turn)| (turn, index)).collect();
    turns.sort_unstable();
    let mut ids = vec![EventId(Uuid::nil()); turns.len()];
    for (_, index) in turns {
        ids[index] = EventId(chance.uuid_v7(now));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_in_the_order_of_turns_and_each_webhooks_own_as_they_came() {
        let webhooks = [1, 1, 1, 2, 3, 3, 2].map(|number| WebhookId(Uuid::from_u128(number)));
        let ids = ids_in_turn(&Chance::seeded(1), webhooks.into_iter(), Timestamp::from_secs(1));
        let mut order: Vec<_> = (0..ids.len()).collect();
        order.sort_by_key(|index| ids[*index]);
        assert_eq!(order, [0, 3, 4, 1, 5, 6, 2]);
    }
}
