//! Everything that is kept sealed, for whoever seals it anew with another key: a few rows at a time, by key, each written
//! only if it is still what was read. This room opens nothing.

use sqlx::FromRow;

use super::{Result, Store, on};
use crate::domain::ids::{AccountId, WebhookId};
use crate::failpoint;

/// What is sealed of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SealedWebhook {
    pub id: WebhookId,
    pub account_id: AccountId,
    /// Readable: of an address that is sealed its host.
    pub url: String,
    pub sealed_url: Option<Vec<u8>>,
    pub headers: Option<Vec<u8>>,
    pub secret: Option<Vec<u8>>,
    pub previous_secret: Option<Vec<u8>>,
}

/// An answer that is kept in case its request is repeated.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SealedAnswer {
    pub account_id: AccountId,
    pub key: String,
    pub response: Vec<u8>,
}

impl Store {
    /// The webhooks that come after this one.
    pub async fn operator_sealed_webhooks(&self, after: WebhookId, limit: i64) -> Result<Vec<SealedWebhook>> {
        const SQL: &str = "
            SELECT id, account_id, url, sealed_url, headers, secret, previous_secret
            FROM webhooks
            WHERE id > $1
            ORDER BY id
            LIMIT $2";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL).bind(after).bind(limit).fetch_all(pool).await)?)
    }

    /// Writes each that is still what it was before; one that was edited or deleted meanwhile stays as it is now. Its
    /// version stays too: it says the same. Answers how many were written.
    pub async fn operator_reseal_webhooks(&self, pairs: &[(SealedWebhook, SealedWebhook)]) -> Result<u64> {
        const SQL: &str = "
            UPDATE webhooks
            SET headers = $3, secret = $4, previous_secret = $5, url = $9, sealed_url = $10
            WHERE account_id = $1 AND id = $2
                AND headers IS NOT DISTINCT FROM $6
                AND secret IS NOT DISTINCT FROM $7
                AND previous_secret IS NOT DISTINCT FROM $8
                AND url = $11
                AND sealed_url IS NOT DISTINCT FROM $12";
        let mut written = 0;
        let mut tx = self.begin().await?;
        for (before, after) in pairs {
            written += on!(&mut tx.0, tx => sqlx::query(SQL)
                .bind(before.account_id)
                .bind(before.id)
                .bind(&after.headers)
                .bind(&after.secret)
                .bind(&after.previous_secret)
                .bind(&before.headers)
                .bind(&before.secret)
                .bind(&before.previous_secret)
                .bind(&after.url)
                .bind(&after.sealed_url)
                .bind(&before.url)
                .bind(&before.sealed_url)
                .execute(&mut **tx)
                .await
                .map(|done| done.rows_affected()))?;
        }
        tx.commit().await?;
        failpoint::hit("resealed");
        Ok(written)
    }

    /// The kept answers that come after this one.
    pub async fn operator_sealed_answers(
        &self,
        account_id: AccountId,
        key: &str,
        limit: i64,
    ) -> Result<Vec<SealedAnswer>> {
        const SQL: &str = "
            SELECT account_id, key, response
            FROM idempotency_keys
            WHERE (account_id, key) > ($1, $2) AND response IS NOT NULL
            ORDER BY account_id, key
            LIMIT $3";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(key).bind(limit).fetch_all(pool).await)?)
    }

    /// The same for kept answers as [`Store::operator_reseal_webhooks`].
    pub async fn operator_reseal_answers(&self, pairs: &[(SealedAnswer, SealedAnswer)]) -> Result<u64> {
        const SQL: &str = "
            UPDATE idempotency_keys
            SET response = $3
            WHERE account_id = $1 AND key = $2 AND response = $4";
        let mut written = 0;
        let mut tx = self.begin().await?;
        for (before, after) in pairs {
            written += on!(&mut tx.0, tx => sqlx::query(SQL)
                .bind(before.account_id)
                .bind(&before.key)
                .bind(&after.response)
                .bind(&before.response)
                .execute(&mut **tx)
                .await
                .map(|done| done.rows_affected()))?;
        }
        tx.commit().await?;
        Ok(written)
    }
}
