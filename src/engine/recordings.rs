//! Steps of the evaluator on their way into the database: while one is recorded the next is decided.

use std::time::Duration;

use metrics::{counter, histogram};
use tokio::task::JoinSet;
use tracing::warn;

use super::firing::Firing;
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::store::outbox::Step;
use crate::store::{Store, StoreError};

/// A step that takes so long to record is told of.
const SLOW: Duration = Duration::from_secs(1);

/// What became of one of them.
type Ended = Result<(), StoreError>;

pub struct Recordings {
    store: Store,
    firing: Firing,
    clock: Clock,
    /// One at most: each moves the watermark from where the one before it left it.
    under_way: JoinSet<Ended>,
}

impl Recordings {
    pub fn new(store: Store, firing: Firing, clock: Clock) -> Self {
        Self { store, firing, clock, under_way: JoinSet::new() }
    }

    /// Records a step and hands over what is owed of it, once the one before it is over. `started`: when it began to be
    /// looked for. Nothing is decided while what triggers remember is moved.
    ///
    /// # Errors
    /// What befell the one before it, or this one if that was waited for.
    pub async fn begin(&mut self, step: Step, now: Timestamp, started: Duration) -> Ended {
        self.over().await?;
        let waits = step.moves_memory();
        let (store, firing, clock) = (self.store.clone(), self.firing.clone(), self.clock.clone());
        self.under_way.spawn(async move {
            let began = clock.monotonic();
            let (fired, owed) = store.record(step, now).await?;
            let took = clock.monotonic().saturating_sub(began);
            if took >= SLOW {
                warn!(
                    "The database took {:.1} s to record what was noticed: its disk is slow, or somebody else has it",
                    took.as_secs_f64()
                );
            }
            firing.announce(fired, owed).await;
            looked(clock.monotonic().saturating_sub(started));
            Ok(())
        });
        if waits { self.over().await } else { Ok(()) }
    }

    /// Waits for the one that is under way, if any is.
    ///
    /// # Errors
    /// What befell it.
    pub async fn over(&mut self) -> Ended {
        match self.under_way.join_next().await {
            Some(ended) => ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
            None => Ok(()),
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
