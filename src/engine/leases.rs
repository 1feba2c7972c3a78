//! Which shards this process works for. Renewed in the background; everybody else asks here before acting.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::domain::ids::NodeId;
use crate::store::shards::Lease;
use crate::store::{Store, StoreError};
use crate::wake::ToLeases;

/// How long a lease lasts on the database's clock.
pub const TTL: Duration = Duration::from_secs(15);
/// How often it is prolonged.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// This long before a lease could run out nothing new is begun under it.
const MARGIN: Duration = Duration::from_secs(3);

/// The leases this process holds. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Arc<Shared>);

struct Shared {
    node: NodeId,
    clock: Clock,
    held: RwLock<Held>,
    /// Moves whenever shards come or go.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    leases: HashMap<i32, Lease>,
    /// On the monotonic clock; leases of SQLite have no end.
    valid_until: Option<Duration>,
}

impl Leases {
    pub fn new(node: NodeId, clock: Clock) -> Self {
        let shared = Shared { node, clock, held: RwLock::default(), changed: watch::channel(0).0 };
        Self(Arc::new(shared))
    }

    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The lease under which to work for `shard` now, if there is one that will not run out meanwhile.
    pub fn lease(&self, shard: i32) -> Option<Lease> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.valid_until.is_some_and(|until| self.0.clock.monotonic() + MARGIN >= until) {
            return None;
        }
        held.leases.get(&shard).copied()
    }

    /// Every lease held, sorted by shard.
    pub fn all(&self) -> Vec<Lease> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        let mut leases: Vec<_> = held.leases.values().copied().collect();
        leases.sort_by_key(|lease| lease.shard);
        leases
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn replace(&self, leases: Vec<Lease>, valid_until: Option<Duration>) {
        let leases: HashMap<_, _> = leases.into_iter().map(|lease| (lease.shard, lease)).collect();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        let epochs = |leases: &HashMap<i32, Lease>| {
            let mut epochs: Vec<_> = leases.values().map(|lease| (lease.shard, lease.epoch)).collect();
            epochs.sort_unstable();
            epochs
        };
        let moved = epochs(&held.leases) != epochs(&leases);
        *held = Held { leases, valid_until };
        drop(held);
        if moved {
            self.0.changed.send_modify(|count| *count += 1);
        }
    }
}

/// Takes what nobody holds. Called once before the engine starts, so that it starts with its shards.
pub async fn claim(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let asked_at = leases.0.clock.monotonic();
    store.claim_shards(leases.node(), TTL).await?;
    let held = store.renew_shards(leases.node(), TTL).await?;
    leases.replace(held, (!store.is_sqlite()).then_some(asked_at + TTL));
    Ok(())
}

/// Prolongs the leases and takes over what dead nodes leave behind, until `stop`; then gives everything back.
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
    loop {
        // Dropped, and so answered, when this round is over.
        let _asked = tokio::select! {
            () = stop.cancelled() => break,
            Some(call) = calls.recv() => Some(call),
            () = clock.sleep(RENEW_EVERY) => None,
        };
        let before = leases.all().len();
        let outcome = if store.is_sqlite() { recheck(&store, &leases).await } else { claim(&store, &leases).await };
        match outcome {
            Ok(()) if leases.all().len() != before => {
                info!(shards = leases.all().len(), "This node works for {} of 256 shards now", leases.all().len());
            }
            Ok(()) => {}
            Err(StoreError::LeaseLost) => {
                error!("Another pulsehook process has taken over this database file; stopping");
                anyhow::bail!("another pulsehook process works on the same SQLite database");
            }
            Err(error) => warn!(%error, "Leases could not be renewed; work stops before they run out: {error}"),
        }
    }
    store.release_shards(leases.node()).await.context("the leases could not be given back")
}

/// SQLite has one node. If the shards are somebody else's, two processes were started on one file.
async fn recheck(store: &Store, leases: &Leases) -> Result<(), StoreError> {
    let held = store.renew_shards(leases.node(), TTL).await?;
    if held.is_empty() { Err(StoreError::LeaseLost) } else { Ok(()) }
}
