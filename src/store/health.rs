//! Endpoints that fail: found, warned about and disabled. Written together with the events that tell of it.

use sqlx::FromRow;

use super::outbox::Fired;
use super::triggers::TriggerRow;
use super::{Result, Store, on};
use crate::domain::event::HealthState;
use crate::domain::ids::{AccountId, EventId, SiteId, WebhookId};
use crate::domain::life;
use crate::domain::time::Timestamp;
use crate::domain::trigger::Trigger;
use crate::domain::webhook::{Format, Health};

/// A webhook that fails, or was disabled and nobody was told yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Ailing {
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub site_domain: String,
    pub webhook_id: WebhookId,
    pub name: String,
    pub health: Health,
    pub disabled_reason: Option<String>,
}

/// A trigger of another webhook that wants to hear of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub trigger: Trigger,
    pub format: Format,
    pub site_id: SiteId,
    pub site_domain: String,
}

/// What the account is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Warned {
        warnings: u32,
    },
    /// Nothing but failures for too long: it is disabled with this.
    GivenUp,
    /// It was disabled by what its endpoint answered.
    Gone,
}

impl Told {
    pub fn state(self) -> HealthState {
        match self {
            Self::Warned { .. } => HealthState::Failing,
            Self::GivenUp | Self::Gone => HealthState::Disabled,
        }
    }

    /// How often the account will have been told.
    pub fn number(self) -> u32 {
        match self {
            Self::Warned { warnings } => warnings,
            Self::GivenUp | Self::Gone => life::TOLD_ALL,
        }
    }
}

#[derive(FromRow)]
struct AilingRow {
    account_id: AccountId,
    site_id: SiteId,
    site_domain: String,
    webhook_id: WebhookId,
    name: String,
    failing_since: Option<Timestamp>,
    failed_at: Option<Timestamp>,
    warnings: i32,
    disabled_reason: Option<String>,
}

#[derive(FromRow)]
struct ListenerRow {
    #[sqlx(flatten)]
    trigger: TriggerRow,
    format: Format,
    site_domain: String,
}

/// Why a webhook that nothing could be delivered to for days was disabled.
const GIVEN_UP: &str = "Nothing could be delivered for five days. Repair the endpoint, then set active to true to enable \
    it again; what was given up can be resent.";

impl Store {
    /// Webhooks that fail, and those that were disabled with fewer than `told_all` warnings. While its account is suspended
    /// none is judged: nothing is sent to it.
    pub async fn operator_ailing(&self, told_all: u32) -> Result<Vec<Ailing>> {
        const SQL: &str = "
            SELECT webhooks.account_id, webhooks.site_id, sites.domain AS site_domain, webhooks.id AS webhook_id,
                webhooks.name, webhooks.failing_since, webhooks.failed_at, webhooks.warnings,
                webhooks.disabled_reason
            FROM webhooks
            JOIN sites ON sites.id = webhooks.site_id
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.failing_since IS NOT NULL AND webhooks.active AND webhooks.warnings < $1
                AND accounts.status = 'active'
            ORDER BY webhooks.failing_since";
        let rows: Vec<AilingRow> = on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(i64::from(told_all)).fetch_all(pool).await)?;
        Ok(rows.into_iter().map(Ailing::from).collect())
    }

    /// Triggers of the account's other live webhooks that want to know how its webhooks are.
    pub async fn operator_health_listeners(&self, account_id: AccountId, about: WebhookId) -> Result<Vec<Listener>> {
        const SQL: &str = "
            SELECT triggers.id, triggers.account_id, triggers.site_id, triggers.webhook_id, triggers.settings,
                triggers.version, triggers.inserted_at, triggers.updated_at, webhooks.format,
                sites.domain AS site_domain
            FROM webhooks
            JOIN triggers ON triggers.webhook_id = webhooks.id
            JOIN sites ON sites.id = webhooks.site_id
            WHERE webhooks.account_id = $1 AND webhooks.id <> $2 AND triggers.type = 'webhook_health'
                AND webhooks.active AND webhooks.disabled_at IS NULL
            ORDER BY triggers.id";
        let rows: Vec<ListenerRow> = on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(about).fetch_all(pool).await)?;
        // Those that cannot be read are named where the catalog is.
        let listener = |row: ListenerRow| {
            let trigger = row.trigger.parse().ok()?;
            Some(Listener { site_id: trigger.site_id, trigger, format: row.format, site_domain: row.site_domain })
        };
        Ok(rows.into_iter().filter_map(listener).collect())
    }

    /// Remembers what the account is told, disables what is given up, and records the events that tell it. Answers which
    /// are owed; `None` when the webhook is not what it was.
    pub async fn record_health(
        &self,
        ailing: &Ailing,
        told: Told,
        fired: &[Fired],
        now: Timestamp,
    ) -> Result<Option<Vec<EventId>>> {
        const SQL: &str = "
            UPDATE webhooks
            SET warnings = $4,
                disabled_at = CASE WHEN $5 THEN coalesce(disabled_at, $6) ELSE disabled_at END,
                disabled_reason = CASE WHEN $5 THEN coalesce(disabled_reason, $7) ELSE disabled_reason END,
                version = CASE WHEN $5 THEN version + 1 ELSE version END
            WHERE account_id = $1 AND id = $2 AND warnings = $3 AND failing_since IS NOT NULL";
        let given_up = told == Told::GivenUp;
        let mut tx = self.begin().await?;
        let told_now = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(ailing.account_id)
            .bind(ailing.webhook_id)
            .bind(i64::from(ailing.health.warnings))
            .bind(i64::from(told.number()))
            .bind(given_up)
            .bind(now)
            .bind(GIVEN_UP)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if told_now == 0 {
            return Ok(None);
        }
        let owed = tx.insert_and_enqueue(fired, now).await?;
        if given_up {
            tx.touch_catalog().await?;
        }
        tx.commit().await?;
        Ok(Some(owed))
    }
}

impl From<AilingRow> for Ailing {
    fn from(row: AilingRow) -> Self {
        let warnings = u32::try_from(row.warnings).unwrap_or(0);
        Self {
            account_id: row.account_id,
            site_id: row.site_id,
            site_domain: row.site_domain,
            webhook_id: row.webhook_id,
            name: row.name,
            health: Health {
                failing_since: row.failing_since,
                failed_at: row.failed_at,
                warnings,
                ..Health::default()
            },
            disabled_reason: row.disabled_reason,
        }
    }
}
