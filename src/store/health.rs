//! How endpoints do: what attempts told of them, and those that fail, which are found, warned about and disabled, together
//! with the events that tell of it.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::outbox::Fired;
use super::outcomes::{Life, Settled};
use super::rows::{MOST_ROWS, Rows, Value, values};
use super::triggers::TriggerRow;
use super::{Backend, Result, Store, Tx, on};
use crate::domain::breaker::{Parked, Turn};
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

/// What attempts that are written at once told of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    pub account_id: AccountId,
    /// What was held against it is forgotten.
    pub did_well: bool,
    /// Remembered since the first time. After it did well, if it did.
    pub fails: bool,
    /// Its breaker opened or closed.
    pub turn: Option<Turn>,
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
        if given_up {
            tx.keep_recorders_out(ailing.account_id, ailing.webhook_id).await?;
        }
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

impl News {
    /// Of each endpoint that something is told of, in the order of ids.
    pub fn of(settled: &[Settled]) -> BTreeMap<WebhookId, Self> {
        let mut news = BTreeMap::new();
        for Settled { account_id, webhook_id, life, turn, .. } in settled {
            let (did_well, fails) = (*life == Life::Healthy, *life == Life::Failing);
            if !did_well && !fails && turn.is_none() {
                continue;
            }
            let nothing = Self { account_id: *account_id, did_well: false, fails: false, turn: None };
            let news = news.entry(*webhook_id).or_insert(nothing);
            news.did_well |= did_well;
            news.fails = fails || news.fails && !did_well;
            news.turn = turn.or(news.turn);
        }
        news
    }

    /// A row of [`NOTE`].
    pub fn values<'q>(&self, id: &'q WebhookId, now: Timestamp) -> [Value<'q>; 8] {
        values![
            self.account_id,
            id,
            self.did_well,
            self.fails,
            self.turn.is_some(),
            self.parked_until(),
            self.parked_ms(),
            now
        ]
    }

    fn parked(&self) -> Option<Parked> {
        match self.turn? {
            Turn::Opened(parked) => Some(parked),
            Turn::Closed => None,
        }
    }

    pub fn parked_until(&self) -> Option<Timestamp> {
        self.parked().map(|parked| parked.until)
    }

    pub fn parked_ms(&self) -> Option<i64> {
        self.parked().map(|parked| i64::try_from(parked.span.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Tx {
    /// What outcomes told of their endpoints, all of them at once, on SQLite. Most attempts tell what is known already.
    pub(super) async fn spread_the_news(&mut self, settled: &[Settled], now: Timestamp) -> Result<()> {
        let Backend::Sqlite(tx) = &mut self.0 else {
            unreachable!("on PostgreSQL it is part of the outcomes' statement")
        };
        let news: Vec<_> = News::of(settled).into_iter().collect();
        for rows in news.chunks(MOST_ROWS) {
            NOTE.query(rows, |(id, news)| news.values(id, now)).execute(&mut **tx).await?;
        }
        self.disable_what_is_gone(settled, now).await
    }

    /// Keeps everybody else from webhooks whose endpoints said that they are gone for good.
    pub(super) async fn keep_others_from_what_is_gone(&mut self, settled: &[Settled]) -> Result<()> {
        for (webhook_id, (account_id, _)) in gone(settled) {
            self.keep_recorders_out(account_id, webhook_id).await?;
        }
        Ok(())
    }

    pub(super) async fn disable_what_is_gone(&mut self, settled: &[Settled], now: Timestamp) -> Result<()> {
        for (webhook_id, (account_id, reason)) in gone(settled) {
            self.disable_webhook(account_id, webhook_id, reason, now).await?;
        }
        Ok(())
    }
}

/// Webhooks that are to be disabled, in the order of ids, and why.
fn gone(settled: &[Settled]) -> BTreeMap<WebhookId, (AccountId, &str)> {
    let gone = settled.iter().filter_map(|settled| match &settled.life {
        Life::Disable { reason } => Some((settled.webhook_id, (settled.account_id, reason.as_str()))),
        _ => None,
    });
    gone.collect()
}

/// What was told of endpoints, on SQLite.
pub(super) static NOTE: Rows<8> = Rows::new(
    "UPDATE OR FAIL webhooks
    SET failing_since = CASE
            WHEN NOT told.column4 THEN CASE WHEN told.column3 THEN NULL ELSE failing_since END
            WHEN told.column3 THEN told.column8
            ELSE coalesce(failing_since, told.column8)
        END,
        failed_at = CASE
            WHEN told.column4 THEN told.column8
            WHEN told.column3 THEN NULL
            ELSE failed_at
        END,
        succeeded_at = CASE WHEN told.column3 THEN told.column8 ELSE succeeded_at END,
        warnings = CASE WHEN told.column3 THEN 0 ELSE warnings END,
        parked_until = CASE WHEN told.column5 THEN told.column6 ELSE parked_until END,
        parked_ms = CASE WHEN told.column5 THEN told.column7 ELSE parked_ms END
    FROM",
    "AS told WHERE webhooks.account_id = told.column1 AND webhooks.id = told.column2",
);

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::store::stage;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const OPENED: Turn = Turn::Opened(Parked { until: NOW, span: Duration::from_secs(30) });

    fn settled(webhook: u128, life: Life, turn: Option<Turn>) -> Settled {
        let webhook_id = WebhookId(Uuid::from_u128(webhook));
        Settled { life, turn, ..stage::settled(EventId(Uuid::nil()), webhook_id, stage::over()) }
    }

    #[test]
    fn what_is_told_last_counts_and_nothing_is_told_twice() {
        let news = News::of(&[
            settled(3, Life::AsBefore, None),
            settled(2, Life::Failing, Some(OPENED)),
            settled(1, Life::Healthy, None),
            settled(1, Life::Failing, None),
            settled(2, Life::AsBefore, Some(Turn::Closed)),
            settled(2, Life::Healthy, None),
            settled(1, Life::AsBefore, Some(OPENED)),
        ]);
        let told: Vec<_> =
            news.iter().map(|(id, news)| (id.0.as_u128(), news.did_well, news.fails, news.turn)).collect();
        assert_eq!(told, [(1, true, true, Some(OPENED)), (2, true, false, Some(Turn::Closed))]);
    }
}
