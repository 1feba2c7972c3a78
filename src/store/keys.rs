//! API keys. Only the hash is stored; the prefix tells people which key is which.

use super::audit::Change;
use super::{Result, Store, on};
use crate::domain::access::Role;
use crate::domain::ids::{AccountId, KeyId};
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct ApiKey {
    pub id: KeyId,
    pub account_id: AccountId,
    pub name: String,
    pub role: Role,
    /// First characters of the key, enough to recognise it.
    pub prefix: String,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub inserted_at: Timestamp,
}

impl Store {
    pub async fn create_key(&self, change: &Change, key: &ApiKey, key_hash: &[u8]) -> Result<()> {
        const SQL: &str = "
            INSERT INTO api_keys (id, account_id, name, role, prefix, key_hash, expires_at, inserted_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(key.id)
            .bind(change.account_id)
            .bind(&key.name)
            .bind(key.role)
            .bind(&key.prefix)
            .bind(key_hash)
            .bind(key.expires_at)
            .bind(key.inserted_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        tx.audit(change, "key.create", &key.id.to_string()).await?;
        tx.commit().await
    }

    pub async fn keys(&self, account_id: AccountId) -> Result<Vec<ApiKey>> {
        const SQL: &str = "
            SELECT id, account_id, name, role, prefix, expires_at, last_used_at, inserted_at
            FROM api_keys
            WHERE account_id = $1
            ORDER BY inserted_at, id";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).fetch_all(pool).await)?)
    }

    /// The key of this hash, unless it has expired or its account is suspended. Knowing the hash is knowing the key, so
    /// this is where the account comes from.
    pub async fn operator_key_by_hash(&self, key_hash: &[u8], now: Timestamp) -> Result<Option<ApiKey>> {
        const SQL: &str = "
            SELECT api_keys.id, api_keys.account_id, api_keys.name, role, prefix, expires_at, last_used_at,
                api_keys.inserted_at
            FROM api_keys
            JOIN accounts ON accounts.id = api_keys.account_id
            WHERE key_hash = $1
                AND (expires_at IS NULL OR expires_at > $2)
                AND accounts.status = 'active'";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(key_hash).bind(now).fetch_optional(pool).await)?)
    }

    pub async fn touch_key(&self, account_id: AccountId, id: KeyId, now: Timestamp) -> Result<()> {
        const SQL: &str = "UPDATE api_keys SET last_used_at = $3 WHERE account_id = $1 AND id = $2";
        on!(self.writer(), pool => sqlx::query(SQL).bind(account_id).bind(id).bind(now).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Whether there was such a key.
    pub async fn delete_key(&self, change: &Change, id: KeyId) -> Result<bool> {
        const SQL: &str = "DELETE FROM api_keys WHERE account_id = $1 AND id = $2";
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id).bind(id).execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Ok(false);
        }
        tx.audit(change, "key.delete", &id.to_string()).await?;
        tx.commit().await?;
        Ok(true)
    }
}
