//! Which addresses a webhook may reach. One table, judged after resolution and again after connecting.
//!
//! IPv4 is a list of what is forbidden: the IANA special-purpose registry, multicast, and the public addresses clouds
//! answer their machines on. IPv6 is the other way round: only `2000::/3` is allowed, less what is special within it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What the operator allows beyond the public internet.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// Networks that may be reached although they are forbidden.
    pub allow: Vec<IpNet>,
    pub allow_http: bool,
}

/// The address is not for webhooks. The reason is for operators; strangers only learn that it is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address is {0}")]
pub struct Forbidden(pub &'static str);

/// Forbidden IPv4 networks: address, prefix length, what they are.
const IPV4: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "of this network"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared by carriers"),
    ([127, 0, 0, 0], 8, "loopback"),
    // Azure answers its machines here although the address is public.
    ([168, 63, 129, 16], 32, "a cloud's metadata service"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved for protocols"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([192, 31, 196, 0], 24, "reserved (AS112)"),
    ([192, 52, 193, 0], 24, "reserved (AMT)"),
    // Packet answered its machines here.
    ([192, 80, 8, 124], 32, "a cloud's metadata service"),
    ([192, 88, 99, 0], 24, "a 6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([192, 175, 48, 0], 24, "reserved (AS112)"),
    ([198, 18, 0, 0], 15, "for benchmarks"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// Forbidden IPv6 networks within `2000::/3`.
const IPV6: &[([u16; 8], u8, &str)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved for protocols"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "reserved (AS112)"),
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16, "of the old 6bone"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
];

impl AddressPolicy {
    /// # Errors
    /// The address is forbidden and no network of the operator's allows it.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        // `::ffff:127.0.0.1` reaches 127.0.0.1.
        let address = address.to_canonical();
        if self.allow.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        match address {
            IpAddr::V4(address) => judge_v4(address),
            IpAddr::V6(address) => judge_v6(address),
        }
    }
}

fn judge_v4(address: Ipv4Addr) -> Result<(), Forbidden> {
    for (network, prefix, what) in IPV4 {
        if Ipv4Net::new_assert(Ipv4Addr::from(*network), *prefix).contains(&address) {
            return Err(Forbidden(what));
        }
    }
    Ok(())
}

fn judge_v6(address: Ipv6Addr) -> Result<(), Forbidden> {
    let segments = address.segments();
    if segments[0] & 0xe000 != 0x2000 {
        return Err(Forbidden("outside the public IPv6 internet"));
    }
    // ISATAP carries an IPv4 address in its last half, whatever the prefix.
    if segments[5] == 0x5efe && matches!(segments[4], 0 | 0x0200) {
        return Err(Forbidden("an ISATAP tunnel"));
    }
    for (network, prefix, what) in IPV6 {
        if Ipv6Net::new_assert(Ipv6Addr::from(*network), *prefix).contains(&address) {
            return Err(Forbidden(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forbidden(text: &str) -> bool {
        AddressPolicy::default().judge(text.parse().unwrap()).is_err()
    }

    #[test]
    fn every_network_is_forbidden_from_its_first_to_its_last_address() {
        for (network, prefix, what) in IPV4 {
            let network = Ipv4Net::new(Ipv4Addr::from(*network), *prefix).unwrap();
            for address in [network.network(), network.broadcast()] {
                assert!(judge_v4(address).is_err(), "{address} {what}");
                assert!(judge_v6(address.to_ipv6_mapped()).is_err());
            }
        }
        for (network, prefix, what) in IPV6 {
            let network = Ipv6Net::new(Ipv6Addr::from(*network), *prefix).unwrap();
            for address in [network.network(), network.broadcast()] {
                assert!(judge_v6(address).is_err(), "{address} {what}");
            }
        }
    }

    #[test]
    fn well_known_traps_are_forbidden() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.5",
            "172.31.255.255",
            "192.168.1.1",
            "100.100.100.200",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "192.0.0.192",
            "255.255.255.255",
            "224.0.0.1",
            "198.19.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
            "2001:db8::1",
            "3fff::1",
            "2a00:1450::5efe:7f00:1",
        ] {
            assert!(forbidden(text), "{text}");
        }
    }

    #[test]
    fn the_public_internet_is_allowed() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.17",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "2620:4f:8001::1",
        ] {
            assert!(!forbidden(text), "{text}");
        }
    }

    #[test]
    fn the_operator_may_allow_a_network_and_only_that() {
        let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
        assert!(policy.judge("127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.judge("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.judge("10.0.0.1".parse().unwrap()).is_err());
        assert!(policy.judge("::1".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_what_it_reaches(bits in any::<u32>()) {
            let address = Ipv4Addr::from(bits);
            let policy = AddressPolicy::default();
            prop_assert_eq!(policy.judge(address.into()), policy.judge(address.to_ipv6_mapped().into()));
        }

        #[test]
        fn nothing_outside_the_public_ipv6_range_is_allowed(bits in any::<u128>()) {
            let address = Ipv6Addr::from(bits);
            if AddressPolicy::default().judge(address.into()).is_ok() && address.to_ipv4_mapped().is_none() {
                prop_assert_eq!(address.segments()[0] >> 13, 1);
            }
        }
    }
}
