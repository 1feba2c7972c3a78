//! What moved lately: deliveries that were made, attempted or asked for once more since a moment. For those who watch.
//!
//! Nothing is written for it on the way of most deliveries. Ids of events begin with their time, so recent events are found
//! by their ids, with whatever was attempted of them; an attempt at an older one carries the moment it was written
//! ([`LATE_AFTER`]) in an index of its own; and what was put into the queue once more is due since then.

use sqlx::FromRow;

use super::outcomes::LATE_AFTER;
use super::retention::first_id_of;
use super::shards::shard_of;
use super::{Backend, Result, Store};
use crate::domain::ids::{AccountId, EventId, SiteId};
use crate::domain::time::Timestamp;

/// Rows read at once.
pub const PAGE: usize = 5_000;
/// Resends are due when they are asked for; clocks of nodes may differ by so much.
const AHEAD: std::time::Duration = std::time::Duration::from_secs(30);

/// Where a delivery stands, as far as two looks at it have to be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Movement {
    pub account_id: AccountId,
    pub site_id: SiteId,
    pub id: EventId,
    #[sqlx(flatten)]
    pub mark: Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Mark {
    /// Attempts made so far.
    pub attempts: i32,
    /// Attempts made in this round, while it is in the queue.
    pub in_round: Option<i32>,
    /// When it is due, while it is in the queue.
    pub due_at: Option<Timestamp>,
}

/// Which webhooks, which of their events are recent, which of their deliveries moved, and where those stand. `$1` is a list
/// of accounts, sites and shards, `$2` the first id of recent events, `$3` since when, `$4` until when, `$5` the last id of
/// the page before. An event says itself when it is owed and not in the queue yet.
macro_rules! movements_sql {
    ($with:literal, $ours:literal, $recent:literal, $late:literal, $resent:literal) => {
        concat!(
            $with,
            " ours AS (",
            $ours,
            "),
            moved AS (
                SELECT account_id, site_id, id
                FROM (",
            $recent,
            ") AS recent
                WHERE id >= $2
                UNION
                SELECT ours.account_id, ours.site_id, late.event_id FROM ours ",
            $late,
            "
                UNION
                SELECT ours.account_id, ours.site_id, resent.event_id FROM ours ",
            $resent,
            "
            )
            SELECT account_id, site_id, id,
                coalesce((SELECT max(number) FROM attempts WHERE attempts.event_id = moved.id), 0) AS attempts,
                coalesce((SELECT attempt FROM queue WHERE queue.event_id = moved.id), CASE WHEN EXISTS (
                    SELECT 1
                    FROM events
                    WHERE events.id = moved.id
                        AND events.owed_until IS NOT NULL
                        AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = moved.id)
                ) THEN 0 END) AS in_round,
                coalesce((SELECT due_at FROM queue WHERE queue.event_id = moved.id), (
                    SELECT inserted_at
                    FROM events
                    WHERE events.id = moved.id
                        AND events.owed_until IS NOT NULL
                        AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = moved.id)
                )) AS due_at
            FROM moved
            WHERE moved.id > $5
            ORDER BY moved.id
            LIMIT $6"
        )
    };
}

impl Store {
    /// The deliveries of these sites that may have moved since `since`, in the order of their ids, after `after`, at most
    /// `limit`. Some did not: who watches knows what he has seen.
    pub async fn movements(
        &self,
        sites: &[(AccountId, SiteId)],
        since: Timestamp,
        now: Timestamp,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<Movement>> {
        // In this order: SQLite would look for the events once for every place in a list.
        const SQLITE: &str = movements_sql!(
            "WITH RECURSIVE places (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM places WHERE place < 64),",
            "SELECT webhooks.id, webhooks.account_id, webhooks.site_id,
                json_extract(listened.value, '$[2]') AS shard
            FROM json_each($1) AS listened
            JOIN webhooks ON webhooks.site_id = json_extract(listened.value, '$[1]')
                AND webhooks.account_id = json_extract(listened.value, '$[0]')",
            "SELECT ours.account_id, ours.site_id,
                CASE place WHEN 0 THEN events.id ELSE substr(events.lists, place * 16 - 15, 16) END AS id
            FROM ours
            CROSS JOIN events ON events.webhook_id = ours.id AND events.id >= $2
                AND (events.lists IS NULL OR events.lists <> x'')
            CROSS JOIN places ON place * 16 <= coalesce(length(events.lists), 0)",
            "JOIN attempts AS late ON late.webhook_id = ours.id AND late.late_at >= $3",
            "JOIN queue AS resent ON resent.shard = ours.shard AND resent.webhook_id = ours.id AND resent.lane = 2
                AND resent.due_at >= $3 AND resent.due_at < $4"
        );
        // Site by site, and webhook by webhook, whatever the planner makes of a list whose length it does not know.
        const POSTGRES: &str = movements_sql!(
            "WITH",
            "SELECT webhook.id, webhook.account_id, webhook.site_id,
                CAST(listened.value ->> 2 AS INTEGER) AS shard
            FROM json_array_elements(CAST($1 AS JSON)) AS listened
            CROSS JOIN LATERAL (
                SELECT id, account_id, site_id
                FROM webhooks
                WHERE site_id = CAST(listened.value ->> 1 AS BIGINT)
                    AND account_id = CAST(listened.value ->> 0 AS BIGINT)
                OFFSET 0
            ) AS webhook",
            "SELECT account_id, site_id,
                CASE place
                    WHEN 0 THEN id
                    ELSE CAST(encode(substr(lists, place * 16 - 15, 16), 'hex') AS UUID)
                END AS id
            FROM (
                SELECT ours.account_id, ours.site_id, listed.id, listed.lists,
                    generate_series(0, coalesce(length(listed.lists), 0) / 16) AS place
                FROM ours
                CROSS JOIN LATERAL (
                    SELECT events.id, events.lists
                    FROM events
                    WHERE events.webhook_id = ours.id
                        AND events.id >= $2
                        AND (events.lists IS NULL OR length(events.lists) > 0)
                    OFFSET 0
                ) AS listed
            ) AS entries",
            "CROSS JOIN LATERAL (
                SELECT event_id FROM attempts WHERE attempts.webhook_id = ours.id AND late_at >= $3 OFFSET 0
            ) AS late",
            "CROSS JOIN LATERAL (
                SELECT event_id
                FROM queue
                WHERE queue.shard = ours.shard AND queue.webhook_id = ours.id AND lane = 2 AND due_at >= $3 AND due_at < $4
                OFFSET 0
            ) AS resent"
        );
        let sites: Vec<_> = sites.iter().map(|(account, site)| (account.0, site.0, shard_of(*site))).collect();
        let sites = serde_json::to_string(&sites).expect("numbers serialise");
        let recent = first_id_of(since - LATE_AFTER);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(match self.lookups() {
            Backend::Sqlite(pool) => {
                sqlx::query_as(SQLITE)
                    .bind(sites)
                    .bind(recent)
                    .bind(since)
                    .bind(now + AHEAD)
                    .bind(after)
                    .bind(limit)
                    .fetch_all(pool)
                    .await?
            }
            Backend::Postgres(pool) => {
                sqlx::query_as(POSTGRES)
                    .bind(sites)
                    .bind(recent)
                    .bind(since)
                    .bind(now + AHEAD)
                    .bind(after)
                    .bind(limit)
                    .fetch_all(pool)
                    .await?
            }
        })
    }
}
