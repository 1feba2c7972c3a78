//! Visitor ids: a keyed hash that changes every day, so that nobody can be followed from one day to the next.
//!
//! SipHash-2-4 over user agent, address, site domain and the page's registrable domain, keyed with a random salt that is
//! made at midnight UTC and forgotten after two days: Plausible's construction, so that numbers compare.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::domain::time::Timestamp;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// Today's salt and yesterday's.
#[derive(Debug, Clone, Copy)]
pub struct Salts {
    pub day: i64,
    pub current: [u8; SALT_BYTES],
    pub previous: Option<[u8; SALT_BYTES]>,
}

/// The day of a moment, counted from the epoch in UTC.
pub fn day_of(moment: Timestamp) -> i64 {
    moment.secs().div_euclid(86_400)
}

/// The id of somebody with this user agent and address on this site, while `salt` lives.
pub fn visitor_id(salt: &[u8; SALT_BYTES], user_agent: &str, address: IpAddr, domain: &str, page_host: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_key(salt);
    hasher.write(user_agent.as_bytes());
    hasher.write(address.to_string().as_bytes());
    hasher.write(domain.as_bytes());
    hasher.write(registrable_domain(page_host).as_bytes());
    hasher.finish()
}

/// What somebody could register: `example.co.uk` of `www.example.co.uk`. A host without one, such as an address, stays
/// what it is.
fn registrable_domain(host: &str) -> &str {
    if host.parse::<IpAddr>().is_ok() {
        return host;
    }
    psl::domain_str(host).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors computed with another implementation of the same construction.
    #[test]
    fn ids_are_plausibles() {
        let mut hasher = SipHasher24::new_with_key(b"0123456789ABCDEF");
        hasher.write(b"hello");
        assert_eq!(hasher.finish(), 4_402_678_656_023_170_274);
        let salt = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let id = visitor_id(&salt, "Mozilla/5.0", "203.0.113.7".parse().unwrap(), "example.com", "www.example.com");
        assert_eq!(id, 8_952_223_486_709_301_821);
    }

    #[test]
    fn the_registrable_domain_is_what_counts() {
        for (host, domain) in [
            ("blog.example.co.uk", "example.co.uk"),
            ("example.com", "example.com"),
            ("198.18.0.1", "198.18.0.1"),
            ("localhost", "localhost"),
            ("(none)", "(none)"),
        ] {
            assert_eq!(registrable_domain(host), domain);
        }
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        assert_eq!(
            day_of("2026-02-25T23:59:59Z".parse().unwrap()) + 1,
            day_of("2026-02-26T00:00:00Z".parse().unwrap())
        );
    }
}
