//! A step that records events and moves the watermark, and nothing else.

use std::sync::Arc;

use rusqlite::Transaction;

use super::super::lists::lists;
use super::super::outbox::{Fired, INTO_EVENTS_SQLITE, Step, event_values, put_in_order};
use super::super::rows::Rows;
use super::super::unqueued::{Owed, QUEUE, Taken};
use super::super::{Result, SqlitePools};
use super::{in_turn, statement};
use crate::domain::ids::EventId;

/// Where a moment is recorded already the step is refused.
static EVENTS: Rows<12> = Rows::new(INTO_EVENTS_SQLITE, "WHERE column1 IS NOT NULL");

/// Answers which events are owed, or nothing if the step is more than that or something is not as it knew it: nothing was
/// recorded then.
pub(in super::super) async fn record(pools: &SqlitePools, step: &Arc<Step>) -> Result<Option<Vec<EventId>>> {
    if step.fired.is_empty() || step.watermark.is_none() || step.moves_memory() {
        return Ok(None);
    }
    let step = Arc::clone(step);
    in_turn(pools, move |transaction, taken| write(transaction, taken, &step)).await
}

fn write(transaction: &Transaction<'_>, taken: &mut Taken, step: &Step) -> rusqlite::Result<Option<Vec<EventId>>> {
    // While the configuration is what the step knew nobody needs to look how webhooks and triggers stand.
    const MOVE_SQLITE: &str = "
        UPDATE watermarks
        SET seq = ?1
        WHERE source = ?2 AND seq = ?3 AND (SELECT value FROM facts WHERE name = 'catalog_version') = ?4";
    let Some(watermark) = &step.watermark else { return Ok(None) };
    let knew = (watermark.to, &watermark.source, watermark.from, watermark.catalog_version.to_string());
    if statement(transaction, MOVE_SQLITE)?.execute(knew)? != 1 {
        return Ok(None);
    }
    let mut fired: Vec<_> = step.fired.iter().collect();
    let to_be_sent = put_in_order(&mut fired);
    if taken.is_before_what_is_known(fired[0].event.id) {
        return Ok(None);
    }
    let putting = taken.putting();
    let lists = lists(&fired);
    let listed: Vec<_> = fired.iter().copied().zip(&lists).collect();
    EVENTS.write(transaction, &listed, |(fired, lists)| event_values(fired, &putting, lists.as_deref()))?;
    let (put_off, queued): (Vec<&Fired>, Vec<_>) = to_be_sent.iter().partition(|fired| putting.puts_off(fired));
    let queued: Vec<_> = queued.into_iter().map(Owed::of).collect();
    QUEUE.write(transaction, &queued, Owed::values)?;
    taken.remember(put_off.into_iter().map(Owed::of));
    crate::failpoint::hit("evaluator.before_commit");
    Ok(Some(to_be_sent.iter().map(|fired| fired.event.id).collect()))
}
