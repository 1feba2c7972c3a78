//! What a database says of itself, for whoever checks a set-up.

use std::collections::BTreeSet;

use super::{Backend, Result, Store};
use crate::domain::time::Timestamp;

/// A database as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Kind and version.
    pub server: String,
    /// By its own clock; on SQLite it has none.
    pub clock: Option<Timestamp>,
    /// Steps of the schema that this version knows and the database does not have.
    pub missing: usize,
    /// Steps that the database has and this version does not know: a newer one was here.
    pub unknown: usize,
}

impl Store {
    /// Looks at the database without changing anything.
    pub async fn condition(&self) -> Result<Condition> {
        const VERSION_SQLITE: &str = "SELECT sqlite_version()";
        const VERSION_POSTGRES: &str = "
            SELECT current_setting('server_version'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let (server, clock) = match self.reader() {
            Backend::Sqlite(pool) => {
                let version: String = sqlx::query_scalar(VERSION_SQLITE).fetch_one(pool).await?;
                (format!("SQLite {version}"), None)
            }
            Backend::Postgres(pool) => {
                let (version, clock): (String, i64) = sqlx::query_as(VERSION_POSTGRES).fetch_one(pool).await?;
                let version = version.split(' ').next().unwrap_or_default().to_owned();
                (format!("PostgreSQL {version}"), Some(Timestamp::from_micros(clock)))
            }
        };
        let applied = self.applied_steps().await?;
        let known: BTreeSet<_> = match &self.db {
            Backend::Sqlite(_) => sqlx::migrate!("migrations/sqlite").iter().map(|step| step.version).collect(),
            Backend::Postgres(_) => sqlx::migrate!("migrations/postgres").iter().map(|step| step.version).collect(),
        };
        let missing = known.difference(&applied).count();
        Ok(Condition { server, clock, missing, unknown: applied.difference(&known).count() })
    }

    async fn applied_steps(&self) -> Result<BTreeSet<i64>> {
        const THERE_SQLITE: &str = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
        const THERE_POSTGRES: &str = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('_sqlx_migrations')";
        const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";
        let there: i64 = match self.reader() {
            Backend::Sqlite(pool) => sqlx::query_scalar(THERE_SQLITE).fetch_one(pool).await?,
            Backend::Postgres(pool) => sqlx::query_scalar(THERE_POSTGRES).fetch_one(pool).await?,
        };
        if there == 0 {
            return Ok(BTreeSet::new());
        }
        let applied: Vec<i64> = super::on!(self.reader(), pool => sqlx::query_scalar(APPLIED).fetch_all(pool).await)?;
        Ok(applied.into_iter().collect())
    }
}
