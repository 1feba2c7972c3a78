//! How long each phase of an attempt took, in one number: every attempt carries it and every row of one has it.

use std::time::Duration;

/// Milliseconds since the attempt began, and one: 15 bits, which an attempt of 15 seconds fits in twice.
const WIDTH: u32 = 15;
const MOST: i64 = (1 << WIDTH) - 1;
/// Whether the head of an answer came, so that what followed is its body.
const ANSWERED: i64 = 1;
const FIRST_BYTE: u32 = 1;
const TLS: u32 = FIRST_BYTE + WIDTH;
const CONNECT: u32 = TLS + WIDTH;
const DNS: u32 = CONNECT + WIDTH;
/// In the order they are gone through.
const TOWARDS_A_CONNECTION: [u32; 3] = [DNS, CONNECT, TLS];

/// When each phase of an attempt was over. What was not gone through is not in it: on a connection that was kept nothing comes
/// before the wait for the answer, and after the phase that failed nothing comes at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases(i64);

/// How long each phase took, in milliseconds; together as long as the attempt. `None`: it was not gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spans {
    /// Until the addresses of the host were known and judged.
    pub dns: Option<i64>,
    /// Until one of them had taken the connection, however many were tried.
    pub connect: Option<i64>,
    pub tls: Option<i64>,
    /// Until the head of the answer had come; on a connection that was kept since the beginning.
    pub first_byte: Option<i64>,
    /// For what is read of the body.
    pub body: Option<i64>,
}

impl Phases {
    /// The next phase towards a connection is over, this long after the attempt began: the name is known, the connection
    /// stands, it is encrypted. Or it failed, and is the last one.
    pub fn step(&mut self, after: Duration) {
        if let Some(next) = TOWARDS_A_CONNECTION.into_iter().find(|phase| self.end(*phase).is_none()) {
            self.put(next, after);
        }
    }

    /// Nobody waits for the answer any more: its head came, or it will not come. What was known before stays.
    pub fn waited(&mut self, after: Duration, answered: bool) {
        if self.end(FIRST_BYTE).is_none() {
            self.put(FIRST_BYTE, after);
            self.0 |= if answered { ANSWERED } else { 0 };
        }
    }

    /// As it is stored. `None` when nothing was begun.
    pub fn packed(self) -> Option<i64> {
        (self.0 != 0).then_some(self.0)
    }

    pub fn unpack(packed: i64) -> Self {
        Self(packed)
    }

    /// Of an attempt that took so long. What it did after its last phase was over belongs to that phase, or is the body.
    pub fn spans(self, duration_ms: i64) -> Spans {
        let mut over = 0;
        let mut took = |phase| {
            let end = self.end(phase)?;
            Some((end - std::mem::replace(&mut over, end)).max(0))
        };
        let (dns, connect, tls, first_byte) = (took(DNS), took(CONNECT), took(TLS), took(FIRST_BYTE));
        let mut spans = Spans { dns, connect, tls, first_byte, body: None };
        let rest = duration_ms.saturating_sub(over).max(0);
        if self.0 & ANSWERED != 0 {
            spans.body = Some(rest);
        } else {
            let phases = [&mut spans.dns, &mut spans.connect, &mut spans.tls, &mut spans.first_byte];
            if let Some(last) = phases.into_iter().rev().find_map(Option::as_mut) {
                *last = last.saturating_add(rest);
            }
        }
        spans
    }

    /// When a phase was over, in milliseconds since the beginning.
    fn end(self, phase: u32) -> Option<i64> {
        Some(self.0 >> phase & MOST).filter(|end| *end > 0).map(|end| end - 1)
    }

    fn put(&mut self, phase: u32, after: Duration) {
        let end = i64::try_from(after.as_millis()).unwrap_or(MOST).saturating_add(1).min(MOST);
        self.0 |= end << phase;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn each_phase_has_what_it_took() {
        let mut phases = Phases::default();
        [20, 50, 130].into_iter().for_each(|after| phases.step(ms(after)));
        phases.waited(ms(400), true);
        let all = Spans { dns: Some(20), connect: Some(30), tls: Some(80), first_byte: Some(270), body: Some(12) };
        assert_eq!(phases.spans(412), all);
        // Whoever gives up reading says so too.
        phases.waited(ms(412), false);
        assert_eq!(phases.spans(412), all);
    }

    #[test]
    fn a_kept_connection_has_nothing_before_the_answer_and_little_to_keep() {
        let mut phases = Phases::default();
        phases.waited(ms(60), true);
        assert_eq!(phases.spans(61), Spans { first_byte: Some(60), body: Some(1), ..Spans::default() });
        assert_eq!(phases.packed(), Some(123));
    }

    #[test]
    fn what_failed_is_the_last_one_and_has_the_rest() {
        let mut refused = Phases::default();
        [3, 9].into_iter().for_each(|after| refused.step(ms(after)));
        assert_eq!(refused.spans(10), Spans { dns: Some(3), connect: Some(7), ..Spans::default() });
        let mut silent = Phases::default();
        [0, 1].into_iter().for_each(|after| silent.step(ms(after)));
        silent.waited(ms(15_000), false);
        let spans = Spans { dns: Some(0), connect: Some(1), first_byte: Some(14_999), ..Spans::default() };
        assert_eq!(silent.spans(15_000), spans);
    }

    #[test]
    fn what_was_not_begun_is_not_kept() {
        assert_eq!(Phases::default().packed(), None);
        assert_eq!(Phases::default().spans(5), Spans::default());
    }

    proptest! {
        #[test]
        fn together_they_are_as_long_as_the_attempt(
            steps in prop::collection::vec(0_u64..5_000_000, 0..4),
            wait in 0_u64..15_000_000,
            body in 0_u64..3_000_000,
            answered: bool,
        ) {
            let (mut phases, mut after) = (Phases::default(), Duration::ZERO);
            for step in steps {
                after += Duration::from_micros(step);
                phases.step(after);
            }
            after += Duration::from_micros(wait);
            phases.waited(after, answered);
            let duration_ms = i64::try_from((after + Duration::from_micros(body)).as_millis()).unwrap();
            let known = Phases::unpack(phases.packed().unwrap());
            prop_assert_eq!(known, phases);
            let Spans { dns, connect, tls, first_byte, body } = known.spans(duration_ms);
            let sum: i64 = [dns, connect, tls, first_byte, body].into_iter().flatten().sum();
            prop_assert_eq!(sum, duration_ms);
        }

        /// Whatever a row says.
        #[test]
        fn no_number_breaks_it(packed: i64, duration_ms: i64) {
            let Spans { dns, connect, tls, first_byte, body } = Phases::unpack(packed).spans(duration_ms);
            prop_assert!([dns, connect, tls, first_byte, body].into_iter().flatten().all(|span| span >= 0));
        }
    }
}
