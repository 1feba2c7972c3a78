//! Nodes: processes that share the work.

use std::fmt;
use std::str::FromStr;

/// What a process does. Requests are answered by whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub api: bool,
    pub ingest: bool,
    pub engine: bool,
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(self.api, "api"), (self.ingest, "ingest"), (self.engine, "engine")];
        let names: Vec<_> = named.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl Roles {
    pub const ALL: Self = Self { api: true, ingest: true, engine: true };
}

/// The text names no roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one or more of api, ingest and engine, separated by commas")]
pub struct UnknownRole;

impl FromStr for Roles {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let mut roles = Self { api: false, ingest: false, engine: false };
        for name in text.split(',').map(str::trim) {
            match name {
                "api" => roles.api = true,
                "ingest" => roles.ingest = true,
                "engine" => roles.engine = true,
                _ => return Err(UnknownRole),
            }
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_back_as_they_are_written() {
        assert_eq!(Roles::ALL.to_string(), "api,ingest,engine");
        for text in ["api", "ingest", "engine", "api,engine", "api,ingest,engine"] {
            assert_eq!(text.parse::<Roles>().map(|roles| roles.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("engine, api".parse::<Roles>(), "api,engine".parse());
        for text in ["", "api,", "sender"] {
            assert_eq!(text.parse::<Roles>(), Err(UnknownRole), "{text:?}");
        }
    }
}
