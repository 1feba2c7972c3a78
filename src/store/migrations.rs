//! Brings the schema up to date.

use sqlx::migrate::{Migrate as _, MigrateError};
use sqlx::{ConnectOptions as _, Connection as _, PgPool};

use super::{Backend, Result, STATEMENT_TIMEOUT_MS, Store, StoreError};

impl Store {
    /// Brings the schema up to date. Safe to run from several nodes at once.
    ///
    /// # Errors
    /// The schema is none that this version knows, or somebody keeps a table from being changed.
    pub async fn migrate(&self) -> Result<()> {
        // A newer version may have been here: what it added is no business of ours, and it keeps what we need until no
        // node of ours is left.
        let outcome = match &self.db {
            Backend::Sqlite(pools) => {
                sqlx::migrate!("migrations/sqlite").set_ignore_missing(true).run(&pools.write).await
            }
            Backend::Postgres(pools) => migrate_postgres(&pools.rest).await,
        };
        outcome.map_err(|error| match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, version) if is_locked(&error) => StoreError::Refused(format!(
                "migration {version} has to change a table that somebody else has locked, a backup perhaps; nothing was changed, \
                 try again: {error}"
            )),
            MigrateError::ExecuteMigration(error, version) => {
                StoreError::Refused(format!("migration {version} could not be carried out: {error}"))
            }
            error => StoreError::Refused(format!("the database's schema is not one this version knows: {error}")),
        })
    }
}

/// Whether a lock was waited for too long, by PostgreSQL's code for it.
fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// However long it takes to go through years of events, and to wait for a node that does. But whoever waits for a table keeps
/// everybody else waiting who comes after: that is not for longer than any other statement may take.
async fn migrate_postgres(pool: &PgPool) -> Result<(), MigrateError> {
    let options = (*pool.connect_options()).clone().options([("statement_timeout", "0")]);
    let mut connection = options.connect().await?;
    connection.lock().await?;
    let patience = sqlx::AssertSqlSafe(format!("SET lock_timeout = {STATEMENT_TIMEOUT_MS}"));
    sqlx::query(patience).execute(&mut connection).await?;
    sqlx::migrate!("migrations/postgres").set_ignore_missing(true).set_locking(false).run(&mut connection).await?;
    // The lock ends with the connection.
    Ok(connection.close().await?)
}
