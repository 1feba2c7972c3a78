//! What triggers with a batch have counted and not told yet. Every look adds rows of its own, so that two nodes that count for
//! the same trigger never wait for each other; whoever tells takes all of them away in the transaction that records the event.

use std::collections::HashMap;

use sqlx::FromRow;

use super::outbox::Fired;
use super::rows::{MOST_ROWS, Rows, values};
use super::{Backend, Result, Store, Tx, on};
use crate::domain::ids::{EventId, GoalId, TriggerId};
use crate::domain::time::Timestamp;

/// Batches that are settled in one transaction at most.
pub const SETTLED_AT_ONCE: usize = 500;

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

/// A row of a batch.
#[derive(Debug, FromRow)]
pub struct Part {
    trigger_id: TriggerId,
    goal_id: GoalId,
    pub moment: String,
    /// What is known of it.
    pub part: String,
    inserted_at: Timestamp,
    count: i64,
}

impl From<Part> for Gathered {
    fn from(part: Part) -> Self {
        let Part { trigger_id, goal_id, moment, part, count, .. } = part;
        Self { trigger_id, goal_id: (goal_id != NO_GOAL).then_some(goal_id), moment, count, part }
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

    /// Takes the parts of these batches, [`SETTLED_AT_ONCE`] at most. They are back unless [`Taken::settle`] is called.
    pub async fn take_batches(&self, batches: &[Batched]) -> Result<Taken> {
        let mut tx = self.begin().await?;
        let parts = tx.take_parts(batches).await?;
        Ok(Taken { tx, parts })
    }

    /// Forgets what was counted for triggers that are gone.
    pub async fn operator_prune_gathered(&self) -> Result<u64> {
        const SQL: &str = "
            DELETE FROM gathered
            WHERE NOT EXISTS (SELECT 1 FROM triggers WHERE triggers.id = gathered.trigger_id)";
        Ok(on!(self.writer(), pool => sqlx::query(SQL).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

/// Batches in the hands of whoever settles them.
pub struct Taken {
    tx: Tx,
    parts: HashMap<(TriggerId, GoalId), Vec<Part>>,
}

impl Taken {
    /// The parts of a batch, oldest first. `None` when somebody else was faster.
    pub fn parts_of(&self, batch: &Batched) -> Option<&[Part]> {
        self.parts.get(&(batch.trigger_id, batch.goal_id)).map(Vec::as_slice)
    }

    /// Does with the batches what is said of each, all in one transaction. Answers the events that were recorded, and which of
    /// them are owed now. A batch whose event is not wanted now, since its webhook is paused or its trigger was edited, waits on.
    pub async fn settle(mut self, fates: Vec<(Batched, Fate)>, now: Timestamp) -> Result<(Vec<Fired>, Vec<EventId>)> {
        let mut told = Vec::new();
        let mut waiting = HashMap::new();
        for (batch, fate) in fates {
            let Some(parts) = self.parts.remove(&(batch.trigger_id, batch.goal_id)) else { continue };
            match fate {
                Fate::Dropped => {}
                Fate::Folded(part) => {
                    let (moment, first_at) = (parts[0].moment.clone(), parts[0].inserted_at);
                    let count = parts.iter().map(|part| part.count).sum();
                    let (trigger_id, goal_id) = (batch.trigger_id, batch.goal_id());
                    self.tx.gather(&[Gathered { trigger_id, goal_id, moment, count, part }], first_at).await?;
                }
                Fate::Told(fired) => {
                    waiting.insert(fired.event.id, parts);
                    told.push(*fired);
                }
            }
        }
        let inserted = self.tx.insert(&told, now).await?;
        let mut recorded = Vec::with_capacity(told.len());
        for fired in told {
            if inserted.recorded.contains(&fired.event.id) {
                recorded.push(fired);
                continue;
            }
            for part in waiting.remove(&fired.event.id).into_iter().flatten() {
                let inserted_at = part.inserted_at;
                self.tx.gather(&[part.into()], inserted_at).await?;
            }
        }
        self.tx.commit().await?;
        Ok((recorded, inserted.owed))
    }
}

impl Tx {
    /// Adds to batches. What was added before under the same name is not added again.
    pub(super) async fn gather(&mut self, gathered: &[Gathered], now: Timestamp) -> Result<()> {
        static SQLITE: Rows<6> = Rows::new(
            "INSERT OR FAIL INTO gathered (trigger_id, goal_id, moment, count, part, inserted_at) SELECT * FROM",
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
                    let insert = SQLITE.query(rows, |row| {
                        let goal_id = row.goal_id.unwrap_or(NO_GOAL);
                        values![&row.trigger_id, goal_id, row.moment.as_str(), row.count, row.part.as_str(), now]
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

    /// Takes away what was gathered for these batches.
    async fn take_parts(&mut self, batches: &[Batched]) -> Result<HashMap<(TriggerId, GoalId), Vec<Part>>> {
        static SQLITE: Rows<2> = Rows::new(
            "DELETE FROM gathered WHERE (trigger_id, goal_id) IN",
            "RETURNING trigger_id, goal_id, moment, part, inserted_at, count",
        );
        const POSTGRES: &str = "
            DELETE FROM gathered
            USING unnest($1::uuid[], $2::bigint[]) AS ours (trigger_id, goal_id)
            WHERE gathered.trigger_id = ours.trigger_id AND gathered.goal_id = ours.goal_id
            RETURNING gathered.trigger_id, gathered.goal_id, moment, part, inserted_at, count";
        let parts = match &mut self.0 {
            Backend::Sqlite(tx) => {
                let mut parts = Vec::new();
                for batches in batches.chunks(MOST_ROWS) {
                    let take = SQLITE.query(batches, |batch| values![&batch.trigger_id, batch.goal_id]);
                    for row in take.fetch_all(&mut **tx).await? {
                        parts.push(Part::from_row(&row)?);
                    }
                }
                parts
            }
            Backend::Postgres(tx) => {
                sqlx::query_as(POSTGRES)
                    .bind(batches.iter().map(|batch| batch.trigger_id.0).collect::<Vec<_>>())
                    .bind(batches.iter().map(|batch| batch.goal_id.0).collect::<Vec<_>>())
                    .fetch_all(&mut **tx)
                    .await?
            }
        };
        let mut taken: HashMap<_, Vec<Part>> = HashMap::new();
        for part in parts {
            taken.entry((part.trigger_id, part.goal_id)).or_default().push(part);
        }
        for parts in taken.values_mut() {
            parts.sort_by(|a, b| (a.inserted_at, &a.moment).cmp(&(b.inserted_at, &b.moment)));
        }
        Ok(taken)
    }
}
