//! Webhooks: an endpoint and how it wants to be spoken to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::breaker::Parked;
use super::endpoint_url::only_host;
use super::ids::{AccountId, SiteId, WebhookId};
use super::time::Timestamp;
use super::vault::{CannotOpen, Keyring, NONCE_BYTES, Place};

/// How long a node believes what it knows of a webhook without asking. Whoever changes one behind its back waits as long
/// before saying that it is done.
pub const BELIEVED_FOR: Duration = Duration::from_millis(500);

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 255;
/// Shortest secret a user may bring, in characters.
pub const MIN_SECRET_CHARS: usize = 16;
/// Longest secret a user may bring, in characters.
pub const MAX_SECRET_CHARS: usize = 512;
/// Most custom headers of one webhook.
pub const MAX_HEADERS: usize = 20;

/// A webhook as it is stored: what is secret stays sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    pub id: WebhookId,
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub name: String,
    /// Canonical address of the endpoint, or its host and port where the whole is sealed.
    pub url: String,
    /// The canonical address, sealed, where there is something behind its host.
    pub sealed_url: Option<Vec<u8>>,
    pub format: Format,
    /// Sealed JSON object of custom headers.
    pub headers: Option<Vec<u8>>,
    /// Waits between attempts in the words of the owner; the default schedule when absent.
    pub retry_schedule: Option<String>,
    pub secret: Option<Vec<u8>>,
    pub previous_secret: Option<Vec<u8>>,
    /// Until when deliveries carry the previous secret's signature too.
    pub previous_valid_until: Option<Timestamp>,
    pub active: bool,
    /// Attempts a second at most; the operator's default when absent.
    pub rate_limit: Option<u32>,
    pub health: Health,
    pub disabled_at: Option<Timestamp>,
    pub disabled_reason: Option<String>,
    pub version: i64,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What is remembered of how the endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// The first failure since the last success.
    pub failing_since: Option<Timestamp>,
    /// The last failure, give or take a minute.
    pub failed_at: Option<Timestamp>,
    /// The last success, give or take an hour.
    pub succeeded_at: Option<Timestamp>,
    /// Warnings given since it began to fail.
    pub warnings: u32,
    /// Its breaker is open.
    pub parked: Option<Parked>,
}

/// How a webhook is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    Paused,
    Failing,
    Disabled,
}

impl Webhook {
    /// Where a value of it is sealed for.
    pub fn place(&self, column: &'static str) -> Place {
        Place { account_id: self.account_id, row: self.id.0, column }
    }

    /// The whole address.
    ///
    /// # Errors
    /// It was sealed with a key that is not at hand, or for another webhook.
    pub fn address(&self, keyring: &Keyring) -> Result<String, CannotOpen> {
        match &self.sealed_url {
            None => Ok(self.url.clone()),
            Some(sealed) => {
                let plain = keyring.open(&self.place("url"), sealed)?;
                String::from_utf8(plain).map_err(|_| CannotOpen::Damaged)
            }
        }
    }

    /// Takes another address, in canonical form. What is behind the host of one may be a token, as with chat rooms, so only
    /// the host stays readable then. `nonce` must be random and new.
    pub fn set_address(&mut self, address: &str, keyring: &Keyring, nonce: [u8; NONCE_BYTES]) {
        (self.url, self.sealed_url) = match only_host(address) {
            None => (address.to_owned(), None),
            Some(host) => (host, Some(keyring.seal(&self.place("url"), nonce, address.as_bytes()))),
        };
    }

    pub fn status(&self) -> Status {
        match self {
            Self { disabled_at: Some(_), .. } => Status::Disabled,
            Self { active: false, .. } => Status::Paused,
            Self { health: Health { failing_since: Some(_), .. }, .. } => Status::Failing,
            _ => Status::Active,
        }
    }

    /// Whether its triggers are watched and its deliveries attempted.
    pub fn is_live(&self) -> bool {
        self.active && self.disabled_at.is_none()
    }
}

/// The shape of the body an endpoint gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Format {
    #[default]
    Json,
    Cloudevents,
    Slack,
    Discord,
    Teams,
    Ntfy,
}

impl Format {
    pub const ALL: [Self; 6] = [Self::Json, Self::Cloudevents, Self::Slack, Self::Discord, Self::Teams, Self::Ntfy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cloudevents => "cloudevents",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Teams => "teams",
            Self::Ntfy => "ntfy",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Slack | Self::Discord | Self::Teams => "application/json",
            Self::Cloudevents => "application/cloudevents+json; charset=utf-8",
            Self::Ntfy => "text/plain; charset=utf-8",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of json, cloudevents, slack, discord, teams, ntfy")]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or(UnknownFormat)
    }
}
