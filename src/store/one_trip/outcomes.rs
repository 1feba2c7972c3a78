//! A few outcomes that end their deliveries and tell nothing of their endpoints.

use sqlx::AssertSqlSafe;

use super::super::outcomes::{ATTEMPTS, OVER, Settled, bind_attempt};
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
    let is_usual = |row: &Settled| row.is_quiet() && !row.standing.goes_on();
    if settled.len() > MOST || !settled.iter().all(is_usual) {
        return Ok(false);
    }
    let trip = Trip::begin(&pools.write).await?;
    let mut taken = Taken::of(&pools.unqueued);
    let Some(never_queued) = taken.take_never_queued(settled) else { return Ok(false) };
    let queued: Vec<_> = settled.iter().filter(|row| !never_queued.contains(&row.event_id)).collect();
    // The leases are held, and what is remembered is remembered under the configuration there is.
    let holds = format!(
        "INSERT OR FAIL INTO facts (name, value)
        SELECT 'does not hold', NULL
        WHERE ({HELD_SQLITE}) <> ? OR (SELECT value FROM facts WHERE name = 'catalog_version') <> ?"
    );
    let all_were_there = if queued.is_empty() { "" } else { CHANGED_SQLITE };
    let parts = [&holds, OVER.text_for(queued.len()), all_were_there, ATTEMPTS.text_for(settled.len())];
    let count = |rows: usize| i64::try_from(rows).unwrap_or(i64::MAX);
    let query = sqlx::query(AssertSqlSafe(script(&parts)))
        .bind(pairs(leases))
        .bind(node)
        .bind(count(leases.len()))
        .bind(taken.believed_under().map(|version| version.to_string()));
    let query = OVER.bind(query, &queued, |query, row| query.bind(row.event_id));
    let query = if queued.is_empty() { query } else { query.bind(count(queued.len())) };
    let query = ATTEMPTS.bind(query, settled, |query, row| bind_attempt(query, row, now));
    let is_written = trip.run(query).await?;
    if is_written {
        taken.for_good();
    }
    Ok(is_written)
}
