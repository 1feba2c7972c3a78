//! Events: what receivers get. Built once when a trigger fires; the bytes are stored, signed and sent as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::baseline::Basis;
use super::condition::{
    Metric, Period, Reached, Trouble, reason_of_goal_stalled, reason_of_milestone, reason_of_no_data,
};
use super::decide::{Change, Direction, Ended, Incident};
use super::goal::Goal;
use super::habit::Silence;
use super::ids::{AccountId, EventId, SiteId, TriggerId, WebhookId};
use super::tally::{Counted, Ranking};
use super::time::{Timestamp, in_words};
use super::trigger::{Baseline, CustomEvent, VisitorChange};
use super::webhook::Format;

/// Type of the event that "send test" delivers.
pub const TEST: &str = "test";
/// Version of the payload's shape.
const VERSION: &str = "1";

/// A fired trigger, ready to be stored. Immutable.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: EventId,
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub webhook_id: WebhookId,
    /// Absent for a test.
    pub trigger_id: Option<TriggerId>,
    pub event_type: String,
    /// Names what happened so that it can be recorded only once: unique per trigger.
    pub moment: String,
    pub format: Format,
    pub payload: Vec<u8>,
    /// After this moment the delivery is given up.
    pub expires_at: Option<Timestamp>,
    pub inserted_at: Timestamp,
}

/// Everything an event says, before it takes the shape an endpoint wants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope<'a> {
    pub event_id: EventId,
    pub event_type: &'a str,
    version: &'static str,
    pub site_id: SiteId,
    pub site_domain: &'a str,
    pub timestamp: Timestamp,
    pub webhook_id: WebhookId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<TriggerId>,
    pub data: Data,
}

/// What happened. A closed list: nothing else leaves the house.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Data {
    VisitorSpike(ChangeData),
    VisitorDrop(ChangeData),
    VisitorSpikeEnded(EndedData),
    VisitorDropEnded(EndedData),
    GoalCompletion(GoalData),
    GoalStalled(StalledData),
    GoalStalledEnded(OverData),
    Milestone(MilestoneData),
    NoData(NoDataData),
    NoDataEnded(OverData),
    CustomEvent(CustomEventData),
    ErrorCondition(ErrorData),
    ErrorConditionEnded(OverData),
    WebhookHealth(HealthData),
    Test(TestData),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangeData {
    pub current_visitors: u32,
    /// What the baseline expects.
    pub previous_visitors: u32,
    /// Percent above it in a spike, below it in a drop.
    pub change_percent: u32,
    pub threshold: u32,
    pub baseline: Baseline,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// Spreads beyond what is expected, to one digit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// One standard deviation of what is expected in five minutes, to one digit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// The span in which it is most unusual: the score is that of all its windows together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_minutes: Option<u16>,
    /// Why, in a sentence.
    pub reason: String,
    pub window_seconds: u64,
    pub top_sources: Vec<TopSource>,
    pub top_pages: Vec<TopPage>,
    /// Of a spike: where the rise comes from.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub rise: Option<Rise>,
}

/// Where a rise comes from: what grew most since the same five minutes an hour before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rise {
    pub rise_by_source: Vec<Share>,
    pub rise_by_page: Vec<Share>,
    /// Known of Plausible's traffic only.
    pub rise_by_country: Vec<Share>,
}

/// What one name has of a rise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// A source (`Direct / None` for visits without one), a page, or a country's two letters.
    pub name: String,
    pub visitors: u64,
    /// An hour before.
    pub visitors_before: u64,
    /// Of everything of its kind that grew, rounded.
    pub share_percent: u64,
}

impl Share {
    /// The names that grew most, from how many visitors each had before and has now.
    pub fn of_rise(before: &[(String, u64)], now: &[(String, u64)]) -> Vec<Self> {
        let before: BTreeMap<&str, u64> = before.iter().map(|(name, visitors)| (name.as_str(), *visitors)).collect();
        let grown = now.iter().filter_map(|(name, visitors)| {
            let visitors_before = before.get(name.as_str()).copied().unwrap_or(0);
            (*visitors > visitors_before).then_some((name, *visitors, visitors_before))
        });
        let mut grown: Vec<_> = grown.collect();
        let rise = |(_, visitors, before): &(&String, u64, u64)| visitors - before;
        let all: u64 = grown.iter().map(rise).sum();
        grown.sort_by(|a, b| rise(b).cmp(&rise(a)).then_with(|| a.0.cmp(b.0)));
        grown.truncate(Ranking::LISTED);
        let share = |one: (&String, u64, u64)| Self {
            name: one.0.clone(),
            visitors: one.1,
            visitors_before: one.2,
            share_percent: (rise(&one) * 100 + all / 2) / all,
        };
        grown.into_iter().map(share).collect()
    }
}

/// What was told is over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndedData {
    /// The event that told of its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_event_id: Option<EventId>,
    pub started_at: Timestamp,
    /// When visitors were as usual again.
    pub ended_at: Timestamp,
    pub duration_seconds: u64,
    pub current_visitors: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoalData {
    pub goal_id: super::ids::GoalId,
    pub goal_name: String,
    pub goal_type: &'static str,
    /// Completions between `window_start` and `window_end`.
    pub count: u64,
    pub window_start: Timestamp,
    pub window_end: Timestamp,
    pub top_pages: Vec<TopPage>,
    pub top_sources: Vec<TopSource>,
}

/// Why a silence was told: what was there, what was expected, and how far apart they are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SilenceData {
    /// Nothing: zero.
    pub observed: u64,
    /// How often it would have happened by habit, to one digit.
    pub expected: f64,
    /// One standard deviation of that, to one digit.
    pub spread: f64,
    /// Standard deviations below what is expected, to one digit.
    pub score: f64,
    pub window_start: Timestamp,
    pub window_end: Timestamp,
    /// Days of history it is judged by.
    pub history_days: u32,
}

/// A site sends no events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoDataData {
    pub last_event_at: Timestamp,
    pub silent_seconds: u64,
    #[serde(flatten)]
    pub silence: SilenceData,
    /// Why, in a sentence.
    pub reason: String,
}

/// A goal is not completed any more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StalledData {
    pub goal_id: super::ids::GoalId,
    pub goal_name: String,
    pub goal_type: &'static str,
    pub last_completion_at: Timestamp,
    pub silent_seconds: u64,
    #[serde(flatten)]
    pub silence: SilenceData,
    /// Why, in a sentence.
    pub reason: String,
}

/// A count passed a round number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MilestoneData {
    pub metric: Metric,
    pub period: Period,
    pub period_start: Timestamp,
    /// The number that was passed; of several passed at once the highest.
    pub milestone: u64,
    /// How many there are now.
    pub count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_id: Option<super::ids::GoalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_name: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// The traffic of a site cannot be seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorData {
    pub condition: Trouble,
    pub since: Timestamp,
    pub duration_seconds: u64,
    /// Why, in a sentence.
    pub reason: String,
}

/// What was told is over: a silence, or a trouble of ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverData {
    /// The event that told of its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_event_id: Option<EventId>,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub duration_seconds: u64,
    /// Of a trouble of ours: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<Trouble>,
    /// Of a goal that stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_id: Option<super::ids::GoalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CustomEventData {
    pub event_name: String,
    /// How often it happened between `window_start` and `window_end`.
    pub count: u64,
    pub window_start: Timestamp,
    pub window_end: Timestamp,
    /// Of properties the owner listed: how often each value was among them, the most frequent first.
    pub properties: BTreeMap<String, Vec<PropertyValue>>,
    /// Why, in a sentence.
    pub reason: String,
    pub top_pages: Vec<TopPage>,
    pub top_sources: Vec<TopSource>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PropertyValue {
    pub value: String,
    pub count: u64,
}

/// How a webhook of the account is doing: told to its other webhooks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthData {
    pub failing_webhook_id: WebhookId,
    pub failing_webhook_name: String,
    /// The site it belongs to, which need not be that of the webhook that is told.
    pub failing_site_domain: String,
    pub state: HealthState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// When it will be disabled if nothing can be delivered until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    Failing,
    Disabled,
}

impl HealthState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Disabled => "disabled",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestData {
    pub test: bool,
    pub message: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopSource {
    pub source: String,
    pub visitors: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopPage {
    pub page: String,
    pub visitors: u64,
}

/// Who is there now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WhoCame {
    pub sources: Vec<TopSource>,
    pub pages: Vec<TopPage>,
    /// Of a spike.
    pub rise: Option<Rise>,
}

impl Data {
    /// The data of a spike or a drop.
    pub fn change(direction: Direction, settings: &VisitorChange, change: &Change, came: WhoCame) -> Self {
        let data = ChangeData {
            current_visitors: change.current,
            previous_visitors: change.expected,
            change_percent: change.change_percent,
            threshold: settings.threshold,
            baseline: settings.baseline,
            basis: change.basis,
            score: change.score.map(tenth),
            spread: change.spread.map(tenth),
            score_minutes: change.score.is_some().then_some(change.minutes),
            reason: change.reason(direction, settings.baseline),
            window_seconds: super::baseline::WINDOW.as_secs(),
            top_sources: came.sources,
            top_pages: came.pages,
            rise: came.rise,
        };
        match direction {
            Direction::Rise => Self::VisitorSpike(data),
            Direction::Fall => Self::VisitorDrop(data),
        }
    }

    /// The data of the end of one.
    pub fn ended(direction: Direction, ended: &Ended) -> Self {
        let data = EndedData {
            started_event_id: ended.incident.event_id,
            started_at: ended.incident.started_at,
            ended_at: ended.ended_at,
            duration_seconds: ended.ended_at.since(ended.incident.started_at).as_secs(),
            current_visitors: ended.current,
        };
        match direction {
            Direction::Rise => Self::VisitorSpikeEnded(data),
            Direction::Fall => Self::VisitorDropEnded(data),
        }
    }

    /// The data of completions.
    pub fn completions(goal: &Goal, mut counted: Counted) -> Self {
        Self::GoalCompletion(GoalData {
            goal_id: goal.id,
            goal_name: goal.display_name.clone(),
            goal_type: goal.kind.goal_type(),
            count: counted.count,
            window_start: counted.first_at,
            window_end: counted.last_at,
            top_pages: counted.take_top_pages(),
            top_sources: counted.take_top_sources(),
        })
    }

    /// The data of a custom event.
    pub fn custom_event(settings: &CustomEvent, mut counted: Counted) -> Self {
        let times = match counted.count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        let mut among = |name: &String| (name.clone(), counted.take_top_values(name));
        Self::CustomEvent(CustomEventData {
            event_name: settings.event_name.clone(),
            properties: settings.include_properties.iter().map(&mut among).collect(),
            count: counted.count,
            window_start: counted.first_at,
            window_end: counted.last_at,
            reason: format!("\"{}\" happened {times}.", settings.event_name),
            top_pages: counted.take_top_pages(),
            top_sources: counted.take_top_sources(),
        })
    }

    /// The data of a site that sends nothing.
    pub fn no_data(last_event_at: Timestamp, silence: &Silence, now: Timestamp) -> Self {
        let silent = now.since(last_event_at);
        Self::NoData(NoDataData {
            last_event_at,
            silent_seconds: silent.as_secs(),
            silence: SilenceData::new(silence, now),
            reason: reason_of_no_data(last_event_at, silence, now),
        })
    }

    /// The data of a goal that is not completed any more.
    pub fn goal_stalled(goal: &Goal, last_completion_at: Timestamp, silence: &Silence, now: Timestamp) -> Self {
        let silent = now.since(last_completion_at);
        Self::GoalStalled(StalledData {
            goal_id: goal.id,
            goal_name: goal.display_name.clone(),
            goal_type: goal.kind.goal_type(),
            last_completion_at,
            silent_seconds: silent.as_secs(),
            silence: SilenceData::new(silence, now),
            reason: reason_of_goal_stalled(&goal.display_name, last_completion_at, silence, now),
        })
    }

    /// The data of a milestone; `goal` where it counts one.
    pub fn milestone(metric: Metric, period: Period, reached: &Reached, count: u64, goal: Option<&Goal>) -> Self {
        let what = metric.of(goal.map(|goal| goal.display_name.as_str()));
        Self::Milestone(MilestoneData {
            metric,
            period,
            period_start: reached.period_start,
            milestone: reached.milestone,
            count,
            goal_id: goal.map(|goal| goal.id),
            goal_name: goal.map(|goal| goal.display_name.clone()),
            reason: reason_of_milestone(&what, period, reached, count),
        })
    }

    /// The data of traffic that cannot be seen.
    pub fn error_condition(condition: Trouble, since: Timestamp, now: Timestamp) -> Self {
        let span = now.since(since);
        let reason = match condition {
            Trouble::AnalyticsUnreachable => format!(
                "The analytics database has not answered for {}. Nothing is known of the traffic meanwhile; what can be made \
                 up for is, once it answers.",
                in_words(span)
            ),
            _ => format!(
                "The analytics database answers, but for {} no event of any site has come in, which is not usual. Look at \
                 what takes events in.",
                in_words(span)
            ),
        };
        Self::ErrorCondition(ErrorData { condition, since, duration_seconds: span.as_secs(), reason })
    }

    /// The data of the end of a trouble.
    pub fn over(trouble: Trouble, incident: &Incident, ended_at: Timestamp, goal: Option<&Goal>) -> Self {
        let is_ours = matches!(trouble, Trouble::AnalyticsUnreachable | Trouble::DataStale);
        let data = OverData {
            started_event_id: incident.event_id,
            started_at: incident.started_at,
            ended_at,
            duration_seconds: ended_at.since(incident.started_at).as_secs(),
            condition: is_ours.then_some(trouble),
            goal_id: goal.map(|goal| goal.id),
            goal_name: goal.map(|goal| goal.display_name.clone()),
        };
        match trouble {
            Trouble::NoData => Self::NoDataEnded(data),
            Trouble::GoalStalled => Self::GoalStalledEnded(data),
            Trouble::AnalyticsUnreachable | Trouble::DataStale => Self::ErrorConditionEnded(data),
        }
    }

    pub fn test() -> Self {
        Self::Test(TestData { test: true, message: "This is a test. Your endpoint is reachable." })
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::VisitorSpike(_) => "visitor_spike",
            Self::VisitorDrop(_) => "visitor_drop",
            Self::VisitorSpikeEnded(_) => "visitor_spike_ended",
            Self::VisitorDropEnded(_) => "visitor_drop_ended",
            Self::GoalCompletion(_) => "goal_completion",
            Self::GoalStalled(_) => "goal_stalled",
            Self::GoalStalledEnded(_) => "goal_stalled_ended",
            Self::Milestone(_) => "milestone",
            Self::NoData(_) => "no_data",
            Self::NoDataEnded(_) => "no_data_ended",
            Self::ErrorCondition(_) => "error_condition",
            Self::ErrorConditionEnded(_) => "error_condition_ended",
            Self::CustomEvent(_) => "custom_event",
            Self::WebhookHealth(_) => "webhook_health",
            Self::Test(_) => TEST,
        }
    }
}

impl SilenceData {
    fn new(silence: &Silence, now: Timestamp) -> Self {
        Self {
            observed: 0,
            expected: tenth(silence.missed),
            spread: tenth(silence.spread()),
            score: tenth(silence.score()),
            window_start: silence.since,
            window_end: now,
            history_days: silence.days,
        }
    }
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Whose event it is and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Addressee<'a> {
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub site_domain: &'a str,
    pub webhook_id: WebhookId,
    pub format: Format,
    /// What fired, and how long an event of it is worth being sent.
    pub trigger: Option<(TriggerId, Duration)>,
}

impl Event {
    /// Puts `data` into the shape the endpoint wants. `moment` must name what happened, unique per trigger.
    pub fn new(id: EventId, addressee: &Addressee<'_>, moment: String, data: Data, now: Timestamp) -> Self {
        let event_type = data.type_name();
        let envelope = Envelope {
            event_id: id,
            event_type,
            version: VERSION,
            site_id: addressee.site_id,
            site_domain: addressee.site_domain,
            timestamp: now,
            webhook_id: addressee.webhook_id,
            trigger_id: addressee.trigger.map(|(id, _)| id),
            data,
        };
        Self {
            id,
            account_id: addressee.account_id,
            site_id: addressee.site_id,
            webhook_id: addressee.webhook_id,
            trigger_id: envelope.trigger_id,
            event_type: event_type.to_owned(),
            moment,
            format: addressee.format,
            payload: super::format::render(addressee.format, &envelope),
            expires_at: addressee.trigger.map(|(_, max_age)| now + max_age),
            inserted_at: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
        rows.iter().map(|(name, visitors)| ((*name).to_owned(), *visitors)).collect()
    }

    #[test]
    fn a_rise_is_shared_by_what_grew() {
        let shares =
            Share::of_rise(&named(&[("a", 10), ("b", 5), ("c", 9)]), &named(&[("a", 40), ("b", 15), ("c", 2)]));
        let told: Vec<_> =
            shares.iter().map(|one| (one.name.as_str(), one.visitors_before, one.share_percent)).collect();
        assert_eq!(told, [("a", 10, 75), ("b", 5, 25)]);
        assert_eq!(Share::of_rise(&named(&[("a", 3)]), &named(&[("a", 3)])), []);
    }

    proptest! {
        #[test]
        fn shares_are_of_one_whole(
            before in prop::collection::btree_map("[a-f]", 0u64..50, 0..6),
            now in prop::collection::btree_map("[a-f]", 0u64..50, 0..6),
        ) {
            let rows = |map: &BTreeMap<String, u64>| map.clone().into_iter().collect::<Vec<_>>();
            let shares = Share::of_rise(&rows(&before), &rows(&now));
            prop_assert!(shares.len() <= Ranking::LISTED);
            // Each is rounded.
            prop_assert!(shares.iter().map(|one| one.share_percent).sum::<u64>() <= 102);
            prop_assert!(shares.iter().all(|one| one.visitors > one.visitors_before));
        }
    }
}
