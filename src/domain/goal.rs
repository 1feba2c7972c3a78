//! Goals, and which hits complete them: Plausible's rules (its `goal.ex`, `goals.ex` and filter code), so that a goal
//! means here what it means there.
//!
//! * An event goal wants exactly its name. A page goal wants a pageview whose path matches. A scroll goal wants an
//!   engagement on a matching path that saw at least so much of the page.
//! * In a path both `*` and `**` stand for any characters, slashes and none included; the rest is literal, and the whole
//!   path must match. Without a `*` it is plain equality, so a `|` is literal too.
//! * Where a path has a `*`, Plausible lets `|` through as an alternation without grouping it, so `/a|b*` means "begins
//!   with /a, or ends with b and anything". That is kept: the same goal counts the same.
//! * Every custom property must have exactly the wanted value.

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::hit::{ENGAGEMENT, Hit, PAGEVIEW};
use super::ids::{GoalId, SiteId};
use super::invalid::Invalid;
use super::time::Timestamp;

pub(super) const MAX_EVENT_NAME_CHARS: usize = 120;
pub(super) const MAX_PATH_CHARS: usize = 2_000;
const MAX_DISPLAY_NAME_CHARS: usize = 255;
const MAX_PROPS: usize = 3;
pub(super) const MAX_PROP_KEY_CHARS: usize = 300;
const MAX_PROP_VALUE_CHARS: usize = 2_000;
/// Goals one site may have.
pub const MAX_GOALS_PER_SITE: usize = 1_000;

/// Something a visitor may do that is worth counting.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    pub id: GoalId,
    pub site_id: SiteId,
    pub display_name: String,
    pub kind: GoalKind,
    pub custom_props: Vec<(String, String)>,
    pub currency: Option<String>,
    pub inserted_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub enum GoalKind {
    Event {
        name: String,
    },
    Page {
        path: String,
    },
    /// `threshold` percent of the page seen, 0–100.
    Scroll {
        path: String,
        threshold: u8,
    },
}

impl GoalKind {
    pub fn goal_type(&self) -> &'static str {
        match self {
            Self::Event { .. } => "event",
            Self::Page { .. } => "page",
            Self::Scroll { .. } => "scroll",
        }
    }

    /// Its name, or its path.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Event { name } => name.trim(),
            Self::Page { path } | Self::Scroll { path, .. } => path.trim(),
        }
    }

    /// The name of the hits that complete it.
    pub fn hit_name(&self) -> &str {
        match self {
            Self::Event { name } => name.trim(),
            Self::Page { .. } => PAGEVIEW,
            Self::Scroll { .. } => ENGAGEMENT,
        }
    }
}

impl Goal {
    pub(super) fn props_hold(&self, hit: &Hit) -> bool {
        self.custom_props.iter().all(|(key, wanted)| hit.prop(key) == Some(wanted))
    }
}

/// A goal as a client describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGoal {
    pub display_name: String,
    pub kind: GoalKind,
    pub custom_props: Vec<(String, String)>,
    pub currency: Option<String>,
}

impl NewGoal {
    /// # Errors
    /// Names every field that is missing, unknown or out of range.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, Invalid> {
        const FIELDS: [&str; 6] =
            ["event_name", "page_path", "scroll_threshold", "display_name", "custom_props", "currency"];
        const READ_ONLY: [&str; 5] = ["id", "site_id", "goal_type", "inserted_at", "updated_at"];
        let mut invalid = Invalid::new();
        for field in body.keys() {
            if !FIELDS.contains(&field.as_str()) && !READ_ONLY.contains(&field.as_str()) {
                invalid.add(field, "is not a field of a goal");
            }
        }
        let text = |field: &'static str, invalid: &mut Invalid| -> Option<String> {
            match body.get(field) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.trim().to_owned()),
                Some(_) => {
                    invalid.add(field, "must be a text");
                    None
                }
            }
        };
        let event_name = text("event_name", &mut invalid);
        let page_path = text("page_path", &mut invalid);
        let display_name = text("display_name", &mut invalid);
        let currency = text("currency", &mut invalid);
        let threshold = scroll_threshold(body, &mut invalid);
        let custom_props = wanted_props(body.get("custom_props"), "custom_props", &mut invalid);
        let kind = kind(event_name, page_path, threshold, &mut invalid);
        if let Some(name) = &display_name
            && !(1..=MAX_DISPLAY_NAME_CHARS).contains(&name.chars().count())
        {
            invalid.add("display_name", "must be 1 to 255 characters");
        }
        let currency = currency.map(|code| code.to_ascii_uppercase());
        if let Some(code) = &currency {
            if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
                invalid.add("currency", "must be a currency code such as EUR");
            } else if !matches!(kind, Some(GoalKind::Event { .. })) {
                invalid.add("currency", "goes with event_name only");
            }
        }
        match (kind, invalid.is_empty()) {
            (Some(kind), true) => Ok(Self {
                display_name: display_name.unwrap_or_else(|| kind.to_string()),
                kind,
                custom_props,
                currency,
            }),
            _ => Err(invalid),
        }
    }
}

/// The name a goal has when nobody gave it one.
impl std::fmt::Display for GoalKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event { name } => f.write_str(name),
            Self::Page { path } => write!(f, "Visit {path}"),
            Self::Scroll { path, threshold } => write!(f, "Scroll {threshold}% on {path}"),
        }
    }
}

fn kind(
    event_name: Option<String>,
    page_path: Option<String>,
    threshold: Option<u8>,
    invalid: &mut Invalid,
) -> Option<GoalKind> {
    match (event_name, page_path) {
        (None, None) => {
            invalid.add("event_name", "is required, or page_path");
            None
        }
        (Some(_), Some(_)) => {
            invalid.add("event_name", "cannot go together with page_path");
            None
        }
        (Some(name), None) => {
            if name.is_empty() {
                invalid.add("event_name", "can't be blank");
            } else if name.chars().count() > MAX_EVENT_NAME_CHARS {
                invalid.add("event_name", "must be at most 120 characters");
            } else if name == ENGAGEMENT {
                invalid.add("event_name", "cannot be engagement, which is reserved");
            }
            if threshold.is_some() {
                invalid.add("scroll_threshold", "goes with page_path only");
            }
            Some(GoalKind::Event { name })
        }
        (None, Some(path)) => {
            if path.is_empty() {
                invalid.add("page_path", "can't be blank");
            }
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            if path.chars().count() > MAX_PATH_CHARS {
                invalid.add("page_path", "must be at most 2000 characters");
            }
            Some(match threshold {
                Some(threshold) => GoalKind::Scroll { path, threshold },
                None => GoalKind::Page { path },
            })
        }
    }
}

fn scroll_threshold(body: &Map<String, Value>, invalid: &mut Invalid) -> Option<u8> {
    match body.get("scroll_threshold") {
        None | Some(Value::Null) => None,
        // Plausible's way of saying none.
        Some(value) if value.as_i64() == Some(-1) => None,
        Some(value) => {
            let threshold =
                value.as_u64().filter(|percent| *percent <= 100).and_then(|percent| percent.try_into().ok());
            if threshold.is_none() {
                invalid.add("scroll_threshold", "must be a whole number from 0 to 100");
            }
            threshold
        }
    }
}

/// Properties an event must have with exactly these values, from the field `field`.
pub(super) fn wanted_props(value: Option<&Value>, field: &'static str, invalid: &mut Invalid) -> Vec<(String, String)> {
    let props = match value {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Object(props)) => props,
        Some(_) => {
            invalid.add(field, "must be an object of texts");
            return Vec::new();
        }
    };
    if props.len() > MAX_PROPS {
        invalid.add(field, "must have at most 3 properties");
    }
    let mut pairs = Vec::new();
    for (key, value) in props {
        match value {
            Value::String(value)
                if (1..=MAX_PROP_KEY_CHARS).contains(&key.chars().count())
                    && (1..=MAX_PROP_VALUE_CHARS).contains(&value.chars().count()) =>
            {
                pairs.push((key.clone(), value.clone()));
            }
            _ => invalid.add(field, "must have names of 1 to 300 and texts of 1 to 2000 characters"),
        }
    }
    pairs
}

/// A path with or without a `*`, alone.
#[derive(Debug)]
pub struct PathPattern {
    exact: String,
    /// Where there is a `*`.
    like: Option<Regex>,
}

impl PathPattern {
    pub fn new(path: &str) -> Self {
        let like = path.contains('*').then(|| {
            let built =
                RegexBuilder::new(&pattern(path)).dot_matches_new_line(true).size_limit(256 * 1_024 * 1_024).build();
            built.ok()
        });
        Self { exact: path.to_owned(), like: like.flatten() }
    }

    /// The path, when it is one alone.
    pub fn exact(&self) -> Option<&str> {
        self.like.is_none().then_some(self.exact.as_str())
    }

    /// Otherwise the expression that paths match, in which `.` stands for line ends too.
    pub fn expression(&self) -> Option<String> {
        self.like.as_ref().map(|like| format!("(?s){}", like.as_str()))
    }

    pub fn fits(&self, path: &str) -> bool {
        self.like.as_ref().map_or(self.exact == path, |like| like.is_match(path))
    }
}

/// The path as an anchored expression.
pub(super) fn pattern(path: &str) -> String {
    let escaped = regex::escape(path).replace(r"\*\*", ".*").replace(r"\*", ".*").replace(r"\|", "|");
    format!("^{escaped}$")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_goal_is_described_well_or_refused() {
        let parse = |body: Value| NewGoal::parse(body.as_object().unwrap());
        let goal = parse(json!({"page_path": "blog/*", "scroll_threshold": 75})).unwrap();
        assert_eq!(goal.kind, GoalKind::Scroll { path: "/blog/*".into(), threshold: 75 });
        assert_eq!(goal.display_name, "Scroll 75% on /blog/*");
        assert_eq!(parse(json!({"event_name": " Signup "})).unwrap().display_name, "Signup");
        assert_eq!(parse(json!({"page_path": "/x"})).unwrap().display_name, "Visit /x");
        for (body, field) in [
            (json!({}), "event_name"),
            (json!({"event_name": "a", "page_path": "/"}), "event_name"),
            (json!({"event_name": ""}), "event_name"),
            (json!({"event_name": "engagement"}), "event_name"),
            (json!({"event_name": "x".repeat(121)}), "event_name"),
            (json!({"event_name": 5}), "event_name"),
            (json!({"event_name": "a", "scroll_threshold": 5}), "scroll_threshold"),
            (json!({"page_path": "/", "scroll_threshold": 101}), "scroll_threshold"),
            (json!({"page_path": "/", "currency": "EUR"}), "currency"),
            (json!({"event_name": "a", "currency": "euro"}), "currency"),
            (json!({"event_name": "a", "custom_props": {"a": 1}}), "custom_props"),
            (json!({"event_name": "a", "custom_props": {"a": "1", "b": "1", "c": "1", "d": "1"}}), "custom_props"),
            (json!({"event_name": "a", "display_name": ""}), "display_name"),
            (json!({"event_name": "a", "name": "b"}), "name"),
        ] {
            let invalid = parse(body.clone()).expect_err(&body.to_string());
            assert!(invalid.fields().contains_key(field), "{body}: {invalid}");
        }
    }
}
