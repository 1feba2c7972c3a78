//! Sites.

use serde_json::json;

use super::audit::{Change, difference};
use super::shards::shard_of;
use super::{Result, Store, on};
use crate::domain::ids::{AccountId, SiteId, WebhookId};
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Site {
    pub id: SiteId,
    pub account_id: AccountId,
    pub domain: String,
    /// IANA name.
    pub timezone: String,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Store {
    /// # Errors
    /// [`super::StoreError::Conflict`] when the domain is taken, by whomever. `None` when the account has `limit` sites.
    pub async fn create_site(&self, change: &Change, domain: &str, timezone: &str, limit: u32) -> Result<Option<Site>> {
        const COUNT: &str = "SELECT count(*) FROM sites WHERE account_id = $1";
        const SQL: &str = "
            INSERT INTO sites (account_id, domain, timezone, inserted_at, updated_at)
            VALUES ($1, $2, $3, $4, $4)
            RETURNING id, account_id, domain, timezone, inserted_at, updated_at";
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let count: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(COUNT)
            .bind(change.account_id).fetch_one(&mut **tx).await)?;
        if count >= i64::from(limit) {
            return Ok(None);
        }
        let site: Site = on!(&mut tx.0, tx => sqlx::query_as(SQL)
            .bind(change.account_id).bind(domain).bind(timezone).bind(change.now)
            .fetch_one(&mut **tx).await)?;
        tx.audit(change, "site.create", &site.domain).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(Some(site))
    }

    pub async fn sites(&self, account_id: AccountId) -> Result<Vec<Site>> {
        const SQL: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE account_id = $1
            ORDER BY domain";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).fetch_all(pool).await)?)
    }

    /// By id or domain.
    pub async fn site(&self, account_id: AccountId, id_or_domain: &str) -> Result<Option<Site>> {
        const BY_ID: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE account_id = $1 AND id = $2";
        const BY_DOMAIN: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE account_id = $1 AND domain = $2";
        Ok(if let Ok(id) = id_or_domain.parse::<SiteId>() {
            on!(self.reader(), pool => sqlx::query_as(BY_ID).bind(account_id).bind(id).fetch_optional(pool).await)?
        } else {
            on!(self.reader(), pool => sqlx::query_as(BY_DOMAIN)
                .bind(account_id).bind(id_or_domain.to_lowercase()).fetch_optional(pool).await)?
        })
    }

    /// # Errors
    /// [`super::StoreError::Conflict`] when the domain is taken.
    pub async fn update_site(
        &self,
        change: &Change,
        before: &Site,
        domain: &str,
        timezone: &str,
    ) -> Result<Option<Site>> {
        const SQL: &str = "
            UPDATE sites
            SET domain = $3, timezone = $4, updated_at = $5
            WHERE account_id = $1 AND id = $2
            RETURNING id, account_id, domain, timezone, inserted_at, updated_at";
        let mut tx = self.begin().await?;
        let site: Option<Site> = on!(&mut tx.0, tx => sqlx::query_as(SQL)
            .bind(change.account_id).bind(before.id).bind(domain).bind(timezone).bind(change.now)
            .fetch_optional(&mut **tx).await)?;
        if let Some(site) = &site {
            let named = |site: &Site| json!({ "domain": site.domain, "timezone": site.timezone });
            let detail = difference(&named(before), &named(site));
            tx.audit_with(change, "site.update", &site.domain, &detail).await?;
            tx.touch_catalog().await?;
            tx.commit().await?;
        }
        Ok(site)
    }

    /// Removes the site with everything that hangs on it. Whether there was one.
    pub async fn delete_site(&self, change: &Change, id: SiteId) -> Result<bool> {
        const WEBHOOKS: &str = "DELETE FROM webhooks WHERE account_id = $1 AND site_id = $2 RETURNING id";
        const SITE: &str = "DELETE FROM sites WHERE account_id = $1 AND id = $2";
        let mut tx = self.begin().await?;
        let webhooks: Vec<WebhookId> = on!(&mut tx.0, tx => sqlx::query_scalar(WEBHOOKS)
            .bind(change.account_id).bind(id).fetch_all(&mut **tx).await)?;
        for webhook in webhooks {
            tx.forget_deliveries(webhook, shard_of(id), change.now).await?;
        }
        let deleted = on!(&mut tx.0, tx => sqlx::query(SITE)
            .bind(change.account_id).bind(id).execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Ok(false);
        }
        tx.audit(change, "site.delete", &id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Every site with its domain, for telling whose hit arrives.
    pub async fn operator_domains(&self) -> Result<Vec<(SiteId, String)>> {
        const SQL: &str = "
            SELECT sites.id, sites.domain
            FROM sites
            JOIN accounts ON accounts.id = sites.account_id";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }
}
