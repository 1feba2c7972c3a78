//! Which addresses a webhook may reach. One table, judged after resolution and again after connecting.
//!
//! IPv4 is a list of what is forbidden: the IANA special-purpose registry, multicast, and the public addresses clouds
//! answer their machines on. IPv6 is the other way round: only `2000::/3` is allowed, less what is special within it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What the operator says about the network this server stands in.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// Networks that may be reached although they are forbidden. One that is wider than a place nobody means by accident
    /// (loopback, metadata services) does not allow it.
    pub allow: Vec<IpNet>,
    /// Networks that may not be reached, whatever else is said of them.
    pub deny: Vec<IpNet>,
    /// Prefixes behind which a gateway turns IPv6 into IPv4: an address there is judged as the one it leads to.
    pub nat64: Vec<Nat64>,
    pub allow_http: bool,
    /// This machine's addresses. What comes to them from the machine itself passes by its firewall.
    pub own: Vec<IpAddr>,
    /// The name people reach this server under.
    pub own_name: Option<String>,
}

/// A prefix of RFC 6052: an IPv4 address follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat64(Ipv6Net);

/// The text is none of the prefixes there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv6 prefix of length 32, 40, 48, 56, 64 or 96")]
pub struct NotAPrefix;

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

/// Where nobody wants to be led by a network that happens to contain it: allowed only to whoever names it, or a part of it.
const ONLY_BY_NAME: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "192.80.8.124/32",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "ff00::/8",
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
    /// The address is forbidden and no network of the operator's allows it, or one denies it.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        self.judge_beside(address, &self.own)
    }

    /// The same on a machine that has these addresses by now.
    ///
    /// # Errors
    /// As above.
    pub fn judge_beside(&self, address: IpAddr, own: &[IpAddr]) -> Result<(), Forbidden> {
        // `::ffff:127.0.0.1` reaches 127.0.0.1.
        let address = address.to_canonical();
        if self.deny.iter().any(|network| network.contains(&address)) {
            return Err(Forbidden("denied by the operator"));
        }
        if let IpAddr::V6(address) = address
            && let Some(prefix) = self.nat64.iter().find(|prefix| prefix.0.contains(&address))
        {
            let behind = prefix.behind(address).ok_or(Forbidden("no address of its NAT64 prefix"))?;
            return self.judge_beside(behind.into(), own);
        }
        if self.allows(address) {
            return Ok(());
        }
        if own.iter().any(|own| own.to_canonical() == address) {
            return Err(Forbidden("this machine's own"));
        }
        match address {
            IpAddr::V4(address) => judge_v4(address),
            IpAddr::V6(address) => judge_v6(address),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let mut walls = ONLY_BY_NAME.iter().map(|text| text.parse::<IpNet>().expect("these are networks"));
        let wall = walls.find(|wall| wall.contains(&address));
        self.allow.iter().any(|network| network.contains(&address) && wall.is_none_or(|wall| wall.contains(network)))
    }
}

impl Nat64 {
    /// The IPv4 address an address with this prefix leads to; `None` where RFC 6052 wants zeros and there are none.
    fn behind(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = address.octets();
        let after = usize::from(self.0.prefix_len() / 8);
        // The ninth octet is left out of everything but the longest prefix.
        let skipped = |place: &usize| after == 12 || *place != 8;
        if after < 12 && octets[8] != 0 {
            return None;
        }
        let mut embedded = (after..16).filter(skipped).map(|place| octets[place]);
        let mut next = || embedded.next();
        Some(Ipv4Addr::new(next()?, next()?, next()?, next()?))
    }
}

impl FromStr for Nat64 {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let network: Ipv6Net = text.parse().map_err(|_| NotAPrefix)?;
        let fits = matches!(network.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96);
        if fits { Ok(Self(network.trunc())) } else { Err(NotAPrefix) }
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
        let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() };
        assert!(policy.judge("127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.judge("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.judge("10.0.0.1".parse().unwrap()).is_err());
        assert!(policy.judge("::1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_wide_network_does_not_allow_what_nobody_means_by_it() {
        let policy = |networks: &[&str]| AddressPolicy {
            allow: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ..AddressPolicy::default()
        };
        let everything = policy(&["0.0.0.0/0", "::/0"]);
        for text in ["10.1.2.3", "192.168.0.1", "100.64.0.1", "fd12::1", "1.1.1.1", "2002:7f00:1::"] {
            assert!(everything.judge(text.parse().unwrap()).is_ok(), "{text}");
        }
        for text in [
            "127.0.0.1",
            "::1",
            "::",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "255.255.255.255",
            "::ffff:127.0.0.1",
        ] {
            assert!(everything.judge(text.parse().unwrap()).is_err(), "{text}");
        }
        for (network, text) in
            [("169.254.169.254/32", "169.254.169.254"), ("::1/128", "::1"), ("127.0.0.1/32", "127.0.0.1")]
        {
            assert!(policy(&[network]).judge(text.parse().unwrap()).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_the_operator_denies_is_denied_whatever_is_allowed() {
        let networks = |text: &str| vec![text.parse().unwrap()];
        let policy =
            AddressPolicy { allow: networks("10.0.0.0/8"), deny: networks("10.0.0.5/32"), ..AddressPolicy::default() };
        assert!(policy.judge("10.0.0.4".parse().unwrap()).is_ok());
        assert!(policy.judge("10.0.0.5".parse().unwrap()).is_err());
        assert!(policy.judge("::ffff:10.0.0.5".parse().unwrap()).is_err());
        let policy = AddressPolicy { deny: networks("1.1.1.0/24"), ..AddressPolicy::default() };
        assert!(policy.judge("1.1.1.1".parse().unwrap()).is_err());
        assert!(policy.judge("1.1.2.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn this_machine_is_not_spoken_to_unless_it_is_allowed() {
        let own: Vec<IpAddr> = vec!["1.1.1.1".parse().unwrap(), "2606:4700::1111".parse().unwrap()];
        let mut policy = AddressPolicy { own: own.clone(), ..AddressPolicy::default() };
        for address in &own {
            assert!(policy.judge(*address).is_err(), "{address}");
        }
        assert!(policy.judge("::ffff:1.1.1.1".parse().unwrap()).is_err());
        assert!(policy.judge("1.1.1.2".parse().unwrap()).is_ok());
        policy.allow = vec!["1.1.1.1/32".parse().unwrap()];
        assert!(policy.judge(own[0]).is_ok() && policy.judge(own[1]).is_err());
    }

    /// The examples of RFC 6052, section 2.4, and what must not be made of them.
    #[test]
    fn behind_nat64_the_embedded_address_is_judged() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix: Nat64 = prefix.parse().unwrap();
            assert_eq!(prefix.behind(address.parse().unwrap()), Some("192.0.2.33".parse().unwrap()), "{address}");
        }
        let policy = AddressPolicy {
            nat64: ["64:ff9b::/96", "fd12:64::/48", "2a01:64:0:0:100::/96"].map(|text| text.parse().unwrap()).to_vec(),
            ..AddressPolicy::default()
        };
        for (address, allowed) in [
            ("64:ff9b::1.1.1.1", true),
            ("64:ff9b::127.0.0.1", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b::168.63.129.16", false),
            ("64:ff9b:1::1.1.1.1", false),
            ("fd12:64:0:101:1:100::", true),
            ("fd12:64:0:7f00:0:100::", false),
            // Where there have to be zeros.
            ("fd12:64:0:101:101:100::", false),
        ] {
            assert_eq!(policy.judge(address.parse().unwrap()).is_ok(), allowed, "{address}");
            assert!(forbidden(address), "{address} without the setting");
        }
        // All of the longest prefix is the network's own.
        for (address, allowed) in [("2a01:64::100:0:1.1.1.1", true), ("2a01:64::100:0:10.0.0.5", false)] {
            assert_eq!(policy.judge(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
        for text in ["64:ff9b::/95", "10.0.0.0/8", "64:ff9b::", "2001:db8::/33"] {
            assert_eq!(text.parse::<Nat64>(), Err(NotAPrefix), "{text}");
        }
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
