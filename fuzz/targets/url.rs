//! What is accepted as the address of an endpoint leads to the public internet, whoever reads it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use pulsehook::domain::address::AddressPolicy;
use pulsehook::domain::endpoint_url::EndpointUrl;
use url::{Host, Url};

/// What the C library makes of a host: one to four numbers, decimal, octal or hexadecimal, the last one filling the rest.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<_> = text.split('.').collect();
    let (last, first) = parts.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let number = |text: &str| {
        let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        match (hex, text.strip_prefix('0')) {
            (Some(""), _) => Some(0),
            (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
            (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
            _ => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten(),
        }
    };
    let mut bits: u64 = 0;
    for part in first {
        bits = bits << 8 | number(part).filter(|number| *number < 256)?;
    }
    let room = 8 * (4 - first.len() as u32);
    let rest = number(last).filter(|number| *number < 1 << room)?;
    u32::try_from(bits << room | rest).ok().map(Ipv4Addr::from)
}

fuzz_target!(|text: &str| {
    let policy = AddressPolicy::default();
    let Ok(accepted) = EndpointUrl::parse(text, &policy) else { return };
    let canonical = accepted.as_str();
    assert!(canonical.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'\\'), "{canonical:?}");
    assert_eq!(EndpointUrl::parse(canonical, &policy).as_ref().map(EndpointUrl::as_str), Ok(canonical));

    let url = Url::parse(canonical).expect("it was parsed before");
    assert_eq!((url.scheme(), url.username(), url.password(), url.fragment()), ("https", "", None, None));
    match url.host().expect("it has a host") {
        Host::Ipv4(address) => assert!(policy.judge(address.into()).is_ok()),
        Host::Ipv6(address) => assert!(policy.judge(address.into()).is_ok()),
        Host::Domain(name) => {
            assert!(name.contains('.') && !name.ends_with('.') && name.len() <= 253, "{name}");
            assert!(!name.ends_with("localhost") || name.ends_with("-localhost") || !name.ends_with(".localhost"));
            assert!(name.parse::<IpAddr>().is_err() && inet_aton(name).is_none(), "{name} is a number to somebody");
        }
    }
    // What is put into the request names the same host.
    let uri: http::Uri = canonical.parse().unwrap_or_else(|error| panic!("{canonical}: {error}"));
    assert_eq!(uri.host(), url.host_str());
    assert_eq!(uri.port_u16(), url.port());
});
