//! SQLite without a driver between, for the statements that run for every delivery.
//!
//! The driver has a thread for each connection, which hands over row by row, and every value by itself. That is most of what a
//! row costs that is found by its key. Here whoever asks goes to the connection and takes from its rows what he needs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OpenFlags};
use tracing::trace;

use super::{Result, SQLITE_CACHE, StoreError};

/// So long somebody else may have the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection. Cheap to clone; who comes while it is in use waits.
#[derive(Clone)]
pub(super) struct Direct(Arc<Mutex<Option<Connection>>>);

impl Direct {
    /// One that only reads.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn reader(path: PathBuf) -> Result<Self> {
        aside(move || {
            let connection =
                Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "cache_size", SQLITE_CACHE)?;
            Ok(Self(Arc::new(Mutex::new(Some(connection)))))
        })
        .await
    }

    /// Has the connection do something, on a thread that may wait for the disk. It is done even if nobody waits any more.
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
        // A connection that was only read from has nothing to lose.
        let _ = aside(move || Ok(place.lock().unwrap_or_else(PoisonError::into_inner).take().is_some())).await;
    }
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
