//! Webhooks. Secrets pass through here sealed.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::FromRow;

use super::audit::{Change, difference};
use super::shards::shard_of;
use super::{Backend, Result, Store, Tx, on};
use crate::domain::breaker::Parked;
use crate::domain::ids::{AccountId, SiteId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::Trigger;
use crate::domain::webhook::{Format, Health, Webhook};

#[derive(FromRow)]
pub(super) struct WebhookRow {
    id: WebhookId,
    account_id: AccountId,
    site_id: SiteId,
    name: String,
    url: String,
    sealed_url: Option<Vec<u8>>,
    format: Format,
    headers: Option<Vec<u8>>,
    retry_schedule: Option<String>,
    secret: Option<Vec<u8>>,
    previous_secret: Option<Vec<u8>>,
    previous_valid_until: Option<Timestamp>,
    active: bool,
    rate_limit: Option<i32>,
    failing_since: Option<Timestamp>,
    failed_at: Option<Timestamp>,
    succeeded_at: Option<Timestamp>,
    warnings: i32,
    parked_until: Option<Timestamp>,
    parked_ms: Option<i64>,
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
            sealed_url: row.sealed_url,
            format: row.format,
            headers: row.headers,
            retry_schedule: row.retry_schedule,
            secret: row.secret,
            previous_secret: row.previous_secret,
            previous_valid_until: row.previous_valid_until,
            active: row.active,
            rate_limit: row.rate_limit.and_then(|rate| u32::try_from(rate).ok()),
            health: Health {
                failing_since: row.failing_since,
                failed_at: row.failed_at,
                succeeded_at: row.succeeded_at,
                warnings: u32::try_from(row.warnings).unwrap_or(0),
                parked: row
                    .parked_until
                    .zip(row.parked_ms)
                    .map(|(until, ms)| Parked { until, span: Duration::from_millis(ms.unsigned_abs()) }),
            },
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
                live_since, rate_limit, version, inserted_at, updated_at, sealed_url)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $13, $11, $12, $13, $13, $14)";
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
            .bind(webhook.rate_limit.map(i64::from))
            .bind(webhook.version)
            .bind(webhook.inserted_at)
            .bind(&webhook.sealed_url)
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
            SELECT id, account_id, site_id, name, url, sealed_url, format, headers, retry_schedule, secret, previous_secret,
                previous_valid_until, active, rate_limit, failing_since, failed_at, succeeded_at, warnings,
                parked_until, parked_ms, disabled_at, disabled_reason, version, inserted_at, updated_at
            FROM webhooks
            WHERE account_id = $1 AND site_id = $2
            ORDER BY inserted_at, id";
        let rows: Vec<WebhookRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(site_id).fetch_all(pool).await)?;
        Ok(rows.into_iter().map(Webhook::from).collect())
    }

    pub async fn webhook(&self, account_id: AccountId, id: WebhookId) -> Result<Option<Webhook>> {
        const SQL: &str = "
            SELECT id, account_id, site_id, name, url, sealed_url, format, headers, retry_schedule, secret, previous_secret,
                previous_valid_until, active, rate_limit, failing_since, failed_at, succeeded_at, warnings,
                parked_until, parked_ms, disabled_at, disabled_reason, version, inserted_at, updated_at
            FROM webhooks
            WHERE account_id = $1 AND id = $2";
        let row: Option<WebhookRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(id).fetch_optional(pool).await)?;
        Ok(row.map(Webhook::from))
    }

    /// Writes what an owner may change over `version`; what the engine learns about the endpoint is left alone, except
    /// that `enable` and another address forget everything that was held against it. With `triggers` it has exactly those afterwards. `false` when the webhook is
    /// gone or has moved on.
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when two of the triggers are identical.
    pub async fn update_webhook(
        &self,
        change: &Change,
        before: &Webhook,
        webhook: &Webhook,
        enable: bool,
        triggers: Option<&[Trigger]>,
    ) -> Result<bool> {
        const SQL: &str = "
            UPDATE webhooks
            SET name = $4, url = $5, sealed_url = $16, format = $6, headers = $7, retry_schedule = $8, secret = $9,
                previous_secret = $10, previous_valid_until = $11, active = $12,
                rate_limit = $13,
                live_since = CASE
                    WHEN (NOT active AND $12) OR (disabled_at IS NOT NULL AND $14) THEN $15
                    ELSE live_since
                END,
                failing_since = CASE WHEN $14 OR url <> $5 OR sealed_url IS DISTINCT FROM $16 THEN NULL ELSE failing_since END,
                failed_at = CASE WHEN $14 OR url <> $5 OR sealed_url IS DISTINCT FROM $16 THEN NULL ELSE failed_at END,
                warnings = CASE WHEN $14 OR url <> $5 OR sealed_url IS DISTINCT FROM $16 THEN 0 ELSE warnings END,
                parked_until = CASE WHEN $14 OR url <> $5 OR sealed_url IS DISTINCT FROM $16 THEN NULL ELSE parked_until END,
                parked_ms = CASE WHEN $14 OR url <> $5 OR sealed_url IS DISTINCT FROM $16 THEN NULL ELSE parked_ms END,
                disabled_at = CASE WHEN $14 THEN NULL ELSE disabled_at END,
                disabled_reason = CASE WHEN $14 THEN NULL ELSE disabled_reason END,
                version = version + 1, updated_at = $15
            WHERE account_id = $1 AND id = $2 AND version = $3";
        let mut tx = self.begin().await?;
        tx.keep_recorders_out(change.account_id, webhook.id).await?;
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
            .bind(webhook.rate_limit.map(i64::from))
            .bind(enable)
            .bind(change.now)
            .bind(&webhook.sealed_url)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if updated == 0 {
            return Ok(false);
        }
        if let Some(triggers) = triggers {
            tx.replace_triggers(change, webhook.id, triggers).await?;
        }
        let detail = difference(&for_the_log(before), &for_the_log(webhook));
        tx.audit_with(change, "webhook.update", &webhook.id.to_string(), &detail).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes the webhook with its triggers, and everything owed to it. Its deliveries cannot be seen any more; their
    /// rows are the janitor's to remove. Whether there was one.
    pub async fn delete_webhook(&self, change: &Change, id: WebhookId) -> Result<bool> {
        const SQL: &str = "DELETE FROM webhooks WHERE account_id = $1 AND id = $2 RETURNING site_id";
        let mut tx = self.begin().await?;
        let site: Option<SiteId> = on!(&mut tx.0, tx => sqlx::query_scalar(SQL)
            .bind(change.account_id).bind(id).fetch_optional(&mut **tx).await)?;
        let Some(site_id) = site else { return Ok(false) };
        tx.forget_deliveries(id, shard_of(site_id), change.now).await?;
        tx.audit(change, "webhook.delete", &id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What the engine needs to know of webhooks it has deliveries for. Those that are gone or whose account is suspended
    /// are not among them.
    pub async fn operator_webhooks(&self, ids: &[WebhookId]) -> Result<Vec<Webhook>> {
        const SQL: &str = "
            SELECT webhooks.id, account_id, site_id, webhooks.name, url, sealed_url, format, headers, retry_schedule, secret,
                previous_secret, previous_valid_until, active, rate_limit, failing_since, failed_at, succeeded_at,
                warnings, parked_until, parked_ms, disabled_at, disabled_reason, version, webhooks.inserted_at,
                updated_at
            FROM webhooks
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.id = $1 AND accounts.status = 'active'";
        let mut webhooks = Vec::with_capacity(ids.len());
        for id in ids {
            let row: Option<WebhookRow> =
                on!(self.hot(), pool => sqlx::query_as(SQL).bind(id).fetch_optional(pool).await)?;
            webhooks.extend(row.map(Webhook::from));
        }
        Ok(webhooks)
    }

    /// Which version each of these webhooks is at, those alone that may be sent to.
    pub async fn operator_live_versions(&self, ids: &[WebhookId]) -> Result<Vec<(WebhookId, i64)>> {
        const SQLITE: &str = "
            SELECT webhooks.id, webhooks.version
            FROM webhooks
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.id IN (SELECT unhex(value) FROM json_each($1))
                AND webhooks.active AND webhooks.disabled_at IS NULL AND accounts.status = 'active'";
        const POSTGRES: &str = "
            SELECT webhooks.id, webhooks.version
            FROM webhooks
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.id = ANY ($1)
                AND webhooks.active AND webhooks.disabled_at IS NULL AND accounts.status = 'active'";
        Ok(match self.hot() {
            Backend::Sqlite(pool) => {
                let ids: Vec<_> = ids.iter().map(|id| id.0.simple().to_string()).collect();
                let list = serde_json::to_string(&ids).expect("texts serialise");
                sqlx::query_as(SQLITE).bind(list).fetch_all(pool).await?
            }
            Backend::Postgres(pool) => {
                let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
                sqlx::query_as(POSTGRES).bind(ids).fetch_all(pool).await?
            }
        })
    }
}

/// What the audit log may say of a webhook: an address may hold a token behind its host, and of what is sealed only whether
/// it is another can be told.
fn for_the_log(webhook: &Webhook) -> Value {
    let mark = |bytes: &[u8]| hex::encode(&Sha256::digest(bytes)[..4]);
    let host = webhook.url.split('/').nth(2).unwrap_or(&webhook.url);
    json!({
        "name": webhook.name,
        "url": format!("{host} ({})", mark(webhook.sealed_url.as_deref().unwrap_or(webhook.url.as_bytes()))),
        "active": webhook.active,
        "format": webhook.format.as_str(),
        "rate_limit": webhook.rate_limit,
        "retry_schedule": webhook.retry_schedule,
        "headers": webhook.headers.as_deref().map(mark),
        "secret": webhook.secret.as_deref().map(mark),
    })
}

impl Tx {
    /// Owes nothing to a webhook any more, and has what was sent to it removed.
    pub(super) async fn forget_deliveries(&mut self, id: WebhookId, shard: i32, now: Timestamp) -> Result<()> {
        const QUEUE: &str = "DELETE FROM queue WHERE shard = $1 AND webhook_id = $2";
        const REMOVAL: &str = "
            INSERT INTO removals (webhook_id, inserted_at) VALUES ($1, $2) ON CONFLICT (webhook_id) DO NOTHING";
        self.queue_what_is_owed().await?;
        on!(&mut self.0, tx => sqlx::query(QUEUE).bind(shard).bind(id).execute(&mut **tx).await.map(drop))?;
        on!(&mut self.0, tx => sqlx::query(REMOVAL).bind(id).bind(now).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    /// Waits for those who record events for the webhook, and keeps others from it until this is committed: they see it as
    /// it is then.
    pub(super) async fn keep_recorders_out(&mut self, account_id: AccountId, id: WebhookId) -> Result<()> {
        const POSTGRES: &str = "SELECT 1 FROM webhooks WHERE account_id = $1 AND id = $2 FOR UPDATE";
        // SQLite's writers take turns anyway.
        if let Backend::Postgres(tx) = &mut self.0 {
            sqlx::query(POSTGRES).bind(account_id).bind(id).execute(&mut **tx).await?;
        }
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
            SET disabled_at = $3, disabled_reason = $4, failing_since = coalesce(failing_since, $3), failed_at = $3,
                version = version + 1
            WHERE account_id = $1 AND id = $2 AND disabled_at IS NULL";
        self.keep_recorders_out(account_id, id).await?;
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(account_id).bind(id).bind(now).bind(reason).execute(&mut **tx).await.map(drop))?;
        self.touch_catalog().await
    }
}
