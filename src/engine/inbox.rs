//! The built-in inbox: takes a request as it would have been sent, looks at it as a receiver would, and keeps it for whoever
//! wants to see it. Nothing leaves the process, so there is nothing for [`super::egress`] to judge.

use http::header::HeaderMap;
use tracing::warn;

use super::sender::{Outgoing, head_of};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::ids::{AccountId, WebhookId};
use crate::domain::inbox::{Received, SHOWN_HEADERS, look};
use crate::domain::outcome::{Attempted, Outcome, Response};
use crate::domain::phases::Phases;
use crate::domain::time::Timestamp;
use crate::store::inbox::InboxRequest;
use crate::store::{Result, Store};

/// What it answers, as an endpoint would.
const ANSWER: &[u8] = b"The inbox has it.";
const NOT_SHOWN: &str = "[redacted]";

pub struct Inbox {
    pub store: Store,
    pub clock: Clock,
    pub chance: Chance,
}

/// Whose inbox.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
}

impl Inbox {
    /// Begins at `started_at`, which is now. What cannot be kept is a failure of ours.
    pub async fn attempt(&self, owner: Owner, outgoing: &Outgoing<'_>, started_at: Timestamp) -> Attempted {
        let began = self.clock.monotonic();
        let (outcome, response) = match head_of(outgoing, started_at) {
            Ok(head) => self.take(owner, outgoing, &head).await,
            Err(outcome) => (outcome, None),
        };
        let duration = self.clock.monotonic().saturating_sub(began);
        Attempted { outcome, started_at, duration, phases: Phases::default(), response }
    }

    async fn take(&self, owner: Owner, outgoing: &Outgoing<'_>, head: &HeaderMap) -> (Outcome, Option<Response>) {
        if let Err(error) = self.keep(owner, outgoing, head).await {
            warn!(%error, webhook.id = %owner.webhook_id, "The inbox could not keep a request and will be asked again: {error}");
            return (Outcome::Internal { what: "the inbox could not keep it" }, None);
        }
        let response = Response { status: 200, headers: Vec::new(), body: ANSWER.to_vec(), retry_after: None };
        (Outcome::Responded { status: 200, location: None }, Some(response))
    }

    async fn keep(&self, owner: Owner, outgoing: &Outgoing<'_>, head: &HeaderMap) -> Result<()> {
        let now = self.clock.now();
        let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let received = Received {
            id: text("webhook-id"),
            timestamp: text("webhook-timestamp"),
            signature: text("webhook-signature"),
            body: outgoing.body,
        };
        let request = InboxRequest {
            id: self.chance.uuid_v7(now),
            event_id: outgoing.event_id,
            verdict: look(&received, outgoing.secret, now.secs()),
            headers: shown(head),
            body: outgoing.body.to_vec(),
            received_at: now,
        };
        self.store.keep_in_inbox(owner.account_id, owner.webhook_id, &request).await
    }
}

/// The headers for people to see, in the order of our document. Values of the owner's own are as secret here as anywhere.
fn shown(head: &HeaderMap) -> String {
    let ours = SHOWN_HEADERS.iter().filter_map(|name| {
        let value = head.get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    });
    let theirs = head.keys().filter(|name| !SHOWN_HEADERS.contains(&name.as_str()));
    let theirs = theirs.map(|name| (name.as_str().to_owned(), NOT_SHOWN.to_owned()));
    serde_json::to_string(&ours.chain(theirs).collect::<Vec<_>>()).expect("texts serialise")
}
