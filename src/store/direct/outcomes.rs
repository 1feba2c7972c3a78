//! Outcomes, and what they tell of their endpoints.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Transaction};

use super::super::facts::CATALOG_VERSION;
use super::super::health::{NOTE, News};
use super::super::outcomes::{AGAIN, ATTEMPTS, Again, OVER, Settled};
use super::super::rows::values;
use super::super::shards::{HELD_SQLITE, Lease, pairs};
use super::super::unqueued::{Owed, QUEUE, QUEUED, Taken, in_order};
use super::super::{Result, SqlitePools};
use super::{in_turn, statement};
use crate::domain::ids::NodeId;
use crate::domain::time::Timestamp;

/// `false`: something is not as it is known here, and nothing was changed.
pub(in super::super) async fn settle(
    pools: &SqlitePools,
    node: NodeId,
    leases: &[Lease],
    settled: &Arc<Vec<Settled>>,
    now: Timestamp,
) -> Result<bool> {
    if settled.iter().any(Settled::disables) {
        return Ok(false);
    }
    let (leases, settled) = (leases.to_vec(), Arc::clone(settled));
    let work = move |transaction: &Transaction<'_>, taken: &mut Taken| {
        let is_believed = holds(transaction, node, &leases)? && is_believed(transaction, taken)?;
        Ok((is_believed && write(transaction, taken, &settled, now)?).then_some(()))
    };
    Ok(in_turn(pools, work).await?.is_some())
}

/// Whether the node has these leases.
fn holds(transaction: &Transaction<'_>, node: NodeId, leases: &[Lease]) -> rusqlite::Result<bool> {
    let held: i64 = statement(transaction, HELD_SQLITE)?.query_row((pairs(leases), node.0), |row| row.get(0))?;
    Ok(usize::try_from(held) == Ok(leases.len()))
}

/// Whether what is remembered is remembered under the configuration there is.
fn is_believed(transaction: &Transaction<'_>, taken: &mut Taken) -> rusqlite::Result<bool> {
    let version: Option<String> =
        statement(transaction, CATALOG_VERSION)?.query_row((), |row| row.get(0)).optional()?;
    Ok(version.and_then(|text| text.parse().ok()).is_some_and(|version| taken.is_believed_under(version)))
}

/// `false`: some of them are not owed.
fn write(
    transaction: &Transaction<'_>,
    taken: &mut Taken,
    settled: &[Settled],
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let (never_queued, needs_row) = taken.take_attempted(settled);
    QUEUE.write(transaction, &needs_row, Owed::values)?;
    QUEUED.write(transaction, &in_order(needs_row.iter()), |id| values![id])?;
    let over = settled.iter().filter(|row| !row.standing.goes_on() && !never_queued.contains(&row.event_id));
    let over: Vec<_> = over.collect();
    let again: Vec<_> = settled.iter().filter_map(Settled::again).collect();
    let moved = never_queued.len()
        + OVER.write(transaction, &over, |row| values![&row.event_id])?
        + AGAIN.write(transaction, &again, Again::values)?;
    if moved != settled.len() {
        return Ok(false);
    }
    ATTEMPTS.write(transaction, settled, |row| row.attempt_values(now))?;
    let news: Vec<_> = News::of(settled).into_iter().collect();
    NOTE.write(transaction, &news, |(id, news)| news.values(id, now))?;
    Ok(true)
}
