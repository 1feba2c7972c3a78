//! Settings: one name, three spellings (flag, environment, file), in that order of precedence, and contradictions
//! refused at start with a sentence. [`settings`] lists them, [`sources`] reads what was said.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use self::settings::{SETTINGS, Setting};
pub use self::sources::Sources;
use self::sources::{parts, size};
use crate::analytics::clickhouse::Address;
use crate::domain::address::{AddressPolicy, Nat64};
use crate::domain::node::Roles;
use crate::domain::pace::Limits;
use crate::domain::vault::Keyring;

mod settings;
mod sources;

const DAY: Duration = Duration::from_secs(86_400);

/// The settings, understood.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Without a slash at its end.
    pub base_url: String,
    pub data_dir: PathBuf,
    pub database_url: String,
    pub analytics: AnalyticsPlace,
    pub directory: DirectoryPlace,
    /// `None`: to be read from, or generated into, the data folder.
    pub master_key: Option<Keyring>,
    pub max_webhooks_per_account: u32,
    pub max_sites_per_account: u32,
    pub api_rate: u32,
    pub sign_up: bool,
    pub evaluation_interval: Duration,
    pub egress_allow: Vec<IpNet>,
    pub egress_deny: Vec<IpNet>,
    pub egress_nat64_prefixes: Vec<Nat64>,
    pub egress_allow_http: bool,
    pub egress_ca: Option<PathBuf>,
    pub roles: Roles,
    pub limits: Limits,
    pub host_in_flight: u32,
    /// `None`: as many as the process may have files open.
    pub in_flight: Option<u32>,
    /// `None`: as many as open files allow.
    pub max_connections: Option<u32>,
    pub max_connections_per_address: u32,
    pub trusted_proxies: Vec<IpNet>,
    /// Bytes of hits that may wait for ClickHouse.
    pub spill_limit: u64,
    pub retention: Duration,
    pub audit_retention: Duration,
    pub log_format: Option<LogFormat>,
    pub log_level: String,
}

/// Where traffic is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnalyticsPlace {
    /// In this file.
    Embedded(PathBuf),
    ClickHouse(Address),
}

/// Who knows accounts, sites and goals.
#[derive(Clone, PartialEq, Eq)]
pub enum DirectoryPlace {
    /// Our own tables.
    Own,
    /// A Plausible beside us.
    Plausible { database_url: String, secret_key_base: Option<String> },
}

/// Without the secrets.
impl std::fmt::Debug for DirectoryPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Plausible { .. } => "plausible",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A sentence about a setting that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// # Errors
    /// One sentence about the first setting that is wrong or contradicts another.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let listen = listen(sources)?;
        let base_url = base_url(sources, listen)?;
        let data_dir = PathBuf::from(sources.get("data_dir").unwrap_or("./pulsehook-data"));
        let database_url = match sources.get("database_url") {
            Some(url) => url.to_owned(),
            None => format!("sqlite://{}", data_dir.join("pulsehook.db").display()),
        };
        let analytics = analytics(sources, &data_dir)?;
        let config = Self {
            listen,
            base_url,
            directory: directory(sources)?,
            data_dir,
            database_url,
            master_key: master_key(sources)?,
            max_webhooks_per_account: sources.whole("max_webhooks_per_account", 10)?,
            max_sites_per_account: sources.whole("max_sites_per_account", 10_000)?,
            api_rate: sources.whole("api_rate", 500)?,
            sign_up: sources.flag("sign_up", false)?,
            evaluation_interval: sources.span("evaluation_interval", usual_interval(&analytics), "100ms", "1s")?,
            analytics,
            egress_allow: sources.networks("egress_allow", Vec::new(), "10.1.0.0/16")?,
            egress_deny: sources.networks("egress_deny", Vec::new(), "203.0.113.0/24")?,
            egress_nat64_prefixes: nat64_prefixes(sources)?,
            egress_allow_http: sources.flag("egress_allow_http", false)?,
            egress_ca: sources.get("egress_ca").map(PathBuf::from),
            roles: roles(sources)?,
            limits: limits(sources)?,
            host_in_flight: sources.at_least("host_in_flight", 64, 1)?,
            in_flight: sources.at_least("in_flight", None, 16)?,
            max_connections: sources.at_least("max_connections", None, 1)?,
            max_connections_per_address: sources.at_least("max_connections_per_address", 1_000, 1)?,
            trusted_proxies: sources.networks("trusted_proxies", private_networks(), "10.1.0.0/16")?,
            spill_limit: spill_limit(sources)?,
            retention: sources.span("retention", 30 * DAY, "1h", "30d")?,
            audit_retention: sources.span("audit_retention", 365 * DAY, "1d", "365d")?,
            log_format: log_format(sources)?,
            log_level: log_level(sources)?,
        };
        config.refuse_contradictions()?;
        Ok(config)
    }

    /// Where webhooks may go from a machine that has these addresses.
    pub fn address_policy(&self, own: Vec<IpAddr>) -> AddressPolicy {
        let base_url = url::Url::parse(&self.base_url).ok();
        AddressPolicy {
            allow: self.egress_allow.clone(),
            deny: self.egress_deny.clone(),
            nat64: self.egress_nat64_prefixes.clone(),
            allow_http: self.egress_allow_http,
            own,
            own_name: base_url.and_then(|url| url.domain().map(|name| name.trim_end_matches('.').to_owned())),
        }
    }

    fn refuse_contradictions(&self) -> Result<(), ConfigError> {
        let beside_plausible = self.directory != DirectoryPlace::Own;
        if beside_plausible && matches!(self.analytics, AnalyticsPlace::Embedded(_)) {
            return Err(ConfigError(
                "directory is plausible, whose traffic is in ClickHouse: set analytics_url to clickhouse://…"
                    .to_owned(),
            ));
        }
        if beside_plausible && self.sign_up {
            return Err(ConfigError(
                "sign_up is true, but directory is plausible, which knows the people: leave sign_up out".to_owned(),
            ));
        }
        let sqlite = self.database_url.starts_with("sqlite://");
        if sqlite && self.roles != Roles::ALL {
            return Err(ConfigError(
                "role splits the work over several nodes, which takes PostgreSQL: set database_url to postgres://…"
                    .to_owned(),
            ));
        }
        if !sqlite && !self.database_url.starts_with("postgres://") && !self.database_url.starts_with("postgresql://") {
            return Err(ConfigError("database_url must start with sqlite:// or postgres://".to_owned()));
        }
        if !sqlite && self.master_key.is_none() {
            return Err(ConfigError(
                "master_key is required with PostgreSQL, so that every node has the same one; \
                 make one with: openssl rand -base64 32"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn listen(sources: &Sources) -> Result<SocketAddr, ConfigError> {
    let default = SocketAddr::from(([127, 0, 0, 1], 8080));
    sources.parsed("listen", default, |text| text.parse().ok(), "an address and a port such as 127.0.0.1:8080")
}

fn base_url(sources: &Sources, listen: SocketAddr) -> Result<String, ConfigError> {
    let parse = |text: &str| {
        let url = url::Url::parse(text).ok()?;
        matches!(url.scheme(), "http" | "https").then(|| text.trim_end_matches('/').to_owned())
    };
    sources.parsed("base_url", format!("http://{listen}"), parse, "an http or https address")
}

fn analytics(sources: &Sources, data_dir: &Path) -> Result<AnalyticsPlace, ConfigError> {
    let Some(url) = sources.get("analytics_url") else {
        return Ok(AnalyticsPlace::Embedded(data_dir.join("analytics.db")));
    };
    if let Some(path) = url.strip_prefix("sqlite://") {
        return Ok(AnalyticsPlace::Embedded(PathBuf::from(path)));
    }
    // It holds a password, which stays out of the message.
    let place = url.parse().map(AnalyticsPlace::ClickHouse);
    place.map_err(|error| ConfigError(format!("analytics_url must be sqlite://path, or it {error}")))
}

fn directory(sources: &Sources) -> Result<DirectoryPlace, ConfigError> {
    let said = |name| sources.get(name).map(str::to_owned);
    match (sources.get("directory"), said("plausible_database_url")) {
        (None | Some("own"), None) => Ok(DirectoryPlace::Own),
        (None | Some("own"), Some(_)) => {
            Err(ConfigError("plausible_database_url is set, but directory is not plausible".to_owned()))
        }
        (Some("plausible"), Some(url)) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(DirectoryPlace::Plausible { database_url: url, secret_key_base: said("plausible_secret_key_base") })
        }
        (Some("plausible"), _) => Err(ConfigError(
            "directory is plausible, which takes plausible_database_url: postgres://user:password@host/database"
                .to_owned(),
        )),
        (Some(other), _) => Err(ConfigError(format!("directory must be own or plausible, but it is \"{other}\""))),
    }
}

/// The value itself is a secret and stays out of the message.
fn master_key(sources: &Sources) -> Result<Option<Keyring>, ConfigError> {
    const EXPECTED: &str = "32 bytes in base64, or several of them separated by commas";
    sources
        .parsed("master_key", None, |text| Keyring::parse(text).ok().map(Some), EXPECTED)
        .map_err(|_| ConfigError(format!("master_key must be {EXPECTED}")))
}

/// What one webhook may be asked at most, unless it says otherwise.
fn limits(sources: &Sources) -> Result<Limits, ConfigError> {
    let rate = sources.whole("endpoint_rate", 50)?;
    let in_flight = sources.at_least("endpoint_in_flight", 16, 1)?;
    Ok(Limits { rate: Some(rate).filter(|rate| *rate > 0), in_flight })
}

/// `None`: as it suits where the log goes.
fn log_format(sources: &Sources) -> Result<Option<LogFormat>, ConfigError> {
    let parse = |text: &str| match text {
        "text" => Some(Some(LogFormat::Text)),
        "json" => Some(Some(LogFormat::Json)),
        _ => None,
    };
    sources.parsed("log_format", None, parse, "text or json")
}

fn log_level(sources: &Sources) -> Result<String, ConfigError> {
    let parse = |text: &str| ["error", "warn", "info", "debug", "trace"].contains(&text).then(|| text.to_owned());
    sources.parsed("log_level", "info".to_owned(), parse, "error, warn, info, debug or trace")
}

fn usual_interval(analytics: &AnalyticsPlace) -> Duration {
    match analytics {
        AnalyticsPlace::Embedded(_) => Duration::from_secs(1),
        AnalyticsPlace::ClickHouse(_) => Duration::from_secs(5),
    }
}

fn nat64_prefixes(sources: &Sources) -> Result<Vec<Nat64>, ConfigError> {
    const EXPECTED: &str = "IPv6 prefixes of length 32, 40, 48, 56, 64 or 96 such as 64:ff9b::/96";
    let parse = |text: &str| parts(text).map(|part| part.parse().ok()).collect();
    sources.parsed("egress_nat64_prefixes", Vec::new(), parse, EXPECTED)
}

fn roles(sources: &Sources) -> Result<Roles, ConfigError> {
    const EXPECTED: &str = "one or more of api, ingest and engine, separated by commas";
    sources.parsed("role", Roles::ALL, |text| text.parse().ok(), EXPECTED)
}

fn spill_limit(sources: &Sources) -> Result<u64, ConfigError> {
    let parse = |text: &str| size(text).filter(|bytes| *bytes >= 64 << 10);
    sources.parsed("spill_limit", 1 << 30, parse, "a size of at least 64KiB, such as 1GiB")
}

fn private_networks() -> Vec<IpNet> {
    ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"]
        .iter()
        .map(|text| text.parse().expect("these are networks"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let flags = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_sources(&Sources { flags, ..Sources::default() })
    }

    #[test]
    fn everything_has_a_default() {
        let config = with(&[]).unwrap();
        assert_eq!(config.base_url, "http://127.0.0.1:8080");
        assert_eq!(config.database_url, "sqlite://./pulsehook-data/pulsehook.db");
        assert_eq!(config.max_webhooks_per_account, 10);
        assert_eq!(config.spill_limit, 1_073_741_824);
        assert_eq!(with(&[("spill_limit", "512MiB")]).unwrap().spill_limit, 512 << 20);
    }

    #[test]
    fn the_policy_is_what_the_settings_say() {
        let config = with(&[
            ("egress_allow", "10.1.0.0/16, 10.2.0.1"),
            ("egress_deny", "198.51.100.7"),
            ("egress_nat64_prefixes", "64:ff9b::/96,fd12:64::/48"),
            ("base_url", "https://Hooks.example.com/"),
        ]);
        let policy = config.unwrap().address_policy(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!((policy.allow.len(), policy.deny.len(), policy.nat64.len(), policy.own.len()), (2, 1, 2, 1));
        assert_eq!(policy.own_name.as_deref(), Some("hooks.example.com"));
        assert!(with(&[]).unwrap().address_policy(Vec::new()).own_name.is_none());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let one = |value: &str| BTreeMap::from([("retention".to_owned(), value.to_owned())]);
        let mut sources = Sources { flags: one("1d"), environment: one("2d"), file: one("3d") };
        for days in 1..=3 {
            let config = Config::from_sources(&sources).unwrap();
            assert_eq!(config.retention, Duration::from_secs(days * 86_400));
            if days == 1 { sources.flags.clear() } else { sources.environment.clear() }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_sentence() {
        for (pairs, sentence) in [
            (vec![("listen", "nowhere")], "listen must be an address and a port"),
            (vec![("database_url", "mysql://x")], "database_url must start with"),
            (vec![("database_url", "postgres://x/y")], "master_key is required with PostgreSQL"),
            (vec![("master_key", "c2hvcnQ=")], "master_key must be 32 bytes"),
            (vec![("egress_allow", "everything")], "egress_allow must be networks"),
            (vec![("egress_deny", "10.0.0.0/33")], "egress_deny must be networks"),
            (vec![("egress_nat64_prefixes", "64:ff9b::/95")], "egress_nat64_prefixes must be IPv6 prefixes"),
            (vec![("directory", "ldap")], "directory must be own or plausible"),
            (vec![("directory", "plausible")], "directory is plausible, which takes plausible_database_url"),
            (vec![("plausible_database_url", "postgres://x/y")], "plausible_database_url is set, but directory is not"),
            (
                vec![("directory", "plausible"), ("plausible_database_url", "postgres://x/y")],
                "directory is plausible, whose traffic is in ClickHouse",
            ),
            (vec![("analytics_url", "mysql://x")], "analytics_url must be sqlite://path, or it must be clickhouse://"),
            (vec![("retention", "5")], "retention must be a span"),
            (vec![("spill_limit", "1GB")], "spill_limit must be a size of at least 64KiB"),
            (vec![("spill_limit", "1KiB")], "spill_limit must be a size of at least 64KiB"),
            (vec![("role", "worker")], "role must be one or more of api, ingest and engine"),
            (vec![("role", "api")], "role splits the work over several nodes"),
            (vec![("endpoint_rate", "-1")], "endpoint_rate must be a whole number"),
            (vec![("endpoint_in_flight", "0")], "endpoint_in_flight must be a whole number from 1"),
            (vec![("max_connections", "0")], "max_connections must be a whole number from 1"),
            (vec![("max_connections_per_address", "x")], "max_connections_per_address must be a whole number from 1"),
            (vec![("in_flight", "3")], "in_flight must be a whole number from 16"),
            (vec![("log_format", "xml")], "log_format must be text or json"),
        ] {
            let error = with(&pairs).unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{error}");
        }
    }
}
