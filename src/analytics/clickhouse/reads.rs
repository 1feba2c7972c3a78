//! What is asked of ClickHouse. Each question is one statement for all sites it concerns.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;

use super::ClickHouse;
use super::errors::explain;
use crate::analytics::{Alike, Dimension, Freshness, Result, Totals};
use crate::domain::backtest::Heard;
use crate::domain::baseline::{WINDOW, WindowCount, window_start};
use crate::domain::filter::Filter;
use crate::domain::habit::{QUARTER, Quarters};
use crate::domain::hit::{ENGAGEMENT, Hit};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// Up to so many sites are named in a statement; beyond that all are asked for and the rest is passed over.
const NAMED_SITES: usize = 500;
/// Up to so many bytes of names are named too: a server takes 128 KiB in a parameter and refuses more.
const NAMED_BYTES: usize = 32 * 1_024;
/// On rows of engagement: how far the page was scrolled is not known.
const NO_SCROLL_DEPTH: u8 = 255;

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

/// Distinct visitors of a site now and before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Visitors {
    /// In the last five minutes.
    pub current: u32,
    /// In the five minutes before those.
    pub previous: u32,
    /// In the window that is open.
    pub open: u32,
}

/// What is there of a second: two that are equal were made of the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    rows: u64,
    /// Of a hash of each row, modulo 2⁶⁴.
    sum: u64,
}

#[derive(Row, Deserialize)]
struct DigestRow {
    at: u32,
    rows: u64,
    sum: u64,
}

#[derive(Row, Deserialize)]
struct VisitorsRow {
    site_id: u64,
    current: u64,
    previous: u64,
    open: u64,
}

/// A hit as it was read.
#[derive(Row, Deserialize)]
pub struct HitRow<'a> {
    at: u32,
    site_id: u64,
    name: &'a str,
    user_id: u64,
    session_id: u64,
    pathname: &'a str,
    source: &'a str,
    hostname: &'a str,
    country: &'a str,
    scroll_depth: u8,
    hash: u64,
    #[serde(borrow)]
    keys: Vec<&'a str>,
    #[serde(borrow)]
    values: Vec<&'a str>,
}

#[derive(Row, Deserialize)]
struct AlikeRow<'a> {
    site_id: u64,
    slot: u32,
    times: u64,
    first_at: u32,
    last_at: u32,
    name: &'a str,
    pathname: &'a str,
    scroll_depth: u8,
    #[serde(borrow)]
    keys: Vec<&'a str>,
    #[serde(borrow)]
    values: Vec<&'a str>,
}

#[derive(Row, Deserialize)]
struct WindowRow {
    site_id: u64,
    slot: u32,
    visitors: u64,
}

#[derive(Row, Deserialize)]
struct NamedRow {
    called: String,
    visitors: u64,
}

impl Asked<'_> {
    fn names_are_few(&self) -> bool {
        self.names.iter().map(|name| name.len() + 8).sum::<usize>() <= NAMED_BYTES
    }

    /// The condition that names names and sites, if they are few enough.
    fn condition(&self) -> String {
        let names = if self.names_are_few() { "AND events_v2.name IN {names:Array(String)}" } else { "" };
        format!("{names} {}", self.sites.condition())
    }

    fn bind(&self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        let query = with_sites(query, self.sites);
        if self.names_are_few() { query.param("names", self.names) } else { query }
    }
}

#[derive(Row, Deserialize)]
struct ScopedRow {
    scope: u32,
    current: u64,
    previous: u64,
    open: u64,
}

/// Two bytes, zero where the country is not known.
const COUNTRY: &str = "toValidUTF8(replaceAll(toString(country_code), '\\0', ''))";
/// Filters of one statement.
const SCOPES_AT_ONCE: usize = 50;

/// What a filter lets through, with parameters whose names end in `tag`.
fn condition(filter: &Filter, tag: &str) -> String {
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
fn with_filter(query: clickhouse::query::Query, filter: &Filter, tag: &str) -> clickhouse::query::Query {
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

impl Seconds<'_> {
    fn condition(self) -> &'static str {
        match self {
            Self::Since(_) => "timestamp >= {first:DateTime('UTC')}",
            Self::Only(_) => {
                "timestamp BETWEEN {first:DateTime('UTC')} AND {last:DateTime('UTC')}
                AND toUnixTimestamp(timestamp) IN {seconds:Array(UInt32)}"
            }
        }
    }

    fn bind(self, query: clickhouse::query::Query) -> clickhouse::query::Query {
        match self {
            Self::Since(first) => query.param("first", first),
            Self::Only(seconds) => {
                let (first, last) = (seconds.iter().min(), seconds.iter().max());
                query.param("first", first).param("last", last).param("seconds", seconds)
            }
        }
    }
}

impl Sites<'_> {
    /// The condition that names them, if they are few enough.
    fn condition(self) -> &'static str {
        if self.0.len() <= NAMED_SITES { "AND site_id IN {sites:Array(UInt64)}" } else { "" }
    }

    fn ids(self) -> Option<Vec<u64>> {
        (self.0.len() <= NAMED_SITES).then(|| self.0.iter().map(|site| site.0.cast_unsigned()).collect())
    }
}

/// Binds the sites where the statement names them.
fn with_sites(query: clickhouse::query::Query, sites: Sites<'_>) -> clickhouse::query::Query {
    match sites.ids() {
        Some(ids) => query.param("sites", ids),
        None => query,
    }
}

fn site(id: u64) -> SiteId {
    SiteId(id.cast_signed())
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The start of a window of so many seconds, by its number.
fn slot_start(slot: u32, width: u64) -> Timestamp {
    Timestamp::from_secs(i64::from(slot) * i64::try_from(width).unwrap_or(i64::MAX))
}

/// ClickHouse has whole seconds, cut off.
fn seconds(at: Timestamp) -> i64 {
    at.micros().div_euclid(1_000_000).max(0)
}

impl ClickHouse {
    /// Who is on each site now, by Plausible's definition: distinct visitors of the last five minutes, cut to the second,
    /// whatever they did but engagement. Sites without anybody are left out.
    ///
    /// # Errors
    /// There was no answer. Nothing is known then, least of all that nobody is there.
    pub async fn visitors(&self, sites: Sites<'_>, now: Timestamp) -> Result<HashMap<SiteId, Visitors>> {
        let sql = format!(
            "SELECT site_id, uniqExactIf(user_id, timestamp >= {{middle:DateTime('UTC')}}) AS current,
                uniqExactIf(user_id, timestamp < {{middle:DateTime('UTC')}}) AS previous,
                uniqExactIf(user_id, timestamp >= {{opened:DateTime('UTC')}}) AS open
            FROM events_v2
            WHERE timestamp >= {{from:DateTime('UTC')}} AND name != 'engagement' {}
            GROUP BY site_id",
            sites.condition()
        );
        let query = self
            .query(&sql, "visitors")
            .param("from", seconds(now - 2 * WINDOW))
            .param("middle", seconds(now - WINDOW))
            .param("opened", seconds(window_start(now)));
        let rows = with_sites(query, sites);
        let rows: Vec<VisitorsRow> = self.timed(async { rows.fetch_all().await.map_err(explain) }).await?;
        let visitors = |row: &VisitorsRow| Visitors {
            current: count(row.current),
            previous: count(row.previous),
            open: count(row.open),
        };
        Ok(rows.iter().map(|row| (site(row.site_id), visitors(row))).collect())
    }

    /// The same of the visits that filters let through, in the order they are asked for. One statement for many.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn visitors_like(&self, scopes: &[(SiteId, &Filter)], now: Timestamp) -> Result<Vec<Visitors>> {
        let mut all = Vec::with_capacity(scopes.len());
        for scopes in scopes.chunks(SCOPES_AT_ONCE) {
            let number = |(at, (site_id, filter)): (usize, &(SiteId, &Filter))| {
                format!(
                    "if(site_id = {} AND {}, {}, 0)",
                    site_id.0.cast_unsigned(),
                    condition(filter, &at.to_string()),
                    at + 1
                )
            };
            let numbers: Vec<_> = scopes.iter().enumerate().map(number).collect();
            let sql = format!(
                "SELECT toUInt32(arrayJoin(arrayFilter(scope -> scope > 0, [{}]))) AS scope,
                    uniqExactIf(user_id, timestamp >= {{middle:DateTime('UTC')}}) AS current,
                    uniqExactIf(user_id, timestamp < {{middle:DateTime('UTC')}}) AS previous,
                    uniqExactIf(user_id, timestamp >= {{opened:DateTime('UTC')}}) AS open
                FROM events_v2
                WHERE timestamp >= {{from:DateTime('UTC')}} AND name != 'engagement'
                    AND site_id IN {{sites:Array(UInt64)}}
                GROUP BY scope",
                numbers.join(", ")
            );
            let sites: BTreeSet<_> = scopes.iter().map(|(site_id, _)| site_id.0.cast_unsigned()).collect();
            let query = self
                .query(&sql, "scopes")
                .param("from", seconds(now - 2 * WINDOW))
                .param("middle", seconds(now - WINDOW))
                .param("opened", seconds(window_start(now)))
                .param("sites", sites.into_iter().collect::<Vec<_>>());
            let filters = scopes.iter().enumerate();
            let query = filters.fold(query, |query, (at, (_, filter))| with_filter(query, filter, &at.to_string()));
            let rows: Vec<ScopedRow> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
            let begin = all.len();
            all.resize(begin + scopes.len(), Visitors::default());
            for row in rows {
                let Some(seen) = usize::try_from(row.scope).ok().and_then(|scope| all.get_mut(begin + scope - 1))
                else {
                    continue;
                };
                *seen = Visitors { current: count(row.current), previous: count(row.previous), open: count(row.open) };
            }
        }
        Ok(all)
    }

    /// What is there of every one of these seconds that has hits which are asked for.
    ///
    /// # Errors
    /// There was no answer. Nothing is known then.
    pub async fn digests(&self, of: Asked<'_>, among: Range<i64>) -> Result<HashMap<i64, Digest>> {
        if among.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT toUnixTimestamp(timestamp) AS at, count() AS rows, sum({}) AS sum
            FROM events_v2
            WHERE timestamp >= {{since:DateTime('UTC')}} AND timestamp < {{before:DateTime('UTC')}} {}
            GROUP BY at",
            self.row_hash(of),
            of.condition()
        );
        let query = self.query(&sql, "digests").param("since", among.start).param("before", among.end);
        let query = of.bind(query);
        let rows: Vec<DigestRow> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.iter().map(|row| (i64::from(row.at), Digest { rows: row.rows, sum: row.sum })).collect())
    }

    /// Shows `each` every hit of these seconds that is asked for, in no order. Answers what was shown of each second: another
    /// server, or a moment later, may have another part.
    ///
    /// # Errors
    /// The answer did not come to its end. What was shown before is not to be acted on.
    pub async fn hits(
        &self,
        of: Asked<'_>,
        among: Seconds<'_>,
        mut each: impl FnMut(&HitRow<'_>),
    ) -> Result<HashMap<i64, Digest>> {
        let mut shown: HashMap<i64, Digest> = HashMap::new();
        if matches!(among, Seconds::Only([])) {
            return Ok(shown);
        }
        let scroll_depth = if self.shape.has_scroll_depth { "scroll_depth" } else { "toUInt8(255)" };
        let place = match of.with_place {
            true => format!("toValidUTF8(toString(events_v2.hostname)) AS hostname, {COUNTRY} AS country"),
            false => "'' AS hostname, '' AS country".to_owned(),
        };
        let sql = format!(
            "SELECT toUnixTimestamp(timestamp) AS at, site_id, toValidUTF8(events_v2.name) AS name, user_id, session_id,
                toValidUTF8(events_v2.pathname) AS pathname, toValidUTF8(referrer_source) AS source,
                {place}, {scroll_depth} AS scroll_depth, {} AS hash,
                arrayMap(text -> toValidUTF8(text), `meta.key`) AS keys,
                arrayMap(text -> toValidUTF8(text), `meta.value`) AS values
            FROM events_v2
            WHERE {} {}",
            self.row_hash(of),
            among.condition(),
            of.condition()
        );
        let query = of.bind(among.bind(self.query(&sql, "hits")));
        self.timed(async {
            let mut rows = query.fetch::<HitRow<'_>>().map_err(explain)?;
            while let Some(row) = rows.next().await.map_err(explain)? {
                let digest = shown.entry(i64::from(row.at)).or_default();
                digest.rows += 1;
                digest.sum = digest.sum.wrapping_add(row.hash);
                each(&row);
            }
            Ok(())
        })
        .await?;
        Ok(shown)
    }

    /// A hash of everything of a row that is asked for.
    fn row_hash(&self, of: Asked<'_>) -> String {
        let scroll_depth = if self.shape.has_scroll_depth { ", scroll_depth" } else { "" };
        let place = if of.with_place { ", events_v2.hostname, country_code" } else { "" };
        format!(
            "cityHash64(site_id, events_v2.name, user_id, session_id, events_v2.pathname, referrer_source,
                `meta.key`, `meta.value`{scroll_depth}{place})"
        )
    }

    /// Rows of every minute in `from..until`, all sites together.
    pub async fn rows_by_minute(&self, from: Timestamp, until: Timestamp) -> Result<HashMap<Timestamp, u64>> {
        const SQL: &str = "
            SELECT intDiv(toUnixTimestamp(timestamp), 60) AS minute, count() AS rows
            FROM events_v2
            WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
            GROUP BY minute";
        let query = self.query(SQL, "late").param("from", seconds(from)).param("until", seconds(until));
        let rows: Vec<(u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows
            .into_iter()
            .map(|(minute, rows)| (Timestamp::from_micros(i64::from(minute) * 60_000_000), rows))
            .collect())
    }

    /// The names with the most distinct visitors in `from..until`, ties in the order of the names.
    pub async fn top(
        &self,
        site_id: SiteId,
        filter: Option<&Filter>,
        from: Timestamp,
        until: Timestamp,
        dimension: Dimension,
        limit: usize,
    ) -> Result<Vec<(String, u64)>> {
        let column = match dimension {
            Dimension::Source => "toValidUTF8(referrer_source)",
            Dimension::Page => "toValidUTF8(events_v2.pathname)",
            Dimension::Country => COUNTRY,
        };
        let sql = format!(
            "SELECT {column} AS called, uniqExact(user_id) AS visitors
            FROM events_v2
            WHERE site_id = {{site:UInt64}} AND timestamp >= {{from:DateTime('UTC')}}
                AND timestamp <= {{until:DateTime('UTC')}} AND events_v2.name != 'engagement' {}
            GROUP BY called
            ORDER BY visitors DESC, called
            LIMIT {{limit:UInt64}}",
            filter.map_or_else(String::new, |filter| format!("AND {}", condition(filter, "")))
        );
        let query = self.query(&sql, "top");
        let query = filter.into_iter().fold(query, |query, filter| with_filter(query, filter, ""));
        let query = query
            .param("site", site_id.0.cast_unsigned())
            .param("from", seconds(from))
            .param("until", seconds(until))
            .param("limit", limit);
        let rows: Vec<NamedRow> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.into_iter().map(|row| (row.called, row.visitors)).collect())
    }

    /// Shows `each` the windows of each site from `from` (aligned) until `until`, beginning with its first visitor, windows
    /// without any included. One statement, and one site in memory at a time.
    pub async fn histories(
        &self,
        sites: Sites<'_>,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
        mut each: impl FnMut(SiteId, &[WindowCount]),
    ) -> Result<()> {
        let sql = format!(
            "SELECT site_id, toUInt32(intDiv(toUnixTimestamp(timestamp), {{width:UInt32}})) AS slot,
                uniqExact(user_id) AS visitors
            FROM events_v2
            WHERE timestamp >= {{from:DateTime('UTC')}} AND timestamp < {{until:DateTime('UTC')}}
                AND name != 'engagement' {}
            GROUP BY site_id, slot
            ORDER BY site_id, slot",
            sites.condition()
        );
        let width = u32::try_from(width.as_secs()).unwrap_or(u32::MAX).max(1);
        let query = self
            .query(&sql, "history")
            .param("from", seconds(from))
            .param("until", seconds(until))
            .param("width", width);
        let query = with_sites(query, sites);
        let end = u32::try_from(seconds(until)).unwrap_or(u32::MAX) / width;
        self.timed(async {
            let mut rows = query.fetch::<WindowRow>().map_err(explain)?;
            let mut of_site = None;
            let mut windows: Vec<WindowCount> = Vec::new();
            let window = |slot: u32, visitors| WindowCount {
                start: Timestamp::from_micros(i64::from(slot) * i64::from(width) * 1_000_000),
                visitors,
            };
            let mut next = 0;
            let mut show = |site: Option<u64>, windows: &mut Vec<WindowCount>, next: u32| {
                if let Some(id) = site {
                    windows.extend((next..end).map(|slot| window(slot, 0)));
                    each(SiteId(id.cast_signed()), windows);
                    windows.clear();
                }
            };
            while let Some(row) = rows.next().await.map_err(explain)? {
                if of_site != Some(row.site_id) {
                    show(of_site, &mut windows, next);
                    of_site = Some(row.site_id);
                    next = row.slot;
                }
                windows.extend((next..row.slot).map(|slot| window(slot, 0)));
                windows.push(window(row.slot, count(row.visitors)));
                next = row.slot + 1;
            }
            show(of_site, &mut windows, next);
            Ok(())
        })
        .await
    }

    /// Distinct visitors of each window of `width` from `from` (aligned) until `until`, windows without any included.
    pub async fn window_counts(
        &self,
        site_id: SiteId,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<WindowCount>> {
        let mut counted: HashMap<Timestamp, u32> = HashMap::new();
        let sites = [site_id];
        self.histories(Sites(&sites), from, until, width, |_, windows| {
            counted.extend(windows.iter().map(|window| (window.start, window.visitors)));
        })
        .await?;
        let width = i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1);
        let slots = from.micros().div_euclid(width)..until.micros().div_euclid(width);
        Ok(slots
            .map(|slot| {
                let start = Timestamp::from_micros(slot * width);
                WindowCount { start, visitors: counted.get(&start).copied().unwrap_or(0) }
            })
            .collect())
    }

    /// When each site that was heard of since `since` was last heard of, whatever its visitors did.
    pub async fn last_hits(&self, since: Timestamp) -> Result<HashMap<SiteId, Timestamp>> {
        const SQL: &str = "
            SELECT site_id, toUnixTimestamp(max(timestamp)) AS last_at
            FROM events_v2
            WHERE timestamp >= {since:DateTime('UTC')}
            GROUP BY site_id";
        let query = self.query(SQL, "heard").param("since", seconds(since));
        let rows: Vec<(u64, u32)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.into_iter().map(|(id, last_at)| (site(id), Timestamp::from_secs(last_at.into()))).collect())
    }

    /// Shows `each` of the sites with its distinct visitors of each quarter hour of the span, from its first visitor on. Sites
    /// nobody visited are left out.
    pub async fn quarters(
        &self,
        sites: &[SiteId],
        from: Timestamp,
        until: Timestamp,
        each: impl FnMut(SiteId, &[WindowCount]),
    ) -> Result<()> {
        self.histories(Sites(sites), from, until, QUARTER, each).await
    }

    /// Distinct visitors of each quarter hour, all sites together.
    pub async fn quarters_of_all(&self, from: Timestamp, until: Timestamp) -> Result<Quarters> {
        const SQL: &str = "
            SELECT toUInt32(intDiv(toUnixTimestamp(timestamp), {width:UInt32})) AS slot,
                uniqExact(site_id, user_id) AS visitors
            FROM events_v2
            WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')} AND name != 'engagement'
            GROUP BY slot";
        let width = QUARTER.as_secs();
        let query = self.query(SQL, "all").param("from", seconds(from)).param("until", seconds(until));
        let query = query.param("width", width);
        let rows: Vec<(u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.into_iter().map(|(slot, visitors)| (slot_start(slot, width), visitors)).collect())
    }

    /// Shows `each` what happened under these names on these sites, alike hits of a window together.
    ///
    /// # Errors
    /// The answer did not come to its end. What was shown before is not to be acted on.
    pub async fn alike(
        &self,
        asked: &[(SiteId, Vec<&str>)],
        filter: Option<&Filter>,
        span: Range<Timestamp>,
        width: Duration,
        mut each: impl FnMut(&Hit, Alike),
    ) -> Result<()> {
        let sites: Vec<_> = asked.iter().map(|(site_id, _)| *site_id).collect();
        let names: BTreeSet<_> = asked.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let are_few = names.iter().map(|name| name.len() + 8).sum::<usize>() <= NAMED_BYTES;
        let scroll_depth = if self.shape.has_scroll_depth { "scroll_depth" } else { "toUInt8(255)" };
        let sql = format!(
            "SELECT site_id, toUInt32(intDiv(toUnixTimestamp(timestamp), {{width:UInt32}})) AS slot, count() AS times,
                toUnixTimestamp(min(timestamp)) AS first_at, toUnixTimestamp(max(timestamp)) AS last_at,
                toValidUTF8(events_v2.name) AS name, toValidUTF8(events_v2.pathname) AS pathname,
                {scroll_depth} AS scroll_depth,
                arrayMap(text -> toValidUTF8(text), `meta.key`) AS keys,
                arrayMap(text -> toValidUTF8(text), `meta.value`) AS values
            FROM events_v2
            WHERE timestamp >= {{from:DateTime('UTC')}} AND timestamp < {{until:DateTime('UTC')}} {} {} {}
            GROUP BY site_id, slot, name, pathname, scroll_depth, keys, values",
            if are_few { "AND events_v2.name IN {names:Array(String)}" } else { "" },
            Sites(&sites).condition(),
            filter.map_or_else(String::new, |filter| format!("AND {}", condition(filter, "")))
        );
        let width = width.as_secs().max(1);
        let query = self.query(&sql, "alike").param("from", seconds(span.start)).param("until", seconds(span.end));
        let query = with_sites(query.param("width", width), Sites(&sites));
        let query = filter.into_iter().fold(query, |query, filter| with_filter(query, filter, ""));
        let query = if are_few { query.param("names", names.into_iter().collect::<Vec<_>>()) } else { query };
        self.timed(async {
            let mut rows = query.fetch::<AlikeRow<'_>>().map_err(explain)?;
            let mut hit = Hit::new(SiteId(0), Timestamp::EPOCH, 0, "");
            while let Some(row) = rows.next().await.map_err(explain)? {
                let last_at = Timestamp::from_secs(row.last_at.into());
                hit.site_id = site(row.site_id);
                hit.at = last_at;
                row.name.clone_into(&mut hit.name);
                row.pathname.clone_into(&mut hit.page.pathname);
                let scrolled = row.name == ENGAGEMENT && row.scroll_depth != NO_SCROLL_DEPTH;
                hit.scroll_depth = scrolled.then_some(row.scroll_depth);
                hit.props.clear();
                let pairs = row.keys.iter().zip(&row.values);
                hit.props.extend(pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
                let first_at = Timestamp::from_secs(row.first_at.into());
                each(&hit, Alike { start: slot_start(row.slot, width), count: row.times, first_at, last_at });
            }
            Ok(())
        })
        .await
    }

    /// When the site was heard of in each window in which it was.
    pub async fn heard(&self, site_id: SiteId, span: Range<Timestamp>, width: Duration) -> Result<Vec<Heard>> {
        const SQL: &str = "
            SELECT toUnixTimestamp(min(timestamp)) AS first_at, toUnixTimestamp(max(timestamp)) AS last_at,
                count() AS times
            FROM events_v2
            WHERE site_id = {site:UInt64} AND timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
            GROUP BY intDiv(toUnixTimestamp(timestamp), {width:UInt32})
            ORDER BY first_at";
        let query = self.of_span("heard_windows", SQL, site_id, span, width);
        let rows: Vec<(u32, u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        let at = |second: u32| Timestamp::from_secs(second.into());
        let heard = |(first, last, count)| Heard { first_at: at(first), last_at: at(last), count };
        Ok(rows.into_iter().map(heard).collect())
    }

    /// Pageviews of each window that had any.
    pub async fn pageviews(
        &self,
        site_id: SiteId,
        span: Range<Timestamp>,
        width: Duration,
    ) -> Result<Vec<(Timestamp, u64)>> {
        const SQL: &str = "
            SELECT toUInt32(intDiv(toUnixTimestamp(timestamp), {width:UInt32})) AS slot, count() AS times
            FROM events_v2
            WHERE site_id = {site:UInt64} AND timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}
                AND name = 'pageview'
            GROUP BY slot
            ORDER BY slot";
        let query = self.of_span("pageviews", SQL, site_id, span, width);
        let rows: Vec<(u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.into_iter().map(|(slot, count)| (slot_start(slot, width.as_secs().max(1)), count)).collect())
    }

    /// Visitors that are seen for the first time since the last of the moments in `anew`, of each window.
    pub async fn new_visitors(
        &self,
        site_id: SiteId,
        anew: &[Timestamp],
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<(Timestamp, u64)>> {
        const SQL: &str = "
            SELECT toUInt32(intDiv(first, {width:UInt32})) AS slot, count() AS visitors
            FROM (
                SELECT roundDown(toUnixTimestamp(timestamp), {anew:Array(UInt32)}) AS since, user_id,
                    min(toUnixTimestamp(timestamp)) AS first
                FROM events_v2
                WHERE site_id = {site:UInt64} AND timestamp >= {from:DateTime('UTC')}
                    AND timestamp < {until:DateTime('UTC')} AND name != 'engagement'
                GROUP BY since, user_id
            )
            GROUP BY slot
            ORDER BY slot";
        let Some(first) = anew.first().copied() else { return Ok(Vec::new()) };
        let query = self.of_span("new_visitors", SQL, site_id, first..until, width);
        let query = query.param("anew", anew.iter().map(|at| seconds(*at)).collect::<Vec<_>>());
        let rows: Vec<(u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        Ok(rows.into_iter().map(|(slot, count)| (slot_start(slot, width.as_secs().max(1)), count)).collect())
    }

    /// A question about windows of one site.
    fn of_span(
        &self,
        called: &'static str,
        sql: &str,
        site_id: SiteId,
        span: Range<Timestamp>,
        width: Duration,
    ) -> clickhouse::query::Query {
        let query = self.query(sql, called).param("site", site_id.0.cast_unsigned());
        let query = query.param("from", seconds(span.start)).param("until", seconds(span.end));
        query.param("width", width.as_secs().max(1))
    }

    pub async fn totals(&self, site_id: SiteId, from: Timestamp, until: Timestamp) -> Result<Totals> {
        const SQL: &str = "
            SELECT uniqExactIf(user_id, name != 'engagement') AS visitors, countIf(name = 'pageview') AS pageviews
            FROM events_v2
            WHERE site_id = {site:UInt64} AND timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}";
        let query = self.query(SQL, "totals").param("site", site_id.0.cast_unsigned());
        let query = query.param("from", seconds(from)).param("until", seconds(until));
        let (visitors, pageviews): (u64, u64) = self.timed(async { query.fetch_one().await.map_err(explain) }).await?;
        Ok(Totals { visitors, pageviews })
    }

    /// The same of the visits a filter lets through.
    pub async fn window_counts_of(
        &self,
        site_id: SiteId,
        filter: &Filter,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<WindowCount>> {
        let sql = format!(
            "SELECT toUInt32(intDiv(toUnixTimestamp(timestamp), {{width:UInt32}})) AS slot, uniqExact(user_id) AS visitors
            FROM events_v2
            WHERE site_id = {{site:UInt64}} AND timestamp >= {{from:DateTime('UTC')}}
                AND timestamp < {{until:DateTime('UTC')}} AND name != 'engagement' AND {}
            GROUP BY slot",
            condition(filter, "")
        );
        let width = i64::try_from(width.as_secs()).unwrap_or(i64::MAX).max(1);
        let query = self.query(&sql, "history").param("site", site_id.0.cast_unsigned()).param("width", width);
        let query = query.param("from", seconds(from)).param("until", seconds(until));
        let query = with_filter(query, filter, "");
        let rows: Vec<(u32, u64)> = self.timed(async { query.fetch_all().await.map_err(explain) }).await?;
        let counted: HashMap<i64, u32> =
            rows.into_iter().map(|(slot, visitors)| (slot.into(), count(visitors))).collect();
        let slots = from.secs().div_euclid(width)..until.secs().div_euclid(width);
        Ok(slots
            .map(|slot| WindowCount {
                start: Timestamp::from_secs(slot * width),
                visitors: counted.get(&slot).copied().unwrap_or(0),
            })
            .collect())
    }

    /// The server's clock.
    pub async fn clock(&self) -> Result<Timestamp> {
        const SQL: &str = "SELECT toUnixTimestamp64Micro(now64(6))";
        let query = self.query(SQL, "clock");
        let micros: i64 = self.timed(async { query.fetch_one().await.map_err(explain) }).await?;
        Ok(Timestamp::from_micros(micros))
    }

    /// How recent the traffic of all sites is.
    pub async fn freshness(&self, now: Timestamp) -> Result<Freshness> {
        const SQL: &str = "
            SELECT toUnixTimestamp(max(timestamp)) AS newest, count() AS rows,
                countIf(timestamp >= {hour:DateTime('UTC')}) AS last_hour
            FROM events_v2
            WHERE timestamp >= {day:DateTime('UTC')}";
        let query = self
            .query(SQL, "freshness")
            .param("hour", seconds(now - Duration::from_secs(3_600)))
            .param("day", seconds(now - Duration::from_secs(86_400)));
        let (newest, rows, last_hour): (u32, u64, u64) =
            self.timed(async { query.fetch_one().await.map_err(explain) }).await?;
        let newest_at = (rows > 0).then(|| Timestamp::from_micros(i64::from(newest) * 1_000_000));
        Ok(Freshness { newest_at, hits_last_hour: last_hour })
    }

    pub async fn first_hit_at(&self, site_id: SiteId) -> Result<Option<Timestamp>> {
        const SQL: &str = "
            SELECT toUnixTimestamp(min(timestamp)) AS at, count() AS rows
            FROM events_v2
            WHERE site_id = {site:UInt64}";
        let query = self.query(SQL, "first").param("site", site_id.0.cast_unsigned());
        let (at, rows): (u32, u64) = self.timed(async { query.fetch_one().await.map_err(explain) }).await?;
        Ok((rows > 0).then(|| Timestamp::from_micros(i64::from(at) * 1_000_000)))
    }
}

impl HitRow<'_> {
    pub fn site_id(&self) -> SiteId {
        site(self.site_id)
    }

    /// Bytes of its texts.
    pub fn text_bytes(&self) -> usize {
        let texts = [self.name, self.pathname, self.source, self.hostname, self.country];
        texts.iter().chain(&self.keys).chain(&self.values).map(|text| text.len()).sum()
    }

    /// Fills a hit with what is in the row, and keeps its memory.
    pub fn write_to(&self, hit: &mut Hit) {
        let refill = |text: &mut String, with: &str| {
            text.clear();
            text.push_str(with);
        };
        hit.site_id = site(self.site_id);
        hit.at = Timestamp::from_micros(i64::from(self.at) * 1_000_000);
        refill(&mut hit.name, self.name);
        hit.visitor = self.user_id;
        hit.session = self.session_id;
        refill(&mut hit.page.pathname, self.pathname);
        refill(&mut hit.origin.source, self.source);
        refill(&mut hit.page.hostname, self.hostname);
        refill(&mut hit.country, self.country);
        let scrolled = self.name == ENGAGEMENT && self.scroll_depth != NO_SCROLL_DEPTH;
        hit.scroll_depth = scrolled.then_some(self.scroll_depth);
        hit.props.clear();
        let pairs = self.keys.iter().zip(&self.values);
        hit.props.extend(pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    }
}
