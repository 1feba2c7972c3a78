//! The address of an endpoint: judged by policy when it is saved and again when it is used, never by reachability.
//!
//! The only parser is the WHATWG one of the `url` crate. What it would quietly repair (tabs, backslashes, control
//! characters) is refused before it sees it, so that what an owner reads is what will be dialled.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::address::AddressPolicy;

/// Longest address, after it was put into canonical form.
pub const MAX_CHARS: usize = 2_048;

/// What is shown in place of what is behind the host of an address.
const CUT: &str = "/…";

/// An address that may be spoken to, in canonical form.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// Why an address is refused, in words that continue "url …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    #[error("is required")]
    Empty,
    #[error("must be at most 2048 characters")]
    TooLong,
    #[error("must not contain spaces, control characters or backslashes")]
    Characters,
    #[error("must start with https://")]
    NotHttps,
    #[error("is not a valid address")]
    Unreadable,
    #[error("is not the whole address: whoever may only read is not told what is behind the host")]
    Cut,
    #[error("must not contain a user name or password; use a custom header instead")]
    Credentials,
    #[error("must not contain a #fragment")]
    Fragment,
    #[error("must name a host on the public internet, such as hooks.example.com")]
    Host,
    #[error("must not use port {0}, which belongs to another service")]
    Port(u16),
    #[error(
        "is inside a private network. Deliveries go only to public addresses. Self-hosting? Ask your administrator to \
         allow it (egress_allow)"
    )]
    Private,
}

/// Names that mean something inside a network, whatever they resolve to; subdomains included.
const INSIDE: &[&str] = &[
    "localhost",
    "local",
    "internal",
    "intranet",
    "localdomain",
    "corp",
    "home",
    "lan",
    "arpa",
    "test",
    "invalid",
    "onion",
    "svc",
    "cluster.local",
    "metadata.goog",
    "metadata.azure.com",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "api.metadata.cloud.ibm.com",
    "instance-data.ec2.internal",
    "kubernetes.default",
];

/// Ports from 1024 of services that would understand, or be harmed by, an HTTP request.
const OTHER_SERVICES: &[u16] = &[
    1719, 1720, 1723, 2049, 2375, 2376, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 8123, 9000, 9200, 10080, 10250, 11211, 27017,
];

impl EndpointUrl {
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str, policy: &AddressPolicy) -> Result<Self, UrlProblem> {
        if text.is_empty() {
            return Err(UrlProblem::Empty);
        }
        if text.len() > MAX_CHARS * 4 {
            return Err(UrlProblem::TooLong);
        }
        if text.ends_with(CUT) {
            return Err(UrlProblem::Cut);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(UrlProblem::Characters);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UrlProblem::NotHttps)?;
        let allowed =
            scheme.eq_ignore_ascii_case("https") || (policy.allow_http && scheme.eq_ignore_ascii_case("http"));
        // The parser would repair `https:host` and `https:///host`.
        if !allowed || !rest.starts_with("//") {
            return Err(UrlProblem::NotHttps);
        }
        if rest.starts_with("///") {
            return Err(UrlProblem::Unreadable);
        }
        let mut url = Url::parse(text).map_err(|_| UrlProblem::Unreadable)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlProblem::Credentials);
        }
        if url.fragment().is_some() {
            return Err(UrlProblem::Fragment);
        }
        if let Some(port) = url.port().filter(|port| !may_be_a_web_server(*port)) {
            return Err(UrlProblem::Port(port));
        }
        match url.host().ok_or(UrlProblem::Host)? {
            Host::Ipv4(address) => judge(IpAddr::V4(address), policy)?,
            Host::Ipv6(address) => judge(IpAddr::V6(address), policy)?,
            Host::Domain(name) => {
                let name = canonical_name(name, policy)?;
                url.set_host(Some(&name)).map_err(|_| UrlProblem::Host)?;
            }
        }
        if url.as_str().len() > MAX_CHARS {
            return Err(UrlProblem::TooLong);
        }
        Ok(Self(url))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Where it leads: an address, or a name that has to be looked up.
    pub fn host(&self) -> Option<Host<&str>> {
        self.0.host()
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// Whether its host is a name, which has to be looked up.
    pub fn is_name(&self) -> bool {
        matches!(self.0.host(), Some(Host::Domain(_)))
    }

    /// Host and port, for lists and logs: paths and queries often carry tokens.
    pub fn authority(&self) -> String {
        match (self.0.host_str().unwrap_or_default(), self.0.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        }
    }
}

/// Host and port of an address in canonical form that has more behind them; `None` when that is all there is.
pub fn only_host(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    let has_more = url.path() != "/" || url.query().is_some();
    has_more.then(|| EndpointUrl(url).authority())
}

/// An address in canonical form for those who may read and nothing else: with what is behind its host they could write.
pub fn cut(address: &str) -> String {
    match (only_host(address), address.split_once("://")) {
        (Some(host), Some((scheme, _))) => format!("{scheme}://{host}{CUT}"),
        _ => address.to_owned(),
    }
}

/// Below 1024 only what the web is served on: everything else there is another service, known to us or not.
fn may_be_a_web_server(port: u16) -> bool {
    matches!(port, 80 | 443) || (port >= 1_024 && !OTHER_SERVICES.contains(&port))
}

fn judge(address: IpAddr, policy: &AddressPolicy) -> Result<(), UrlProblem> {
    policy.judge(address).map_err(|_| UrlProblem::Private)
}

/// Lower case without a dot at its end, and not a name of the inside. Where the operator allowed networks, names of the
/// inside may resolve to them; their addresses are judged when they are dialled.
fn canonical_name(name: &str, policy: &AddressPolicy) -> Result<String, UrlProblem> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let labels: Vec<_> = name.split('.').collect();
    if name.len() > 253
        || labels
            .iter()
            .any(|label| label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-'))
        // The parser lets through what no name has, and what a request cannot hold.
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        return Err(UrlProblem::Host);
    }
    let last = labels.last().copied().unwrap_or_default();
    if last.chars().all(|c| c.is_ascii_digit()) || last.starts_with("0x") {
        return Err(UrlProblem::Host);
    }
    let inside = labels.len() == 1
        || policy.own_name.as_deref() == Some(name.as_str())
        || INSIDE
            .iter()
            .any(|suffix| name == *suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')));
    if inside && policy.allow.is_empty() {
        return Err(UrlProblem::Private);
    }
    Ok(name)
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Paths and queries carry tokens, so only the host is printed where nobody asked for the whole.
impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, UrlProblem> {
        EndpointUrl::parse(text, &AddressPolicy::default()).map(|url| url.as_str().to_owned())
    }

    #[test]
    fn canonical_form_is_what_is_kept() {
        for (text, canonical) in [
            ("https://Example.COM", "https://example.com/"),
            ("HTTPS://example.com:443/a?b=c", "https://example.com/a?b=c"),
            ("https://example.com./hook", "https://example.com/hook"),
            ("https://bücher.example.org/x", "https://xn--bcher-kva.example.org/x"),
            ("https://example.com:8443/hook", "https://example.com:8443/hook"),
            ("https://example.com:1024/hook", "https://example.com:1024/hook"),
            ("https://example.com:80/hook", "https://example.com:80/hook"),
            ("https://1.1.1.1/hook", "https://1.1.1.1/hook"),
            ("https://[2606:4700::1111]/hook", "https://[2606:4700::1111]/hook"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_the_inside_is_refused() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "0177.1",
            "127.0.0.01",
            "0",
            "127.0.0.1.",
            "127.0.0.1..",
            "256.0.0.1",
            "4294967296",
            "1.2.3.4.5",
            "08.0.0.1",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "127%2e0.0.1",
            "%6c%6f%63%61%6c%68%6f%73%74",
            "local\u{ad}host",
            "local\u{200b}host",
            "localhost",
            "localhost.",
            "LOCALHOST",
            "a.localhost",
            "xn--example-.org",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[fec0::1]",
            "[::1]",
            "[::]",
            "[fe80::1%25eth0]",
            "[::1%lo]",
            "[127.0.0.1]",
            "0.0.0.0",
            "10.0.0.5",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "[fd00:ec2::254]",
            "metadata.google.internal",
            "metadata.goog",
            "kubernetes.default.svc",
            "db.cluster.local",
            "printer.lan",
            "router",
            "intranet",
            ".example.com",
            "example..com",
            "-example.com",
        ] {
            assert!(parse(&format!("https://{host}/hook")).is_err(), "{host}");
        }
    }

    #[test]
    fn what_a_parser_would_repair_is_refused() {
        for (text, problem) in [
            ("", UrlProblem::Empty),
            ("http://example.com/", UrlProblem::NotHttps),
            ("ftp://example.com/", UrlProblem::NotHttps),
            ("gopher://127.0.0.1/", UrlProblem::NotHttps),
            ("javascript:alert(1)", UrlProblem::NotHttps),
            ("example.com/hook", UrlProblem::NotHttps),
            ("https:example.com", UrlProblem::NotHttps),
            ("https:///example.com", UrlProblem::Unreadable),
            ("https://", UrlProblem::Unreadable),
            (" https://example.com/", UrlProblem::Characters),
            ("https://exam\tple.com/", UrlProblem::Characters),
            ("https://example.com\\@127.0.0.1/", UrlProblem::Characters),
            ("https://example.com/a b", UrlProblem::Characters),
            ("\u{1}https://example.com/", UrlProblem::Characters),
            ("https://user@example.com/", UrlProblem::Credentials),
            ("https://user:pa%0d%0ass@example.com/", UrlProblem::Credentials),
            ("https://:secret@example.com/", UrlProblem::Credentials),
            ("https://example.com/#top", UrlProblem::Fragment),
            ("https://example.com:0/", UrlProblem::Port(0)),
            ("https://example.com:6379/", UrlProblem::Port(6379)),
            ("https://example.com:22/", UrlProblem::Port(22)),
            ("https://example.com:444/", UrlProblem::Port(444)),
            ("https://example.com:1023/", UrlProblem::Port(1_023)),
            ("https://example.com:8123/", UrlProblem::Port(8_123)),
            ("https://exam$ple.com/", UrlProblem::Host),
            ("https://exam'ple.com/", UrlProblem::Host),
            ("https://example.0xzz/", UrlProblem::Host),
            ("https://127.0.0.1/", UrlProblem::Private),
        ] {
            assert_eq!(parse(text), Err(problem), "{text:?}");
        }
        let long = format!("https://example.com/{}", "a".repeat(MAX_CHARS));
        assert_eq!(parse(&long), Err(UrlProblem::TooLong));
        let longest = format!("https://example.com/{}", "a".repeat(MAX_CHARS - "https://example.com/".len()));
        assert!(parse(&longest).is_ok());
        // The parser makes little of it, but is not given more than this to read.
        let repaired = |bytes: usize| format!("https://example.com/{}", "./".repeat(bytes)[20..bytes].to_owned());
        assert_eq!(repaired(MAX_CHARS * 4).len(), MAX_CHARS * 4);
        assert_eq!(parse(&repaired(MAX_CHARS * 4)).as_deref(), Ok("https://example.com/"));
        for bytes in [MAX_CHARS * 4 + 2, MAX_CHARS * 5] {
            assert_eq!(parse(&repaired(bytes)), Err(UrlProblem::TooLong));
        }
    }

    #[test]
    fn where_nobody_asked_for_the_whole_only_the_host_is_printed() {
        let text = "https://hooks.example.com:8443/services/T0/B0/hush?token=hush";
        let url = EndpointUrl::parse(text, &AddressPolicy::default()).unwrap();
        assert_eq!(url.to_string(), text);
        assert_eq!(format!("{url:?}"), "EndpointUrl(hooks.example.com:8443)");
    }

    #[test]
    fn what_is_behind_the_host_is_left_out_and_what_was_left_out_is_no_address() {
        for (address, host, shown) in [
            ("https://hooks.example.com/", None, "https://hooks.example.com/"),
            ("https://hooks.example.com:8443/", None, "https://hooks.example.com:8443/"),
            ("https://hooks.example.com/a", Some("hooks.example.com"), "https://hooks.example.com/…"),
            ("https://hooks.example.com/?a", Some("hooks.example.com"), "https://hooks.example.com/…"),
            (
                "http://hooks.example.com:8080/a/b?c=d",
                Some("hooks.example.com:8080"),
                "http://hooks.example.com:8080/…",
            ),
            ("https://[2606:4700::1111]/a", Some("[2606:4700::1111]"), "https://[2606:4700::1111]/…"),
        ] {
            assert_eq!(only_host(address).as_deref(), host, "{address}");
            assert_eq!(cut(address), shown, "{address}");
        }
        assert_eq!(parse("https://hooks.example.com/…"), Err(UrlProblem::Cut));
    }

    #[test]
    fn a_name_is_as_long_as_names_may_be() {
        let name = |labels: &[usize]| labels.iter().map(|length| "a".repeat(*length)).collect::<Vec<_>>().join(".");
        for (labels, fits) in
            [(&[63, 3][..], true), (&[64, 3], false), (&[63, 63, 63, 61], true), (&[63, 63, 63, 62], false)]
        {
            let url = format!("https://{}/", name(labels));
            assert_eq!(parse(&url).is_ok(), fits, "{labels:?}");
        }
    }

    #[test]
    fn the_operator_decides_about_http_and_the_inside() {
        let policy =
            AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true, ..AddressPolicy::default() };
        for text in ["http://127.0.0.1:9999/hook", "https://localhost:8443/hook", "http://receiver:3000/"] {
            assert!(EndpointUrl::parse(text, &policy).is_ok(), "{text}");
        }
        assert!(EndpointUrl::parse("https://10.0.0.1/", &policy).is_err());
    }

    #[test]
    fn a_server_does_not_call_itself() {
        let policy = AddressPolicy { own_name: Some("hooks.example.com".to_owned()), ..AddressPolicy::default() };
        for text in ["https://hooks.example.com/in", "https://HOOKS.example.com.:8443/in"] {
            assert_eq!(EndpointUrl::parse(text, &policy), Err(UrlProblem::Private), "{text}");
        }
        for text in ["https://a.hooks.example.com/in", "https://example.com/in"] {
            assert!(EndpointUrl::parse(text, &policy).is_ok(), "{text}");
        }
    }
}
