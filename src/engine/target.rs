//! What an attempt needs to know of its webhook, with secrets opened. Read once and kept as long as nobody changed it.
//!
//! A change made through this node is told at once. For one made through another node, what is kept is believed for
//! [`BELIEVED_FOR`] only: then the configuration's version is asked for, and if it moved, what moved with it. Whoever
//! changes a webhook of another node waits that long before he answers, so that no attempt starts afterwards that the old
//! state would have allowed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use tracing::error;

use super::inbox::Owner;
use super::sender::{Address, Outgoing};
use crate::clock::Clock;
use crate::domain::address::AddressPolicy;
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::ids::{AccountId, WebhookId};
use crate::domain::inbox::{INBOX, RATE};
use crate::domain::pace::{Limits, Pace, Repute};
use crate::domain::retry::RetrySchedule;
use crate::domain::signature::SigningSecret;
use crate::domain::time::Timestamp;
use crate::domain::vault::Keyring;
use crate::domain::webhook::{BELIEVED_FOR, Health, Webhook};
use crate::store::outcomes::Life;
use crate::store::queue::Due;
use crate::store::{Result, Store};

/// Failures are noted at most this often, and successes.
const NOTE_FAILURES_EVERY: Duration = Duration::from_secs(60);
const NOTE_SUCCESSES_EVERY: Duration = Duration::from_secs(3_600);

/// An endpoint, ready to be spoken to.
#[derive(Debug)]
pub struct Target {
    pub account_id: AccountId,
    pub schedule: RetrySchedule,
    /// Shared by everybody who speaks to the same one.
    pub host: Arc<str>,
    version: i64,
    rate_limit: Option<u32>,
    /// Whose inbox takes it, where there is no endpoint.
    inbox: Option<Owner>,
    address: Address,
    secret: Option<SigningSecret>,
    previous_secret: Option<SigningSecret>,
    previous_valid_until: Option<Timestamp>,
    health: Mutex<Health>,
    /// It is not what the webhook is any more: nothing is to begin with it.
    revoked: AtomicBool,
}

/// All of them. The dispatcher's own.
pub struct Targets {
    store: Store,
    keyring: Keyring,
    policy: AddressPolicy,
    clock: Clock,
    limits: Limits,
    known: HashMap<WebhookId, Arc<Target>>,
    /// The configuration's version at which everything known was right, and when that was asked.
    confirmed: Option<(i64, Duration)>,
}

impl Targets {
    pub fn new(store: Store, keyring: Keyring, policy: AddressPolicy, clock: Clock, limits: Limits) -> Self {
        Self { store, keyring, policy, clock, limits, known: HashMap::default(), confirmed: None }
    }

    /// The endpoint, if it may be spoken to and is known.
    pub fn get(&self, id: WebhookId) -> Option<&Arc<Target>> {
        self.known.get(&id)
    }

    /// Makes sure that what is known may be believed for a while. Answers which of them are not what they were.
    ///
    /// # Errors
    /// The database does not answer: nothing known may be believed.
    pub async fn confirm(&mut self) -> Result<Vec<WebhookId>> {
        let asked_at = self.clock.monotonic();
        // Half of the time, so that nobody has to wait for an answer where it matters.
        if self.confirmed.is_some_and(|(_, at)| asked_at.saturating_sub(at) < BELIEVED_FOR / 2) {
            return Ok(Vec::new());
        }
        let version = self.store.catalog_version().await?;
        if self.confirmed.is_some_and(|(confirmed, _)| confirmed == version) || self.known.is_empty() {
            self.confirmed = Some((version, asked_at));
            return Ok(Vec::new());
        }
        let ids: Vec<_> = self.known.keys().copied().collect();
        let live: HashMap<_, _> = self.store.operator_live_versions(&ids).await?.into_iter().collect();
        let moved: Vec<_> =
            ids.into_iter().filter(|id| live.get(id) != self.known.get(id).map(|target| &target.version)).collect();
        for id in &moved {
            self.forget(*id);
        }
        self.confirmed = Some((version, asked_at));
        Ok(moved)
    }

    /// Whether what is known may still be believed, with a little to spare for an attempt to begin.
    pub fn is_confirmed(&self) -> bool {
        let now = self.clock.monotonic();
        self.confirmed.is_some_and(|(_, at)| now.saturating_sub(at) < BELIEVED_FOR * 4 / 5)
    }

    /// Reads those that are not known yet. Answers which of them nothing can be sent to: paused, disabled, suspended, gone
    /// or unreadable.
    pub async fn load(&mut self, ids: &HashSet<WebhookId>) -> Result<HashSet<WebhookId>> {
        let missing: Vec<_> = ids.iter().copied().filter(|id| !self.known.contains_key(id)).collect();
        if missing.is_empty() {
            return Ok(HashSet::default());
        }
        let mut dead: HashSet<_> = missing.iter().copied().collect();
        for webhook in self.store.operator_webhooks(&missing).await? {
            let id = webhook.id;
            if !webhook.is_live() {
                continue;
            }
            match self.open(webhook) {
                Ok(target) => {
                    dead.remove(&id);
                    self.known.insert(id, Arc::new(target));
                }
                Err(error) => error!(%error, webhook.id = %id, "Nothing can be sent to webhook {id}: {error}"),
            }
        }
        Ok(dead)
    }

    /// Once this returns nothing begins that what was known would have allowed.
    pub fn forget(&mut self, id: WebhookId) {
        if let Some(target) = self.known.remove(&id) {
            target.revoked.store(true, Ordering::SeqCst);
        }
    }

    pub fn forget_all(&mut self) {
        for (_, target) in self.known.drain() {
            target.revoked.store(true, Ordering::SeqCst);
        }
    }

    /// How fast the endpoint may be spoken to, as far as the database remembers.
    pub fn pace(&self, target: &Target, now: Timestamp) -> Pace {
        let health = target.health();
        let repute = match health {
            Health { failing_since: Some(_), .. } => Repute::Failing,
            Health { succeeded_at: Some(_), .. } => Repute::Proven,
            _ => Repute::Fresh,
        };
        let limits = Limits { rate: target.rate_limit.or(self.limits.rate), ..self.limits };
        Pace::new(limits, health.parked, repute, now)
    }

    fn open(&self, webhook: Webhook) -> anyhow::Result<Target> {
        let secret = |sealed: &Option<Vec<u8>>, column| -> anyhow::Result<Option<SigningSecret>> {
            let Some(sealed) = sealed else { return Ok(None) };
            let text = String::from_utf8(self.keyring.open(&webhook.place(column), sealed)?)?;
            Ok(Some(SigningSecret::parse(&text)?))
        };
        let headers = match &webhook.headers {
            None => Vec::new(),
            Some(sealed) => {
                let headers: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&self.keyring.open(&webhook.place("headers"), sealed)?)?;
                headers.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
            }
        };
        let address = webhook.address(&self.keyring)?;
        let inbox = (address == INBOX).then_some(Owner { account_id: webhook.account_id, webhook_id: webhook.id });
        // Nothing is ever dialled for the inbox: to whoever would, its address is refused like any other that is none.
        let url = EndpointUrl::parse(&address, &self.policy).map_err(|problem| problem.to_string());
        let host = match (&url, inbox) {
            (_, Some(owner)) => format!("{INBOX}{}", owner.webhook_id),
            (Ok(url), None) => url.authority(),
            (Err(_), None) => webhook.url.clone(),
        };
        let rate_limit = match inbox {
            Some(_) => Some(webhook.rate_limit.map_or(RATE, |rate| rate.min(RATE))),
            None => webhook.rate_limit,
        };
        Ok(Target {
            account_id: webhook.account_id,
            schedule: match &webhook.retry_schedule {
                Some(text) => RetrySchedule::parse(text)?,
                None => RetrySchedule::default(),
            },
            host: host.into(),
            version: webhook.version,
            rate_limit,
            inbox,
            address: Address::new(url, &headers),
            secret: secret(&webhook.secret, "secret")?,
            previous_secret: secret(&webhook.previous_secret, "previous_secret")?,
            previous_valid_until: webhook.previous_valid_until,
            health: Mutex::new(webhook.health),
            revoked: AtomicBool::new(false),
        })
    }
}

impl Target {
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    pub fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an attempt tells about the endpoint's life that is worth writing. Most tell what is known already.
    pub fn note(&self, success: bool, now: Timestamp) -> Life {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |noted: Option<Timestamp>, every| noted.is_none_or(|noted| now.since(noted) >= every);
        if success {
            if health.failing_since.is_none() && !old(health.succeeded_at, NOTE_SUCCESSES_EVERY) {
                return Life::AsBefore;
            }
            *health = Health { succeeded_at: Some(now), parked: health.parked, ..Health::default() };
            Life::Healthy
        } else {
            if health.failing_since.is_some() && !old(health.failed_at, NOTE_FAILURES_EVERY) {
                return Life::AsBefore;
            }
            health.failing_since.get_or_insert(now);
            health.failed_at = Some(now);
            Life::Failing
        }
    }

    /// Whose inbox is to take it, if that is where it goes.
    pub fn inbox(&self) -> Option<Owner> {
        self.inbox
    }

    /// The request for a delivery, to be signed at `now`.
    pub fn outgoing<'a>(&'a self, due: &'a Due, now: Timestamp) -> Outgoing<'a> {
        let overlap = self.previous_valid_until.is_some_and(|until| now < until);
        Outgoing {
            address: &self.address,
            secret: self.secret.as_ref(),
            previous_secret: self.previous_secret.as_ref().filter(|_| overlap),
            event_id: due.event_id,
            event_type: &due.event_type,
            content_type: due.format.content_type(),
            body: &due.payload,
        }
    }
}
