//! Settings: one name, three spellings (flag, environment, file), in that order of precedence, and contradictions
//! refused at start with a sentence.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::analytics::clickhouse::Address;
use crate::domain::address::{AddressPolicy, Nat64};
use crate::domain::node::Roles;
use crate::domain::pace::Limits;
use crate::domain::time::parse_span;
use crate::domain::vault::Keyring;

/// One setting as people meet it.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// As shown in the help; an empty text means there is none.
    pub default: &'static str,
    pub help: &'static str,
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting { name: "listen", default: "127.0.0.1:8080", help: "Address and port to listen on" },
    Setting { name: "base_url", default: "http://LISTEN", help: "Address under which people reach this server" },
    Setting { name: "data_dir", default: "./pulsehook-data", help: "Folder for databases and the master key" },
    Setting {
        name: "database_url",
        default: "sqlite://DATA_DIR/pulsehook.db",
        help: "Configuration and queue: sqlite://… for one node, postgres://… for several",
    },
    Setting {
        name: "analytics_url",
        default: "sqlite://DATA_DIR/analytics.db",
        help: "Where traffic is kept: sqlite://…, or clickhouse://user:password@host:8123/database (clickhouses:// for TLS)",
    },
    Setting {
        name: "directory",
        default: "own",
        help: "Who knows accounts, sites and goals: own, or plausible with its plausible_database_url",
    },
    Setting {
        name: "plausible_database_url",
        default: "",
        help: "Plausible's PostgreSQL, read only: postgres://user:password@host/database",
    },
    Setting {
        name: "plausible_secret_key_base",
        default: "",
        help: "Plausible's SECRET_KEY_BASE, if its API keys are to work here",
    },
    Setting {
        name: "master_key",
        default: "generated into DATA_DIR/master.key with SQLite",
        help: "32 bytes in base64 that encrypt secrets; several, newest first, separated by commas",
    },
    Setting { name: "max_webhooks_per_account", default: "10", help: "Webhooks an account may have" },
    Setting { name: "max_sites_per_account", default: "10000", help: "Sites an account may have" },
    Setting {
        name: "api_rate",
        default: "500",
        help: "Requests a second one key or session may make, ten times that at once; 0 for as many as it likes",
    },
    Setting { name: "sign_up", default: "false", help: "Whether strangers may sign up for an account of their own" },
    Setting {
        name: "evaluation_interval",
        default: "1s, or 5s with ClickHouse",
        help: "Longest time between two looks at the traffic",
    },
    Setting {
        name: "egress_allow",
        default: "",
        help: "Networks webhooks may reach although they are private, such as 127.0.0.0/8,10.1.0.0/16",
    },
    Setting {
        name: "egress_deny",
        default: "",
        help: "Networks webhooks may not reach although they are public, such as your own; wins over egress_allow",
    },
    Setting {
        name: "egress_nat64_prefixes",
        default: "",
        help: "Behind NAT64: its prefixes, such as 64:ff9b::/96; what is behind them is judged by its IPv4 address",
    },
    Setting { name: "egress_allow_http", default: "false", help: "Whether webhooks may be plain http" },
    Setting {
        name: "role",
        default: "api,ingest,engine",
        help: "What this process does; several nodes over PostgreSQL may share it out",
    },
    Setting {
        name: "endpoint_rate",
        default: "50",
        help: "Attempts a second at one webhook, unless it says otherwise; 0 for as many as it takes",
    },
    Setting { name: "endpoint_in_flight", default: "16", help: "Attempts under way at once at one webhook" },
    Setting { name: "host_in_flight", default: "64", help: "Attempts under way at once at one host" },
    Setting {
        name: "in_flight",
        default: "2048, or what open files allow",
        help: "Attempts under way at once in this process",
    },
    Setting {
        name: "max_connections",
        default: "10000, or what open files allow",
        help: "Connections of clients held at once; whoever comes then is answered 503",
    },
    Setting {
        name: "max_connections_per_address",
        default: "1000",
        help: "The same of one address that is none of trusted_proxies; whoever opens more is answered 429",
    },
    Setting { name: "egress_ca", default: "", help: "PEM file of further certificate authorities webhooks may use" },
    Setting {
        name: "trusted_proxies",
        default: "loopback and private networks",
        help: "Networks whose X-Forwarded-For is believed",
    },
    Setting {
        name: "spill_limit",
        default: "1GiB",
        help: "With a ClickHouse of our own: events kept in DATA_DIR/spill while it does not take them, before new ones are refused",
    },
    Setting { name: "retention", default: "30d", help: "How long deliveries are kept" },
    Setting { name: "audit_retention", default: "365d", help: "How long audit logs are kept" },
    Setting { name: "log_format", default: "text on a terminal, else json", help: "text or json" },
    Setting { name: "log_level", default: "info", help: "error, warn, info, debug or trace" },
];

/// What was said where, before it is understood. Flags win over the environment, which wins over the file.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    pub flags: BTreeMap<String, String>,
    pub environment: BTreeMap<String, String>,
    pub file: BTreeMap<String, String>,
}

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

impl Sources {
    /// Collects the environment's `PULSEHOOK_*` (and `PULSEHOOK_*_FILE`) and the file's keys.
    ///
    /// # Errors
    /// The file cannot be read, or names settings that do not exist.
    pub fn collect(flags: BTreeMap<String, String>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut sources = Self { flags, ..Self::default() };
        for setting in SETTINGS {
            let variable = format!("PULSEHOOK_{}", setting.name.to_uppercase());
            if let Ok(value) = std::env::var(&variable) {
                sources.environment.insert(setting.name.to_owned(), value);
            } else if let Ok(path) = std::env::var(format!("{variable}_FILE")) {
                let value = std::fs::read_to_string(&path).map_err(|error| {
                    ConfigError(format!("{variable}_FILE names {path}, which cannot be read: {error}"))
                })?;
                sources.environment.insert(setting.name.to_owned(), value.trim().to_owned());
            }
        }
        let default = Path::new("pulsehook.toml");
        if let Some(path) = file.or_else(|| default.exists().then_some(default)) {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError(format!("{} cannot be read: {error}", path.display())))?;
            sources.file = read_file(&text).map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        }
        Ok(sources)
    }

    fn get(&self, name: &str) -> Option<&str> {
        [&self.flags, &self.environment, &self.file]
            .into_iter()
            .find_map(|source| source.get(name))
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Result<T, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => {
                parse(text).ok_or_else(|| ConfigError(format!("{name} must be {expected}, but it is \"{text}\"")))
            }
        }
    }
}

pub fn read_file(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error| ConfigError(format!("{error}")))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if !SETTINGS.iter().any(|setting| setting.name == name) {
            return Err(ConfigError(format!("there is no setting called {name}")));
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Array(items) => {
                let items: Option<Vec<_>> = items.iter().map(|item| item.as_str()).collect();
                items.ok_or_else(|| ConfigError(format!("{name} must be a list of texts")))?.join(",")
            }
            _ => return Err(ConfigError(format!("{name} must be a text, a number, true or false"))),
        };
        values.insert(name, text);
    }
    Ok(values)
}

impl Config {
    /// # Errors
    /// One sentence about the first setting that is wrong or contradicts another.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let listen = sources.parsed(
            "listen",
            SocketAddr::from(([127, 0, 0, 1], 8080)),
            |text| text.parse().ok(),
            "an address and a port such as 127.0.0.1:8080",
        )?;
        let base_url = sources.parsed(
            "base_url",
            format!("http://{listen}"),
            |text| {
                let url = url::Url::parse(text).ok()?;
                matches!(url.scheme(), "http" | "https").then(|| text.trim_end_matches('/').to_owned())
            },
            "an http or https address",
        )?;
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
            max_webhooks_per_account: sources.parsed(
                "max_webhooks_per_account",
                10,
                |text| text.parse().ok(),
                "a whole number",
            )?,
            max_sites_per_account: sources.parsed(
                "max_sites_per_account",
                10_000,
                |text| text.parse().ok(),
                "a whole number",
            )?,
            api_rate: sources.parsed("api_rate", 500, |text| text.parse().ok(), "a whole number")?,
            sign_up: sources.parsed("sign_up", false, |text| text.parse().ok(), "true or false")?,
            evaluation_interval: sources.parsed(
                "evaluation_interval",
                match &analytics {
                    AnalyticsPlace::Embedded(_) => Duration::from_secs(1),
                    AnalyticsPlace::ClickHouse(_) => Duration::from_secs(5),
                },
                |text| parse_span(text).ok().filter(|span| *span >= Duration::from_millis(100)),
                "a span of at least 100ms, such as 1s",
            )?,
            analytics,
            egress_allow: sources.parsed("egress_allow", Vec::new(), networks, "networks such as 10.1.0.0/16")?,
            egress_deny: sources.parsed("egress_deny", Vec::new(), networks, "networks such as 203.0.113.0/24")?,
            egress_nat64_prefixes: sources.parsed(
                "egress_nat64_prefixes",
                Vec::new(),
                |text| parts(text).map(|part| part.parse().ok()).collect(),
                "IPv6 prefixes of length 32, 40, 48, 56, 64 or 96 such as 64:ff9b::/96",
            )?,
            egress_allow_http: sources.parsed("egress_allow_http", false, |text| text.parse().ok(), "true or false")?,
            egress_ca: sources.get("egress_ca").map(PathBuf::from),
            roles: sources.parsed(
                "role",
                Roles::ALL,
                |text| text.parse().ok(),
                "one or more of api, ingest and engine, separated by commas",
            )?,
            limits: limits(sources)?,
            host_in_flight: sources.parsed("host_in_flight", 64, at_least_one, "a whole number from 1")?,
            in_flight: sources.parsed(
                "in_flight",
                None,
                |text| at_least_one(text).filter(|number| *number >= 16).map(Some),
                "a whole number from 16",
            )?,
            max_connections: sources.parsed(
                "max_connections",
                None,
                |text| at_least_one(text).map(Some),
                "a whole number from 1",
            )?,
            max_connections_per_address: sources.parsed(
                "max_connections_per_address",
                1_000,
                at_least_one,
                "a whole number from 1",
            )?,
            trusted_proxies: sources.parsed(
                "trusted_proxies",
                private_networks(),
                networks,
                "networks such as 10.1.0.0/16",
            )?,
            spill_limit: sources.parsed(
                "spill_limit",
                1 << 30,
                |text| size(text).filter(|bytes| *bytes >= 64 << 10),
                "a size of at least 64KiB, such as 1GiB",
            )?,
            retention: sources.parsed(
                "retention",
                Duration::from_secs(30 * 86_400),
                |text| parse_span(text).ok().filter(|span| *span >= Duration::from_secs(3_600)),
                "a span of at least 1h, such as 30d",
            )?,
            audit_retention: sources.parsed(
                "audit_retention",
                Duration::from_secs(365 * 86_400),
                |text| parse_span(text).ok().filter(|span| *span >= Duration::from_secs(86_400)),
                "a span of at least 1d, such as 365d",
            )?,
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
    let rate = sources.parsed("endpoint_rate", 50, |text| text.parse().ok(), "a whole number")?;
    let in_flight = sources.parsed("endpoint_in_flight", 16, at_least_one, "a whole number from 1")?;
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

fn at_least_one(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number >= 1)
}

/// Bytes: a whole number of KiB, MiB, GiB or TiB.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let power = match text[unit..].trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    text[..unit].parse::<u64>().ok()?.checked_mul(1 << power)
}

/// What stands between commas.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    parts(text).map(|part| part.parse().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from))).collect()
}

fn private_networks() -> Vec<IpNet> {
    ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"]
        .iter()
        .map(|text| text.parse().expect("these are networks"))
        .collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_file_takes_lists_and_refuses_what_it_does_not_know() {
        let values = read_file("retention = \"7d\"\negress_allow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]").unwrap();
        assert_eq!(values["egress_allow"], "127.0.0.0/8,10.0.0.0/8");
        assert!(read_file("retension = \"7d\"").unwrap_err().to_string().contains("no setting called retension"));
    }
}
