//! API keys. Only the hash is stored; the prefix tells people which key is which.

use super::audit::Change;
use super::{Result, Store, on};
use crate::domain::access::Role;
use crate::domain::ids::{AccountId, KeyId, SiteId};
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct ApiKey {
    pub id: KeyId,
    pub account_id: AccountId,
    pub name: String,
    pub role: Role,
    /// First characters of the key, enough to recognise it.
    pub prefix: String,
    /// Nothing of the account but this site is there for it.
    pub site_id: Option<SiteId>,
    /// Who made it, as in the audit log; empty when nobody remembers.
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub inserted_at: Timestamp,
}

/// A key somebody came with.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct KnownKey {
    pub id: KeyId,
    pub account_id: AccountId,
    pub role: Role,
    pub site_id: Option<SiteId>,
    pub last_used_at: Option<Timestamp>,
    /// Whether the account is not suspended.
    pub active: bool,
}

/// Keys an account may have.
pub const MOST_KEYS: i64 = 200;

impl Store {
    /// `false` when the account has [`MOST_KEYS`] already.
    pub async fn create_key(&self, change: &Change, key: &ApiKey, key_hash: &[u8]) -> Result<bool> {
        const SQL: &str = "
            INSERT INTO api_keys
                (id, account_id, name, role, prefix, key_hash, expires_at, inserted_at, site_id, created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        const COUNT: &str = "SELECT count(*) FROM api_keys WHERE account_id = $1";
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let count: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(COUNT)
            .bind(change.account_id).fetch_one(&mut **tx).await)?;
        if count >= MOST_KEYS {
            return Ok(false);
        }
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(key.id)
            .bind(change.account_id)
            .bind(&key.name)
            .bind(key.role)
            .bind(&key.prefix)
            .bind(key_hash)
            .bind(key.expires_at)
            .bind(key.inserted_at)
            .bind(key.site_id)
            .bind(&key.created_by)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        let detail = serde_json::json!({ "role": key.role, "site": key.site_id, "expires_at": key.expires_at });
        tx.audit_with(change, "key.create", &key.id.to_string(), &detail).await?;
        tx.commit().await?;
        Ok(true)
    }

    pub async fn keys(&self, account_id: AccountId) -> Result<Vec<ApiKey>> {
        const SQL: &str = "
            SELECT id, account_id, name, role, prefix, site_id, created_by, expires_at, last_used_at, inserted_at
            FROM api_keys
            WHERE account_id = $1
            ORDER BY inserted_at, id";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).fetch_all(pool).await)?)
    }

    /// The key of this hash, unless it has expired, and whether its account is active. Knowing the hash is knowing the key,
    /// so this is where the account comes from.
    pub async fn operator_key_by_hash(&self, key_hash: &[u8], now: Timestamp) -> Result<Option<KnownKey>> {
        const SQL: &str = "
            SELECT api_keys.id, api_keys.account_id, role, site_id, last_used_at, accounts.status = 'active' AS active
            FROM api_keys
            JOIN accounts ON accounts.id = api_keys.account_id
            WHERE key_hash = $1 AND (expires_at IS NULL OR expires_at > $2)";
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
