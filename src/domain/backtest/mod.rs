//! What a trigger would have done: the same decisions as live, over what has happened.
//!
//! Here are spikes and drops: the same [`Profile`] and the same [`decide`] over windows that have closed. What stays away is in
//! [`silence`], what is counted in [`counts`].
//!
//! The grid is that of the windows: five minutes, in UTC. Live, [`Baseline::Typical`] is judged on the same grid: a rise
//! may be told while its window is still open, but only one that the closed window shows too, and a drop when it has
//! closed. `previous` and `fixed` slide live, second by second, and are looked at here once a window: what reached the
//! threshold only in between does not show.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::baseline::{Basis, HISTORY, Look, Profile, WINDOW, WindowCount};
use super::decide::{Change, ChangeState, Direction, Observation, Verdict, decide};
use super::time::Timestamp;
use super::trigger::{Baseline, VisitorChange};

pub mod counts;
pub mod silence;

/// How long hits are kept for it: ninety days to try a trigger on, and what is learned from before those.
pub const KEPT: Duration = Duration::from_secs(90 * 86_400 + HISTORY.as_secs());
/// Thresholds that are tried for a suggestion, in percent.
const RISES: [u32; 12] = [25, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000];
const FALLS: [u32; 8] = [25, 40, 50, 60, 70, 80, 90, 100];
/// A month, for "about once a month".
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;

/// That something happened, between two moments: so often, the first and the last time then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub count: u64,
}

/// A moment at which the trigger would have fired.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Firing {
    /// The start of the window, where windows are looked at; the moment of a silence or a batch.
    pub timestamp: Timestamp,
    pub observed: u32,
    /// Absent where nothing is: of what is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u32>,
    /// Spikes and drops only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    pub reason: String,
    /// When it was over; absent when it never was, or when ends are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// One window as it was and as it was expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub timestamp: Timestamp,
    pub observed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Between these the window is as usual: three spreads about what is expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// The lowest threshold that keeps to a noise budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Suggestion {
    /// Firings in thirty days at most.
    pub per_month: u32,
    pub threshold: u32,
    /// How often it would have fired in what was looked at.
    pub firings: usize,
}

/// What came of a back-test.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backtest {
    pub firings: Vec<Firing>,
    pub series: Vec<Point>,
    pub suggestions: Vec<Suggestion>,
    /// What the last expectation rests on.
    pub basis: Option<Basis>,
}

/// One window with what was known when it closed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    window: WindowCount,
    previous: u32,
    look: Option<Look>,
}

/// Learns from all of `windows`, consecutive and oldest first, and tells what the trigger makes of those from `from` on.
pub fn run(
    direction: Direction,
    settings: &VisitorChange,
    windows: impl IntoIterator<Item = WindowCount>,
    zone: &TimeZone,
    from: Timestamp,
) -> Backtest {
    let mut profile: Option<Profile> = None;
    let mut previous = 0;
    let mut seen = Vec::new();
    for window in windows {
        let profile = profile.get_or_insert_with(|| Profile::new(window.start));
        let look = profile.step(window, zone);
        if window.start >= from {
            seen.push(Seen { window, previous, look });
        }
        previous = window.visitors;
    }
    let series = seen.iter().map(Point::of).collect();
    let basis = seen.iter().rev().find_map(|seen| seen.look).map(|look| look.basis);
    Backtest {
        firings: firings(direction, settings, &seen),
        series,
        suggestions: suggestions(direction, settings, &seen),
        basis,
    }
}

fn firings(direction: Direction, settings: &VisitorChange, seen: &[Seen]) -> Vec<Firing> {
    let mut firings: Vec<Firing> = Vec::new();
    let mut state = ChangeState::default();
    for Seen { window, previous, look } in seen {
        let look = look.filter(|_| settings.baseline == Baseline::Typical);
        let observation = Observation { current: window.visitors, previous: *previous, look };
        let (verdict, next) = decide(direction, settings, state, &observation, window.start + WINDOW);
        state = next;
        match verdict {
            Verdict::Fire(change) => firings.push(Firing::new(window.start, direction, settings.baseline, &change)),
            Verdict::End(ended) => {
                if let Some(firing) = firings.last_mut() {
                    firing.ended_at = Some(ended.ended_at);
                }
            }
            Verdict::Quiet => {}
        }
    }
    firings
}

/// For "about once a month" and "about once a week": the lowest threshold that would not have fired more often.
fn suggestions(direction: Direction, settings: &VisitorChange, seen: &[Seen]) -> Vec<Suggestion> {
    let tried: &[u32] = match direction {
        Direction::Rise => &RISES,
        Direction::Fall => &FALLS,
    };
    let Some((first, last)) = seen.first().zip(seen.last()) else { return Vec::new() };
    if settings.baseline == Baseline::Fixed {
        // No percentage decides there.
        return Vec::new();
    }
    let months = ((last.window.start + WINDOW).since(first.window.start).as_secs_f64() / MONTH_SECONDS).max(1.0);
    let mut counted: Vec<(u32, usize)> = Vec::new();
    let mut suggestions = Vec::new();
    for per_month in [1, 4] {
        let budget = f64::from(per_month) * months;
        for (position, threshold) in tried.iter().enumerate() {
            if counted.len() == position {
                let settings = VisitorChange { threshold: *threshold, ..settings.clone() };
                counted.push((*threshold, firings(direction, &settings, seen).len()));
            }
            let (threshold, firings) = counted[position];
            #[expect(clippy::cast_precision_loss, reason = "there are never so many")]
            if firings as f64 <= budget {
                suggestions.push(Suggestion { per_month, threshold, firings });
                break;
            }
        }
    }
    suggestions
}

impl Firing {
    fn new(timestamp: Timestamp, direction: Direction, baseline: Baseline, change: &Change) -> Self {
        Self {
            timestamp,
            observed: change.current,
            expected: Some(change.expected),
            change_percent: Some(change.change_percent),
            score: change.score.map(|score| (score * 10.0).round() / 10.0),
            reason: change.reason(direction, baseline),
            ended_at: None,
        }
    }
}

impl Point {
    fn counted(timestamp: Timestamp, count: u64) -> Self {
        Self { timestamp, observed: whole(count), expected: None, low: None, high: None }
    }

    fn of(seen: &Seen) -> Self {
        let tenth = |number: f64| (number * 10.0).round() / 10.0;
        Self {
            timestamp: seen.window.start,
            observed: seen.window.visitors,
            expected: seen.look.map(|look| tenth(look.rise.expected)),
            low: seen.look.map(|look| tenth((look.fall.expected - 3.0 * look.spread).max(0.0))),
            high: seen.look.map(|look| tenth(look.rise.expected + 3.0 * look.spread)),
        }
    }
}

/// Of counts that are too high to be told the highest.
fn whole(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// At most so many points: of each part the window furthest from what was expected of it.
pub fn thin(series: Vec<Point>, points: usize) -> Vec<Point> {
    let part = series.len().div_ceil(points.max(1)).max(1);
    let off = |point: &Point| (f64::from(point.observed) - point.expected.unwrap_or(0.0)).abs();
    let furthest = |part: &[Point]| part.iter().copied().max_by(|one, other| off(one).total_cmp(&off(other)));
    series.chunks(part).filter_map(furthest).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::trigger::Settings;

    fn windows(visitors: impl IntoIterator<Item = u32>) -> Vec<WindowCount> {
        let starts = (0..).map(|window| Timestamp::from_secs(window * 300));
        starts.zip(visitors).map(|(start, visitors)| WindowCount { start, visitors }).collect()
    }

    fn tried(trigger: serde_json::Value, windows: Vec<WindowCount>, from: Timestamp) -> Backtest {
        let settings = Settings::parse(trigger.as_object().unwrap()).unwrap();
        let (direction, change) = settings.visitor_change().unwrap();
        run(direction, change, windows, &TimeZone::UTC, from)
    }

    #[test]
    fn the_surge_is_found_and_a_threshold_above_it_suggested() {
        let surge = |window: u32| if window == 2_500 { 300 } else { 90 + window * 7 % 20 };
        let done =
            tried(json!({"type": "visitor_spike"}), windows((0..4_000).map(surge)), Timestamp::from_secs(86_400));
        assert_eq!(done.series.len(), 4_000 - 288);
        let [firing] = &done.firings[..] else { panic!("{:?}", done.firings) };
        assert_eq!((firing.timestamp, firing.observed), (Timestamp::from_secs(2_500 * 300), 300));
        assert!(firing.reason.contains("300 visitors in five minutes"), "{}", firing.reason);
        assert_eq!(done.suggestions[0].per_month, 1);
        assert!(done.suggestions[0].firings <= 1);
    }

    #[test]
    fn an_outage_is_found_with_its_end() {
        let outage = |window: u32| if (2_000..2_012).contains(&window) { 0 } else { 50 };
        let trigger = json!({"type": "visitor_drop", "notify_end": true});
        let done = tried(trigger, windows((0..3_000).map(outage)), Timestamp::EPOCH);
        let [firing] = &done.firings[..] else { panic!("{:?}", done.firings) };
        assert!(firing.ended_at.unwrap() >= Timestamp::from_secs(2_012 * 300), "{firing:?}");
    }

    #[test]
    fn thinning_keeps_what_stands_out() {
        let done = tried(
            json!({"type": "visitor_spike"}),
            windows((0..1_000).map(|window| if window == 777 { 99 } else { 5 })),
            Timestamp::EPOCH,
        );
        let thin = thin(done.series, 10);
        assert_eq!(thin.len(), 10);
        assert_eq!(thin[7].observed, 99);
    }
}
