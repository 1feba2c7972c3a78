//! The audit log: every change, written in the transaction that makes it.

use uuid::Uuid;

use super::{Result, Store, Tx, on};
use crate::domain::access::{Actor, Who};
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
}

impl Change {
    pub fn by(actor: &Actor, now: Timestamp, id: Uuid) -> Self {
        Self { account_id: actor.account_id, who: actor.who, now, id }
    }
}

/// One change that was made.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Entry {
    pub id: Uuid,
    pub actor: String,
    pub action: String,
    pub object: String,
    pub inserted_at: Timestamp,
}

impl Store {
    /// Newest first, only those older than `before`.
    pub async fn audit_log(&self, account_id: AccountId, before: Option<Uuid>, limit: i64) -> Result<Vec<Entry>> {
        const SQL: &str = "
            SELECT id, actor, action, object, inserted_at
            FROM audit_log
            WHERE account_id = $1 AND ($2 IS NULL OR id < $2)
            ORDER BY id DESC
            LIMIT $3";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(before).bind(limit).fetch_all(pool).await)?)
    }
}

impl Tx {
    /// Records `change`. `object` names what was changed, never a secret.
    pub(super) async fn audit(&mut self, change: &Change, action: &'static str, object: &str) -> Result<()> {
        const SQL: &str = "
            INSERT INTO audit_log (id, account_id, actor, action, object, inserted_at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(change.id)
            .bind(change.account_id)
            .bind(change.who.to_string())
            .bind(action)
            .bind(object)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        Ok(())
    }
}
