//! The breaker of an endpoint: when most of what is sent to it fails, it is left alone for a while, then asked with a
//! single attempt. Deliveries wait meanwhile; none of them is charged with an attempt.
//!
//! The numbers are those of Convoy's breaker: ten results, 70 percent of them failures, within five minutes.

use std::time::Duration;

use super::time::Timestamp;

/// Results that are looked at, and how far back.
const WINDOW: Duration = Duration::from_secs(300);
const SLICES: usize = 10;
const FEWEST_RESULTS: u32 = 10;
const FAILING_PERCENT: u32 = 70;
/// How long it stays open the first time; doubled with every probe that fails.
pub const FIRST_PARK: Duration = Duration::from_secs(30);
pub const LONGEST_PARK: Duration = Duration::from_secs(3_600);

/// Whether an endpoint may be spoken to.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    state: State,
    /// Successes and failures by slice of the window, the slice they belong to beside them.
    slices: [(i64, u32, u32); SLICES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open(Parked),
    /// One attempt is on its way to find out.
    Probing(Duration),
}

/// An open breaker: until when, and how long that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    pub until: Timestamp,
    pub span: Duration,
}

/// What may be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Free,
    /// One attempt, and no other until it is over.
    Probe,
    /// A probe is on its way.
    Wait,
    /// Nothing before then.
    NotBefore(Timestamp),
}

/// What a result did to the breaker: worth remembering in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Opened(Parked),
    Closed,
}

impl Breaker {
    /// As the database remembers it.
    pub fn new(parked: Option<Parked>) -> Self {
        Self { state: parked.map_or(State::Closed, State::Open), slices: [(i64::MIN, 0, 0); SLICES] }
    }

    pub fn permission(&self, now: Timestamp) -> Permission {
        match self.state {
            State::Closed => Permission::Free,
            State::Open(parked) if parked.until > now => Permission::NotBefore(parked.until),
            State::Open(_) => Permission::Probe,
            State::Probing(_) => Permission::Wait,
        }
    }

    /// An attempt starts that [`Breaker::permission`] allowed.
    pub fn start(&mut self, now: Timestamp) {
        if let State::Open(parked) = self.state
            && parked.until <= now
        {
            self.state = State::Probing(parked.span);
        }
    }

    /// An attempt that was started came to nothing that tells about the endpoint: a failure of our own.
    pub fn forget_start(&mut self, now: Timestamp) {
        if let State::Probing(span) = self.state {
            self.state = State::Open(Parked { until: now, span });
        }
    }

    /// The result of an attempt.
    pub fn result(&mut self, success: bool, now: Timestamp) -> Option<Turn> {
        self.count(success, now);
        match (self.state, success) {
            // Whatever comes in while it is open was begun before, unless it is the probe.
            (State::Probing(_) | State::Open(_), true) => {
                *self = Self::new(None);
                Some(Turn::Closed)
            }
            (State::Probing(span), false) => Some(self.open((span * 2).min(LONGEST_PARK), now)),
            (State::Closed, false) if self.mostly_fails(now) => Some(self.open(FIRST_PARK, now)),
            (State::Closed, _) | (State::Open(_), false) => None,
        }
    }

    fn open(&mut self, span: Duration, now: Timestamp) -> Turn {
        let parked = Parked { until: now + span, span };
        *self = Self::new(Some(parked));
        Turn::Opened(parked)
    }

    fn count(&mut self, success: bool, now: Timestamp) {
        let slice = slice_of(now);
        let index = usize::try_from(slice.rem_euclid(SLICES as i64)).unwrap_or(0);
        if self.slices[index].0 != slice {
            self.slices[index] = (slice, 0, 0);
        }
        if success {
            self.slices[index].1 += 1;
        } else {
            self.slices[index].2 += 1;
        }
    }

    fn mostly_fails(&self, now: Timestamp) -> bool {
        let oldest = slice_of(now) - SLICES as i64;
        let recent = self.slices.iter().filter(|(slice, ..)| *slice > oldest);
        let (successes, failures) = recent.fold((0, 0), |sum, (_, ok, failed)| (sum.0 + ok, sum.1 + failed));
        let results: u32 = successes + failures;
        results >= FEWEST_RESULTS && failures * 100 >= results * FAILING_PERCENT
    }
}

fn slice_of(now: Timestamp) -> i64 {
    let span = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX) / SLICES as i64;
    now.micros().div_euclid(span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000) + Duration::from_secs(second)
    }

    fn failed_at(seconds: impl Iterator<Item = u64>) -> (Breaker, Vec<Turn>) {
        let mut breaker = Breaker::new(None);
        let turns = seconds.filter_map(|second| breaker.result(false, at(second))).collect();
        (breaker, turns)
    }

    #[test]
    fn ten_failures_in_five_minutes_open_it() {
        let (breaker, turns) = failed_at(0..10);
        assert_eq!(turns, [Turn::Opened(Parked { until: at(39), span: FIRST_PARK })]);
        assert_eq!(breaker.permission(at(38)), Permission::NotBefore(at(39)));
        assert_eq!(breaker.permission(at(39)), Permission::Probe);
        let (breaker, turns) = failed_at((0..9).map(|second| second * 60));
        assert_eq!((breaker.permission(at(600)), turns.len()), (Permission::Free, 0), "old failures are forgotten");
    }

    #[test]
    fn three_successes_in_ten_keep_it_closed() {
        for (successes, opens) in [(3, true), (4, false)] {
            let mut breaker = Breaker::new(None);
            for second in 0..10 {
                breaker.result(second < successes, at(second));
            }
            assert_eq!(breaker.permission(at(10)) != Permission::Free, opens, "{successes} successes");
        }
    }

    #[test]
    fn one_probe_decides() {
        let (mut breaker, _) = failed_at(0..10);
        breaker.start(at(40));
        assert_eq!(breaker.permission(at(40)), Permission::Wait);
        assert_eq!(breaker.result(false, at(41)), Some(Turn::Opened(Parked { until: at(101), span: FIRST_PARK * 2 })));
        breaker.start(at(101));
        assert_eq!(breaker.result(true, at(102)), Some(Turn::Closed));
        assert_eq!(breaker.permission(at(102)), Permission::Free);
        assert_eq!(breaker.result(false, at(103)), None, "what was before does not count any more");
    }

    #[test]
    fn a_probe_that_told_nothing_is_repeated() {
        let (mut breaker, _) = failed_at(0..10);
        breaker.start(at(40));
        breaker.forget_start(at(41));
        assert_eq!(breaker.permission(at(41)), Permission::Probe);
    }

    proptest! {
        /// However long an outage lasts, the spans double up to an hour, and each is kept.
        #[test]
        fn an_outage_is_asked_ever_less_often(probes in 1usize..20, delay in 0u64..100) {
            let (mut breaker, _) = failed_at(0..10);
            let mut now = at(10);
            let mut expected = FIRST_PARK;
            for _ in 0..probes {
                let Permission::NotBefore(until) = breaker.permission(now) else { panic!() };
                now = until + Duration::from_secs(delay);
                breaker.start(now);
                expected = (expected * 2).min(LONGEST_PARK);
                prop_assert_eq!(
                    breaker.result(false, now),
                    Some(Turn::Opened(Parked { until: now + expected, span: expected }))
                );
            }
        }
    }
}
