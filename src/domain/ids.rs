//! Identifiers, one type each. Integers for what Plausible numbers too (accounts, sites, goals), UUIDs for what is ours.
//! In JSON every one of them is an opaque string.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::time::Timestamp;

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
    /// Somebody who was asked to join an account.
    InvitationId(Uuid)
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
    /// A range of deliveries that somebody wants sent once more.
    ResendId(Uuid)
);
id!(
    /// A running process.
    NodeId(Uuid)
);

impl EventId {
    /// When the event was recorded, in whole milliseconds: ids are UUIDs of version 7, which begin with it (RFC 9562,
    /// section 5.7).
    pub fn recorded_at(self) -> Timestamp {
        let (secs, nanos) = self.0.get_timestamp().map_or((0, 0), |moment| moment.to_unix());
        Timestamp::from_secs(i64::try_from(secs).unwrap_or(0)) + Duration::from_nanos(nanos.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_knows_when_it_was_made() {
        let id = EventId(Uuid::from_u128(0x0189_2e12_1234_7abc_8def_0123_4567_89ab));
        assert_eq!(id.recorded_at(), Timestamp::from_micros(0x0189_2e12_1234 * 1_000));
        assert_eq!(EventId(Uuid::nil()).recorded_at(), Timestamp::EPOCH);
    }
}
