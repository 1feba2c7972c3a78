//! What an attempt needs to know of its webhook, with secrets opened. Read once and kept until somebody says it changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::error;

use super::sender::Outgoing;
use crate::clock::Clock;
use crate::domain::address::AddressPolicy;
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::ids::WebhookId;
use crate::domain::retry::RetrySchedule;
use crate::domain::signature::SigningSecret;
use crate::domain::time::Timestamp;
use crate::domain::vault::{Keyring, Place};
use crate::domain::webhook::Webhook;
use crate::store::Store;
use crate::store::queue::{Due, News};

/// How long a webhook is believed to be what it was: changes made through another node show within this time.
const BELIEVED_FOR: Duration = Duration::from_secs(2);

/// An endpoint, ready to be spoken to.
#[derive(Debug)]
pub struct Target {
    pub schedule: RetrySchedule,
    webhook: Webhook,
    /// `Err` when the stored address is refused by today's rules; the attempt says so.
    url: Result<EndpointUrl, String>,
    headers: Vec<(String, String)>,
    secret: Option<SigningSecret>,
    previous_secret: Option<SigningSecret>,
    loaded_at: Timestamp,
    failing_since: Mutex<Option<Timestamp>>,
}

/// What came of asking for a target.
pub enum Loaded {
    Live(Arc<Target>),
    /// Paused, disabled, suspended, gone, or unreadable: nothing is sent until that changes.
    NotLive,
    /// The database did not answer.
    Unknown,
}

/// All of them. Cheap to clone.
#[derive(Clone)]
pub struct Targets {
    store: Store,
    keyring: Keyring,
    policy: AddressPolicy,
    clock: Clock,
    known: Arc<Mutex<HashMap<WebhookId, Arc<Target>>>>,
}

impl Targets {
    pub fn new(store: Store, keyring: Keyring, policy: AddressPolicy, clock: Clock) -> Self {
        Self { store, keyring, policy, clock, known: Arc::default() }
    }

    pub async fn get(&self, id: WebhookId) -> Loaded {
        let now = self.clock.now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(target) = known.filter(|target| now.since(target.loaded_at) < BELIEVED_FOR) {
            return Loaded::Live(target);
        }
        self.forget(id);
        match self.store.operator_webhook(id).await {
            Ok(Some(webhook)) if webhook.is_live() => match self.open(webhook, now) {
                Ok(target) => {
                    let target = Arc::new(target);
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&target));
                    Loaded::Live(target)
                }
                Err(error) => {
                    error!(%error, webhook.id = %id, "Nothing can be sent to webhook {id}: {error}");
                    Loaded::NotLive
                }
            },
            Ok(_) => Loaded::NotLive,
            Err(error) => {
                error!(%error, webhook.id = %id, "Webhook {id} could not be read: {error}");
                Loaded::Unknown
            }
        }
    }

    pub fn forget(&self, id: WebhookId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Remembers what an attempt told about the endpoint, so that it is written once and not with every attempt.
    pub fn note(&self, id: WebhookId, news: &News, now: Timestamp) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = known.get(&id) {
            let mut failing_since = target.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
            match news {
                News::Failing => *failing_since = Some(now),
                News::Healthy => *failing_since = None,
                News::Nothing | News::Disable { .. } => {}
            }
        }
    }

    fn open(&self, webhook: Webhook, now: Timestamp) -> anyhow::Result<Target> {
        let place = |column| Place { account_id: webhook.account_id, row: webhook.id.0, column };
        let secret = |sealed: &Option<Vec<u8>>, column| -> anyhow::Result<Option<SigningSecret>> {
            let Some(sealed) = sealed else { return Ok(None) };
            let text = String::from_utf8(self.keyring.open(&place(column), sealed)?)?;
            Ok(Some(SigningSecret::parse(&text)?))
        };
        let headers = match &webhook.headers {
            None => Vec::new(),
            Some(sealed) => {
                let headers: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&self.keyring.open(&place("headers"), sealed)?)?;
                headers.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
            }
        };
        Ok(Target {
            schedule: match &webhook.retry_schedule {
                Some(text) => RetrySchedule::parse(text)?,
                None => RetrySchedule::default(),
            },
            url: EndpointUrl::parse(&webhook.url, &self.policy).map_err(|problem| problem.to_string()),
            headers,
            secret: secret(&webhook.secret, "secret")?,
            previous_secret: secret(&webhook.previous_secret, "previous_secret")?,
            loaded_at: now,
            failing_since: Mutex::new(webhook.failing_since),
            webhook,
        })
    }
}

impl Target {
    pub fn failing_since(&self) -> Option<Timestamp> {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request for a delivery, to be signed at `now`.
    pub fn outgoing(&self, due: &Due, now: Timestamp) -> Outgoing {
        let overlap = self.webhook.previous_valid_until.is_some_and(|until| now < until);
        Outgoing {
            url: self.url.clone(),
            headers: self.headers.clone(),
            secrets: self.secret.iter().chain(self.previous_secret.iter().filter(|_| overlap)).cloned().collect(),
            event_id: due.event_id,
            event_type: due.event_type.clone(),
            content_type: due.format.content_type(),
            body: Bytes::from(due.payload.clone()),
        }
    }
}
