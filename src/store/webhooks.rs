//! Webhooks. Secrets pass through here sealed.

use sqlx::FromRow;

use super::audit::Change;
use super::{Result, Store, Tx, on};
use crate::domain::ids::{AccountId, SiteId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::Trigger;
use crate::domain::webhook::{Format, Webhook};

#[derive(FromRow)]
pub(super) struct WebhookRow {
    id: WebhookId,
    account_id: AccountId,
    site_id: SiteId,
    name: String,
    url: String,
    format: Format,
    headers: Option<Vec<u8>>,
    retry_schedule: Option<String>,
    secret: Option<Vec<u8>>,
    previous_secret: Option<Vec<u8>>,
    previous_valid_until: Option<Timestamp>,
    active: bool,
    failing_since: Option<Timestamp>,
    disabled_at: Option<Timestamp>,
    disabled_reason: Option<String>,
    version: i64,
    inserted_at: Timestamp,
    updated_at: Timestamp,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Self {
        Self {
            id: row.id,
            account_id: row.account_id,
            site_id: row.site_id,
            name: row.name,
            url: row.url,
            format: row.format,
            headers: row.headers,
            retry_schedule: row.retry_schedule,
            secret: row.secret,
            previous_secret: row.previous_secret,
            previous_valid_until: row.previous_valid_until,
            active: row.active,
            failing_since: row.failing_since,
            disabled_at: row.disabled_at,
            disabled_reason: row.disabled_reason,
            version: row.version,
            inserted_at: row.inserted_at,
            updated_at: row.updated_at,
        }
    }
}

/// How an attempt to create a webhook ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    Done,
    /// The account has as many as it may have.
    LimitReached,
}

impl Store {
    /// Creates the webhook with its triggers, unless the account already has `limit` of them. Two requests of one
    /// account take turns here, so the limit holds when they race.
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when two of the triggers are identical, [`super::StoreError::Dangling`] when the
    /// site is gone.
    pub async fn create_webhook(
        &self,
        change: &Change,
        webhook: &Webhook,
        triggers: &[Trigger],
        limit: u32,
    ) -> Result<Created> {
        const COUNT: &str = "SELECT count(*) FROM webhooks WHERE account_id = $1";
        const INSERT: &str = "
            INSERT INTO webhooks (id, account_id, site_id, name, url, format, headers, retry_schedule, secret, active,
                version, inserted_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)";
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let count: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(COUNT)
            .bind(change.account_id).fetch_one(&mut **tx).await)?;
        if count >= i64::from(limit) {
            return Ok(Created::LimitReached);
        }
        on!(&mut tx.0, tx => sqlx::query(INSERT)
            .bind(webhook.id)
            .bind(change.account_id)
            .bind(webhook.site_id)
            .bind(&webhook.name)
            .bind(&webhook.url)
            .bind(webhook.format)
            .bind(&webhook.headers)
            .bind(&webhook.retry_schedule)
            .bind(&webhook.secret)
            .bind(webhook.active)
            .bind(webhook.version)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        for trigger in triggers {
            tx.insert_trigger(trigger).await?;
        }
        tx.audit(change, "webhook.create", &webhook.id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(Created::Done)
    }

    pub async fn webhooks_of_site(&self, account_id: AccountId, site_id: SiteId) -> Result<Vec<Webhook>> {
        const SQL: &str = "
            SELECT id, account_id, site_id, name, url, format, headers, retry_schedule, secret, previous_secret,
                previous_valid_until, active, failing_since, disabled_at, disabled_reason, version, inserted_at,
                updated_at
            FROM webhooks
            WHERE account_id = $1 AND site_id = $2
            ORDER BY inserted_at, id";
        let rows: Vec<WebhookRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(site_id).fetch_all(pool).await)?;
        Ok(rows.into_iter().map(Webhook::from).collect())
    }

    pub async fn webhook(&self, account_id: AccountId, id: WebhookId) -> Result<Option<Webhook>> {
        const SQL: &str = "
            SELECT id, account_id, site_id, name, url, format, headers, retry_schedule, secret, previous_secret,
                previous_valid_until, active, failing_since, disabled_at, disabled_reason, version, inserted_at,
                updated_at
            FROM webhooks
            WHERE account_id = $1 AND id = $2";
        let row: Option<WebhookRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(id).fetch_optional(pool).await)?;
        Ok(row.map(Webhook::from))
    }

    /// Writes what an owner may change over `version`; what the engine learns about the endpoint is left alone, except
    /// that `enable` forgets a disabling. With `triggers` it has exactly those afterwards. `false` when the webhook is
    /// gone or has moved on.
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when two of the triggers are identical.
    pub async fn update_webhook(
        &self,
        change: &Change,
        webhook: &Webhook,
        enable: bool,
        triggers: Option<&[Trigger]>,
    ) -> Result<bool> {
        const SQL: &str = "
            UPDATE webhooks
            SET name = $4, url = $5, format = $6, headers = $7, retry_schedule = $8, secret = $9,
                previous_secret = $10, previous_valid_until = $11, active = $12,
                failing_since = CASE WHEN $13 THEN NULL ELSE failing_since END,
                disabled_at = CASE WHEN $13 THEN NULL ELSE disabled_at END,
                disabled_reason = CASE WHEN $13 THEN NULL ELSE disabled_reason END,
                version = version + 1, updated_at = $14
            WHERE account_id = $1 AND id = $2 AND version = $3";
        let mut tx = self.begin().await?;
        let updated = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id)
            .bind(webhook.id)
            .bind(webhook.version)
            .bind(&webhook.name)
            .bind(&webhook.url)
            .bind(webhook.format)
            .bind(&webhook.headers)
            .bind(&webhook.retry_schedule)
            .bind(&webhook.secret)
            .bind(&webhook.previous_secret)
            .bind(webhook.previous_valid_until)
            .bind(webhook.active)
            .bind(enable)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if updated == 0 {
            return Ok(false);
        }
        if let Some(triggers) = triggers {
            tx.replace_triggers(change, webhook.id, triggers).await?;
        }
        tx.audit(change, "webhook.update", &webhook.id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes the webhook with its triggers, deliveries and attempts. Whether there was one.
    pub async fn delete_webhook(&self, change: &Change, id: WebhookId) -> Result<bool> {
        const QUEUE: &str = "DELETE FROM queue WHERE account_id = $1 AND webhook_id = $2";
        const WEBHOOK: &str = "DELETE FROM webhooks WHERE account_id = $1 AND id = $2";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(QUEUE).bind(change.account_id).bind(id).execute(&mut **tx).await.map(drop))?;
        let deleted = on!(&mut tx.0, tx => sqlx::query(WEBHOOK)
            .bind(change.account_id).bind(id).execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Ok(false);
        }
        tx.audit(change, "webhook.delete", &id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What the engine needs to know of webhooks it has deliveries for.
    pub async fn operator_webhook(&self, id: WebhookId) -> Result<Option<Webhook>> {
        const SQL: &str = "
            SELECT webhooks.id, account_id, site_id, webhooks.name, url, format, headers, retry_schedule, secret,
                previous_secret, previous_valid_until, active, failing_since, disabled_at, disabled_reason, version,
                webhooks.inserted_at, updated_at
            FROM webhooks
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.id = $1 AND accounts.status = 'active'";
        let row: Option<WebhookRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(id).fetch_optional(pool).await)?;
        Ok(row.map(Webhook::from))
    }
}

impl Tx {
    /// The endpoint began to fail: remembered from the first failure on.
    pub(super) async fn mark_failing(&mut self, account_id: AccountId, id: WebhookId, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            UPDATE webhooks
            SET failing_since = $3
            WHERE account_id = $1 AND id = $2 AND failing_since IS NULL";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(account_id).bind(id).bind(now).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    pub(super) async fn mark_healthy(&mut self, account_id: AccountId, id: WebhookId) -> Result<()> {
        const SQL: &str = "
            UPDATE webhooks
            SET failing_since = NULL
            WHERE account_id = $1 AND id = $2 AND failing_since IS NOT NULL";
        on!(&mut self.0, tx => sqlx::query(SQL).bind(account_id).bind(id).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    pub(super) async fn disable_webhook(
        &mut self,
        account_id: AccountId,
        id: WebhookId,
        reason: &str,
        now: Timestamp,
    ) -> Result<()> {
        const SQL: &str = "
            UPDATE webhooks
            SET disabled_at = $3, disabled_reason = $4, version = version + 1
            WHERE account_id = $1 AND id = $2 AND disabled_at IS NULL";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(account_id).bind(id).bind(now).bind(reason).execute(&mut **tx).await.map(drop))?;
        self.touch_catalog().await
    }
}
