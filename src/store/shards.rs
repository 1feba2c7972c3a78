//! Shards and their leases: who works for which part of the sites.
//!
//! On PostgreSQL a lease lives by the database's clock, so that nodes need not agree on the time. On SQLite there is one
//! node; it takes every shard when it starts, and a second process that did the same would make the first one's commits
//! fail instead of doubling its work.

use std::time::Duration;

use super::{Backend, Result, Store, StoreError, Tx};
use crate::domain::ids::{NodeId, SiteId};
use crate::domain::time::Timestamp;

/// Number of shards. Fixed: a site's shard is stored nowhere.
pub const SHARDS: i32 = 256;

/// The shard of a site.
pub fn shard_of(site_id: SiteId) -> i32 {
    // Fibonacci hashing spreads consecutive ids; the top byte is the shard.
    let hash = site_id.0.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    i32::from((hash >> 56) as u8)
}

/// The right to work for a shard, until somebody else takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    pub shard: i32,
    /// Moves with every change of owner; a commit under an older epoch changes nothing.
    pub epoch: i64,
    /// Last hit whose completions are reported.
    pub watermark: i64,
}

impl Store {
    /// Announces a process.
    pub async fn enlist(&self, node: NodeId, version: &str, roles: &str, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            INSERT INTO nodes (id, version, roles, started_at, seen_at) VALUES ($1, $2, $3, $4, $4)
            ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at";
        super::on!(self.writer(), pool => sqlx::query(SQL)
            .bind(node).bind(version).bind(roles).bind(now).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Takes over every shard that nobody holds.
    pub async fn claim_shards(&self, node: NodeId, ttl: Duration) -> Result<Vec<Lease>> {
        // One process, one owner: whoever held them before is gone.
        const SQLITE: &str = "
            UPDATE shards
            SET node_id = $1, epoch = epoch + 1, lease_until = 9223372036854775807
            WHERE node_id IS NULL OR node_id <> $1
            RETURNING shard, epoch, watermark";
        const POSTGRES: &str = "
            UPDATE shards
            SET node_id = $1, epoch = epoch + 1,
                lease_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $2
            WHERE node_id IS NULL OR lease_until < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
            RETURNING shard, epoch, watermark";
        Ok(match self.writer() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).bind(node).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).bind(node).bind(micros(ttl)).fetch_all(pool).await?,
        })
    }

    /// Prolongs the leases of `node` and says which ones it still holds.
    pub async fn renew_shards(&self, node: NodeId, ttl: Duration) -> Result<Vec<Lease>> {
        const POSTGRES: &str = "
            UPDATE shards
            SET lease_until = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $2
            WHERE node_id = $1
                AND lease_until >= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
            RETURNING shard, epoch, watermark";
        match self.writer() {
            Backend::Sqlite(_) => self.held_shards(node).await,
            Backend::Postgres(pool) => {
                Ok(sqlx::query_as(POSTGRES).bind(node).bind(micros(ttl)).fetch_all(pool).await?)
            }
        }
    }

    /// The last reported hit of every shard that is held.
    pub async fn watermarks(&self, node: NodeId) -> Result<Vec<(i32, i64)>> {
        const SQL: &str = "SELECT shard, watermark FROM shards WHERE node_id = $1";
        Ok(super::on!(self.reader(), pool => sqlx::query_as(SQL).bind(node).fetch_all(pool).await)?)
    }

    /// Notes that everything up to `watermark` was looked at, when nothing in it had to be recorded. It may be lost:
    /// the same hits are looked at again then, to the same end.
    pub async fn save_watermark(&self, node: NodeId, watermark: i64) -> Result<()> {
        const SQL: &str = "UPDATE shards SET watermark = $2 WHERE node_id = $1";
        super::on!(self.writer(), pool => sqlx::query(SQL).bind(node).bind(watermark).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// The leases `node` holds, whatever is left of them.
    pub async fn held_shards(&self, node: NodeId) -> Result<Vec<Lease>> {
        const SQL: &str = "SELECT shard, epoch, watermark FROM shards WHERE node_id = $1";
        Ok(super::on!(self.writer(), pool => sqlx::query_as(SQL).bind(node).fetch_all(pool).await)?)
    }

    /// Gives every shard back, so that the next node need not wait for a lease to run out.
    pub async fn release_shards(&self, node: NodeId) -> Result<()> {
        const SQL: &str = "UPDATE shards SET node_id = NULL, lease_until = 0 WHERE node_id = $1";
        super::on!(self.writer(), pool => sqlx::query(SQL).bind(node).execute(pool).await.map(drop))?;
        Ok(())
    }
}

impl Tx {
    /// Holds the leases until the transaction ends, or refuses.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when any of them belongs to another owner or epoch by now.
    pub(super) async fn hold(&mut self, node: NodeId, leases: &[Lease]) -> Result<()> {
        const SQLITE: &str = "
            SELECT count(*)
            FROM json_each($2) AS held
            JOIN shards ON shards.shard = held.value ->> 0 AND shards.epoch = held.value ->> 1
            WHERE shards.node_id = $1";
        // The share lock keeps a taker-over waiting until this commit is through.
        const POSTGRES: &str = "
            SELECT shards.shard
            FROM unnest($2::integer[], $3::bigint[]) AS held (shard, epoch)
            JOIN shards ON shards.shard = held.shard AND shards.epoch = held.epoch
            WHERE shards.node_id = $1
            FOR SHARE OF shards";
        let held = match &mut self.0 {
            Backend::Sqlite(tx) => {
                let pairs: Vec<_> = leases.iter().map(|lease| (lease.shard, lease.epoch)).collect();
                let text = serde_json::to_string(&pairs).expect("numbers serialise");
                let count: i64 = sqlx::query_scalar(SQLITE).bind(node).bind(text).fetch_one(&mut **tx).await?;
                usize::try_from(count).unwrap_or(0)
            }
            Backend::Postgres(tx) => {
                let shards: Vec<_> = leases.iter().map(|lease| lease.shard).collect();
                let epochs: Vec<_> = leases.iter().map(|lease| lease.epoch).collect();
                sqlx::query(POSTGRES).bind(node).bind(shards).bind(epochs).fetch_all(&mut **tx).await?.len()
            }
        };
        if held == leases.len() { Ok(()) } else { Err(StoreError::LeaseLost) }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
