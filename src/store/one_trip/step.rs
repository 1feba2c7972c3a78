//! A step that records a few events and moves the watermark, and nothing else.

use sqlx::AssertSqlSafe;

use super::super::lists::lists;
use super::super::outbox::{Fired, INTO_EVENTS_SQLITE, Step, bind_event, put_in_order};
use super::super::rows::Rows;
use super::super::unqueued::{Owed, QUEUE, Taken, bind_owed, owed_until};
use super::super::{Result, SqlitePools};
use super::{CHANGED_SQLITE, MOST, Trip, script};
use crate::domain::ids::EventId;

/// Where a moment is recorded already the step is refused.
static EVENTS: Rows = Rows::new(INTO_EVENTS_SQLITE, 12, "WHERE column1 IS NOT NULL");

/// Answers which events are owed, or nothing if the step is more than that or something is not as it knew it: nothing was
/// recorded then.
pub(in super::super) async fn record(pools: &SqlitePools, step: &Step) -> Result<Option<Vec<EventId>>> {
    // While the configuration is what the step knew nobody needs to look how webhooks and triggers stand.
    const MOVE_SQLITE: &str = "
        UPDATE OR FAIL watermarks
        SET seq = ?
        WHERE source = ? AND seq = ? AND (SELECT value FROM facts WHERE name = 'catalog_version') = ?";
    let is_small = !step.fired.is_empty() && step.fired.len() <= MOST;
    let Some(watermark) = step.watermark.as_ref().filter(|_| is_small && !step.moves_memory()) else { return Ok(None) };
    let mut fired: Vec<_> = step.fired.iter().collect();
    let to_be_sent = put_in_order(&mut fired);
    let lists = lists(&fired);
    let listed: Vec<_> = fired.iter().copied().zip(&lists).collect();

    let trip = Trip::begin(&pools.write).await?;
    let mut taken = Taken::of(&pools.unqueued);
    if taken.is_before_what_is_known(fired[0].event.id) {
        return Ok(None);
    }
    let putting = taken.putting();
    let (put_off, queued): (Vec<&Fired>, Vec<_>) = to_be_sent.iter().partition(|fired| putting.puts_off(fired));
    let queued: Vec<_> = queued.into_iter().map(Owed::of).collect();
    let parts = [MOVE_SQLITE, CHANGED_SQLITE, EVENTS.text_for(listed.len()), QUEUE.text_for(queued.len())];
    let query = sqlx::query(AssertSqlSafe(script(&parts)))
        .bind(watermark.to)
        .bind(&watermark.source)
        .bind(watermark.from)
        .bind(watermark.catalog_version.to_string())
        .bind(1);
    let query = EVENTS.bind(query, &listed, |query, (fired, lists)| {
        let owed_until = owed_until(fired).filter(|_| putting.puts_off(fired));
        bind_event(query, fired).bind(owed_until).bind(lists.as_deref())
    });
    let query = QUEUE.bind(query, &queued, bind_owed);
    taken.remember(put_off.iter().copied().map(Owed::of));
    crate::failpoint::hit("evaluator.before_commit");
    let is_recorded = trip.run(query).await?;
    if !is_recorded {
        taken.forget(put_off.iter().map(|fired| fired.event.id));
    }
    Ok(is_recorded.then(|| to_be_sent.iter().map(|fired| fired.event.id).collect()))
}
