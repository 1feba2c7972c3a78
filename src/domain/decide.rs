//! Noticing: what a trigger makes of what is seen. The same function live, in shadow and in back-tests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::baseline::Direction;
use super::baseline::{Basis, Look};
use super::ids::EventId;
use super::time::Timestamp;
use super::trigger::{Baseline, VisitorChange};

/// How long [`Baseline::Typical`] has to be calm before an incident is over: an hour. What swells again within it is the
/// same moment.
const CALM_FOR: Duration = Duration::from_secs(3_600);
/// Calm is half of what fires, so that what hovers about the limit is one incident.
const CALM_BELOW: f64 = 0.5;
/// What rises again this long after a rise that was told is its aftermath, and news only if it is more of a rise: bursts come
/// in clusters, and a cluster is one event that is as great as its greatest. A calm of less than a day tells no cluster from
/// the next, since nights are calm anyway.
const AFTERMATH: Duration = Duration::from_secs(86_400);

/// The numbers of one site at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Distinct visitors of the last five minutes.
    pub current: u32,
    /// Distinct visitors of the five minutes before.
    pub previous: u32,
    /// The window [`Baseline::Typical`] judges, when there is history to judge by.
    pub look: Option<Look>,
}

/// What a trigger remembers between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChangeState {
    /// Whether the next change is a new moment. False from firing until visitors are calm again.
    pub armed: bool,
    pub last_fired: Option<Timestamp>,
    /// Since when it is worth reporting; it has to stay so for the minimum duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Since when it is calm, during an incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calm_since: Option<Timestamp>,
    /// Windows that end by then were judged. Only [`Baseline::Typical`] judges window by window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_until: Option<Timestamp>,
    /// What was reported and is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,
    /// The last rise above what is typical that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// A rise that was told: what comes after it has to be more than it to be told too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// How much of its limit it was at most.
    pub of_limit: f64,
    /// When it was over; `None` while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_at: Option<Timestamp>,
}

/// The beginning of what its end will be paired with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub started_at: Timestamp,
    /// Named by whoever records the event.
    pub event_id: Option<EventId>,
}

impl Default for ChangeState {
    fn default() -> Self {
        Self {
            armed: true,
            last_fired: None,
            since: None,
            calm_since: None,
            judged_until: None,
            incident: None,
            told: None,
        }
    }
}

impl ChangeState {
    /// Whether it is worth keeping across a restart that this became of `before`. What windows have since been judged is
    /// not: they are judged again, with the same outcome.
    pub fn is_news_after(&self, before: &Self) -> bool {
        (self.armed, self.last_fired, self.incident, self.told)
            != (before.armed, before.last_fired, before.incident, before.told)
    }
}

impl Told {
    /// Whether a rise seen now is no more than its aftermath.
    fn outdoes(&self, of_limit: f64, now: Timestamp) -> bool {
        of_limit <= self.of_limit && self.over_at.is_some_and(|over_at| now < over_at + AFTERMATH)
    }
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Quiet,
    Fire(Change),
    /// What was reported is over.
    End(Ended),
}

/// Why it fired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub current: u32,
    /// What the baseline expects, rounded to whole visitors.
    pub expected: u32,
    /// Percent above or below what is expected, rounded to the nearest whole number. Less than one expected visitor counts
    /// as one: a percentage of nothing says nothing.
    pub change_percent: u32,
    /// Spreads beyond what is expected; only [`Baseline::Typical`] has one.
    pub score: Option<f64>,
    /// One standard deviation of a window of five minutes; only [`Baseline::Typical`] has one.
    pub spread: Option<f64>,
    /// What the expectation rests on; only [`Baseline::Typical`] has one.
    pub basis: Option<Basis>,
    /// The span in which it is most unusual, in minutes.
    pub minutes: u16,
}

/// An incident that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    pub incident: Incident,
    /// When it was calm again.
    pub ended_at: Timestamp,
    pub current: u32,
}

impl Change {
    /// Why it fired, in a sentence.
    pub fn reason(&self, direction: Direction, baseline: Baseline) -> String {
        let Self { current, expected, change_percent, .. } = *self;
        let visitors = if current == 1 { "1 visitor".to_owned() } else { format!("{current} visitors") };
        let side = match direction {
            Direction::Rise => "above",
            Direction::Fall => "below",
        };
        match (baseline, self.score, self.basis) {
            (Baseline::Fixed, ..) => format!("{visitors} in five minutes."),
            (Baseline::Typical, Some(score), Some(basis)) => {
                let basis = match basis {
                    Basis::History { days } => format!("by {days} days of history"),
                    Basis::LastHours { hours: 1 } => "by its last hour only".to_owned(),
                    Basis::LastHours { hours } => format!("by its last {hours} hours only"),
                };
                let span = match self.minutes {
                    5 => "",
                    30 => " over half an hour",
                    _ => " over two hours",
                };
                let compared = match expected {
                    0 => "where hardly any are expected now".to_owned(),
                    _ => format!("{change_percent} % {side} the {expected} expected now"),
                };
                format!(
                    "{visitors} in five minutes, {compared} {basis}; {score:.1} standard deviations{span}, more than this \
                     site does by chance."
                )
            }
            _ if expected == 0 => format!("{visitors} in five minutes, none in the five before."),
            _ => format!("{visitors} in five minutes, {change_percent} % {side} the {expected} of the five before."),
        }
    }
}

/// Fires when visitors come to lie `threshold` percent above (or below) what is expected and have for the minimum duration,
/// and the trigger is armed and out of its cooldown. It arms again when they are calm: below the threshold, and with
/// [`Baseline::Typical`] less than half as unusual as that for an hour. One incident at a time. A rise above what is typical
/// that begins within a day after another was over has to be more unusual than that ever was.
///
/// A change that begins during the cooldown fires when the cooldown ends, if it still stands by then.
///
/// `now` is the moment of the look; for [`Baseline::Typical`] the end of the window.
pub fn decide(
    direction: Direction,
    settings: &VisitorChange,
    state: ChangeState,
    observation: &Observation,
    now: Timestamp,
) -> (Verdict, ChangeState) {
    let mut next = state;
    let of_limit = observation.look.map(|look| look.side(direction).of_limit(settings.sensitivity));
    if let Some((told, of_limit)) = next.told.as_mut().filter(|_| !state.armed).zip(of_limit) {
        told.of_limit = told.of_limit.max(of_limit);
    }
    if let Some(change) = change(direction, settings, observation) {
        next.calm_since = None;
        let since = *next.since.get_or_insert(observation.look.map_or(now, |look| look.start));
        let cooling = state.last_fired.is_some_and(|fired| now < fired + settings.cooldown);
        let is_aftermath = state.told.zip(of_limit).is_some_and(|(told, of_limit)| told.outdoes(of_limit, now));
        if !state.armed || cooling || is_aftermath || now.since(since) < settings.min_duration {
            return (Verdict::Quiet, next);
        }
        next.armed = false;
        next.last_fired = Some(now);
        // Falls are not compared: no outage is less than one because it was told of another.
        let of_rise = of_limit.filter(|_| direction == Direction::Rise);
        next.told = of_rise.map(|of_limit| Told { of_limit, over_at: None });
        next.incident = settings.notify_end.then_some(Incident { started_at: since, event_id: None });
        return (Verdict::Fire(change), next);
    }
    next.since = None;
    if state.armed {
        return (Verdict::Quiet, next);
    }
    let calm_for = match (settings.baseline, observation.look) {
        (Baseline::Typical, Some(look)) => {
            if look.side(direction).of_limit(settings.sensitivity) >= CALM_BELOW {
                next.calm_since = None;
                return (Verdict::Quiet, next);
            }
            next.calm_since.get_or_insert(look.start);
            CALM_FOR
        }
        (Baseline::Typical, None) => return (Verdict::Quiet, next),
        _ => {
            next.calm_since.get_or_insert(now);
            Duration::ZERO
        }
    };
    let calm_since = next.calm_since.unwrap_or(now);
    if now.since(calm_since) < calm_for {
        return (Verdict::Quiet, next);
    }
    next.armed = true;
    next.calm_since = None;
    if let Some(told) = &mut next.told {
        told.over_at = Some(calm_since);
    }
    match next.incident.take() {
        Some(incident) if settings.notify_end => {
            (Verdict::End(Ended { incident, ended_at: calm_since, current: observation.current }), next)
        }
        _ => (Verdict::Quiet, next),
    }
}

/// The change, when there is one worth reporting.
fn change(direction: Direction, settings: &VisitorChange, observation: &Observation) -> Option<Change> {
    let Observation { current, previous, look } = *observation;
    let previous = f64::from(previous);
    let is_enough = |expected: f64| match direction {
        Direction::Rise => current >= settings.min_visitors,
        // Where hardly anybody is expected nobody is missed.
        Direction::Fall => expected >= f64::from(settings.min_visitors),
    };
    match settings.baseline {
        Baseline::Fixed => {
            let reached = match direction {
                Direction::Rise => current >= settings.min_visitors,
                Direction::Fall => current < settings.min_visitors,
            };
            reached.then(|| measure(direction, current, previous))
        }
        Baseline::Previous => (is_enough(previous) && reaches(direction, current, previous, settings.threshold))
            .then(|| measure(direction, current, previous)),
        Baseline::Typical => {
            let look = look?;
            let side = look.side(direction);
            let unusual = side.of_limit(settings.sensitivity) >= 1.0;
            (unusual && is_enough(side.expected) && reaches(direction, current, side.expected, settings.threshold))
                .then(|| Change {
                    score: Some(side.score),
                    spread: Some(look.spread),
                    basis: Some(look.basis),
                    minutes: side.minutes,
                    ..measure(direction, current, side.expected)
                })
        }
    }
}

/// Whether `current` is `threshold` percent or more beyond `expected`, without rounding.
fn reaches(direction: Direction, current: u32, expected: f64, threshold: u32) -> bool {
    beyond(direction, current, expected) >= expected.max(1.0) * f64::from(threshold) / 100.0
}

fn beyond(direction: Direction, current: u32, expected: f64) -> f64 {
    match direction {
        Direction::Rise => f64::from(current) - expected,
        Direction::Fall => expected - f64::from(current),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturating is right")]
fn measure(direction: Direction, current: u32, expected: f64) -> Change {
    let percent = beyond(direction, current, expected) / expected.max(1.0) * 100.0;
    // Both are bounded by the number of visitors and never negative here but for `fixed`, where zero is the truth
    // a reader wants: no change.
    let whole = |number: f64| number.round().max(0.0) as u32;
    Change {
        current,
        expected: whole(expected),
        change_percent: whole(percent),
        score: None,
        spread: None,
        basis: None,
        minutes: 5,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::baseline::{Sensitivity, WindowCount};
    use super::*;

    /// A percentage of nothing says nothing, least of all to a human.
    #[test]
    fn no_sentence_has_a_percentage_of_nothing() {
        let change = |baseline, expected| Change {
            score: (baseline == Baseline::Typical).then_some(9.34),
            spread: (baseline == Baseline::Typical).then_some(0.6),
            basis: (baseline == Baseline::Typical).then_some(Basis::History { days: 3 }),
            ..measure(Direction::Rise, 19, expected)
        };
        let reason = |baseline, expected| change(baseline, expected).reason(Direction::Rise, baseline);
        assert_eq!(
            reason(Baseline::Typical, 0.2),
            "19 visitors in five minutes, where hardly any are expected now by 3 days of history; 9.3 standard deviations, \
             more than this site does by chance."
        );
        assert_eq!(
            reason(Baseline::Typical, 2.0),
            "19 visitors in five minutes, 850 % above the 2 expected now by 3 days of history; 9.3 standard deviations, \
             more than this site does by chance."
        );
        assert_eq!(reason(Baseline::Previous, 0.0), "19 visitors in five minutes, none in the five before.");
    }

    fn spike(baseline: Baseline, threshold: u32, min_visitors: u32) -> VisitorChange {
        VisitorChange {
            threshold,
            baseline,
            sensitivity: Sensitivity::Normal,
            min_visitors,
            cooldown: Duration::from_secs(1_800),
            min_duration: Duration::ZERO,
            notify_end: false,
            filters: super::super::filter::Filters::default(),
            shadow: false,
        }
    }

    fn seen(current: u32, previous: u32) -> Observation {
        Observation { current, previous, look: None }
    }

    fn fires(direction: Direction, settings: &VisitorChange, observation: &Observation) -> bool {
        let (verdict, _) = decide(direction, settings, ChangeState::default(), observation, Timestamp::EPOCH);
        matches!(verdict, Verdict::Fire(_))
    }

    /// A week of a hundred visitors a window, and what comes after it, each window judged before it is learned.
    fn looks(after: &[u32]) -> Vec<Look> {
        let mut profile = super::super::baseline::Profile::new(Timestamp::EPOCH);
        let usual = std::iter::repeat_n(100, 2_016);
        let windows = usual.chain(after.iter().copied()).enumerate();
        let looks = windows.filter_map(|(window, visitors)| {
            let start = Timestamp::from_secs(window as i64 * 300);
            profile.step(WindowCount { start, visitors }, &jiff::tz::TimeZone::UTC)
        });
        let looks: Vec<_> = looks.collect();
        looks[looks.len() - after.len()..].to_vec()
    }

    fn verdicts(direction: Direction, settings: &VisitorChange, looks: &[Look]) -> Vec<Verdict> {
        let mut state = ChangeState::default();
        looks
            .iter()
            .map(|look| {
                let observation = Observation { current: look.visitors, previous: 0, look: Some(*look) };
                let (verdict, next) = decide(direction, settings, state, &observation, look.end());
                state = next;
                verdict
            })
            .collect()
    }

    #[test]
    fn the_threshold_is_percent_above_the_window_before() {
        let settings = spike(Baseline::Previous, 50, 1);
        for (current, previous, expected) in
            [(150, 100, true), (149, 100, false), (3, 2, true), (2, 2, false), (1, 0, true), (0, 0, false)]
        {
            assert_eq!(
                fires(Direction::Rise, &settings, &seen(current, previous)),
                expected,
                "{current} after {previous}"
            );
        }
        for (current, previous, expected) in [(50, 100, true), (51, 100, false), (0, 1, true), (0, 0, false)] {
            assert_eq!(
                fires(Direction::Fall, &settings, &seen(current, previous)),
                expected,
                "{current} after {previous}"
            );
        }
    }

    #[test]
    fn fewer_than_min_visitors_are_no_spike_whatever_the_percentage() {
        assert!(!fires(Direction::Rise, &spike(Baseline::Previous, 50, 10), &seen(9, 1)));
        assert!(fires(Direction::Rise, &spike(Baseline::Previous, 50, 10), &seen(10, 1)));
        assert!(fires(Direction::Rise, &spike(Baseline::Fixed, 10_000, 10), &seen(10, 10)));
        assert!(!fires(Direction::Fall, &spike(Baseline::Previous, 50, 10), &seen(0, 9)));
        assert!(fires(Direction::Fall, &spike(Baseline::Fixed, 50, 10), &seen(9, 9)));
    }

    #[test]
    fn typical_wants_percent_and_significance() {
        let settings = spike(Baseline::Typical, 50, 1);
        let fires = |settings: &VisitorChange, visitors| {
            matches!(verdicts(Direction::Rise, settings, &looks(&[visitors]))[0], Verdict::Fire(_))
        };
        assert!(!fires(&settings, 140), "four spreads and forty percent");
        assert!(fires(&settings, 400));
        assert!(!fires(&spike(Baseline::Typical, 400, 1), 400), "too few percent");
        assert!(
            !super::tests::fires(Direction::Rise, &settings, &seen(1_000, 0)),
            "without history nothing is typical"
        );
    }

    #[test]
    fn an_incident_is_told_once_and_its_end_once() {
        let settings = VisitorChange { notify_end: true, ..spike(Baseline::Typical, 50, 1) };
        let mut after = vec![100; 3];
        after.extend([500, 480, 120, 450, 100, 110]);
        after.extend([100; 60]);
        let verdicts = verdicts(Direction::Rise, &settings, &looks(&after));
        let told: Vec<_> = verdicts.iter().enumerate().filter(|(_, verdict)| **verdict != Verdict::Quiet).collect();
        let [(3, Verdict::Fire(_)), (_, Verdict::End(ended))] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(ended.incident.started_at, Timestamp::from_secs((2_016 + 3) * 300));
        assert!(ended.ended_at > ended.incident.started_at);
    }

    /// After how many windows it fired, of a rise of `first` and one of `second` visitors so many hours after it.
    fn told_of_two(first: u32, second: u32, hours: usize) -> Vec<usize> {
        let mut after = vec![first; 3];
        after.resize(hours * 12, 100);
        after.extend([second; 3]);
        let verdicts = verdicts(Direction::Rise, &spike(Baseline::Typical, 50, 1), &looks(&after));
        verdicts.iter().enumerate().filter_map(|(at, verdict)| (*verdict != Verdict::Quiet).then_some(at)).collect()
    }

    #[test]
    fn what_rises_again_within_a_day_is_told_if_it_is_more() {
        assert_eq!(told_of_two(500, 400, 10), [0], "the aftermath");
        assert_eq!(told_of_two(400, 600, 10), [0, 120], "more than the first");
        assert_eq!(told_of_two(500, 400, 30), [0, 360], "another day");
    }

    #[test]
    fn a_second_outage_of_a_day_is_told_like_the_first() {
        let mut after = vec![0; 6];
        after.resize(60, 100);
        after.extend([0; 3]);
        let verdicts = verdicts(Direction::Fall, &spike(Baseline::Typical, 50, 10), &looks(&after));
        let fired = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Fire(_))).count();
        assert_eq!(fired, 2);
    }

    #[test]
    fn an_outage_is_a_drop() {
        let settings = spike(Baseline::Typical, 50, 10);
        let verdicts = verdicts(Direction::Fall, &settings, &looks(&[100, 0, 0, 0, 0, 100]));
        let fired: Vec<_> = verdicts.iter().map(|verdict| matches!(verdict, Verdict::Fire(_))).collect();
        assert_eq!(fired, [false, true, false, false, false, false]);
    }

    #[test]
    fn what_lasts_too_short_is_not_told() {
        let settings = VisitorChange { min_duration: Duration::from_secs(600), ..spike(Baseline::Typical, 50, 1) };
        let fired = |after: &[u32]| {
            verdicts(Direction::Rise, &settings, &looks(after)).iter().position(|verdict| *verdict != Verdict::Quiet)
        };
        assert_eq!(fired(&[400, 100, 100]), None);
        assert_eq!(fired(&[400, 400, 100]), Some(1));
    }

    #[test]
    fn a_rise_during_the_cooldown_is_told_when_it_ends() {
        let settings = spike(Baseline::Fixed, 50, 10);
        let mut state = ChangeState::default();
        let mut fired = Vec::new();
        for minute in 0..60 {
            let current = if (1..5).contains(&minute) || minute >= 10 { 20 } else { 0 };
            let now = Timestamp::from_secs(minute * 60);
            let (verdict, next) = decide(Direction::Rise, &settings, state, &seen(current, 0), now);
            if verdict != Verdict::Quiet {
                fired.push(minute);
            }
            state = next;
        }
        assert_eq!(fired, [1, 31]);
    }

    proptest! {
        /// Otherwise it would be judged differently after a restart than without one.
        #[test]
        fn what_is_remembered_is_read_back_as_it_was(of_limit in 0.0f64..1e6) {
            let state = ChangeState { told: Some(Told { of_limit, over_at: None }), ..ChangeState::default() };
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChangeState>(&text).unwrap(), state);
        }

        /// Whatever the traffic, two firings are a cooldown apart and have a quiet look between them.
        #[test]
        fn one_moment_fires_once(series in prop::collection::vec(0u32..40, 1..300), threshold in 1u32..500) {
            let settings = spike(Baseline::Previous, threshold, 5);
            let mut state = ChangeState::default();
            let mut previous = 0;
            let mut last: Option<Timestamp> = None;
            let mut below_since_last = true;
            for (step, current) in series.into_iter().enumerate() {
                let now = Timestamp::from_secs(step as i64 * 60);
                let observation = seen(current, previous);
                if change(Direction::Rise, &settings, &observation).is_none() {
                    below_since_last = true;
                }
                let (verdict, next) = decide(Direction::Rise, &settings, state, &observation, now);
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
            if fires(Direction::Rise, &settings, &seen(current, previous)) {
                prop_assert!(fires(Direction::Rise, &settings, &seen(current + more, previous)));
            }
        }
    }
}
