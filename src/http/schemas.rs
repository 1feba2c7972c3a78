//! JSON Schemas of the events receivers get, written in one place and tested against what is really sent; each with an example
//! that is made from it.

use axum::Json;
use axum::extract::Path;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error::{ApiError, Problem, Result};

/// Types there is a schema for.
pub const TYPES: [&str; 15] = [
    "visitor_spike",
    "visitor_drop",
    "visitor_spike_ended",
    "visitor_drop_ended",
    "goal_completion",
    "goal_stalled",
    "goal_stalled_ended",
    "milestone",
    "no_data",
    "no_data_ended",
    "custom_event",
    "error_condition",
    "error_condition_ended",
    "webhook_health",
    "test",
];

#[derive(Serialize, ToSchema)]
pub struct SchemasAnswer {
    /// Path of each schema by type of event.
    schemas: std::collections::BTreeMap<&'static str, String>,
}

/// Types of events and where their schemas are
#[utoipa::path(get, path = "/api/schemas/", tag = "operation", responses((status = 200, body = SchemasAnswer)))]
pub async fn list_schemas() -> Json<SchemasAnswer> {
    let schemas = TYPES.into_iter().map(|name| (name, format!("/api/schemas/{name}"))).collect();
    Json(SchemasAnswer { schemas })
}

/// JSON Schema of one type of event
#[utoipa::path(get, path = "/api/schemas/{event_type}", tag = "operation", params(("event_type" = String, Path)),
    responses((status = 200, description = "A JSON Schema (2020-12)", body = Object), (status = 404, body = Problem)))]
pub async fn show_schema(Path(event_type): Path<String>) -> Result<Json<Value>> {
    schema(&event_type).map(Json).ok_or_else(ApiError::not_found)
}

/// The schema of a whole payload.
pub fn schema(event_type: &str) -> Option<Value> {
    let data = data(event_type)?;
    let mut schema = object(
        json!({
            "event_id": { "type": "string", "format": "uuid", "description": "The same on every retry and resend" },
            "event_type": { "const": event_type },
            "version": { "const": "1" },
            "site_id": { "type": "string" },
            "site_domain": { "type": "string" },
            "timestamp": moment(),
            "webhook_id": { "type": "string" },
            "trigger_id": { "type": "string", "description": "Absent for a test" },
            "data": data,
        }),
        &["event_id", "event_type", "version", "site_id", "site_domain", "timestamp", "webhook_id", "data"],
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(event_type);
    schema["examples"] = json!([example("", &schema)]);
    Some(schema)
}

/// The schema of what events of a type say.
fn data(event_type: &str) -> Option<Value> {
    Some(match event_type {
        "visitor_spike" | "visitor_drop" => change(),
        "visitor_spike_ended" | "visitor_drop_ended" => change_over(),
        "goal_completion" => completions(),
        "custom_event" => custom_event(),
        "no_data" => silence(
            json!({ "last_event_at": moment() }),
            &["last_event_at"],
            "Visitors that were to be expected meanwhile, to one digit",
        ),
        "goal_stalled" => silence(
            json!({
                "goal_id": { "type": "string" },
                "goal_name": { "type": "string" },
                "goal_type": { "enum": ["event", "page", "scroll"] },
                "last_completion_at": moment(),
            }),
            &["goal_id", "goal_name", "goal_type", "last_completion_at"],
            "Completions that were to be expected meanwhile, to one digit",
        ),
        "no_data_ended" => over(json!({}), &[]),
        "goal_stalled_ended" => over(
            json!({ "goal_id": { "type": "string" }, "goal_name": { "type": "string" } }),
            &["goal_id", "goal_name"],
        ),
        "error_condition_ended" => over(json!({ "condition": condition() }), &["condition"]),
        "error_condition" => trouble(),
        "milestone" => milestone(),
        "webhook_health" => health(),
        "test" => object(json!({ "test": { "const": true }, "message": { "type": "string" } }), &["test", "message"]),
        _ => return None,
    })
}

/// Visitors that are more or fewer than usual.
fn change() -> Value {
    object(
        json!({
            "current_visitors": count("Distinct visitors of the last five minutes"),
            "previous_visitors": count("What the baseline expects"),
            "change_percent": count("Percent above what is expected in a spike, below in a drop, rounded"),
            "threshold": count("The trigger's threshold in percent"),
            "baseline": { "enum": ["typical", "previous", "fixed"] },
            "basis": { "description": "What a typical baseline rests on" },
            "score": number("Standard deviations beyond what is expected"),
            "spread": number("One standard deviation of what is expected in a window"),
            "score_minutes": count("The span in which it is most unusual, and whose score that is"),
            "reason": reason(),
            "window_seconds": count("Length of the window"),
            "top_sources": ranking("source"),
            "top_pages": ranking("page"),
            "rise_by_source": shares("Of a spike: the sources that grew most since an hour before"),
            "rise_by_page": shares("Of a spike: the pages that grew most since an hour before"),
            "rise_by_country": shares("Of a spike: the countries that grew most; known of Plausible's traffic only"),
        }),
        &[
            "current_visitors",
            "previous_visitors",
            "change_percent",
            "threshold",
            "baseline",
            "window_seconds",
            "top_sources",
            "top_pages",
        ],
    )
}

/// They are as usual again.
fn change_over() -> Value {
    object(
        json!({
            "started_event_id": { "type": "string", "format": "uuid", "description": "The event that told of its beginning" },
            "started_at": moment(),
            "ended_at": moment(),
            "duration_seconds": count("From its beginning until visitors were as usual again"),
            "current_visitors": count("Distinct visitors of the last five minutes"),
        }),
        &["started_at", "ended_at", "duration_seconds", "current_visitors"],
    )
}

/// A goal was completed.
fn completions() -> Value {
    object(
        json!({
            "goal_id": { "type": "string" },
            "goal_name": { "type": "string" },
            "goal_type": { "enum": ["event", "page", "scroll"] },
            "count": count("Completions since the event before"),
            "window_start": moment(),
            "window_end": moment(),
            "top_pages": ranking("page"),
            "top_sources": ranking("source"),
        }),
        &["goal_id", "goal_name", "goal_type", "count", "window_start", "window_end", "top_pages", "top_sources"],
    )
}

/// A custom event happened.
fn custom_event() -> Value {
    object(
        json!({
            "event_name": { "type": "string" },
            "count": count("How often it happened since the event before"),
            "window_start": moment(),
            "window_end": moment(),
            "properties": {
                "type": "object",
                "description": "Of each property the trigger includes, its most frequent values; no others",
                "additionalProperties": { "type": "array", "maxItems": 10, "items": object(
                    json!({ "value": { "type": "string" }, "count": count("How often it was this value") }),
                    &["value", "count"],
                ) },
            },
            "reason": reason(),
            "top_pages": ranking("page"),
            "top_sources": ranking("source"),
        }),
        &["event_name", "count", "window_start", "window_end", "properties", "reason", "top_pages", "top_sources"],
    )
}

/// Traffic cannot be seen.
fn trouble() -> Value {
    object(
        json!({
            "condition": condition(),
            "since": moment(),
            "duration_seconds": count("How long by now"),
            "reason": reason(),
        }),
        &["condition", "since", "duration_seconds", "reason"],
    )
}

/// A number was passed.
fn milestone() -> Value {
    object(
        json!({
            "metric": { "enum": ["visitors", "pageviews", "conversions"] },
            "period": { "enum": ["day", "week", "month"] },
            "period_start": moment(),
            "milestone": count("The number that was passed; of several passed at once the highest"),
            "count": count("How many there are now"),
            "goal_id": { "type": "string", "description": "Of conversions of one goal" },
            "goal_name": { "type": "string" },
            "reason": reason(),
        }),
        &["metric", "period", "period_start", "milestone", "count", "reason"],
    )
}

/// Another webhook of the account fails.
fn health() -> Value {
    object(
        json!({
            "failing_webhook_id": { "type": "string" },
            "failing_webhook_name": { "type": "string" },
            "failing_site_domain": { "type": "string" },
            "state": { "enum": ["failing", "disabled"] },
            "failing_since": moment(),
            "disabled_at": moment(),
            "reason": { "type": "string", "description": "Why it was disabled" },
        }),
        &["failing_webhook_id", "failing_webhook_name", "failing_site_domain", "state"],
    )
}

/// Something that fits a schema, made from it alone; `name` is that of the field it stands in.
fn example(name: &str, schema: &Value) -> Value {
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(choice) = schema["enum"].get(0) {
        return choice.clone();
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("object"), _) => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let mut object: serde_json::Map<_, _> =
                fields.map(|(name, field)| (name.clone(), example(name, field))).collect();
            if let Some(more) = schema.get("additionalProperties") {
                object.insert("plan".to_owned(), example("", more));
            }
            object.into()
        }
        (Some("array"), _) => json!([example(name, &schema["items"])]),
        (Some("integer"), _) => schema["minimum"].as_i64().map_or(1, |least| least.max(1)).into(),
        (Some("number"), _) => json!(1.5),
        (Some("boolean"), _) => json!(true),
        (_, Some("date-time")) => json!("2026-02-25T10:00:00Z"),
        (_, Some("uuid")) => json!("019c943b-0280-7000-8000-000000000000"),
        // What a basis is depends on the site.
        (None, _) if name == "basis" => json!({ "history": { "days": 28 } }),
        _ => match name {
            "site_domain" | "failing_site_domain" => json!("example.com"),
            "page" => json!("/pricing"),
            "source" => json!("Hacker News"),
            "country" => json!("DE"),
            "goal_name" | "event_name" => json!("Signup"),
            "reason" => json!("Why it fired, in a sentence."),
            _ if name.ends_with("_id") => json!("42"),
            _ => json!("…"),
        },
    }
}

/// Unknown fields may appear, so they are allowed.
fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "number", "description": description })
}

fn reason() -> Value {
    json!({ "type": "string", "description": "Why, in a sentence" })
}

fn condition() -> Value {
    json!({
        "enum": ["analytics_unreachable", "data_stale"],
        "description": "The analytics database does not answer, or answers and nothing comes in from any site",
    })
}

/// Something that stays away: `fields` say what, the rest says why that was told.
fn silence(fields: Value, required: &[&str], expected: &str) -> Value {
    let why = json!({
        "silent_seconds": count("Since it last happened"),
        "observed": { "const": 0, "description": "How often it happened meanwhile" },
        "expected": number(expected),
        "spread": number("One standard deviation of that"),
        "score": number("Standard deviations below what is expected"),
        "window_start": moment(),
        "window_end": moment(),
        "history_days": count("Days of history it is judged by"),
        "reason": reason(),
    });
    let names: Vec<_> = why.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    object(joined(fields, &why), &[required, &names].concat())
}

/// The end of something that was told.
fn over(fields: Value, required: &[&str]) -> Value {
    let end = json!({
        "started_event_id": { "type": "string", "format": "uuid", "description": "The event that told of its beginning" },
        "started_at": moment(),
        "ended_at": moment(),
        "duration_seconds": count("From its beginning to its end"),
    });
    object(joined(fields, &end), &[required, &["started_at", "ended_at", "duration_seconds"]].concat())
}

/// The fields of both.
fn joined(mut fields: Value, more: &Value) -> Value {
    for (name, field) in more.as_object().into_iter().flatten() {
        fields[name] = field.clone();
    }
    fields
}

fn moment() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn shares(description: &str) -> Value {
    let row = object(
        json!({
            "name": { "type": "string" },
            "visitors": count("Distinct visitors of the last five minutes"),
            "visitors_before": count("Of the same five minutes an hour before"),
            "share_percent": count("Of everything of its kind that grew, rounded"),
        }),
        &["name", "visitors", "visitors_before", "share_percent"],
    );
    json!({ "type": "array", "maxItems": 3, "items": row, "description": description })
}

fn ranking(name: &str) -> Value {
    let row =
        object(json!({ name: { "type": "string" }, "visitors": count("Distinct visitors") }), &[name, "visitors"]);
    json!({ "type": "array", "maxItems": 3, "items": row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_schema_and_its_example_fits() {
        for event_type in TYPES {
            let schema = schema(event_type).expect(event_type);
            let example = &schema["examples"][0];
            let validator = jsonschema::validator_for(&schema).unwrap();
            let problems: Vec<_> = validator.iter_errors(example).map(|problem| problem.to_string()).collect();
            assert!(problems.is_empty(), "{event_type}: {problems:?}: {example}");
            assert_eq!(example["event_type"], event_type);
        }
        assert_eq!(schema("nonsense"), None);
    }
}
