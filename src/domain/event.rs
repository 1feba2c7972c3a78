//! Events: what receivers get. Built once when a trigger fires; the bytes are stored, signed and sent as they are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::baseline::Basis;
use super::condition::{Metric, Period, Reached, Trouble};
use super::decide::{Change, Direction, Ended, Incident};
use super::goal::Goal;
use super::habit::Silence;
use super::ids::{AccountId, EventId, SiteId, TriggerId, WebhookId};
use super::time::{Timestamp, in_words};
use super::trigger::{Baseline, CustomEvent, Settings, VisitorChange};
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
    /// Why, in a sentence.
    pub reason: String,
    pub window_seconds: u64,
    pub top_sources: Vec<TopSource>,
    pub top_pages: Vec<TopPage>,
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

impl Data {
    /// The data of a spike or a drop.
    pub fn change(
        direction: Direction,
        settings: &VisitorChange,
        change: &Change,
        sources: Vec<TopSource>,
        pages: Vec<TopPage>,
    ) -> Self {
        let data = ChangeData {
            current_visitors: change.current,
            previous_visitors: change.expected,
            change_percent: change.change_percent,
            threshold: settings.threshold,
            baseline: settings.baseline,
            basis: change.basis,
            score: change.score.map(tenth),
            reason: change.reason(direction, settings.baseline),
            window_seconds: super::baseline::WINDOW.as_secs(),
            top_sources: sources,
            top_pages: pages,
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
    pub fn completions(goal: &Goal, tally: &Tally) -> Self {
        Self::GoalCompletion(GoalData {
            goal_id: goal.id,
            goal_name: goal.display_name.clone(),
            goal_type: goal.kind.goal_type(),
            count: tally.count,
            window_start: tally.first_at,
            window_end: tally.last_at,
            top_pages: tally.top_pages(),
            top_sources: tally.top_sources(),
        })
    }

    /// The data of a custom event.
    pub fn custom_event(settings: &CustomEvent, tally: &Tally) -> Self {
        let times = match tally.count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        let among = |name: &String| {
            let values = tally.properties.get(name).into_iter().flatten();
            let values = values.map(|(value, count)| PropertyValue { value: value.clone(), count: *count });
            let mut values: Vec<_> = values.collect();
            values.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
            values.truncate(Tally::VALUES_TOLD);
            (name.clone(), values)
        };
        Self::CustomEvent(CustomEventData {
            event_name: settings.event_name.clone(),
            count: tally.count,
            window_start: tally.first_at,
            window_end: tally.last_at,
            properties: settings.include_properties.iter().map(among).collect(),
            reason: format!("\"{}\" happened {times}.", settings.event_name),
            top_pages: tally.top_pages(),
            top_sources: tally.top_sources(),
        })
    }

    /// The data of a site that sends nothing.
    pub fn no_data(last_event_at: Timestamp, silence: &Silence, now: Timestamp) -> Self {
        let silent = now.since(last_event_at);
        Self::NoData(NoDataData {
            last_event_at,
            silent_seconds: silent.as_secs(),
            silence: SilenceData::new(silence, now),
            reason: format!(
                "No event for {}, where about {} visitors are usual by {} days of history. Look whether the tracker is still \
                 on the pages, and whether the site can be reached.",
                in_words(silent),
                whole(silence.missed),
                silence.days
            ),
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
            reason: format!(
                "\"{}\" was last completed {} ago, where about {} completions are usual by {} days of history. Visitors \
                 still come: try what completes it yourself.",
                goal.display_name,
                in_words(silent),
                whole(silence.missed),
                silence.days
            ),
        })
    }

    /// The data of a milestone; `goal` where it counts one.
    pub fn milestone(metric: Metric, period: Period, reached: &Reached, count: u64, goal: Option<&Goal>) -> Self {
        let what = match goal {
            Some(goal) => format!("completions of \"{}\"", goal.display_name),
            None => metric.as_str().to_owned(),
        };
        Self::Milestone(MilestoneData {
            metric,
            period,
            period_start: reached.period_start,
            milestone: reached.milestone,
            count,
            goal_id: goal.map(|goal| goal.id),
            goal_name: goal.map(|goal| goal.display_name.clone()),
            reason: format!("{} {what} this {} so far: past {}.", count, period.as_str(), reached.milestone),
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

/// For sentences.
fn whole(number: f64) -> String {
    format!("{:.0}", number.round())
}

/// Completions of one goal, or occurrences of one custom event, within one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    pub count: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub pages: Ranking,
    pub sources: Ranking,
    /// How often each value of the properties somebody wants to know of occurred.
    pub properties: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Tally {
    /// Values of a property that a payload lists.
    const VALUES_TOLD: usize = 10;
    /// Values of a property that are counted; what visitors make up beyond that is left out.
    const VALUES_COUNTED: usize = 1_000;

    /// Counts a value of a property.
    pub fn add_property(&mut self, name: &str, value: &str) {
        let values = self.properties.entry(name.to_owned()).or_default();
        if let Some(count) = values.get_mut(value) {
            *count += 1;
        } else if values.len() < Self::VALUES_COUNTED {
            values.insert(value.to_owned(), 1);
        }
    }

    fn top_pages(&self) -> Vec<TopPage> {
        self.pages.top().into_iter().map(|(page, visitors)| TopPage { page, visitors }).collect()
    }

    fn top_sources(&self) -> Vec<TopSource> {
        self.sources.top().into_iter().map(|(source, visitors)| TopSource { source, visitors }).collect()
    }
}

/// How many distinct visitors each name had.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranking(BTreeMap<String, std::collections::BTreeSet<u64>>);

impl Ranking {
    /// Names listed in a payload.
    pub const LISTED: usize = 3;

    /// An empty name ("Direct / None") is not ranked.
    pub fn add(&mut self, name: &str, visitor: u64) {
        if name.is_empty() {
            return;
        }
        if let Some(visitors) = self.0.get_mut(name) {
            visitors.insert(visitor);
        } else {
            self.0.insert(name.to_owned(), [visitor].into());
        }
    }

    /// Most visitors first, then by name.
    pub fn top(&self) -> Vec<(String, u64)> {
        let mut rows: Vec<_> = self.0.iter().map(|(name, visitors)| (name.clone(), visitors.len() as u64)).collect();
        rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        rows.truncate(Self::LISTED);
        rows
    }
}

/// Whose event it is and where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Addressee<'a> {
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub site_domain: &'a str,
    pub webhook_id: WebhookId,
    pub format: Format,
    pub trigger: Option<(TriggerId, &'a Settings)>,
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
            expires_at: addressee.trigger.map(|(_, settings)| now + settings.max_age()),
            inserted_at: now,
        }
    }
}
