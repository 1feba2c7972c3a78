//! What is usual: a site's own five-minute windows by time of day, with an honest spread.
//!
//! Each slot of the day is judged by the windows of the last four weeks that lie within a quarter of an hour of it.
//! The middle is their median, the spread their median absolute deviation (times 1.4826, which makes it a standard
//! deviation for normal noise), and never less than the square root of the middle: counts are at least as noisy as
//! Poisson's. Medians forget a launch day by themselves as long as it is not most of the days.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(300);
/// How far back a profile looks.
pub const HISTORY: Duration = Duration::from_secs(28 * 86_400);

const SLOTS: usize = 288;
/// Neighbouring slots on each side that speak for a slot too.
const REACH: usize = 3;
/// Days of history from which time of day can be told from chance.
const ENOUGH_DAYS: usize = 3;
/// Windows below which nothing is known: an hour's worth.
const ENOUGH_WINDOWS: usize = 12;
/// Windows a young site is judged by: its last day.
const RECENT_WINDOWS: usize = 288;
/// Median absolute deviation to standard deviation, for normal noise.
const MAD_TO_SIGMA: f64 = 1.482_6;

/// Distinct visitors of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowCount {
    pub start: Timestamp,
    pub visitors: u32,
}

/// What a window usually looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    pub expected: f64,
    /// One standard deviation, at least one visitor.
    pub spread: f64,
    pub basis: Basis,
}

/// What an expectation rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// This time of day on so many days.
    History { days: u32 },
    /// Too young for that: its last hours, whatever the time of day.
    LastHours { hours: u32 },
}

/// What was learned of one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    basis: Basis,
    /// Middle and spread for each slot of the local day, or one pair for all of them.
    slots: Vec<(f64, f64)>,
    pub learned_at: Timestamp,
}

impl Profile {
    /// Learns from consecutive windows, oldest first, that begin with the site's first visit. `None` while there is
    /// less than an hour of them.
    pub fn learn(windows: &[WindowCount], zone: &TimeZone, now: Timestamp) -> Option<Self> {
        if windows.len() < ENOUGH_WINDOWS {
            return None;
        }
        let days = windows.len() / SLOTS;
        if days < ENOUGH_DAYS {
            let recent = &windows[windows.len().saturating_sub(RECENT_WINDOWS)..];
            let mut counts: Vec<_> = recent.iter().map(|window| f64::from(window.visitors)).collect();
            let hours = u32::try_from(recent.len() / 12).unwrap_or(u32::MAX);
            return Some(Self {
                basis: Basis::LastHours { hours },
                slots: vec![summary(&mut counts)],
                learned_at: now,
            });
        }
        let mut by_slot = vec![Vec::new(); SLOTS];
        for window in windows {
            by_slot[slot(window.start, zone)].push(f64::from(window.visitors));
        }
        let slots = (0..SLOTS)
            .map(|slot| {
                let mut counts: Vec<_> = (slot + SLOTS - REACH..=slot + SLOTS + REACH)
                    .flat_map(|near| by_slot[near % SLOTS].clone())
                    .collect();
                summary(&mut counts)
            })
            .collect();
        let days = u32::try_from(days).unwrap_or(u32::MAX);
        Some(Self { basis: Basis::History { days }, slots, learned_at: now })
    }

    /// Whether it rests on hours, not days.
    pub fn is_young(&self) -> bool {
        matches!(self.basis, Basis::LastHours { .. })
    }

    /// What the window that ends at `now` usually looks like.
    pub fn expect(&self, now: Timestamp, zone: &TimeZone) -> Option<Expectation> {
        let (expected, spread) = match self.slots.as_slice() {
            [] => return None,
            [one] => *one,
            slots => *slots.get(slot(now - WINDOW, zone))?,
        };
        Some(Expectation { expected, spread, basis: self.basis })
    }
}

/// The five-minute slot of the local day. A day with a clock change repeats or skips an hour of them, which is what
/// its visitors do too.
fn slot(moment: Timestamp, zone: &TimeZone) -> usize {
    let local = zone.to_datetime(moment.to_jiff());
    let minute = usize::try_from(local.hour()).unwrap_or(0) * 60 + usize::try_from(local.minute()).unwrap_or(0);
    minute / 5
}

fn summary(counts: &mut [f64]) -> (f64, f64) {
    let middle = median(counts);
    for count in counts.iter_mut() {
        *count = (*count - middle).abs();
    }
    let spread = (median(counts) * MAD_TO_SIGMA).max(middle.sqrt()).max(1.0);
    (middle, spread)
}

fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let upper = values.len() / 2;
    let middle = *values.select_nth_unstable_by(upper, f64::total_cmp).1;
    if values.len() % 2 == 1 {
        return middle;
    }
    let lower = values[..upper].iter().copied().fold(f64::MIN, f64::max);
    f64::midpoint(lower, middle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn days(count: usize, visitors: impl Fn(usize, usize) -> u32) -> Vec<WindowCount> {
        (0..count * SLOTS)
            .map(|window| WindowCount {
                start: Timestamp::from_secs(window as i64 * 300),
                visitors: visitors(window / SLOTS, window % SLOTS),
            })
            .collect()
    }

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp::from_secs(day * 86_400 + hour * 3_600)
    }

    #[test]
    fn the_night_is_not_judged_by_the_day() {
        let windows = days(7, |_, slot| if (96..240).contains(&slot) { 100 } else { 4 });
        let profile = Profile::learn(&windows, &TimeZone::UTC, at(7, 0)).unwrap();
        let noon = profile.expect(at(7, 12), &TimeZone::UTC).unwrap();
        let night = profile.expect(at(7, 3), &TimeZone::UTC).unwrap();
        assert_eq!((noon.expected, noon.spread), (100.0, 10.0));
        assert_eq!((night.expected, night.spread), (4.0, 2.0));
        assert_eq!(noon.basis, Basis::History { days: 7 });
    }

    #[test]
    fn one_launch_day_changes_nothing() {
        let usual = Profile::learn(&days(14, |_, _| 9), &TimeZone::UTC, at(14, 0)).unwrap();
        let launched = days(14, |day, _| if day == 10 { 5_000 } else { 9 });
        assert_eq!(Profile::learn(&launched, &TimeZone::UTC, at(14, 0)).unwrap(), usual);
    }

    #[test]
    fn a_young_site_says_so() {
        assert_eq!(Profile::learn(&days(1, |_, _| 1)[..11], &TimeZone::UTC, at(1, 0)), None);
        let profile = Profile::learn(&days(1, |_, _| 16)[..24], &TimeZone::UTC, at(1, 0)).unwrap();
        let expectation = profile.expect(at(1, 5), &TimeZone::UTC).unwrap();
        assert_eq!(expectation.basis, Basis::LastHours { hours: 2 });
        assert_eq!((expectation.expected, expectation.spread), (16.0, 4.0));
    }

    #[test]
    fn the_day_is_the_sites_own() {
        let windows = days(7, |_, slot| if slot < 144 { 50 } else { 0 });
        let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
        let profile = Profile::learn(&windows, &tokyo, at(7, 0)).unwrap();
        assert_eq!(profile.expect(at(7, 6), &tokyo).unwrap().expected, 50.0);
        assert_eq!(profile.expect(at(7, 18), &tokyo).unwrap().expected, 0.0);
    }

    proptest! {
        #[test]
        fn medians_split_in_half(mut values in prop::collection::vec(0u32..1000, 1..60)) {
            let mut floats: Vec<_> = values.iter().map(|value| f64::from(*value)).collect();
            values.sort_unstable();
            let expected = if values.len() % 2 == 1 {
                f64::from(values[values.len() / 2])
            } else {
                f64::midpoint(f64::from(values[values.len() / 2 - 1]), f64::from(values[values.len() / 2]))
            };
            prop_assert_eq!(median(&mut floats), expected);
        }

        #[test]
        fn counts_are_never_quieter_than_poisson(values in prop::collection::vec(0u32..1000, 12..60)) {
            let mut floats: Vec<_> = values.iter().map(|value| f64::from(*value)).collect();
            let (middle, spread) = summary(&mut floats);
            prop_assert!(spread >= middle.sqrt() && spread >= 1.0);
        }
    }
}
