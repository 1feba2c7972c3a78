//! How fast one endpoint is spoken to: how many attempts at once, how many a second, and not at all while its breaker is
//! open or it asked for time. Time is an argument; nothing here waits.

use std::time::Duration;

use super::breaker::{Breaker, Parked, Permission, Turn};
use super::time::Timestamp;

/// Attempts at once that an endpoint begins with, and after an outage begins with again.
const FIRST_LIMIT: u32 = 2;
/// Part of an endpoint's rate that resends may take.
const RESEND_SHARE: f64 = 0.1;
/// What resends get where the rate is not limited, a second.
const RESENDS_UNLIMITED: f64 = 100.0;

/// What an endpoint may be asked at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Attempts under way at once.
    pub in_flight: u32,
    /// Attempts a second; `None`: as many as it takes.
    pub rate: Option<u32>,
}

impl Limits {
    /// Resends a second.
    pub fn resends(&self) -> f64 {
        self.rate.map_or(RESENDS_UNLIMITED, |rate| (f64::from(rate) * RESEND_SHARE).max(1.0))
    }
}

/// What is known of an endpoint's stamina.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    limits: Limits,
    breaker: Breaker,
    /// Attempts at once it has shown to bear, or is trusted with.
    limit: u32,
    attempts: Option<Bucket>,
    resends: Bucket,
    /// It asked for time.
    held_until: Option<Timestamp>,
    repute: Repute,
}

/// What is to be expected of an endpoint: those that hang must not take the place of those that do well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repute {
    /// Nobody knows yet.
    Fresh,
    /// It did well the last time.
    Proven,
    /// It did not.
    Failing,
}

impl Repute {
    pub const ALL: [Self; 3] = [Self::Fresh, Self::Proven, Self::Failing];
    pub const COUNT: usize = Self::ALL.len();
}

/// What an attempt told about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Well,
    /// It took too long or could not be reached: fewer at once.
    Overwhelmed,
    /// It answered, but not with success.
    Refused,
    /// Nothing: the failure was ours.
    Nothing,
}

/// What may be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Now,
    /// Not before then.
    At(Timestamp),
    /// When an attempt that is under way is over.
    AfterAnother,
}

impl Pace {
    /// An endpoint nobody has spoken to since this process began, with what the database remembers of it.
    pub fn new(limits: Limits, parked: Option<Parked>, repute: Repute, now: Timestamp) -> Self {
        let rate = limits.rate.map(f64::from);
        Self {
            limits,
            breaker: Breaker::new(parked),
            limit: FIRST_LIMIT.min(limits.in_flight),
            attempts: rate.map(|rate| Bucket::full(rate, now)),
            resends: Bucket::full(limits.resends(), now),
            held_until: None,
            repute,
        }
    }

    pub fn repute(&self) -> Repute {
        self.repute
    }

    /// Whether an attempt may start beside `in_flight` others; `resend` says whether somebody wants it once more.
    pub fn admits(&self, in_flight: u32, resend: bool, now: Timestamp) -> Admission {
        match self.breaker.permission(now) {
            Permission::NotBefore(moment) => return Admission::At(moment),
            Permission::Wait => return Admission::AfterAnother,
            Permission::Probe if in_flight > 0 => return Admission::AfterAnother,
            Permission::Probe | Permission::Free => {}
        }
        if let Some(moment) = self.held_until.filter(|moment| *moment > now) {
            return Admission::At(moment);
        }
        if in_flight >= self.limit {
            return Admission::AfterAnother;
        }
        let buckets = self.attempts.iter().chain(resend.then_some(&self.resends));
        match buckets.filter_map(|bucket| bucket.not_before(now)).max() {
            Some(moment) => Admission::At(moment),
            None => Admission::Now,
        }
    }

    /// An attempt starts that [`Pace::admits`] let in.
    pub fn start(&mut self, resend: bool, now: Timestamp) {
        self.breaker.start(now);
        if let Some(bucket) = &mut self.attempts {
            bucket.take(now);
        }
        if resend {
            self.resends.take(now);
        }
    }

    /// An attempt is over. Answers what is worth remembering of it.
    pub fn finish(&mut self, told: Told, now: Timestamp) -> Option<Turn> {
        match told {
            Told::Nothing => {
                self.breaker.forget_start(now);
                return None;
            }
            // Growing by one with every success doubles it with every round of them: a slow start, up to the cap.
            Told::Well => self.limit = (self.limit + 1).min(self.limits.in_flight),
            Told::Overwhelmed => self.limit = (self.limit / 2).max(1),
            Told::Refused => {}
        }
        self.repute = if told == Told::Well { Repute::Proven } else { Repute::Failing };
        let turn = self.breaker.result(told == Told::Well, now);
        if turn.is_some() {
            self.limit = FIRST_LIMIT.min(self.limits.in_flight);
        }
        turn
    }

    /// Nothing is sent before `moment`: the endpoint asked for it.
    pub fn hold_until(&mut self, moment: Timestamp) {
        self.held_until = Some(self.held_until.map_or(moment, |held| held.max(moment)));
    }
}

/// So many a second, with what was not used of the last second in reserve.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    rate: f64,
    tokens: f64,
    filled_at: Timestamp,
}

impl Bucket {
    fn full(rate: f64, now: Timestamp) -> Self {
        Self { rate, tokens: rate.max(1.0), filled_at: now }
    }

    fn tokens_at(&self, now: Timestamp) -> f64 {
        (self.tokens + now.since(self.filled_at).as_secs_f64() * self.rate).min(self.rate.max(1.0))
    }

    /// When the next one may go, if that is not now.
    fn not_before(&self, now: Timestamp) -> Option<Timestamp> {
        let missing = 1.0 - self.tokens_at(now);
        // A microsecond is what time is counted in.
        (missing > 1e-6 * self.rate)
            .then(|| now + Duration::from_secs_f64(missing / self.rate) + Duration::from_micros(1))
    }

    fn take(&mut self, now: Timestamp) {
        self.tokens = self.tokens_at(now) - 1.0;
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::breaker::FIRST_PARK;
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn pace(in_flight: u32, rate: Option<u32>) -> Pace {
        Pace::new(Limits { in_flight, rate }, None, Repute::Fresh, NOW)
    }

    #[test]
    fn it_starts_slowly_and_grows_with_success() {
        let mut pace = pace(16, None);
        assert_eq!(pace.admits(1, false, NOW), Admission::Now);
        assert_eq!(pace.admits(2, false, NOW), Admission::AfterAnother);
        for _ in 0..40 {
            pace.finish(Told::Well, NOW);
        }
        assert_eq!(pace.admits(15, false, NOW), Admission::Now);
        assert_eq!(pace.admits(16, false, NOW), Admission::AfterAnother, "and not beyond the cap");
    }

    #[test]
    fn it_shrinks_when_the_endpoint_is_overwhelmed() {
        let mut pace = pace(16, None);
        for _ in 0..14 {
            pace.finish(Told::Well, NOW);
        }
        pace.finish(Told::Overwhelmed, NOW);
        assert_eq!(pace.admits(8, false, NOW), Admission::AfterAnother);
        assert_eq!(pace.admits(7, false, NOW), Admission::Now);
        pace.finish(Told::Refused, NOW);
        assert_eq!(pace.admits(7, false, NOW), Admission::Now, "an answer is not a sign of weakness");
    }

    #[test]
    fn an_outage_ends_in_a_slow_start() {
        let mut pace = pace(16, None);
        for _ in 0..14 {
            pace.finish(Told::Well, NOW);
        }
        let later = NOW + Duration::from_secs(600);
        let turns: Vec<_> = (0..10).filter_map(|_| pace.finish(Told::Refused, later)).collect();
        assert_eq!(turns.len(), 1);
        assert_eq!(pace.admits(0, false, later), Admission::At(later + FIRST_PARK));
        let after = later + FIRST_PARK;
        assert_eq!(pace.admits(0, false, after), Admission::Now);
        pace.start(false, after);
        assert_eq!(pace.admits(1, false, after), Admission::AfterAnother, "one probe");
        assert_eq!(pace.finish(Told::Well, after), Some(Turn::Closed));
        assert_eq!(pace.admits(1, false, after), Admission::Now);
        assert_eq!(pace.admits(2, false, after), Admission::AfterAnother, "slowly");
    }

    #[test]
    fn what_it_asks_for_it_gets() {
        let mut pace = pace(16, None);
        let until = NOW + Duration::from_secs(90);
        pace.hold_until(until);
        pace.hold_until(NOW);
        assert_eq!(pace.admits(0, false, NOW), Admission::At(until));
        assert_eq!(pace.admits(0, false, until), Admission::Now);
    }

    #[test]
    fn resends_get_a_tenth() {
        let mut pace = pace(100, Some(50));
        for _ in 0..100 {
            pace.finish(Told::Well, NOW);
        }
        let mut sent = 0;
        while pace.admits(0, true, NOW) == Admission::Now {
            pace.start(true, NOW);
            sent += 1;
        }
        assert_eq!(sent, 5);
        assert_eq!(pace.admits(0, false, NOW), Admission::Now);
    }

    proptest! {
        /// Over any stretch of time there are never more attempts than the rate allows, and one second's in reserve.
        #[test]
        fn the_rate_is_kept(rate in 1u32..200, steps in prop::collection::vec(0u64..200, 1..300)) {
            let mut pace = pace(1_000, Some(rate));
            for _ in 0..1_000 {
                pace.finish(Told::Well, NOW);
            }
            let mut now = NOW;
            let mut started = 0_u64;
            for millis in steps {
                now = now + Duration::from_millis(millis);
                while pace.admits(0, false, now) == Admission::Now {
                    pace.start(false, now);
                    started += 1;
                }
                let allowed = f64::from(rate) * (1.0 + now.since(NOW).as_secs_f64());
                prop_assert!(started as f64 <= allowed + 1.0, "{started} of {allowed}");
                // And whoever waits as long as it says is let in.
                if let Admission::At(moment) = pace.admits(0, false, now) {
                    prop_assert!(moment > now);
                    prop_assert_eq!(pace.admits(0, false, moment), Admission::Now);
                }
            }
        }
    }
}
