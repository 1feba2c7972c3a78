//! Identifiers, one type each. Integers for what Plausible numbers too (accounts, sites, goals), UUIDs for what is ours.
//! In JSON every one of them is an opaque string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The text is not an identifier of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self).map_err(|_| InvalidId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Who pays, owns and is isolated from everybody else.
    AccountId(i64)
);
id!(
    /// A site within an account.
    SiteId(i64)
);
id!(
    /// A goal of a site.
    GoalId(i64)
);
id!(
    /// A person who signs in.
    UserId(i64)
);
id!(
    /// An API key, without its secret part.
    KeyId(Uuid)
);
id!(
    /// An endpoint and its settings.
    WebhookId(Uuid)
);
id!(
    /// A rule of a webhook.
    TriggerId(Uuid)
);
id!(
    /// An event and, because an event goes to exactly one webhook, its delivery: one name from the moment a trigger
    /// fires to the `webhook-id` header and the support mail.
    EventId(Uuid)
);
id!(
    /// A running process.
    NodeId(Uuid)
);
