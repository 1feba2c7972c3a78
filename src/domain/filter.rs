//! Which hits a trigger wants to know of: by page, source, country and hostname.

use serde::{Deserialize, Serialize};

use super::goal::PathPattern;
use super::hit::Hit;

/// What Plausible calls a visit that came from nowhere.
pub const DIRECT: &str = "Direct / None";

/// What a hit must be like; what is absent does not matter. Its JSON stands among a trigger's settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Filters {
    /// A path in which `*` stands for any characters, as in goals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Exactly as it is shown; `Direct / None` for visits without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Two capital letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// In small letters, without `www.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// Filters made ready for looking at hits.
#[derive(Debug)]
pub struct Filter {
    pub page: Option<PathPattern>,
    /// Empty for visits without one.
    pub source: Option<String>,
    pub country: Option<String>,
    pub hostname: Option<String>,
}

impl Filter {
    /// `None` when every hit is wanted.
    pub fn new(filters: &Filters) -> Option<Self> {
        if *filters == Filters::default() {
            return None;
        }
        let source = filters.source.clone().map(|source| if source == DIRECT { String::new() } else { source });
        Some(Self {
            page: filters.page.as_deref().map(PathPattern::new),
            source,
            country: filters.country.clone(),
            hostname: filters.hostname.clone(),
        })
    }

    pub fn lets_through(&self, hit: &Hit) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.source, &hit.origin.source)
            && is(&self.country, &hit.country)
            && is(&self.hostname, &hit.page.hostname)
            && self.page.as_ref().is_none_or(|page| page.fits(&hit.page.pathname))
    }
}
