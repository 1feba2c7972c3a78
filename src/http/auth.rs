//! Who is asking: an API key, a credential of the Plausible beside us, or the session cookie of somebody who signed in.

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::Api;
use super::error::{ApiError, Result};
use super::origin::origin_of;
use crate::directory::plausible::credentials::is_plugin_token;
use crate::domain::access::{Actor, Origin, Role, Who};
use crate::domain::ids::UserId;

/// Name of the cookie of a session. Over https it is `__Host-` and this, which no other host of the domain can set.
pub const SESSION_COOKIE: &str = "pulsehook_session";
const HOST_PREFIX: &str = "__Host-";

/// Somebody who may read. Handlers that change something ask for more with [`Asking::at_least`].
#[derive(Debug, Clone, Copy)]
pub struct Asking(pub Actor);

impl Asking {
    /// # Errors
    /// 403 when the role is lower.
    pub fn at_least(self, role: Role) -> Result<Actor> {
        if self.0.role >= role { Ok(self.0) } else { Err(ApiError::role_too_low(role)) }
    }

    /// # Errors
    /// 403 when nothing but one site of the account is theirs.
    pub fn of_the_account(self) -> Result<Actor> {
        match self.0.only_site {
            None => Ok(self.0),
            Some(_) => Err(ApiError::forbidden("one_site_only", "This credential is for one site only.")),
        }
    }

    /// A person, for what a key has none of: sessions, a password, other accounts.
    ///
    /// # Errors
    /// 403 when it is a key that asks.
    pub fn as_person(self) -> Result<(Actor, UserId)> {
        match self.0.who {
            Who::User(user_id) => Ok((self.0, user_id)),
            _ => Err(ApiError::forbidden("session_only", "This is for people who signed in, not for keys.")),
        }
    }
}

impl FromRequestParts<Api> for Asking {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        match parts.extensions.get::<Known>() {
            Some(Known(actor)) => Ok(Self(*actor)),
            None => recognise(api, parts).await.map(Self),
        }
    }
}

/// Who is asking, where it was found out before the handler.
#[derive(Debug, Clone, Copy)]
pub struct Known(pub Actor);

/// Finds out who is asking, at the cost of one request of their budget, or of their network's when nobody knows them.
///
/// # Errors
/// Those of [`authenticate`]; 429 when the budget is spent.
pub async fn recognise(api: &Api, parts: &Parts) -> Result<Actor> {
    let origin = origin_of(api, parts);
    let actor = match authenticate(api, &parts.method, &parts.headers).await {
        Ok(actor) => actor,
        Err(error) if error.status() == http::StatusCode::UNAUTHORIZED => {
            origin.network.map_or(Ok(()), |network| api.throttle.stranger(network))?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    api.throttle.caller(actor.account_id, actor.who)?;
    Ok(Actor { origin, ..actor })
}

/// # Errors
/// 401 without or with wrong credentials; 403 when another site made the browser ask.
pub async fn authenticate(api: &Api, method: &Method, headers: &HeaderMap) -> Result<Actor> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let key = value.to_str().ok().and_then(credential).ok_or_else(ApiError::unauthorized)?;
        return api.directory.by_key(&key).await?.ok_or_else(ApiError::unauthorized);
    }
    let token = session_token(headers).ok_or_else(ApiError::unauthorized)?;
    let actor = api.directory.by_session(&token).await?.ok_or_else(ApiError::unauthorized)?;
    if !method.is_safe() && !is_same_origin(headers) {
        return Err(cross_origin());
    }
    Ok(actor)
}

fn credential(value: &str) -> Option<String> {
    let (scheme, text) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(text.trim().to_owned());
    }
    scheme.eq_ignore_ascii_case("basic").then(|| basic(text.trim()))?
}

/// A token of the Plugins API comes as those who use that API send it: as the password, or alone as the user. Nothing else
/// may come like this, so that no browser keeps it.
fn basic(text: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    let token = if password.is_empty() { user } else { password };
    is_plugin_token(token).then(|| token.to_owned())
}

pub fn session_token(headers: &HeaderMap) -> Option<String> {
    headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';')).find_map(
        |pair| {
            let pair = pair.trim();
            let pair = pair.strip_prefix(HOST_PREFIX).unwrap_or(pair);
            pair.strip_prefix(SESSION_COOKIE)?.strip_prefix('=').map(str::to_owned)
        },
    )
}

/// What has a browser keep a session for so long.
pub fn session_cookie(api: &Api, token: &str, lives: std::time::Duration) -> http::HeaderValue {
    // Browsers take the prefix only with `Secure`.
    let (prefix, secure) =
        if api.settings.base_url.starts_with("https://") { (HOST_PREFIX, "; Secure") } else { ("", "") };
    let lives = lives.as_secs();
    let text = format!("{prefix}{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={lives}{secure}");
    http::HeaderValue::from_str(&text).expect("tokens are base64")
}

/// A request that nobody had to sign in for, and yet changes something in a browser: only from our own pages, if it is a
/// browser that asks.
///
/// # Errors
/// 403 when another site made the browser ask.
pub fn refuse_other_sites(headers: &HeaderMap) -> Result<()> {
    let says_so = headers.contains_key("sec-fetch-site") || headers.contains_key(ORIGIN);
    if says_so && !is_same_origin(headers) { Err(cross_origin()) } else { Ok(()) }
}

pub fn cross_origin() -> ApiError {
    ApiError::forbidden("cross_origin", "Another site asked for this in your name; it was refused.")
}

/// Where a request came from, for handlers that nobody has to be known for.
#[derive(Debug, Clone, Copy)]
pub struct From(pub Origin);

impl FromRequestParts<Api> for From {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Self::Rejection> {
        Ok(Self(origin_of(api, parts)))
    }
}

/// A browser says where a request comes from; one that says nothing about it is not trusted with a cookie.
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if let Some(site) = text(http::HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match (text(ORIGIN), text(HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
        _ => false,
    }
}
