//! Noticing: what a trigger makes of what is seen. The same function live, in shadow and in back-tests.

use serde::{Deserialize, Serialize};

use super::baseline::Expectation;
use super::time::Timestamp;
use super::trigger::{Baseline, VisitorSpike};

/// How far above what is expected, in spreads, current visitors must lie before [`Baseline::Typical`] believes them.
/// Four spreads of Poisson noise come up about once in thirty thousand windows: a few times a year.
pub const SIGNIFICANCE: f64 = 4.0;

/// The numbers of one site at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Distinct visitors of the last five minutes.
    pub current: u32,
    /// Distinct visitors of the five minutes before.
    pub previous: u32,
    /// What the site's history expects, when it has enough of it.
    pub typical: Option<Expectation>,
}

/// What a spike trigger remembers between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpikeState {
    /// Whether the next rise is a new moment. False from firing until visitors fall below the threshold again.
    pub armed: bool,
    pub last_fired: Option<Timestamp>,
}

impl Default for SpikeState {
    fn default() -> Self {
        Self { armed: true, last_fired: None }
    }
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Quiet,
    Fire(Rise),
}

/// Why it fired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rise {
    pub current: u32,
    /// What the baseline expects, rounded to whole visitors.
    pub expected: u32,
    /// Percent above what is expected, rounded to the nearest whole number. Less than one expected visitor counts as
    /// one: a percentage of nothing says nothing.
    pub change_percent: u32,
    /// Spreads above what is expected; only [`Baseline::Typical`] has one.
    pub score: Option<f64>,
}

/// Fires on the rising edge: when current visitors come to lie `threshold` percent above what is expected, and the
/// trigger is armed and out of its cooldown. It arms again once they lie below.
///
/// A rise that begins during the cooldown fires when the cooldown ends, if it still stands by then.
pub fn decide(
    settings: &VisitorSpike,
    state: SpikeState,
    observation: &Observation,
    now: Timestamp,
) -> (Verdict, SpikeState) {
    let Some(rise) = rise(settings, observation) else {
        return (Verdict::Quiet, SpikeState { armed: true, ..state });
    };
    let cooling = state.last_fired.is_some_and(|fired| now < fired + settings.cooldown);
    if !state.armed || cooling {
        return (Verdict::Quiet, state);
    }
    (Verdict::Fire(rise), SpikeState { armed: false, last_fired: Some(now) })
}

/// The rise, when there is one worth reporting.
fn rise(settings: &VisitorSpike, observation: &Observation) -> Option<Rise> {
    let Observation { current, previous, typical } = *observation;
    if current < settings.min_visitors {
        return None;
    }
    match settings.baseline {
        Baseline::Fixed => Some(measure(current, f64::from(previous), None)),
        Baseline::Previous => {
            let rise = measure(current, f64::from(previous), None);
            reaches(current, f64::from(previous), settings.threshold).then_some(rise)
        }
        Baseline::Typical => {
            let Expectation { expected, spread, .. } = typical?;
            let score = (f64::from(current) - expected) / spread;
            (score >= SIGNIFICANCE && reaches(current, expected, settings.threshold))
                .then(|| measure(current, expected, Some(score)))
        }
    }
}

/// Whether `current` is `threshold` percent or more above `expected`, without rounding.
fn reaches(current: u32, expected: f64, threshold: u32) -> bool {
    f64::from(current) - expected >= expected.max(1.0) * f64::from(threshold) / 100.0
}

#[expect(clippy::cast_possible_truncation, reason = "rounded before, and saturating is right")]
fn measure(current: u32, expected: f64, score: Option<f64>) -> Rise {
    let change = (f64::from(current) - expected) / expected.max(1.0) * 100.0;
    // Both are bounded by the number of visitors and never negative here but for `fixed`, where zero is the truth
    // a reader wants: no rise.
    Rise { current, expected: expected.round().max(0.0) as u32, change_percent: change.round().max(0.0) as u32, score }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::baseline::Basis;
    use super::*;

    fn spike(baseline: Baseline, threshold: u32, min_visitors: u32) -> VisitorSpike {
        VisitorSpike { threshold, baseline, min_visitors, cooldown: Duration::from_secs(1_800), shadow: false }
    }

    fn seen(current: u32, previous: u32) -> Observation {
        Observation { current, previous, typical: None }
    }

    fn fires(settings: &VisitorSpike, observation: &Observation) -> bool {
        matches!(decide(settings, SpikeState::default(), observation, Timestamp::EPOCH).0, Verdict::Fire(_))
    }

    #[test]
    fn the_threshold_is_percent_above_the_window_before() {
        let settings = spike(Baseline::Previous, 50, 1);
        for (current, previous, expected) in
            [(150, 100, true), (149, 100, false), (3, 2, true), (2, 2, false), (1, 0, true), (0, 0, false)]
        {
            assert_eq!(fires(&settings, &seen(current, previous)), expected, "{current} after {previous}");
        }
    }

    #[test]
    fn fewer_than_min_visitors_are_no_spike_whatever_the_percentage() {
        assert!(!fires(&spike(Baseline::Previous, 50, 10), &seen(9, 1)));
        assert!(fires(&spike(Baseline::Previous, 50, 10), &seen(10, 1)));
        assert!(fires(&spike(Baseline::Fixed, 10_000, 10), &seen(10, 10)));
    }

    #[test]
    fn typical_wants_percent_and_significance() {
        let settings = spike(Baseline::Typical, 50, 1);
        let usual = |expected, spread| Some(Expectation { expected, spread, basis: Basis::History { days: 7 } });
        assert!(!fires(&settings, &Observation { current: 3, previous: 0, typical: usual(1.0, 1.0) }));
        assert!(fires(&settings, &Observation { current: 150, previous: 0, typical: usual(100.0, 10.0) }));
        assert!(!fires(&settings, &Observation { current: 1_400, previous: 0, typical: usual(1_000.0, 32.0) }));
        assert!(!fires(&settings, &seen(1_000, 0)), "without history nothing is typical");
    }

    #[test]
    fn the_numbers_are_what_a_reader_would_compute() {
        let (verdict, _) =
            decide(&spike(Baseline::Previous, 50, 1), SpikeState::default(), &seen(8, 3), Timestamp::EPOCH);
        let Verdict::Fire(rise) = verdict else { panic!("{verdict:?}") };
        assert_eq!((rise.current, rise.expected, rise.change_percent), (8, 3, 167));
    }

    #[test]
    fn a_rise_during_the_cooldown_is_told_when_it_ends() {
        let settings = spike(Baseline::Fixed, 50, 10);
        let mut state = SpikeState::default();
        let mut fired = Vec::new();
        for minute in 0..60 {
            let current = if (1..5).contains(&minute) || minute >= 10 { 20 } else { 0 };
            let (verdict, next) = decide(&settings, state, &seen(current, 0), Timestamp::from_secs(minute * 60));
            if verdict != Verdict::Quiet {
                fired.push(minute);
            }
            state = next;
        }
        assert_eq!(fired, [1, 31]);
    }

    proptest! {
        /// Whatever the traffic, two firings are a cooldown apart and have a quiet look between them.
        #[test]
        fn one_moment_fires_once(series in prop::collection::vec(0u32..40, 1..300), threshold in 1u32..500) {
            let settings = spike(Baseline::Previous, threshold, 5);
            let mut state = SpikeState::default();
            let mut previous = 0;
            let mut last: Option<Timestamp> = None;
            let mut below_since_last = true;
            for (step, current) in series.into_iter().enumerate() {
                let now = Timestamp::from_secs(step as i64 * 60);
                let observation = seen(current, previous);
                if rise(&settings, &observation).is_none() {
                    below_since_last = true;
                }
                let (verdict, next) = decide(&settings, state, &observation, now);
                if let Verdict::Fire(rise) = verdict {
                    prop_assert!(rise.current >= settings.min_visitors);
                    prop_assert!(below_since_last);
                    prop_assert!(last.is_none_or(|last| now.since(last) >= settings.cooldown));
                    last = Some(now);
                    below_since_last = false;
                }
                state = next;
                previous = current;
            }
        }

        /// More visitors never turn a firing into silence.
        #[test]
        fn more_visitors_are_never_less_of_a_spike(current in 0u32..1000, more in 0u32..1000, previous in 0u32..1000) {
            let settings = spike(Baseline::Previous, 50, 10);
            if fires(&settings, &seen(current, previous)) {
                prop_assert!(fires(&settings, &seen(current + more, previous)));
            }
        }
    }
}
