//! The audit log: every change, written in the transaction that makes it.

use uuid::Uuid;

use super::{Result, Tx, on};
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
