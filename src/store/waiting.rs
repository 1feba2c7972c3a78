//! Which lanes of the queue there is something in, and from when on.

use sqlx::FromRow;
use uuid::Uuid;

use super::queue::Lane;
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

/// Where a lane is in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub shard: i32,
    pub webhook_id: WebhookId,
    pub lane: Lane,
}

/// What need not be looked at again. Rows that are deleted stay in PostgreSQL's index for as long as somebody holds an old
/// snapshot, millions of them, and who looks for the first that is left goes past all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Lanes in the order of the index, and what is due in each before that moment is not there.
    pub fronts: Vec<(Place, Timestamp)>,
    /// The same of every other lane.
    pub elsewhere: Timestamp,
}

/// Part of the index in which no lane is known, its ends not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    after: (i32, Uuid, i32),
    before: (i32, Uuid, i32),
}

impl Known {
    pub const NOTHING: Self = Self { fronts: Vec::new(), elsewhere: Timestamp::MIN };

    /// Between the lanes that are known. Lanes of a webhook that follow each other leave none.
    fn gaps(&self) -> Vec<Gap> {
        let mut after = (i32::MIN, Uuid::nil(), i32::MIN);
        let mut gaps = Vec::with_capacity(self.fronts.len() + 1);
        for (place, _) in &self.fronts {
            let before = place.key();
            if (after.0, after.1, after.2.saturating_add(1)) != before {
                gaps.push(Gap { after, before });
            }
            after = before;
        }
        gaps.push(Gap { after, before: (i32::MAX, Uuid::max(), i32::MAX) });
        gaps
    }
}

impl Place {
    fn key(&self) -> (i32, Uuid, i32) {
        (self.shard, self.webhook_id.0, self.lane as i32)
    }
}

impl From<&Waiting> for Place {
    fn from(waiting: &Waiting) -> Self {
        Self { shard: waiting.shard, webhook_id: waiting.webhook_id, lane: waiting.lane }
    }
}

impl Store {
    /// Every lane of every webhook with a delivery in it, whoever owns its shard. Skips from lane to lane along the index, so it
    /// costs nothing how many deliveries each has. `known` is believed on PostgreSQL and not asked for on SQLite, whose
    /// deleted rows are gone.
    pub async fn waiting(&self, known: &Known) -> Result<Vec<Waiting>> {
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
        // First what is in the gaps, then what is in the lanes that are known, of which no part is read that is known.
        const POSTGRES: &str = "
            WITH RECURSIVE waiting AS (
                SELECT first.*, before_shard, before_webhook_id, before_lane
                FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::integer[])
                    AS gap (after_shard, after_webhook_id, after_lane, before_shard, before_webhook_id, before_lane)
                CROSS JOIN LATERAL (
                    SELECT shard, account_id, webhook_id, lane, due_at AS next_due_at, event_id
                    FROM queue
                    WHERE (queue.shard, queue.webhook_id, queue.lane) > (after_shard, after_webhook_id, after_lane)
                        AND (queue.shard, queue.webhook_id, queue.lane)
                            < (before_shard, before_webhook_id, before_lane)
                        AND due_at >= $7
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                ) AS first
                UNION ALL
                SELECT later.*, before_shard, before_webhook_id, before_lane
                FROM waiting
                CROSS JOIN LATERAL (
                    SELECT shard, account_id, webhook_id, lane, due_at, event_id
                    FROM queue
                    WHERE (queue.shard, queue.webhook_id, queue.lane)
                            > (waiting.shard, waiting.webhook_id, waiting.lane)
                        AND (queue.shard, queue.webhook_id, queue.lane)
                            < (before_shard, before_webhook_id, before_lane)
                        AND due_at >= $7
                    ORDER BY shard, webhook_id, lane, due_at, event_id
                    LIMIT 1
                ) AS later
            )
            SELECT shard, account_id, webhook_id, lane, next_due_at, event_id
            FROM waiting
            UNION ALL
            SELECT first.*
            FROM unnest($8::integer[], $9::uuid[], $10::integer[], $11::bigint[])
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
        Ok(match self.hot() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).fetch_all(pool).await?,
            Backend::Postgres(pool) => {
                let (gaps, fronts) = (known.gaps(), &known.fronts);
                sqlx::query_as(POSTGRES)
                    .bind(gaps.iter().map(|gap| gap.after.0).collect::<Vec<_>>())
                    .bind(gaps.iter().map(|gap| gap.after.1).collect::<Vec<_>>())
                    .bind(gaps.iter().map(|gap| gap.after.2).collect::<Vec<_>>())
                    .bind(gaps.iter().map(|gap| gap.before.0).collect::<Vec<_>>())
                    .bind(gaps.iter().map(|gap| gap.before.1).collect::<Vec<_>>())
                    .bind(gaps.iter().map(|gap| gap.before.2).collect::<Vec<_>>())
                    .bind(known.elsewhere)
                    .bind(fronts.iter().map(|(place, _)| place.shard).collect::<Vec<_>>())
                    .bind(fronts.iter().map(|(place, _)| place.webhook_id.0).collect::<Vec<_>>())
                    .bind(fronts.iter().map(|(place, _)| place.lane as i32).collect::<Vec<_>>())
                    .bind(fronts.iter().map(|(_, front)| front.micros()).collect::<Vec<_>>())
                    .fetch_all(pool)
                    .await?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_what_is_known() {
        let place = |shard, webhook, lane| Place { shard, webhook_id: WebhookId(Uuid::from_u128(webhook)), lane };
        let gaps = |places: &[Place]| {
            let fronts = places.iter().map(|place| (*place, Timestamp::EPOCH)).collect();
            let gaps = Known { fronts, elsewhere: Timestamp::EPOCH }.gaps();
            let bare = |(shard, webhook, lane): (i32, Uuid, i32)| (shard, webhook.as_u128(), lane);
            gaps.into_iter().map(|gap| (bare(gap.after), bare(gap.before))).collect::<Vec<_>>()
        };
        let (start, end) = ((i32::MIN, 0, i32::MIN), (i32::MAX, u128::MAX, i32::MAX));
        assert_eq!(gaps(&[]), [(start, end)]);
        assert_eq!(gaps(&[place(0, 0, Lane::First)]), [(start, (0, 0, 0)), ((0, 0, 0), end)]);
        let all_lanes = [place(3, 7, Lane::First), place(3, 7, Lane::Retry), place(3, 7, Lane::Resend)];
        assert_eq!(gaps(&all_lanes), [(start, (3, 7, 0)), ((3, 7, 2), end)]);
        let others =
            [place(3, 7, Lane::First), place(3, 7, Lane::Resend), place(3, 8, Lane::First), place(4, 7, Lane::First)];
        let between = [((3, 7, 0), (3, 7, 2)), ((3, 7, 2), (3, 8, 0)), ((3, 8, 0), (4, 7, 0))];
        assert_eq!(gaps(&others), [&[(start, (3, 7, 0))][..], &between, &[((4, 7, 0), end)]].concat());
    }
}
