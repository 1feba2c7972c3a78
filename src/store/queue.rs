//! The queue: deliveries still owed. The owner of a shard reads it without writing, and writes once per outcome.

use std::collections::HashSet;

use bytes::Bytes;
use sqlx::{FromRow, Row as _};

use super::rows::{MOST_ROWS, Query, Rows};
use super::shards::Lease;
use super::{Backend, Result, Store, StoreError, Tx, on};
use crate::domain::breaker::Turn;
use crate::domain::ids::{AccountId, EventId, NodeId, WebhookId};
use crate::domain::settle::Ended;
use crate::domain::time::Timestamp;
use crate::domain::webhook::Format;

/// Why a delivery is owed. Each lane of a webhook is read by itself: a first attempt never waits behind a thousand
/// retries, and neither waits behind what somebody wants sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[repr(i32)]
pub enum Lane {
    First = 0,
    Retry = 1,
    Resend = 2,
}

/// A lane of a webhook that deliveries wait in, and when the first of them falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Waiting {
    pub shard: i32,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub lane: Lane,
    pub next_due_at: Timestamp,
    /// The one that is due first.
    pub event_id: EventId,
}

/// Deliveries somebody wants to read: those of a lane after a position, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub shard: i32,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub lane: Lane,
    pub after: Position,
    pub limit: i64,
}

/// Where a delivery stands in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub due_at: Timestamp,
    pub event_id: EventId,
}

impl Wanted {
    fn due(&self, row: DueRow) -> Due {
        let (event_id, attempt, other_attempts, due_at, expires_at, event_type, format, payload) = row;
        Due {
            event_id,
            account_id: self.account_id,
            webhook_id: self.webhook_id,
            shard: self.shard,
            lane: self.lane,
            attempt,
            other_attempts,
            due_at,
            expires_at,
            event_type,
            format,
            payload: payload.into(),
        }
    }
}

impl Position {
    pub const START: Self = Self { due_at: Timestamp::from_micros(i64::MIN), event_id: EventId(uuid::Uuid::nil()) };
}

/// A delivery that is due, with everything its attempt needs but the endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub event_id: EventId,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub shard: i32,
    pub lane: Lane,
    /// Attempts made in this round.
    pub attempt: i32,
    /// Attempts that do not count against the schedule.
    pub other_attempts: i32,
    pub due_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub event_type: String,
    pub format: Format,
    pub payload: Bytes,
}

/// What is read of a delivery, by position: at tens of thousands a second a look-up by name shows, and so does every value
/// that is known before.
type DueRow = (EventId, i32, i32, Timestamp, Option<Timestamp>, String, Format, Vec<u8>);

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

/// How much is owed, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Depth {
    pub deliveries: i64,
    pub oldest_due_at: Option<Timestamp>,
}

/// Deliveries of a lane after a position that are due.
const DUE_SQLITE: &str = "
    SELECT queue.event_id, queue.attempt, queue.other_attempts, queue.due_at, queue.expires_at, events.type,
        events.format, events.payload
    FROM queue
    JOIN events ON events.id = queue.event_id
    WHERE queue.shard = $1
        AND queue.webhook_id = $2
        AND queue.lane = $3
        AND queue.due_at <= $4
        AND (queue.due_at, queue.event_id) > ($5, $6)
    ORDER BY queue.due_at, queue.event_id
    LIMIT $7";
/// The same for several lanes; the first column says which, counted from 1.
const DUE_POSTGRES: &str = "
    SELECT wanted.position, due.event_id, due.attempt, due.other_attempts, due.due_at, due.expires_at,
        events.type, events.format, events.payload
    FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::bigint[], $5::uuid[], $6::bigint[])
        WITH ORDINALITY
        AS wanted (shard, webhook_id, lane, after_due_at, after_event_id, most, position)
    CROSS JOIN LATERAL (
        SELECT *
        FROM queue
        WHERE queue.shard = wanted.shard
            AND queue.webhook_id = wanted.webhook_id
            AND queue.lane = wanted.lane
            AND queue.due_at <= $7
            AND (queue.due_at, queue.event_id) > (wanted.after_due_at, wanted.after_event_id)
        ORDER BY queue.due_at, queue.event_id
        LIMIT wanted.most
    ) AS due
    JOIN events ON events.id = due.event_id";

impl Store {
    /// Every lane of every webhook with a queue row, whoever owns its shard. Skips from lane to lane along the index, so
    /// it costs nothing how many deliveries each has.
    pub async fn waiting(&self) -> Result<Vec<Waiting>> {
        // No LATERAL here: the first row of each lane is found by its key.
        const SQLITE: &str = "
            WITH RECURSIVE waiting (event_id, shard, account_id, webhook_id, lane, next_due_at) AS (
                SELECT event_id, shard, account_id, webhook_id, lane, due_at
                FROM queue
                WHERE event_id = (
                    SELECT event_id FROM queue ORDER BY shard, webhook_id, lane, due_at, event_id LIMIT 1
                )
                UNION ALL
                SELECT queue.event_id, queue.shard, queue.account_id, queue.webhook_id, queue.lane, queue.due_at
                FROM waiting
                JOIN queue ON queue.event_id = (
                    SELECT later.event_id
                    FROM queue AS later
                    WHERE (later.shard, later.webhook_id, later.lane)
                        > (waiting.shard, waiting.webhook_id, waiting.lane)
                    ORDER BY later.shard, later.webhook_id, later.lane, later.due_at, later.event_id
                    LIMIT 1
                )
            )
            SELECT shard, account_id, webhook_id, lane, next_due_at, event_id FROM waiting";
        const POSTGRES: &str = "
            WITH RECURSIVE waiting AS (
                (
                    SELECT shard, account_id, webhook_id, lane, due_at AS next_due_at, event_id
                    FROM queue
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                )
                UNION ALL
                SELECT later.shard, later.account_id, later.webhook_id, later.lane, later.due_at, later.event_id
                FROM waiting
                CROSS JOIN LATERAL (
                    SELECT shard, account_id, webhook_id, lane, due_at, event_id
                    FROM queue
                    WHERE (queue.shard, queue.webhook_id, queue.lane)
                        > (waiting.shard, waiting.webhook_id, waiting.lane)
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                ) AS later
            )
            SELECT shard, account_id, webhook_id, lane, next_due_at, event_id FROM waiting";
        Ok(match self.hot() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).fetch_all(pool).await?,
        })
    }

    /// Deliveries that are due by `now`, those of each lane oldest first.
    pub async fn due(&self, wanted: &[Wanted], now: Timestamp) -> Result<Vec<Due>> {
        let mut due = Vec::new();
        match self.hot() {
            Backend::Sqlite(pool) => {
                // In one transaction: events of several webhooks are neighbours, and a new one would begin without the
                // pages that the one before has read.
                let mut tx = pool.begin().await?;
                for lane in wanted {
                    let rows: Vec<DueRow> = sqlx::query_as(DUE_SQLITE)
                        .bind(lane.shard)
                        .bind(lane.webhook_id)
                        .bind(lane.lane)
                        .bind(now)
                        .bind(lane.after.due_at)
                        .bind(lane.after.event_id)
                        .bind(lane.limit)
                        .fetch_all(&mut *tx)
                        .await?;
                    due.extend(rows.into_iter().map(|row| lane.due(row)));
                }
                tx.commit().await?;
            }
            Backend::Postgres(pool) => {
                let rows = sqlx::query(DUE_POSTGRES)
                    .bind(wanted.iter().map(|lane| lane.shard).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|lane| lane.webhook_id.0).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|lane| lane.lane as i32).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|lane| lane.after.due_at.micros()).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|lane| lane.after.event_id.0).collect::<Vec<_>>())
                    .bind(wanted.iter().map(|lane| lane.limit).collect::<Vec<_>>())
                    .bind(now)
                    .fetch_all(pool)
                    .await?;
                for row in rows {
                    let position: i64 = row.try_get(0)?;
                    let lane = usize::try_from(position - 1).ok().and_then(|position| wanted.get(position));
                    let lane = lane.ok_or_else(|| sqlx::Error::Protocol("a row nobody asked for".to_owned()))?;
                    due.push(lane.due((
                        row.try_get(1)?,
                        row.try_get(2)?,
                        row.try_get(3)?,
                        row.try_get(4)?,
                        row.try_get(5)?,
                        row.try_get(6)?,
                        row.try_get(7)?,
                        row.try_get(8)?,
                    )));
                }
            }
        }
        Ok(due)
    }

    /// Writes outcomes, all or none, under the leases of their shards. The outcome of a delivery that is not owed any
    /// more, because its webhook was deleted, is not kept.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when a shard has another owner by now: its results change nothing.
    pub async fn settle(&self, node: NodeId, leases: &[Lease], settled: &[Settled], now: Timestamp) -> Result<()> {
        crate::failpoint::hit("settle.before_commit");
        let quiet = settled.iter().all(Settled::is_quiet);
        if let (Backend::Postgres(pool), true) = (self.hot(), quiet) {
            // One statement is a transaction by itself, and one round trip instead of four.
            settle_at_once(pool, node, leases, settled).await?;
        } else {
            let mut tx = self.begin_hot().await?;
            match &mut tx.0 {
                Backend::Sqlite(_) => {
                    tx.hold(node, leases).await?;
                    if !tx.settle_in_parts(settled).await? {
                        drop(tx);
                        return self.settle_what_is_owed(node, leases, settled, now).await;
                    }
                }
                Backend::Postgres(tx) => settle_at_once(&mut **tx, node, leases, settled).await?,
            }
            tx.spread_the_news(settled, now).await?;
            tx.commit().await?;
        }
        crate::failpoint::hit("settle.after_commit");
        Ok(())
    }

    /// Some of the deliveries are not owed any more, which is rare enough to be found out afterwards.
    async fn settle_what_is_owed(
        &self,
        node: NodeId,
        leases: &[Lease],
        settled: &[Settled],
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.begin_hot().await?;
        tx.hold(node, leases).await?;
        let owed = tx.owed(settled).await?;
        let settled: Vec<_> = settled.iter().filter(|row| owed.contains(&row.event_id)).cloned().collect();
        if !tx.settle_in_parts(&settled).await? {
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

    pub async fn operator_depth(&self) -> Result<Depth> {
        const SQL: &str = "SELECT count(*) AS deliveries, min(due_at) AS oldest_due_at FROM queue";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_one(pool).await)?)
    }
}

/// Over a connection round trips are what costs, so leases, endings, retries and attempts are one statement. Rows are
/// found by key alone; repeating a partial index's predicate here would tempt the planner into scanning it. The leases
/// are locked until it commits, which keeps a taker-over waiting.
async fn settle_at_once(
    connection: impl sqlx::PgExecutor<'_>,
    node: NodeId,
    leases: &[Lease],
    settled: &[Settled],
) -> Result<()> {
    const POSTGRES: &str = "
        WITH held AS MATERIALIZED (
            SELECT shards.shard
            FROM unnest($2::integer[], $3::bigint[]) AS lease (shard, epoch)
            JOIN shards ON shards.shard = lease.shard AND shards.epoch = lease.epoch
            WHERE shards.node_id = $1
            FOR SHARE OF shards
        ),
        made AS MATERIALIZED (
            SELECT *
            FROM unnest($4::uuid[], $5::integer[], $6::bigint[], $7::uuid[], $8::bigint[], $9::bigint[], $10::text[],
                $11::text[], $12::integer[], $13::text[], $14::bytea[], $15::text[], $16::text[], $17::integer[],
                $18::integer[], $19::bigint[])
                AS made (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                    response_code, response_headers, response_body, ended, reason, next_attempt, next_others, next_due)
            WHERE (SELECT count(*) FROM held) = cardinality($2)
        ),
        over AS (
            DELETE FROM queue
            USING made
            WHERE queue.event_id = made.event_id AND made.ended IS NOT NULL
            RETURNING made.*
        ),
        again AS (
            UPDATE queue
            SET attempt = made.next_attempt, other_attempts = made.next_others, due_at = made.next_due,
                lane = CASE WHEN queue.lane = 0 AND made.next_attempt > 0 THEN 1 ELSE queue.lane END
            FROM made
            WHERE queue.event_id = made.event_id AND made.ended IS NULL
            RETURNING made.*
        ),
        written AS (
            INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                response_code, response_headers, response_body, ended, reason)
            SELECT event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice, response_code,
                response_headers, response_body, ended, reason
            FROM (SELECT * FROM over UNION ALL SELECT * FROM again) AS moved
        )
        SELECT count(*) FROM held";
    fn column<'a, T>(settled: &'a [Settled], get: impl Fn(&'a Settled) -> T) -> Vec<T> {
        settled.iter().map(get).collect()
    }
    let held: i64 = sqlx::query_scalar(POSTGRES)
        .bind(node)
        .bind(leases.iter().map(|lease| lease.shard).collect::<Vec<_>>())
        .bind(leases.iter().map(|lease| lease.epoch).collect::<Vec<_>>())
        .bind(column(settled, |row| row.event_id.0))
        .bind(column(settled, |row| row.attempt.number))
        .bind(column(settled, |row| row.account_id.0))
        .bind(column(settled, |row| row.webhook_id.0))
        .bind(column(settled, |row| row.attempt.started_at.micros()))
        .bind(column(settled, |row| row.attempt.duration_ms))
        .bind(column(settled, |row| row.attempt.outcome))
        .bind(column(settled, |row| row.attempt.advice.as_deref()))
        .bind(column(settled, |row| row.attempt.response_code))
        .bind(column(settled, |row| row.attempt.response_headers.as_deref()))
        .bind(column(settled, |row| row.attempt.response_body.as_deref()))
        .bind(column(settled, |row| row.standing.ending().0))
        .bind(column(settled, |row| row.standing.ending().1))
        .bind(column(settled, |row| row.standing.again().map(|again| again.0)))
        .bind(column(settled, |row| row.standing.again().map(|again| again.1)))
        .bind(column(settled, |row| row.standing.again().map(|again| again.2.micros())))
        .fetch_one(connection)
        .await?;
    if usize::try_from(held) == Ok(leases.len()) { Ok(()) } else { Err(StoreError::LeaseLost) }
}

impl Tx {
    /// In process it is the rows that cost: endings, retries and attempts, a few hundred rows a statement. `false`: not
    /// all of them were owed, and nothing of this is to be committed.
    async fn settle_in_parts(&mut self, settled: &[Settled]) -> Result<bool> {
        static ATTEMPTS: Rows = Rows::new(
            "INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                response_code, response_headers, response_body, ended, reason)
            SELECT * FROM",
            13,
            "WHERE column1 IS NOT NULL",
        );
        static OVER: Rows = Rows::new("DELETE FROM queue WHERE event_id IN", 1, "");
        static AGAIN: Rows = Rows::new(
            "UPDATE queue
            SET attempt = next.column2, other_attempts = next.column3, due_at = next.column4,
                lane = CASE WHEN queue.lane = 0 AND next.column2 > 0 THEN 1 ELSE queue.lane END
            FROM",
            4,
            "AS next WHERE queue.event_id = next.column1",
        );
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        let mut moved = 0;
        let over: Vec<_> = settled.iter().filter(|row| row.standing.again().is_none()).collect();
        for rows in over.chunks(MOST_ROWS) {
            let over = OVER.query(rows, |query, row| query.bind(row.event_id));
            moved += over.execute(&mut **tx).await?.rows_affected();
        }
        let again: Vec<_> = settled.iter().filter_map(|row| Some((row.event_id, row.standing.again()?))).collect();
        for rows in again.chunks(MOST_ROWS) {
            let again = AGAIN.query(rows, |query, (event_id, (attempt, others, due_at))| {
                query.bind(*event_id).bind(*attempt).bind(*others).bind(*due_at)
            });
            moved += again.execute(&mut **tx).await?.rows_affected();
        }
        if moved != settled.len() as u64 {
            return Ok(false);
        }
        for rows in settled.chunks(MOST_ROWS) {
            ATTEMPTS.query(rows, bind_attempt).execute(&mut **tx).await?;
        }
        Ok(true)
    }

    /// Which of these deliveries are in the queue.
    async fn owed(&mut self, settled: &[Settled]) -> Result<HashSet<EventId>> {
        static OWED: Rows = Rows::new("SELECT event_id FROM queue WHERE event_id IN", 1, "");
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("on PostgreSQL the statement itself finds out") };
        let mut owed = HashSet::new();
        for rows in settled.chunks(MOST_ROWS) {
            for row in OWED.query(rows, |query, row| query.bind(row.event_id)).fetch_all(&mut **tx).await? {
                owed.insert(row.try_get(0)?);
            }
        }
        Ok(owed)
    }

    /// What the outcomes told of their endpoints. Rare: most attempts tell what is known already.
    async fn spread_the_news(&mut self, settled: &[Settled], now: Timestamp) -> Result<()> {
        for Settled { account_id, webhook_id, life, turn, .. } in settled {
            match life {
                Life::AsBefore => {}
                Life::Failing => self.mark_failing(*account_id, *webhook_id, now).await?,
                Life::Healthy => self.mark_healthy(*account_id, *webhook_id, now).await?,
                Life::Disable { reason } => self.disable_webhook(*account_id, *webhook_id, reason, now).await?,
            }
            if let Some(turn) = turn {
                self.park(*account_id, *webhook_id, *turn).await?;
            }
        }
        Ok(())
    }
}

impl Settled {
    fn is_quiet(&self) -> bool {
        self.life == Life::AsBefore && self.turn.is_none()
    }
}

fn bind_attempt<'q>(query: Query<'q>, row: &'q Settled) -> Query<'q> {
    let (ended, reason) = row.standing.ending();
    query
        .bind(row.event_id)
        .bind(row.attempt.number)
        .bind(row.account_id)
        .bind(row.webhook_id)
        .bind(row.attempt.started_at)
        .bind(row.attempt.duration_ms)
        .bind(row.attempt.outcome)
        .bind(&row.attempt.advice)
        .bind(row.attempt.response_code)
        .bind(&row.attempt.response_headers)
        .bind(&row.attempt.response_body)
        .bind(ended)
        .bind(reason)
}

impl Standing {
    fn ending(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Over { ended, reason } => (Some(ended.as_str()), *reason),
            Self::Again { .. } => (None, None),
        }
    }

    fn again(&self) -> Option<(i32, i32, Timestamp)> {
        match self {
            Self::Over { .. } => None,
            Self::Again { attempt, other_attempts, due_at } => Some((*attempt, *other_attempts, *due_at)),
        }
    }
}
