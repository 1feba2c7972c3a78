//! What is counted in the file: visitors, completions and silences of spans.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::{Embedded, read_props};
use crate::analytics::{Alike, Dimension, Result, Totals, micros, windows};
use crate::domain::backtest::Heard;
use crate::domain::baseline::WindowCount;
use crate::domain::filter::Filter;
use crate::domain::goal::PathPattern;
use crate::domain::habit::{QUARTER, Quarters};
use crate::domain::hit::{ENGAGEMENT, Hit, Origin, PAGEVIEW, Page};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// How much is read at once of what cannot be counted by the database alone.
const ROWS_OF: Duration = Duration::from_secs(86_400);

/// The names in a column with the most distinct visitors.
macro_rules! top_sql {
    ($column:literal) => {
        concat!(
            "SELECT ",
            $column,
            ", count(DISTINCT visitor) AS visitors
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $4
            GROUP BY 1
            ORDER BY visitors DESC, 1
            LIMIT $5"
        )
    };
}

impl Embedded {
    /// Distinct visitors of each window of `width` from `from` (aligned) until `until`, windows without any included.
    pub async fn window_counts(
        &self,
        site_id: SiteId,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<WindowCount>> {
        const SQL: &str = "
            SELECT at / $4 AS slot, count(DISTINCT visitor)
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $5
            GROUP BY slot
            ORDER BY slot";
        let width = micros(width);
        let rows: Vec<(i64, i64)> = sqlx::query_as(SQL)
            .bind(site_id)
            .bind(from)
            .bind(until)
            .bind(width)
            .bind(ENGAGEMENT)
            .fetch_all(&self.read)
            .await?;
        let mut counted = rows.into_iter().peekable();
        Ok(windows(from, until, width, |slot| {
            counted.next_if(|(counted, _)| *counted == slot).map_or(0, |(_, visitors)| visitors.unsigned_abs())
        }))
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
        const SQL: &str = "
            SELECT DISTINCT at / $4 AS slot, visitor, pathname
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $5 AND ($6 IS NULL OR source = $6)
                AND ($7 IS NULL OR country = $7) AND ($8 IS NULL OR hostname = $8) AND ($9 IS NULL OR pathname = $9)";
        let width = micros(width);
        let mut seen: HashMap<i64, HashSet<i64>> = HashMap::new();
        // A day at a time: paths are looked at here, and a busy site has many.
        let mut start = from;
        while start < until {
            let end = (start + ROWS_OF).min(until);
            let rows: Vec<(i64, i64, String)> = sqlx::query_as(SQL)
                .bind(site_id)
                .bind(start)
                .bind(end)
                .bind(width)
                .bind(ENGAGEMENT)
                .bind(filter.source.as_deref())
                .bind(filter.country.as_deref())
                .bind(filter.hostname.as_deref())
                .bind(filter.page.as_ref().and_then(PathPattern::exact))
                .fetch_all(&self.read)
                .await?;
            for (slot, visitor, path) in rows {
                if filter.page.as_ref().is_none_or(|page| page.fits(&path)) {
                    seen.entry(slot).or_default().insert(visitor);
                }
            }
            start = end;
        }
        Ok(windows(from, until, width, |slot| seen.get(&slot).map_or(0, |visitors| visitors.len() as u64)))
    }

    /// The names with the most distinct visitors in `from..until` among the visits a filter lets through, ties in the order of
    /// the names.
    pub async fn top(
        &self,
        site_id: SiteId,
        filter: Option<&Filter>,
        from: Timestamp,
        until: Timestamp,
        dimension: Dimension,
        limit: usize,
    ) -> Result<Vec<(String, u64)>> {
        if let Some(filter) = filter {
            return self.top_of(site_id, filter, from, until, dimension, limit).await;
        }
        let sql = match dimension {
            Dimension::Source => top_sql!("source"),
            Dimension::Page => top_sql!("pathname"),
            Dimension::Country => top_sql!("country"),
        };
        let rows: Vec<(String, i64)> = sqlx::query_as(sql)
            .bind(site_id)
            .bind(from)
            .bind(until)
            .bind(ENGAGEMENT)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|(name, visitors)| (name, visitors.cast_unsigned())).collect())
    }

    async fn top_of(
        &self,
        site_id: SiteId,
        filter: &Filter,
        from: Timestamp,
        until: Timestamp,
        dimension: Dimension,
        limit: usize,
    ) -> Result<Vec<(String, u64)>> {
        let mut visitors: HashMap<String, HashSet<u64>> = HashMap::new();
        for hit in self.visits_like(site_id, filter, from, until).await? {
            let name = match dimension {
                Dimension::Source => hit.origin.source,
                Dimension::Page => hit.page.pathname,
                Dimension::Country => hit.country,
            };
            visitors.entry(name).or_default().insert(hit.visitor);
        }
        let mut rows: Vec<_> = visitors.into_iter().map(|(name, visitors)| (name, visitors.len() as u64)).collect();
        rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        rows.truncate(limit);
        Ok(rows)
    }

    /// Live visits of a short span that a filter lets through, in the order of time; no more of each than filters ask for.
    pub async fn visits_like(
        &self,
        site_id: SiteId,
        filter: &Filter,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Hit>> {
        const SQL: &str = "
            SELECT at, name, visitor, pathname, source, country, hostname
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $4 AND id > 0
            ORDER BY at";
        let rows: Vec<(Timestamp, String, i64, String, String, String, String)> =
            sqlx::query_as(SQL).bind(site_id).bind(from).bind(until).bind(ENGAGEMENT).fetch_all(&self.read).await?;
        let hits = rows.into_iter().map(|(at, name, visitor, pathname, source, country, hostname)| Hit {
            at,
            visitor: visitor.cast_unsigned(),
            page: Page { hostname, pathname },
            origin: Origin { source, ..Origin::default() },
            country,
            ..Hit::new(site_id, Timestamp::EPOCH, 0, &name)
        });
        Ok(hits.filter(|hit| filter.lets_through(hit)).collect())
    }

    /// When each site that was heard of since `since` was last heard of. It goes from site to site by the index, however many
    /// hits they have.
    pub async fn last_hits(&self, since: Timestamp) -> Result<HashMap<SiteId, Timestamp>> {
        const SQL: &str = "
            WITH RECURSIVE heard (site_id) AS (
                SELECT min(site_id) FROM hits
                UNION ALL
                SELECT (SELECT min(hits.site_id) FROM hits WHERE hits.site_id > heard.site_id)
                FROM heard
                WHERE heard.site_id IS NOT NULL
            )
            SELECT site_id, (SELECT max(at) FROM hits WHERE hits.site_id = heard.site_id) AS last_at
            FROM heard
            WHERE site_id IS NOT NULL";
        let rows: Vec<(SiteId, Timestamp)> = sqlx::query_as(SQL).fetch_all(&self.read).await?;
        Ok(rows.into_iter().filter(|(_, last_at)| *last_at >= since).collect())
    }

    /// Shows `each` of the sites with its distinct visitors of each quarter hour of the span.
    pub async fn quarters(
        &self,
        sites: &[SiteId],
        from: Timestamp,
        until: Timestamp,
        mut each: impl FnMut(SiteId, &[WindowCount]),
    ) -> Result<()> {
        for site_id in sites {
            each(*site_id, &self.window_counts(*site_id, from, until, QUARTER).await?);
        }
        Ok(())
    }

    /// Distinct visitors of each quarter hour, all sites together.
    pub async fn quarters_of_all(&self, from: Timestamp, until: Timestamp) -> Result<Quarters> {
        const SQL: &str = "
            SELECT slot, count(*)
            FROM (
                SELECT DISTINCT at / $3 AS slot, site_id, visitor
                FROM hits
                WHERE at >= $1 AND at < $2 AND name <> $4
            )
            GROUP BY slot";
        let width = micros(QUARTER);
        let rows: Vec<(i64, i64)> =
            sqlx::query_as(SQL).bind(from).bind(until).bind(width).bind(ENGAGEMENT).fetch_all(&self.read).await?;
        let quarter = |(slot, count): (i64, i64)| (Timestamp::from_micros(slot * width), count.unsigned_abs());
        Ok(rows.into_iter().map(quarter).collect())
    }

    /// Shows `each` what happened under these names on these sites, alike hits of a window together.
    pub async fn alike(
        &self,
        asked: &[(SiteId, Vec<&str>)],
        filter: Option<&Filter>,
        span: Range<Timestamp>,
        width: Duration,
        mut each: impl FnMut(&Hit, Alike),
    ) -> Result<()> {
        // All names of a site at once: what is committed in between would be counted by half.
        const SQL: &str = "
            SELECT name, at / $5 AS slot, count(*), min(at), max(at), pathname, scroll_depth, props
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name IN (SELECT value FROM json_each($4))
                AND ($6 IS NULL OR source = $6) AND ($7 IS NULL OR country = $7) AND ($8 IS NULL OR hostname = $8)
            GROUP BY name, slot, pathname, scroll_depth, props";
        type Row = (String, i64, i64, Timestamp, Timestamp, String, Option<i64>, String);
        let width = micros(width);
        let page = filter.and_then(|filter| filter.page.as_ref());
        for (site_id, names) in asked.iter().filter(|(_, names)| !names.is_empty()) {
            let rows: Vec<Row> = sqlx::query_as(SQL)
                .bind(site_id)
                .bind(span.start)
                .bind(span.end)
                .bind(serde_json::json!(names).to_string())
                .bind(width)
                .bind(filter.and_then(|filter| filter.source.as_deref()))
                .bind(filter.and_then(|filter| filter.country.as_deref()))
                .bind(filter.and_then(|filter| filter.hostname.as_deref()))
                .fetch_all(&self.read)
                .await?;
            let mut hit = Hit::new(*site_id, Timestamp::EPOCH, 0, "");
            for (name, slot, count, first_at, last_at, pathname, scroll_depth, props) in rows {
                if page.is_some_and(|page| !page.fits(&pathname)) {
                    continue;
                }
                hit.name = name;
                hit.at = last_at;
                hit.page.pathname = pathname;
                hit.scroll_depth = scroll_depth.and_then(|depth| u8::try_from(depth).ok());
                hit.props = read_props(&props);
                let start = Timestamp::from_micros(slot * width);
                each(&hit, Alike { start, count: count.unsigned_abs(), first_at, last_at });
            }
        }
        Ok(())
    }

    /// When the site was heard of in each window in which it was.
    pub async fn heard(&self, site_id: SiteId, span: Range<Timestamp>, width: Duration) -> Result<Vec<Heard>> {
        const SQL: &str = "
            SELECT min(at), max(at), count(*)
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3
            GROUP BY at / $4
            ORDER BY 1";
        let query = sqlx::query_as(SQL).bind(site_id).bind(span.start).bind(span.end).bind(micros(width));
        let rows: Vec<(Timestamp, Timestamp, i64)> = query.fetch_all(&self.read).await?;
        let heard = |(first_at, last_at, count): (_, _, i64)| Heard { first_at, last_at, count: count.unsigned_abs() };
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
            SELECT at / $4 AS slot, count(*)
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name = $5
            GROUP BY slot
            ORDER BY slot";
        let width = micros(width);
        let query = sqlx::query_as(SQL).bind(site_id).bind(span.start).bind(span.end).bind(width).bind(PAGEVIEW);
        let rows: Vec<(i64, i64)> = query.fetch_all(&self.read).await?;
        Ok(rows.into_iter().map(|(slot, count)| (Timestamp::from_micros(slot * width), count.unsigned_abs())).collect())
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
            SELECT slot, count(*)
            FROM (
                SELECT min(at) / $4 AS slot
                FROM hits
                WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $5
                GROUP BY visitor
            )
            GROUP BY slot
            ORDER BY slot";
        let width = micros(width);
        let mut all = Vec::new();
        let ends = anew.iter().skip(1).copied().chain([until]);
        for (start, end) in anew.iter().zip(ends) {
            let query = sqlx::query_as(SQL).bind(site_id).bind(start).bind(end).bind(width).bind(ENGAGEMENT);
            let rows: Vec<(i64, i64)> = query.fetch_all(&self.read).await?;
            all.extend(
                rows.into_iter().map(|(slot, count)| (Timestamp::from_micros(slot * width), count.unsigned_abs())),
            );
        }
        Ok(all)
    }

    pub async fn totals(&self, site_id: SiteId, from: Timestamp, until: Timestamp) -> Result<Totals> {
        const SQL: &str = "
            SELECT count(DISTINCT CASE WHEN name <> $4 THEN visitor END), count(CASE WHEN name = $5 THEN 1 END)
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3";
        let (visitors, pageviews): (i64, i64) = sqlx::query_as(SQL)
            .bind(site_id)
            .bind(from)
            .bind(until)
            .bind(ENGAGEMENT)
            .bind(PAGEVIEW)
            .fetch_one(&self.read)
            .await?;
        Ok(Totals { visitors: visitors.unsigned_abs(), pageviews: pageviews.unsigned_abs() })
    }

    pub async fn first_hit_at(&self, site_id: SiteId) -> Result<Option<Timestamp>> {
        const SQL: &str = "SELECT min(at) FROM hits WHERE site_id = $1";
        Ok(sqlx::query_scalar(SQL).bind(site_id).fetch_one(&self.read).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hit::PAGEVIEW;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_committed_together_is_counted_together() {
        let folder = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(&folder.path().join("analytics.db")).await.unwrap();
        let site_id = SiteId(1);
        let together = [PAGEVIEW, "Signup"];
        let writer = embedded.clone();
        let writing = tokio::spawn(async move {
            for visitor in 0..200 {
                let hits = together.map(|name| Hit::new(site_id, Timestamp::EPOCH, visitor, name));
                writer.record(hits.to_vec()).await.unwrap();
            }
        });
        let span = Timestamp::EPOCH..Timestamp::from_secs(1);
        loop {
            let is_last = writing.is_finished();
            let mut counts: HashMap<_, u64> = HashMap::new();
            let asked = [(site_id, together.to_vec())];
            let count = |hit: &Hit, alike: Alike| *counts.entry(hit.name.clone()).or_default() += alike.count;
            embedded.alike(&asked, None, span.clone(), QUARTER, count).await.unwrap();
            assert_eq!(counts.get(PAGEVIEW), counts.get("Signup"));
            if is_last {
                assert_eq!(counts[PAGEVIEW], 200);
                break;
            }
        }
        writing.await.unwrap();
        embedded.close().await;
    }
}
