//! Deliveries as their owner sees them. Nothing here is stored: a delivery is pending while it is in the queue, and
//! afterwards what its last attempt says.

use sqlx::FromRow;
use uuid::Uuid;

use super::audit::Change;
use super::lists::{Listing, has_entry_postgres, has_entry_sqlite, hex_list, uuids};
use super::retention::first_id_of;
use super::{Backend, Result, Store, on};
use crate::domain::ids::{AccountId, EventId, TriggerId, WebhookId};
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Delivery {
    pub id: EventId,
    pub webhook_id: WebhookId,
    pub trigger_id: Option<TriggerId>,
    pub event_type: String,
    pub status: String,
    pub reason: Option<String>,
    pub payload: Vec<u8>,
    /// Attempts made so far.
    pub attempts: i32,
    pub next_attempt_at: Option<Timestamp>,
    pub outcome: Option<String>,
    pub advice: Option<String>,
    pub response_code: Option<i32>,
    pub response_body: Option<Vec<u8>>,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Attempt {
    pub number: i32,
    pub started_at: Timestamp,
    pub duration_ms: i64,
    pub outcome: String,
    pub advice: Option<String>,
    pub response_code: Option<i32>,
    pub response_headers: Option<String>,
    pub response_body: Option<Vec<u8>>,
    pub ended: Option<String>,
    pub reason: Option<String>,
    /// Packed. `None` when nothing was sent over a network, or nobody took the time.
    pub phases: Option<i64>,
}

#[derive(FromRow)]
struct AttemptAt {
    event_id: EventId,
    #[sqlx(flatten)]
    attempt: Attempt,
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub status: Option<String>,
    /// Of the event: a trigger's type, or `test`.
    pub event_type: Option<String>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// Only deliveries older than this one.
    pub before: Option<EventId>,
}

/// Events whose deliveries are looked at in one statement.
const LOOKED_AT: usize = 1_000;

/// What an event has in the queue, and its last attempt.
macro_rules! with_last_sqlite {
    () => {
        "LEFT JOIN queue ON queue.event_id = events.id
        LEFT JOIN attempts AS last ON last.event_id = events.id
            AND last.number = (SELECT max(number) FROM attempts WHERE attempts.event_id = events.id)"
    };
}
/// Looked up and never joined, whatever was in these tables when it was planned.
macro_rules! with_last_postgres {
    () => {
        "LEFT JOIN LATERAL (
            SELECT event_id, attempt, due_at FROM queue WHERE queue.event_id = events.id LIMIT 1
        ) AS queue ON TRUE
        LEFT JOIN LATERAL (
            SELECT * FROM attempts WHERE attempts.event_id = events.id ORDER BY number DESC LIMIT 1
        ) AS last ON TRUE"
    };
}
pub(super) use {with_last_postgres, with_last_sqlite};

/// All that is told of a delivery.
macro_rules! whole {
    () => {
        "id, webhook_id, trigger_id, event_type, status, reason, payload, attempts, next_attempt_at, outcome, advice,
        response_code, response_body, inserted_at, updated_at"
    };
}

/// The part of the statements that says what a delivery is; `$1` is the account, `$with_last` how its last attempt is found,
/// `$which` says which deliveries are looked at.
macro_rules! delivery_sql {
    ($with_last:ident, $select:expr, $which:literal, $rest:literal) => {
        concat!(
            "WITH delivery AS (
                SELECT events.id, events.webhook_id, events.trigger_id, events.type AS event_type,
                    CASE
                        WHEN queue.attempt > 0 THEN 'retrying'
                        WHEN queue.attempt = 0 THEN 'pending'
                        WHEN last.number IS NULL AND events.owed_until IS NOT NULL THEN 'pending'
                        ELSE coalesce(last.ended, 'cancelled')
                    END AS status,
                    CASE
                        WHEN queue.event_id IS NOT NULL THEN NULL
                        WHEN last.number IS NOT NULL THEN last.reason
                        WHEN events.owed_until IS NULL THEN 'shadow'
                    END AS reason,
                    events.payload,
                    coalesce(last.number, 0) AS attempts,
                    CASE
                        WHEN last.number IS NULL AND events.owed_until IS NOT NULL THEN events.inserted_at
                        ELSE queue.due_at
                    END AS next_attempt_at,
                    last.outcome, last.advice, last.response_code, last.response_body, events.inserted_at,
                    coalesce(last.started_at + last.duration_ms * 1000, events.inserted_at) AS updated_at
                FROM events
                ",
            $with_last!(),
            "
                WHERE events.account_id = $1 AND ",
            $which,
            ") ",
            $select,
            " FROM delivery ",
            $rest
        )
    };
}

/// `$select` of the deliveries with one of the ids in `$2` which a filter lets through.
macro_rules! among_sql {
    ($with_last:ident, $select:expr, $which:literal) => {
        delivery_sql!(
            $with_last,
            $select,
            $which,
            "WHERE ($3 IS NULL OR status = $3)
                AND ($4 IS NULL OR event_type = $4)
                AND ($5 IS NULL OR inserted_at >= $5)
                AND ($6 IS NULL OR inserted_at <= $6)"
        )
    };
    ($with_last:ident, $select:expr, $which:literal, $rest:literal) => {
        concat!(among_sql!($with_last, $select, $which), $rest)
    };
}

/// As one of them is asked.
macro_rules! among {
    ($query:expr, $account_id:expr, $ids:expr, $filter:expr) => {
        $query
            .bind($account_id)
            .bind($ids)
            .bind(&$filter.status)
            .bind(&$filter.event_type)
            .bind($filter.from)
            .bind($filter.to)
    };
}

impl Filter {
    /// A way through the deliveries it may let through, newest first.
    fn listing(&self, account_id: AccountId, webhook_id: WebhookId) -> Listing {
        // Ids are of the moment an event is recorded at, or later.
        let after = first_id_of(self.from.unwrap_or_default());
        Listing::newest(account_id, webhook_id, after, self.before.unwrap_or(EventId(Uuid::max())))
    }

    /// Whether it lets everything through that its listing has.
    fn is_open(&self) -> bool {
        self.status.is_none() && self.event_type.is_none() && self.from.is_none() && self.to.is_none()
    }
}

impl Store {
    /// One page, newest first.
    pub async fn deliveries(
        &self,
        account_id: AccountId,
        webhook_id: WebhookId,
        filter: &Filter,
        limit: usize,
        offset: usize,
    ) -> Result<Vec<Delivery>> {
        let mut listing = filter.listing(account_id, webhook_id);
        let (mut to_skip, mut page) = (offset, Vec::new());
        let most = if filter.is_open() { LOOKED_AT.min(offset.saturating_add(limit)) } else { LOOKED_AT };
        while page.len() < limit {
            let mut ids = self.next_of(&mut listing, most).await?;
            if ids.is_empty() {
                break;
            }
            if to_skip > 0 {
                ids = self.let_through(account_id, ids, filter).await?;
                let skipped = to_skip.min(ids.len());
                to_skip -= skipped;
                ids.drain(..skipped);
                if ids.is_empty() {
                    continue;
                }
            }
            page.extend(self.some_among(account_id, &ids, filter, limit - page.len()).await?);
        }
        Ok(page)
    }

    /// The newest of several webhooks, newest first: as many of each as might be among them, then those that are.
    pub async fn deliveries_of(
        &self,
        account_id: AccountId,
        webhook_ids: &[WebhookId],
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Delivery>> {
        let mut found = Vec::new();
        for webhook_id in webhook_ids {
            found.extend(self.deliveries(account_id, *webhook_id, filter, limit, 0).await?);
        }
        found.sort_by_key(|delivery| std::cmp::Reverse(delivery.id));
        found.truncate(limit);
        Ok(found)
    }

    /// How many a filter lets through, however old. A part at a time, so that no statement takes long, unless it is all.
    pub async fn count_deliveries(&self, account_id: AccountId, webhook_id: WebhookId, filter: &Filter) -> Result<i64> {
        const ALL_SQLITE: &str = concat!(
            "SELECT count(*) + coalesce(sum(length(lists)), 0) / 16 FROM events WHERE ",
            has_entry_sqlite!(),
            " AND account_id = $1 AND webhook_id = $2"
        );
        const ALL_POSTGRES: &str = concat!(
            "SELECT count(*) + coalesce(sum(length(lists)), 0) / 16 FROM events WHERE ",
            has_entry_postgres!(),
            " AND account_id = $1 AND webhook_id = $2"
        );
        if filter.is_open() {
            macro_rules! count {
                ($sql:ident, $pool:expr) => {
                    sqlx::query_scalar($sql).bind(account_id).bind(webhook_id).fetch_one($pool).await
                };
            }
            return Ok(match self.reader() {
                Backend::Sqlite(pool) => count!(ALL_SQLITE, pool),
                Backend::Postgres(pool) => count!(ALL_POSTGRES, pool),
            }?);
        }
        let mut listing = Filter { before: None, ..filter.clone() }.listing(account_id, webhook_id);
        let mut count = 0;
        loop {
            let ids = self.next_of(&mut listing, LOOKED_AT).await?;
            if ids.is_empty() {
                return Ok(count);
            }
            count += self.count_among(account_id, &ids, filter).await?;
        }
    }

    pub async fn delivery(
        &self,
        account_id: AccountId,
        webhook_id: WebhookId,
        id: EventId,
    ) -> Result<Option<Delivery>> {
        const SQLITE: &str =
            delivery_sql!(with_last_sqlite, concat!("SELECT ", whole!()), "events.webhook_id = $2", "WHERE id = $3");
        const POSTGRES: &str =
            delivery_sql!(with_last_postgres, concat!("SELECT ", whole!()), "events.webhook_id = $2", "WHERE id = $3");
        macro_rules! one {
            ($sql:expr, $pool:expr) => {
                sqlx::query_as($sql).bind(account_id).bind(webhook_id).bind(id).fetch_optional($pool).await
            };
        }
        Ok(match self.lookups() {
            Backend::Sqlite(pool) => one!(SQLITE, pool),
            Backend::Postgres(pool) => one!(POSTGRES, pool),
        }?)
    }

    /// Those of the account's deliveries that have one of these ids, in the order of their ids.
    pub async fn deliveries_among(&self, account_id: AccountId, ids: &[EventId]) -> Result<Vec<Delivery>> {
        let mut found = self.some_among(account_id, ids, &Filter::default(), ids.len()).await?;
        found.reverse();
        Ok(found)
    }

    /// Those of the account's deliveries that have one of these ids and pass a filter, newest first, at most `limit`.
    async fn some_among(
        &self,
        account_id: AccountId,
        ids: &[EventId],
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Delivery>> {
        const SQLITE: &str = among_sql!(
            with_last_sqlite,
            concat!("SELECT ", whole!()),
            "events.id IN (SELECT unhex(value) FROM json_each($2))",
            " ORDER BY id DESC LIMIT $7"
        );
        const POSTGRES: &str = among_sql!(
            with_last_postgres,
            concat!("SELECT ", whole!()),
            "events.id = ANY ($2)",
            " ORDER BY id DESC LIMIT $7"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(match self.lookups() {
            Backend::Sqlite(pool) => {
                let query = among!(sqlx::query_as(SQLITE), account_id, hex_list(ids), filter);
                query.bind(limit).fetch_all(pool).await?
            }
            Backend::Postgres(pool) => {
                let query = among!(sqlx::query_as(POSTGRES), account_id, uuids(ids), filter);
                query.bind(limit).fetch_all(pool).await?
            }
        })
    }

    /// Which of these a filter lets through, newest first.
    async fn let_through(&self, account_id: AccountId, ids: Vec<EventId>, filter: &Filter) -> Result<Vec<EventId>> {
        const SQLITE: &str = among_sql!(
            with_last_sqlite,
            "SELECT id",
            "events.id IN (SELECT unhex(value) FROM json_each($2))",
            " ORDER BY id DESC"
        );
        const POSTGRES: &str = among_sql!(with_last_postgres, "SELECT id", "events.id = ANY ($2)", " ORDER BY id DESC");
        if filter.is_open() {
            return Ok(ids);
        }
        Ok(match self.lookups() {
            Backend::Sqlite(pool) => {
                among!(sqlx::query_scalar(SQLITE), account_id, hex_list(&ids), filter).fetch_all(pool).await?
            }
            Backend::Postgres(pool) => {
                among!(sqlx::query_scalar(POSTGRES), account_id, uuids(&ids), filter).fetch_all(pool).await?
            }
        })
    }

    /// How many of these a filter lets through.
    async fn count_among(&self, account_id: AccountId, ids: &[EventId], filter: &Filter) -> Result<i64> {
        const SQLITE: &str =
            among_sql!(with_last_sqlite, "SELECT count(*)", "events.id IN (SELECT unhex(value) FROM json_each($2))");
        const POSTGRES: &str = among_sql!(with_last_postgres, "SELECT count(*)", "events.id = ANY ($2)");
        Ok(match self.lookups() {
            Backend::Sqlite(pool) => {
                among!(sqlx::query_scalar(SQLITE), account_id, hex_list(ids), filter).fetch_one(pool).await?
            }
            Backend::Postgres(pool) => {
                among!(sqlx::query_scalar(POSTGRES), account_id, uuids(ids), filter).fetch_one(pool).await?
            }
        })
    }

    /// Every attempt at these deliveries of the account, delivery by delivery, the first one first.
    pub async fn attempts_among(&self, account_id: AccountId, ids: &[EventId]) -> Result<Vec<(EventId, Attempt)>> {
        const SQLITE: &str = "
            SELECT event_id, number, started_at, duration_ms, outcome, advice, response_code, response_headers,
                response_body, ended, reason, phases
            FROM attempts
            WHERE account_id = $1 AND event_id IN (SELECT unhex(value) FROM json_each($2))
            ORDER BY event_id, number";
        const POSTGRES: &str = "
            SELECT event_id, number, started_at, duration_ms, outcome, advice, response_code, response_headers,
                response_body, ended, reason, phases
            FROM attempts
            WHERE account_id = $1 AND event_id = ANY ($2)
            ORDER BY event_id, number";
        let rows: Vec<AttemptAt> = match self.lookups() {
            Backend::Sqlite(pool) => {
                sqlx::query_as(SQLITE).bind(account_id).bind(hex_list(ids)).fetch_all(pool).await?
            }
            Backend::Postgres(pool) => {
                sqlx::query_as(POSTGRES).bind(account_id).bind(uuids(ids)).fetch_all(pool).await?
            }
        };
        Ok(rows.into_iter().map(|row| (row.event_id, row.attempt)).collect())
    }

    pub async fn attempts(&self, account_id: AccountId, id: EventId) -> Result<Vec<Attempt>> {
        const SQL: &str = "
            SELECT number, started_at, duration_ms, outcome, advice, response_code, response_headers, response_body,
                ended, reason, phases
            FROM attempts
            WHERE account_id = $1 AND event_id = $2
            ORDER BY number";
        Ok(on!(self.lookups(), pool => sqlx::query_as(SQL).bind(account_id).bind(id).fetch_all(pool).await)?)
    }

    /// Owes a delivery once more, at once, as a new round under the same event id; one still in the queue is only
    /// brought forward. Whether there is such a delivery.
    pub async fn resend(&self, change: &Change, webhook_id: WebhookId, id: EventId, shard: i32) -> Result<bool> {
        const SQL: &str = "
            INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at,
                expires_at)
            SELECT events.id, events.account_id, events.webhook_id, $4, 2, 0,
                (SELECT coalesce(max(number), 0) FROM attempts WHERE attempts.event_id = events.id), $5, NULL
            FROM events
            WHERE events.account_id = $1 AND events.webhook_id = $2 AND events.id = $3
            ON CONFLICT (event_id) DO UPDATE
            SET due_at = excluded.due_at, expires_at = NULL";
        let mut tx = self.begin().await?;
        tx.queue_what_is_owed().await?;
        if !self.is_sqlite() {
            // An attempt that is being written has its number then, and no other is begun to be.
            tx.wait_for_shards(vec![shard]).await?;
        }
        let queued = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id)
            .bind(webhook_id)
            .bind(id)
            .bind(shard)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if queued == 0 {
            return Ok(false);
        }
        tx.audit(change, "delivery.resend", &id.to_string()).await?;
        tx.commit().await?;
        Ok(true)
    }
}
