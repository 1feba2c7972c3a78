//! How long the evaluator rests between two looks at new hits.
//!
//! Every look is a commit, so looking costs; not looking makes everybody wait. A short rest is right unless something is
//! completed again and again: then those of a longer one share an event, and no endpoint is owed more than it takes.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::ids::TriggerId;
use crate::domain::time::Timestamp;

/// The shortest rest.
const SHORT: Duration = Duration::from_millis(5);
/// The longest, and the one while something is completed often.
const LONG: Duration = Duration::from_millis(50);
/// How many events of one trigger within a [`WINDOW`] are often. Twice that and the 20 a second of long rests stay below the
/// 50 a second that an endpoint is sent by default.
const OFTEN: u32 = 15;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Rhythm {
    rest: Duration,
    /// Events of each trigger since the window began.
    fired: HashMap<TriggerId, u32>,
    began_at: Timestamp,
}

impl Rhythm {
    pub fn new(now: Timestamp) -> Self {
        Self { rest: SHORT, fired: HashMap::new(), began_at: now }
    }

    /// From the end of the last look to the next.
    pub fn rest(&self) -> Duration {
        self.rest
    }

    /// A look is over that took so long. It rests for as long, so that half of a core is the most it ever takes.
    pub fn looked(&mut self, fired: impl Iterator<Item = TriggerId>, now: Timestamp, took: Duration) {
        if now.since(self.began_at) >= WINDOW {
            self.began_at = now;
            self.fired.clear();
        }
        for trigger_id in fired {
            *self.fired.entry(trigger_id).or_default() += 1;
        }
        let often = self.fired.values().any(|count| *count >= OFTEN);
        self.rest = if often { LONG } else { took.clamp(SHORT, LONG) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn trigger(number: u128) -> TriggerId {
        TriggerId(Uuid::from_u128(number))
    }

    #[test]
    fn many_triggers_do_not_make_it_slow_and_one_that_fires_often_does() {
        let mut rhythm = Rhythm::new(NOW);
        rhythm.looked((0..1_000).map(trigger), NOW, Duration::ZERO);
        assert_eq!(rhythm.rest(), SHORT);
        for _ in 0..OFTEN {
            rhythm.looked([trigger(1)].into_iter(), NOW, Duration::ZERO);
        }
        assert_eq!(rhythm.rest(), LONG);
        rhythm.looked(std::iter::empty(), NOW + WINDOW, Duration::ZERO);
        assert_eq!(rhythm.rest(), SHORT);
    }

    #[test]
    fn it_rests_as_long_as_it_worked_within_bounds() {
        let mut rhythm = Rhythm::new(NOW);
        for (took, rest) in [(0, 5), (20, 20), (5_000, 50)] {
            rhythm.looked(std::iter::empty(), NOW, Duration::from_millis(took));
            assert_eq!(rhythm.rest(), Duration::from_millis(rest));
        }
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
                let took = Duration::from_millis(took);
                now = now + took;
                rhythm.looked([trigger(1)].into_iter(), now, took);
            }
            for (index, moment) in moments.iter().enumerate() {
                let within = moments[index..].iter().take_while(|later| later.since(*moment) < WINDOW).count();
                prop_assert!(within <= 50, "{} in a second", within);
            }
        }
    }
}
