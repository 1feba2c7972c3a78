//! Accounts begin here: the first one by the link the server printed, others by signing up where that is open.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::auth::{From, refuse_other_sites};
use super::body::{Fields, JsonObject};
use super::error::{ApiError, Problem, Result};
use super::session::{network, open, with_cookie};
use crate::directory::{Grant, SESSION_FOR, issue_key, password, token_hash};
use crate::domain::access::{Origin, Role, Who};
use crate::domain::invalid::Invalid;
use crate::domain::person;
use crate::store::StoreError;
use crate::store::accounts::Founding;
use crate::store::audit::Change;
use crate::store::facts::SETUP_TOKEN;

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
pub struct SignUpBody {
    account: String,
    email: String,
    /// At least 12 characters.
    password: String,
}

#[derive(Serialize, ToSchema)]
pub struct SignUpAnswer {
    account_id: String,
}

/// What somebody says who begins.
struct Beginning {
    account: String,
    email: String,
    password: String,
}

impl Beginning {
    fn founding<'a>(&'a self, password_hash: &'a str) -> Founding<'a> {
        Founding { account: &self.account, email: &self.email, password_hash }
    }
}

/// Set this installation up: the first account and its owner
#[utoipa::path(post, path = "/api/setup", tag = "account", request_body = SetupBody,
    responses((status = 201, body = SetupAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn set_up(
    State(api): State<Api>,
    From(origin): From,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let (answer, session) = run(&api, &body, origin, &headers).await?;
    Ok(with_cookie((StatusCode::CREATED, Json(answer)).into_response(), &api, &session, SESSION_FOR))
}

/// Sign up: an account of your own, where the operator opened that (`sign_up`)
#[utoipa::path(post, path = "/api/sign-up", tag = "account", request_body = SignUpBody,
    responses((status = 201, body = SignUpAnswer), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub async fn sign_up(
    State(api): State<Api>,
    From(origin): From,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    refuse_other_sites(&headers)?;
    if !api.settings.sign_up {
        let sentence =
            "Nobody can sign up here by himself. Ask whoever runs this server, or a member for an invitation.";
        return Err(ApiError::forbidden("sign_up_closed", sentence));
    }
    let mut fields = Fields::of(&body, &[]);
    let beginning = read_beginning(&mut fields);
    let beginning = fields.finish(beginning)?;
    api.throttle.sign_up(network(origin))?;
    let password_hash = hash(&api, beginning.password.clone()).await?;
    let (account_id, user_id) =
        api.store.found_account(&beginning.founding(&password_hash), api.clock.now()).await.map_err(taken)?;
    let session = open(&api, account_id, user_id, origin, &headers).await?;
    let answer = SignUpAnswer { account_id: account_id.to_string() };
    Ok(with_cookie((StatusCode::CREATED, Json(answer)).into_response(), &api, &session, SESSION_FOR))
}

/// Account, owner, session and an owner's key in exchange for the token. Answers the session's token too.
///
/// # Errors
/// 403 when the token is not the one or was used, 422 for what is wrong with the rest.
pub async fn run(
    api: &Api,
    body: &Map<String, Value>,
    origin: Origin,
    headers: &HeaderMap,
) -> Result<(SetupAnswer, String)> {
    let mut fields = Fields::of(body, &[]);
    fields.require("token");
    let token = fields.text("token").unwrap_or_default().to_owned();
    let beginning = read_beginning(&mut fields);
    // Whoever has no token learns nothing else.
    let token_hash = hex::encode(token_hash(&token));
    if !token_is_right(api, &token).await? {
        return Err(wrong_token());
    }
    let beginning = fields.finish(beginning)?;
    let password_hash = hash(api, beginning.password.clone()).await?;
    let now = api.clock.now();
    let created = api.store.set_up(&token_hash, &beginning.founding(&password_hash), now).await.map_err(taken)?;
    let (account_id, user_id) = created.ok_or_else(wrong_token)?;
    let change = Change { account_id, who: Who::User(user_id), now, id: api.chance.uuid_v7(now), origin };
    let grant = Grant { name: "First key".to_owned(), role: Role::Owner, site_id: None, expires_at: None };
    let (_, key) = issue_key(&api.store, &change, grant, &api.chance)
        .await?
        .ok_or_else(|| ApiError::internal(anyhow::anyhow!("a new account has as many keys as it may")))?;
    let session = open(api, account_id, user_id, origin, headers).await?;
    let answer = SetupAnswer { key: key.expose().to_owned(), account_id: account_id.to_string() };
    Ok((answer, session))
}

fn read_beginning(fields: &mut Fields<'_>) -> Beginning {
    for name in ["account", "email", "password"] {
        fields.require(name);
    }
    let account = checked(fields, "account", person::account_name);
    let email = checked(fields, "email", person::email);
    let password = fields.text("password").unwrap_or_default().to_owned();
    if fields.has("password")
        && let Err(problem) = person::password(&password, &[&account, &email])
    {
        fields.invalid.add("password", problem);
    }
    Beginning { account, email, password }
}

/// What is kept of a password.
pub async fn hash(api: &Api, password: String) -> Result<String> {
    password::hash(password, api.chance.bytes()).await.map_err(ApiError::internal)
}

/// A text in its one form; what is wrong with it is told with everything else.
pub fn checked(
    fields: &mut Fields<'_>,
    name: &'static str,
    read: impl Fn(&str) -> Result<String, &'static str>,
) -> String {
    match fields.text(name).map(read) {
        None => String::new(),
        Some(Ok(text)) => text,
        Some(Err(problem)) => {
            fields.invalid.add(name, problem);
            String::new()
        }
    }
}

pub async fn token_is_right(api: &Api, token: &str) -> Result<bool> {
    use subtle::ConstantTimeEq as _;
    let expected = api.store.fact(SETUP_TOKEN).await?.unwrap_or_default();
    Ok(!expected.is_empty() && expected.as_bytes().ct_eq(hex::encode(token_hash(token)).as_bytes()).into())
}

fn wrong_token() -> ApiError {
    ApiError::forbidden("wrong_setup_token", "This set-up link is not valid, or was used already.")
}

/// Somebody who signs up learns which addresses and names there are already: without e-mail to send there is no way to tell
/// only the owner.
fn taken(error: StoreError) -> ApiError {
    match error {
        StoreError::Conflict(_) => ApiError::conflict("taken", "This account or e-mail address exists already."),
        error => error.into(),
    }
}

/// One sentence about a field.
pub fn wrong(field: &'static str, sentence: &str) -> ApiError {
    Invalid::one(field, sentence).into()
}
