//! The outbox: what a step noticed becomes durable here, all of it or nothing.

use super::shards::Lease;
use super::{Result, Store, StoreError, Tx, on};
use crate::domain::event::Event;
use crate::domain::ids::{AccountId, EventId, NodeId, TriggerId};
use crate::domain::time::Timestamp;

/// What one step of the evaluator wants recorded.
#[derive(Debug, Default)]
pub struct Step {
    pub fired: Vec<Fired>,
    /// States that changed without an event.
    pub states: Vec<StateChange>,
    /// Last hit whose completions are in `fired`, by shard.
    pub watermarks: Vec<(i32, i64)>,
}

/// An event, if its trigger still is what it was when it was looked at.
#[derive(Debug)]
pub struct Fired {
    pub event: Event,
    pub shard: i32,
    pub trigger_version: i64,
    pub state: Option<StateChange>,
    /// A shadow trigger's event: recorded, not sent.
    pub shadow: bool,
}

/// A trigger's memory, and how many events it had fired before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    pub trigger_id: TriggerId,
    pub account_id: AccountId,
    pub fired_before: i64,
    pub fired: i64,
    pub state: String,
}

impl Step {
    pub fn is_empty(&self) -> bool {
        self.fired.is_empty() && self.states.is_empty() && self.watermarks.is_empty()
    }
}

impl Store {
    /// Commits events, queue rows, trigger states and watermarks together, under the leases of their shards. Answers
    /// which events are owed now: those whose trigger was edited, deleted or paused meanwhile are not, and those of
    /// shadow triggers never are.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when a shard has another owner or somebody else moved a trigger's state;
    /// [`StoreError::Dangling`] when a site or webhook vanished. Nothing was recorded then.
    pub async fn record(&self, node: NodeId, leases: &[Lease], step: &Step, now: Timestamp) -> Result<Vec<EventId>> {
        const WATERMARK: &str = "UPDATE shards SET watermark = $2 WHERE shard = $1";
        let mut tx = self.begin().await?;
        tx.hold(node, leases).await?;
        let mut owed = Vec::with_capacity(step.fired.len());
        for fired in &step.fired {
            if !tx.insert_event(&fired.event, Some(fired.trigger_version)).await? {
                continue;
            }
            if let Some(state) = &fired.state {
                tx.save_state(state, now).await?;
            }
            if !fired.shadow {
                tx.enqueue(&fired.event, fired.shard).await?;
                owed.push(fired.event.id);
            }
        }
        for state in &step.states {
            tx.save_state(state, now).await?;
        }
        for (shard, watermark) in &step.watermarks {
            on!(&mut tx.0, tx => sqlx::query(WATERMARK)
                .bind(shard).bind(watermark).execute(&mut **tx).await.map(drop))?;
        }
        crate::failpoint::hit("evaluator.before_commit");
        tx.commit().await?;
        crate::failpoint::hit("evaluator.after_commit");
        Ok(owed)
    }

    /// Records an event that somebody asked for, such as a test, and owes it at once. `false` when the webhook is
    /// gone or was paused meanwhile.
    pub async fn record_request(&self, event: &Event, shard: i32) -> Result<bool> {
        let mut tx = self.begin().await?;
        if !tx.insert_event(event, None).await? {
            return Ok(false);
        }
        tx.enqueue(event, shard).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Every trigger's memory.
    pub async fn operator_trigger_states(&self) -> Result<Vec<(TriggerId, i64, String)>> {
        const SQL: &str = "SELECT trigger_id, fired, state FROM trigger_states";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }
}

impl Tx {
    /// Whether the row is there now. It is not when the moment is recorded already, the webhook is paused, disabled or
    /// gone, or the trigger is not at `trigger_version` any more.
    async fn insert_event(&mut self, event: &Event, trigger_version: Option<i64>) -> Result<bool> {
        const SQL: &str = "
            INSERT INTO events (id, account_id, site_id, webhook_id, trigger_id, type, moment, format, payload,
                inserted_at)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
            WHERE EXISTS (
                    SELECT 1 FROM webhooks WHERE id = $4 AND account_id = $2 AND active AND disabled_at IS NULL
                )
                AND ($11 IS NULL OR EXISTS (SELECT 1 FROM triggers WHERE id = $5 AND version = $11))
            ON CONFLICT (trigger_id, moment) DO NOTHING";
        Ok(on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(event.id)
            .bind(event.account_id)
            .bind(event.site_id)
            .bind(event.webhook_id)
            .bind(event.trigger_id)
            .bind(&event.event_type)
            .bind(&event.moment)
            .bind(event.format.as_str())
            .bind(&event.payload)
            .bind(event.inserted_at)
            .bind(trigger_version)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected() == 1))?)
    }

    async fn enqueue(&mut self, event: &Event, shard: i32) -> Result<()> {
        const SQL: &str = "
            INSERT INTO queue (event_id, account_id, webhook_id, shard, attempt, other_attempts, due_at, expires_at)
            VALUES ($1, $2, $3, $4, 0, 0, $5, $6)";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(event.id)
            .bind(event.account_id)
            .bind(event.webhook_id)
            .bind(shard)
            .bind(event.inserted_at)
            .bind(event.expires_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Moves a trigger's memory on, unless somebody else did: two steps that look at the same moment cannot both win.
    async fn save_state(&mut self, change: &StateChange, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            INSERT INTO trigger_states (trigger_id, account_id, fired, state, updated_at)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (trigger_id) DO UPDATE
            SET fired = excluded.fired, state = excluded.state, updated_at = excluded.updated_at
            WHERE trigger_states.fired = $6";
        let saved = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(change.trigger_id)
            .bind(change.account_id)
            .bind(change.fired)
            .bind(&change.state)
            .bind(now)
            .bind(change.fired_before)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if saved == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
    }
}
