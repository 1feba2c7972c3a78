//! Triggers. Settings are stored as the JSON the API shows, so two identical triggers are two identical texts.

use sqlx::FromRow;

use super::audit::{Change, difference};
use super::{Result, Store, Tx, on};
use crate::domain::ids::{AccountId, SiteId, TriggerId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::trigger::{Settings, Trigger};

#[derive(FromRow)]
pub(super) struct TriggerRow {
    pub(super) id: TriggerId,
    account_id: AccountId,
    site_id: SiteId,
    webhook_id: WebhookId,
    settings: String,
    version: i64,
    inserted_at: Timestamp,
    updated_at: Timestamp,
}

impl TriggerRow {
    /// # Errors
    /// The stored settings are none of ours: somebody else wrote them.
    pub(super) fn parse(self) -> Result<Trigger> {
        let settings: Settings =
            serde_json::from_str(&self.settings).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Trigger {
            id: self.id,
            account_id: self.account_id,
            site_id: self.site_id,
            webhook_id: self.webhook_id,
            settings,
            version: self.version,
            inserted_at: self.inserted_at,
            updated_at: self.updated_at,
        })
    }
}

fn canonical(settings: &Settings) -> String {
    serde_json::to_string(settings).expect("settings serialise to an object")
}

/// Triggers a webhook may have.
pub const MOST_TRIGGERS: i64 = 200;

impl Store {
    pub async fn triggers_of_site(&self, account_id: AccountId, site_id: SiteId) -> Result<Vec<Trigger>> {
        const SQL: &str = "
            SELECT id, account_id, site_id, webhook_id, settings, version, inserted_at, updated_at
            FROM triggers
            WHERE account_id = $1 AND site_id = $2
            ORDER BY inserted_at, id";
        let rows: Vec<TriggerRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(site_id).fetch_all(pool).await)?;
        rows.into_iter().map(TriggerRow::parse).collect()
    }

    /// # Errors
    /// [`super::StoreError::Conflict`] when the webhook has an identical one, [`super::StoreError::Dangling`] when the
    /// webhook is gone. `false` when it has [`MOST_TRIGGERS`].
    pub async fn create_trigger(&self, change: &Change, trigger: &Trigger) -> Result<bool> {
        const COUNT: &str = "SELECT count(*) FROM triggers WHERE account_id = $1 AND webhook_id = $2";
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let count: i64 = on!(&mut tx.0, tx => sqlx::query_scalar(COUNT)
            .bind(change.account_id).bind(trigger.webhook_id).fetch_one(&mut **tx).await)?;
        if count >= MOST_TRIGGERS {
            return Ok(false);
        }
        tx.insert_trigger(trigger).await?;
        tx.audit(change, "trigger.create", &trigger.id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Writes new settings over those of `version`. `None` when the trigger is gone or has moved on.
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when the webhook has an identical one.
    pub async fn update_trigger(
        &self,
        change: &Change,
        trigger: &Trigger,
        settings: &Settings,
    ) -> Result<Option<Trigger>> {
        const SQL: &str = "
            UPDATE triggers
            SET settings = $4, version = version + 1, updated_at = $5
            WHERE account_id = $1 AND id = $2 AND version = $3
            RETURNING id, account_id, site_id, webhook_id, settings, version, inserted_at, updated_at";
        let mut tx = self.begin().await?;
        let row: Option<TriggerRow> = on!(&mut tx.0, tx => sqlx::query_as(SQL)
            .bind(change.account_id)
            .bind(trigger.id)
            .bind(trigger.version)
            .bind(canonical(settings))
            .bind(change.now)
            .fetch_optional(&mut **tx)
            .await)?;
        let Some(row) = row else { return Ok(None) };
        let json = |settings: &Settings| serde_json::to_value(settings).expect("settings serialise to an object");
        let detail = difference(&json(&trigger.settings), &json(settings));
        tx.audit_with(change, "trigger.update", &trigger.id.to_string(), &detail).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        row.parse().map(Some)
    }

    /// Whether there was such a trigger. Deliveries of what it fired before go on: they happened.
    pub async fn delete_trigger(&self, change: &Change, webhook_id: WebhookId, id: TriggerId) -> Result<bool> {
        const SQL: &str = "DELETE FROM triggers WHERE account_id = $1 AND webhook_id = $2 AND id = $3";
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id).bind(webhook_id).bind(id)
            .execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Ok(false);
        }
        tx.audit(change, "trigger.delete", &id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl Tx {
    /// Leaves the webhook with exactly `wanted`. Those that are there already keep their memory, and their version where
    /// their settings are the same.
    pub(super) async fn replace_triggers(
        &mut self,
        change: &Change,
        webhook_id: WebhookId,
        wanted: &[Trigger],
    ) -> Result<()> {
        const PRESENT: &str = "SELECT id FROM triggers WHERE account_id = $1 AND webhook_id = $2";
        const DELETE: &str = "DELETE FROM triggers WHERE account_id = $1 AND webhook_id = $2 AND id = $3";
        const UPDATE: &str = "
            UPDATE triggers
            SET settings = $4, type = $5, version = version + 1, updated_at = $6
            WHERE account_id = $1 AND webhook_id = $2 AND id = $3 AND settings <> $4";
        let present: Vec<TriggerId> = on!(&mut self.0, tx => sqlx::query_scalar(PRESENT)
            .bind(change.account_id).bind(webhook_id).fetch_all(&mut **tx).await)?;
        for id in present.iter().filter(|id| !wanted.iter().any(|trigger| trigger.id == **id)) {
            on!(&mut self.0, tx => sqlx::query(DELETE)
                .bind(change.account_id).bind(webhook_id).bind(id).execute(&mut **tx).await.map(drop))?;
        }
        for trigger in wanted {
            if !present.contains(&trigger.id) {
                self.insert_trigger(trigger).await?;
                continue;
            }
            on!(&mut self.0, tx => sqlx::query(UPDATE)
                .bind(change.account_id)
                .bind(webhook_id)
                .bind(trigger.id)
                .bind(canonical(&trigger.settings))
                .bind(trigger.settings.type_name())
                .bind(change.now)
                .execute(&mut **tx)
                .await
                .map(drop))?;
        }
        Ok(())
    }

    pub(super) async fn insert_trigger(&mut self, trigger: &Trigger) -> Result<()> {
        const SQL: &str = "
            INSERT INTO triggers (id, account_id, site_id, webhook_id, type, settings, version, inserted_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(trigger.id)
            .bind(trigger.account_id)
            .bind(trigger.site_id)
            .bind(trigger.webhook_id)
            .bind(trigger.settings.type_name())
            .bind(canonical(&trigger.settings))
            .bind(trigger.version)
            .bind(trigger.inserted_at)
            .bind(trigger.updated_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        Ok(())
    }
}
