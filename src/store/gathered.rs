//! What triggers with a batch have counted and not told yet. Every look adds rows of its own, so that two nodes that count for
//! the same trigger never wait for each other; whoever tells takes all of them away in the transaction that records the event.

use sqlx::FromRow;

use super::outbox::Fired;
use super::rows::{MOST_ROWS, Rows};
use super::{Backend, Result, Store, Tx, on};
use crate::domain::ids::{EventId, GoalId, TriggerId};
use crate::domain::time::Timestamp;

/// What one look counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    pub trigger_id: TriggerId,
    /// Absent for a custom event.
    pub goal_id: Option<GoalId>,
    /// Names the rows that were counted; unique per trigger and goal.
    pub moment: String,
    pub count: i64,
    /// What is known of them, for the event.
    pub part: String,
}

/// A batch that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Batched {
    pub trigger_id: TriggerId,
    goal_id: GoalId,
    pub count: i64,
    pub parts: i64,
    pub first_at: Timestamp,
}

impl Batched {
    pub fn goal_id(&self) -> Option<GoalId> {
        (self.goal_id != NO_GOAL).then_some(self.goal_id)
    }
}

/// Stands for "no goal": ids begin at one.
const NO_GOAL: GoalId = GoalId(0);

/// What is to become of the parts of a batch.
pub enum Fate {
    Told(Box<Fired>),
    /// Into one: its part.
    Folded(String),
    /// Nobody wants to know any more.
    Dropped,
}

impl Store {
    /// Batches that wait.
    pub async fn operator_batches(&self) -> Result<Vec<Batched>> {
        const SQL: &str = "
            SELECT trigger_id, goal_id, CAST(sum(count) AS BIGINT) AS count, count(*) AS parts,
                min(inserted_at) AS first_at
            FROM gathered
            GROUP BY trigger_id, goal_id";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }

    /// Takes the parts of a batch, oldest first and each with its name, and does with them what `fate` says, all in one
    /// transaction. Answers the event, if one was recorded, and whether it is owed now. A batch whose event is not wanted
    /// now, since its webhook is paused or its trigger was edited, waits on.
    pub async fn settle_batch(
        &self,
        batch: &Batched,
        fate: impl FnOnce(&[(String, String)]) -> Fate,
        now: Timestamp,
    ) -> Result<Option<(Fired, Vec<EventId>)>> {
        const TAKE: &str = "
            DELETE FROM gathered
            WHERE trigger_id = $1 AND goal_id = $2
            RETURNING moment, part, inserted_at, count";
        let mut tx = self.begin().await?;
        let mut rows: Vec<(String, String, Timestamp, i64)> = on!(&mut tx.0, tx => sqlx::query_as(TAKE)
            .bind(batch.trigger_id).bind(batch.goal_id).fetch_all(&mut **tx).await)?;
        rows.sort_by(|a, b| (a.2, &a.0).cmp(&(b.2, &b.0)));
        let Some((first, _, first_at, _)) = rows.first().cloned() else {
            // Somebody else was faster.
            return Ok(None);
        };
        let count = rows.iter().map(|(.., count)| count).sum();
        let parts: Vec<_> = rows.into_iter().map(|(moment, part, ..)| (moment, part)).collect();
        match fate(&parts) {
            Fate::Dropped => {
                tx.commit().await?;
                Ok(None)
            }
            Fate::Folded(part) => {
                let (trigger_id, goal_id) = (batch.trigger_id, batch.goal_id());
                let folded = Gathered { trigger_id, goal_id, moment: first, count, part };
                tx.gather(&[folded], first_at).await?;
                tx.commit().await?;
                Ok(None)
            }
            Fate::Told(fired) => {
                let fired = *fired;
                let owed = tx.insert_and_enqueue(std::slice::from_ref(&fired), now).await?;
                // One of a shadow trigger is recorded and never owed.
                if owed.is_empty() && !tx.is_recorded(fired.event.id).await? {
                    return Ok(None);
                }
                tx.commit().await?;
                Ok(Some((fired, owed)))
            }
        }
    }

    /// Forgets what was counted for triggers that are gone.
    pub async fn operator_prune_gathered(&self) -> Result<u64> {
        const SQL: &str = "
            DELETE FROM gathered
            WHERE NOT EXISTS (SELECT 1 FROM triggers WHERE triggers.id = gathered.trigger_id)";
        Ok(on!(self.writer(), pool => sqlx::query(SQL).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

impl Tx {
    /// Adds to batches. What was added before under the same name is not added again.
    pub(super) async fn gather(&mut self, gathered: &[Gathered], now: Timestamp) -> Result<()> {
        static SQLITE: Rows = Rows::new(
            "INSERT OR FAIL INTO gathered (trigger_id, goal_id, moment, count, part, inserted_at) SELECT * FROM",
            6,
            "WHERE column1 IS NOT NULL ON CONFLICT (trigger_id, goal_id, moment) DO NOTHING",
        );
        const POSTGRES: &str = "
            INSERT INTO gathered (trigger_id, goal_id, moment, count, part, inserted_at)
            SELECT trigger_id, goal_id, moment, count, part, $6
            FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[])
                AS ours (trigger_id, goal_id, moment, count, part)
            ON CONFLICT (trigger_id, goal_id, moment) DO NOTHING";
        if gathered.is_empty() {
            return Ok(());
        }
        match &mut self.0 {
            Backend::Sqlite(tx) => {
                for rows in gathered.chunks(MOST_ROWS) {
                    let insert = SQLITE.query(rows, |query, row| {
                        query
                            .bind(row.trigger_id)
                            .bind(row.goal_id.unwrap_or(NO_GOAL))
                            .bind(row.moment.as_str())
                            .bind(row.count)
                            .bind(row.part.as_str())
                            .bind(now)
                    });
                    insert.execute(&mut **tx).await?;
                }
            }
            Backend::Postgres(tx) => {
                let rows = || gathered.iter();
                sqlx::query(POSTGRES)
                    .bind(rows().map(|row| row.trigger_id.0).collect::<Vec<_>>())
                    .bind(rows().map(|row| row.goal_id.unwrap_or(NO_GOAL).0).collect::<Vec<_>>())
                    .bind(rows().map(|row| row.moment.as_str()).collect::<Vec<_>>())
                    .bind(rows().map(|row| row.count).collect::<Vec<_>>())
                    .bind(rows().map(|row| row.part.as_str()).collect::<Vec<_>>())
                    .bind(now)
                    .execute(&mut **tx)
                    .await?;
            }
        }
        Ok(())
    }

    async fn is_recorded(&mut self, id: EventId) -> Result<bool> {
        const SQL: &str = "SELECT count(*) FROM events WHERE id = $1";
        let count: i64 = on!(&mut self.0, tx => sqlx::query_scalar(SQL).bind(id).fetch_one(&mut **tx).await)?;
        Ok(count > 0)
    }
}
