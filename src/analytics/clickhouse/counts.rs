//! What is counted in spans of the past: visitors, completions and silences.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;

use super::ClickHouse;
use super::errors::explain;
use super::questions::{
    COUNTRY, Sites, are_few, condition, count, describe, seconds, site, slot_start, with_filter, with_sites,
};
use crate::analytics::{Alike, Dimension, Result, Totals, micros, windows};
use crate::domain::backtest::Heard;
use crate::domain::baseline::WindowCount;
use crate::domain::filter::Filter;
use crate::domain::habit::{QUARTER, Quarters};
use crate::domain::hit::Hit;
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

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

impl ClickHouse {
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
        let rows: Vec<NamedRow> = self.all(query).await?;
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
        let width_micros = micros(width);
        let mut counted: HashMap<i64, u32> = HashMap::new();
        let sites = [site_id];
        self.histories(Sites(&sites), from, until, width, |_, windows| {
            counted.extend(windows.iter().map(|window| (window.start.micros() / width_micros, window.visitors)));
        })
        .await?;
        Ok(windows(from, until, width_micros, |slot| counted.get(&slot).copied().unwrap_or(0).into()))
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
        let query = with_filter(self.of_span("history", &sql, site_id, from..until, width), filter, "");
        let rows: Vec<(u32, u64)> = self.all(query).await?;
        let counted: HashMap<i64, u64> = rows.into_iter().map(|(slot, visitors)| (slot.into(), visitors)).collect();
        Ok(windows(from, until, micros(width), |slot| counted.get(&slot).copied().unwrap_or(0)))
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
        let rows: Vec<(u32, u64)> = self.all(query).await?;
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
        let are_few = are_few(names.iter().copied());
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
                describe(&mut hit, row.scroll_depth, &row.keys, &row.values);
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
        let rows: Vec<(u32, u32, u64)> = self.all(query).await?;
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
        let rows: Vec<(u32, u64)> = self.all(query).await?;
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
        let rows: Vec<(u32, u64)> = self.all(query).await?;
        Ok(rows.into_iter().map(|(slot, count)| (slot_start(slot, width.as_secs().max(1)), count)).collect())
    }

    pub async fn totals(&self, site_id: SiteId, from: Timestamp, until: Timestamp) -> Result<Totals> {
        const SQL: &str = "
            SELECT uniqExactIf(user_id, name != 'engagement') AS visitors, countIf(name = 'pageview') AS pageviews
            FROM events_v2
            WHERE site_id = {site:UInt64} AND timestamp >= {from:DateTime('UTC')} AND timestamp < {until:DateTime('UTC')}";
        let query = self.query(SQL, "totals").param("site", site_id.0.cast_unsigned());
        let query = query.param("from", seconds(from)).param("until", seconds(until));
        let (visitors, pageviews): (u64, u64) = self.only(query).await?;
        Ok(Totals { visitors, pageviews })
    }

    pub async fn first_hit_at(&self, site_id: SiteId) -> Result<Option<Timestamp>> {
        const SQL: &str = "
            SELECT toUnixTimestamp(min(timestamp)) AS at, count() AS rows
            FROM events_v2
            WHERE site_id = {site:UInt64}";
        let query = self.query(SQL, "first").param("site", site_id.0.cast_unsigned());
        let (at, rows): (u32, u64) = self.only(query).await?;
        Ok((rows > 0).then(|| Timestamp::from_micros(i64::from(at) * 1_000_000)))
    }

    /// A question about windows of one site.
    fn of_span(
        &self,
        called: &'static str,
        sql: &str,
        site_id: SiteId,
        span: Range<Timestamp>,
        width: Duration,
    ) -> Query {
        let query = self.query(sql, called).param("site", site_id.0.cast_unsigned());
        let query = query.param("from", seconds(span.start)).param("until", seconds(span.end));
        query.param("width", width.as_secs().max(1))
    }
}
