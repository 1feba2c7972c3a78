//! What is asked again and again: who is there now, and which rows are new. Each question is one statement for all sites it
//! concerns.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;

use super::ClickHouse;
use super::errors::explain;
use super::questions::{
    Asked, COUNTRY, Seconds, Sites, condition, count, describe, seconds, site, with_filter, with_sites,
};
use crate::analytics::{Freshness, Result};
use crate::domain::baseline::{WINDOW, window_start};
use crate::domain::filter::Filter;
use crate::domain::hit::Hit;
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

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
struct ScopedRow {
    scope: u32,
    current: u64,
    previous: u64,
    open: u64,
}

/// Filters of one statement.
const SCOPES_AT_ONCE: usize = 50;

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
            let rows: Vec<ScopedRow> = self.all(query).await?;
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
        let rows: Vec<DigestRow> = self.all(query).await?;
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
        let rows: Vec<(u32, u64)> = self.all(query).await?;
        Ok(rows
            .into_iter()
            .map(|(minute, rows)| (Timestamp::from_micros(i64::from(minute) * 60_000_000), rows))
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
        let rows: Vec<(u64, u32)> = self.all(query).await?;
        Ok(rows.into_iter().map(|(id, last_at)| (site(id), Timestamp::from_secs(last_at.into()))).collect())
    }

    /// The server's clock.
    pub async fn clock(&self) -> Result<Timestamp> {
        const SQL: &str = "SELECT toUnixTimestamp64Micro(now64(6))";
        let query = self.query(SQL, "clock");
        let micros: i64 = self.only(query).await?;
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
        let (newest, rows, last_hour): (u32, u64, u64) = self.only(query).await?;
        let newest_at = (rows > 0).then(|| Timestamp::from_micros(i64::from(newest) * 1_000_000));
        Ok(Freshness { newest_at, hits_last_hour: last_hour })
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
        describe(hit, self.scroll_depth, &self.keys, &self.values);
    }
}
