//! Which shards this process works for. Renewed in the background; everybody else asks here before acting.
//!
//! Nodes share the shards evenly: each announces itself, counts who lives, gives back what is more than its part and takes
//! what is free up to it. A shard is given back when nothing of it is under way any more, so nothing is sent twice.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use foldhash::{HashMap, HashSet};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::domain::ids::NodeId;
use crate::store::shards::{Lease, Node, SHARDS};
use crate::store::{Store, StoreError};
use crate::wake::ToLeases;

/// How long a node may not be seen, on the database's clock, before others take over its shards.
pub const TTL: Duration = Duration::from_secs(15);
/// How often it says that it lives, and looks at others.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// This long before others could take over nothing new is begun.
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

/// Says that this node lives, prolongs what it holds, and comes closer to its part of the shards. Called once before the
/// engine starts, so that it starts with shards.
pub async fn renew(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let node = leases.node();
    let asked_at = leases.0.clock.monotonic();
    let senders = store.announce(&leases.0.node, TTL, leases.0.clock.now()).await?;
    let count = senders.count.max(1);
    leases.0.senders.store(count, Ordering::Relaxed);
    let mut held = store.renew_shards(node).await?;
    let part = if store.is_sqlite() { SHARDS as usize } else { (SHARDS as usize).div_ceil(count) };
    if held.len() < part {
        held.extend(store.claim_shards(node, TTL, part - held.len()).await?);
    }
    // Before anything is sent for those that are new.
    store.take_up(node, &held, senders.take_up, leases.0.clock.now()).await?;
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
    let held = store.renew_shards(leases.node()).await?;
    if held.is_empty() { Err(StoreError::LeaseLost) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::time::Timestamp;

    fn of_node(number: u128) -> (ManualClock, Leases) {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let node = Node { id: NodeId(Uuid::from_u128(number)), version: "test", roles: "api,ingest,engine".to_owned() };
        (clock.clone(), Leases::new(node, clock.clock()))
    }

    fn lease(shard: i32) -> Lease {
        Lease { shard, epoch: 7 }
    }

    /// With these shards, for as long as a lease lasts.
    fn holding(shards: &[i32]) -> (ManualClock, Leases) {
        let (clock, leases) = of_node(1);
        leases.replace(shards.iter().copied().map(lease).collect(), Some(leases.0.clock.monotonic() + TTL));
        (clock, leases)
    }

    fn gone(leases: &Leases) -> Vec<i32> {
        let mut shards: Vec<_> = leases.gone().iter().map(|lease| lease.shard).collect();
        shards.sort_unstable();
        shards
    }

    #[test]
    fn nothing_begins_under_a_lease_that_could_run_out() {
        let (clock, leases) = holding(&[1, 2]);
        assert_eq!((leases.count(), leases.node()), (2, NodeId(Uuid::from_u128(1))));
        assert_eq!([1, 2, 3].map(|shard| leases.lease(shard)), [Some(lease(1)), Some(lease(2)), None]);
        clock.advance(TTL - MARGIN - Duration::from_micros(1));
        assert_eq!(leases.lease(1), Some(lease(1)));
        clock.advance(Duration::from_micros(1));
        assert_eq!(leases.lease(1), None);
        // Of SQLite's there is no end.
        leases.replace(vec![lease(1)], None);
        clock.advance(TTL * 100);
        assert_eq!(leases.lease(1), Some(lease(1)));
    }

    #[test]
    fn another_node_might_send_only_where_there_is_one() {
        let (_, leases) = holding(&[1]);
        assert_eq!([1, 2].map(|shard| leases.may_be_elsewhere(shard)), [false, false]);
        leases.0.senders.store(2, Ordering::Relaxed);
        assert_eq!([1, 2].map(|shard| leases.may_be_elsewhere(shard)), [false, true]);
    }

    #[test]
    fn who_waits_for_shards_is_told_when_they_move_and_not_otherwise() {
        let (_, leases) = holding(&[1, 2]);
        let mut changes = leases.changes();
        let mut moved = || {
            let moved = changes.has_changed().unwrap();
            (moved, *changes.borrow_and_update())
        };
        assert_eq!(moved(), (false, 1));
        leases.replace(vec![lease(2), lease(1)], None);
        assert_eq!(moved(), (false, 1));
        leases.replace(vec![lease(2), Lease { epoch: 8, ..lease(1) }], None);
        assert_eq!(moved(), (true, 2));
        leases.forget(&[lease(2)]);
        assert_eq!(moved(), (true, 3));
        assert_eq!((leases.count(), leases.lease(2), leases.lease(1).map(|lease| lease.epoch)), (1, None, Some(8)));
    }

    #[test]
    fn a_shard_leaves_when_nothing_of_it_is_under_way_or_at_last() {
        let (clock, leases) = holding(&[1, 2]);
        assert!(!leases.is_leaving());
        leases.work(1);
        leases.work(1);
        leases.keep(1);
        // The busiest stays, and nothing new begins under the other.
        assert!(leases.is_leaving());
        assert_eq!((leases.lease(2), leases.lease(1), gone(&leases)), (None, Some(lease(1)), vec![2]));
        leases.work(2);
        assert!(gone(&leases).is_empty());
        leases.rest(2);
        assert_eq!(gone(&leases), [2]);
        leases.work(2);
        clock.advance(LEAVE_AT_LAST - Duration::from_micros(1));
        assert!(gone(&leases).is_empty());
        clock.advance(Duration::from_micros(1));
        assert_eq!(gone(&leases), [2]);
        leases.forget(&[lease(2)]);
        assert!(!leases.is_leaving());
    }

    #[test]
    fn a_shard_that_is_on_its_way_out_stays_so_since_then() {
        let (clock, leases) = holding(&[1, 2, 3, 4]);
        for (shard, load) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
            (0..load).for_each(|_| leases.work(shard));
        }
        leases.keep(3);
        clock.advance(Duration::from_secs(5));
        // Neither the same again nor one more makes the first one's time begin anew.
        leases.keep(3);
        leases.keep(2);
        assert_eq!([1, 2, 3, 4].map(|shard| leases.lease(shard).is_some()), [false, false, true, true]);
        clock.advance(LEAVE_AT_LAST - Duration::from_secs(5));
        assert_eq!(gone(&leases), [1]);
        clock.advance(Duration::from_secs(5));
        assert_eq!(gone(&leases), [1, 2]);
        // Whose part grows meanwhile keeps what he has.
        leases.replace((1..=4).map(lease).collect(), None);
        leases.keep(4);
        assert!(!leases.is_leaving());
        assert_eq!([1, 2, 3, 4].map(|shard| leases.lease(shard).is_some()), [true; 4]);
        // What is somebody else's by now is not on its way out any more.
        leases.keep(3);
        leases.replace((2..=4).map(lease).collect(), None);
        assert!(!leases.is_leaving());
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}", folder.path().join("test.db").display())).await.unwrap();
        store.migrate().await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn the_one_node_of_a_file_has_every_shard_until_it_gives_them_back() {
        let (_folder, store) = store().await;
        let (clock, leases) = of_node(1);
        renew(&store, &leases).await.unwrap();
        assert_eq!(leases.count(), SHARDS as usize);
        clock.advance(TTL * 2);
        assert!((0..SHARDS).all(|shard| leases.lease(shard).is_some()), "they have no end");
        assert!(!leases.may_be_elsewhere(0));
        leases.work(0);
        leases.keep(SHARDS as usize - 2);
        give_back(&store, &leases).await.unwrap();
        assert_eq!(leases.count(), SHARDS as usize - 2);
        assert_eq!(store.held_shards(leases.node()).await.unwrap().len(), SHARDS as usize - 2);
        assert!(leases.lease(0).is_some());
        recheck(&store, &leases).await.unwrap();
    }

    #[tokio::test]
    async fn who_loses_a_file_to_another_process_stops() {
        let (_folder, store) = store().await;
        let ((clock, first), (_, second)) = (of_node(1), of_node(2));
        renew(&store, &first).await.unwrap();
        let (_calls, called) = mpsc::channel(1);
        let sleeps = clock.another_waits(RENEW_EVERY);
        let running = tokio::spawn(run(store.clone(), first.clone(), called, CancellationToken::new()));
        sleeps.await;
        // As long as it is his he goes on.
        let sleeps = clock.another_waits(RENEW_EVERY * 2);
        clock.advance(RENEW_EVERY);
        sleeps.await;
        assert!(!running.is_finished());
        renew(&store, &second).await.unwrap();
        assert!(matches!(recheck(&store, &first).await, Err(StoreError::LeaseLost)));
        clock.advance(RENEW_EVERY);
        let ended = running.await.unwrap().unwrap_err();
        assert!(ended.to_string().contains("same SQLite database"), "{ended}");
    }

    #[tokio::test]
    async fn who_stops_gives_everything_back() {
        let (_folder, store) = store().await;
        let (_, leases) = of_node(1);
        renew(&store, &leases).await.unwrap();
        let (_calls, called) = mpsc::channel(1);
        let stop = CancellationToken::new();
        stop.cancel();
        run(store.clone(), leases.clone(), called, stop).await.unwrap();
        assert_eq!(store.held_shards(leases.node()).await.unwrap(), []);
    }

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
