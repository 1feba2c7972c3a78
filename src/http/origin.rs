//! Where a request comes from. Whoever connects, unless that is a proxy the operator trusts to say whom it speaks for.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use http::HeaderMap;
use http::request::Parts;
use ipnet::IpNet;
use uuid::Uuid;

use super::Api;
use crate::domain::access::Origin;

/// The id of a request, as its answer tells it.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub Uuid);

const UNKNOWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// What the audit log and the budgets go by: the last address on the way that is none of our proxies'. What is before it
/// anybody could have made up.
pub fn origin_of(api: &Api, parts: &Parts) -> Origin {
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0);
    let proxies = &api.settings.trusted_proxies;
    Origin::of(last_stranger(proxies, &parts.headers, peer(&parts.extensions)), request_id)
}

/// Who connected to us.
pub fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

fn last_stranger(proxies: &[IpNet], headers: &HeaderMap, peer: Option<IpAddr>) -> IpAddr {
    let peer = peer.unwrap_or(UNKNOWN).to_canonical();
    if peer != UNKNOWN && !is_trusted(proxies, peer) {
        return peer;
    }
    let texts = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let way: Vec<_> = texts.flat_map(|text| text.split(',')).filter_map(|text| read_address(text.trim())).collect();
    way.iter().rev().find(|address| !is_trusted(proxies, **address)).or(way.first()).copied().unwrap_or(peer)
}

/// Whose hit it is: what trackers are counted by. The first address on the way, as Plausible has it; a visitor who makes one
/// up cheats about himself only.
pub fn client_address(api: &Api, headers: &HeaderMap, peer: Option<IpAddr>) -> IpAddr {
    let peer = peer.unwrap_or(UNKNOWN).to_canonical();
    if peer != UNKNOWN && !is_trusted(&api.settings.trusted_proxies, peer) {
        return peer;
    }
    let first = |name: &str| headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim);
    let forwarded = || {
        let value = first("forwarded")?;
        value.split(';').find_map(|pair| pair.trim().strip_prefix("for=")).map(|text| text.trim_matches('"'))
    };
    ["x-plausible-ip", "cf-connecting-ip", "b-forwarded-for", "x-forwarded-for"]
        .into_iter()
        .filter_map(first)
        .chain(forwarded())
        .find_map(read_address)
        .unwrap_or(peer)
}

fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    proxies.iter().any(|network| network.contains(&address))
}

/// An address, perhaps with a port or in brackets.
fn read_address(text: &str) -> Option<IpAddr> {
    let bare = || text.trim_start_matches('[').split(']').next()?.parse().ok();
    let address =
        text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).or_else(bare);
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_spellings() {
        for (text, expected) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7:4711", Some("203.0.113.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(read_address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_a_stranger_says_about_himself_is_not_believed() {
        let proxies: Vec<IpNet> = ["127.0.0.0/8", "10.0.0.0/8"].map(|text| text.parse().unwrap()).into();
        let from = |peer: &str, way: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in way {
                headers.append("x-forwarded-for", text.parse().unwrap());
            }
            last_stranger(&proxies, &headers, Some(peer.parse().unwrap())).to_string()
        };
        assert_eq!(from("203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
        assert_eq!(from("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(from("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(from("10.0.0.2", &["1.2.3.4, 198.51.100.1, 10.0.0.9"]), "198.51.100.1");
        assert_eq!(from("10.0.0.2", &["1.2.3.4", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(from("127.0.0.1", &["10.0.0.7"]), "10.0.0.7");
    }
}
