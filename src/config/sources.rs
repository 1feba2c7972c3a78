//! What was said where, and how its texts are read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::{ConfigError, SETTINGS};
use crate::domain::time::parse_span;

/// What was said where, before it is understood. Flags win over the environment, which wins over the file.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    pub flags: BTreeMap<String, String>,
    pub environment: BTreeMap<String, String>,
    pub file: BTreeMap<String, String>,
}

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

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        [&self.flags, &self.environment, &self.file]
            .into_iter()
            .find_map(|source| source.get(name))
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// What was said of a setting, understood; `expected` says what it must be.
    ///
    /// # Errors
    /// It is not that.
    pub(super) fn parsed<T>(
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

    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        self.parsed(name, default, |text| text.parse().ok(), "true or false")
    }

    pub(super) fn whole(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        self.parsed(name, default, |text| text.parse().ok(), "a whole number")
    }

    pub(super) fn at_least<T: From<u32>>(&self, name: &'static str, default: T, least: u32) -> Result<T, ConfigError> {
        let parse = |text: &str| text.parse().ok().filter(|number| *number >= least).map(T::from);
        self.parsed(name, default, parse, &format!("a whole number from {least}"))
    }

    /// A span that is no shorter than `least`; `such_as` is one that would do.
    pub(super) fn span(
        &self,
        name: &'static str,
        default: Duration,
        least: &str,
        such_as: &str,
    ) -> Result<Duration, ConfigError> {
        let shortest = parse_span(least).expect("it is a span");
        let parse = |text: &str| parse_span(text).ok().filter(|span| *span >= shortest);
        self.parsed(name, default, parse, &format!("a span of at least {least}, such as {such_as}"))
    }

    pub(super) fn networks(
        &self,
        name: &'static str,
        default: Vec<IpNet>,
        such_as: &str,
    ) -> Result<Vec<IpNet>, ConfigError> {
        self.parsed(name, default, networks, &format!("networks such as {such_as}"))
    }
}

fn read_file(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
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

/// Bytes: a whole number of KiB, MiB, GiB or TiB.
pub(super) fn size(text: &str) -> Option<u64> {
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
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    parts(text).map(|part| part.parse().ok().or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_takes_lists_and_refuses_what_it_does_not_know() {
        let values = read_file("retention = \"7d\"\negress_allow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]").unwrap();
        assert_eq!(values["egress_allow"], "127.0.0.0/8,10.0.0.0/8");
        assert!(read_file("retension = \"7d\"").unwrap_err().to_string().contains("no setting called retension"));
    }
}
