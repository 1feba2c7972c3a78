//! The API reference: the OpenAPI document, and a page drawn from it without a script.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::{Content, ContentBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder};

use super::Api;
use super::pages::{escape, page};

const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";

pub fn router(document: OpenApi) -> Router<Api> {
    let json: Arc<str> = document.to_pretty_json().expect("the document is plain data").into();
    let html: Arc<str> = draw(&serde_json::from_str(&json).expect("it was just written")).0.into();
    Router::new()
        .route("/api/openapi.json", get(async move || json_answer(&json)))
        .route("/docs", get(async move || Html(html.to_string())))
}

/// What the derivation cannot know: errors have a media type of their own, a parameter that is not in the path is in the query,
/// and either may be unreadable.
pub fn say_what_is_derived_wrong(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.options,
            &mut item.head,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
                let unreadable = ResponseBuilder::new().content(JSON, problem());
                operation.responses.responses.entry("400".to_owned()).or_insert_with(|| unreadable.into());
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                let RefOr::T(parameter) = parameter else { continue };
                if !path.contains(&format!("{{{}}}", parameter.name)) {
                    parameter.parameter_in = ParameterIn::Query;
                    parameter.required = Required::False;
                }
            }
            for response in operation.responses.responses.values_mut() {
                let RefOr::T(response) = response else { continue };
                let is_problem = response.content.get(JSON).is_some_and(|content| {
                    let RefOr::T(content) = content else { return false };
                    matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location.ends_with("/Problem"))
                });
                if is_problem && let Some(content) = response.content.shift_remove(JSON) {
                    response.content.insert(PROBLEM_JSON.to_owned(), content);
                }
            }
        }
    }
}

fn problem() -> Content {
    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build()
}

fn json_answer(json: &str) -> Response {
    ([(CONTENT_TYPE, JSON)], json.to_owned()).into_response()
}

/// One section a tag, one foldable row an operation.
fn draw(document: &Value) -> Html<String> {
    let mut content = String::from("<h1>API reference</h1>\n");
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let _ = writeln!(content, "<p>{}</p>", text(&document["info"]["description"]));
    content.push_str(
        "<p>The same as a document: <a href=\"api/openapi.json\">openapi.json</a>. What receivers get is described \
                      by the <a href=\"api/schemas/\">event schemas</a>.</p>\n",
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let _ = writeln!(content, "<h2>{}</h2>", text(&tag["description"]));
        for (path, operations) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in operations.as_object().into_iter().flatten() {
                if operation["tags"][0] == tag["name"] {
                    draw_operation(&mut content, document, method, path, operation);
                }
            }
        }
    }
    page("Pulsehook API reference", &content)
}

fn draw_operation(content: &mut String, document: &Value, method: &str, path: &str, operation: &Value) {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let _ = writeln!(
        content,
        "<details><summary><span class=\"method\">{}</span> <code>{}</code> {}</summary>",
        method.to_uppercase(),
        escape(path),
        text(&operation["summary"])
    );
    if let Some(description) = operation["description"].as_str() {
        let _ = writeln!(content, "<p>{}</p>", escape(description));
    }
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let query: Vec<_> = parameters.iter().filter(|parameter| parameter["in"] == "query").collect();
    if !query.is_empty() {
        content.push_str("<table><tr><th>Query</th><th>Meaning</th></tr>\n");
        for parameter in query {
            let _ = writeln!(
                content,
                "<tr><td><code>{}</code></td><td>{}</td></tr>",
                text(&parameter["name"]),
                text(&parameter["description"])
            );
        }
        content.push_str("</table>\n");
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    draw_fields(content, document, body, "Field");
    content.push_str("<table><tr><th>Answer</th><th>Body</th></tr>\n");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let schema =
            response["content"].as_object().and_then(|kinds| kinds.values().next()).map(|kind| &kind["schema"]);
        let name = schema.and_then(|schema| schema["$ref"].as_str()).and_then(|name| name.rsplit('/').next());
        let what = name.map_or_else(|| text(&response["description"]), escape);
        let _ = writeln!(content, "<tr><td>{}</td><td>{what}</td></tr>", escape(status));
    }
    content.push_str("</table></details>\n");
}

fn draw_fields(content: &mut String, document: &Value, schema: &Value, title: &str) {
    let name = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    let schema = name.map_or(schema, |name| &document["components"]["schemas"][name]);
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    let _ = writeln!(content, "<table><tr><th>{title}</th><th>Meaning</th></tr>");
    for (name, property) in properties {
        let mark = if required.iter().any(|required| *required == name) { " (required)" } else { "" };
        let _ = writeln!(
            content,
            "<tr><td><code>{}</code>{mark}</td><td>{}</td></tr>",
            escape(name),
            escape(property["description"].as_str().unwrap_or_default())
        );
    }
    content.push_str("</table>\n");
}

/// Whoever asks too often is told so, whatever he asks for.
pub fn with_budgets(document: &mut utoipa::openapi::OpenApi) {
    use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
    let problem = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
    let answer = ResponseBuilder::new()
        .description("Too many requests; `Retry-After` says when to come back")
        .content("application/json", problem)
        .build();
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let open = matches!(path.as_str(), "/api/event" | "/api/setup") || !path.starts_with("/api/");
            if open || path.starts_with("/api/schemas") {
                continue;
            }
            operation.responses.responses.entry("429".to_owned()).or_insert(RefOr::T(answer.clone()));
        }
    }
}
