//! The shapes a payload can take: our own JSON, CloudEvents, and what chat rooms and phones understand.

use serde_json::{Value, json};

use super::condition::Trouble;
use super::event::{
    ChangeData, CustomEventData, Data, EndedData, Envelope, ErrorData, GoalData, HealthData, HealthState,
    MilestoneData, NoDataData, OverData, StalledData,
};
use super::time::in_words;
use super::webhook::Format;

/// What most bodies take.
const MOSTLY_BYTES: usize = 768;

/// The body for an endpoint that wants `format`.
pub fn render(format: Format, envelope: &Envelope<'_>) -> Vec<u8> {
    match format {
        Format::Json => {
            let mut body = Vec::with_capacity(MOSTLY_BYTES);
            serde_json::to_writer(&mut body, envelope).expect("an envelope has only string keys");
            body
        }
        Format::Cloudevents => json_bytes(&cloudevent(envelope)),
        Format::Slack => json_bytes(&json!({ "text": chat_text(envelope, "*") })),
        Format::Discord => {
            json_bytes(&json!({ "content": chat_text(envelope, "**"), "allowed_mentions": { "parse": [] } }))
        }
        Format::Teams => json_bytes(&adaptive_card(envelope)),
        Format::Ntfy => chat_text(envelope, "").into_bytes(),
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// CloudEvents 1.0, structured mode.
fn cloudevent(envelope: &Envelope<'_>) -> Value {
    json!({
        "specversion": "1.0",
        "id": envelope.event_id,
        "source": format!("/sites/{}", envelope.site_domain),
        "type": format!("pulsehook.{}", envelope.event_type),
        "subject": envelope.site_domain,
        "time": envelope.timestamp,
        "datacontenttype": "application/json",
        "data": envelope,
    })
}

/// A message card as Teams' workflows take it.
fn adaptive_card(envelope: &Envelope<'_>) -> Value {
    let blocks: Vec<_> = std::iter::once(json!({
        "type": "TextBlock", "text": headline(envelope), "weight": "Bolder", "wrap": true
    }))
    .chain(details(envelope).into_iter().map(|line| json!({ "type": "TextBlock", "text": line, "wrap": true })))
    .collect();
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": { "type": "AdaptiveCard", "version": "1.4", "body": blocks },
        }],
    })
}

fn chat_text(envelope: &Envelope<'_>, bold: &str) -> String {
    let mut text = format!("{bold}{}{bold}", plain(&headline(envelope)));
    for line in details(envelope) {
        text.push('\n');
        text.push_str(&plain(&line));
    }
    text
}

/// Names come from visitors: nothing in them may mention people, open links or start markup in a chat room.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace(['*', '`', '@', '_', '~'], " ")
}

/// What happened, in one sentence.
pub fn headline(envelope: &Envelope<'_>) -> String {
    let domain = envelope.site_domain;
    match &envelope.data {
        Data::VisitorSpike(ChangeData { current_visitors, previous_visitors: 0, .. }) => {
            format!("Traffic spike on {domain}: {current_visitors} current visitors, hardly any expected")
        }
        Data::VisitorSpike(ChangeData { current_visitors, change_percent, previous_visitors, .. }) => format!(
            "Traffic spike on {domain}: {current_visitors} current visitors, {change_percent} % above the expected {previous_visitors}"
        ),
        Data::VisitorDrop(ChangeData { current_visitors, change_percent, previous_visitors, .. }) => format!(
            "Traffic drop on {domain}: {current_visitors} current visitors, {change_percent} % below the expected {previous_visitors}"
        ),
        Data::VisitorSpikeEnded(EndedData { duration_seconds, .. }) => {
            format!("Traffic spike on {domain} is over after {} minutes", duration_seconds.div_ceil(60))
        }
        Data::VisitorDropEnded(EndedData { duration_seconds, .. }) => {
            format!("Traffic drop on {domain} is over after {} minutes", duration_seconds.div_ceil(60))
        }
        Data::GoalCompletion(GoalData { goal_name, count: 1, .. }) => format!("{goal_name} on {domain}"),
        Data::GoalCompletion(GoalData { goal_name, count, .. }) => format!("{goal_name} on {domain}, {count} times"),
        Data::CustomEvent(CustomEventData { event_name, count: 1, .. }) => format!("{event_name} on {domain}"),
        Data::CustomEvent(CustomEventData { event_name, count, .. }) => {
            format!("{event_name} on {domain}, {count} times")
        }
        Data::GoalStalled(StalledData { goal_name, silent_seconds, .. }) => {
            format!("{goal_name} on {domain} has not been completed for {}", seconds_in_words(*silent_seconds))
        }
        Data::GoalStalledEnded(OverData { goal_name, .. }) => {
            format!("{} on {domain} is completed again", goal_name.as_deref().unwrap_or("A goal"))
        }
        Data::Milestone(MilestoneData { metric, period, milestone, goal_name, .. }) => match goal_name {
            Some(name) => format!("{name} on {domain}: past {milestone} this {}", period.as_str()),
            None => format!("{domain}: past {milestone} {} this {}", metric.as_str(), period.as_str()),
        },
        Data::NoData(NoDataData { silent_seconds, .. }) => {
            format!("{domain} has sent no events for {}", seconds_in_words(*silent_seconds))
        }
        Data::NoDataEnded(OverData { duration_seconds, .. }) => {
            format!("{domain} sends events again after {}", seconds_in_words(*duration_seconds))
        }
        Data::ErrorCondition(ErrorData { condition: Trouble::AnalyticsUnreachable, .. }) => {
            format!("The traffic of {domain} cannot be seen: the analytics database does not answer")
        }
        Data::ErrorCondition(_) => {
            format!("The traffic of {domain} cannot be seen: no event of any site comes in")
        }
        Data::ErrorConditionEnded(OverData { duration_seconds, .. }) => {
            format!("The traffic of {domain} can be seen again after {}", seconds_in_words(*duration_seconds))
        }
        Data::WebhookHealth(HealthData { failing_webhook_name, failing_site_domain, state, .. }) => match state {
            HealthState::Failing => {
                format!("Webhook \"{failing_webhook_name}\" of {failing_site_domain} fails: nothing can be delivered")
            }
            HealthState::Disabled => {
                format!("Webhook \"{failing_webhook_name}\" of {failing_site_domain} was disabled")
            }
        },
        Data::Test(_) => format!("Test from {domain}: your endpoint is reachable"),
    }
}

fn details(envelope: &Envelope<'_>) -> Vec<String> {
    let (sources, pages) = match &envelope.data {
        Data::VisitorSpike(data) | Data::VisitorDrop(data) => (&data.top_sources, &data.top_pages),
        Data::GoalCompletion(data) => (&data.top_sources, &data.top_pages),
        Data::CustomEvent(data) => (&data.top_sources, &data.top_pages),
        Data::WebhookHealth(data) => return data.reason.clone().into_iter().collect(),
        Data::GoalStalled(data) => return vec![data.reason.clone()],
        Data::Milestone(data) => return vec![data.reason.clone()],
        Data::NoData(data) => return vec![data.reason.clone()],
        Data::ErrorCondition(data) => return vec![data.reason.clone()],
        Data::VisitorSpikeEnded(_)
        | Data::VisitorDropEnded(_)
        | Data::GoalStalledEnded(_)
        | Data::NoDataEnded(_)
        | Data::ErrorConditionEnded(_)
        | Data::Test(_) => return Vec::new(),
    };
    let mut lines = Vec::new();
    if let Data::CustomEvent(data) = &envelope.data {
        for (name, values) in data.properties.iter().filter(|(_, values)| !values.is_empty()) {
            let values: Vec<_> = values.iter().map(|one| format!("{} ({})", one.value, one.count)).collect();
            lines.push(format!("{name}: {}", values.join(", ")));
        }
    }
    if !sources.is_empty() {
        let names: Vec<_> = sources.iter().map(|top| format!("{} ({})", top.source, top.visitors)).collect();
        lines.push(format!("Sources: {}", names.join(", ")));
    }
    if !pages.is_empty() {
        let names: Vec<_> = pages.iter().map(|top| format!("{} ({})", top.page, top.visitors)).collect();
        lines.push(format!("Pages: {}", names.join(", ")));
    }
    lines
}

fn seconds_in_words(seconds: u64) -> String {
    in_words(std::time::Duration::from_secs(seconds))
}
