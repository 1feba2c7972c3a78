//! Which lanes of the queue there is something in, and from when on.

use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::queue::Lane;
use super::shards::SHARDS;
use super::unqueued::Which;
use super::{Backend, Result, Store};
use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::domain::time::Timestamp;

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

/// How to look for what waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Left out on PostgreSQL. Nothing is known on SQLite: its deleted rows are gone.
    pub known: Option<Known>,
    /// It may take minutes, unlike any other statement.
    pub patiently: bool,
    /// What was recorded since then and has no row yet is left without one: whoever looks has it, or will ask for it. Without
    /// this everything is found.
    pub young_since: Option<Timestamp>,
}

/// What need not be looked at again. Rows that are deleted stay in PostgreSQL's index for as long as somebody holds an old
/// snapshot, millions of them, and who looks for the first that is left goes past all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// In the order of the index.
    pub webhooks: Vec<Fronts>,
    /// What is due before for another webhook is not there.
    pub elsewhere: Timestamp,
}

/// What is due before these moments in each lane of a webhook is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fronts {
    pub shard: i32,
    pub webhook_id: WebhookId,
    /// By lane.
    pub lanes: [Timestamp; Lane::ALL.len()],
}

/// Between two webhooks that are known, or an end of a shard and one, or both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    shard: i32,
    after: Uuid,
    before: Uuid,
}

impl Known {
    fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::with_capacity(self.webhooks.len() + SHARDS as usize);
        let mut webhooks = self.webhooks.iter().peekable();
        for shard in 0..SHARDS {
            let mut after = Uuid::nil();
            while let Some(known) = webhooks.next_if(|known| known.shard <= shard) {
                gaps.push(Gap { shard, after, before: known.webhook_id.0 });
                after = known.webhook_id.0;
            }
            gaps.push(Gap { shard, after, before: Uuid::max() });
        }
        gaps
    }
}

impl Store {
    /// Every lane of every webhook with a delivery in it, whoever owns its shard. Skips from lane to lane along the index, so it
    /// costs nothing how many deliveries each has.
    pub async fn waiting(&self, look: &Look) -> Result<Vec<Waiting>> {
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
        // The index is for who asks by shard, which a comparison of rows does not say to the planner.
        const POSTGRES: &str = "
            WITH RECURSIVE waiting AS (
                (
                    SELECT shard, account_id, webhook_id, lane, due_at AS next_due_at, event_id
                    FROM queue
                    WHERE shard >= 0
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                )
                UNION ALL
                SELECT later.shard, later.account_id, later.webhook_id, later.lane, later.due_at, later.event_id
                FROM waiting
                CROSS JOIN LATERAL (
                    SELECT shard, account_id, webhook_id, lane, due_at, event_id
                    FROM queue
                    WHERE queue.shard >= waiting.shard
                        AND (queue.shard, queue.webhook_id, queue.lane)
                            > (waiting.shard, waiting.webhook_id, waiting.lane)
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                ) AS later
            )
            SELECT shard, account_id, webhook_id, lane, next_due_at, event_id FROM waiting";
        const PATIENCE_POSTGRES: &str = "SELECT set_config('statement_timeout', '600000', true)";
        self.queue_of_what_is_owed(look.young_since.map_or(Which::Everything, Which::Before)).await?;
        Ok(match (self.hot(), &look.known) {
            (Backend::Sqlite(pool), _) => sqlx::query_as(SQLITE).fetch_all(pool).await?,
            (Backend::Postgres(pool), Some(known)) => waiting_beside(pool, known).await?,
            (Backend::Postgres(pool), None) if look.patiently => {
                let mut tx = pool.begin().await?;
                sqlx::query(PATIENCE_POSTGRES).execute(&mut *tx).await?;
                let waiting = sqlx::query_as(POSTGRES).fetch_all(&mut *tx).await?;
                tx.commit().await?;
                waiting
            }
            (Backend::Postgres(pool), None) => sqlx::query_as(POSTGRES).fetch_all(pool).await?,
        })
    }
}

/// First what is in the gaps, from lane to lane, then the first of each lane that is known. A gap is within a shard: a row
/// comparison tells the index where to begin, but where to end only a comparison of the column after those that are equal.
async fn waiting_beside(pool: &PgPool, known: &Known) -> Result<Vec<Waiting>> {
    const BESIDE_POSTGRES: &str = "
        WITH RECURSIVE waiting AS (
            SELECT first.*, gap.before
            FROM unnest($1::integer[], $2::uuid[], $3::uuid[]) AS gap (shard, after, before)
            CROSS JOIN LATERAL (
                SELECT shard, account_id, webhook_id, lane, due_at AS next_due_at, event_id
                FROM queue
                WHERE queue.shard = gap.shard
                    AND queue.webhook_id > gap.after
                    AND queue.webhook_id < gap.before
                    AND queue.due_at >= $4
                ORDER BY shard, webhook_id, lane, due_at, event_id
                LIMIT 1
            ) AS first
            UNION ALL
            SELECT later.*, waiting.before
            FROM waiting
            CROSS JOIN LATERAL (
                SELECT shard, account_id, webhook_id, lane, due_at, event_id
                FROM queue
                WHERE queue.shard = waiting.shard
                    AND (queue.webhook_id, queue.lane) > (waiting.webhook_id, waiting.lane)
                    AND queue.webhook_id < waiting.before
                    AND queue.due_at >= $4
                ORDER BY shard, webhook_id, lane, due_at, event_id
                LIMIT 1
            ) AS later
        )
        SELECT shard, account_id, webhook_id, lane, next_due_at, event_id
        FROM waiting
        UNION ALL
        SELECT first.*
        FROM unnest($5::integer[], $6::uuid[], $7::integer[], $8::bigint[])
            AS known (shard, webhook_id, lane, front)
        CROSS JOIN LATERAL (
            SELECT shard, account_id, webhook_id, lane, due_at, event_id
            FROM queue
            WHERE queue.shard = known.shard
                AND queue.webhook_id = known.webhook_id
                AND queue.lane = known.lane
                AND queue.due_at >= known.front
            ORDER BY shard, webhook_id, lane, due_at, event_id
            LIMIT 1
        ) AS first";
    let gaps = known.gaps();
    let webhooks = known.webhooks.iter();
    let lanes: Vec<_> = webhooks.flat_map(|known| Lane::ALL.map(|lane| (known, lane))).collect();
    Ok(sqlx::query_as(BESIDE_POSTGRES)
        .bind(gaps.iter().map(|gap| gap.shard).collect::<Vec<_>>())
        .bind(gaps.iter().map(|gap| gap.after).collect::<Vec<_>>())
        .bind(gaps.iter().map(|gap| gap.before).collect::<Vec<_>>())
        .bind(known.elsewhere)
        .bind(lanes.iter().map(|(known, _)| known.shard).collect::<Vec<_>>())
        .bind(lanes.iter().map(|(known, _)| known.webhook_id.0).collect::<Vec<_>>())
        .bind(lanes.iter().map(|(_, lane)| *lane as i32).collect::<Vec<_>>())
        .bind(lanes.iter().map(|(known, lane)| known.lanes[*lane as usize].micros()).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_what_is_known_in_every_shard() {
        let gaps = |webhooks: &[(i32, u128)]| {
            let fronts = |(shard, webhook): &(i32, u128)| Fronts {
                shard: *shard,
                webhook_id: WebhookId(Uuid::from_u128(*webhook)),
                lanes: [Timestamp::EPOCH; 3],
            };
            let webhooks = webhooks.iter().map(fronts).collect();
            let gaps = Known { webhooks, elsewhere: Timestamp::EPOCH }.gaps();
            gaps.into_iter().map(|gap| (gap.shard, gap.after.as_u128(), gap.before.as_u128())).collect::<Vec<_>>()
        };
        let whole: Vec<_> = (0..SHARDS).map(|shard| (shard, 0, u128::MAX)).collect();
        assert_eq!(gaps(&[]), whole);
        let among_known = gaps(&[(0, 7), (2, 3), (2, 5), (SHARDS - 1, 9)]);
        assert_eq!(among_known[..3], [(0, 0, 7), (0, 7, u128::MAX), (1, 0, u128::MAX)]);
        assert_eq!(among_known[3..6], [(2, 0, 3), (2, 3, 5), (2, 5, u128::MAX)]);
        assert_eq!(among_known[6..SHARDS as usize + 2], whole[3..SHARDS as usize - 1]);
        assert_eq!(among_known[SHARDS as usize + 2..], [(SHARDS - 1, 0, 9), (SHARDS - 1, 9, u128::MAX)]);
    }
}
