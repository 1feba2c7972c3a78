//! The queue from outside: filled as an outage would leave it, and watched while it is emptied.

use super::World;
use super::database::Database;
use super::sink::Sink;
use super::stage::Hook;
use crate::domain::event::{Addressee, Data, Event};
use crate::domain::ids::EventId;
use crate::domain::time::Timestamp;
use crate::domain::webhook::Format;
use crate::store::outbox::{Fired, Step};
use crate::store::queue::Lane;
use crate::store::shards::shard_of;
use crate::store::waiting::{Fronts, Known};

/// Events recorded by one commit.
const BATCH: usize = 1_000;
/// Those that go last, in batches: more than are under way or being written when the last one has arrived.
const LAST: usize = 4;
/// Size of every body: what a completion with its top pages and sources comes to.
pub const BODY_BYTES: usize = 600;

/// What need not be looked at in a queue that was filled.
pub struct Filled {
    /// To see whether anything is left.
    pub all: Known,
    /// To see whether anything is left of what goes last.
    pub last: Known,
}

/// Records `count` events that are due now, the webhooks taking turns, while no server runs.
pub async fn fill(world: &World, database: &Database, hooks: &[Hook], count: usize) -> anyhow::Result<Filled> {
    let store = database.store().await?;
    let began = world.clock.now();
    let mut last_began = began;
    for first in (0..count).step_by(BATCH) {
        if first + LAST * BATCH <= count {
            last_began = world.clock.now();
        }
        let numbers = first..count.min(first + BATCH);
        let wanted = numbers.len();
        let fired = numbers.map(|number| owed(world, &hooks[number % hooks.len()])).collect();
        // The one call that knows how the product records events.
        let recorded = store.record(Step { fired, ..Step::default() }, world.clock.now()).await?.1.len();
        anyhow::ensure!(recorded == wanted, "{recorded} of {wanted} events were recorded");
        if first > 0 && first.is_multiple_of(100 * BATCH) {
            world.progress(&format!("  {first} of {count} deliveries are in the queue"));
        }
    }
    store.close().await;
    database.calm_down().await?;
    Ok(Filled { all: nothing_before(began, hooks), last: nothing_before(last_began, hooks) })
}

fn nothing_before(moment: Timestamp, hooks: &[Hook]) -> Known {
    let fronts = |hook: &Hook| Fronts {
        shard: shard_of(hook.site_id),
        webhook_id: hook.webhook_id,
        lanes: [moment; Lane::ALL.len()],
    };
    let mut webhooks: Vec<_> = hooks.iter().map(fronts).collect();
    webhooks.sort_unstable_by_key(|known| (known.shard, known.webhook_id));
    Known { webhooks, elsewhere: moment }
}

fn owed(world: &World, hook: &Hook) -> Fired {
    let now = world.clock.now();
    let addressee = Addressee {
        account_id: hook.account_id,
        site_id: hook.site_id,
        site_domain: &hook.domain,
        webhook_id: hook.webhook_id,
        format: Format::default(),
        trigger: None,
    };
    let id = EventId(world.chance.uuid_v7(now));
    let mut event = Event::new(id, &addressee, format!("bench:{id}"), Data::test(), now);
    event.trigger_id = Some(hook.trigger_id);
    // JSON may end in spaces.
    event.payload.resize(BODY_BYTES, b' ');
    Fired { event, shard: shard_of(hook.site_id), trigger_version: Some(1), state: None, shadow: false }
}

/// Waits until `count` deliveries have arrived after the first `before`, and answers the seconds each of `parts` equal
/// parts of them took. Time begins with the first arrival.
pub async fn follow(world: &World, sink: &Sink, before: u64, count: usize, parts: usize) -> anyhow::Result<Vec<f64>> {
    sink.wait_for(before + 1).await?;
    let mut mark = world.clock.monotonic();
    let mut seconds = Vec::with_capacity(parts);
    for part in 1..=parts {
        sink.wait_for(before + (count * part / parts) as u64).await?;
        let now = world.clock.monotonic();
        seconds.push((now - mark).as_secs_f64());
        mark = now;
    }
    Ok(seconds)
}
