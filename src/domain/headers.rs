//! Custom headers of a webhook: what an owner may add to a request, and what is ours or would be misunderstood.

use http::{HeaderName, HeaderValue};

/// Longest value, in bytes.
const MAX_VALUE_BYTES: usize = 4_096;

/// Names that are ours, steer the connection, or mean something to proxies and clouds.
const REFUSED: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "expect",
    "forwarded",
    "via",
    "cookie",
    "user-agent",
    "accept-encoding",
    "metadata-flavor",
    "metadata",
    "x-google-metadata-request",
    "x-metadata-token",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "idempotency-key",
];
const REFUSED_PREFIXES: &[&str] = &["webhook-", "x-webhook-", "proxy-", "x-forwarded-", "x-aws-ec2-metadata-"];

/// Why a header is refused, in words that continue the header's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    #[error("is not a header name")]
    Name,
    #[error("cannot be set: it belongs to the request itself")]
    Ours,
    #[error("must have a value of printable characters, at most 4096 bytes")]
    Value,
}

/// The header in its canonical spelling.
pub fn check(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderProblem> {
    let name: HeaderName = name.parse().map_err(|_| HeaderProblem::Name)?;
    let text = name.as_str();
    if REFUSED.contains(&text) || REFUSED_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        return Err(HeaderProblem::Ours);
    }
    if value.is_empty() || value.len() > MAX_VALUE_BYTES || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(HeaderProblem::Value);
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| HeaderProblem::Value)?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_may_add_what_only_the_endpoint_reads() {
        assert!(check("Authorization", "Bearer abc").is_ok());
        assert!(check("X-Team", "growth").is_ok());
        for name in [
            "Host",
            "content-LENGTH",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "HTTP2-Settings",
            "Expect",
            "Forwarded",
            "Via",
            "Cookie",
            "Webhook-Id",
            "X-Webhook-Signature",
            "Proxy-Authorization",
            "Proxy-Connection",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Real-IP",
            "X-Original-URL",
            "X-HTTP-Method-Override",
            "Metadata",
            "Metadata-Flavor",
            "X-Google-Metadata-Request",
            "X-aws-ec2-metadata-token",
            "X-aws-ec2-metadata-token-ttl-seconds",
            "X-Metadata-Token",
        ] {
            assert_eq!(check(name, "x"), Err(HeaderProblem::Ours), "{name}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "ü"] {
            assert_eq!(check(name, "x"), Err(HeaderProblem::Name), "{name:?}");
        }
        for value in ["", "a\r\nb", "a\0b", "ü", &"x".repeat(4_097)] {
            assert_eq!(check("x-a", value), Err(HeaderProblem::Value), "{value:?}");
        }
    }
}
