//! JSON Schemas of the events receivers get, written in one place and tested against what is really sent.

use axum::Json;
use axum::extract::Path;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error::{ApiError, Problem, Result};

/// Types there is a schema for.
pub const TYPES: [&str; 8] = [
    "visitor_spike",
    "visitor_drop",
    "visitor_spike_ended",
    "visitor_drop_ended",
    "goal_completion",
    "custom_event",
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
    let data = match event_type {
        "visitor_spike" | "visitor_drop" => object(
            json!({
                "current_visitors": count("Distinct visitors of the last five minutes"),
                "previous_visitors": count("What the baseline expects"),
                "change_percent": count("Percent above what is expected in a spike, below in a drop, rounded"),
                "threshold": count("The trigger's threshold in percent"),
                "baseline": { "enum": ["typical", "previous", "fixed"] },
                "basis": { "description": "What a typical baseline rests on" },
                "score": { "type": "number", "description": "Standard deviations beyond what is expected" },
                "reason": { "type": "string", "description": "Why, in a sentence" },
                "window_seconds": count("Length of the window"),
                "top_sources": ranking("source"),
                "top_pages": ranking("page"),
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
        ),
        "visitor_spike_ended" | "visitor_drop_ended" => object(
            json!({
                "started_event_id": { "type": "string", "format": "uuid", "description": "The event that told of its beginning" },
                "started_at": moment(),
                "ended_at": moment(),
                "duration_seconds": count("From its beginning until visitors were as usual again"),
                "current_visitors": count("Distinct visitors of the last five minutes"),
            }),
            &["started_at", "ended_at", "duration_seconds", "current_visitors"],
        ),
        "goal_completion" => object(
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
        ),
        "custom_event" => object(
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
                "reason": { "type": "string", "description": "Why, in a sentence" },
                "top_pages": ranking("page"),
                "top_sources": ranking("source"),
            }),
            &["event_name", "count", "window_start", "window_end", "properties", "reason", "top_pages", "top_sources"],
        ),
        "webhook_health" => object(
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
        ),
        "test" => object(json!({ "test": { "const": true }, "message": { "type": "string" } }), &["test", "message"]),
        _ => return None,
    };
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
    Some(schema)
}

/// Unknown fields may appear, so they are allowed.
fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn moment() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn ranking(name: &str) -> Value {
    let row =
        object(json!({ name: { "type": "string" }, "visitors": count("Distinct visitors") }), &[name, "visitors"]);
    json!({ "type": "array", "maxItems": 3, "items": row })
}
