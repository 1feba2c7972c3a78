//! Which shards this process works for. Renewed in the background; everybody else asks here before acting.
//!
//! Nodes share the shards evenly: each announces itself, counts who lives, gives back what is more than its part and takes
//! what is free up to it. A shard is given back when nothing of it is under way any more, so nothing is sent twice.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::domain::ids::NodeId;
use crate::store::shards::{Lease, Node, SHARDS};
use crate::store::{Store, StoreError};
use crate::wake::ToLeases;

/// How long a lease lasts on the database's clock.
pub const TTL: Duration = Duration::from_secs(15);
/// How often it is prolonged, and others are looked at.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// This long before a lease could run out nothing new is begun under it.
const MARGIN: Duration = Duration::from_secs(3);
/// How often a shard on its way out is looked at.
const LEAVE_EVERY: Duration = Duration::from_millis(100);
/// A shard leaves after this time whatever is under way: its results come too late then, and the next owner asks again.
const LEAVE_AT_LAST: Duration = Duration::from_secs(20);

/// The leases this process holds. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Arc<Shared>);

struct Shared {
    node: Node,
    clock: Clock,
    held: RwLock<Held>,
    /// What is under way or not yet written, by shard.
    busy: [AtomicU32; SHARDS as usize],
    /// Nodes that send, this one included.
    senders: AtomicUsize,
    /// Moves whenever shards come or go.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    leases: HashMap<i32, Lease>,
    /// Nothing new is begun under these; since when.
    leaving: HashMap<i32, Duration>,
    /// On the monotonic clock; leases of SQLite have no end.
    valid_until: Option<Duration>,
}

impl Leases {
    pub fn new(node: Node, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            node,
            clock,
            held: RwLock::default(),
            busy: [const { AtomicU32::new(0) }; SHARDS as usize],
            senders: AtomicUsize::new(1),
            changed: watch::channel(0).0,
        }))
    }

    pub fn node(&self) -> NodeId {
        self.0.node.id
    }

    /// The lease under which to work for `shard` now, if there is one that will not run out meanwhile.
    pub fn lease(&self, shard: i32) -> Option<Lease> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.valid_until.is_some_and(|until| self.0.clock.monotonic() + MARGIN >= until) {
            return None;
        }
        held.leases.get(&shard).copied().filter(|_| !held.leaving.contains_key(&shard))
    }

    /// How many leases are held.
    pub fn count(&self) -> usize {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner).leases.len()
    }

    /// Whether another node might send for `shard`.
    pub fn may_be_elsewhere(&self, shard: i32) -> bool {
        self.lease(shard).is_none() && self.0.senders.load(Ordering::Relaxed) > 1
    }

    /// Something is under way for `shard` until [`Leases::rest`].
    pub fn work(&self, shard: i32) {
        self.0.busy[index(shard)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was under way is written.
    pub fn rest(&self, shard: i32) {
        self.0.busy[index(shard)].fetch_sub(1, Ordering::Relaxed);
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn replace(&self, leases: Vec<Lease>, valid_until: Option<Duration>) {
        let leases: HashMap<_, _> = leases.into_iter().map(|lease| (lease.shard, lease)).collect();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        let moved = held.leases != leases;
        held.leaving.retain(|shard, _| leases.contains_key(shard));
        held.leases = leases;
        held.valid_until = valid_until;
        drop(held);
        if moved {
            self.0.changed.send_modify(|count| *count += 1);
        }
    }

    /// Marks shards beyond `part` as leaving, or takes marks back.
    fn keep(&self, part: usize) {
        let now = self.0.clock.monotonic();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        let too_many = held.leases.len().saturating_sub(part);
        if held.leaving.len() > too_many {
            held.leaving.clear();
        }
        let missing = too_many - held.leaving.len();
        if missing == 0 {
            return;
        }
        // The busiest stay.
        let mut candidates: Vec<_> =
            held.leases.keys().copied().filter(|shard| !held.leaving.contains_key(shard)).collect();
        calmest_first(&mut candidates, &self.0.busy);
        held.leaving.extend(candidates.into_iter().take(missing).map(|shard| (shard, now)));
    }

    /// Leases on their way out that nothing is under way for, or not soon enough.
    fn gone(&self) -> Vec<Lease> {
        let now = self.0.clock.monotonic();
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let gone = held.leaving.iter().filter(|(shard, since)| {
            self.0.busy[index(**shard)].load(Ordering::Relaxed) == 0 || now.saturating_sub(**since) >= LEAVE_AT_LAST
        });
        gone.filter_map(|(shard, _)| held.leases.get(shard).copied()).collect()
    }

    fn is_leaving(&self) -> bool {
        !self.0.held.read().unwrap_or_else(PoisonError::into_inner).leaving.is_empty()
    }

    /// It is not ours any more.
    fn forget(&self, gone: &[Lease]) {
        let gone: HashSet<_> = gone.iter().map(|lease| lease.shard).collect();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        held.leases.retain(|shard, _| !gone.contains(shard));
        held.leaving.retain(|shard, _| !gone.contains(shard));
        drop(held);
        self.0.changed.send_modify(|count| *count += 1);
    }
}

/// Each counter is read once: they go on moving, and an order that changes while it is made is none.
fn calmest_first(shards: &mut [i32], busy: &[AtomicU32; SHARDS as usize]) {
    shards.sort_by_cached_key(|shard| (busy[index(*shard)].load(Ordering::Relaxed), *shard));
}

fn index(shard: i32) -> usize {
    usize::try_from(shard.rem_euclid(SHARDS)).unwrap_or(0)
}

/// Prolongs what is held, says that this node lives, and comes closer to its part of the shards. Called once before the
/// engine starts, so that it starts with shards.
pub async fn renew(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let node = leases.node();
    let asked_at = leases.0.clock.monotonic();
    let senders = store.announce(&leases.0.node, TTL, leases.0.clock.now()).await?.max(1);
    leases.0.senders.store(senders, Ordering::Relaxed);
    let mut held = store.renew_shards(node, TTL).await?;
    let part = if store.is_sqlite() { SHARDS as usize } else { (SHARDS as usize).div_ceil(senders) };
    if held.len() < part {
        held.extend(store.claim_shards(node, TTL, part - held.len()).await?);
    }
    leases.replace(held, (!store.is_sqlite()).then_some(asked_at + TTL));
    leases.keep(part);
    Ok(())
}

/// Gives back what is on its way out, as far as it may go.
async fn give_back(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let gone = leases.gone();
    if gone.is_empty() {
        return Ok(());
    }
    // First here: nothing may begin under a lease that is being given away.
    leases.forget(&gone);
    for lease in gone {
        store.release_shard(leases.node(), lease).await?;
    }
    Ok(())
}

/// Keeps and shares the shards until `stop`; then gives everything back.
///
/// # Errors
/// Another process works on the same SQLite file.
pub async fn run(
    store: Store,
    leases: Leases,
    mut calls: mpsc::Receiver<ToLeases>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let clock = leases.0.clock.clone();
    let mut renewed_at = clock.monotonic();
    loop {
        let wait = if leases.is_leaving() { LEAVE_EVERY } else { RENEW_EVERY };
        // Dropped, and so answered, when this round is over.
        let asked = tokio::select! {
            () = stop.cancelled() => break,
            Some(call) = calls.recv() => Some(call),
            () = clock.sleep(wait) => None,
        };
        let before = leases.count();
        let mut outcome = give_back(&store, &leases).await;
        if asked.is_some() || clock.monotonic().saturating_sub(renewed_at) >= RENEW_EVERY {
            outcome = match (outcome, store.is_sqlite()) {
                (Err(error), _) => Err(error),
                (Ok(()), true) => recheck(&store, &leases).await,
                (Ok(()), false) => renew(&store, &leases).await,
            };
            renewed_at = clock.monotonic();
        }
        drop(asked);
        match outcome {
            Ok(()) if leases.count() != before => {
                info!(shards = leases.count(), "This node works for {} of {SHARDS} shards now", leases.count());
            }
            Ok(()) => {}
            Err(StoreError::LeaseLost) => {
                error!("Another pulsehook process has taken over this database file; stopping");
                anyhow::bail!("another pulsehook process works on the same SQLite database");
            }
            Err(error) => warn!(%error, "Leases could not be renewed; work stops before they run out: {error}"),
        }
    }
    store.release_shards(leases.node()).await.context("the leases could not be given back")?;
    store.leave(leases.node()).await.context("the other nodes could not be told")
}

/// SQLite has one node. If the shards are somebody else's, two processes were started on one file.
async fn recheck(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let held = store.renew_shards(leases.node(), TTL).await?;
    if held.is_empty() { Err(StoreError::LeaseLost) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sort that reads counters as it compares panics when they move meanwhile, and takes the process with it.
    #[test]
    fn shards_are_ordered_while_work_goes_on() {
        let busy = [const { AtomicU32::new(0) }; SHARDS as usize];
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0_u32.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    busy[turn.wrapping_mul(97) as usize % busy.len()]
                        .store(turn.wrapping_mul(31) % 7, Ordering::Relaxed);
                }
            });
            let mut shards: Vec<i32> = (0..SHARDS).collect();
            for _ in 0..2_000 {
                shards.reverse();
                calmest_first(&mut shards, &busy);
            }
            done.store(true, Ordering::Relaxed);
            assert_eq!(shards.len(), SHARDS as usize);
        });
        let mut shards = [3, 1, 2];
        for (shard, load) in [(1, 5), (2, 0), (3, 9)] {
            busy[shard].store(load, Ordering::Relaxed);
        }
        calmest_first(&mut shards, &busy);
        assert_eq!(shards, [2, 1, 3]);
    }
}
