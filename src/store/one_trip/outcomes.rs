//! A few outcomes, and what they tell of their endpoints.

use sqlx::AssertSqlSafe;

use super::super::health::{NOTE, News, bind_news};
use super::super::outcomes::{AGAIN, ATTEMPTS, OVER, Settled, bind_again, bind_attempt};
use super::super::shards::{HELD_SQLITE, Lease, pairs};
use super::super::unqueued::Taken;
use super::super::{Result, SqlitePools};
use super::{CHANGED_SQLITE, MOST, Trip, script};
use crate::domain::ids::NodeId;
use crate::domain::time::Timestamp;

/// `false`: they are more than that, or something is not as it is known here: nothing was changed.
pub(in super::super) async fn settle(
    pools: &SqlitePools,
    node: NodeId,
    leases: &[Lease],
    settled: &[Settled],
    now: Timestamp,
) -> Result<bool> {
    if settled.len() > MOST || settled.iter().any(Settled::disables) {
        return Ok(false);
    }
    let news: Vec<_> = News::of(settled).into_iter().collect();
    let again: Vec<_> = settled.iter().filter_map(Settled::again).collect();

    let trip = Trip::begin(&pools.write).await?;
    let mut taken = Taken::of(&pools.unqueued);
    let Some(never_queued) = taken.take_never_queued(settled) else { return Ok(false) };
    let over = settled.iter().filter(|row| !row.standing.goes_on() && !never_queued.contains(&row.event_id));
    let over: Vec<_> = over.collect();
    // The leases are held, and what is remembered is remembered under the configuration there is.
    let holds = format!(
        "INSERT OR FAIL INTO facts (name, value)
        SELECT 'does not hold', NULL
        WHERE ({HELD_SQLITE}) <> ? OR (SELECT value FROM facts WHERE name = 'catalog_version') <> ?"
    );
    // All of them have rows; where there are none, what was asked before has changed none.
    let parts = [
        &holds,
        OVER.text_for(over.len()),
        CHANGED_SQLITE,
        AGAIN.text_for(again.len()),
        CHANGED_SQLITE,
        ATTEMPTS.text_for(settled.len()),
        NOTE.text_for(news.len()),
    ];
    let query = sqlx::query(AssertSqlSafe(script(&parts)))
        .bind(pairs(leases))
        .bind(node)
        .bind(count(leases))
        .bind(taken.believed_under().map(|version| version.to_string()));
    let query = OVER.bind(query, &over, |query, row| query.bind(row.event_id)).bind(count(&over));
    let query = AGAIN.bind(query, &again, bind_again).bind(count(&again));
    let query = ATTEMPTS.bind(query, settled, |query, row| bind_attempt(query, row, now));
    let query = NOTE.bind(query, &news, |query, row| bind_news(query, row, now));
    let is_written = trip.run(query).await?;
    if is_written {
        taken.for_good();
    }
    Ok(is_written)
}

fn count<T>(rows: &[T]) -> i64 {
    i64::try_from(rows.len()).unwrap_or(i64::MAX)
}
