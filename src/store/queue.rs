//! The queue: deliveries still owed. The owner of a shard reads it without writing, and writes once per outcome
//! ([`super::outcomes`]).

use bytes::Bytes;
use sqlx::{FromRow, Row as _};

use super::{Backend, Result, Store, on};
use crate::domain::ids::{AccountId, EventId, WebhookId};
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

    pub async fn operator_depth(&self) -> Result<Depth> {
        const SQL: &str = "SELECT count(*) AS deliveries, min(due_at) AS oldest_due_at FROM queue";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_one(pool).await)?)
    }
}
