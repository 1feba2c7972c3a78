//! The queue: deliveries still owed. The owner of a shard reads it without writing, and writes once per outcome
//! ([`super::outcomes`]). Which lanes there is something in is looked for in [`super::waiting`].

use bytes::Bytes;
use foldhash::HashSet;
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row};
use sqlx::FromRow;

use super::direct::statement;
use super::unqueued::Which;
use super::{Backend, PostgresPools, Result, SqlitePools, Store, on};
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

impl Lane {
    pub const ALL: [Self; 3] = [Self::First, Self::Retry, Self::Resend];
}

/// Deliveries somebody wants to read: the oldest of each of these lanes, so many of each at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub lanes: Vec<Rest>,
    pub limit: i64,
}

/// What a lane has after a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    pub shard: i32,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub lane: Lane,
    pub after: Position,
}

/// Where a delivery stands in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub due_at: Timestamp,
    pub event_id: EventId,
}

impl Wanted {
    /// A row of [`DUE_POSTGRES`].
    fn due(&self, row: DueRow) -> Result<Due> {
        let (position, event_id, attempt, other_attempts, due_at, expires_at, event_type, format, payload) = row;
        let lane = usize::try_from(position).ok().and_then(|position| self.lanes.get(position));
        let lane = lane.ok_or_else(|| sqlx::Error::Protocol("a row of a lane nobody asked for".to_owned()))?;
        Ok(Due {
            event_id,
            account_id: lane.account_id,
            webhook_id: lane.webhook_id,
            shard: lane.shard,
            lane: lane.lane,
            attempt,
            other_attempts,
            due_at,
            expires_at,
            event_type,
            format,
            payload: payload.into(),
        })
    }

    /// On SQLite: all of it as it was at one moment. What is due of each lane first, and then the events in the order in which
    /// they lie: those of lanes that are read together lie on the same pages.
    fn read(&self, connection: &mut Connection, now: Timestamp) -> rusqlite::Result<Vec<Due>> {
        let moment = connection.transaction()?;
        let (mut due, mut places) = (Vec::new(), Vec::new());
        {
            let mut ask = statement(&moment, DUE_SQLITE)?;
            for lane in &self.lanes {
                let Position { due_at, event_id } = lane.after;
                let mut rows = ask.query((
                    lane.shard,
                    lane.webhook_id.0,
                    lane.lane as i32,
                    due_at.micros(),
                    event_id.0,
                    now.micros(),
                    self.limit,
                ))?;
                while let Some(row) = rows.next()? {
                    let place: i64 = row.get(0)?;
                    places.push((place, due.len()));
                    due.push(lane.due(row)?);
                }
            }
            places.sort_unstable();
            let mut ask = statement(&moment, EVENT_SQLITE)?;
            for (place, index) in places {
                ask.query_row([place], |row| due[index].complete(row))?;
            }
        }
        moment.commit()?;
        Ok(due)
    }
}

impl Rest {
    /// A row of [`DUE_SQLITE`], without its event.
    fn due(&self, row: &Row<'_>) -> rusqlite::Result<Due> {
        Ok(Due {
            event_id: EventId(row.get(1)?),
            account_id: self.account_id,
            webhook_id: self.webhook_id,
            shard: self.shard,
            lane: self.lane,
            attempt: row.get(2)?,
            other_attempts: row.get(3)?,
            due_at: Timestamp::from_micros(row.get(4)?),
            expires_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
            event_type: String::new(),
            format: Format::Json,
            payload: Bytes::new(),
        })
    }
}

impl Position {
    pub const START: Self = Self { due_at: Timestamp::MIN, event_id: EventId(uuid::Uuid::nil()) };

    /// Before everything that is due at `due_at`, and after everything that was due before.
    pub fn before(due_at: Timestamp) -> Self {
        Self { due_at, event_id: EventId(uuid::Uuid::nil()) }
    }
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

impl Due {
    /// With a row of [`EVENT_SQLITE`].
    fn complete(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        self.event_type = row.get(0)?;
        self.format = row.get_ref(1)?.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))?;
        self.payload = Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?);
        Ok(())
    }
}

/// What is read of a delivery on PostgreSQL, by position: at tens of thousands a second a look-up by name shows, and so does
/// every value that is known before. The first says which of the wanted lanes it is of, counted from 0.
type DueRow = (i64, EventId, i32, i32, Timestamp, Option<Timestamp>, String, Format, Vec<u8>);

/// How much is owed, for the metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Depth {
    pub deliveries: i64,
    pub oldest_due_at: Option<Timestamp>,
}

/// Deliveries that are due of a lane, after a position, and where their events lie.
const DUE_SQLITE: &str = "
    SELECT events.rowid, queue.event_id, attempt, other_attempts, due_at, expires_at
    FROM queue
    CROSS JOIN events ON events.id = queue.event_id
    WHERE shard = ?1
        AND queue.webhook_id = ?2
        AND lane = ?3
        AND (due_at, event_id) > (?4, ?5)
        AND due_at <= ?6
    ORDER BY due_at, event_id
    LIMIT ?7";
const EVENT_SQLITE: &str = "SELECT type, format, payload FROM events WHERE rowid = ?1";
/// The same of several lanes, with their events.
const DUE_POSTGRES: &str = "
    SELECT wanted.position - 1, due.event_id, due.attempt, due.other_attempts, due.due_at, due.expires_at,
        event.type, event.format, event.payload
    FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::bigint[], $5::uuid[])
        WITH ORDINALITY
        AS wanted (shard, webhook_id, lane, after_due_at, after_event_id, position)
    CROSS JOIN LATERAL (
        SELECT *
        FROM queue
        WHERE queue.shard = wanted.shard
            AND queue.webhook_id = wanted.webhook_id
            AND queue.lane = wanted.lane
            AND queue.due_at <= $6
            AND (queue.due_at, queue.event_id) > (wanted.after_due_at, wanted.after_event_id)
        ORDER BY queue.due_at, queue.event_id
        LIMIT $7
    ) AS due
    CROSS JOIN LATERAL (
        SELECT events.type, events.format, events.payload
        FROM events
        WHERE events.id = due.event_id
        LIMIT 1
    ) AS event";

impl Store {
    /// Deliveries that are due by `now`, oldest first.
    pub async fn due(&self, wanted: &Wanted, now: Timestamp) -> Result<Vec<Due>> {
        let first_of: HashSet<_> =
            wanted.lanes.iter().filter(|rest| rest.lane == Lane::First).map(|rest| rest.webhook_id).collect();
        self.queue_of_what_is_owed(Which::OfWebhooks(&first_of)).await?;
        let mut due = match &self.db {
            Backend::Sqlite(SqlitePools { lanes, .. }) => {
                let wanted = wanted.clone();
                lanes.on(move |connection| wanted.read(connection, now)).await?
            }
            Backend::Postgres(PostgresPools { hot: pool, .. }) => {
                let lanes = &wanted.lanes;
                let rows: Vec<DueRow> = sqlx::query_as(DUE_POSTGRES)
                    .bind(lanes.iter().map(|lane| lane.shard).collect::<Vec<_>>())
                    .bind(lanes.iter().map(|lane| lane.webhook_id.0).collect::<Vec<_>>())
                    .bind(lanes.iter().map(|lane| lane.lane as i32).collect::<Vec<_>>())
                    .bind(lanes.iter().map(|lane| lane.after.due_at.micros()).collect::<Vec<_>>())
                    .bind(lanes.iter().map(|lane| lane.after.event_id.0).collect::<Vec<_>>())
                    .bind(now)
                    .bind(wanted.limit)
                    .fetch_all(pool)
                    .await?;
                rows.into_iter().map(|row| wanted.due(row)).collect::<Result<Vec<_>>>()?
            }
        };
        due.sort_by_key(|due| (due.due_at, due.event_id));
        Ok(due)
    }

    pub async fn operator_depth(&self) -> Result<Depth> {
        const SQL: &str = "SELECT count(*) AS deliveries, min(due_at) AS oldest_due_at FROM queue";
        let depth: Depth = on!(self.reader(), pool => sqlx::query_as(SQL).fetch_one(pool).await)?;
        let unqueued = self.unqueued_depth().await?;
        Ok(Depth {
            deliveries: depth.deliveries + unqueued.deliveries,
            oldest_due_at: depth.oldest_due_at.into_iter().chain(unqueued.oldest_due_at).min(),
        })
    }
}
