//! What the built-in inbox took: the last requests of each webhook, for a day.

use sqlx::FromRow;
use uuid::Uuid;

use super::retention::first_id_of;
use super::{Result, Store, on};
use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::domain::inbox::{KEPT_MOST, Verdict};
use crate::domain::time::Timestamp;

/// A request as a receiver would have seen it.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct InboxRequest {
    /// Sorts by the moment it came.
    pub id: Uuid,
    pub event_id: EventId,
    pub verdict: Verdict,
    /// JSON: a list of pairs.
    pub headers: String,
    pub body: Vec<u8>,
    pub received_at: Timestamp,
}

impl Store {
    /// Keeps a request; the oldest of its webhook make room for it.
    ///
    /// # Errors
    /// [`super::StoreError::Dangling`] when the webhook is gone.
    pub async fn keep_in_inbox(
        &self,
        account_id: AccountId,
        webhook_id: WebhookId,
        request: &InboxRequest,
    ) -> Result<()> {
        const INSERT: &str = "
            INSERT INTO inbox (id, account_id, webhook_id, event_id, verdict, headers, body, received_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        const MAKE_ROOM: &str = "
            DELETE FROM inbox
            WHERE account_id = $1 AND webhook_id = $2
                AND id <= (SELECT id FROM inbox WHERE webhook_id = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(INSERT)
            .bind(request.id)
            .bind(account_id)
            .bind(webhook_id)
            .bind(request.event_id)
            .bind(request.verdict)
            .bind(&request.headers)
            .bind(&request.body)
            .bind(request.received_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        on!(&mut tx.0, tx => sqlx::query(MAKE_ROOM)
            .bind(account_id)
            .bind(webhook_id)
            .bind(i64::from(KEPT_MOST))
            .execute(&mut **tx)
            .await
            .map(drop))?;
        tx.commit().await
    }

    /// What the inbox has of a webhook, newest first.
    pub async fn inbox(&self, account_id: AccountId, webhook_id: WebhookId) -> Result<Vec<InboxRequest>> {
        const SQL: &str = "
            SELECT id, event_id, verdict, headers, body, received_at
            FROM inbox
            WHERE account_id = $1 AND webhook_id = $2
            ORDER BY id DESC";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(webhook_id).fetch_all(pool).await)?)
    }

    /// Removes what came before a moment. Answers how many.
    pub async fn operator_prune_inbox(&self, before: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM inbox WHERE id < $1";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(first_id_of(before)).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}
