//! Steps of the evaluator on their way into the database. While one is written the next is decided, and on PostgreSQL, which
//! writes for several at once, written too. They are over in the order in which they began, or not at all.

use std::time::Duration;

use metrics::{counter, histogram};
use tokio::task::JoinSet;

use super::firing::Firing;
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::outbox::{Step, Turn};
use crate::store::{Store, StoreError};

/// SQLite has one writer.
const AT_ONCE_SQLITE: usize = 1;
/// One writes rows while the one before it commits.
const AT_ONCE_POSTGRES: usize = 2;

/// What became of one of them.
type Ended = Result<(), StoreError>;

pub struct Recordings {
    store: Store,
    firing: Firing,
    clock: Clock,
    at_once: usize,
    under_way: JoinSet<Ended>,
    /// Of the next.
    turn: Turn,
}

impl Recordings {
    pub fn new(store: Store, firing: Firing, clock: Clock) -> Self {
        let at_once = if store.is_sqlite() { AT_ONCE_SQLITE } else { AT_ONCE_POSTGRES };
        Self { store, firing, clock, at_once, under_way: JoinSet::new(), turn: Turn::first() }
    }

    /// Records a step and hands over what is owed of it, once there is room. `started`: when it began to be looked for.
    /// Nothing else is under way while what triggers remember is moved.
    ///
    /// # Errors
    /// What befell one before it, or this one if that was waited for.
    pub async fn begin(&mut self, step: Step, now: Timestamp, started: Duration) -> Ended {
        let alone = step.moves_memory();
        if alone {
            self.all_over().await?;
        }
        self.room().await?;
        let next = self.turn.next();
        let turn = std::mem::replace(&mut self.turn, next);
        let (store, firing, clock) = (self.store.clone(), self.firing.clone(), self.clock.clone());
        self.under_way.spawn(async move {
            let owed = store.record_in_turn(&step, now, turn).await?;
            firing.announce(step.fired, owed).await;
            looked(clock.monotonic().saturating_sub(started));
            Ok(())
        });
        if alone { self.all_over().await } else { Ok(()) }
    }

    /// Waits until another one can begin.
    ///
    /// # Errors
    /// What befell one that was waited for.
    pub async fn room(&mut self) -> Ended {
        while self.under_way.len() >= self.at_once {
            self.one_over().await?;
        }
        Ok(())
    }

    /// Waits for one of them, if any is under way.
    ///
    /// # Errors
    /// What befell it.
    pub async fn one_over(&mut self) -> Ended {
        match self.under_way.join_next().await {
            Some(ended) => ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
            None => Ok(()),
        }
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// What befell one of them; the others may be under way.
    pub async fn all_over(&mut self) -> Ended {
        while !self.is_empty() {
            self.one_over().await?;
        }
        Ok(())
    }

    /// Waits for all of them, whatever becomes of them.
    pub async fn give_up(&mut self) {
        while !self.is_empty() {
            let _ = self.one_over().await;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }
}

/// Counts a step that is over.
pub fn looked(took: Duration) {
    counter!("pulsehook_evaluations_total", "result" => "ok").increment(1);
    histogram!("pulsehook_evaluation_seconds").record(took.as_secs_f64());
}
