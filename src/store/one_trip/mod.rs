//! Small transactions on SQLite, from BEGIN to COMMIT, as one trip to the thread of its driver.
//!
//! Each statement by itself goes there and back, as do BEGIN, COMMIT and the connection that is given back: for a few rows that
//! is most of what a transaction costs, and nobody else can write meanwhile. So a usual one goes there whole, with what must
//! hold for it. If something does not hold it fails by itself and nothing of it happens; it goes the long way then, which finds
//! out what is different.

use sqlx::error::ErrorKind;
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqlitePool};

use super::rows::Query;

pub(super) mod outcomes;
pub(super) mod step;
#[cfg(test)]
mod tests;

/// Rows of a kind that a trip takes. There is a text for each combination of sizes, and many rows are what costs, not trips.
const MOST: usize = 16;
/// Holds if the statement before it changed so many rows, and changes none itself.
const CHANGED_SQLITE: &str =
    "INSERT OR FAIL INTO facts (name, value) SELECT 'does not hold', NULL WHERE changes() <> ?";

/// The text of a transaction. Its parts have no numbered parameters: what is bound goes to one after the other.
fn script(parts: &[&str]) -> String {
    format!("BEGIN IMMEDIATE; {}; COMMIT", parts.join("; "))
}

/// Whoever has it can write and nobody else.
struct Trip {
    connection: PoolConnection<Sqlite>,
    /// The driver does not know of the transaction, so a connection that may be in one is not given back.
    may_be_open: bool,
}

impl Trip {
    async fn begin(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: pool.acquire().await?, may_be_open: false })
    }

    /// Runs a [`script`]. `false`: something does not hold, or a row is there already, and nothing happened.
    ///
    /// # Errors
    /// As with every other transaction; only the COMMIT leaves it open whether anything happened.
    async fn run(mut self, script: Query<'_>) -> Result<bool, sqlx::Error> {
        self.may_be_open = true;
        let outcome = script.execute(&mut *self.connection).await;
        self.may_be_open = match &outcome {
            Ok(_) => false,
            // Refused too where SQLite has taken it back already: see `Checkpoints::writer`.
            Err(_) => sqlx::query("ROLLBACK").execute(&mut *self.connection).await.is_err(),
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error))
                if matches!(error.kind(), ErrorKind::NotNullViolation | ErrorKind::UniqueViolation) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        if self.may_be_open {
            self.connection.close_on_drop();
        }
    }
}
