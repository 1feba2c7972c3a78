//! Signing in and out, and the sessions a person has.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{SET_COOKIE, USER_AGENT};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use super::Api;
use super::auth::{self, Asking, From, refuse_other_sites, session_cookie, session_token};
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::setup::hash;
use crate::directory::{SESSION_FOR, SESSION_IDLE_FOR, SUSPENDED, token_hash};
use crate::domain::access::{Origin, Who, network_of};
use crate::domain::ids::{AccountId, UserId};
use crate::domain::person;
use crate::store::audit::Change;
use crate::store::sessions::OpenSession;

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct SignInBody {
    email: String,
    password: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct SwitchBody {
    /// Id of another account you are a member of.
    account_id: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub struct PasswordBody {
    current_password: String,
    /// At least 12 characters.
    new_password: String,
}

#[derive(Serialize, ToSchema)]
pub struct SessionsAnswer {
    sessions: Vec<SessionView>,
}

/// Where somebody is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    id: String,
    /// The session that asks.
    current: bool,
    account_id: String,
    /// What the browser called itself.
    user_agent: String,
    #[schema(format = DateTime)]
    last_used_at: String,
    #[schema(format = DateTime)]
    inserted_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Sign in with e-mail and password
#[utoipa::path(post, path = "/api/session", tag = "account", request_body = SignInBody,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn sign_in(
    State(api): State<Api>,
    From(origin): From,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    refuse_other_sites(&headers)?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("email");
    fields.require("password");
    let email = fields.text("email").unwrap_or_default().trim().to_lowercase();
    let password = fields.text("password").unwrap_or_default().to_owned();
    fields.finish(())?;
    api.throttle.password(&email, network(origin))?;
    match api.directory.by_password(&email, &password).await? {
        Some((account_id, user_id)) => signed_in(&api, account_id, user_id, origin, &headers).await,
        None => {
            note_a_wrong_password(&api, email, origin);
            Err(ApiError::wrong_password())
        }
    }
}

/// Sign out
#[utoipa::path(delete, path = "/api/session", tag = "account", security(("session" = [])),
    responses((status = 204), (status = 403, body = Problem), (status = 503, body = Problem)))]
pub async fn sign_out(State(api): State<Api>, From(origin): From, headers: HeaderMap) -> Result<Response> {
    if let Some(token) = session_token(&headers) {
        if !auth::is_same_origin(&headers) {
            return Err(auth::cross_origin());
        }
        let now = api.clock.now();
        let id = api.chance.uuid_v7(now);
        let change = |account_id, user_id| Change { account_id, who: Who::User(user_id), now, id, origin };
        api.directory.sign_out(&token, change).await?;
    }
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &api, "", Duration::ZERO))
}

/// Where you are signed in
#[utoipa::path(get, path = "/api/sessions", tag = "account", security(("session" = [])),
    responses((status = 200, body = SessionsAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn list_sessions(State(api): State<Api>, asking: Asking, headers: HeaderMap) -> Result<Json<SessionsAnswer>> {
    let (_, user_id) = asking.as_person()?;
    let current = session_token(&headers).map(|token| token_hash(&token));
    let sessions = sessions_of(&api, user_id).await?;
    let view = |session: OpenSession| SessionView {
        id: id_of(&session),
        current: current.is_some_and(|hash| hash.as_slice() == session.token_hash),
        account_id: session.account_id.to_string(),
        user_agent: session.user_agent,
        last_used_at: session.last_used_at.max(session.inserted_at).to_string(),
        inserted_at: session.inserted_at.to_string(),
        expires_at: session.expires_at.to_string(),
    };
    Ok(Json(SessionsAnswer { sessions: sessions.into_iter().map(view).collect() }))
}

/// Sign out everywhere, here too
#[utoipa::path(delete, path = "/api/sessions", tag = "account", security(("session" = [])),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub async fn sign_out_everywhere(State(api): State<Api>, asking: Asking) -> Result<Response> {
    let (actor, user_id) = asking.as_person()?;
    api.store.close_sessions(&api.change(&actor), user_id, None).await?;
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &api, "", Duration::ZERO))
}

/// End one of your sessions
#[utoipa::path(delete, path = "/api/sessions/{id}", tag = "account", security(("session" = [])),
    params(("id" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn close_session(State(api): State<Api>, asking: Asking, Path(id): Path<String>) -> Result<StatusCode> {
    let (actor, user_id) = asking.as_person()?;
    let sessions = sessions_of(&api, user_id).await?;
    let session = sessions.iter().find(|session| id_of(session) == id).ok_or_else(ApiError::not_found)?;
    api.store.close_session(&api.change(&actor), &session.token_hash).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Go on in another account you are a member of
#[utoipa::path(put, path = "/api/session/account", tag = "account", security(("session" = [])),
    request_body = SwitchBody,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn switch_account(
    State(api): State<Api>,
    asking: Asking,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let (actor, user_id) = asking.as_person()?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("account_id");
    let wanted = fields.text("account_id").map(str::parse::<AccountId>);
    fields.finish(())?;
    let wanted = wanted.and_then(Result::ok).ok_or_else(ApiError::not_found)?;
    let mut accounts = api.store.memberships(user_id).await?.into_iter();
    let account = accounts.find(|account| account.account_id == wanted).ok_or_else(ApiError::not_found)?;
    if !account.active {
        return Err(SUSPENDED.into());
    }
    let old = session_token(&headers).ok_or_else(ApiError::unauthorized)?;
    let change = Change { account_id: account.account_id, ..api.change(&actor) };
    let token = api.directory.switch(&change, &old, user_id, user_agent(&headers), &api.chance).await?;
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &api, &token, SESSION_FOR))
}

/// Take another password; you are signed out everywhere else
#[utoipa::path(put, path = "/api/me/password", tag = "account", security(("session" = [])),
    request_body = PasswordBody,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn change_password(
    State(api): State<Api>,
    asking: Asking,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<StatusCode> {
    let (actor, user_id) = asking.as_person()?;
    api.refuse_people_of_plausible()?;
    let user = api.store.user_by_id(user_id).await?.ok_or_else(ApiError::unauthorized)?;
    let mut fields = Fields::of(&body, &[]);
    fields.require("current_password");
    fields.require("new_password");
    let current = fields.text("current_password").unwrap_or_default().to_owned();
    let new = fields.text("new_password").map(str::to_owned);
    if let Some(new) = &new
        && let Err(problem) = person::password(new, &[&user.email])
    {
        fields.invalid.add("new_password", problem);
    }
    let new = fields.finish(new)?.unwrap_or_default();
    api.throttle.password(&user.email, network(actor.origin))?;
    if !api.directory.has_password(&user, &current).await? {
        note_a_wrong_password(&api, user.email, actor.origin);
        return Err(crate::domain::invalid::Invalid::one("current_password", "is not your password").into());
    }
    let hash = hash(&api, new).await?;
    let spared = session_token(&headers).map(|token| token_hash(&token));
    api.store.set_password(&api.change(&actor), user_id, &hash, spared.as_ref().map(<[u8; 32]>::as_slice)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Opens a session for somebody who proved who they are, and answers its cookie.
pub async fn signed_in(
    api: &Api,
    account_id: AccountId,
    user_id: UserId,
    origin: Origin,
    headers: &HeaderMap,
) -> Result<Response> {
    let token = open(api, account_id, user_id, origin, headers).await?;
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), api, &token, SESSION_FOR))
}

/// Opens a session and answers its token.
pub async fn open(
    api: &Api,
    account_id: AccountId,
    user_id: UserId,
    origin: Origin,
    headers: &HeaderMap,
) -> Result<String> {
    let now = api.clock.now();
    let who = Who::User(user_id);
    let change = Change { account_id, who, now, id: api.chance.uuid_v7(now), origin };
    Ok(api.directory.sign_in(&change, user_id, user_agent(headers), &api.chance).await?)
}

pub fn with_cookie(mut response: Response, api: &Api, token: &str, lives: Duration) -> Response {
    response.headers_mut().append(SET_COOKIE, session_cookie(api, token, lives));
    response
}

pub fn network(origin: Origin) -> ipnet::IpNet {
    origin.network.unwrap_or_else(|| network_of(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// Whoever reads the audit log of the account somebody is in learns that it was tried. The answer does not wait for it: it
/// would take longer where there is somebody to tell it to.
pub fn note_a_wrong_password(api: &Api, email: String, origin: Origin) {
    let noting = api.clone();
    api.notes.spawn(async move {
        if let Err(error) = note_refusal(&noting, &email, origin).await {
            warn!(%error, "A wrong password could not be noted in the audit log: {error}");
        }
    });
}

async fn note_refusal(api: &Api, email: &str, origin: Origin) -> crate::store::Result<()> {
    let Some(user) = api.store.user(email).await? else { return Ok(()) };
    let Some(first) = api.store.memberships(user.id).await?.into_iter().next() else { return Ok(()) };
    let now = api.clock.now();
    let who = Who::Stranger;
    let change = Change { account_id: first.account_id, who, now, id: api.chance.uuid_v7(now), origin };
    api.store.note(&change, "session.refuse", &format!("user:{}", user.id)).await
}

async fn sessions_of(api: &Api, user_id: UserId) -> Result<Vec<OpenSession>> {
    let now = api.clock.now();
    Ok(api.store.sessions_of(user_id, now, now - SESSION_IDLE_FOR).await?)
}

/// A part of the hash tells which it is, and nobody gets back to the token from it.
fn id_of(session: &OpenSession) -> String {
    hex::encode(&session.token_hash[..8])
}

fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
