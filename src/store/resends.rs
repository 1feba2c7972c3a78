//! Ranges of deliveries that somebody wants sent once more. A range may be long and its endpoint slow, so it is put into the
//! queue a little at a time, by the node that owns the shard, and can be paused and cancelled until it is through.

use sqlx::{FromRow, Row as _};

use super::audit::Change;
use super::deliveries::{with_last_postgres, with_last_sqlite};
use super::lists::{Listing, hex_list, uuids};
use super::queue::Lane;
use super::retention::first_id_of;
use super::{Backend, Result, Store, StoreError, Tx, on};
use crate::domain::ids::{AccountId, EventId, ResendId, WebhookId};
use crate::domain::resend::{Range, Status};
use crate::domain::time::Timestamp;

/// Deliveries looked at in one transaction, or counted by one statement, so that a range of which few are meant holds nobody
/// up.
const LOOKED_AT: usize = 1_000;

/// What came of feeding a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// Deliveries that were put into the queue.
    pub queued: i64,
    /// There is room for more, and more to look at.
    pub is_hungry: bool,
    /// How far the range has come.
    pub cursor: EventId,
}

/// A range and how far it has come.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Resend {
    pub id: ResendId,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub shard: i32,
    #[sqlx(flatten)]
    pub range: Range,
    pub status: Status,
    /// How many deliveries there were when it was asked for.
    pub total: i64,
    /// How many of them were put into the queue so far.
    pub queued: i64,
    /// Deliveries up to this one were dealt with.
    pub cursor: EventId,
    pub until: EventId,
    pub inserted_at: Timestamp,
    pub updated_at: Timestamp,
}

macro_rules! resend_sql {
    ($rest:literal) => {
        concat!(
            "SELECT resends.id, resends.account_id, resends.webhook_id, resends.shard, resends.ended, resends.event_type,
                resends.from_at, resends.to_at, resends.status, resends.total, resends.queued, resends.cursor,
                resends.until, resends.inserted_at, resends.updated_at
            FROM resends ",
            $rest
        )
    };
}

impl Store {
    /// How many deliveries a range has now. Counted a part at a time, so that no statement takes long however many there
    /// are.
    pub async fn count_range(
        &self,
        account_id: AccountId,
        webhook_id: WebhookId,
        range: &Range,
        now: Timestamp,
    ) -> Result<i64> {
        macro_rules! count_sql {
            ($with_last:ident, $select:literal, $which:literal) => {
                concat!(
                    $select,
                    " FROM events ",
                    $with_last!(),
                    "
                    WHERE events.account_id = $1
                        AND ",
                    $which,
                    "
                        AND last.ended = $3
                        AND ($4 IS NULL OR events.type = $4)
                        AND ($5 IS NULL OR events.inserted_at >= $5)
                        AND ($6 IS NULL OR events.inserted_at <= $6)
                        AND queue.event_id IS NULL"
                )
            };
        }
        const SQLITE: &str =
            count_sql!(with_last_sqlite, "SELECT count(*)", "events.id IN (SELECT unhex(value) FROM json_each($2))");
        const POSTGRES: &str = count_sql!(with_last_postgres, "SELECT count(*)", "events.id = ANY ($2)");
        macro_rules! count {
            ($sql:expr, $pool:expr, $ids:expr) => {
                sqlx::query_scalar($sql)
                    .bind(account_id)
                    .bind($ids)
                    .bind(range.ended.as_str())
                    .bind(&range.event_type)
                    .bind(range.from_at)
                    .bind(range.to_at)
                    .fetch_one($pool)
                    .await
            };
        }
        let (after, until) = bounds(range, now);
        let mut listing = Listing::oldest(account_id, webhook_id, after, until);
        let mut count = 0;
        loop {
            let ids = self.next_of(&mut listing, LOOKED_AT).await?;
            if ids.is_empty() {
                return Ok(count);
            }
            let part: i64 = match self.lookups() {
                Backend::Sqlite(pool) => count!(SQLITE, pool, hex_list(&ids)),
                Backend::Postgres(pool) => count!(POSTGRES, pool, uuids(&ids)),
            }?;
            count += part;
        }
    }

    /// Has a range sent once more that [`Store::count_range`] has just counted.
    pub async fn start_resend(
        &self,
        change: &Change,
        id: ResendId,
        webhook_id: WebhookId,
        shard: i32,
        range: Range,
        total: i64,
    ) -> Result<Resend> {
        const SQL: &str = "
            INSERT INTO resends (id, account_id, webhook_id, shard, ended, event_type, from_at, to_at, status, total,
                queued, cursor, until, inserted_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', $9, 0, $10, $11, $12, $12)";
        let (cursor, until) = bounds(&range, change.now);
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(id)
            .bind(change.account_id)
            .bind(webhook_id)
            .bind(shard)
            .bind(range.ended.as_str())
            .bind(&range.event_type)
            .bind(range.from_at)
            .bind(range.to_at)
            .bind(total)
            .bind(cursor)
            .bind(until)
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        tx.audit(change, "webhook.resend", &format!("{webhook_id}: {total} deliveries")).await?;
        tx.commit().await?;
        Ok(Resend {
            id,
            account_id: change.account_id,
            webhook_id,
            shard,
            range,
            status: Status::Running,
            total,
            queued: 0,
            cursor,
            until,
            inserted_at: change.now,
            updated_at: change.now,
        })
    }

    /// The newest `limit`, newest first.
    pub async fn resends(&self, account_id: AccountId, webhook_id: WebhookId, limit: i64) -> Result<Vec<Resend>> {
        const SQL: &str = resend_sql!("WHERE account_id = $1 AND webhook_id = $2 ORDER BY id DESC LIMIT $3");
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(webhook_id).bind(limit).fetch_all(pool).await)?)
    }

    pub async fn find_resend(
        &self,
        account_id: AccountId,
        webhook_id: WebhookId,
        id: ResendId,
    ) -> Result<Option<Resend>> {
        const SQL: &str = resend_sql!("WHERE account_id = $1 AND webhook_id = $2 AND id = $3");
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(webhook_id).bind(id).fetch_optional(pool).await)?)
    }

    /// Pauses, resumes or cancels a range. `false`: it is over already.
    pub async fn set_resend_status(&self, change: &Change, id: ResendId, status: Status) -> Result<bool> {
        const SQL: &str = "
            UPDATE resends
            SET status = $3, updated_at = $4
            WHERE account_id = $1 AND id = $2 AND status IN ('running', 'paused')";
        let mut tx = self.begin().await?;
        let changed = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id)
            .bind(id)
            .bind(status.as_str())
            .bind(change.now)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if changed == 0 {
            return Ok(false);
        }
        tx.audit(change, "webhook.resend", &format!("{id}: {}", status.as_str())).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Every range that waits to be put into the queue, with its webhook's own rate, if it has one. Those of webhooks that
    /// are paused or disabled wait.
    pub async fn operator_running_resends(&self) -> Result<Vec<(Resend, Option<u32>)>> {
        const SQL: &str = "
            SELECT resends.id, resends.account_id, resends.webhook_id, resends.shard, resends.ended, resends.event_type,
                resends.from_at, resends.to_at, resends.status, resends.total, resends.queued, resends.cursor,
                resends.until, resends.inserted_at, resends.updated_at, webhooks.rate_limit
            FROM resends
            JOIN webhooks ON webhooks.id = resends.webhook_id
            WHERE resends.status = 'running' AND webhooks.active AND webhooks.disabled_at IS NULL";
        on!(self.reader(), pool => {
            let rows = sqlx::query(SQL).fetch_all(pool).await?;
            rows.iter().map(|row| {
                let rate: Option<i32> = row.try_get("rate_limit")?;
                Ok((Resend::from_row(row)?, rate.and_then(|rate| u32::try_from(rate).ok())))
            }).collect()
        })
    }

    /// Puts the next deliveries of a range into the queue, oldest first, until `most` resends of its webhook wait there or
    /// [`LOOKED_AT`] deliveries were looked at. What is in the queue is on its way anyway. One that fails again is not met a
    /// second time: the range only goes forward.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] when somebody paused, cancelled or fed it meanwhile; nothing was put into the queue then.
    pub async fn feed_resend(&self, resend: &Resend, most: u32, now: Timestamp) -> Result<Fed> {
        let mut tx = self.begin_lookups().await?;
        let mut fed = Fed { queued: 0, is_hungry: false, cursor: resend.cursor };
        let room = i64::from(most) - tx.resends_waiting(resend, most).await?;
        if room <= 0 {
            return Ok(fed);
        }
        let (looked_at, is_last) = tx.next_of_range(resend).await?;
        let mut is_full = false;
        for (event_id, attempts, is_meant) in looked_at {
            if is_meant == Some(true) {
                is_full = fed.queued == room;
                if is_full {
                    break;
                }
                fed.queued += tx.queue_resend(resend, event_id, attempts, now).await?;
            }
            fed.cursor = event_id;
        }
        let status = if is_last && !is_full { Status::Done } else { Status::Running };
        fed.is_hungry = status == Status::Running && !is_full;
        tx.advance_resend(resend, &fed, status, now).await?;
        tx.commit().await?;
        Ok(fed)
    }

    /// Forgets ranges that were through, or cancelled, before a moment.
    pub async fn operator_prune_resends(&self, before: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM resends WHERE updated_at < $1 AND status IN ('done', 'cancelled')";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(before).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

impl Tx {
    /// How many resends of the webhook are in the queue, counted up to `most`.
    async fn resends_waiting(&mut self, resend: &Resend, most: u32) -> Result<i64> {
        const SQL: &str = "
            SELECT count(*)
            FROM (SELECT 1 AS one FROM queue WHERE shard = $1 AND webhook_id = $2 AND lane = $3 LIMIT $4) AS waiting";
        Ok(on!(&mut self.0, tx => sqlx::query_scalar(SQL)
            .bind(resend.shard)
            .bind(resend.webhook_id)
            .bind(Lane::Resend)
            .bind(i64::from(most))
            .fetch_one(&mut **tx)
            .await)?)
    }

    /// The next deliveries of the webhook, the attempts made of each, and whether it is in the range. Then whether there are
    /// no more.
    async fn next_of_range(&mut self, resend: &Resend) -> Result<(Vec<(EventId, Option<i32>, Option<bool>)>, bool)> {
        macro_rules! next_sql {
            ($with_last:ident, $select:literal, $which:literal) => {
                concat!(
                    $select,
                    ", last.ended = $3
                            AND ($4 IS NULL OR events.type = $4)
                            AND ($5 IS NULL OR events.inserted_at >= $5)
                            AND ($6 IS NULL OR events.inserted_at <= $6)
                            AND queue.event_id IS NULL
                    FROM events ",
                    $with_last!(),
                    "
                    WHERE events.account_id = $1 AND ",
                    $which,
                    " ORDER BY events.id"
                )
            };
        }
        const SQLITE: &str = next_sql!(
            with_last_sqlite,
            "SELECT events.id, last.number",
            "events.id IN (SELECT unhex(value) FROM json_each($2))"
        );
        const POSTGRES: &str = next_sql!(with_last_postgres, "SELECT events.id, last.number", "events.id = ANY ($2)");
        macro_rules! next {
            ($sql:expr, $tx:expr, $ids:expr) => {
                sqlx::query_as($sql)
                    .bind(resend.account_id)
                    .bind($ids)
                    .bind(resend.range.ended.as_str())
                    .bind(&resend.range.event_type)
                    .bind(resend.range.from_at)
                    .bind(resend.range.to_at)
                    .fetch_all(&mut **$tx)
                    .await
            };
        }
        let mut listing = Listing::oldest(resend.account_id, resend.webhook_id, resend.cursor, resend.until);
        let ids = self.next_of(&mut listing, LOOKED_AT).await?;
        let looked_at = match &mut self.0 {
            Backend::Sqlite(tx) => next!(SQLITE, tx, hex_list(&ids)),
            Backend::Postgres(tx) => next!(POSTGRES, tx, uuids(&ids)),
        }?;
        Ok((looked_at, ids.len() < LOOKED_AT))
    }

    async fn queue_resend(
        &mut self,
        resend: &Resend,
        event_id: EventId,
        attempts: Option<i32>,
        now: Timestamp,
    ) -> Result<i64> {
        const SQL: &str = "
            INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at,
                expires_at)
            VALUES ($1, $2, $3, $4, $5, 0, $6, $7, NULL)
            ON CONFLICT (event_id) DO NOTHING";
        let queued = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(event_id)
            .bind(resend.account_id)
            .bind(resend.webhook_id)
            .bind(resend.shard)
            .bind(Lane::Resend)
            .bind(attempts.unwrap_or(0))
            .bind(now)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        Ok(i64::try_from(queued).unwrap_or(i64::MAX))
    }

    async fn advance_resend(&mut self, resend: &Resend, fed: &Fed, status: Status, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            UPDATE resends
            SET cursor = $3, queued = queued + $4, status = $5, updated_at = $6
            WHERE id = $1 AND cursor = $2 AND status = 'running'";
        let advanced = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(resend.id)
            .bind(resend.cursor)
            .bind(fed.cursor)
            .bind(fed.queued)
            .bind(status.as_str())
            .bind(now)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if advanced == 1 { Ok(()) } else { Err(StoreError::Overtaken) }
    }
}

/// The ids between which a range lies, both exclusive: ids begin with their time, to the millisecond. What is fired after
/// it was asked for is no part of it.
fn bounds(range: &Range, now: Timestamp) -> (EventId, EventId) {
    let last = range.to_at.map_or(now, |to_at| to_at.min(now));
    (first_id_of(range.from_at.unwrap_or_default()), first_id_of(last + std::time::Duration::from_millis(1)))
}
