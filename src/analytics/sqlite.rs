//! The embedded analytics store: one append-only table in a SQLite file of its own, written in group commits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::{Alike, AnalyticsError, Dimension, Freshness, Result, Totals};
use crate::checkpoints::Checkpoints;
use crate::domain::backtest::Heard;
use crate::domain::baseline::WindowCount;
use crate::domain::filter::Filter;
use crate::domain::goal::PathPattern;
use crate::domain::habit::{QUARTER, Quarters};
use crate::domain::hit::{Device, ENGAGEMENT, Hit, Origin, PAGEVIEW, Page, Revenue};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// Oldest SQLite without the WAL-reset race.
const OLDEST_SQLITE: &str = "3.51.3";
/// Requests waiting for the writer before new ones are turned away.
const WAITING_WRITES: usize = 1_024;
/// Hits one commit takes at most.
const BATCH: usize = 2_000;
/// Newest hits that are kept in memory for those who follow them.
const RECENT: usize = 5_000;
const READERS: u32 = 4;
/// SQLite's log becomes so long.
const LOG_PAGES: u32 = 4_000;
/// Pages of it: nothing of the log is on the disk before, so a large part would keep others who write waiting for the disk.
const CARRIED_AT_ONCE: u32 = 500;
/// How much is read at once of what cannot be counted by the database alone.
const ROWS_OF: Duration = Duration::from_secs(86_400);
/// Rows removed at once.
const REMOVED_AT_ONCE: i64 = 2_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS hits (
        -- Positive and rising: came in as it happened. Negative: history brought from elsewhere, which fires nothing.
        id               INTEGER PRIMARY KEY AUTOINCREMENT,
        site_id          INTEGER NOT NULL,
        at               INTEGER NOT NULL,
        name             TEXT    NOT NULL,
        visitor          INTEGER NOT NULL,
        session          INTEGER NOT NULL,
        hostname         TEXT    NOT NULL,
        pathname         TEXT    NOT NULL,
        referrer         TEXT    NOT NULL,
        source           TEXT    NOT NULL,
        utm_medium       TEXT    NOT NULL,
        utm_source       TEXT    NOT NULL,
        utm_campaign     TEXT    NOT NULL,
        utm_content      TEXT    NOT NULL,
        utm_term         TEXT    NOT NULL,
        country          TEXT    NOT NULL,
        screen_size      TEXT    NOT NULL,
        browser          TEXT    NOT NULL,
        operating_system TEXT    NOT NULL,
        props            TEXT    NOT NULL,
        interactive      INTEGER NOT NULL,
        scroll_depth     INTEGER,
        engagement_ms    INTEGER NOT NULL,
        revenue_amount   TEXT,
        revenue_currency TEXT
    ) STRICT;
    CREATE INDEX IF NOT EXISTS hits_site_idx ON hits (site_id, at);
    CREATE INDEX IF NOT EXISTS hits_age_idx ON hits (at);
    -- Which file this is, wherever it is moved to: what was looked at of it is remembered under this name.
    CREATE TABLE IF NOT EXISTS source (
        id TEXT NOT NULL
    ) STRICT;
    INSERT INTO source (id) SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM source);
    CREATE TABLE IF NOT EXISTS salts (
        day  INTEGER NOT NULL PRIMARY KEY,
        salt BLOB    NOT NULL
    ) STRICT;";

/// Position of a hit in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HitSeq(pub i64);

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    writer: mpsc::Sender<Write>,
    read: SqlitePool,
    /// For the rare writes that are not hits; SQLite makes it and the writer take turns.
    maintain: SqlitePool,
    committed: watch::Receiver<i64>,
    recent: Arc<Mutex<Recent>>,
    source: Arc<str>,
    closing: CancellationToken,
    writing: TaskTracker,
    checkpoints: Arc<Checkpoints>,
}

/// The newest live hits, so that whoever follows them need not read back what was just written.
struct Recent {
    /// The number the next one will get.
    next: i64,
    hits: VecDeque<Arc<Hit>>,
}

/// Hits that are to be committed together, and who waits for it.
struct Write {
    hits: Vec<Arc<Hit>>,
    live: bool,
    done: oneshot::Sender<Result<(), String>>,
}

impl Embedded {
    /// Opens the file, creating it when there is none.
    ///
    /// # Errors
    /// The file cannot be opened, or the SQLite built in is too old to be trusted.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A crash of the process loses nothing; a power cut may lose the last moments of traffic.
            .synchronous(SqliteSynchronous::Normal)
            .pragma("wal_autocheckpoint", LOG_PAGES.to_string())
            .busy_timeout(Duration::from_secs(10));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()").fetch_one(&mut connection).await?;
        if parts(&version) < parts(OLDEST_SQLITE) {
            return Err(AnalyticsError::Refused(format!(
                "SQLite {version} can corrupt databases; {OLDEST_SQLITE} or newer is needed"
            )));
        }
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        let last = last_live(&mut connection).await?;
        let source: String = sqlx::query_scalar("SELECT id FROM source").fetch_one(&mut connection).await?;
        let checkpoints = Checkpoints::start(options.clone(), LOG_PAGES, CARRIED_AT_ONCE);
        checkpoints.follow(&mut connection).await?;
        let maintain = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let read = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let (writer, writes) = mpsc::channel(WAITING_WRITES);
        let (announce, committed) = watch::channel(last);
        let recent = Arc::new(Mutex::new(Recent { next: last + 1, hits: VecDeque::new() }));
        let (closing, writing) = (CancellationToken::new(), TaskTracker::new());
        writing.spawn(write_until_closed(connection, writes, closing.clone(), announce, Arc::clone(&recent)));
        writing.close();
        let (source, checkpoints) = (source.into(), Arc::new(checkpoints));
        Ok(Self { writer, read, maintain, committed, recent, source, closing, writing, checkpoints })
    }

    /// Stores hits as they happen. Returns once they are committed; calls made at the same time share a commit.
    ///
    /// # Errors
    /// [`AnalyticsError::Busy`] at once when too many wait already; [`AnalyticsError::Unavailable`] when the commit
    /// failed. Nothing was stored then.
    pub async fn record(&self, hits: Vec<Hit>) -> Result<()> {
        let (done, finished) = oneshot::channel();
        let hits = hits.into_iter().map(Arc::new).collect();
        self.writer.try_send(Write { hits, live: true, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AnalyticsError::Busy,
            mpsc::error::TrySendError::Closed(_) => AnalyticsError::Unavailable("it is closed".to_owned()),
        })?;
        answer(finished).await
    }

    /// Stores history brought from elsewhere: it counts for what is usual and fires nothing.
    pub async fn import(&self, hits: Vec<Hit>) -> Result<()> {
        let (done, finished) = oneshot::channel();
        let write = Write { hits: hits.into_iter().map(Arc::new).collect(), live: false, done };
        self.writer.send(write).await.map_err(|_| AnalyticsError::Unavailable("it is closed".to_owned()))?;
        answer(finished).await
    }

    /// The name of this file among all sources of hits.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The newest live hit that is committed; moves with every commit of live hits.
    pub fn committed(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    pub async fn last_seq(&self) -> Result<HitSeq> {
        // Not the largest id there is: numbers are never given twice, whatever was removed.
        let last: Option<i64> = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'hits'")
            .fetch_optional(&self.read)
            .await?;
        Ok(HitSeq(last.unwrap_or(0)))
    }

    /// Live hits in the order of their arrival, at most `limit`.
    pub async fn hits_after(&self, after: HitSeq, limit: usize) -> Result<Vec<(HitSeq, Arc<Hit>)>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).after(after, limit);
        match recent {
            Some(hits) => Ok(hits),
            None => self.stored_hits_after(after, limit).await,
        }
    }

    async fn stored_hits_after(&self, after: HitSeq, limit: usize) -> Result<Vec<(HitSeq, Arc<Hit>)>> {
        const SQL: &str = "
            SELECT id, site_id, at, name, visitor, session, hostname, pathname, referrer, source, utm_medium, utm_source,
                utm_campaign, utm_content, utm_term, country, screen_size, browser, operating_system, props,
                interactive, scroll_depth, engagement_ms, revenue_amount, revenue_currency
            FROM hits
            WHERE id > $1
            ORDER BY id
            LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = sqlx::query(SQL).bind(after.0).bind(limit).fetch_all(&self.read).await?;
        Ok(rows.iter().map(read_hit).collect::<Result<_, sqlx::Error>>()?)
    }

    /// Live visits (engagement is none) since `since`, in the order of time.
    pub async fn visits_since(&self, since: Timestamp) -> Result<Vec<(SiteId, Timestamp, u64)>> {
        const SQL: &str = "
            SELECT site_id, at, visitor
            FROM hits
            WHERE at >= $1 AND name <> $2 AND id > 0
            ORDER BY at";
        let rows: Vec<(SiteId, Timestamp, i64)> =
            sqlx::query_as(SQL).bind(since).bind(ENGAGEMENT).fetch_all(&self.read).await?;
        Ok(rows.into_iter().map(|(site, at, visitor)| (site, at, visitor.cast_unsigned())).collect())
    }

    /// Live visits of one site since `since`, as far as the hit `until`, in the order of time.
    pub async fn visits_of(&self, site_id: SiteId, since: Timestamp, until: HitSeq) -> Result<Vec<(Timestamp, u64)>> {
        const SQL: &str = "
            SELECT at, visitor
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND name <> $3 AND id > 0 AND id <= $4
            ORDER BY at";
        let rows: Vec<(Timestamp, i64)> =
            sqlx::query_as(SQL).bind(site_id).bind(since).bind(ENGAGEMENT).bind(until.0).fetch_all(&self.read).await?;
        Ok(rows.into_iter().map(|(at, visitor)| (at, visitor.cast_unsigned())).collect())
    }

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
        let width = i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1);
        let rows: Vec<(i64, i64)> = sqlx::query_as(SQL)
            .bind(site_id)
            .bind(from)
            .bind(until)
            .bind(width)
            .bind(ENGAGEMENT)
            .fetch_all(&self.read)
            .await?;
        let mut counted = rows.into_iter().peekable();
        let slots = from.micros() / width..until.micros().div_euclid(width);
        Ok(slots
            .map(|slot| {
                let visitors = counted.next_if(|(counted, _)| *counted == slot).map_or(0, |(_, visitors)| visitors);
                let visitors = u32::try_from(visitors).unwrap_or(u32::MAX);
                WindowCount { start: Timestamp::from_micros(slot * width), visitors }
            })
            .collect())
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
        let width = i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1);
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
        let slots = from.micros() / width..until.micros().div_euclid(width);
        Ok(slots
            .map(|slot| WindowCount {
                start: Timestamp::from_micros(slot * width),
                visitors: seen.get(&slot).map_or(0, |visitors| u32::try_from(visitors.len()).unwrap_or(u32::MAX)),
            })
            .collect())
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
        const SOURCE: &str = "
            SELECT source, count(DISTINCT visitor) AS visitors
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $4
            GROUP BY source
            ORDER BY visitors DESC, source
            LIMIT $5";
        const PAGE: &str = "
            SELECT pathname, count(DISTINCT visitor) AS visitors
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $4
            GROUP BY pathname
            ORDER BY visitors DESC, pathname
            LIMIT $5";
        const COUNTRY: &str = "
            SELECT country, count(DISTINCT visitor) AS visitors
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name <> $4
            GROUP BY country
            ORDER BY visitors DESC, country
            LIMIT $5";
        if let Some(filter) = filter {
            return self.top_of(site_id, filter, from, until, dimension, limit).await;
        }
        let sql = match dimension {
            Dimension::Source => SOURCE,
            Dimension::Page => PAGE,
            Dimension::Country => COUNTRY,
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
        let width = i64::try_from(QUARTER.as_micros()).unwrap_or(i64::MAX);
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
        const SQL: &str = "
            SELECT at / $5 AS slot, count(*), min(at), max(at), pathname, scroll_depth, props
            FROM hits
            WHERE site_id = $1 AND at >= $2 AND at < $3 AND name = $4 AND ($6 IS NULL OR source = $6)
                AND ($7 IS NULL OR country = $7) AND ($8 IS NULL OR hostname = $8)
            GROUP BY slot, pathname, scroll_depth, props";
        type Row = (i64, i64, Timestamp, Timestamp, String, Option<i64>, String);
        let width = micros(width);
        for (site_id, names) in asked {
            for name in names {
                let rows: Vec<Row> = sqlx::query_as(SQL)
                    .bind(site_id)
                    .bind(span.start)
                    .bind(span.end)
                    .bind(*name)
                    .bind(width)
                    .bind(filter.and_then(|filter| filter.source.as_deref()))
                    .bind(filter.and_then(|filter| filter.country.as_deref()))
                    .bind(filter.and_then(|filter| filter.hostname.as_deref()))
                    .fetch_all(&self.read)
                    .await?;
                let page = filter.and_then(|filter| filter.page.as_ref());
                let mut hit = Hit::new(*site_id, Timestamp::EPOCH, 0, name);
                for (slot, count, first_at, last_at, pathname, scroll_depth, props) in rows {
                    if page.is_some_and(|page| !page.fits(&pathname)) {
                        continue;
                    }
                    hit.at = last_at;
                    hit.page.pathname = pathname;
                    hit.scroll_depth = scroll_depth.and_then(|depth| u8::try_from(depth).ok());
                    hit.props = read_props(&props);
                    let start = Timestamp::from_micros(slot * width);
                    each(&hit, Alike { start, count: count.unsigned_abs(), first_at, last_at });
                }
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

    /// The salts of the last days, newest first.
    pub async fn salts(&self) -> Result<Vec<(i64, Vec<u8>)>> {
        const SQL: &str = "SELECT day, salt FROM salts ORDER BY day DESC LIMIT 2";
        Ok(sqlx::query_as(SQL).fetch_all(&self.maintain).await?)
    }

    /// Keeps `salt` for `day` unless there is one, and forgets what is older than the day before.
    pub async fn keep_salt(&self, day: i64, salt: &[u8]) -> Result<()> {
        const INSERT: &str = "INSERT INTO salts (day, salt) VALUES ($1, $2) ON CONFLICT (day) DO NOTHING";
        const FORGET: &str = "DELETE FROM salts WHERE day < $1 - 1";
        sqlx::query(INSERT).bind(day).bind(salt).execute(&self.maintain).await?;
        sqlx::query(FORGET).bind(day).execute(&self.maintain).await?;
        Ok(())
    }

    /// Forgets a site, a little at a time.
    pub async fn delete_site(&self, site_id: SiteId) -> Result<()> {
        const SQL: &str = "
            DELETE FROM hits WHERE id IN (SELECT id FROM hits WHERE site_id = $1 LIMIT $2)";
        while sqlx::query(SQL).bind(site_id).bind(REMOVED_AT_ONCE).execute(&self.maintain).await?.rows_affected() > 0 {}
        Ok(())
    }

    /// Forgets what happened before `before`, a little at a time.
    pub async fn prune(&self, before: Timestamp) -> Result<()> {
        const SQL: &str = "
            DELETE FROM hits WHERE id IN (SELECT id FROM hits WHERE at < $1 LIMIT $2)";
        while sqlx::query(SQL).bind(before).bind(REMOVED_AT_ONCE).execute(&self.maintain).await?.rows_affected() > 0 {}
        Ok(())
    }

    /// How recent the traffic of all sites is.
    pub async fn freshness(&self, now: Timestamp) -> Result<Freshness> {
        const SQL: &str = "SELECT max(at), count(*) FROM hits WHERE at >= $1";
        let since = |span| sqlx::query_as(SQL).bind(now - span);
        let (newest_at, _): (Option<Timestamp>, i64) = since(Duration::from_secs(86_400)).fetch_one(&self.read).await?;
        let (_, hits): (Option<Timestamp>, i64) = since(Duration::from_secs(3_600)).fetch_one(&self.read).await?;
        Ok(Freshness { newest_at, hits_last_hour: hits.unsigned_abs() })
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.read).await?;
        Ok(())
    }

    /// Writes what waits and takes nothing any more. Once it returns nobody has the file open.
    pub async fn close(&self) {
        self.closing.cancel();
        self.writing.wait().await;
        self.checkpoints.close().await;
        self.read.close().await;
        self.maintain.close().await;
    }
}

async fn answer(finished: oneshot::Receiver<Result<(), String>>) -> Result<()> {
    match finished.await {
        Ok(outcome) => outcome.map_err(AnalyticsError::Unavailable),
        Err(_) => Err(AnalyticsError::Unavailable("it is closed".to_owned())),
    }
}

impl Recent {
    /// `None` when it does not reach back that far.
    fn after(&self, after: HitSeq, limit: usize) -> Option<Vec<(HitSeq, Arc<Hit>)>> {
        let first = self.next - i64::try_from(self.hits.len()).unwrap_or(i64::MAX);
        let skip = usize::try_from(after.0 + 1 - first).ok()?;
        let hits = self.hits.iter().skip(skip).take(limit).cloned();
        Some((after.0 + 1..).map(HitSeq).zip(hits).collect())
    }

    /// Adds the hits of a commit that ended with `last`.
    fn extend(&mut self, last: i64, hits: impl Iterator<Item = Arc<Hit>>) {
        let hits: Vec<_> = hits.collect();
        let first = last + 1 - i64::try_from(hits.len()).unwrap_or(i64::MAX);
        if first != self.next {
            // A commit nobody confirmed happened after all: only the file knows what is in between.
            self.hits.clear();
        }
        self.hits.extend(hits);
        self.next = last + 1;
        self.hits.drain(..self.hits.len().saturating_sub(RECENT));
    }
}

/// One commit after the other, each with everything that came in during the one before.
async fn write_until_closed(
    mut connection: SqliteConnection,
    mut writes: mpsc::Receiver<Write>,
    closing: CancellationToken,
    announce: watch::Sender<i64>,
    recent: Arc<Mutex<Recent>>,
) {
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            count = writes.recv_many(&mut waiting, WAITING_WRITES) => if count == 0 { break },
            // What was sent before comes all the same.
            () = closing.cancelled(), if !writes.is_closed() => writes.close(),
        }
        while !waiting.is_empty() {
            let batch = next_batch(&mut waiting);
            let outcome = commit(&mut connection, &batch).await.map_err(|error| error.to_string());
            match &outcome {
                Ok(Some(last)) => {
                    let live = batch.iter().filter(|write| write.live).flat_map(|write| &write.hits).cloned();
                    recent.lock().unwrap_or_else(PoisonError::into_inner).extend(*last, live);
                    announce.send_if_modified(|committed| std::mem::replace(committed, *last) != *last)
                }
                Ok(None) => false,
                Err(error) => {
                    error!(%error, "{} events could not be stored and were refused: {error}", batch.len());
                    false
                }
            };
            for write in batch {
                // Somebody who does not wait any more has hung up; the hits are stored all the same.
                let _ = write.done.send(outcome.clone().map(drop));
            }
        }
    }
    let _ = connection.close().await;
}

/// As many requests as fit into a commit; one larger than that gets its own.
fn next_batch(waiting: &mut Vec<Write>) -> Vec<Write> {
    let mut hits = 0;
    let fitting = waiting
        .iter()
        .take_while(|write| {
            hits += write.hits.len();
            hits <= BATCH
        })
        .count();
    waiting.drain(..fitting.max(1)).collect()
}

/// The last row id of live hits, if there were any.
async fn commit(connection: &mut SqliteConnection, batch: &[Write]) -> Result<Option<i64>, sqlx::Error> {
    let hits = |live: bool| -> Vec<&Hit> {
        batch.iter().filter(|write| write.live == live).flat_map(|write| &write.hits).map(AsRef::as_ref).collect()
    };
    let (live, history) = (hits(true), hits(false));
    crate::failpoint::hit("ingest.before_commit");
    let last = if history.is_empty() && live.len() <= MOST_ROWS {
        // One statement is a transaction by itself, and one round trip to the driver's thread instead of three.
        insert(connection, &live, None).await?
    } else {
        const LOWEST: &str = "SELECT min(0, coalesce(min(id), 0)) FROM hits";
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let last = insert(&mut transaction, &live, None).await?;
        let lowest: i64 = sqlx::query_scalar(LOWEST).fetch_one(&mut *transaction).await?;
        insert(&mut transaction, &history, Some(lowest)).await?;
        transaction.commit().await?;
        last
    };
    crate::failpoint::hit("ingest.after_commit");
    Ok(last)
}

/// Rows the largest statement takes.
const MOST_ROWS: usize = 256;

/// Statements for 1, 2, 4 … [`MOST_ROWS`] rows. Rows without a site fill up what is missing to the next size. `OR FAIL`, or
/// SQLite would copy every page it touches to a file, in case it must take back the rows before one that is refused; here
/// the whole transaction is given up then.
static INSERTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    let sizes = (0..=MOST_ROWS.ilog2()).map(|power| 1 << power);
    sizes
        .map(|rows| {
            format!(
                "INSERT OR FAIL INTO hits (id, site_id, at, name, visitor, session, hostname, pathname, referrer, source, \
                 utm_medium, utm_source, utm_campaign, utm_content, utm_term, country, screen_size, browser, \
                 operating_system, props, interactive, scroll_depth, engagement_ms, revenue_amount, revenue_currency) \
                 SELECT * FROM (VALUES {}) WHERE column2 IS NOT NULL",
                vec![row.as_str(); rows].join(", ")
            )
        })
        .collect()
});

/// Columns of `hits`.
const COLUMNS: usize = 25;

/// Inserts hits in their order, with ids below `below` if that is given, otherwise with the next ones. The last id.
async fn insert(
    connection: &mut SqliteConnection,
    hits: &[&Hit],
    mut below: Option<i64>,
) -> Result<Option<i64>, sqlx::Error> {
    let mut last = None;
    for rows in hits.chunks(MOST_ROWS) {
        let size = rows.len().next_power_of_two();
        let mut query = sqlx::query(sqlx::AssertSqlSafe(INSERTS[size.ilog2() as usize].as_str()));
        for hit in rows {
            below = below.map(|below| below - 1);
            query = bind(query, below, hit);
        }
        for _ in 0..(size - rows.len()) * COLUMNS {
            query = query.bind(None::<i64>);
        }
        last = Some(query.execute(&mut *connection).await?.last_insert_rowid());
    }
    Ok(last)
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(query: Query<'q>, id: Option<i64>, hit: &'q Hit) -> Query<'q> {
    let props = if hit.props.is_empty() {
        String::new()
    } else {
        let pairs: serde_json::Map<_, _> =
            hit.props.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        serde_json::Value::Object(pairs).to_string()
    };
    query
        .bind(id)
        .bind(hit.site_id)
        .bind(hit.at)
        .bind(hit.name.as_str())
        .bind(hit.visitor.cast_signed())
        .bind(hit.session.cast_signed())
        .bind(hit.page.hostname.as_str())
        .bind(hit.page.pathname.as_str())
        .bind(hit.origin.referrer.as_str())
        .bind(hit.origin.source.as_str())
        .bind(hit.origin.utm_medium.as_str())
        .bind(hit.origin.utm_source.as_str())
        .bind(hit.origin.utm_campaign.as_str())
        .bind(hit.origin.utm_content.as_str())
        .bind(hit.origin.utm_term.as_str())
        .bind(hit.country.as_str())
        .bind(hit.device.screen_size.as_str())
        .bind(hit.device.browser.as_str())
        .bind(hit.device.operating_system.as_str())
        .bind(props)
        .bind(hit.interactive)
        .bind(hit.scroll_depth.map(i64::from))
        .bind(i64::from(hit.engagement_ms))
        .bind(hit.revenue.as_ref().map(|revenue| revenue.amount.as_str()))
        .bind(hit.revenue.as_ref().map(|revenue| revenue.currency.as_str()))
}

fn read_hit(row: &SqliteRow) -> Result<(HitSeq, Arc<Hit>), sqlx::Error> {
    let props: String = row.try_get("props")?;
    let amount: Option<String> = row.try_get("revenue_amount")?;
    let currency: Option<String> = row.try_get("revenue_currency")?;
    let scroll_depth: Option<i64> = row.try_get("scroll_depth")?;
    let hit = Hit {
        site_id: row.try_get("site_id")?,
        at: row.try_get("at")?,
        name: row.try_get("name")?,
        visitor: row.try_get::<i64, _>("visitor")?.cast_unsigned(),
        session: row.try_get::<i64, _>("session")?.cast_unsigned(),
        page: Page { hostname: row.try_get("hostname")?, pathname: row.try_get("pathname")? },
        origin: Origin {
            referrer: row.try_get("referrer")?,
            source: row.try_get("source")?,
            utm_medium: row.try_get("utm_medium")?,
            utm_source: row.try_get("utm_source")?,
            utm_campaign: row.try_get("utm_campaign")?,
            utm_content: row.try_get("utm_content")?,
            utm_term: row.try_get("utm_term")?,
        },
        country: row.try_get("country")?,
        device: Device {
            screen_size: row.try_get("screen_size")?,
            browser: row.try_get("browser")?,
            operating_system: row.try_get("operating_system")?,
        },
        props: read_props(&props),
        interactive: row.try_get::<i64, _>("interactive")? != 0,
        scroll_depth: scroll_depth.and_then(|depth| u8::try_from(depth).ok()),
        engagement_ms: u32::try_from(row.try_get::<i64, _>("engagement_ms")?).unwrap_or(0),
        revenue: amount.zip(currency).map(|(amount, currency)| Revenue { amount, currency }),
    };
    Ok((HitSeq(row.try_get("id")?), Arc::new(hit)))
}

/// Of a window, never nothing.
fn micros(width: Duration) -> i64 {
    i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1)
}

fn read_props(text: &str) -> Vec<(String, String)> {
    let props: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
    props.into_iter().map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned())).collect()
}

async fn last_live(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT max(0, coalesce(max(id), 0)) FROM hits").fetch_one(connection).await
}

/// A version as numbers, so that 3.9 comes before 3.51.
fn parts(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
