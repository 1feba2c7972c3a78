//! JSON bodies: read whole within a limit, and looked at field by field, so that everything that is wrong is told at once.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::Api;
use super::error::{ApiError, Result};
use crate::clock::Clock;
use crate::domain::invalid::Invalid;

/// Most bytes a request of the API may have.
pub const API_BYTES: usize = 64 * 1_024;
/// Most bytes an event may have, as with Plausible.
pub const EVENT_BYTES: usize = 1_000_000;

/// Longest a body may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// Reads a body, at most `limit` bytes.
///
/// # Errors
/// 413 when there is more, 400 when it breaks off or takes too long.
pub async fn read(clock: &Clock, body: Body, limit: usize) -> Result<Bytes> {
    use http_body_util::{BodyExt as _, LengthLimitError, Limited};
    let arrived = clock.within(ARRIVES_WITHIN, Limited::new(body, limit).collect()).await;
    let arrived = arrived.ok_or_else(|| {
        ApiError::broken_off(format!("The body did not arrive within {} seconds.", ARRIVES_WITHIN.as_secs()))
    })?;
    match arrived {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(ApiError::too_large(limit)),
        Err(_) => Err(ApiError::broken_off("The body broke off.")),
    }
}

/// A JSON object; an empty body is an empty object.
pub struct JsonObject(pub Map<String, Value>);

impl FromRequest<Api> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self> {
        let body = read(&api.clock, request.into_body(), API_BYTES).await?;
        if body.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(&body) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(ApiError::unreadable("The body must be a JSON object.")),
            Err(error) => Err(ApiError::unreadable(format!("The body is not JSON: {error}."))),
        }
    }
}

/// Reads typed fields out of an object and collects what is wrong with them.
pub struct Fields<'a> {
    body: &'a Map<String, Value>,
    known: Vec<&'static str>,
    pub invalid: Invalid,
}

impl<'a> Fields<'a> {
    /// `read_only` fields may be sent back as they came; they change nothing.
    pub fn of(body: &'a Map<String, Value>, read_only: &[&'static str]) -> Self {
        Self { body, known: read_only.to_vec(), invalid: Invalid::new() }
    }

    /// Whether the field is there, be it `null`.
    pub fn has(&self, name: &str) -> bool {
        self.body.contains_key(name)
    }

    pub fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.body.get(name).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, name: &'static str) -> Option<&'a str> {
        let value = self.value(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.invalid.add(name, "must be a text");
        }
        text
    }

    pub fn flag(&mut self, name: &'static str) -> Option<bool> {
        let value = self.value(name)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.invalid.add(name, "must be true or false");
        }
        flag
    }

    /// A text that parses, or a message.
    pub fn parsed<T: std::str::FromStr>(&mut self, name: &'static str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(name)?;
        text.parse().map_err(|problem: T::Err| self.invalid.add(name, problem.to_string())).ok()
    }

    pub fn require(&mut self, name: &'static str) {
        if self.body.get(name).is_none_or(Value::is_null) {
            self.invalid.add(name, "is required");
        }
    }

    /// Complains about fields nobody asked for, and ends the reading.
    ///
    /// # Errors
    /// Everything that was found.
    pub fn finish<T>(mut self, value: T) -> Result<T, Invalid> {
        for name in self.body.keys() {
            if !self.known.contains(&name.as_str()) {
                self.invalid.add(name, "is not a field of this");
            }
        }
        self.invalid.into_result(value)
    }
}
