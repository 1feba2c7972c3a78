//! How long the evaluator rests between two looks at new hits.
//!
//! Looking costs; not looking makes everybody wait. A look that found something to record needs no rest, since the next one
//! waits for commits anyway; one that found nothing has a short one, or it would be made for every hit. When one goal is
//! completed again and again, those of a longer rest share an event, and no endpoint is owed more than it takes.

use std::time::Duration;

use foldhash::HashMap;

use super::catalog::Counted;
use crate::domain::time::Timestamp;

/// The rest when nothing was completed.
const SHORT: Duration = Duration::from_millis(1);
/// The one while something is completed often.
const LONG: Duration = Duration::from_millis(50);
/// How many events of one trigger and goal within a [`WINDOW`] are often. Twice that and the 20 a second of long rests stay
/// below the 50 a second that an endpoint is sent by default.
const OFTEN: u32 = 15;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Rhythm {
    rest: Duration,
    /// Events of each trigger and goal since the window began.
    fired: HashMap<Counted, u32>,
    /// Whether any of them was often.
    often: bool,
    began_at: Timestamp,
}

impl Rhythm {
    pub fn new(now: Timestamp) -> Self {
        Self { rest: SHORT, fired: HashMap::default(), often: false, began_at: now }
    }

    /// From the end of the last look to the next.
    pub fn rest(&self) -> Duration {
        self.rest
    }

    /// A look is over.
    pub fn looked(&mut self, fired: impl Iterator<Item = Counted>, now: Timestamp) {
        if now.since(self.began_at) >= WINDOW {
            self.began_at = now;
            self.fired.clear();
            self.often = false;
        }
        let mut recorded = false;
        for what in fired {
            recorded = true;
            let count = self.fired.entry(what).or_default();
            *count += 1;
            self.often |= *count >= OFTEN;
        }
        self.rest = match (self.often, recorded) {
            (true, _) => LONG,
            (false, true) => Duration::ZERO,
            (false, false) => SHORT,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{GoalId, TriggerId};

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn completion(trigger: u128) -> Counted {
        (TriggerId(Uuid::from_u128(trigger)), Some(GoalId(1)))
    }

    #[test]
    fn many_triggers_do_not_make_it_slow_and_one_that_fires_often_does() {
        let mut rhythm = Rhythm::new(NOW);
        rhythm.looked((0..1_000).map(completion), NOW);
        assert_eq!(rhythm.rest(), Duration::ZERO);
        for _ in 0..OFTEN {
            rhythm.looked([completion(1)].into_iter(), NOW);
        }
        assert_eq!(rhythm.rest(), LONG);
        rhythm.looked(std::iter::empty(), NOW + WINDOW);
        assert_eq!(rhythm.rest(), SHORT);
    }

    proptest! {
        /// However fast hits come, one trigger fires less often than its endpoint is spoken to by default.
        #[test]
        fn no_trigger_owes_more_than_its_endpoint_takes(steps in prop::collection::vec(0u64..10, 1..2_000)) {
            let (mut rhythm, mut now) = (Rhythm::new(NOW), NOW);
            let mut moments = Vec::new();
            for took in steps {
                now = now + rhythm.rest();
                moments.push(now);
                now = now + Duration::from_millis(took);
                rhythm.looked([completion(1)].into_iter(), now);
            }
            for (index, moment) in moments.iter().enumerate() {
                let within = moments[index..].iter().take_while(|later| later.since(*moment) < WINDOW).count();
                prop_assert!(within <= 50, "{} in a second", within);
            }
        }
    }
}
