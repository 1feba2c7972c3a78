//! `Idempotency-Key`: a POST that is repeated within a day gets the answer of the first one.
//!
//! Answers are kept sealed, because some of them hold a secret that is shown only once.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Api;
use super::auth::{Known, recognise};
use super::body::{API_BYTES, read};
use super::error::{ApiError, Result};
use crate::domain::ids::AccountId;
use crate::domain::invalid::Invalid;
use crate::domain::vault::{ANSWERS, Place};
use crate::store::idempotency::Repeated;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_KEY_CHARS: usize = 255;
/// Where nobody has to be known: there is no account to keep an answer for, and what is done there can be done once anyway.
const IS_ANYBODYS: [&str; 6] =
    ["/api/event", "/api/setup", "/api/session", "/api/sign-up", "/api/invitations/look", "/api/invitations/accept"];

pub async fn repeat_or_run(State(api): State<Api>, request: Request, next: Next) -> Response {
    let applies = request.method() == Method::POST
        && request.headers().contains_key(&KEY)
        && request.uri().path().starts_with("/api/")
        && !IS_ANYBODYS.contains(&request.uri().path());
    if !applies {
        return next.run(request).await;
    }
    run_once(&api, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run_once(api: &Api, request: Request, next: Next) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let actor = recognise(api, &parts).await?;
    parts.extensions.insert(Known(actor));
    let key = parts.headers[&KEY].to_str().ok().filter(|key| (1..=MAX_KEY_CHARS).contains(&key.len()));
    let key = key.ok_or_else(|| Invalid::one("Idempotency-Key", "must be 1 to 255 visible characters"))?.to_owned();
    let body = read(&api.clock, body, API_BYTES).await?;
    let mut hash = Sha256::new();
    hash.update(parts.uri.path());
    // What one may see, another may not.
    if let Some(site) = actor.only_site {
        hash.update([0]);
        hash.update(site.to_string());
    }
    hash.update([0]);
    hash.update(&body);
    let hash = hash.finalize();
    let account_id = actor.account_id;
    match api.store.take_idempotency_key(account_id, &key, &hash, api.clock.now()).await? {
        Repeated::Mismatch => Err(ApiError::conflict(
            "idempotency_mismatch",
            "This Idempotency-Key was used for another request; use a new one.",
        )),
        Repeated::InProgress => Err(ApiError::conflict(
            "idempotency_in_progress",
            "The first request with this Idempotency-Key is still being answered; try again shortly.",
        )),
        Repeated::Answered { status, response } => replay(api, account_id, status, &response),
        Repeated::First => {
            let response = next.run(Request::from_parts(parts, Body::from(body))).await;
            remember(api, account_id, &key, response).await
        }
    }
}

fn place(account_id: AccountId) -> Place {
    Place { account_id, row: Uuid::nil(), column: ANSWERS }
}

fn replay(api: &Api, account_id: AccountId, status: i32, sealed: &[u8]) -> Result<Response> {
    let body = api.keyring.open(&place(account_id), sealed).map_err(ApiError::internal)?;
    let status =
        u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let mut response = (status, body).into_response();
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Our own failures are not remembered, nor that it was too soon: the same request may be tried again.
async fn remember(api: &Api, account_id: AccountId, key: &str, response: Response) -> Result<Response> {
    let (parts, body) = response.into_parts();
    if parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS {
        api.store.forget_idempotency_key(account_id, key).await?;
        return Ok(Response::from_parts(parts, body));
    }
    let body = read(&api.clock, body, 16 * API_BYTES).await?;
    let sealed = api.keyring.seal(&place(account_id), api.chance.bytes(), &body);
    api.store.remember_answer(account_id, key, i32::from(parts.status.as_u16()), &sealed).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}
