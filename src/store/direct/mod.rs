//! SQLite without the driver, for what is done with every delivery: its event is recorded ([`step`]), it is read
//! ([`super::queue`]) and its outcomes are written ([`outcomes`]).
//!
//! The driver has a thread for each connection, and each statement goes there and back, as do BEGIN, COMMIT and every value of
//! every row. For rows that are found by their keys that is most of what they cost, and while a transaction waits for it nobody
//! else can write. Here whoever asks goes to the connection himself, on a thread that may wait for the disk.
//!
//! Transactions are the usual ones. If something is not as usual nothing of one happens, and it goes the long way then, which
//! finds out what is different.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OpenFlags, Transaction, TransactionBehavior, ffi};
use tracing::trace;

use super::unqueued::Taken;
use super::{LOG_PAGES, Result, SQLITE_CACHE, SqlitePools, StoreError};

pub(super) mod outcomes;
pub(super) mod step;
#[cfg(test)]
mod tests;

/// So long somebody else may have the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// Statements that stay prepared: there is one for each number of rows.
const STATEMENTS: usize = 256;

/// One connection. Cheap to clone; who comes while it is in use waits.
#[derive(Clone)]
pub(super) struct Direct(Arc<Mutex<Option<Connection>>>);

impl Direct {
    /// One that only reads.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn reader(path: &Path) -> Result<Self> {
        Self::open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, |_| Ok(())).await
    }

    /// One that writes, for [`in_turn`]. A commit survives a power cut.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn writer(path: &Path) -> Result<Self> {
        Self::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, |connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)
        })
        .await
    }

    async fn open(
        path: &Path,
        flags: OpenFlags,
        set_up: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let path = path.to_owned();
        aside(move || {
            let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "cache_size", SQLITE_CACHE)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            set_up(&connection)?;
            Ok(Self(Arc::new(Mutex::new(Some(connection)))))
        })
        .await
    }

    /// Has something done with the connection. It is done even if nobody waits for it any more.
    pub async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.0);
        aside(move || {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = place.as_mut().ok_or_else(|| StoreError::Unavailable("it is closed".into()))?;
            Ok(work(connection)?)
        })
        .await
    }

    /// When what is under way is done.
    pub async fn close(&self) {
        let place = Arc::clone(&self.0);
        // What could still be lost is in nobody's hands: transactions are over by now.
        let _ = aside(move || Ok(place.lock().unwrap_or_else(PoisonError::into_inner).take().is_some())).await;
    }
}

/// Runs a transaction, while nobody else in this process writes. Without an answer nothing of it happens, nor if a row it writes
/// is there already; then there is none either.
///
/// # Errors
/// As with every other transaction; only the COMMIT leaves it open whether anything happened.
async fn in_turn<T: Send + 'static>(
    pools: &SqlitePools,
    work: impl FnOnce(&Transaction<'_>, &mut Taken) -> rusqlite::Result<Option<T>> + Send + 'static,
) -> Result<Option<T>> {
    // Who writes over the driver has its only connection that does.
    let turn = pools.write.acquire().await?;
    let (unqueued, checkpoints) = (Arc::clone(&pools.unqueued), Arc::clone(&pools.checkpoints));
    let run = move |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut taken = Taken::of(&unqueued);
        let Some(answer) = work(&transaction, &mut taken)? else { return Ok(None) };
        transaction.commit()?;
        taken.for_good();
        checkpoints.committed();
        drop(turn);
        Ok(Some(answer))
    };
    let there_already = |error: &rusqlite::Error| {
        let code = error.sqlite_error().map(|error| error.extended_code);
        matches!(code, Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
    };
    pools
        .hot
        .on(move |connection| match run(connection) {
            Err(error) if there_already(&error) => Ok(None),
            outcome => outcome,
        })
        .await
}

/// Prepared when it is first asked for.
pub(super) fn statement<'c>(connection: &'c Connection, text: &str) -> rusqlite::Result<CachedStatement<'c>> {
    trace!(db.statement = text);
    connection.prepare_cached(text)
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(StoreError::Unavailable(error.into())),
    })
}
