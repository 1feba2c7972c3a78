//! Outcomes as one statement, for PostgreSQL: leases, endings, retries, attempts, and what they tell of their endpoints. Over
//! a connection round trips are what costs. Rows are found by key alone; repeating a partial index's predicate here would
//! tempt the planner into scanning it.

use foldhash::HashSet;

use super::health::News;
use super::outcomes::Settled;
use super::shards::{Lease, held_sql};
use super::{Result, StoreError};
use crate::domain::ids::{EventId, NodeId, WebhookId};
use crate::domain::time::Timestamp;

/// What outcomes are written under.
pub(super) struct Under<'a> {
    pub node: NodeId,
    pub leases: &'a [Lease],
    /// Of the configuration, for what never had a row.
    pub catalog_version: Option<i64>,
}

/// Outcomes, written under their leases, and what they tell of endpoints, whose webhooks `$told` locks before anything is
/// changed and `$noted` changes. `$answer` is told of it.
macro_rules! settle_sql {
    ($answer:literal) => {
        settle_sql!($answer, "", "", "")
    };
    ($answer:literal, $told:literal, $and_told:literal, $noted:literal) => {
        concat!(
            "WITH held AS MATERIALIZED (",
            held_sql!("SELECT shards.shard", "FOR SHARE"),
            "),",
            $told,
            "
            allowed AS MATERIALIZED (
                SELECT 1
                WHERE (SELECT count(*) FROM held) = cardinality($2)
                    AND (cardinality($24::uuid[]) = 0
                        OR (SELECT value FROM facts WHERE name = 'catalog_version') = $25)",
            $and_told,
            "
            ),
            over AS (
                DELETE FROM queue
                WHERE event_id = ANY ($19::uuid[]) AND EXISTS (SELECT 1 FROM allowed)
                RETURNING event_id
            ),
            /* Who asks for a delivery once more gives it a row. */
            asked_for AS (
                DELETE FROM queue
                WHERE event_id = ANY ($24) AND EXISTS (SELECT 1 FROM allowed)
            ),
            again AS (
                UPDATE queue
                SET attempt = next.attempt, other_attempts = next.other_attempts, due_at = next.due_at,
                    lane = CASE WHEN queue.lane = 0 AND next.attempt > 0 THEN 1 ELSE queue.lane END
                FROM unnest($20::uuid[], $21::integer[], $22::integer[], $23::bigint[])
                    AS next (event_id, attempt, other_attempts, due_at)
                WHERE queue.event_id = ANY (ARRAY[next.event_id]) AND EXISTS (SELECT 1 FROM allowed)
                RETURNING queue.event_id
            ),
            moved AS MATERIALIZED (
                SELECT event_id FROM over UNION ALL SELECT event_id FROM again
            ),
            written AS (
                INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, advice,
                    response_code, response_headers, response_body, ended, reason, late_at, phases)
                SELECT *
                /* Not a table each, which would be stored before it is read. */
                FROM (
                    SELECT unnest($4::uuid[]) AS event_id, unnest($5::integer[]), unnest($6::bigint[]), unnest($7::uuid[]),
                        unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::text[]), unnest($11::text[]),
                        unnest($12::integer[]), unnest($13::text[]), unnest($14::bytea[]), unnest($15::text[]),
                        unnest($16::text[]), unnest($17::bigint[]), unnest($18::bigint[])
                ) AS made
                /* Usually all were owed. Asked like this it is looked up and never joined, whatever is thought of how many. */
                WHERE EXISTS (SELECT 1 FROM allowed)
                    AND ((SELECT count(*) FROM moved) + cardinality($24) = cardinality($4)
                        OR event_id IN (SELECT event_id FROM moved)
                        OR event_id IN (SELECT unnest($24)))
            )",
            $noted,
            $answer
        )
    };
}

const QUIET_POSTGRES: &str = settle_sql!("SELECT (SELECT count(*) FROM held), EXISTS (SELECT 1 FROM allowed)");
// Locked in the order of ids, like everywhere, so that two transactions never wait for each other, and before what is owed to
// them, as by who changes or deletes one.
const TELLING_POSTGRES: &str = settle_sql!(
    "SELECT (SELECT count(*) FROM held), EXISTS (SELECT 1 FROM allowed)",
    "
            told AS MATERIALIZED (
                SELECT news.*
                FROM unnest($26::bigint[], $27::uuid[], $28::boolean[], $29::boolean[], $30::boolean[], $31::bigint[],
                    $32::bigint[])
                    AS news (account_id, webhook_id, did_well, fails, turned, parked_until, parked_ms)
                JOIN webhooks ON webhooks.id = ANY (ARRAY[news.webhook_id])
                    AND webhooks.account_id IS NOT DISTINCT FROM news.account_id
                WHERE (SELECT count(*) FROM held) = cardinality($2)
                ORDER BY news.webhook_id
                FOR NO KEY UPDATE OF webhooks
            ),",
    "
                    AND (SELECT count(*) FROM told) IS NOT NULL",
    ",
            noted AS (
                UPDATE webhooks
                SET failing_since = CASE
                        WHEN NOT told.fails THEN CASE WHEN told.did_well THEN NULL ELSE webhooks.failing_since END
                        WHEN told.did_well THEN $33
                        ELSE coalesce(webhooks.failing_since, $33)
                    END,
                    failed_at = CASE
                        WHEN told.fails THEN $33
                        WHEN told.did_well THEN NULL
                        ELSE webhooks.failed_at
                    END,
                    succeeded_at = CASE WHEN told.did_well THEN $33 ELSE webhooks.succeeded_at END,
                    warnings = CASE WHEN told.did_well THEN 0 ELSE webhooks.warnings END,
                    parked_until = CASE WHEN told.turned THEN told.parked_until ELSE webhooks.parked_until END,
                    parked_ms = CASE WHEN told.turned THEN told.parked_ms ELSE webhooks.parked_ms END
                FROM told
                WHERE webhooks.id = ANY (ARRAY[told.webhook_id])
                    AND webhooks.account_id IS NOT DISTINCT FROM told.account_id
                    AND EXISTS (SELECT 1 FROM allowed)
            )"
);

/// The leases are locked until it commits, which keeps a taker-over waiting. `false`: not under this configuration.
pub(super) async fn settle_at_once(
    connection: impl sqlx::PgExecutor<'_>,
    under: &Under<'_>,
    settled: &[Settled],
    never_queued: &[EventId],
    now: Timestamp,
) -> Result<bool> {
    fn column<'a, T>(settled: &'a [Settled], get: impl Fn(&'a Settled) -> T) -> Vec<T> {
        settled.iter().map(get).collect()
    }
    let never: HashSet<_> = never_queued.iter().collect();
    let over = settled.iter().filter(|row| !row.standing.goes_on() && !never.contains(&row.event_id));
    let leases = under.leases;
    let again: Vec<_> = settled.iter().filter_map(Settled::again).collect();
    let news: Vec<_> = News::of(settled).into_iter().collect();
    let query = sqlx::query_as(if news.is_empty() { QUIET_POSTGRES } else { TELLING_POSTGRES })
        .bind(under.node)
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
        .bind(column(settled, |row| row.late_at(now).map(Timestamp::micros)))
        .bind(column(settled, |row| row.attempt.phases))
        .bind(over.map(|row| row.event_id.0).collect::<Vec<_>>())
        .bind(again.iter().map(|row| row.event_id.0).collect::<Vec<_>>())
        .bind(again.iter().map(|row| row.attempt).collect::<Vec<_>>())
        .bind(again.iter().map(|row| row.other_attempts).collect::<Vec<_>>())
        .bind(again.iter().map(|row| row.due_at.micros()).collect::<Vec<_>>())
        .bind(never_queued.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(under.catalog_version.map(|version| version.to_string()));
    let query = if news.is_empty() {
        query
    } else {
        let told = || news.iter().map(|(_, news)| news);
        query
            .bind(told().map(|news| news.account_id.0).collect::<Vec<_>>())
            .bind(news.iter().map(|(WebhookId(id), _)| *id).collect::<Vec<_>>())
            .bind(told().map(|news| news.did_well).collect::<Vec<_>>())
            .bind(told().map(|news| news.fails).collect::<Vec<_>>())
            .bind(told().map(|news| news.turn.is_some()).collect::<Vec<_>>())
            .bind(told().map(|news| news.parked_until().map(Timestamp::micros)).collect::<Vec<_>>())
            .bind(told().map(News::parked_ms).collect::<Vec<_>>())
            .bind(now)
    };
    let (held, allowed): (i64, bool) = query.fetch_one(connection).await?;
    if usize::try_from(held) == Ok(leases.len()) { Ok(allowed) } else { Err(StoreError::LeaseLost) }
}
