//! The embedded analytics store: one append-only table in a SQLite file of its own, written in group commits ([`writes`]),
//! followed hit by hit here, and asked what happened in spans of it ([`counts`]).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Row as _, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::writes::{Write, write_until_closed};
use super::{AnalyticsError, Freshness, Result};
use crate::checkpoints::Checkpoints;
use crate::domain::hit::{Device, ENGAGEMENT, Hit, Origin, Page, Revenue};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

mod counts;
mod writes;

/// Oldest SQLite without the WAL-reset race.
const OLDEST_SQLITE: &str = "3.51.3";
/// Requests waiting for the writer before new ones are turned away.
const WAITING_WRITES: usize = 1_024;
/// Newest hits that are kept in memory for those who follow them.
const RECENT: usize = 5_000;
const READERS: u32 = 4;
/// SQLite's log becomes so long.
const LOG_PAGES: u32 = 4_000;
/// Pages of it: nothing of the log is on the disk before, so a large part would keep others who write waiting for the disk.
const CARRIED_AT_ONCE: u32 = 500;
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
    write: mpsc::Sender<Write>,
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
        let checkpoints = Checkpoints::start(options.clone(), LOG_PAGES, CARRIED_AT_ONCE);
        let writer = checkpoints.writer(options.clone()).await?;
        let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()").fetch_one(&writer).await?;
        if parts(&version) < parts(OLDEST_SQLITE) {
            return Err(AnalyticsError::Refused(format!(
                "SQLite {version} can corrupt databases; {OLDEST_SQLITE} or newer is needed"
            )));
        }
        sqlx::raw_sql(SCHEMA).execute(&writer).await?;
        let last = last_live(&writer).await?;
        let source: String = sqlx::query_scalar("SELECT id FROM source").fetch_one(&writer).await?;
        let maintain = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let read = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let (write, writes) = mpsc::channel(WAITING_WRITES);
        let (announce, committed) = watch::channel(last);
        let recent = Arc::new(Mutex::new(Recent { next: last + 1, hits: VecDeque::new() }));
        let (closing, writing) = (CancellationToken::new(), TaskTracker::new());
        writing.spawn(write_until_closed(writer, writes, closing.clone(), announce, Arc::clone(&recent)));
        writing.close();
        let (source, checkpoints) = (source.into(), Arc::new(checkpoints));
        Ok(Self { write, read, maintain, committed, recent, source, closing, writing, checkpoints })
    }

    /// Stores hits as they happen. Returns once they are committed; calls made at the same time share a commit.
    ///
    /// # Errors
    /// [`AnalyticsError::Busy`] at once when too many wait already; [`AnalyticsError::Unavailable`] when the commit
    /// failed. Nothing was stored then.
    pub async fn record(&self, hits: Vec<Hit>) -> Result<()> {
        let (done, finished) = oneshot::channel();
        let hits = hits.into_iter().map(Arc::new).collect();
        self.write.try_send(Write { hits, live: true, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AnalyticsError::Busy,
            mpsc::error::TrySendError::Closed(_) => AnalyticsError::Unavailable("it is closed".to_owned()),
        })?;
        answer(finished).await
    }

    /// Stores history brought from elsewhere: it counts for what is usual and fires nothing.
    pub async fn import(&self, hits: Vec<Hit>) -> Result<()> {
        let (done, finished) = oneshot::channel();
        let write = Write { hits: hits.into_iter().map(Arc::new).collect(), live: false, done };
        self.write.send(write).await.map_err(|_| AnalyticsError::Unavailable("it is closed".to_owned()))?;
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

fn read_props(text: &str) -> Vec<(String, String)> {
    let props: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
    props.into_iter().map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned())).collect()
}

async fn last_live(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT max(0, coalesce(max(id), 0)) FROM hits").fetch_one(pool).await
}

/// A version as numbers, so that 3.9 comes before 3.51.
fn parts(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
