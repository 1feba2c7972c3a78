//! What came of one HTTP exchange: a value, never an error, with a sentence somebody can act on.

use std::time::Duration;

use super::phases::Phases;
use super::time::Timestamp;

/// Bytes of a response body that are kept.
pub const KEPT_BODY_BYTES: usize = 4_096;
/// Longest wait an endpoint may ask for.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered with this status; 2xx is success.
    Responded {
        status: u16,
        location: Option<String>,
    },
    Timeout(Stage),
    DnsNotFound,
    DnsFailed,
    DnsTimeout,
    ForbiddenAddress,
    /// The stored address is refused by today's rules.
    ForbiddenUrl {
        problem: String,
    },
    ConnectRefused,
    Unreachable,
    ConnectionReset,
    ClosedEarly,
    TlsExpired,
    TlsWrongName,
    TlsUntrusted,
    TlsNoCommonParameters,
    TlsFailed,
    InvalidHttp,
    HeadersTooLarge,
    /// Nothing was sent: the event is too old to be worth it.
    Expired,
    /// Something on our side; never the endpoint's fault.
    Internal {
        what: &'static str,
    },
}

/// Where the time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connect,
    Tls,
    Response,
}

/// What an endpoint answered, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Those that help finding out what happened; others are not kept.
    pub headers: Vec<(String, String)>,
    /// The first [`KEPT_BODY_BYTES`].
    pub body: Vec<u8>,
    /// When the endpoint wants to be asked again, counted from the answer.
    pub retry_after: Option<Duration>,
}

/// One attempt, over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    pub outcome: Outcome,
    pub started_at: Timestamp,
    pub duration: Duration,
    /// What of it went where; nothing when nothing was sent over a network.
    pub phases: Phases,
    pub response: Option<Response>,
}

impl Attempted {
    /// An attempt that was not made because the event had become too old.
    pub fn expired(now: Timestamp) -> Self {
        let (duration, phases) = (Duration::ZERO, Phases::default());
        Self { outcome: Outcome::Expired, started_at: now, duration, phases, response: None }
    }
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Responded { status: 200..=299, .. })
    }

    /// A failure of our own, which never uses up one of the owner's attempts.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::DnsFailed | Self::DnsTimeout | Self::Internal { .. })
    }

    /// A stable name for lists, filters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Responded { status: 200..=299, .. } => "success",
            Self::Responded { status: 300..=399, .. } => "redirect",
            Self::Responded { status: 400..=499, .. } => "client_error",
            Self::Responded { .. } => "server_error",
            Self::Timeout(Stage::Connect) => "connect_timeout",
            Self::Timeout(Stage::Tls) => "tls_timeout",
            Self::Timeout(Stage::Response) => "timeout",
            Self::DnsNotFound => "dns_nxdomain",
            Self::DnsFailed => "dns_servfail",
            Self::DnsTimeout => "dns_timeout",
            Self::ForbiddenAddress => "forbidden_address",
            Self::ForbiddenUrl { .. } => "forbidden_url",
            Self::ConnectRefused => "connect_refused",
            Self::Unreachable => "network_unreachable",
            Self::ConnectionReset => "connection_reset",
            Self::ClosedEarly => "closed_early",
            Self::TlsExpired => "tls_cert_expired",
            Self::TlsWrongName => "tls_cert_name",
            Self::TlsUntrusted => "tls_cert_untrusted",
            Self::TlsNoCommonParameters => "tls_no_common_params",
            Self::TlsFailed => "tls_protocol",
            Self::InvalidHttp => "http_invalid",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Expired => "expired",
            Self::Internal { .. } => "internal_error",
        }
    }

    /// What happened and what to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Responded { status, location } => status_advice(*status, location.as_deref()),
            Self::Timeout(Stage::Connect) => {
                "The connection could not be opened in time. Check that the server is up and its firewall lets us in.".into()
            }
            Self::Timeout(Stage::Tls) => {
                "The TLS handshake did not finish in time. Check that the port really speaks HTTPS.".into()
            }
            Self::Timeout(Stage::Response) => {
                "The endpoint took the request but did not answer within 15 seconds. Answer first and do the work afterwards."
                    .into()
            }
            Self::DnsNotFound => {
                "The host name does not exist. Check the spelling of the address, or add the DNS record.".into()
            }
            Self::DnsFailed | Self::DnsTimeout => {
                "The host name could not be looked up just now. This does not count as an attempt; we try again.".into()
            }
            Self::ForbiddenAddress => "The host name leads to an address that webhooks may not reach. Use a public address, or \
                ask your administrator to allow it (egress_allow)."
                .into(),
            Self::ForbiddenUrl { problem } => format!("The address {problem}. Edit the webhook's URL."),
            Self::ConnectRefused => {
                "Nothing listens at this address and port. Start the receiver, or correct the port.".into()
            }
            Self::Unreachable => "There is no route to the endpoint's address. Check its DNS records and network.".into(),
            Self::ConnectionReset => {
                "The endpoint cut the connection while we were talking. Look into its logs and those of its proxy.".into()
            }
            Self::ClosedEarly => {
                "The endpoint closed the connection without an answer. Look into its logs; it may have crashed.".into()
            }
            Self::TlsExpired => "The endpoint's certificate has expired or is not valid yet. Renew it; we keep trying.".into(),
            Self::TlsWrongName => {
                "The endpoint's certificate is for another host name. Install one for this name, or correct the address.".into()
            }
            Self::TlsUntrusted => "The endpoint's certificate is not signed by an authority we trust. Install a certificate of a \
                public authority, with its intermediate certificates."
                .into(),
            Self::TlsNoCommonParameters => {
                "The endpoint offers no TLS version or cipher we accept. Enable TLS 1.2 or 1.3 with a modern cipher.".into()
            }
            Self::TlsFailed => {
                "The endpoint does not speak TLS properly. Check that this port serves HTTPS and not plain HTTP.".into()
            }
            Self::InvalidHttp => "The endpoint answered with something that is not HTTP. Check what listens there.".into(),
            Self::HeadersTooLarge => {
                "The endpoint answered with more headers than we read (64, or 16 KiB). Send fewer of them.".into()
            }
            Self::Expired => "The event became too old before it could be delivered. Resend it if it still matters.".into(),
            Self::Internal { what } => format!("Something went wrong on our side ({what}). This does not count as an attempt."),
        }
    }
}

fn status_advice(status: u16, location: Option<&str>) -> String {
    match status {
        200..=299 => "Delivered.".to_owned(),
        300..=399 => match location {
            Some(location) => {
                format!("The endpoint redirects to {location}, which is not followed. Put the final address in.")
            }
            None => "The endpoint redirects, which is not followed. Put the final address in.".to_owned(),
        },
        401 | 403 => format!(
            "The endpoint refused us ({status}). Check what it expects: a custom header, the signature, or an allowed address."
        ),
        404 => "The endpoint does not know this path (404). Check the address.".to_owned(),
        405 => "The endpoint does not accept POST (405). Check the address.".to_owned(),
        408 => "The endpoint gave up waiting for the request (408). We try again.".to_owned(),
        410 => "The endpoint says it is gone for good (410), so the webhook was disabled. Enable it once it is back."
            .to_owned(),
        413 => "The endpoint finds the request too large (413). Raise its limit.".to_owned(),
        429 => "The endpoint asks us to slow down (429). We wait as long as it asked.".to_owned(),
        400..=499 => format!("The endpoint did not accept the request ({status}). Its answer below may say why."),
        503 => "The endpoint is not available (503). Look whether it is up; we try again, no sooner than it asks."
            .to_owned(),
        502 | 504 => format!("The proxy in front of the endpoint could not reach it ({status}). Check that it is up."),
        500..=599 => format!("The endpoint failed ({status}). Look into its logs; we try again."),
        _ => format!("The endpoint answered with status {status}, which means nothing to us."),
    }
}

/// Reads `Retry-After`: seconds or an HTTP date, at most [`LONGEST_RETRY_AFTER`]. Anything else says nothing.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds is a very long wait.
        let secs = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(secs).min(LONGEST_RETRY_AFTER));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let secs = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let date = Timestamp::from_secs(i64::try_from(secs).ok()?.min(253_402_300_799));
    Some(date.since(now).min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_outcome() -> Vec<Outcome> {
        let mut outcomes: Vec<_> = (100..=599).map(|status| Outcome::Responded { status, location: None }).collect();
        outcomes.extend([
            Outcome::Responded { status: 301, location: Some("https://b.example/".into()) },
            Outcome::Timeout(Stage::Connect),
            Outcome::Timeout(Stage::Tls),
            Outcome::Timeout(Stage::Response),
            Outcome::DnsNotFound,
            Outcome::DnsFailed,
            Outcome::DnsTimeout,
            Outcome::ForbiddenAddress,
            Outcome::ForbiddenUrl { problem: "must start with https://".into() },
            Outcome::ConnectRefused,
            Outcome::Unreachable,
            Outcome::ConnectionReset,
            Outcome::ClosedEarly,
            Outcome::TlsExpired,
            Outcome::TlsWrongName,
            Outcome::TlsUntrusted,
            Outcome::TlsNoCommonParameters,
            Outcome::TlsFailed,
            Outcome::InvalidHttp,
            Outcome::HeadersTooLarge,
            Outcome::Expired,
            Outcome::Internal { what: "test" },
        ]);
        outcomes
    }

    #[test]
    fn every_outcome_has_a_code_and_a_sentence() {
        for outcome in every_outcome() {
            let advice = outcome.advice();
            assert!(advice.ends_with('.') && advice.len() > 9, "{outcome:?}: {advice}");
            assert!(outcome.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{outcome:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-02-25T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("999999999999999999999999", Some(86_400)),
            ("Wed, 25 Feb 2026 10:02:00 GMT", Some(120)),
            ("Wed, 25 Feb 2026 09:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_us_wait_longer_than_a_day(text in ".*", now in any::<i64>()) {
            if let Some(wait) = parse_retry_after(&text, Timestamp::from_micros(now)) {
                prop_assert!(wait <= LONGEST_RETRY_AFTER);
            }
        }
    }
}
