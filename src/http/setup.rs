//! The first owner, and signing in.

use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::auth::{SESSION_COOKIE, is_same_origin, session_token};
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use crate::directory::{Grant, SESSION_FOR, issue_key, password, token_hash};
use crate::domain::access::{Role, Who};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::accounts::FirstOwner;
use crate::store::audit::Change;
use crate::store::facts::SETUP_TOKEN;

/// Tries to sign in that fail before one has to wait.
const TRIES: u32 = 10;
const TRIES_WITHIN: Duration = Duration::from_secs(60);
const MAX_TRACKED: usize = 10_000;

/// Failed tries of one address or for one e-mail.
#[derive(Debug, Clone, Copy)]
pub struct Tries {
    count: u32,
    since: Timestamp,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct SetupBody {
    /// From the link the server printed.
    token: String,
    account: String,
    email: String,
    /// At least 12 characters.
    password: String,
}

#[derive(Serialize, ToSchema)]
pub struct SetupAnswer {
    /// A key with the role owner. It is shown only now.
    pub key: String,
    pub account_id: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct SignInBody {
    email: String,
    password: String,
}

/// Set this installation up: the first account and its owner
#[utoipa::path(post, path = "/api/setup", tag = "account", request_body = SetupBody,
    responses((status = 201, body = SetupAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn set_up(State(api): State<Api>, JsonObject(body): JsonObject) -> Result<Response> {
    let (answer, cookie) = run(&api, &body).await?;
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

/// Sign in with e-mail and password
#[utoipa::path(post, path = "/api/session", tag = "account", request_body = SignInBody,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn sign_in(
    State(api): State<Api>,
    peer: Option<axum::Extension<ConnectInfo<std::net::SocketAddr>>>,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let mut fields = Fields::of(&body, &[]);
    fields.require("email");
    fields.require("password");
    let email = fields.text("email").unwrap_or_default().trim().to_lowercase();
    let password = fields.text("password").unwrap_or_default().to_owned();
    fields.finish(())?;
    let peer = peer.map_or_else(String::new, |peer| peer.0.0.ip().to_string());
    let who = [format!("email:{email}"), format!("address:{peer}")];
    refuse_after_too_many_tries(&api, &who)?;
    match api.directory.by_password(&email, &password).await? {
        Some((account_id, user_id)) => {
            let token = api.directory.sign_in(account_id, user_id, &api.chance).await?;
            let mut response = StatusCode::NO_CONTENT.into_response();
            response.headers_mut().insert(SET_COOKIE, cookie(&api, &token, SESSION_FOR));
            Ok(response)
        }
        None => {
            count_a_try(&api, &who);
            Err(ApiError::wrong_password())
        }
    }
}

/// Sign out
#[utoipa::path(delete, path = "/api/session", tag = "account", security(("session" = [])),
    responses((status = 204), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub async fn sign_out(State(api): State<Api>, headers: HeaderMap) -> Result<Response> {
    if let Some(token) = session_token(&headers) {
        if !is_same_origin(&headers) {
            return Err(ApiError::forbidden(
                "cross_origin",
                "Another site asked for this in your name; it was refused.",
            ));
        }
        api.directory.sign_out(&token).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(SET_COOKIE, cookie(&api, "", Duration::ZERO));
    Ok(response)
}

/// Account, owner, session and an owner's key in exchange for the token.
///
/// # Errors
/// 403 when the token is not the one or was used, 422 for what is wrong with the rest.
pub async fn run(api: &Api, body: &Map<String, Value>) -> Result<(SetupAnswer, HeaderValue)> {
    let mut fields = Fields::of(body, &[]);
    for name in ["token", "account", "email", "password"] {
        fields.require(name);
    }
    let token = fields.text("token").unwrap_or_default().to_owned();
    let account = fields.text("account").unwrap_or_default().trim().to_owned();
    let email = fields.text("email").unwrap_or_default().trim().to_lowercase();
    let password = fields.text("password").unwrap_or_default().to_owned();
    if fields.has("account") && !(1..=255).contains(&account.chars().count()) {
        fields.invalid.add("account", "must be 1 to 255 characters");
    }
    let looks_like_email = email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    if fields.has("email") && (!looks_like_email || email.len() > 254 || email.contains(char::is_whitespace)) {
        fields.invalid.add("email", "must be an e-mail address");
    }
    if fields.has("password") && password.chars().count() < password::MIN_CHARS {
        fields.invalid.add("password", format!("must be at least {} characters", password::MIN_CHARS));
    }
    if password.len() > password::MAX_BYTES {
        fields.invalid.add("password", format!("must be at most {} bytes", password::MAX_BYTES));
    }
    // Whoever has no token learns nothing else.
    let hash = hex::encode(token_hash(&token));
    if !token_is_right(api, &token).await? {
        return Err(wrong_token());
    }
    fields.finish(())?;
    let password_hash = password::hash(password, api.chance.bytes()).await.map_err(ApiError::internal)?;
    let owner = FirstOwner { account: &account, email: &email, password_hash: &password_hash };
    let now = api.clock.now();
    let created = api.store.set_up(&hash, &owner, now).await.map_err(|error| match error {
        StoreError::Conflict(_) => ApiError::conflict("taken", "This account or e-mail address exists already."),
        error => error.into(),
    })?;
    let (account_id, user_id) = created.ok_or_else(wrong_token)?;
    let change = Change { account_id, who: Who::User(user_id), now, id: api.chance.uuid_v7(now) };
    let grant = Grant { name: "First key".to_owned(), role: Role::Owner, expires_at: None };
    let (_, key) = issue_key(&api.store, &change, grant, &api.chance).await?;
    let session = api.directory.sign_in(account_id, user_id, &api.chance).await?;
    let answer = SetupAnswer { key: key.expose().to_owned(), account_id: account_id.to_string() };
    Ok((answer, cookie(api, &session, SESSION_FOR)))
}

pub async fn token_is_right(api: &Api, token: &str) -> Result<bool> {
    use subtle::ConstantTimeEq as _;
    let expected = api.store.fact(SETUP_TOKEN).await?.unwrap_or_default();
    Ok(!expected.is_empty() && expected.as_bytes().ct_eq(hex::encode(token_hash(token)).as_bytes()).into())
}

fn wrong_token() -> ApiError {
    ApiError::forbidden("wrong_setup_token", "This set-up link is not valid, or was used already.")
}

fn cookie(api: &Api, token: &str, lives: Duration) -> HeaderValue {
    let secure = if api.settings.base_url.starts_with("https://") { "; Secure" } else { "" };
    let text = format!("{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}{secure}", lives.as_secs());
    HeaderValue::from_str(&text).expect("tokens are base64")
}

fn refuse_after_too_many_tries(api: &Api, who: &[String]) -> Result<()> {
    let now = api.clock.now();
    let tries = api.tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for name in who {
        if let Some(tries) = tries.get(name)
            && tries.count >= TRIES
            && now.since(tries.since) < TRIES_WITHIN
        {
            let left = TRIES_WITHIN.saturating_sub(now.since(tries.since));
            return Err(ApiError::too_many(left.as_secs().max(1)));
        }
    }
    Ok(())
}

fn count_a_try(api: &Api, who: &[String]) {
    let now = api.clock.now();
    let mut tries = api.tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if tries.len() > MAX_TRACKED {
        tries.retain(|_, tries| now.since(tries.since) < TRIES_WITHIN);
    }
    for name in who {
        let entry = tries.entry(name.clone()).or_insert(Tries { count: 0, since: now });
        if now.since(entry.since) >= TRIES_WITHIN {
            *entry = Tries { count: 0, since: now };
        }
        entry.count += 1;
    }
}
