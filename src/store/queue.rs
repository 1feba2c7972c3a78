//! The queue: deliveries still owed. The owner of a shard reads it without writing, and writes once per outcome.

use sqlx::FromRow;

use super::shards::Lease;
use super::{Backend, Result, Store, Tx, on};
use crate::domain::ids::{AccountId, EventId, NodeId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Format;

/// A webhook that deliveries are owed to, and when the first of them falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Waiting {
    pub shard: i32,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub next_due_at: Timestamp,
}

/// A delivery that is due, with everything its attempt needs but the endpoint.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Due {
    pub event_id: EventId,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub shard: i32,
    /// Attempts made in this round.
    pub attempt: i32,
    /// Attempts that do not count against the schedule.
    pub other_attempts: i32,
    pub due_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub event_type: String,
    pub format: Format,
    pub payload: Vec<u8>,
    /// When the event was recorded.
    pub inserted_at: Timestamp,
}

/// An attempt to be appended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    pub number: i32,
    pub started_at: Timestamp,
    pub duration_ms: i64,
    pub outcome: String,
    pub advice: String,
    pub response_code: Option<i32>,
    /// JSON array of pairs.
    pub response_headers: Option<String>,
    pub response_body: Option<Vec<u8>>,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Success,
    Failed,
    Cancelled,
}

impl Ended {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a delivery stands after an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    Over { ended: Ended, reason: Option<&'static str> },
    Again { attempt: i32, other_attempts: i32, due_at: Timestamp },
}

/// What an attempt told about its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Nothing,
    Failing,
    Healthy,
    Disable { reason: String },
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
    pub news: News,
}

/// How much is owed, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Depth {
    pub deliveries: i64,
    pub oldest_due_at: Option<Timestamp>,
}

impl Store {
    /// Every webhook with a queue row, whoever owns its shard. Skips from webhook to webhook along the index, so it
    /// costs nothing how many deliveries each has.
    pub async fn waiting(&self) -> Result<Vec<Waiting>> {
        // No LATERAL here: the first row of each webhook is found by its key.
        const SQLITE: &str = "
            WITH RECURSIVE waiting (event_id, shard, account_id, webhook_id, next_due_at) AS (
                SELECT event_id, shard, account_id, webhook_id, due_at
                FROM queue
                WHERE event_id = (
                    SELECT event_id FROM queue ORDER BY shard, webhook_id, due_at, event_id LIMIT 1
                )
                UNION ALL
                SELECT queue.event_id, queue.shard, queue.account_id, queue.webhook_id, queue.due_at
                FROM waiting
                JOIN queue ON queue.event_id = (
                    SELECT later.event_id
                    FROM queue AS later
                    WHERE (later.shard, later.webhook_id) > (waiting.shard, waiting.webhook_id)
                    ORDER BY later.shard, later.webhook_id, later.due_at, later.event_id
                    LIMIT 1
                )
            )
            SELECT shard, account_id, webhook_id, next_due_at FROM waiting";
        const POSTGRES: &str = "
            WITH RECURSIVE waiting AS (
                (
                    SELECT shard, account_id, webhook_id, due_at AS next_due_at
                    FROM queue
                    ORDER BY shard, webhook_id, due_at, event_id
                    LIMIT 1
                )
                UNION ALL
                SELECT later.shard, later.account_id, later.webhook_id, later.due_at
                FROM waiting
                CROSS JOIN LATERAL (
                    SELECT shard, account_id, webhook_id, due_at
                    FROM queue
                    WHERE (queue.shard, queue.webhook_id) > (waiting.shard, waiting.webhook_id)
                    ORDER BY shard, webhook_id, due_at, event_id
                    LIMIT 1
                ) AS later
            )
            SELECT shard, account_id, webhook_id, next_due_at FROM waiting";
        Ok(match self.reader() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).fetch_all(pool).await?,
        })
    }

    /// Deliveries of one webhook that are due by `now`, oldest first, those after `after` only.
    pub async fn due(
        &self,
        waiting: &Waiting,
        now: Timestamp,
        after: (Timestamp, EventId),
        limit: i64,
    ) -> Result<Vec<Due>> {
        const SQL: &str = "
            SELECT queue.event_id, queue.account_id, queue.webhook_id, queue.shard, queue.attempt,
                queue.other_attempts, queue.due_at, queue.expires_at, events.type AS event_type, events.format,
                events.payload, events.inserted_at
            FROM queue
            JOIN events ON events.id = queue.event_id
            WHERE queue.shard = $1
                AND queue.webhook_id = $2
                AND queue.due_at <= $3
                AND (queue.due_at, queue.event_id) > ($4, $5)
            ORDER BY queue.due_at, queue.event_id
            LIMIT $6";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(waiting.shard)
            .bind(waiting.webhook_id)
            .bind(now)
            .bind(after.0)
            .bind(after.1)
            .bind(limit)
            .fetch_all(pool)
            .await)?)
    }

    /// Writes outcomes, all or none, under the leases of their shards.
    ///
    /// # Errors
    /// [`super::StoreError::LeaseLost`] when a shard has another owner by now: its results change nothing.
    pub async fn settle(&self, node: NodeId, leases: &[Lease], settled: &[Settled], now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.hold(node, leases).await?;
        match &tx.0 {
            Backend::Sqlite(_) => tx.settle_one_by_one(settled).await?,
            Backend::Postgres(_) => tx.settle_at_once(settled).await?,
        }
        for Settled { account_id, webhook_id, news, .. } in settled {
            match news {
                News::Nothing => {}
                News::Failing => tx.mark_failing(*account_id, *webhook_id, now).await?,
                News::Healthy => tx.mark_healthy(*account_id, *webhook_id).await?,
                News::Disable { reason } => tx.disable_webhook(*account_id, *webhook_id, reason, now).await?,
            }
        }
        crate::failpoint::hit("settle.before_commit");
        tx.commit().await?;
        crate::failpoint::hit("settle.after_commit");
        Ok(())
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

    pub async fn operator_depth(&self) -> Result<Depth> {
        const SQL: &str = "SELECT count(*) AS deliveries, min(due_at) AS oldest_due_at FROM queue";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_one(pool).await)?)
    }
}

impl Tx {
    /// In process a statement costs microseconds; a loop is the plainest batch.
    async fn settle_one_by_one(&mut self, settled: &[Settled]) -> Result<()> {
        const ATTEMPT: &str = "
            INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                response_code, response_headers, response_body, ended, reason)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13
            WHERE EXISTS (SELECT 1 FROM events WHERE id = $1)";
        const OVER: &str = "DELETE FROM queue WHERE event_id = $1";
        const AGAIN: &str = "UPDATE queue SET attempt = $2, other_attempts = $3, due_at = $4 WHERE event_id = $1";
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        for row in settled {
            let (ended, reason) = row.standing.ending();
            sqlx::query(ATTEMPT)
                .bind(row.event_id)
                .bind(row.attempt.number)
                .bind(row.account_id)
                .bind(row.webhook_id)
                .bind(row.attempt.started_at)
                .bind(row.attempt.duration_ms)
                .bind(&row.attempt.outcome)
                .bind(&row.attempt.advice)
                .bind(row.attempt.response_code)
                .bind(&row.attempt.response_headers)
                .bind(&row.attempt.response_body)
                .bind(ended)
                .bind(reason)
                .execute(&mut **tx)
                .await?;
            match row.standing {
                Standing::Over { .. } => sqlx::query(OVER).bind(row.event_id).execute(&mut **tx).await?,
                Standing::Again { attempt, other_attempts, due_at } => {
                    sqlx::query(AGAIN)
                        .bind(row.event_id)
                        .bind(attempt)
                        .bind(other_attempts)
                        .bind(due_at)
                        .execute(&mut **tx)
                        .await?
                }
            };
        }
        Ok(())
    }

    /// Over a connection round trips are what costs: one statement each for attempts, endings and retries. Rows are
    /// found by key alone; repeating a partial index's predicate here would tempt the planner into scanning it.
    async fn settle_at_once(&mut self, settled: &[Settled]) -> Result<()> {
        const ATTEMPTS: &str = "
            INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                response_code, response_headers, response_body, ended, reason)
            SELECT made.*
            FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[], $7::text[],
                $8::text[], $9::integer[], $10::text[], $11::bytea[], $12::text[], $13::text[])
                AS made (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                    response_code, response_headers, response_body, ended, reason)
            JOIN events ON events.id = made.event_id";
        const OVER: &str = "DELETE FROM queue WHERE event_id = ANY ($1)";
        const AGAIN: &str = "
            UPDATE queue
            SET attempt = next.attempt, other_attempts = next.other_attempts, due_at = next.due_at
            FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::bigint[])
                AS next (event_id, attempt, other_attempts, due_at)
            WHERE queue.event_id = next.event_id";
        let Backend::Postgres(tx) = &mut self.0 else { unreachable!("the caller looked") };
        fn column<T>(settled: &[Settled], get: impl Fn(&Settled) -> T) -> Vec<T> {
            settled.iter().map(get).collect()
        }
        sqlx::query(ATTEMPTS)
            .bind(column(settled, |row| row.event_id.0))
            .bind(column(settled, |row| row.attempt.number))
            .bind(column(settled, |row| row.account_id.0))
            .bind(column(settled, |row| row.webhook_id.0))
            .bind(column(settled, |row| row.attempt.started_at.micros()))
            .bind(column(settled, |row| row.attempt.duration_ms))
            .bind(column(settled, |row| row.attempt.outcome.clone()))
            .bind(column(settled, |row| row.attempt.advice.clone()))
            .bind(column(settled, |row| row.attempt.response_code))
            .bind(column(settled, |row| row.attempt.response_headers.clone()))
            .bind(column(settled, |row| row.attempt.response_body.clone()))
            .bind(column(settled, |row| row.standing.ending().0))
            .bind(column(settled, |row| row.standing.ending().1))
            .execute(&mut **tx)
            .await?;
        let over: Vec<_> = settled
            .iter()
            .filter(|row| matches!(row.standing, Standing::Over { .. }))
            .map(|row| row.event_id.0)
            .collect();
        if !over.is_empty() {
            sqlx::query(OVER).bind(over).execute(&mut **tx).await?;
        }
        let mut again = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in settled {
            if let Standing::Again { attempt, other_attempts, due_at } = row.standing {
                again.0.push(row.event_id.0);
                again.1.push(attempt);
                again.2.push(other_attempts);
                again.3.push(due_at.micros());
            }
        }
        if !again.0.is_empty() {
            sqlx::query(AGAIN).bind(again.0).bind(again.1).bind(again.2).bind(again.3).execute(&mut **tx).await?;
        }
        Ok(())
    }
}

impl Standing {
    fn ending(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Over { ended, reason } => (Some(ended.as_str()), *reason),
            Self::Again { .. } => (None, None),
        }
    }
}
