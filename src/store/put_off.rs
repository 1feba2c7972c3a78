//! First attempts without a row in the queue, on PostgreSQL: what [`super::unqueued`] is where several nodes share a queue.
//!
//! A node records events of shards that it works for itself, and makes their first attempts from memory. A row would be
//! written, found and deleted again for each, which is a third of what PostgreSQL does for a delivery. So the event says
//! that it is owed (`owed_until`), the node remembers it, and what is left gets its row at the next look at the queue,
//! within a second or two.
//!
//! Other nodes cannot know what this one remembers, so it is the lease that vouches for it:
//! * Rows are put off in a statement that locks the leases of the shards, as every other that writes under a lease does.
//!   Whoever takes a shard over therefore sees all of them, and before he works for it he looks through the events from
//!   `unqueued_since` on and gives rows to those that are owed and have no attempt ([`Store::take_up`]).
//! * Rows are written under the lease too, so that a node which lost it without noticing changes nothing.
//! * A commit that nobody confirmed may have happened, and nobody remembers its events: once the watermark shows what came
//!   of it, the shards are looked through again.
//! * What is written down and what became of it takes turns, since who deletes a row does not see one that is being written.
//! * Who deletes a webhook on another node moves the configuration's version. Outcomes of what is remembered are only
//!   written under the version it was remembered under; under another what is owed is written down first, or not, where the
//!   webhook is gone.
//!
//! Every other change is one of rows that are there, and finds them: what was put off and is not there yet is found by the
//! lock on its shard or a second later.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use tokio::sync::MutexGuard as Turn;

use super::outbox::Fired;
use super::outcomes::Settled;
use super::queue::Depth;
use super::retention::first_id_of;
use super::shards::Lease;
use super::unqueued::{Owed, OwedRow};
use super::{Backend, PostgresPools, Result, Store, StoreError, Tx};
use crate::domain::ids::{EventId, NodeId};
use crate::domain::time::Timestamp;

/// So far back `unqueued_since` is from what is put off at the moment: a step that takes longer from its events' ids to its
/// commit has rows.
const SLACK: Duration = Duration::from_secs(20);
/// It is moved on when what is put off has come so far from it: whoever takes a shard up has so much to look through.
const MOVES_AFTER: Duration = Duration::from_secs(30);

/// What this process remembers, and whose turn it is to write any of it.
#[derive(Default)]
pub(super) struct PutOff {
    turn: tokio::sync::Mutex<()>,
    /// Nothing in a process that does not send.
    memory: Mutex<Option<Memory>>,
}

struct Memory {
    node: NodeId,
    /// The shards that were taken up, with their epochs.
    leases: HashMap<i32, i64>,
    /// Whether every node that sends would find what this one has left.
    others_take_up: bool,
    owed: HashMap<EventId, Owed>,
    /// The newest event that was put off, and up to when it is known that nothing older is.
    newest: Timestamp,
    since: Timestamp,
    /// Of the configuration under which it is believed; none to begin with.
    catalog_version: Option<i64>,
    /// The first event of the step under way.
    recording: Option<Timestamp>,
    doubt: Option<Doubt>,
}

/// A step of which nobody knows whether it was recorded: its first event.
#[derive(Debug, Clone, Copy)]
enum Doubt {
    /// It may still happen.
    Open(Timestamp),
    /// It did, or never will.
    Over(Timestamp),
}

impl Memory {
    fn new(node: NodeId, now: Timestamp) -> Self {
        Self {
            node,
            leases: HashMap::default(),
            others_take_up: false,
            owed: HashMap::default(),
            newest: now,
            since: now - SLACK,
            catalog_version: None,
            recording: None,
            doubt: None,
        }
    }

    /// Nothing before this is put off.
    fn oldest(&self, now: Timestamp) -> Timestamp {
        let doubted = self.doubt.map(|(Doubt::Open(first) | Doubt::Over(first))| first);
        let owed = self.owed.keys().map(|id| id.recorded_at()).min();
        [Some(now - SLACK), self.recording, doubted, owed].into_iter().flatten().min().unwrap_or(now)
    }

    fn wants_rows(&self) -> bool {
        !self.owed.is_empty() || matches!(self.doubt, Some(Doubt::Over(_)))
    }
}

impl PutOff {
    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        self.memory().as_mut().map(work)
    }

    pub async fn turn(&self) -> Turn<'_, ()> {
        self.turn.lock().await
    }

    /// Nothing where nothing is remembered.
    fn depth(&self) -> Option<Depth> {
        self.with(|memory| Depth {
            deliveries: i64::try_from(memory.owed.len()).unwrap_or(i64::MAX),
            oldest_due_at: memory.owed.values().map(|owed| owed.due_at).min(),
        })
    }

    /// A step with a watermark was recorded, or refused because the watermark had moved: so one of the same hits that was in
    /// doubt was recorded by now, or never will be.
    pub fn watermark_is_known(&self) {
        self.with(|memory| {
            if let Some(Doubt::Open(first)) = memory.doubt {
                memory.doubt = Some(Doubt::Over(first));
            }
        });
    }
}

/// What a step puts off, and under which leases.
pub(super) struct Putting {
    from: Arc<PutOff>,
    pub node: NodeId,
    pub leases: Vec<Lease>,
    /// The moment of its first event.
    pub first: Timestamp,
    shards: HashSet<i32>,
    outcome_is_known: bool,
}

impl Putting {
    /// Of these events, in the order of their ids; nothing if all of them get rows.
    pub fn of(put_off: &Arc<PutOff>, fired: &[&Fired]) -> Option<Self> {
        let first = fired.first()?.event.id.recorded_at();
        let mut memory = put_off.memory();
        let known = memory.as_mut().filter(|memory| memory.others_take_up && first >= memory.since)?;
        let shards: HashSet<_> =
            fired.iter().map(|fired| fired.shard).filter(|shard| known.leases.contains_key(shard)).collect();
        let mut leases: Vec<_> =
            shards.iter().map(|shard| Lease { shard: *shard, epoch: known.leases[shard] }).collect();
        leases.sort_unstable_by_key(|lease| lease.shard);
        known.recording = Some(first);
        let node = known.node;
        drop(memory);
        Some(Self { from: Arc::clone(put_off), node, leases, first, shards, outcome_is_known: false })
    }

    pub fn puts_off(&self, fired: &Fired) -> bool {
        !fired.shadow && self.shards.contains(&fired.shard)
    }

    /// They were recorded.
    pub fn remember<'a>(mut self, fired: impl Iterator<Item = &'a Fired>) {
        self.outcome_is_known = true;
        let owed: Vec<_> = fired.filter(|fired| self.puts_off(fired)).map(Owed::of).collect();
        self.from.with(|memory| {
            for owed in owed {
                memory.newest = memory.newest.max(owed.event_id.recorded_at());
                memory.owed.insert(owed.event_id, owed);
            }
        });
    }

    /// They were not.
    pub fn forget(mut self) {
        self.outcome_is_known = true;
    }
}

impl Drop for Putting {
    fn drop(&mut self) {
        self.from.with(|memory| {
            memory.recording = None;
            if !self.outcome_is_known {
                let before = memory.doubt.map(|(Doubt::Open(first) | Doubt::Over(first))| first);
                memory.doubt = Some(Doubt::Open(before.map_or(self.first, |before| before.min(self.first))));
            }
        });
    }
}

/// What was taken out of memory to write it, or what became of it. Nothing is known of it if that ends without a word, so
/// it is put back.
pub(super) struct Taken<'a> {
    from: &'a PutOff,
    owed: Vec<Owed>,
}

impl<'a> Taken<'a> {
    /// Those of these outcomes.
    pub fn of(put_off: &'a PutOff, settled: &[Settled]) -> Self {
        let take = |memory: &mut Memory| settled.iter().filter_map(|row| memory.owed.remove(&row.event_id)).collect();
        Self { from: put_off, owed: put_off.with(take).unwrap_or_default() }
    }

    fn all(put_off: &'a PutOff) -> Self {
        let take = |memory: &mut Memory| memory.owed.drain().map(|(_, owed)| owed).collect();
        Self { from: put_off, owed: put_off.with(take).unwrap_or_default() }
    }

    /// Those that never had a row and need none, since these outcomes end them, and the rest.
    pub fn told_apart(&self, settled: &[Settled]) -> (Vec<EventId>, Vec<Owed>) {
        let goes_on: HashSet<_> = settled.iter().filter(|row| row.standing.goes_on()).map(|row| row.event_id).collect();
        let (over, needs_row): (Vec<_>, Vec<_>) =
            self.owed.iter().copied().partition(|owed| owed.has_no_row && !goes_on.contains(&owed.event_id));
        (over.into_iter().map(|owed| owed.event_id).collect(), needs_row)
    }

    /// It was committed.
    pub fn for_good(mut self) {
        self.owed.clear();
    }

    /// Nothing was changed.
    pub fn put_back(mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.from.with(|memory| memory.owed.extend(owed.into_iter().map(|owed| (owed.event_id, owed))));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.from.with(|memory| {
            memory.owed.extend(owed.into_iter().map(|owed| (owed.event_id, Owed { has_no_row: false, ..owed })));
        });
    }
}

/// How much is to be written down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Now,
    /// And nothing is put off afterwards.
    ForGood,
}

/// What is to be told of events from an id on that are owed and have neither row nor attempt. An event goes on saying that
/// it is owed when it has had a row, which went with its webhook.
macro_rules! left_sql {
    ($select:literal) => {
        concat!(
            $select,
            " FROM events
            WHERE id >= $1
                AND owed_until IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = events.id)
                AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.event_id = events.id)
                AND EXISTS (SELECT 1 FROM webhooks WHERE webhooks.id = events.webhook_id)"
        )
    };
}

impl Store {
    pub(super) fn put_off(&self) -> Option<(&PostgresPools, &Arc<PutOff>)> {
        match &self.db {
            Backend::Sqlite(_) => None,
            Backend::Postgres(pools) => Some((pools, &pools.put_off)),
        }
    }

    /// Begins to work for these shards, which are all that `node` holds by now: gives rows to what whoever had them before
    /// owed without, and puts rows off for them from now on, if `others_take_up` shards like this too.
    pub async fn take_up(&self, node: NodeId, held: &[Lease], others_take_up: bool, now: Timestamp) -> Result<()> {
        let Some((_, put_off)) = self.put_off() else { return Ok(()) };
        let _turn = put_off.turn().await;
        let (new, moves_to) = {
            let mut memory = put_off.memory();
            let memory = memory.get_or_insert_with(|| Memory::new(node, now));
            memory.others_take_up = others_take_up;
            let epochs: HashMap<_, _> = held.iter().map(|lease| (lease.shard, lease.epoch)).collect();
            memory.leases.retain(|shard, epoch| epochs.get(shard) == Some(epoch));
            let new: Vec<_> = held.iter().filter(|lease| !memory.leases.contains_key(&lease.shard)).copied().collect();
            let oldest = memory.oldest(now);
            (new, (memory.newest.since(memory.since) > SLACK + MOVES_AFTER).then_some(oldest))
        };
        if let Some(since) = moves_to {
            self.move_on(put_off, since).await?;
        }
        if !new.is_empty() { self.look_through(put_off, node, &new, now).await } else { Ok(()) }
    }

    /// Says that nothing before this is put off.
    async fn move_on(&self, put_off: &PutOff, since: Timestamp) -> Result<()> {
        const MOVE_POSTGRES: &str = "
            UPDATE shards
            SET unqueued_since = $4
            FROM unnest($2::integer[], $3::bigint[]) AS lease (shard, epoch)
            WHERE shards.node_id = $1
                AND shards.shard = lease.shard
                AND shards.epoch = lease.epoch
                AND shards.unqueued_since < $4";
        let Some((pools, _)) = self.put_off() else { return Ok(()) };
        let Some((node, leases)) = put_off.with(|memory| {
            // First here: steps that begin from now on know it.
            memory.since = memory.since.max(since);
            (memory.node, memory.leases.clone())
        }) else {
            return Ok(());
        };
        let (shards, epochs): (Vec<_>, Vec<_>) = in_order(&leases).into_iter().unzip();
        sqlx::query(MOVE_POSTGRES).bind(node).bind(shards).bind(epochs).bind(since).execute(&pools.hot).await?;
        Ok(())
    }

    /// Before these shards are worked for.
    async fn look_through(&self, put_off: &PutOff, node: NodeId, new: &[Lease], now: Timestamp) -> Result<()> {
        const PATIENCE_POSTGRES: &str = "SELECT set_config('statement_timeout', '600000', true)";
        const LOCK_POSTGRES: &str = "
            SELECT shards.shard, shards.unqueued_since
            FROM unnest($2::integer[], $3::bigint[]) AS lease (shard, epoch)
            JOIN shards ON shards.shard = lease.shard AND shards.epoch = lease.epoch
            WHERE shards.node_id = $1
            ORDER BY shards.shard
            FOR UPDATE OF shards";
        const BEGIN_POSTGRES: &str = "UPDATE shards SET unqueued_since = $2 WHERE shard = ANY ($1)";
        let (shards, epochs): (Vec<_>, Vec<_>) = new.iter().map(|lease| (lease.shard, lease.epoch)).unzip();
        let mut tx = self.begin().await?;
        let held: Vec<(i32, Option<Timestamp>)> = {
            let connection = tx.postgres();
            sqlx::query(PATIENCE_POSTGRES).execute(&mut *connection).await?;
            sqlx::query_as(LOCK_POSTGRES).bind(node).bind(shards).bind(epochs).fetch_all(&mut *connection).await?
        };
        if held.len() != new.len() {
            return Err(StoreError::LeaseLost);
        }
        if let Some(since) = held.iter().filter_map(|(_, since)| *since).min() {
            let shards = held.iter().map(|(shard, _)| *shard).collect();
            let left = tx.left_since(since, &shards).await?;
            tx.queue_put_off(left).await?;
        }
        let since = now - SLACK;
        let held: Vec<_> = held.into_iter().map(|(shard, _)| shard).collect();
        sqlx::query(BEGIN_POSTGRES).bind(held).bind(since).execute(tx.postgres()).await?;
        tx.commit().await?;
        put_off.with(|memory| {
            memory.since = memory.since.max(since);
            memory.leases.extend(new.iter().map(|lease| (lease.shard, lease.epoch)));
        });
        Ok(())
    }

    /// For those who read the queue: what was put off has its row afterwards, as far as it is this node's.
    pub(super) async fn queue_what_was_put_off(&self) -> Result<()> {
        let Some((_, put_off)) = self.put_off() else { return Ok(()) };
        if !put_off.with(|memory| memory.wants_rows()).unwrap_or(false) {
            return Ok(());
        }
        let _turn = put_off.turn().await;
        self.write_down(put_off, Extent::Now).await
    }

    /// The same for who has the turn. What is remembered afterwards is believed under the configuration as it is.
    pub(super) async fn queue_in_turn(&self, put_off: &PutOff) -> Result<()> {
        self.write_down(put_off, Extent::Now).await
    }

    /// Gives everything its row, and puts no other off.
    pub(super) async fn put_off_no_longer(&self) -> Result<()> {
        let Some((_, put_off)) = self.put_off() else { return Ok(()) };
        let _turn = put_off.turn().await;
        self.write_down(put_off, Extent::ForGood).await?;
        *put_off.memory() = None;
        Ok(())
    }

    async fn write_down(&self, put_off: &PutOff, extent: Extent) -> Result<()> {
        const LOCK_POSTGRES: &str = "
            SELECT shards.shard
            FROM unnest($2::integer[], $3::bigint[]) AS lease (shard, epoch)
            JOIN shards ON shards.shard = lease.shard AND shards.epoch = lease.epoch
            WHERE shards.node_id = $1
            ORDER BY shards.shard
            FOR NO KEY UPDATE OF shards";
        const END_POSTGRES: &str = "UPDATE shards SET unqueued_since = NULL WHERE shard = ANY ($1)";
        let Some((node, mut leases, doubt)) = put_off.with(|memory| (memory.node, memory.leases.clone(), memory.doubt))
        else {
            return Ok(());
        };
        let taken = Taken::all(put_off);
        let looked_again = match doubt {
            Some(Doubt::Over(first)) => Some(first),
            Some(Doubt::Open(first)) if extent == Extent::ForGood => Some(first),
            _ => None,
        };
        if looked_again.is_none() && extent == Extent::Now {
            let concerned: HashSet<_> = taken.owed.iter().map(|owed| owed.shard).collect();
            leases.retain(|shard, _| concerned.contains(shard));
        }
        let (shards, epochs): (Vec<_>, Vec<_>) = in_order(&leases).into_iter().unzip();
        let mut tx = self.begin_hot().await?;
        // Waits for every statement that was begun under these leases, and what comes after it sees what they did.
        let held: Vec<i32> =
            sqlx::query_scalar(LOCK_POSTGRES).bind(node).bind(shards).bind(epochs).fetch_all(tx.postgres()).await?;
        let held: HashSet<_> = held.into_iter().collect();
        let catalog_version = tx.catalog_version().await?;
        let mut owed: Vec<_> = taken.owed.iter().copied().filter(|owed| held.contains(&owed.shard)).collect();
        if let Some(first) = looked_again {
            owed.extend(tx.left_since(first, &held).await?);
        }
        tx.queue_put_off(owed).await?;
        if extent == Extent::ForGood {
            sqlx::query(END_POSTGRES).bind(held.into_iter().collect::<Vec<_>>()).execute(tx.postgres()).await?;
        }
        tx.commit().await?;
        taken.for_good();
        put_off.with(|memory| {
            memory.catalog_version = Some(catalog_version);
            if looked_again.is_some() {
                // Another may have come into doubt meanwhile.
                memory.doubt = memory.doubt.filter(|doubt| matches!(doubt, Doubt::Open(_)));
            }
        });
        Ok(())
    }

    /// How many there are: those this process remembers, or, where it does not send, those of all nodes.
    pub(super) async fn put_off_depth(&self) -> Result<Depth> {
        const SINCE_POSTGRES: &str = "SELECT min(unqueued_since) FROM shards";
        const DEPTH_POSTGRES: &str = left_sql!("SELECT count(*) AS deliveries, min(inserted_at) AS oldest_due_at");
        let Some((pools, put_off)) = self.put_off() else { return Ok(Depth::default()) };
        if let Some(depth) = put_off.depth() {
            return Ok(depth);
        }
        let since: Option<Timestamp> = sqlx::query_scalar(SINCE_POSTGRES).fetch_one(&pools.rest).await?;
        let Some(since) = since else { return Ok(Depth::default()) };
        Ok(sqlx::query_as(DEPTH_POSTGRES).bind(first_id_of(since)).fetch_one(&pools.rest).await?)
    }
}

impl PutOff {
    /// Under which configuration what is remembered is believed.
    pub fn believed_under(&self) -> Option<i64> {
        self.with(|memory| memory.catalog_version).flatten()
    }
}

impl Tx {
    /// Events of these shards from this moment on that are owed and have neither row nor attempt.
    async fn left_since(&mut self, since: Timestamp, shards: &HashSet<i32>) -> Result<Vec<Owed>> {
        const LEFT_POSTGRES: &str = left_sql!("SELECT id, account_id, site_id, webhook_id, inserted_at, owed_until");
        let left: Vec<OwedRow> =
            sqlx::query_as(LEFT_POSTGRES).bind(first_id_of(since)).fetch_all(self.postgres()).await?;
        Ok(left.into_iter().map(Owed::of_row).filter(|owed| shards.contains(&owed.shard)).collect())
    }

    /// Writes rows, in the order in which they lie, unless there are some, or the events or their webhooks are gone, or there
    /// was an attempt.
    pub(super) async fn queue_put_off(&mut self, mut owed: Vec<Owed>) -> Result<()> {
        // Who deletes a webhook comes before or after this as a whole, as with what is recorded.
        const QUEUE_POSTGRES: &str = "
            WITH live AS MATERIALIZED (
                SELECT id FROM webhooks WHERE id = ANY ($7) ORDER BY id FOR KEY SHARE
            )
            INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at,
                expires_at)
            SELECT owed.event_id, owed.account_id, owed.webhook_id, owed.shard, 0, 0, 0, owed.due_at, owed.expires_at
            FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::integer[], $5::bigint[], $6::bigint[])
                AS owed (event_id, account_id, webhook_id, shard, due_at, expires_at)
            WHERE EXISTS (SELECT 1 FROM events WHERE events.id = owed.event_id)
                AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = owed.event_id)
                /* Asked like this it is looked up and never joined. */
                AND (owed.webhook_id IN (SELECT id FROM live)) IS TRUE
            ON CONFLICT (event_id) DO NOTHING";
        if owed.is_empty() {
            return Ok(());
        }
        owed.sort_unstable_by_key(|owed| (owed.shard, owed.webhook_id, owed.due_at, owed.event_id));
        owed.dedup_by_key(|owed| owed.event_id);
        let webhooks: BTreeSet<_> = owed.iter().map(|owed| owed.webhook_id.0).collect();
        sqlx::query(QUEUE_POSTGRES)
            .bind(owed.iter().map(|owed| owed.event_id.0).collect::<Vec<_>>())
            .bind(owed.iter().map(|owed| owed.account_id.0).collect::<Vec<_>>())
            .bind(owed.iter().map(|owed| owed.webhook_id.0).collect::<Vec<_>>())
            .bind(owed.iter().map(|owed| owed.shard).collect::<Vec<_>>())
            .bind(owed.iter().map(|owed| owed.due_at.micros()).collect::<Vec<_>>())
            .bind(owed.iter().map(|owed| owed.expires_at.map(Timestamp::micros)).collect::<Vec<_>>())
            .bind(webhooks.into_iter().collect::<Vec<_>>())
            .execute(self.postgres())
            .await?;
        Ok(())
    }

    /// Waits for every statement that was begun under these leases.
    pub(super) async fn wait_for_shards(&mut self, shards: Vec<i32>) -> Result<()> {
        const LOCK_POSTGRES: &str = "SELECT 1 FROM shards WHERE shard = ANY ($1) ORDER BY shard FOR NO KEY UPDATE";
        sqlx::query(LOCK_POSTGRES).bind(shards).execute(self.postgres()).await?;
        Ok(())
    }

    pub(super) fn postgres(&mut self) -> &mut sqlx::PgConnection {
        match &mut self.0 {
            Backend::Postgres(tx) => tx,
            Backend::Sqlite(_) => unreachable!("rows are put off in another way there"),
        }
    }
}

fn in_order(leases: &HashMap<i32, i64>) -> Vec<(i32, i64)> {
    let mut leases: Vec<_> = leases.iter().map(|(shard, epoch)| (*shard, *epoch)).collect();
    leases.sort_unstable();
    leases
}
