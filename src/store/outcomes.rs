//! What became of attempts: written once per outcome, many at once, under the leases of their shards.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;
use sqlx::{PgPool, Row as _};

use super::outcomes_at_once::{Under, settle_at_once};
use super::put_off::{PutOff, Taken};
use super::rows::{MOST_ROWS, Rows, Value, values};
use super::shards::Lease;
use super::{Backend, PostgresPools, Result, Store, StoreError, Tx, direct, on};
use crate::domain::breaker::Turn;
use crate::domain::ids::{AccountId, EventId, NodeId, WebhookId};
use crate::domain::settle::Ended;
use crate::domain::time::Timestamp;

/// An attempt at an event that was recorded so long before is late: it says when it was written ([`super::movements`]).
pub const LATE_AFTER: Duration = Duration::from_secs(60);

/// An attempt to be appended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    pub number: i32,
    pub started_at: Timestamp,
    pub duration_ms: i64,
    pub outcome: &'static str,
    /// Nothing after a success.
    pub advice: Option<String>,
    pub response_code: Option<i32>,
    /// JSON array of pairs.
    pub response_headers: Option<String>,
    pub response_body: Option<Vec<u8>>,
    /// Packed.
    pub phases: Option<i64>,
}

/// Where a delivery stands after an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    Over { ended: Ended, reason: Option<&'static str> },
    Again { attempt: i32, other_attempts: i32, due_at: Timestamp },
}

/// What an attempt told about the life of its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    AsBefore,
    Failing,
    Healthy,
    /// The endpoint said that it is gone for good.
    Disable {
        reason: String,
    },
}

/// One outcome, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Under which the attempt was made; under another one it changes nothing.
    pub lease: Lease,
    pub event_id: EventId,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub attempt: AttemptRow,
    pub standing: Standing,
    pub life: Life,
    /// The endpoint's breaker opened or closed.
    pub turn: Option<Turn>,
}

impl Store {
    /// Writes outcomes, all or none, under the leases of their shards. The outcome of a delivery that is not owed any
    /// more, because its webhook was deleted, is not kept.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when a shard has another owner by now: its results change nothing.
    pub async fn settle(
        &self,
        node: NodeId,
        leases: &[Lease],
        settled: &Arc<Vec<Settled>>,
        now: Timestamp,
    ) -> Result<()> {
        crate::failpoint::hit("settle.before_commit");
        match &self.db {
            Backend::Sqlite(pools) => {
                if !direct::outcomes::settle(pools, node, leases, settled, now).await? {
                    self.settle_the_long_way(node, leases, settled, now).await?;
                }
            }
            Backend::Postgres(PostgresPools { hot, put_off, .. }) => {
                // Who deletes a row does not see one that is being written meanwhile.
                let _turn = put_off.turn().await;
                if !self.settle_by_memory(hot, put_off, node, leases, settled, now).await? {
                    self.queue_in_turn(put_off).await?;
                    self.settle_by_memory(hot, put_off, node, leases, settled, now).await?;
                }
            }
        }
        crate::failpoint::hit("settle.after_commit");
        Ok(())
    }

    /// On SQLite.
    pub(super) async fn settle_the_long_way(
        &self,
        node: NodeId,
        leases: &[Lease],
        settled: &[Settled],
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin_hot().await?;
        tx.hold(node, leases).await?;
        if !tx.settle_in_parts(settled, now).await? {
            drop(tx);
            return self.settle_what_is_owed(node, leases, settled, now).await;
        }
        tx.spread_the_news(settled, now).await?;
        tx.commit().await
    }

    /// On PostgreSQL. `false`: what is remembered was remembered under another configuration, and nothing was changed.
    async fn settle_by_memory(
        &self,
        pool: &PgPool,
        put_off: &PutOff,
        node: NodeId,
        leases: &[Lease],
        settled: &[Settled],
        now: Timestamp,
    ) -> Result<bool> {
        let taken = Taken::of(put_off, settled.iter().map(|row| row.event_id));
        let (never_queued, needs_row) = taken.told_apart(settled);
        let under = Under { node, leases, catalog_version: put_off.believed_under() };
        let believed = if needs_row.is_empty() && !settled.iter().any(Settled::disables) {
            // One statement is a transaction by itself, and one round trip instead of three.
            settle_at_once(pool, &under, settled, &never_queued, now).await?
        } else {
            let mut tx = self.begin_hot().await?;
            // Before the leases, as who looks at the traffic and records what it shows.
            tx.keep_others_from_what_is_gone(settled).await?;
            if needs_row.iter().any(|owed| !owed.has_no_row) {
                // What was to become of it may still be under way.
                tx.wait_for_shards(leases.iter().map(|lease| lease.shard).collect()).await?;
            }
            tx.queue_put_off(needs_row).await?;
            let believed = settle_at_once(tx.postgres(), &under, settled, &never_queued, now).await?;
            if believed {
                tx.disable_what_is_gone(settled, now).await?;
                tx.commit().await?;
            }
            believed
        };
        if believed {
            taken.for_good();
            put_off.learn(settled);
        } else {
            taken.put_back();
        }
        Ok(believed)
    }

    /// Some of the deliveries may not be owed any more, which is rare enough to be found out afterwards.
    async fn settle_what_is_owed(
        &self,
        node: NodeId,
        leases: &[Lease],
        settled: &[Settled],
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin_hot().await?;
        tx.hold(node, leases).await?;
        tx.queue_and_believe().await?;
        let owed = tx.owed(settled).await?;
        let settled: Vec<_> = settled.iter().filter(|row| owed.contains(&row.event_id)).cloned().collect();
        if !tx.settle_in_parts(&settled, now).await? {
            return Err(StoreError::Refused("deliveries that are owed cannot be found".to_owned()));
        }
        tx.spread_the_news(&settled, now).await?;
        tx.commit().await
    }

    /// Which of these attempts are written already: for finding out what became of a commit nobody heard of.
    pub async fn recorded_attempts(&self, settled: &[Settled]) -> Result<Vec<(EventId, i32)>> {
        const SQL: &str = "SELECT event_id, number FROM attempts WHERE event_id = $1 AND number = $2";
        let mut recorded = Vec::new();
        for row in settled {
            let found: Option<(EventId, i32)> = on!(self.writer(), pool => sqlx::query_as(SQL)
                .bind(row.event_id).bind(row.attempt.number).fetch_optional(pool).await)?;
            recorded.extend(found);
        }
        Ok(recorded)
    }
}

impl Tx {
    /// In process it is the rows that cost: endings, retries and attempts, a few hundred rows a statement. `false`: not
    /// all of them were owed, or that is to be looked at, and nothing of this is to be committed.
    async fn settle_in_parts(&mut self, settled: &[Settled], now: Timestamp) -> Result<bool> {
        if !self.believes_its_memory().await? {
            return Ok(false);
        }
        let never_queued = self.forget_what_is_over(settled).await?;
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        let mut moved = never_queued.len() as u64;
        let over = settled.iter().filter(|row| !row.standing.goes_on() && !never_queued.contains(&row.event_id));
        let over: Vec<_> = over.collect();
        for rows in over.chunks(MOST_ROWS) {
            let over = OVER.query(rows, |row| values![&row.event_id]);
            moved += over.execute(&mut **tx).await?.rows_affected();
        }
        let again: Vec<_> = settled.iter().filter_map(Settled::again).collect();
        for rows in again.chunks(MOST_ROWS) {
            moved += AGAIN.query(rows, Again::values).execute(&mut **tx).await?.rows_affected();
        }
        if moved != settled.len() as u64 {
            return Ok(false);
        }
        for rows in settled.chunks(MOST_ROWS) {
            ATTEMPTS.query(rows, |row| row.attempt_values(now)).execute(&mut **tx).await?;
        }
        Ok(true)
    }

    /// Which of these deliveries are owed.
    async fn owed(&mut self, settled: &[Settled]) -> Result<HashSet<EventId>> {
        static OWED: Rows<1> = Rows::new("SELECT event_id FROM queue WHERE event_id IN", "");
        let mut owed = HashSet::default();
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("on PostgreSQL the statement itself finds out") };
        for rows in settled.chunks(MOST_ROWS) {
            for row in OWED.query(rows, |row| values![&row.event_id]).fetch_all(&mut **tx).await? {
                owed.insert(row.try_get(0)?);
            }
        }
        Ok(owed)
    }
}

pub(super) static ATTEMPTS: Rows<15> = Rows::new(
    "INSERT OR FAIL INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome,
        advice, response_code, response_headers, response_body, ended, reason, late_at, phases)
    SELECT * FROM",
    "WHERE column1 IS NOT NULL",
);
pub(super) static OVER: Rows<1> = Rows::new("DELETE FROM queue WHERE event_id IN", "");
pub(super) static AGAIN: Rows<4> = Rows::new(
    "UPDATE OR FAIL queue
    SET attempt = next.column2, other_attempts = next.column3, due_at = next.column4,
        lane = CASE WHEN queue.lane = 0 AND next.column2 > 0 THEN 1 ELSE queue.lane END
    FROM",
    "AS next WHERE queue.event_id = next.column1",
);

/// A delivery that goes on.
pub(super) struct Again {
    pub event_id: EventId,
    pub attempt: i32,
    pub other_attempts: i32,
    pub due_at: Timestamp,
}

impl Settled {
    pub(super) fn again(&self) -> Option<Again> {
        let Standing::Again { attempt, other_attempts, due_at } = self.standing else { return None };
        Some(Again { event_id: self.event_id, attempt, other_attempts, due_at })
    }

    /// How long after the event it was over, if it ended well.
    pub(super) fn answered_after(&self) -> Option<Duration> {
        let is_success = matches!(self.standing, Standing::Over { ended: Ended::Success, .. });
        let ended_at = self.attempt.started_at + Duration::from_millis(self.attempt.duration_ms.unsigned_abs());
        is_success.then(|| ended_at.since(self.event_id.recorded_at()))
    }

    /// Who disables a webhook gives up what is owed to it.
    pub(super) fn disables(&self) -> bool {
        matches!(self.life, Life::Disable { .. })
    }

    /// A row of [`ATTEMPTS`].
    pub(super) fn attempt_values(&self, now: Timestamp) -> [Value<'_>; 15] {
        let (ended, reason) = self.standing.ending();
        values![
            &self.event_id,
            self.attempt.number,
            self.account_id,
            &self.webhook_id,
            self.attempt.started_at,
            self.attempt.duration_ms,
            self.attempt.outcome,
            self.attempt.advice.as_deref(),
            self.attempt.response_code,
            self.attempt.response_headers.as_deref(),
            self.attempt.response_body.as_deref(),
            ended,
            reason,
            self.late_at(now),
            self.attempt.phases,
        ]
    }

    pub(super) fn late_at(&self, now: Timestamp) -> Option<Timestamp> {
        (now.since(self.event_id.recorded_at()) >= LATE_AFTER).then_some(now)
    }
}

impl Again {
    /// A row of [`AGAIN`].
    pub fn values(&self) -> [Value<'_>; 4] {
        values![&self.event_id, self.attempt, self.other_attempts, self.due_at]
    }
}

impl Standing {
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Self::Again { .. })
    }

    pub(super) fn ending(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Over { ended, reason } => (Some(ended.as_str()), *reason),
            Self::Again { .. } => (None, None),
        }
    }
}
