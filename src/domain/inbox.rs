//! The built-in inbox: where deliveries can be seen before there is an endpoint of one's own. It is no address: nothing is
//! dialled for it, and nothing from outside gets into it.

use std::time::Duration;

use serde::Serialize;

use super::signature::{SigningSecret, verify_standard};

/// What a webhook has in place of an address whose deliveries the inbox takes: this text, and no other.
pub const INBOX: &str = "inbox:";
/// Requests kept of one webhook; the oldest make room.
pub const KEPT_MOST: u32 = 50;
/// How long one is kept at most.
pub const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// Requests a second that the inbox of one webhook takes.
pub const RATE: u32 = 10;
/// Names of headers that are shown as they came; of others, which are the owner's, only that they came.
pub const SHOWN_HEADERS: [&str; 9] = [
    "content-type",
    "user-agent",
    "accept-encoding",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-webhook-event-id",
    "x-webhook-event-type",
    "x-webhook-signature",
];

/// Whether a request is what the webhook's secret says, found out as a receiver would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Verdict {
    Verified,
    /// The webhook has no secret.
    Unsigned,
    /// It has one, and the signature is not by it.
    Mismatch,
}

/// What a receiver looks at.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
    pub body: &'a [u8],
}

/// Looks at a request with the webhook's secret.
pub fn look(received: &Received<'_>, secret: Option<&SigningSecret>, now_secs: i64) -> Verdict {
    let Some(secret) = secret else { return Verdict::Unsigned };
    let Received { id, timestamp, signature, body } = received;
    match verify_standard(secret, id, timestamp, signature, body, now_secs) {
        Ok(()) => Verdict::Verified,
        Err(_) => Verdict::Mismatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_secret_signed_is_verified() {
        let secret = SigningSecret::generate([7; 32]);
        let signature = secret.sign_standard("an-id", 1_000, b"{}");
        let received = Received { id: "an-id", timestamp: "1000", signature: &signature, body: b"{}" };
        assert_eq!(look(&received, Some(&secret), 1_010), Verdict::Verified);
        assert_eq!(look(&received, None, 1_010), Verdict::Unsigned);
        let other = SigningSecret::generate([8; 32]);
        assert_eq!(look(&received, Some(&other), 1_010), Verdict::Mismatch);
        assert_eq!(look(&Received { body: b"{ }", ..received }, Some(&secret), 1_010), Verdict::Mismatch);
        assert_eq!(look(&Received { id: "another", ..received }, Some(&secret), 1_010), Verdict::Mismatch);
        assert_eq!(look(&received, Some(&secret), 2_000), Verdict::Mismatch, "it is old");
    }
}
