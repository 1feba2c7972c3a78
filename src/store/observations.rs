//! What was made of traffic that others write: rows without an id, asked for again and again. Which of them were reported,
//! and how far each shard was looked at, commits with the events, under the leases of the shards.

use sqlx::FromRow;

use super::outbox::Step;
use super::rows::{MOST_ROWS, Rows, values};
use super::shards::{Lease, held_sql};
use super::{Backend, Result, Store, StoreError, Tx, on};
use crate::domain::ids::{EventId, NodeId};
use crate::domain::time::Timestamp;

/// A row that was reported, and how many like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Reported {
    pub shard: i32,
    pub at: Timestamp,
    /// A hash of what is in the row.
    pub identity: i64,
    pub count: i32,
}

/// A span of a shard's traffic that nobody looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Gap {
    pub shard: i32,
    pub from_at: Timestamp,
    pub until_at: Timestamp,
}

/// What a step looked at.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// The shards, as this node holds them.
    pub leases: Vec<Lease>,
    /// Up to when, where that is to be saved.
    pub until: Option<Timestamp>,
    /// The configuration it knew.
    pub catalog_version: i64,
    /// Rows that are reported with this step, with their new counts.
    pub reported: Vec<Reported>,
    /// Spans that nobody will look at any more.
    pub gaps: Vec<Gap>,
}

impl Store {
    /// Commits events, queue rows, trigger states, and what they were made of together. Answers which events are owed now,
    /// as [`Store::record`] does.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another node works for one of the shards by now, [`StoreError::Overtaken`] when the
    /// configuration or a trigger's state is not what the step knew. Nothing was recorded then.
    pub async fn observe(&self, node: NodeId, step: &Step, looked: &Looked, now: Timestamp) -> Result<Vec<EventId>> {
        let mut tx = self.begin_hot().await?;
        let owed = tx.insert_and_enqueue(&step.fired, now).await?;
        for state in &step.states {
            tx.save_state(state, now).await?;
        }
        tx.gather(&step.gathered, now).await?;
        tx.report(&looked.reported).await?;
        for gap in &looked.gaps {
            tx.note_gap(gap).await?;
        }
        // Last, so that those who write outcomes of these shards wait for no more than the commit.
        tx.look_at(node, looked).await?;
        crate::failpoint::hit("evaluator.before_commit");
        tx.commit().await?;
        crate::failpoint::hit("evaluator.after_commit");
        Ok(owed)
    }

    /// Up to when each shard of a node was looked at, by whomever.
    pub async fn looked_until(&self, node: NodeId) -> Result<Vec<(i32, Option<Timestamp>)>> {
        const SQL: &str = "SELECT shard, looked_until FROM shards WHERE node_id = $1";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL).bind(node).fetch_all(pool).await)?)
    }

    /// Up to when a shard was looked at, by whomever; saved at least every half minute.
    pub async fn operator_looked_until(&self, shard: i32) -> Result<Option<Timestamp>> {
        const SQL: &str = "SELECT looked_until FROM shards WHERE shard = $1";
        Ok(on!(self.reader(), pool => sqlx::query_scalar(SQL).bind(shard).fetch_one(pool).await)?)
    }

    /// What was reported of a shard since `since`.
    pub async fn operator_reported(&self, shard: i32, since: Timestamp) -> Result<Vec<Reported>> {
        const SQL: &str = "SELECT shard, at, identity, count FROM reported WHERE shard = $1 AND at >= $2";
        Ok(on!(self.writer(), pool => sqlx::query_as(SQL).bind(shard).bind(since).fetch_all(pool).await)?)
    }

    /// Forgets what was reported of these shards before `before`, and gaps that ended before `gaps_before`.
    pub async fn operator_forget_reported(
        &self,
        shards: &[i32],
        before: Timestamp,
        gaps_before: Timestamp,
    ) -> Result<u64> {
        const SQLITE: &str = "
            DELETE FROM reported WHERE shard IN (SELECT value FROM json_each($1)) AND at < $2";
        const POSTGRES: &str = "
            DELETE FROM reported WHERE shard = ANY ($1) AND at < $2";
        const GAPS: &str = "DELETE FROM gaps WHERE until_at < $1";
        on!(self.writer(), pool => sqlx::query(GAPS).bind(gaps_before).execute(pool).await.map(drop))?;
        Ok(match self.writer() {
            Backend::Sqlite(pool) => {
                let list = serde_json::to_string(shards).expect("numbers serialise");
                sqlx::query(SQLITE).bind(list).bind(before).execute(pool).await?.rows_affected()
            }
            Backend::Postgres(pool) => {
                sqlx::query(POSTGRES).bind(shards).bind(before).execute(pool).await?.rows_affected()
            }
        })
    }

    /// Spans of a shard that nobody looked at, newest first.
    pub async fn gaps(&self, shard: i32) -> Result<Vec<Gap>> {
        const SQL: &str = "
            SELECT shard, from_at, until_at FROM gaps WHERE shard = $1 ORDER BY from_at DESC LIMIT 100";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(shard).fetch_all(pool).await)?)
    }
}

impl Tx {
    /// Moves the shards on where that is to be saved, if they are all still this node's and the configuration is what the step
    /// knew. Their rows stay locked until the commit, which keeps a taker-over waiting.
    async fn look_at(&mut self, node: NodeId, looked: &Looked) -> Result<()> {
        const LOCK_POSTGRES: &str = held_sql!("SELECT shards.shard", "FOR UPDATE");
        const SQLITE: &str = "
            UPDATE shards SET looked_until = $2 WHERE shard IN (SELECT value FROM json_each($1))";
        const POSTGRES: &str = "
            UPDATE shards SET looked_until = $2 WHERE shard = ANY ($1)";
        let shards: Vec<_> = looked.leases.iter().map(|lease| lease.shard).collect();
        self.hold(node, &looked.leases).await?;
        if let Backend::Postgres(tx) = &mut self.0 {
            let epochs: Vec<_> = looked.leases.iter().map(|lease| lease.epoch).collect();
            let held = sqlx::query(LOCK_POSTGRES).bind(node).bind(&shards).bind(epochs).fetch_all(&mut **tx).await?;
            if held.len() != shards.len() {
                return Err(StoreError::LeaseLost);
            }
        }
        if let Some(until) = looked.until {
            match &mut self.0 {
                Backend::Sqlite(tx) => {
                    let list = serde_json::to_string(&shards).expect("numbers serialise");
                    sqlx::query(SQLITE).bind(list).bind(until).execute(&mut **tx).await?;
                }
                Backend::Postgres(tx) => {
                    sqlx::query(POSTGRES).bind(shards).bind(until).execute(&mut **tx).await?;
                }
            }
        }
        if self.catalog_version().await? == looked.catalog_version { Ok(()) } else { Err(StoreError::Overtaken) }
    }

    async fn note_gap(&mut self, gap: &Gap) -> Result<()> {
        const SQL: &str = "
            INSERT INTO gaps (shard, from_at, until_at)
            VALUES ($1, $2, $3)
            ON CONFLICT (shard, from_at) DO UPDATE SET until_at = excluded.until_at";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(gap.shard).bind(gap.from_at).bind(gap.until_at).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    async fn report(&mut self, reported: &[Reported]) -> Result<()> {
        static SQLITE: Rows<4> = Rows::new(
            "INSERT OR FAIL INTO reported (shard, at, identity, count) SELECT * FROM",
            "WHERE column1 IS NOT NULL ON CONFLICT (shard, at, identity) DO UPDATE SET count = excluded.count",
        );
        const POSTGRES: &str = "
            INSERT INTO reported (shard, at, identity, count)
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::integer[])
            ON CONFLICT (shard, at, identity) DO UPDATE SET count = excluded.count";
        if reported.is_empty() {
            return Ok(());
        }
        match &mut self.0 {
            Backend::Sqlite(tx) => {
                for rows in reported.chunks(MOST_ROWS) {
                    let insert = SQLITE.query(rows, |row| values![row.shard, row.at, row.identity, row.count]);
                    insert.execute(&mut **tx).await?;
                }
            }
            Backend::Postgres(tx) => {
                sqlx::query(POSTGRES)
                    .bind(reported.iter().map(|row| row.shard).collect::<Vec<_>>())
                    .bind(reported.iter().map(|row| row.at.micros()).collect::<Vec<_>>())
                    .bind(reported.iter().map(|row| row.identity).collect::<Vec<_>>())
                    .bind(reported.iter().map(|row| row.count).collect::<Vec<_>>())
                    .execute(&mut **tx)
                    .await?;
            }
        }
        Ok(())
    }
}
