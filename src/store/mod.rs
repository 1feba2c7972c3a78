//! The only SQL for configuration and queue: SQLite for one node, PostgreSQL for several, one text for both.
//!
//! There is no storage trait and no mock: [`Store`] is a concrete type and SQLite in a temporary file is the fast test
//! double. Statements that must differ stand next to each other. This room knows `domain` and nothing else; it does
//! not know HTTP, and it never asks what time it is (leases excepted: those live by the database's clock).
//! Start with [`outbox`] (an event is recorded), [`queue`] (a delivery waits) and [`outcomes`] (it moves).

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _, PgPool, Postgres, Sqlite, SqlitePool, Transaction};

use self::direct::Direct;
use self::put_off::PutOff;
use self::unqueued::{Taken, Unqueued};
use crate::checkpoints::Checkpoints;

pub mod accounts;
pub mod audit;
pub mod backup;
pub mod catalog;
pub mod condition;
pub mod deliveries;
mod direct;
pub mod facts;
pub mod gathered;
pub mod goals;
pub mod health;
pub mod idempotency;
pub mod inbox;
pub mod invitations;
pub mod keys;
mod lists;
mod migrations;
pub mod mirror;
pub mod movements;
pub mod notices;
pub mod observations;
pub mod outbox;
pub mod outcomes;
mod outcomes_at_once;
pub mod people;
pub mod profiles;
mod put_off;
pub mod queue;
pub mod resends;
pub mod retention;
mod rows;
pub mod sealed;
pub mod sessions;
pub mod shards;
pub mod sites;
#[cfg(test)]
mod stage;
mod step_at_once;
pub mod tardy;
pub mod triggers;
mod unqueued;
pub mod waiting;
pub mod webhooks;

/// Oldest SQLite without the WAL-reset race that corrupted databases (3.7.0 to 3.51.2).
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);
const SQLITE_READERS: u32 = 4;
/// What a connection keeps of the file, in KiB when negative: the part of the queue that is worked on.
const SQLITE_CACHE: i32 = -16_384;
/// SQLite's log becomes so long: a page that many commits change is written to the database once, not every few commits.
const LOG_PAGES: u32 = 8_000;
const POSTGRES_CONNECTIONS: u32 = 12;
/// The engine's own: settling, recording and reading at the same time, and one to spare.
const HOT_CONNECTIONS: u32 = 4;
/// For those who look at deliveries that there are.
const LOOKUP_CONNECTIONS: u32 = 4;
/// What keeps the planner to the indexes that these statements were written for. Where a table is known to be empty, as
/// the queue is after a quiet night, a look at all of it costs no more than a look-up; such a plan is kept while the table
/// fills. So rows are looked up by what cannot be turned round: `= ANY (ARRAY[key])`, or a subquery with a limit.
const HOT_OPTIONS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // No row is looked up twice by one statement.
    ("enable_memoize", "off"),
    ("jit", "off"),
];
/// A connection that was in use so lately is not asked whether it still stands: that would be one round trip more for
/// every statement.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// No statement of ours takes this long; one that does is stuck behind somebody else.
const STATEMENT_TIMEOUT_MS: u32 = 10_000;

/// A value for each kind of database.
#[derive(Clone)]
pub(crate) enum Backend<S, P> {
    Sqlite(S),
    Postgres(P),
}

/// Runs one text on whichever database is behind it. Expanded before type checking, so that each arm uses its native
/// driver.
macro_rules! on {
    ($backend:expr, $connection:ident => $body:expr) => {
        match $backend {
            $crate::store::Backend::Sqlite($connection) => $body,
            $crate::store::Backend::Postgres($connection) => $body,
        }
    };
}
pub(crate) use on;

/// The configuration and queue database.
#[derive(Clone)]
pub struct Store {
    db: Backend<SqlitePools, PostgresPools>,
}

/// The engine has connections of its own: what it asks, it asks thousands of times, by key, and a plan made for a table
/// that was empty, or a table scan because it was small a minute ago, would be paid for that often. So do those who look up
/// deliveries by the thousand, without being in its way.
#[derive(Clone)]
struct PostgresPools {
    hot: PgPool,
    lookups: PgPool,
    rest: PgPool,
    put_off: Arc<PutOff>,
}

/// SQLite has one writer; readers do not wait for it.
#[derive(Clone)]
struct SqlitePools {
    /// Of one connection. Whoever has it may write, with this one or with `hot`.
    write: SqlitePool,
    read: SqlitePool,
    /// Reads the lanes of the queue, one after the other, and has in its cache what comes next.
    lanes: Direct,
    /// Records events and writes outcomes: see [`direct`].
    hot: Direct,
    checkpoints: Arc<Checkpoints>,
    unqueued: Arc<Unqueued>,
}

/// What a caller may want to tell apart.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row like this exists already; the name is the constraint's.
    #[error("conflict with {0}")]
    Conflict(String),
    /// The row it belongs to is gone.
    #[error("what it refers to does not exist")]
    Dangling,
    /// Somebody else has moved on what this was based on; nothing was changed.
    #[error("somebody else was faster")]
    Overtaken,
    /// Another node works for this shard now; nothing was changed.
    #[error("the lease was lost")]
    LeaseLost,
    /// The database cannot be reached or does not answer in time. Whether a commit happened is not known.
    #[error("the database is not available: {0}")]
    Unavailable(BoxError),
    #[error("{0}")]
    Other(BoxError),
    #[error("{0}")]
    Refused(String),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(cause) if cause.is_unique_violation() => {
                Self::Conflict(constraint_of(cause.as_ref()))
            }
            sqlx::Error::Database(cause) if cause.is_foreign_key_violation() => Self::Dangling,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error.into()),
            // Shutdown, crash recovery, too many connections, out of disk: classes 57, 53 and 08 of SQLSTATE.
            sqlx::Error::Database(cause)
                if cause.code().is_some_and(|code| ["57", "53", "08"].iter().any(|class| code.starts_with(class))) =>
            {
                Self::Unavailable(error.into())
            }
            // SQLite says so in words: busy, disk full, I/O error, read-only.
            sqlx::Error::Database(cause)
                if ["locked", "disk is full", "disk I/O", "readonly"]
                    .iter()
                    .any(|text| cause.message().contains(text)) =>
            {
                Self::Unavailable(error.into())
            }
            _ => Self::Other(error.into()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, ReadOnly, SystemIoFailure};
        match error.sqlite_error_code() {
            Some(CannotOpen | DatabaseBusy | DatabaseLocked | DiskFull | ReadOnly | SystemIoFailure) => {
                Self::Unavailable(error.into())
            }
            _ => Self::Other(error.into()),
        }
    }
}

/// PostgreSQL names the constraint; SQLite lists the columns, which are as unique a name.
fn constraint_of(cause: &dyn sqlx::error::DatabaseError) -> String {
    cause.constraint().map_or_else(|| cause.message().to_owned(), str::to_owned)
}

impl StoreError {
    /// Whether the uniqueness of `table.column` (the last column that matters) refused the row.
    pub fn is_conflict_on(&self, constraint: &str, sqlite_columns: &str) -> bool {
        matches!(self, Self::Conflict(name) if name == constraint || name.contains(sqlite_columns))
    }
}

impl Store {
    /// Opens `sqlite:///path/to/file` or `postgres://…`. Does not migrate.
    ///
    /// # Errors
    /// The address is of neither kind, the database cannot be reached, or its SQLite is too old to be trusted.
    pub async fn open(url: &str) -> Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Self::open_sqlite(Path::new(path)).await;
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Self::open_postgres(url).await;
        }
        Err(StoreError::Refused("database_url must start with sqlite:// or postgres://".to_owned()))
    }

    /// Where the database of an address is, in words, without what is secret in the address. `None` when it is no address.
    pub fn place_of(url: &str) -> Option<String> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Some(format!("SQLite, {path}"));
        }
        let options = PgConnectOptions::from_str(url).ok()?;
        let place = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        Some(format!("PostgreSQL, {place}"))
    }

    async fn open_sqlite(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A committed delivery survives a power cut; group commits make that nearly free.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(512)
            // Rows come from a thread of the driver's: a whole read fits, so that it never waits for us.
            .row_buffer_size(1_024)
            .pragma("cache_size", SQLITE_CACHE.to_string())
            // A page holds ten payloads.
            .page_size(8_192)
            .pragma("wal_autocheckpoint", LOG_PAGES.to_string());
        let checkpoints = Arc::new(Checkpoints::start(options.clone(), LOG_PAGES, LOG_PAGES));
        let write = checkpoints.writer(options.clone()).await?;
        let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()").fetch_one(&write).await?;
        if parse_version(&version) < Some(OLDEST_SQLITE) {
            let (major, minor, patch) = OLDEST_SQLITE;
            return Err(StoreError::Refused(format!(
                "SQLite {version} can corrupt databases; {major}.{minor}.{patch} or newer is needed"
            )));
        }
        let options = options.read_only(true);
        let read = SqlitePoolOptions::new()
            .max_connections(SQLITE_READERS)
            // What is in this process need not be asked whether it is there.
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        let (lanes, hot) = (Direct::reader(path).await?, Direct::writer(path).await?);
        Ok(Self { db: Backend::Sqlite(SqlitePools { write, read, lanes, hot, checkpoints, unqueued: Arc::default() }) })
    }

    async fn open_postgres(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::Refused(format!("database_url cannot be read: {error}")))?
            .application_name("pulsehook")
            .options([
                ("statement_timeout", STATEMENT_TIMEOUT_MS.to_string().as_str()),
                ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT_MS.to_string().as_str()),
            ])
            .log_slow_statements(log::LevelFilter::Debug, Duration::from_secs(1));
        let pool = |most: u32, options: PgConnectOptions| {
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(Duration::from_secs(5))
                .test_before_acquire(false)
                .before_acquire(|connection, about| {
                    Box::pin(async move { Ok(about.idle_for < FRESH_FOR || connection.ping().await.is_ok()) })
                })
                .connect_with(options)
        };
        let hot = match pool(HOT_CONNECTIONS, options.clone().options(HOT_OPTIONS)).await {
            // The pool does not say why it could not connect; a connection does.
            Err(sqlx::Error::PoolTimedOut) => {
                return Err(options.connect().await.err().unwrap_or(sqlx::Error::PoolTimedOut).into());
            }
            outcome => outcome?,
        };
        let lookups = pool(LOOKUP_CONNECTIONS, options.clone().options(HOT_OPTIONS)).await?;
        let rest = pool(POSTGRES_CONNECTIONS, options).await?;
        Ok(Self { db: Backend::Postgres(PostgresPools { hot, lookups, rest, put_off: Arc::default() }) })
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<()> {
        on!(self.reader(), pool => sqlx::query("SELECT 1").execute(pool).await.map(drop))?;
        Ok(())
    }

    pub async fn close(&self) {
        match &self.db {
            Backend::Sqlite(pools) => {
                pools.checkpoints.close().await;
                pools.read.close().await;
                pools.lanes.close().await;
                pools.hot.close().await;
                pools.write.close().await;
            }
            Backend::Postgres(pools) => {
                pools.hot.close().await;
                pools.lookups.close().await;
                pools.rest.close().await;
            }
        }
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.db, Backend::Sqlite(_))
    }

    /// For statements that change nothing.
    fn reader(&self) -> Backend<&SqlitePool, &PgPool> {
        match &self.db {
            Backend::Sqlite(pools) => Backend::Sqlite(&pools.read),
            Backend::Postgres(pools) => Backend::Postgres(&pools.rest),
        }
    }

    /// For single statements that change something.
    fn writer(&self) -> Backend<&SqlitePool, &PgPool> {
        match &self.db {
            Backend::Sqlite(pools) => Backend::Sqlite(&pools.write),
            Backend::Postgres(pools) => Backend::Postgres(&pools.rest),
        }
    }

    /// For the engine's statements outside a transaction: on SQLite a reader, on PostgreSQL a connection of the engine's.
    fn hot(&self) -> Backend<&SqlitePool, &PgPool> {
        match &self.db {
            Backend::Sqlite(pools) => Backend::Sqlite(&pools.read),
            Backend::Postgres(pools) => Backend::Postgres(&pools.hot),
        }
    }

    /// For statements that look up deliveries by key, many of them, and change nothing.
    fn lookups(&self) -> Backend<&SqlitePool, &PgPool> {
        match &self.db {
            Backend::Sqlite(pools) => Backend::Sqlite(&pools.read),
            Backend::Postgres(pools) => Backend::Postgres(&pools.lookups),
        }
    }

    fn unqueued(&self) -> Option<&Unqueued> {
        match &self.db {
            Backend::Sqlite(pools) => Some(&pools.unqueued),
            Backend::Postgres(_) => None,
        }
    }

    /// For several statements that stand or fall together.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(match &self.db {
            Backend::Sqlite(pools) => {
                // IMMEDIATE: a transaction that reads first must not find itself behind another writer later.
                let tx = pools.write.begin_with("BEGIN IMMEDIATE").await?;
                Tx(Backend::Sqlite(tx), Taken::of(&pools.unqueued))
            }
            Backend::Postgres(pools) => Tx(Backend::Postgres(pools.rest.begin().await?), Taken::default()),
        })
    }

    /// The same for who looks up deliveries by the thousand.
    async fn begin_lookups(&self) -> Result<Tx> {
        match &self.db {
            Backend::Sqlite(_) => self.begin().await,
            Backend::Postgres(pools) => Ok(Tx(Backend::Postgres(pools.lookups.begin().await?), Taken::default())),
        }
    }

    /// The same for the engine.
    async fn begin_hot(&self) -> Result<Tx> {
        match &self.db {
            Backend::Sqlite(_) => self.begin().await,
            Backend::Postgres(pools) => Ok(Tx(Backend::Postgres(pools.hot.begin().await?), Taken::default())),
        }
    }
}

/// An open transaction. Dropped without [`Tx::commit`], nothing of it happened.
pub struct Tx(pub(crate) Backend<Transaction<'static, Sqlite>, Transaction<'static, Postgres>>, Taken);

impl Tx {
    pub async fn commit(self) -> Result<()> {
        let Self(backend, taken) = self;
        on!(backend, transaction => transaction.commit().await)?;
        taken.for_good();
        Ok(())
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    match (parts.next()?, parts.next()?, parts.next()?) {
        (Ok(major), Ok(minor), Ok(patch)) => Some((major, minor, patch)),
        _ => None,
    }
}
