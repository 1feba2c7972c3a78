//! Single facts about the installation.

use super::{Result, Store, Tx, on};

/// Hash of the one-time set-up token, while nobody has used it.
pub const SETUP_TOKEN: &str = "setup_token_hash";

/// How the facts begin that say which master keys a process works with; the rest is its name among the nodes. The value is
/// when it started and the names of the keys, the newest first.
pub const MASTER_KEYS: &str = "master_keys:";

pub(super) const CATALOG_VERSION: &str = "SELECT value FROM facts WHERE name = 'catalog_version'";

impl Store {
    pub async fn fact(&self, name: &str) -> Result<Option<String>> {
        const SQL: &str = "SELECT value FROM facts WHERE name = $1";
        Ok(on!(self.reader(), pool => sqlx::query_scalar(SQL).bind(name).fetch_optional(pool).await)?)
    }

    pub async fn set_fact(&self, name: &str, value: &str) -> Result<()> {
        const SQL: &str = "
            INSERT INTO facts (name, value) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        on!(self.writer(), pool => sqlx::query(SQL).bind(name).bind(value).execute(pool).await.map(drop))?;
        Ok(())
    }

    pub async fn forget_fact(&self, name: &str) -> Result<()> {
        const SQL: &str = "DELETE FROM facts WHERE name = $1";
        on!(self.writer(), pool => sqlx::query(SQL).bind(name).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Which master keys each process works with that did not end yet, or ended without a word: name of the fact, value.
    pub async fn operator_master_keys(&self) -> Result<Vec<(String, String)>> {
        const SQL: &str = "SELECT name, value FROM facts WHERE name LIKE 'master_keys:%' ORDER BY name";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }

    /// Moves with every change of what is watched: sites, goals, webhooks, triggers.
    pub async fn catalog_version(&self) -> Result<i64> {
        let version = self.fact("catalog_version").await?;
        Ok(version.and_then(|text| text.parse().ok()).unwrap_or(0))
    }
}

impl Tx {
    /// Takes a fact away and says whether it had this value: what can be used once is used once.
    pub(super) async fn take_fact(&mut self, name: &str, value: &str) -> Result<bool> {
        const SQL: &str = "DELETE FROM facts WHERE name = $1 AND value = $2";
        let taken = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(name).bind(value).execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        Ok(taken == 1)
    }

    /// [`Store::catalog_version`], for who goes on only if it is what they knew.
    pub(super) async fn catalog_version(&mut self) -> Result<i64> {
        let version: Option<String> =
            on!(&mut self.0, tx => sqlx::query_scalar(CATALOG_VERSION).fetch_optional(&mut **tx).await)?;
        Ok(version.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Tells every node that what is watched has changed.
    pub(super) async fn touch_catalog(&mut self) -> Result<()> {
        const SQL: &str = "
            UPDATE facts
            SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT)
            WHERE name = 'catalog_version'";
        on!(&mut self.0, tx => sqlx::query(SQL).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }
}
