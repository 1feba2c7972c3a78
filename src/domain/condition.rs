//! What is watched that no single hit shows: something stays away, adds up, or cannot be seen. Decisions only; what they are
//! made of is gathered by whoever looks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::decide::Incident;
use super::time::Timestamp;

/// What can be wrong, and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A site sends nothing.
    NoData,
    /// A goal is not completed any more.
    GoalStalled,
    /// The store of the traffic does not answer.
    AnalyticsUnreachable,
    /// It answers, and nothing comes in from any site.
    DataStale,
}

impl Trouble {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoData => "no_data",
            Self::GoalStalled => "goal_stalled",
            Self::AnalyticsUnreachable => "analytics_unreachable",
            Self::DataStale => "data_stale",
        }
    }
}

/// What a trigger of this kind remembers between two looks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// What was told and is not over.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub incidents: BTreeMap<Trouble, Incident>,
    /// The milestone told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestone: Option<Reached>,
}

/// How far something has come in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub period_start: Timestamp,
    pub milestone: u64,
}

/// What is seen of a trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is there, since then.
    There(Timestamp),
    /// It is not there; what was, ended then.
    Gone(Timestamp),
    /// Nobody can tell. What was told stays told.
    Unknown,
}

/// What comes of a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    None,
    Begins(Incident),
    Ends(Incident, Timestamp),
}

/// A trouble is told once, however often it is seen, until it is gone.
pub fn edge(open: Option<&Incident>, sign: Sign) -> Edge {
    match (open, sign) {
        (None, Sign::There(since)) => Edge::Begins(Incident { started_at: since, event_id: None }),
        (Some(open), Sign::Gone(at)) => Edge::Ends(*open, at.max(open.started_at)),
        _ => Edge::None,
    }
}

/// What a milestone is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Visitors,
    Pageviews,
    Conversions,
}

impl Metric {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Visitors => "visitors",
            Self::Pageviews => "pageviews",
            Self::Conversions => "conversions",
        }
    }
}

/// How long is counted before it begins anew, in the site's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Day,
    /// From Monday.
    Week,
    Month,
}

impl Period {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// When the period began that `now` is in.
    pub fn start(self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let date = zone.to_datetime(now.to_jiff()).date();
        let first = match self {
            Self::Day => date,
            Self::Week => date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap_or(date),
            Self::Month => date.first_of_month(),
        };
        // A midnight that the clocks skip is when they have done so.
        let start = zone.to_timestamp(first.to_datetime(jiff::civil::Time::midnight()));
        start.map_or(now, |start| Timestamp::from_micros(start.as_microsecond()))
    }
}

/// Which numbers are milestones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Every multiple.
    Step(u64),
    List(BTreeSet<u64>),
}

impl Marks {
    /// The highest that `count` has reached; zero when none.
    pub fn reached(&self, count: u64) -> u64 {
        match self {
            Self::Step(step) => count / (*step).max(1) * (*step).max(1),
            Self::List(list) => list.range(..=count).next_back().copied().unwrap_or(0),
        }
    }
}

/// The milestone to tell of `count`, if there is one beyond what was told in this period and what had been reached when the
/// trigger began. Of several passed at once the highest.
pub fn milestone(
    marks: &Marks,
    count: u64,
    before: u64,
    told: Option<&Reached>,
    period_start: Timestamp,
) -> Option<Reached> {
    let told = told.filter(|told| told.period_start == period_start).map_or(0, |told| told.milestone);
    let milestone = marks.reached(count);
    (milestone > told.max(marks.reached(before))).then_some(Reached { period_start, milestone })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_begin_where_the_site_is() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let now = at("2026-03-29T20:30:00Z");
        for (period, zone, start) in [
            (Period::Day, &TimeZone::UTC, "2026-03-29T00:00:00Z"),
            (Period::Week, &TimeZone::UTC, "2026-03-23T00:00:00Z"),
            (Period::Month, &TimeZone::UTC, "2026-03-01T00:00:00Z"),
            // The clocks went forward that night; before it, midnight was at eleven.
            (Period::Day, &berlin, "2026-03-28T23:00:00Z"),
            (Period::Week, &berlin, "2026-03-22T23:00:00Z"),
            (Period::Month, &berlin, "2026-02-28T23:00:00Z"),
        ] {
            assert_eq!(period.start(now, zone), at(start), "{period:?}");
        }
        assert_eq!(Period::Day.start(at("2026-03-29T22:00:00Z"), &berlin), at("2026-03-29T22:00:00Z"));
    }

    #[test]
    fn a_trouble_is_told_once_and_its_end_once() {
        let (since, later) = (Timestamp::from_secs(100), Timestamp::from_secs(200));
        let Edge::Begins(incident) = edge(None, Sign::There(since)) else { panic!() };
        assert_eq!(incident.started_at, since);
        assert_eq!(edge(Some(&incident), Sign::There(later)), Edge::None);
        assert_eq!(edge(Some(&incident), Sign::Unknown), Edge::None, "what nobody can tell ends nothing");
        assert_eq!(edge(None, Sign::Unknown), Edge::None, "and begins nothing");
        assert_eq!(edge(Some(&incident), Sign::Gone(later)), Edge::Ends(incident, later));
        assert_eq!(edge(None, Sign::Gone(later)), Edge::None);
    }

    #[test]
    fn milestones_are_told_once_a_period() {
        let marks = Marks::List([100, 1_000, 5_000].into());
        let (one, two) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
        let told = |milestone, period_start| Some(Reached { milestone, period_start });
        let next =
            |count, before, told: Option<Reached>, period| milestone(&marks, count, before, told.as_ref(), period);
        assert_eq!(next(99, 0, None, one), None);
        assert_eq!(next(100, 0, None, one), told(100, one));
        assert_eq!(next(999, 0, told(100, one), one), None);
        assert_eq!(next(6_000, 0, told(100, one), one), told(5_000, one), "the highest of those passed");
        assert_eq!(next(9_999, 0, told(5_000, one), one), None);
        assert_eq!(next(150, 0, told(5_000, one), two), told(100, two), "a period begins anew");
        assert_eq!(next(150, 120, None, one), None, "it was there before the trigger");
        assert_eq!(Marks::Step(250).reached(999), 750);
        assert_eq!(Marks::Step(250).reached(249), 0);
    }

    proptest! {
        /// However a count grows, each milestone is told at most once and in order.
        #[test]
        fn each_milestone_once(step in 1u64..50, grows in prop::collection::vec(0u64..40, 1..60)) {
            let marks = Marks::Step(step);
            let (mut count, mut told, mut all) = (0, None, Vec::new());
            for more in grows {
                count += more;
                if let Some(reached) = milestone(&marks, count, 0, told.as_ref(), Timestamp::EPOCH) {
                    prop_assert!(reached.milestone <= count && reached.milestone + step > count);
                    all.push(reached.milestone);
                    told = Some(reached);
                }
            }
            prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(told.map_or(0, |told| told.milestone), count / step * step);
        }
    }
}
