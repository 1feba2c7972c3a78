//! What questions are made of: which sites, names and seconds they are about, what a filter lets through, and how ClickHouse
//! writes numbers and times.

use clickhouse::query::Query;

use crate::domain::filter::Filter;
use crate::domain::hit::{ENGAGEMENT, Hit};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// Up to so many sites are named in a statement; beyond that all are asked for and the rest is passed over.
const NAMED_SITES: usize = 500;

/// Up to so many bytes of names are named too: a server takes 128 KiB in a parameter and refuses more.
const NAMED_BYTES: usize = 32 * 1_024;

/// On rows of engagement: how far the page was scrolled is not known.
const NO_SCROLL_DEPTH: u8 = 255;

/// Two bytes, zero where the country is not known.
pub const COUNTRY: &str = "toValidUTF8(replaceAll(toString(country_code), '\\0', ''))";

/// Which sites a question is about.
#[derive(Debug, Clone, Copy)]
pub struct Sites<'a>(pub &'a [SiteId]);

/// Which hits are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub sites: Sites<'a>,
    /// Their names; when those are too many to be said, hits of other names come too.
    pub names: &'a [String],
    /// Whether their hostname and country matter; they are empty otherwise.
    pub with_place: bool,
}

/// Of which seconds hits are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Seconds<'a> {
    /// Of this one and all after it.
    Since(i64),
    Only(&'a [i64]),
}

impl Sites<'_> {
    /// The condition that names them, if they are few enough.
    pub fn condition(self) -> &'static str {
        if self.0.len() <= NAMED_SITES { "AND site_id IN {sites:Array(UInt64)}" } else { "" }
    }

    fn ids(self) -> Option<Vec<u64>> {
        (self.0.len() <= NAMED_SITES).then(|| self.0.iter().map(|site| site.0.cast_unsigned()).collect())
    }
}

impl Asked<'_> {
    fn names_are_few(&self) -> bool {
        are_few(self.names.iter().map(String::as_str))
    }

    /// The condition that names names and sites, if they are few enough.
    pub fn condition(&self) -> String {
        let names = if self.names_are_few() { "AND events_v2.name IN {names:Array(String)}" } else { "" };
        format!("{names} {}", self.sites.condition())
    }

    pub fn bind(&self, query: Query) -> Query {
        let query = with_sites(query, self.sites);
        if self.names_are_few() { query.param("names", self.names) } else { query }
    }
}

impl Seconds<'_> {
    pub fn condition(self) -> &'static str {
        match self {
            Self::Since(_) => "timestamp >= {first:DateTime('UTC')}",
            Self::Only(_) => {
                "timestamp BETWEEN {first:DateTime('UTC')} AND {last:DateTime('UTC')}
                AND toUnixTimestamp(timestamp) IN {seconds:Array(UInt32)}"
            }
        }
    }

    pub fn bind(self, query: Query) -> Query {
        match self {
            Self::Since(first) => query.param("first", first),
            Self::Only(seconds) => {
                let (first, last) = (seconds.iter().min(), seconds.iter().max());
                query.param("first", first).param("last", last).param("seconds", seconds)
            }
        }
    }
}

/// Whether so many names can be said in a statement.
pub fn are_few<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    names.map(|name| name.len() + 8).sum::<usize>() <= NAMED_BYTES
}

/// Binds the sites where the statement names them.
pub fn with_sites(query: Query, sites: Sites<'_>) -> Query {
    match sites.ids() {
        Some(ids) => query.param("sites", ids),
        None => query,
    }
}

/// What a filter lets through, with parameters whose names end in `tag`.
pub fn condition(filter: &Filter, tag: &str) -> String {
    let mut conditions = Vec::new();
    if let Some(page) = &filter.page {
        conditions.push(match page.expression() {
            Some(_) => format!("match(events_v2.pathname, {{page{tag}:String}})"),
            None => format!("events_v2.pathname = {{page{tag}:String}}"),
        });
    }
    if filter.source.is_some() {
        conditions.push(format!("referrer_source = {{source{tag}:String}}"));
    }
    if filter.country.is_some() {
        conditions.push(format!("{COUNTRY} = {{country{tag}:String}}"));
    }
    if filter.hostname.is_some() {
        conditions.push(format!("events_v2.hostname = {{hostname{tag}:String}}"));
    }
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// Binds those parameters.
pub fn with_filter(query: Query, filter: &Filter, tag: &str) -> Query {
    let page = filter.page.as_ref().map(|page| page.expression().or_else(|| page.exact().map(str::to_owned)));
    let values = [
        ("page", page.flatten()),
        ("source", filter.source.clone()),
        ("country", filter.country.clone()),
        ("hostname", filter.hostname.clone()),
    ];
    let given = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.fold(query, |query, (name, value)| query.param(&format!("{name}{tag}"), value))
}

pub fn site(id: u64) -> SiteId {
    SiteId(id.cast_signed())
}

pub fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The start of a window of so many seconds, by its number.
pub fn slot_start(slot: u32, width: u64) -> Timestamp {
    Timestamp::from_secs(i64::from(slot) * i64::try_from(width).unwrap_or(i64::MAX))
}

/// ClickHouse has whole seconds, cut off.
pub fn seconds(at: Timestamp) -> i64 {
    at.micros().div_euclid(1_000_000).max(0)
}

/// Has a hit say how far its page was scrolled, and its properties, as a row says it.
pub fn describe(hit: &mut Hit, scroll_depth: u8, keys: &[&str], values: &[&str]) {
    let is_known = hit.name == ENGAGEMENT && scroll_depth != NO_SCROLL_DEPTH;
    hit.scroll_depth = is_known.then_some(scroll_depth);
    hit.props.clear();
    hit.props.extend(keys.iter().zip(values).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
}
