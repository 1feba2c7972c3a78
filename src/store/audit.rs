//! The audit log: every change, written in the transaction that makes it.

use serde_json::Value;
use uuid::Uuid;

use super::{Result, Store, Tx, on};
use crate::domain::access::{Actor, Origin, Who};
use crate::domain::ids::AccountId;
use crate::domain::time::Timestamp;

/// A change in the making: who wants it, in which account, and when.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub account_id: AccountId,
    pub who: Who,
    pub now: Timestamp,
    /// Key of the audit row.
    pub id: Uuid,
    pub origin: Origin,
}

impl Change {
    pub fn by(actor: &Actor, now: Timestamp, id: Uuid) -> Self {
        Self { account_id: actor.account_id, who: actor.who, now, id, origin: actor.origin }
    }

    /// A change that no request asked for.
    pub fn without_request(account_id: AccountId, who: Who, now: Timestamp, id: Uuid) -> Self {
        Self { account_id, who, now, id, origin: Origin::default() }
    }
}

/// One change that was made.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Entry {
    pub id: Uuid,
    pub actor: String,
    pub action: String,
    pub object: String,
    /// What was changed into what, as JSON.
    pub detail: String,
    /// The network it was asked from; empty when nobody asked.
    pub network: String,
    pub request_id: Option<Uuid>,
    pub inserted_at: Timestamp,
}

impl Store {
    /// Newest first, only those older than `before`.
    pub async fn audit_log(&self, account_id: AccountId, before: Option<Uuid>, limit: i64) -> Result<Vec<Entry>> {
        const SQL: &str = "
            SELECT id, actor, action, object, detail, network, request_id, inserted_at
            FROM audit_log
            WHERE account_id = $1 AND ($2 IS NULL OR id < $2)
            ORDER BY id DESC
            LIMIT $3";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(before).bind(limit).fetch_all(pool).await)?)
    }
}

impl Store {
    /// Records what changes nothing but is worth knowing, such as a sign-in that was refused.
    pub async fn note(&self, change: &Change, action: &'static str, object: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.audit(change, action, object).await?;
        tx.commit().await
    }

    /// Removes entries older than `before`, at most `limit`. Answers how many.
    pub async fn operator_prune_audit(&self, before: Timestamp, limit: i64) -> Result<u64> {
        const SQL: &str = "
            DELETE FROM audit_log
            WHERE id IN (SELECT id FROM audit_log WHERE id < $1 ORDER BY id LIMIT $2)";
        // Keys begin with their time.
        let first = super::retention::first_id_of(before).0;
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(first).bind(limit).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

impl Tx {
    /// Records `change`. `object` names what was changed, never a secret.
    pub(super) async fn audit(&mut self, change: &Change, action: &'static str, object: &str) -> Result<()> {
        self.audit_with(change, action, object, &Value::Object(serde_json::Map::new())).await
    }

    /// The same with what was changed into what, which holds no secret either.
    pub(super) async fn audit_with(
        &mut self,
        change: &Change,
        action: &'static str,
        object: &str,
        detail: &Value,
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO audit_log (id, account_id, actor, action, object, detail, network, request_id, inserted_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(change.id)
            .bind(change.account_id)
            .bind(change.who.to_string())
            .bind(action)
            .bind(object)
            .bind(detail.to_string())
            .bind(change.origin.network.map(|network| network.to_string()).unwrap_or_default())
            .bind(change.origin.request_id)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        Ok(())
    }
}

/// What of `after` is not as it was in `before`, each with what it was and what it is.
pub fn difference(before: &Value, after: &Value) -> Value {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else {
        return Value::Object(serde_json::Map::new());
    };
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    changed.map(|(name, value)| (name.clone(), serde_json::json!([before.get(name), value]))).collect()
}
