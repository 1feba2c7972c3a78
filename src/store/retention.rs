//! What has been kept long enough goes: days of PostgreSQL as whole partitions, everything else a little at a time, so that
//! nobody waits for it and the hot path never meets it.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::lists::{Entry, has_entry_postgres, has_entry_sqlite};
use super::{Backend, Result, Store, on};
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::time::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);
/// Days that are made ahead of time.
const DAYS_AHEAD: u32 = 3;
/// Making and dropping days shuts everybody out for a moment; who cannot have that moment soon tries again later, for others
/// wait behind him.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";
/// Days are not vacuumed because rows were added: nothing of them is deleted but all at once, and whoever reads them needs the
/// rows and not the index alone. While somebody holds an old snapshot each vacuum would read all of them again and change
/// nothing; deleted rows bring it about as ever, and so does the age of what is kept for long.
const DAY_OPTIONS: &str = "autovacuum_vacuum_insert_threshold = -1";
/// One node at a time.
const ONE_AT_A_TIME_POSTGRES: &str = "SELECT pg_advisory_xact_lock(7083212547)";

/// The smallest id an event of `moment` could have: ids begin with their time.
pub fn first_id_of(moment: Timestamp) -> EventId {
    let millis = u64::try_from(moment.millis()).unwrap_or(0);
    let bytes = u128::from(millis) << 80;
    EventId(Uuid::from_u128(bytes))
}

impl Store {
    /// Makes the partitions for today and the next days. Nothing to do on SQLite.
    pub async fn operator_make_days(&self, now: Timestamp) -> Result<()> {
        let Backend::Postgres(pool) = self.writer() else { return Ok(()) };
        let today = midnight_before(now);
        // Yesterday too: a clock may be a little off.
        for day in (0..=DAYS_AHEAD + 1).map(|days| today - DAY + DAY * days) {
            if !day_exists(pool, day).await? {
                make_day(pool, day).await?;
            }
        }
        Ok(())
    }

    /// Drops the days that are over by `before`, as far as nothing in them is still owed. Answers how many.
    pub async fn operator_drop_days(&self, before: Timestamp) -> Result<u64> {
        let Backend::Postgres(pool) = self.writer() else { return Ok(0) };
        let mut dropped = 0;
        for day in days(pool).await? {
            if day + DAY <= before && drop_day(pool, day).await? {
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Gives up deliveries of events older than `before` that wait for a webhook which is paused, disabled or gone, at most
    /// `limit`: their events have outlived their retention, and nobody would be sent them any more. Answers how many.
    pub async fn operator_give_up_old(&self, before: Timestamp, limit: i64) -> Result<u64> {
        macro_rules! given_up {
            ($is_one_of:literal, $end:literal) => {
                concat!(
                    "DELETE FROM queue WHERE event_id ",
                    $is_one_of,
                    "
                    SELECT event_id
                    FROM queue
                    WHERE event_id < $1
                        AND NOT coalesce(
                            (SELECT active AND disabled_at IS NULL FROM webhooks WHERE webhooks.id = queue.webhook_id),
                            FALSE
                        )
                    ORDER BY event_id
                    LIMIT $2
                    ",
                    $end
                )
            };
        }
        const SQLITE: &str = given_up!("IN (", ")");
        // An event whose row was put off goes on saying that it is owed when it has one.
        const POSTGRES: &str = concat!(
            "WITH given_up AS (",
            given_up!("= ANY (ARRAY(", "))"),
            "
                RETURNING event_id
            ),
            told AS (
                UPDATE events SET owed_until = NULL FROM given_up WHERE events.id = ANY (ARRAY[given_up.event_id])
            )
            SELECT count(*) FROM given_up"
        );
        self.queue_what_is_owed().await?;
        let before = first_id_of(before);
        Ok(match self.writer() {
            Backend::Sqlite(pool) => sqlx::query(SQLITE).bind(before).bind(limit).execute(pool).await?.rows_affected(),
            Backend::Postgres(pool) => {
                let given_up: i64 = sqlx::query_scalar(POSTGRES).bind(before).bind(limit).fetch_one(pool).await?;
                given_up.unsigned_abs()
            }
        })
    }

    /// Removes events older than `before` with their attempts, about `limit`, none that is still owed and none that is listed
    /// with one. Answers how many. On PostgreSQL it is for those that belong to no day.
    pub async fn operator_prune_events(&self, before: Timestamp, limit: i64) -> Result<u64> {
        const SQLITE: &str = "
            WITH RECURSIVE places (place) AS (SELECT 1 UNION ALL SELECT place + 1 FROM places WHERE place < 64)
            SELECT id, lists
            FROM events
            WHERE id < $1
                AND inserted_at < $2
                AND (lists IS NULL OR lists <> x'')
                AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.event_id = events.id)
                AND NOT EXISTS (
                    SELECT 1
                    FROM places
                    JOIN queue ON queue.event_id = substr(events.lists, place * 16 - 15, 16)
                    WHERE place * 16 <= length(events.lists)
                )
            ORDER BY id
            LIMIT $3";
        const POSTGRES: &str = "
            SELECT id, lists
            FROM events_rest AS events
            WHERE id < $1
                AND inserted_at < $2
                AND (lists IS NULL OR length(lists) > 0)
                AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.event_id = events.id)
                AND NOT EXISTS (
                    SELECT 1
                    FROM generate_series(1, length(events.lists) / 16) AS place
                    JOIN queue ON queue.event_id
                        = CAST(encode(substr(events.lists, place * 16 - 15, 16), 'hex') AS UUID)
                )
            ORDER BY id
            LIMIT $3";
        self.queue_what_is_owed().await?;
        let before_id = first_id_of(before);
        let entries: Vec<Entry> = match self.reader() {
            Backend::Sqlite(pool) => {
                sqlx::query_as(SQLITE).bind(before_id).bind(before).bind(limit).fetch_all(pool).await?
            }
            Backend::Postgres(pool) => {
                sqlx::query_as(POSTGRES).bind(before_id).bind(before).bind(limit).fetch_all(pool).await?
            }
        };
        self.remove_events(&events_of(&entries, limit)).await
    }

    /// Removes deliveries of a webhook that was deleted, about `limit`. Answers how many; none means that it is done.
    pub async fn operator_remove_deleted(&self, limit: i64) -> Result<u64> {
        const NEXT: &str = "SELECT webhook_id FROM removals ORDER BY inserted_at, webhook_id LIMIT 1";
        const ENTRIES_SQLITE: &str = concat!(
            "SELECT id, lists FROM events WHERE webhook_id = $1 AND ",
            has_entry_sqlite!(),
            " ORDER BY id LIMIT $2"
        );
        const ENTRIES_POSTGRES: &str = concat!(
            "SELECT id, lists FROM events WHERE webhook_id = $1 AND ",
            has_entry_postgres!(),
            " ORDER BY id LIMIT $2"
        );
        const DONE: &str = "DELETE FROM removals WHERE webhook_id = $1";
        let mut removed = 0;
        loop {
            let next: Option<WebhookId> =
                on!(self.writer(), pool => sqlx::query_scalar(NEXT).fetch_optional(pool).await)?;
            let Some(webhook_id) = next else { return Ok(removed) };
            let entries: Vec<Entry> = match self.writer() {
                Backend::Sqlite(pool) => {
                    sqlx::query_as(ENTRIES_SQLITE).bind(webhook_id).bind(limit).fetch_all(pool).await
                }
                Backend::Postgres(pool) => {
                    sqlx::query_as(ENTRIES_POSTGRES).bind(webhook_id).bind(limit).fetch_all(pool).await
                }
            }?;
            if entries.is_empty() {
                on!(self.writer(), pool => sqlx::query(DONE).bind(webhook_id).execute(pool).await.map(drop))?;
                continue;
            }
            removed += self.remove_events(&events_of(&entries, limit)).await?;
            if removed >= limit.unsigned_abs() {
                return Ok(removed);
            }
        }
    }

    async fn remove_events(&self, ids: &[EventId]) -> Result<u64> {
        const ATTEMPTS: &str = "DELETE FROM attempts WHERE event_id = $1";
        const EVENTS: &str = "DELETE FROM events WHERE id = $1";
        if ids.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        for id in ids {
            on!(&mut tx.0, tx => sqlx::query(ATTEMPTS).bind(id).execute(&mut **tx).await.map(drop))?;
            on!(&mut tx.0, tx => sqlx::query(EVENTS).bind(id).execute(&mut **tx).await.map(drop))?;
        }
        tx.commit().await?;
        Ok(ids.len() as u64)
    }
}

/// All that the first of these entries list, until there are so many.
fn events_of(entries: &[Entry], enough: i64) -> Vec<EventId> {
    let mut ids = Vec::new();
    for entry in entries {
        if ids.len() as u64 >= enough.unsigned_abs() {
            break;
        }
        ids.extend(entry.ids());
    }
    ids
}

fn midnight_before(moment: Timestamp) -> Timestamp {
    Timestamp::from_secs(moment.secs().div_euclid(86_400) * 86_400)
}

/// `20260225`.
fn name_of(day: Timestamp) -> String {
    day.to_string()[..10].replace('-', "")
}

async fn day_exists(connection: impl PgExecutor<'_>, day: Timestamp) -> Result<bool> {
    const POSTGRES: &str = "SELECT to_regclass($1) IS NOT NULL";
    Ok(sqlx::query_scalar(POSTGRES).bind(format!("attempts_d{}", name_of(day))).fetch_one(connection).await?)
}

/// A day for which there are events without a partition keeps them there: they go one by one when they are old.
async fn make_day(pool: &PgPool, day: Timestamp) -> Result<()> {
    const POSTGRES: &str = "
        SELECT EXISTS (SELECT 1 FROM events_rest WHERE id >= $1 AND id < $2)
            OR EXISTS (SELECT 1 FROM attempts_rest WHERE event_id >= $1 AND event_id < $2)";
    let (from, until) = (first_id_of(day), first_id_of(day + DAY));
    let mut tx = pool.begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query(ONE_AT_A_TIME_POSTGRES).execute(&mut *tx).await?;
    let taken: bool = sqlx::query_scalar(POSTGRES).bind(from).bind(until).fetch_one(&mut *tx).await?;
    if taken {
        return Ok(());
    }
    let day = name_of(day);
    for (table, index) in [
        (
            "events",
            format!(
                "CREATE UNIQUE INDEX IF NOT EXISTS events_d{day}_moment_key
                ON events_d{day} (moment COLLATE \"C\", trigger_id);"
            ),
        ),
        ("attempts", String::new()),
    ] {
        execute(
            &mut tx,
            format!(
                "CREATE TABLE IF NOT EXISTS {table}_d{day} PARTITION OF {table} FOR VALUES FROM ('{from}') TO ('{until}')
                    WITH ({DAY_OPTIONS});
                {index}"
            ),
        )
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The days there are partitions for.
async fn days(pool: &PgPool) -> Result<Vec<Timestamp>> {
    const POSTGRES: &str = "
        SELECT substr(child.relname, 11)
        FROM pg_inherits
        JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
        JOIN pg_class AS parent ON parent.oid = pg_inherits.inhparent
        WHERE parent.relname = 'attempts' AND child.relname LIKE 'attempts!_d%' ESCAPE '!'
            AND child.relnamespace = current_schema()::regnamespace
        ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(POSTGRES).fetch_all(pool).await?;
    let parse = |name: &String| {
        let (year, month, day) = (name.get(..4)?, name.get(4..6)?, name.get(6..8)?);
        format!("{year}-{month}-{day}T00:00:00Z").parse().ok()
    };
    Ok(names.iter().filter_map(parse).collect())
}

/// Whether it is gone: not while something of it is still owed.
async fn drop_day(pool: &PgPool, day: Timestamp) -> Result<bool> {
    const POSTGRES: &str = "SELECT EXISTS (SELECT 1 FROM queue WHERE event_id >= $1 AND event_id < $2)";
    let mut tx = pool.begin().await?;
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    sqlx::query(ONE_AT_A_TIME_POSTGRES).execute(&mut *tx).await?;
    if !day_exists(&mut *tx, day).await? {
        // Another node was faster.
        return Ok(false);
    }
    let day_name = name_of(day);
    // From here on nobody puts an event of that day into the queue: whoever would has to read it first. The whole before
    // its parts, as everybody who reads does, so that no two wait for each other.
    execute(
        &mut tx,
        format!(
            "LOCK TABLE ONLY events, ONLY attempts, events_d{day_name}, attempts_d{day_name} IN ACCESS EXCLUSIVE MODE"
        ),
    )
    .await?;
    let owed: bool =
        sqlx::query_scalar(POSTGRES).bind(first_id_of(day)).bind(first_id_of(day + DAY)).fetch_one(&mut *tx).await?;
    if owed {
        return Ok(false);
    }
    execute(&mut tx, format!("DROP TABLE attempts_d{day_name}, events_d{day_name}")).await?;
    tx.commit().await?;
    Ok(true)
}

/// Names of tables cannot be bound; these are made of digits.
async fn execute(connection: &mut PgConnection, statements: String) -> Result<()> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(connection).await?;
    Ok(())
}
