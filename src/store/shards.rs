//! Shards and their leases: who sends for which part of the sites.
//!
//! On PostgreSQL a lease lives by the database's clock, so that nodes need not agree on the time. It ends when its node was
//! not seen for a while, or when it runs out, which takes longer: so a node says every few seconds that it lives, in one row,
//! and writes all of its shards only now and then. Whatever is written stays for as long as somebody holds an old snapshot,
//! and whoever looks up a shard goes past it. On SQLite there is one node; it takes every shard when it starts, and a second
//! process that did the same would make the first one's commits fail instead of doubling its work.

use std::time::Duration;

use super::{Backend, Result, Store, StoreError, Tx, on};
use crate::domain::ids::{NodeId, SiteId};
use crate::domain::time::Timestamp;

/// How long a lease runs whose node is not missed before: for nodes of versions that look at nothing else.
const RUNS_FOR: Duration = Duration::from_secs(60);
/// Number of shards. Fixed: a site's shard is stored nowhere but with what is owed for it.
pub const SHARDS: i32 = 256;

/// The shard of a site.
pub fn shard_of(site_id: SiteId) -> i32 {
    // Fibonacci hashing spreads consecutive ids; the top byte is the shard.
    let hash = site_id.0.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    i32::from((hash >> 56) as u8)
}

/// The right to work for a shard, until somebody else takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::FromRow)]
pub struct Lease {
    pub shard: i32,
    /// Moves with every change of owner; a commit under an older epoch changes nothing.
    pub epoch: i64,
}

#[derive(sqlx::FromRow)]
struct Held {
    #[sqlx(flatten)]
    lease: Lease,
    /// Less than half of its time is left.
    is_short: bool,
}

/// A process as it announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub version: &'static str,
    /// Separated by commas.
    pub roles: String,
}

/// A process as the others see it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Seen {
    pub id: NodeId,
    pub version: String,
    /// Separated by commas.
    pub roles: String,
    /// On the database's clock, as leases are.
    pub started_at: Timestamp,
    /// Microseconds since it said that it lives.
    pub unseen_micros: i64,
    /// Shards it works for.
    pub shards: i64,
    /// Up to when the least looked at of them was looked at, where traffic is asked for; `None` elsewhere.
    pub looked_until: Option<Timestamp>,
}

/// Who lives that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Senders {
    pub count: usize,
    /// Whether each of them gives rows to what whoever had a shard before it owed without ([`Store::take_up`]). Nodes of
    /// versions before that do not.
    pub take_up: bool,
}

impl Store {
    /// Every process that was seen lately, the oldest first.
    pub async fn operator_nodes(&self, now: Timestamp) -> Result<Vec<Seen>> {
        // Whoever holds the shards of a file is who asks: it need not write down every few seconds that it lives.
        const SQLITE: &str = "
            SELECT nodes.id, nodes.version, nodes.roles, nodes.started_at,
                CASE WHEN count(shards.shard) > 0 THEN 0 ELSE $1 - nodes.seen_at END AS unseen_micros,
                count(shards.shard) AS shards, min(shards.looked_until) AS looked_until
            FROM nodes
            LEFT JOIN shards ON shards.node_id = nodes.id
            GROUP BY nodes.id, nodes.version, nodes.roles, nodes.started_at, nodes.seen_at
            ORDER BY nodes.started_at, nodes.id";
        const POSTGRES: &str = "
            SELECT nodes.id, nodes.version, nodes.roles, nodes.started_at, clock.now - nodes.seen_at AS unseen_micros,
                count(shards.shard) AS shards, min(shards.looked_until) AS looked_until
            FROM nodes
            CROSS JOIN (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
            LEFT JOIN shards ON shards.node_id = nodes.id AND shards.lease_until >= clock.now
            GROUP BY nodes.id, nodes.version, nodes.roles, nodes.started_at, nodes.seen_at, clock.now
            ORDER BY nodes.started_at, nodes.id";
        Ok(match self.reader() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).bind(now).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).fetch_all(pool).await?,
        })
    }

    /// Says that a process lives, and answers who lives that sends. On PostgreSQL by the database's clock; on SQLite there is
    /// only one. Who was missed, not seen for `ttl`, gives its shards back before: somebody may be about to take them.
    pub async fn announce(&self, node: &Node, ttl: Duration, now: Timestamp) -> Result<Senders> {
        const SQLITE: &str = "
            INSERT INTO nodes (id, version, roles, started_at, seen_at) VALUES ($1, $2, $3, $4, $4)
            ON CONFLICT (id) DO UPDATE
            SET seen_at = excluded.seen_at, version = excluded.version, roles = excluded.roles";
        const POSTGRES: &str = "
            INSERT INTO nodes (id, version, roles, started_at, seen_at, takes_up)
            SELECT $1, $2, $3, clock.now, clock.now, TRUE
            FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
            ON CONFLICT (id) DO UPDATE
            SET seen_at = excluded.seen_at, version = excluded.version, roles = excluded.roles, takes_up = TRUE
            WHERE nodes.seen_at >= excluded.seen_at - $4";
        const MISSED_POSTGRES: &str = "
            UPDATE nodes SET seen_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint WHERE id = $1";
        match self.writer() {
            Backend::Sqlite(pool) => {
                sqlx::query(SQLITE).bind(node.id).bind(node.version).bind(&node.roles).bind(now).execute(pool).await?;
                Ok(Senders { count: 1, take_up: true })
            }
            Backend::Postgres(pool) => {
                let announced = sqlx::query(POSTGRES)
                    .bind(node.id)
                    .bind(node.version)
                    .bind(&node.roles)
                    .bind(micros(ttl))
                    .execute(pool)
                    .await?;
                if announced.rows_affected() == 0 {
                    self.release_shards(node.id).await?;
                    sqlx::query(MISSED_POSTGRES).bind(node.id).execute(pool).await?;
                }
                self.operator_senders(ttl).await
            }
        }
    }

    /// The nodes that send and were seen within `ttl`.
    async fn operator_senders(&self, ttl: Duration) -> Result<Senders> {
        const POSTGRES: &str = "
            SELECT count(*), coalesce(bool_and(takes_up), FALSE)
            FROM nodes
            WHERE roles LIKE '%engine%'
                AND seen_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1";
        let Backend::Postgres(pool) = self.reader() else { return Ok(Senders { count: 1, take_up: true }) };
        let (count, take_up): (i64, bool) = sqlx::query_as(POSTGRES).bind(micros(ttl)).fetch_one(pool).await?;
        Ok(Senders { count: usize::try_from(count).unwrap_or(1), take_up })
    }

    /// A process that ends says so: the others need not wait until it is missed.
    pub async fn leave(&self, node: NodeId) -> Result<()> {
        const SQL: &str = "DELETE FROM nodes WHERE id = $1";
        on!(self.writer(), pool => sqlx::query(SQL).bind(node).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Forgets processes nobody has seen for `ttl`.
    pub async fn operator_forget_nodes(&self, ttl: Duration) -> Result<u64> {
        const POSTGRES: &str = "
            DELETE FROM nodes
            WHERE seen_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $1";
        let Backend::Postgres(pool) = self.writer() else { return Ok(0) };
        Ok(sqlx::query(POSTGRES).bind(micros(ttl)).execute(pool).await?.rows_affected())
    }

    /// Takes over shards that nobody holds, or only a node that was not seen for `ttl`, at most `limit`.
    pub async fn claim_shards(&self, node: NodeId, ttl: Duration, limit: usize) -> Result<Vec<Lease>> {
        // One process, one owner: whoever held them before is gone.
        const SQLITE: &str = "
            UPDATE shards
            SET node_id = $1, epoch = epoch + 1, lease_until = 9223372036854775807
            WHERE node_id IS NULL OR node_id <> $1
            RETURNING shard, epoch";
        // Two nodes that look at the same time pass over what the other is about to take.
        const POSTGRES: &str = "
            WITH free AS (
                SELECT shard
                FROM shards
                WHERE node_id IS NULL
                    OR lease_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
                    OR node_id IN (
                        SELECT id
                        FROM nodes
                        WHERE seen_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2
                    )
                ORDER BY shard
                LIMIT $3
                FOR UPDATE OF shards SKIP LOCKED
            )
            UPDATE shards
            SET node_id = $1, epoch = epoch + 1,
                lease_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $4
            FROM free
            WHERE shards.shard = free.shard
            RETURNING shards.shard, shards.epoch";
        Ok(match self.writer() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).bind(node).fetch_all(pool).await?,
            Backend::Postgres(pool) => {
                sqlx::query_as(POSTGRES)
                    .bind(node)
                    .bind(micros(ttl))
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .bind(micros(RUNS_FOR))
                    .fetch_all(pool)
                    .await?
            }
        })
    }

    /// Says which leases `node` still holds, and prolongs them when half of their time is over. Not before it is
    /// [announced](Store::announce).
    pub async fn renew_shards(&self, node: NodeId) -> Result<Vec<Lease>> {
        const HELD_POSTGRES: &str = "
            SELECT shard, epoch, lease_until < clock.now + $2 AS is_short
            FROM shards
            CROSS JOIN (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
            WHERE node_id = $1 AND lease_until >= clock.now";
        // In the order of shards, as by everybody who locks several.
        const LOCK_POSTGRES: &str = "
            SELECT 1
            FROM shards
            WHERE node_id = $1
                AND lease_until >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
            ORDER BY shard
            FOR UPDATE";
        // A statement of its own sees what was written while a lock was waited for, and goes through the shards once: to look
        // each of them up would go past all that is left of it.
        const POSTGRES: &str = "
            UPDATE shards
            SET lease_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $2
            WHERE node_id = $1
                AND lease_until >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
            RETURNING shard, epoch";
        let Backend::Postgres(pool) = self.writer() else { return self.held_shards(node).await };
        let held: Vec<Held> =
            sqlx::query_as(HELD_POSTGRES).bind(node).bind(micros(RUNS_FOR / 2)).fetch_all(pool).await?;
        if held.iter().all(|held| !held.is_short) {
            return Ok(held.into_iter().map(|held| held.lease).collect());
        }
        let mut tx = pool.begin().await?;
        sqlx::query(LOCK_POSTGRES).bind(node).execute(&mut *tx).await?;
        let prolonged = sqlx::query_as(POSTGRES).bind(node).bind(micros(RUNS_FOR)).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(prolonged)
    }

    /// The leases `node` holds, whatever is left of them.
    pub async fn held_shards(&self, node: NodeId) -> Result<Vec<Lease>> {
        const SQL: &str = "SELECT shard, epoch FROM shards WHERE node_id = $1";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL).bind(node).fetch_all(pool).await)?)
    }

    /// Gives one shard back, so that the next node need not wait for its lease to run out.
    pub async fn release_shard(&self, node: NodeId, lease: Lease) -> Result<()> {
        const SQL: &str = "
            UPDATE shards SET node_id = NULL, lease_until = 0 WHERE node_id = $1 AND shard = $2 AND epoch = $3";
        on!(self.writer(), pool => sqlx::query(SQL)
            .bind(node).bind(lease.shard).bind(lease.epoch).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Gives every shard back.
    pub async fn release_shards(&self, node: NodeId) -> Result<()> {
        const SQL: &str = "UPDATE shards SET node_id = NULL, lease_until = 0 WHERE node_id = $1";
        on!(self.writer(), pool => sqlx::query(SQL).bind(node).execute(pool).await.map(drop))?;
        Ok(())
    }
}

impl Tx {
    /// Whether the leases are still those of `node`. On SQLite, where nobody else writes meanwhile; PostgreSQL asks in the
    /// statement that writes.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when any of them belongs to another owner or epoch by now.
    pub(super) async fn hold(&mut self, node: NodeId, leases: &[Lease]) -> Result<()> {
        let Backend::Sqlite(tx) = &mut self.0 else { return Ok(()) };
        let held: i64 = sqlx::query_scalar(HELD_SQLITE).bind(pairs(leases)).bind(node).fetch_one(&mut **tx).await?;
        if usize::try_from(held) == Ok(leases.len()) { Ok(()) } else { Err(StoreError::LeaseLost) }
    }
}

/// Which of these leases a node holds (`$1`; shards are `$2` and epochs `$3`), on PostgreSQL. They stay locked, and in the order of
/// shards, as by everybody: two that lock several never wait for each other.
macro_rules! held_sql {
    ($select:literal, $lock:literal) => {
        concat!(
            $select,
            " FROM unnest($2::integer[], $3::bigint[]) AS lease (shard, epoch)
            JOIN shards ON shards.shard = lease.shard AND shards.epoch = lease.epoch
            WHERE shards.node_id = $1
            ORDER BY shards.shard ",
            $lock,
            " OF shards"
        )
    };
}
pub(super) use held_sql;

/// How many of these leases, as [`pairs`], a node holds.
pub(super) const HELD_SQLITE: &str = "
    SELECT count(*)
    FROM json_each(?) AS held
    JOIN shards ON shards.shard = held.value ->> 0 AND shards.epoch = held.value ->> 1
    WHERE shards.node_id = ?";

/// Leases as SQLite takes a list of them.
pub(super) fn pairs(leases: &[Lease]) -> String {
    let pairs: Vec<_> = leases.iter().map(|lease| (lease.shard, lease.epoch)).collect();
    serde_json::to_string(&pairs).expect("numbers serialise")
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_that_come_one_after_the_other_are_spread() {
        let mut sites = [0; SHARDS as usize];
        for id in 1..=10_000 {
            sites[usize::try_from(shard_of(SiteId(id))).unwrap()] += 1;
        }
        let (fewest, most) = (sites.iter().min().unwrap(), sites.iter().max().unwrap());
        assert!(*fewest >= 30 && *most <= 50, "{fewest} to {most} sites a shard");
        // What is stored in the queue stays where it is looked for.
        assert_eq!([1, 2, 3, 42, -1].map(|id| shard_of(SiteId(id))), [158, 60, 218, 245, 97]);
    }
}
