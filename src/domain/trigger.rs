//! Triggers: a type and its settings. Settings are parsed once, at the door; inside they are always valid.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::baseline::{Direction, Sensitivity};
use super::condition::{Marks, Metric, Period, Trouble};
use super::filter::Filters;
use super::goal::{MAX_EVENT_NAME_CHARS, MAX_PATH_CHARS, MAX_PROP_KEY_CHARS, wanted_props};
use super::hit::{ENGAGEMENT, Hit, PAGEVIEW};
use super::ids::{AccountId, GoalId, SiteId, TriggerId, WebhookId};
use super::invalid::Invalid;
use super::time::{Timestamp, format_span, parse_span};

/// Percent above what is expected at which a spike is worth a webhook, unless the owner says otherwise.
pub const DEFAULT_THRESHOLD: u32 = 50;
/// Fewer current visitors than this are never a spike, unless the owner says otherwise: Plausible's own default.
pub const DEFAULT_MIN_VISITORS: u32 = 10;
/// After a spike was reported a second one within this time is held back.
pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30 * 60);

/// A site that is normally visited may be silent for so long before it is told.
pub const DEFAULT_SILENCE: Duration = Duration::from_secs(3_600);
/// What breaks on our side of a site is told after so long.
pub const DEFAULT_TROUBLE: Duration = Duration::from_secs(5 * 60);

/// The types there are, in words.
const TYPES: &str = "visitor_spike, visitor_drop, goal_completion, goal_stalled, milestone, no_data, custom_event, \
    error_condition or webhook_health";
const MIN_SILENCE: Duration = Duration::from_secs(5 * 60);
const MAX_SILENCE: Duration = Duration::from_secs(7 * 86_400);
const MIN_TROUBLE: Duration = Duration::from_secs(60);
const MAX_TROUBLE: Duration = Duration::from_secs(86_400);
const BATCH_SPANS: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);
const BATCH_COUNTS: std::ops::RangeInclusive<u64> = 2..=10_000;
const MAX_MILESTONE: u64 = 1_000_000_000_000;
/// Numbers a milestone's list may have.
const MAX_MILESTONES: usize = 50;
const MAX_THRESHOLD: u64 = 10_000;
const MAX_MIN_VISITORS: u64 = 1_000_000_000;
const MAX_COOLDOWN: Duration = Duration::from_secs(7 * 86_400);
const MAX_MIN_DURATION: Duration = Duration::from_secs(86_400);
/// Nothing falls by more than all of it.
const MAX_DROP_THRESHOLD: u64 = 100;
/// Properties whose values an event may count.
const MAX_INCLUDED: usize = 10;
const MAX_SOURCE_CHARS: usize = 255;
const MAX_HOSTNAME_CHARS: usize = 253;

/// A rule of a webhook: when it fires, the webhook gets one event.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    pub id: TriggerId,
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub webhook_id: WebhookId,
    pub settings: Settings,
    /// Moves with every change, so that an evaluation that began before it can tell.
    pub version: i64,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a trigger watches for. Its JSON is what the API shows and what is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Settings {
    VisitorSpike(VisitorChange),
    VisitorDrop(VisitorChange),
    GoalCompletion(GoalCompletion),
    GoalStalled(GoalStalled),
    Milestone(Milestone),
    NoData(NoData),
    CustomEvent(CustomEvent),
    ErrorCondition(ErrorCondition),
    WebhookHealth(WebhookHealth),
}

/// Fires when current visitors are `threshold` percent or more above what is expected now, or below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisitorChange {
    pub threshold: u32,
    pub baseline: Baseline,
    /// How much has to happen; only [`Baseline::Typical`] asks.
    #[serde(default)]
    pub sensitivity: Sensitivity,
    /// Spikes: fewer current visitors than this never fire, and with [`Baseline::Fixed`] this many do. Drops: where fewer
    /// are expected nothing fires, and with [`Baseline::Fixed`] fewer than this do.
    pub min_visitors: u32,
    #[serde(with = "span")]
    pub cooldown: Duration,
    /// It has to last so long before it is told.
    #[serde(with = "span", default)]
    pub min_duration: Duration,
    /// Whether its end is told too.
    #[serde(default)]
    pub notify_end: bool,
    /// Whose visits count.
    #[serde(flatten)]
    pub filters: Filters,
    /// Evaluated and shown, but sends nothing.
    pub shadow: bool,
}

/// Against what current visitors are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The site's own history at this time of day.
    Typical,
    /// The five minutes before.
    Previous,
    /// Nothing: `min_visitors` decides alone.
    Fixed,
}

/// When what was counted is told, if not at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Batch {
    /// When there are so many; a day after the first at the latest.
    Count(u64),
    /// So long after the first.
    Every(#[serde(with = "span")] Duration),
}

impl Batch {
    /// A batch by number is told so long after its first, however few there are.
    const LONGEST: Duration = Duration::from_secs(86_400);

    /// When what began at `first_at` is told at the latest.
    pub fn due_at(self, first_at: Timestamp) -> Timestamp {
        first_at
            + match self {
                Self::Count(_) => Self::LONGEST,
                Self::Every(span) => span,
            }
    }

    /// Whether `count`, the first of which was counted at `first_at`, are to be told now.
    pub fn is_due(self, count: u64, first_at: Timestamp, now: Timestamp) -> bool {
        match self {
            Self::Count(enough) => count >= enough || now >= self.due_at(first_at),
            Self::Every(_) => now >= self.due_at(first_at),
        }
    }
}

/// Fires when a goal converts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoalCompletion {
    /// The goal; every goal of the site when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_id: Option<GoalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    #[serde(flatten)]
    pub filters: Filters,
    pub shadow: bool,
}

/// Fires when visitors do what a site reports under this name, goal or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomEvent {
    pub event_name: String,
    /// Properties it must have with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Properties whose values are counted and told. Of others nothing leaves the house.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub include_properties: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    #[serde(flatten)]
    pub filters: Filters,
    pub shadow: bool,
}

impl CustomEvent {
    /// Whether a hit has the wanted properties.
    pub fn wants_props_of(&self, hit: &Hit) -> bool {
        self.properties.iter().all(|(key, wanted)| hit.prop(key) == Some(wanted))
    }
}

/// Fires when a goal that converts regularly has stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoalStalled {
    pub goal_id: GoalId,
    /// How rarely chance alone may leave as long a gap.
    pub sensitivity: Sensitivity,
    /// Whether it is told too when the goal converts again.
    pub notify_end: bool,
    pub shadow: bool,
}

/// Fires when a count passes a round number in a period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Milestone {
    pub metric: Metric,
    /// Of conversions: the goal; all of the site together when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal_id: Option<GoalId>,
    pub period: Period,
    #[serde(flatten)]
    pub marks: Marks,
    pub shadow: bool,
}

/// Fires when a site that is normally visited sends no events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoData {
    #[serde(with = "span")]
    pub after: Duration,
    /// Whether it is told too when events come again.
    pub notify_end: bool,
    pub shadow: bool,
}

/// Fires when the traffic of a site cannot be seen, which is our side's fault and says nothing about the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorCondition {
    /// One of [`ErrorCondition::CONDITIONS`]; any of them when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<Trouble>,
    #[serde(with = "span")]
    pub after: Duration,
    pub notify_end: bool,
    pub shadow: bool,
}

impl ErrorCondition {
    pub const CONDITIONS: [Trouble; 2] = [Trouble::AnalyticsUnreachable, Trouble::DataStale];

    pub fn wants(&self, trouble: Trouble) -> bool {
        self.condition.is_none_or(|wanted| wanted == trouble)
    }
}

/// Fires when another webhook of the account fails for long, or is disabled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookHealth {
    pub shadow: bool,
}

impl Settings {
    /// The name in the API, in payloads and in `X-Webhook-Event-Type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::VisitorSpike(_) => "visitor_spike",
            Self::VisitorDrop(_) => "visitor_drop",
            Self::GoalCompletion(_) => "goal_completion",
            Self::GoalStalled(_) => "goal_stalled",
            Self::Milestone(_) => "milestone",
            Self::NoData(_) => "no_data",
            Self::CustomEvent(_) => "custom_event",
            Self::ErrorCondition(_) => "error_condition",
            Self::WebhookHealth(_) => "webhook_health",
        }
    }

    /// How long an event of this kind is worth delivering. Nobody wants to be told tomorrow about the rush of today;
    /// a conversion may still have to reach the books.
    pub fn max_age(&self) -> Duration {
        match self {
            Self::VisitorSpike(_)
            | Self::VisitorDrop(_)
            | Self::GoalStalled(_)
            | Self::NoData(_)
            | Self::ErrorCondition(_) => Duration::from_secs(24 * 3_600),
            Self::GoalCompletion(_) | Self::Milestone(_) | Self::CustomEvent(_) | Self::WebhookHealth(_) => {
                Duration::from_secs(72 * 3_600)
            }
        }
    }

    pub fn shadow(&self) -> bool {
        match self {
            Self::VisitorSpike(change) | Self::VisitorDrop(change) => change.shadow,
            Self::GoalCompletion(completion) => completion.shadow,
            Self::GoalStalled(stalled) => stalled.shadow,
            Self::Milestone(milestone) => milestone.shadow,
            Self::NoData(no_data) => no_data.shadow,
            Self::CustomEvent(event) => event.shadow,
            Self::ErrorCondition(condition) => condition.shadow,
            Self::WebhookHealth(health) => health.shadow,
        }
    }

    /// When what it counts is told, if not at once.
    pub fn batch(&self) -> Option<Batch> {
        match self {
            Self::GoalCompletion(completion) => completion.batch,
            Self::CustomEvent(event) => event.batch,
            _ => None,
        }
    }

    /// The goal it is bound to, if it is.
    pub fn goal_id(&self) -> Option<GoalId> {
        match self {
            Self::GoalCompletion(completion) => completion.goal_id,
            Self::GoalStalled(stalled) => Some(stalled.goal_id),
            Self::Milestone(milestone) => milestone.goal_id,
            Self::VisitorSpike(_)
            | Self::VisitorDrop(_)
            | Self::NoData(_)
            | Self::CustomEvent(_)
            | Self::ErrorCondition(_)
            | Self::WebhookHealth(_) => None,
        }
    }

    /// Which way visitors have to go, and how far; `None` when it watches something else.
    pub fn visitor_change(&self) -> Option<(Direction, &VisitorChange)> {
        match self {
            Self::VisitorSpike(change) => Some((Direction::Rise, change)),
            Self::VisitorDrop(change) => Some((Direction::Fall, change)),
            Self::GoalCompletion(_)
            | Self::GoalStalled(_)
            | Self::Milestone(_)
            | Self::NoData(_)
            | Self::CustomEvent(_)
            | Self::ErrorCondition(_)
            | Self::WebhookHealth(_) => None,
        }
    }

    /// Reads what a client sent for a new trigger.
    ///
    /// # Errors
    /// Names every field that is missing, unknown or out of range.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, Invalid> {
        let mut fields = Fields { body, invalid: Invalid::new(), known: vec!["type"] };
        let settings = match body.get("type").and_then(Value::as_str) {
            Some("visitor_spike") => Self::VisitorSpike(fields.visitor_change(MAX_THRESHOLD)),
            Some("visitor_drop") => Self::VisitorDrop(fields.visitor_change(MAX_DROP_THRESHOLD)),
            Some("goal_completion") => Self::GoalCompletion(GoalCompletion {
                goal_id: fields.goal_id(),
                batch: fields.batch(),
                filters: fields.filters(),
                shadow: fields.flag("shadow"),
            }),
            Some("goal_stalled") => Self::GoalStalled(GoalStalled {
                goal_id: fields.needed_goal_id(),
                sensitivity: fields.sensitivity(),
                notify_end: fields.flag("notify_end"),
                shadow: fields.flag("shadow"),
            }),
            Some("milestone") => Self::Milestone(fields.milestone()),
            Some("no_data") => Self::NoData(NoData {
                after: fields.span_from("after", MIN_SILENCE, MAX_SILENCE, DEFAULT_SILENCE),
                notify_end: fields.flag("notify_end"),
                shadow: fields.flag("shadow"),
            }),
            Some("custom_event") => Self::CustomEvent(fields.custom_event()),
            Some("error_condition") => Self::ErrorCondition(ErrorCondition {
                condition: fields.condition(),
                after: fields.span_from("after", MIN_TROUBLE, MAX_TROUBLE, DEFAULT_TROUBLE),
                notify_end: fields.flag("notify_end"),
                shadow: fields.flag("shadow"),
            }),
            Some("webhook_health") => Self::WebhookHealth(WebhookHealth { shadow: fields.flag("shadow") }),
            Some(_) => return Err(Invalid::one("type", format!("must be {TYPES}"))),
            None => return Err(Invalid::one("type", format!("is required: {TYPES}"))),
        };
        fields.refuse_unknown();
        fields.invalid.into_result(settings)
    }

    /// The settings with the fields of `patch` put over them. The type cannot change: that would be another trigger.
    ///
    /// # Errors
    /// As [`Settings::parse`].
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Self, Invalid> {
        let Ok(Value::Object(mut body)) = serde_json::to_value(self) else {
            unreachable!("settings serialise to an object");
        };
        for (field, value) in patch {
            if field == "type" && value.as_str() != Some(self.type_name()) {
                return Err(Invalid::one("type", "cannot change; delete the trigger and create another"));
            }
            if value.is_null() {
                body.remove(field);
            } else {
                body.insert(field.clone(), value.clone());
            }
        }
        Self::parse(&body)
    }
}

/// Reads typed fields out of an object and collects what is wrong with them.
struct Fields<'a> {
    body: &'a Map<String, Value>,
    invalid: Invalid,
    known: Vec<&'static str>,
}

/// What the API answers with a trigger besides its settings; a client may send it back unchanged.
const READ_ONLY: [&str; 3] = ["id", "inserted_at", "updated_at"];

impl Fields<'_> {
    fn get(&mut self, name: &'static str) -> Option<&Value> {
        self.known.push(name);
        self.body.get(name).filter(|value| !value.is_null())
    }

    fn number(&mut self, name: &'static str, min: u64, max: u64, default: u32) -> u32 {
        let Some(value) = self.get(name) else { return default };
        match value.as_u64().filter(|number| (min..=max).contains(number)).map(u32::try_from) {
            Some(Ok(number)) => number,
            _ => {
                self.invalid.add(name, format!("must be a whole number from {min} to {max}"));
                default
            }
        }
    }

    fn span(&mut self, name: &'static str, max: Duration, default: Duration) -> Duration {
        let Some(value) = self.get(name) else { return default };
        let span = match value {
            Value::String(text) => parse_span(text).ok(),
            Value::Number(seconds) => seconds.as_u64().map(Duration::from_secs),
            _ => None,
        };
        match span.filter(|span| *span <= max) {
            Some(span) => span,
            None => {
                self.invalid.add(name, format!("must be a span such as 30s, 5m or 12h, at most {}", format_span(max)));
                default
            }
        }
    }

    fn span_from(&mut self, name: &'static str, min: Duration, max: Duration, default: Duration) -> Duration {
        let span = self.span(name, max, default);
        if span < min {
            self.invalid.add(name, format!("must be at least {}", format_span(min)));
        }
        span
    }

    /// One of a few names.
    fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.get(name)?.as_str().unwrap_or_default().to_owned();
        let found = choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            let (last, others) = names.split_last().expect("there are choices");
            self.invalid.add(name, format!("must be {} or {last}", others.join(", ")));
        }
        found
    }

    fn condition(&mut self) -> Option<Trouble> {
        self.one_of("condition", &ErrorCondition::CONDITIONS.map(|trouble| (trouble.as_str(), trouble)))
    }

    fn milestone(&mut self) -> Milestone {
        let metrics = [Metric::Visitors, Metric::Pageviews, Metric::Conversions].map(|one| (one.as_str(), one));
        let metric = self.one_of("metric", &metrics);
        if self.get("metric").is_none() {
            self.invalid.add("metric", "is required: visitors, pageviews or conversions");
        }
        let periods = [Period::Day, Period::Week, Period::Month].map(|one| (one.as_str(), one));
        let period = self.one_of("period", &periods).unwrap_or(Period::Day);
        let goal_id = self.goal_id();
        if goal_id.is_some() && metric != Some(Metric::Conversions) {
            self.invalid.add("goal_id", "goes with the metric conversions only");
        }
        Milestone {
            metric: metric.unwrap_or(Metric::Visitors),
            goal_id,
            period,
            marks: self.marks(),
            shadow: self.flag("shadow"),
        }
    }

    fn marks(&mut self) -> Marks {
        let is_fitting = |number: &u64| (1..=MAX_MILESTONE).contains(number);
        let step = self.get("step").map(|step| step.as_u64().filter(is_fitting));
        let list: Option<Option<BTreeSet<u64>>> = self.get("list").map(|list| {
            let numbers = list.as_array().filter(|numbers| (1..=MAX_MILESTONES).contains(&numbers.len()))?;
            numbers.iter().map(|number| number.as_u64().filter(is_fitting)).collect()
        });
        match (step, list) {
            (Some(Some(step)), None) => return Marks::Step(step),
            (None, Some(Some(list))) => return Marks::List(list),
            (Some(None), _) => self.invalid.add("step", format!("must be a whole number from 1 to {MAX_MILESTONE}")),
            (None, Some(None)) => self.invalid.add("list", "must be 1 to 50 whole numbers, such as [1000, 10000]"),
            (Some(_), Some(_)) => self.invalid.add("list", "cannot be said together with step"),
            (None, None) => self.invalid.add("step", "is required, or list: the numbers that are milestones"),
        }
        Marks::Step(1)
    }

    fn needed_goal_id(&mut self) -> GoalId {
        let goal_id = self.goal_id();
        if self.get("goal_id").is_none() {
            self.invalid.add("goal_id", "is required: the goal that is watched");
        }
        goal_id.unwrap_or(GoalId(0))
    }

    fn visitor_change(&mut self, max_threshold: u64) -> VisitorChange {
        VisitorChange {
            threshold: self.number("threshold", 1, max_threshold, DEFAULT_THRESHOLD),
            baseline: self.baseline(),
            sensitivity: self.sensitivity(),
            min_visitors: self.number("min_visitors", 1, MAX_MIN_VISITORS, DEFAULT_MIN_VISITORS),
            cooldown: self.span("cooldown", MAX_COOLDOWN, DEFAULT_COOLDOWN),
            min_duration: self.span("min_duration", MAX_MIN_DURATION, Duration::ZERO),
            notify_end: self.flag("notify_end"),
            filters: self.filters(),
            shadow: self.flag("shadow"),
        }
    }

    fn custom_event(&mut self) -> CustomEvent {
        let event_name = self.text("event_name", MAX_EVENT_NAME_CHARS).unwrap_or_default();
        if self.get("event_name").is_none() {
            self.invalid.add("event_name", "is required: the name under which the site reports it");
        } else if [PAGEVIEW, ENGAGEMENT].contains(&event_name.as_str()) {
            self.invalid.add("event_name", "must be a custom event; pages are watched with a goal");
        }
        self.known.push("properties");
        let properties = wanted_props(self.body.get("properties"), "properties", &mut self.invalid);
        CustomEvent {
            event_name,
            properties: properties.into_iter().collect(),
            include_properties: self.include_properties(),
            batch: self.batch(),
            filters: self.filters(),
            shadow: self.flag("shadow"),
        }
    }

    fn batch(&mut self) -> Option<Batch> {
        let batch = match self.get("batch")? {
            Value::String(text) => parse_span(text).ok().filter(|span| BATCH_SPANS.contains(span)).map(Batch::Every),
            Value::Number(count) => count.as_u64().filter(|count| BATCH_COUNTS.contains(count)).map(Batch::Count),
            _ => None,
        };
        if batch.is_none() {
            self.invalid.add("batch", "must be a span from 1m to 1d, or a whole number from 2 to 10000");
        }
        batch
    }

    fn include_properties(&mut self) -> BTreeSet<String> {
        let Some(value) = self.get("include_properties") else { return BTreeSet::new() };
        let names: Option<BTreeSet<String>> = value.as_array().and_then(|names| {
            let is_fitting = |name: &&str| (1..=MAX_PROP_KEY_CHARS).contains(&name.chars().count());
            names.iter().map(|name| name.as_str().filter(is_fitting).map(str::to_owned)).collect()
        });
        match names.filter(|names| names.len() <= MAX_INCLUDED) {
            Some(names) => names,
            None => {
                self.invalid.add("include_properties", "must be a list of at most 10 names of 1 to 300 characters");
                BTreeSet::new()
            }
        }
    }

    fn filters(&mut self) -> Filters {
        let page = self.text("page", MAX_PATH_CHARS);
        let country = self.text("country", MAX_SOURCE_CHARS).map(|country| country.to_ascii_uppercase());
        if country.as_ref().is_some_and(|code| code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_uppercase())) {
            self.invalid.add("country", "must be a country code of two letters, such as DE");
        }
        let hostname = self.text("hostname", MAX_HOSTNAME_CHARS).map(|hostname| {
            let hostname = hostname.to_lowercase();
            hostname.strip_prefix("www.").map(str::to_owned).unwrap_or(hostname)
        });
        Filters {
            page: page.map(|page| if page.starts_with('/') { page } else { format!("/{page}") }),
            source: self.text("source", MAX_SOURCE_CHARS),
            country,
            hostname,
        }
    }

    /// A text without the blanks around it.
    fn text(&mut self, name: &'static str, max_chars: usize) -> Option<String> {
        let text = self.get(name)?.as_str().map(|text| text.trim().to_owned());
        match text.filter(|text| (1..=max_chars).contains(&text.chars().count())) {
            Some(text) => Some(text),
            None => {
                self.invalid.add(name, format!("must be a text of 1 to {max_chars} characters"));
                None
            }
        }
    }

    fn flag(&mut self, name: &'static str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.invalid.add(name, "must be true or false");
                false
            }
        }
    }

    fn baseline(&mut self) -> Baseline {
        match self.get("baseline").map(Value::as_str) {
            None | Some(Some("typical")) => Baseline::Typical,
            Some(Some("previous")) => Baseline::Previous,
            Some(Some("fixed")) => Baseline::Fixed,
            Some(_) => {
                self.invalid.add("baseline", "must be typical, previous or fixed");
                Baseline::Typical
            }
        }
    }

    fn sensitivity(&mut self) -> Sensitivity {
        match self.get("sensitivity").map(Value::as_str) {
            None | Some(Some("normal")) => Sensitivity::Normal,
            Some(Some("low")) => Sensitivity::Low,
            Some(Some("high")) => Sensitivity::High,
            Some(_) => {
                self.invalid.add("sensitivity", "must be low, normal or high");
                Sensitivity::Normal
            }
        }
    }

    /// Ids are strings, but a number is what somebody types by hand.
    fn goal_id(&mut self) -> Option<GoalId> {
        let id = match self.get("goal_id")? {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_i64().map(GoalId),
            _ => None,
        };
        if id.is_none() {
            self.invalid.add("goal_id", "must be the id of a goal of this site");
        }
        id
    }

    fn refuse_unknown(&mut self) {
        for field in self.body.keys() {
            if !self.known.contains(&field.as_str()) && !READ_ONLY.contains(&field.as_str()) {
                self.invalid.add(field, "is not a setting of this type of trigger");
            }
        }
    }
}

/// Spans of time in JSON: `"30m"`.
mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::domain::time::{format_span, parse_span};

    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_span(*span))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_span(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<Settings, Invalid> {
        Settings::parse(body.as_object().unwrap())
    }

    #[test]
    fn defaults_are_filled_in() {
        let settings = parse(json!({"type": "visitor_spike"})).unwrap();
        assert_eq!(
            serde_json::to_value(&settings).unwrap(),
            json!({"type": "visitor_spike", "threshold": 50, "baseline": "typical", "sensitivity": "normal",
                   "min_visitors": 10, "cooldown": "30m", "min_duration": "0", "notify_end": false, "shadow": false})
        );
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (body, field) in [
            (json!({}), "type"),
            (json!({"type": "nonsense"}), "type"),
            (json!({"type": 5}), "type"),
            (json!({"type": "visitor_spike", "threshold": 0}), "threshold"),
            (json!({"type": "visitor_spike", "threshold": 10_001}), "threshold"),
            (json!({"type": "visitor_spike", "threshold": 1.5}), "threshold"),
            (json!({"type": "visitor_spike", "threshold": "50"}), "threshold"),
            (json!({"type": "visitor_spike", "baseline": "weekly"}), "baseline"),
            (json!({"type": "visitor_spike", "min_visitors": -1}), "min_visitors"),
            (json!({"type": "visitor_spike", "cooldown": "8d"}), "cooldown"),
            (json!({"type": "visitor_spike", "shadow": 1}), "shadow"),
            (json!({"type": "visitor_spike", "sensitivity": "extreme"}), "sensitivity"),
            (json!({"type": "visitor_spike", "min_duration": "2d"}), "min_duration"),
            (json!({"type": "visitor_spike", "notify_end": "yes"}), "notify_end"),
            (json!({"type": "visitor_drop", "threshold": 101}), "threshold"),
            (json!({"type": "visitor_spike", "goal_id": "1"}), "goal_id"),
            (json!({"type": "goal_completion", "goal_id": "x"}), "goal_id"),
            (json!({"type": "goal_completion", "threshold": 5}), "threshold"),
            (json!({"type": "goal_completion", "page": ""}), "page"),
            (json!({"type": "goal_completion", "batch": "30s"}), "batch"),
            (json!({"type": "goal_completion", "batch": 1}), "batch"),
            (json!({"type": "goal_completion", "batch": true}), "batch"),
            (json!({"type": "visitor_spike", "batch": "1h"}), "batch"),
            (json!({"type": "goal_completion", "country": "Germany"}), "country"),
            (json!({"type": "goal_completion", "source": 5}), "source"),
            (json!({"type": "visitor_spike", "page": ""}), "page"),
            (json!({"type": "visitor_drop", "country": "DEU"}), "country"),
            (json!({"type": "goal_stalled"}), "goal_id"),
            (json!({"type": "goal_stalled", "goal_id": "1", "sensitivity": 3}), "sensitivity"),
            (json!({"type": "no_data", "after": "4m"}), "after"),
            (json!({"type": "no_data", "after": "8d"}), "after"),
            (json!({"type": "no_data", "goal_id": "1"}), "goal_id"),
            (json!({"type": "error_condition", "condition": "no_data"}), "condition"),
            (json!({"type": "error_condition", "after": "30s"}), "after"),
            (json!({"type": "milestone", "step": 10}), "metric"),
            (json!({"type": "milestone", "metric": "bounces", "step": 10}), "metric"),
            (json!({"type": "milestone", "metric": "visitors"}), "step"),
            (json!({"type": "milestone", "metric": "visitors", "step": 0}), "step"),
            (json!({"type": "milestone", "metric": "visitors", "list": []}), "list"),
            (json!({"type": "milestone", "metric": "visitors", "list": [1, -2]}), "list"),
            (json!({"type": "milestone", "metric": "visitors", "list": [1], "step": 5}), "list"),
            (json!({"type": "milestone", "metric": "visitors", "step": 5, "period": "year"}), "period"),
            (json!({"type": "milestone", "metric": "visitors", "step": 5, "goal_id": "1"}), "goal_id"),
            (json!({"type": "custom_event"}), "event_name"),
            (json!({"type": "custom_event", "event_name": " "}), "event_name"),
            (json!({"type": "custom_event", "event_name": "pageview"}), "event_name"),
            (json!({"type": "custom_event", "event_name": "A", "properties": ["a"]}), "properties"),
            (json!({"type": "custom_event", "event_name": "A", "properties": {"a": 1}}), "properties"),
            (json!({"type": "custom_event", "event_name": "A", "include_properties": "a"}), "include_properties"),
            (json!({"type": "custom_event", "event_name": "A", "include_properties": [""]}), "include_properties"),
            (json!({"type": "custom_event", "event_name": "A", "goal_id": "1"}), "goal_id"),
        ] {
            let invalid = parse(body.clone()).expect_err(&body.to_string());
            assert!(invalid.fields().contains_key(field), "{body}: {invalid}");
        }
    }

    /// Two spellings of the same are the same: a webhook has no trigger twice.
    #[test]
    fn filters_and_names_are_stored_in_one_spelling() {
        let settings = parse(json!({
            "type": "custom_event", "event_name": " Buy ", "include_properties": ["b", "a", "b"],
            "page": "blog/*", "country": "de", "hostname": "WWW.Example.com"
        }));
        let settings = settings.unwrap();
        let stored = json!({
            "type": "custom_event", "event_name": "Buy", "include_properties": ["a", "b"],
            "page": "/blog/*", "country": "DE", "hostname": "example.com", "shadow": false
        });
        assert_eq!(serde_json::to_value(&settings).unwrap(), stored);
        assert_eq!(serde_json::from_value::<Settings>(stored).unwrap(), settings);
        let patched = settings.patched(json!({"page": null, "source": "Direct / None"}).as_object().unwrap()).unwrap();
        let Settings::CustomEvent(event) = patched else { panic!() };
        assert_eq!((event.filters.page.as_deref(), event.filters.source.as_deref()), (None, Some("Direct / None")));
    }

    /// What is stored is what the API shows, and reads back as what it was.
    #[test]
    fn settings_read_back_what_they_say() {
        for body in [
            json!({"type": "goal_stalled", "goal_id": "7", "sensitivity": "high", "notify_end": true, "shadow": false}),
            json!({"type": "milestone", "metric": "visitors", "period": "day", "step": 1000, "shadow": false}),
            json!({"type": "milestone", "metric": "conversions", "goal_id": "7", "period": "month", "list": [100, 500],
                   "shadow": true}),
            json!({"type": "no_data", "after": "1h", "notify_end": false, "shadow": false}),
            json!({"type": "goal_completion", "batch": "15m", "shadow": false}),
            json!({"type": "custom_event", "event_name": "Buy", "batch": 100, "shadow": false}),
            json!({"type": "error_condition", "condition": "data_stale", "after": "5m", "notify_end": true,
                   "shadow": false}),
        ] {
            let settings = parse(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&settings).unwrap(), body);
            assert_eq!(serde_json::from_value::<Settings>(body).unwrap(), settings);
        }
        let stepped = parse(json!({"type": "milestone", "metric": "visitors", "step": 10})).unwrap();
        let listed = stepped.patched(json!({"step": null, "list": [5]}).as_object().unwrap()).unwrap();
        let Settings::Milestone(milestone) = listed else { panic!() };
        assert_eq!(milestone.marks, Marks::List([5].into()));
    }

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let settings = parse(json!({"type": "visitor_spike", "threshold": 80})).unwrap();
        let patched = settings.patched(json!({"cooldown": "1h"}).as_object().unwrap()).unwrap();
        let Settings::VisitorSpike(spike) = patched else { panic!() };
        assert_eq!((spike.threshold, spike.cooldown), (80, Duration::from_secs(3_600)));
        assert!(settings.patched(json!({"type": "goal_completion"}).as_object().unwrap()).is_err());
    }
}
