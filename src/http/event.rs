//! `POST /api/event`: where trackers send what happens. Plausible's Events API, unchanged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use metrics::counter;
use utoipa::ToSchema;

use super::Api;
use super::body::{EVENT_BYTES, read};
use super::error::{ApiError, Problem, Result};
use super::origin::{client_address, peer};
use crate::analytics::recorder::{Client, Dropped};
use crate::analytics::{bots, event_body, user_agent};
use crate::domain::hit::Device;

const DROPPED: HeaderName = HeaderName::from_static("x-plausible-dropped");
/// User agents whose kind is remembered: telling costs far more than looking up.
const REMEMBERED_AGENTS: usize = 4_096;

/// What a tracker sends. Short and long names mean the same.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct EventBody {
    /// `pageview`, `engagement` or a custom name; also `n`.
    #[schema(example = "pageview")]
    name: String,
    /// Address of the page; also `u`.
    #[schema(example = "https://example.com/pricing")]
    url: String,
    /// The site, or several separated by commas; also `d`.
    #[schema(example = "example.com")]
    domain: String,
    /// Also `r`.
    referrer: Option<String>,
    /// Custom properties; also `p`, `m`, `meta`.
    #[schema(value_type = Option<Object>)]
    props: Option<serde_json::Value>,
    /// Whether it ends a bounce; also `i`.
    interactive: Option<bool>,
}

/// Kinds of user agents seen lately.
#[derive(Clone, Default)]
pub struct Agents(Arc<Mutex<HashMap<String, Kind>>>);

#[derive(Clone)]
enum Kind {
    Robot,
    Browser(Device),
}

/// Send an event
///
/// Accepted and dropped events alike are answered 202 `ok`; `x-plausible-dropped` says how many sites did not take it.
#[utoipa::path(post, path = "/api/event", tag = "events", request_body = EventBody,
    responses((status = 202, body = String, content_type = "text/plain"),
        (status = 400, description = "What is wrong, by field: `{\"errors\":{\"url\":[\"is required\"]}}`"),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn take_event(State(api): State<Api>, request: Request) -> Response {
    let mut response = take(&api, request).await.unwrap_or_else(IntoResponse::into_response);
    allow_other_origins(response.headers_mut());
    response
}

/// What a browser asks before it posts from another origin.
pub async fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    allow_other_origins(headers);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn allow_other_origins(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-plausible-dropped"));
}

async fn take(api: &Api, request: Request) -> Result<Response> {
    let peer = peer(request.extensions());
    let (parts, body) = request.into_parts();
    let body = read(&api.clock, body, EVENT_BYTES).await?;
    let text = |name: &HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let event = match event_body::parse(Some(text(&CONTENT_TYPE)), &body) {
        Ok(event) => event,
        Err(invalid) => {
            counter!("pulsehook_hits_total", "result" => "invalid").increment(1);
            let answer = axum::Json(serde_json::json!({ "errors": invalid }));
            return Ok((StatusCode::BAD_REQUEST, answer).into_response());
        }
    };
    let agent = text(&USER_AGENT);
    let client = Client { address: client_address(api, &parts.headers, peer), user_agent: agent };
    let mut hits = Vec::with_capacity(event.domains.len());
    let mut dropped = 0_u64;
    let verdict = if bots::is_spam_referrer(event.origin.referrer.split('/').next().unwrap_or_default()) {
        Err(Dropped::SpamReferrer)
    } else {
        api.agents.device(agent)
    };
    for domain in &event.domains {
        let attributed = match (&verdict, api.directory.site_of(domain).await?) {
            (Err(reason), _) => Err(*reason),
            (Ok(_), None) => Err(Dropped::NotFound),
            (Ok(device), Some(site_id)) => {
                api.recorder.attribute(&event, site_id, domain, &client, device.clone()).await?
            }
        };
        match attributed {
            Ok(hit) => hits.push(hit),
            Err(reason) => {
                dropped += 1;
                counter!("pulsehook_hits_total", "result" => reason.code()).increment(1);
            }
        }
    }
    let accepted = hits.len() as u64;
    if accepted > 0 {
        if let Err(error) = api.recorder.store(hits).await {
            counter!("pulsehook_hits_total", "result" => "refused").increment(accepted);
            return Err(ApiError::from(error).told());
        }
        counter!("pulsehook_hits_total", "result" => "accepted").increment(accepted);
    }
    let mut response = (StatusCode::ACCEPTED, "ok").into_response();
    if dropped > 0 {
        response.headers_mut().insert(DROPPED, HeaderValue::from(dropped));
    }
    Ok(response)
}

impl Agents {
    /// The device of a browser; robots are dropped.
    fn device(&self, agent: &str) -> Result<Device, Dropped> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(agent).cloned();
        let kind = known.unwrap_or_else(|| {
            let kind = if bots::is_bot(agent) { Kind::Robot } else { Kind::Browser(user_agent::device(agent)) };
            let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if agents.len() >= REMEMBERED_AGENTS {
                agents.clear();
            }
            agents.insert(agent.to_owned(), kind.clone());
            kind
        });
        match kind {
            Kind::Robot => Err(Dropped::Bot),
            Kind::Browser(device) => Ok(device),
        }
    }
}
