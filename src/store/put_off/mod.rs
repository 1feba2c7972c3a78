//! First attempts without a row in the queue, on PostgreSQL: what [`super::unqueued`] is where several nodes share a queue.
//!
//! A node records events of shards that it works for itself, and makes their first attempts from memory. A row would be
//! written, found and deleted again for each, which is a third of what PostgreSQL does for a delivery. So the event says
//! that it is owed (`owed_until`), the node remembers it, and what is left gets its row at the first look at the queue
//! after a second, few of them at once.
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
use std::sync::Arc;

use foldhash::HashSet;

use self::memory::{Doubt, SLACK};
pub(super) use self::memory::{PutOff, Putting, Taken};
use super::queue::Depth;
use super::retention::first_id_of;
use super::shards::{Lease, held_sql};
use super::unqueued::{Owed, OwedRow, Which, bites};
use super::{Backend, PostgresPools, Result, Store, StoreError, Tx};
use crate::domain::ids::{EventId, NodeId};
use crate::domain::time::Timestamp;

mod memory;

/// How much is to be written down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent<'a> {
    /// Of these what is still remembered.
    Of(&'a [EventId]),
    Everything,
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
        let (new, moves_to) = put_off.is_to_take_up(node, held, others_take_up, now);
        if let Some(since) = moves_to {
            self.move_on(put_off, since).await?;
        }
        if !new.is_empty() {
            self.look_through(put_off, node, &new, now).await?;
        }
        Ok(())
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
        // First here: steps that begin from now on know it.
        put_off.begins_at(since);
        let Some((node, leases)) = put_off.leases() else { return Ok(()) };
        let (shards, epochs) = columns(&leases);
        sqlx::query(MOVE_POSTGRES).bind(node).bind(shards).bind(epochs).bind(since).execute(&pools.hot).await?;
        Ok(())
    }

    /// Before these shards are worked for.
    async fn look_through(&self, put_off: &PutOff, node: NodeId, new: &[Lease], now: Timestamp) -> Result<()> {
        const PATIENCE_POSTGRES: &str = "SELECT set_config('statement_timeout', '600000', true)";
        const LOCK_POSTGRES: &str = held_sql!("SELECT shards.shard, shards.unqueued_since", "FOR UPDATE");
        const BEGIN_POSTGRES: &str = "UPDATE shards SET unqueued_since = $2 WHERE shard = ANY ($1)";
        let (shards, epochs) = columns(new);
        let mut tx = self.begin_lookups().await?;
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
        put_off.begins_at(since);
        put_off.has_taken_up(new);
        Ok(())
    }

    /// For those who read the queue: which of what was put off has its row afterwards, as far as it is this node's.
    pub(super) async fn queue_what_was_put_off(&self, which: Which<'_>) -> Result<()> {
        let Some((_, put_off)) = self.put_off() else { return Ok(()) };
        if put_off.doubt().is_some() {
            let _turn = put_off.turn().await;
            return self.queue_in_turn(put_off).await;
        }
        for bite in bites(&put_off.wanting_rows(which)) {
            let _turn = put_off.turn().await;
            self.write_down(put_off, Extent::Of(bite)).await?;
        }
        Ok(())
    }

    /// The same at once, for who has the turn. What is remembered afterwards is believed under the configuration as it is.
    pub(super) async fn queue_in_turn(&self, put_off: &PutOff) -> Result<()> {
        self.write_down(put_off, Extent::Everything).await
    }

    /// Gives everything its row, and puts no other off.
    pub(super) async fn put_off_no_longer(&self) -> Result<()> {
        let Some((_, put_off)) = self.put_off() else { return Ok(()) };
        let _turn = put_off.turn().await;
        self.write_down(put_off, Extent::ForGood).await?;
        put_off.ends();
        Ok(())
    }

    async fn write_down(&self, put_off: &PutOff, extent: Extent<'_>) -> Result<()> {
        const LOCK_POSTGRES: &str = held_sql!("SELECT shards.shard", "FOR NO KEY UPDATE");
        const END_POSTGRES: &str = "UPDATE shards SET unqueued_since = NULL WHERE shard = ANY ($1)";
        let Some((node, mut leases)) = put_off.leases() else { return Ok(()) };
        let (taken, doubt) = match (extent, put_off.doubt()) {
            (Extent::Of(ids), _) => (Taken::of(put_off, ids.iter().copied()), None),
            // It happened, or another of the same hits did; or it may not any more, since nothing is put off then.
            (_, Some(doubt)) if extent == Extent::ForGood || self.is_past(&doubt).await? => {
                (Taken::all(put_off), Some(doubt))
            }
            _ => (Taken::all(put_off), None),
        };
        let is_part = matches!(extent, Extent::Of(_));
        if is_part && taken.owed().is_empty() {
            return Ok(());
        }
        if doubt.is_none() && extent != Extent::ForGood {
            let concerned: HashSet<_> = taken.owed().iter().map(|owed| owed.shard).collect();
            leases.retain(|lease| concerned.contains(&lease.shard));
        }
        let (shards, epochs) = columns(&leases);
        let mut tx = self.begin_hot().await?;
        // Waits for every statement that was begun under these leases, and what comes after it sees what they did.
        let held: Vec<i32> =
            sqlx::query_scalar(LOCK_POSTGRES).bind(node).bind(shards).bind(epochs).fetch_all(tx.postgres()).await?;
        let held: HashSet<_> = held.into_iter().collect();
        // Those of which nothing is written down now are believed as before.
        let catalog_version = if is_part { None } else { Some(tx.catalog_version().await?) };
        let mut owed: Vec<_> = taken.owed().iter().copied().filter(|owed| held.contains(&owed.shard)).collect();
        if let Some(doubt) = &doubt {
            owed.extend(tx.left_since(doubt.first, &held).await?);
        }
        tx.queue_put_off(owed).await?;
        if extent == Extent::ForGood {
            sqlx::query(END_POSTGRES).bind(held.into_iter().collect::<Vec<_>>()).execute(tx.postgres()).await?;
        }
        tx.commit().await?;
        taken.for_good();
        if let Some(catalog_version) = catalog_version {
            put_off.is_written_down(catalog_version, doubt.as_ref());
        }
        Ok(())
    }

    /// Whether the watermark is not where a step in doubt would move it from.
    async fn is_past(&self, doubt: &Doubt) -> Result<bool> {
        Ok(self.operator_watermark_of(&doubt.source).await?.is_some_and(|seq| seq != doubt.from))
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
        Ok(sqlx::query_as(DEPTH_POSTGRES).bind(first_id_of(since)).fetch_one(&pools.lookups).await?)
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
            /* Asked like this it is looked up and never joined. */
            WHERE (SELECT 1 FROM events WHERE events.id = owed.event_id) IS NOT NULL
                AND (SELECT 1 FROM attempts WHERE attempts.event_id = owed.event_id LIMIT 1) IS NULL
                AND (owed.webhook_id IN (SELECT id FROM live)) IS TRUE
            ON CONFLICT (event_id) DO NOTHING";
        if owed.is_empty() {
            return Ok(());
        }
        owed.sort_unstable_by_key(Owed::place);
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

/// Shards and epochs.
fn columns(leases: &[Lease]) -> (Vec<i32>, Vec<i64>) {
    leases.iter().map(|lease| (lease.shard, lease.epoch)).unzip()
}
