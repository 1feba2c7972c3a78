//! Where a ClickHouse is: `clickhouse://user:password@host:8123/database`, or `clickhouses://` over TLS.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

const PORT: u16 = 8_123;
const TLS_PORT: u16 = 8_443;

/// An address of ClickHouse's HTTP interface, and how to sign in there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Scheme, host and port.
    pub url: String,
    pub database: String,
    pub user: Option<String>,
    pub password: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be clickhouse://user:password@host:8123/database, or clickhouses://… for TLS")]
pub struct NotAnAddress;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (scheme, port, rest) = if let Some(rest) = text.strip_prefix("clickhouse://") {
            ("http", PORT, rest)
        } else if let Some(rest) = text.strip_prefix("clickhouses://") {
            ("https", TLS_PORT, rest)
        } else {
            return Err(NotAnAddress);
        };
        // A scheme the parser knows, so that host, port and user are told apart as in any address.
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| NotAnAddress)?;
        // The parser drops a port that is the scheme's own, and 80 is nobody's ClickHouse by accident.
        let named_port = rest.split(['/', '?']).next().and_then(|authority| authority.rsplit_once(':'));
        let port = match (url.port(), named_port.map(|(_, port)| port.parse::<u16>())) {
            (Some(port), _) | (None, Some(Ok(port))) => port,
            _ => port,
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(NotAnAddress)?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| NotAnAddress);
        let database = decoded(url.path().trim_matches('/'))?;
        if database.is_empty() || database.contains('/') || url.query().is_some() {
            return Err(NotAnAddress);
        }
        Ok(Self {
            url: format!("{scheme}://{host}:{port}"),
            database,
            user: Some(decoded(url.username())?).filter(|user| !user.is_empty()),
            password: url.password().map(decoded).transpose()?,
        })
    }
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.url, self.database)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let address: Address = "clickhouse://reader:p%40ss@plausible_events_db:8123/events".parse().unwrap();
        assert_eq!(address.url, "http://plausible_events_db:8123");
        assert_eq!(address.database, "events");
        assert_eq!(address.user.as_deref(), Some("reader"));
        assert_eq!(address.password.as_deref(), Some("p@ss"));
        assert_eq!(format!("{address:?}"), "http://plausible_events_db:8123/events");
        for (text, url) in [
            ("clickhouse://localhost/x", "http://localhost:8123"),
            ("clickhouses://localhost/x", "https://localhost:8443"),
            ("clickhouses://localhost:443/x", "https://localhost:443"),
            ("clickhouse://user@[::1]:80/x", "http://[::1]:80"),
            ("clickhouse://[::1]/x", "http://[::1]:8123"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().url, url);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in
            ["http://localhost:8123/x", "clickhouse://", "clickhouse://host", "clickhouse:///x", "clickhouse://h/a/b"]
        {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress), "{text}");
        }
    }
}
