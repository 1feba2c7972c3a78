//! What a visitor did: one tracked event, before and after it is attributed to a visitor.

use serde::{Deserialize, Serialize};

use super::ids::SiteId;
use super::time::Timestamp;

/// Name of the hit a page load makes.
pub const PAGEVIEW: &str = "pageview";
/// Name of the hit that reports scroll depth and time on page. It never counts as a visit.
pub const ENGAGEMENT: &str = "engagement";

/// One request of a tracker, understood but not yet attributed to a site and a visitor.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackedEvent {
    /// The sites it is meant for, as the tracker spelled them, lower case, without `www.`; at least one.
    pub domains: Vec<String>,
    pub name: String,
    pub page: Page,
    pub origin: Origin,
    /// Custom properties in the order they were sent.
    pub props: Vec<(String, String)>,
    /// Whether it ends a bounce.
    pub interactive: bool,
    /// Percent of the page seen, 0–100; `None` when not reported. Only engagement carries it.
    pub scroll_depth: Option<u8>,
    /// Milliseconds of attention. Only engagement carries it.
    pub engagement_ms: u32,
    pub revenue: Option<Revenue>,
}

/// Where it happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// Host of the page without a leading `www.`; `(none)` when the URL has none.
    pub hostname: String,
    /// Percent-decoded path without query, never empty; with the fragment when the site routes by it.
    pub pathname: String,
}

/// Where the visitor came from. Empty text means not known; an empty source is "Direct / None".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    pub referrer: String,
    pub source: String,
    pub utm_medium: String,
    pub utm_source: String,
    pub utm_campaign: String,
    pub utm_content: String,
    pub utm_term: String,
}

/// Money that came with a custom event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revenue {
    /// Decimal number as text, at most three digits after the point.
    pub amount: String,
    /// ISO 4217 code, upper case.
    pub currency: String,
}

/// What a browser was, as far as we care to know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    /// `Mobile`, `Tablet`, `Desktop` or empty.
    pub screen_size: String,
    pub browser: String,
    pub operating_system: String,
}

/// A tracked event as it is stored: attributed, and without anything personal.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub site_id: SiteId,
    /// When we received it. Trackers cannot set it.
    pub at: Timestamp,
    pub name: String,
    /// Keyed hash that changes every day: see `analytics/visitor.rs`.
    pub visitor: u64,
    pub session: u64,
    pub page: Page,
    pub origin: Origin,
    /// Two letters, empty when not known.
    pub country: String,
    pub device: Device,
    pub props: Vec<(String, String)>,
    pub interactive: bool,
    pub scroll_depth: Option<u8>,
    pub engagement_ms: u32,
    pub revenue: Option<Revenue>,
}

impl Hit {
    /// What `visitor` did, of which nothing else is known, in a session of its own.
    pub fn new(site_id: SiteId, at: Timestamp, visitor: u64, name: &str) -> Self {
        Self {
            site_id,
            at,
            name: name.to_owned(),
            visitor,
            session: visitor,
            page: Page::default(),
            origin: Origin::default(),
            country: String::new(),
            device: Device::default(),
            props: Vec::new(),
            interactive: true,
            scroll_depth: None,
            engagement_ms: 0,
            revenue: None,
        }
    }

    /// The first value of a property.
    pub fn prop(&self, key: &str) -> Option<&str> {
        self.props.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether it makes its visitor a current visitor: everything but engagement does.
    pub fn counts_as_visit(&self) -> bool {
        self.name != ENGAGEMENT
    }
}
