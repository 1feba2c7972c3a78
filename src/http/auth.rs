//! Who is asking: an API key, a credential of the Plausible beside us, or the session cookie of somebody who signed in.

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::Api;
use super::error::{ApiError, Result};
use crate::directory::plausible::credentials::is_plugin_token;
use crate::domain::access::{Actor, Role};

pub const SESSION_COOKIE: &str = "pulsehook_session";

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
}

impl FromRequestParts<Api> for Asking {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        authenticate(api, &parts.method, &parts.headers).await.map(Self)
    }
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
        return Err(ApiError::forbidden("cross_origin", "Another site asked for this in your name; it was refused."));
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
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('=').map(str::to_owned))
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
