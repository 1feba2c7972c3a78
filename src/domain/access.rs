//! Who is asking and what they may do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{AccountId, KeyId, SiteId, UserId};

/// What somebody may do within an account. Ordered: each role may do everything the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Changes sites, goals, webhooks and triggers.
    Editor,
    /// Changes keys and members too.
    Admin,
    /// Everything, including the account itself.
    Owner,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Editor, Self::Viewer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of owner, admin, editor, viewer")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// Somebody who proved who they are, acting within one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    pub account_id: AccountId,
    pub role: Role,
    /// Nothing of the account but this site is there for them.
    pub only_site: Option<SiteId>,
    pub who: Who,
    pub origin: Origin,
}

/// Where a request came from, as far as the audit log may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// The network, which says enough about an intruder and not where somebody lives: /24 of IPv4, /48 of IPv6.
    pub network: Option<IpNet>,
    pub request_id: Option<Uuid>,
}

impl Origin {
    pub fn of(address: IpAddr, request_id: Option<Uuid>) -> Self {
        Self { network: Some(network_of(address)), request_id }
    }
}

/// The network of an address that is kept instead of it.
pub fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, 24).trunc().into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 48).trunc().into(),
    }
}

impl Actor {
    /// Whether a site of the account is theirs to see.
    pub fn sees(&self, site_id: SiteId) -> bool {
        self.only_site.is_none_or(|only| only == site_id)
    }
}

/// By what an actor is known in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    Key(KeyId),
    User(UserId),
    /// A token of Plausible's Plugins API, by Plausible's id.
    PluginToken(Uuid),
    /// An API key of Plausible's, by its id there.
    PlausibleKey(i64),
    /// Nobody here: it was changed in Plausible.
    Plausible,
    /// Somebody with a shell on the machine.
    Operator,
    /// Nobody knows who: a password was wrong.
    Stranger,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::PluginToken(id) => write!(f, "plugin_token:{id}"),
            Self::PlausibleKey(id) => write!(f, "plausible_key:{id}"),
            Self::Plausible => f.write_str("plausible"),
            Self::Operator => f.write_str("operator"),
            Self::Stranger => f.write_str("stranger"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_kept_and_no_address() {
        for (address, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ] {
            assert_eq!(network_of(address.parse().unwrap()).to_string(), network);
        }
    }
}
