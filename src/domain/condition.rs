//! What is watched that no single hit shows: something stays away, adds up, or cannot be seen. Decisions only; what they are
//! made of is gathered by whoever looks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::decide::Incident;
use super::habit::Silence;
use super::time::{Timestamp, in_words};

/// A goal is given so long, however often it converts: events wait on their way.
const LEAST_STALL: Duration = Duration::from_secs(600);

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

/// What is seen of a silence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub sign: Sign,
    silence: Option<Silence>,
}

impl Seen {
    pub const UNKNOWN: Self = Self { sign: Sign::Unknown, silence: None };

    /// Of a site that was last heard of at `last_at`, and could have been since `since`; `silence` where it is known to be its
    /// own.
    pub fn no_data(
        after: Duration,
        last_at: Timestamp,
        since: Timestamp,
        silence: Option<Silence>,
        open: Option<&Incident>,
        now: Timestamp,
    ) -> Self {
        Self::of(last_at, open, silence.filter(|_| now.since(since) >= after))
    }

    /// The same of a goal that was last completed at `last_at`.
    pub fn goal_stalled(last_at: Timestamp, silence: Option<Silence>, open: Option<&Incident>, now: Timestamp) -> Self {
        Self::of(last_at, open, silence.filter(|silence| now.since(silence.since) >= LEAST_STALL))
    }

    fn of(last_at: Timestamp, open: Option<&Incident>, silence: Option<Silence>) -> Self {
        let sign = match (open, silence) {
            (Some(open), _) if last_at > open.started_at => Sign::Gone(last_at),
            (Some(_), _) => Sign::There(last_at),
            (None, Some(silence)) if silence.speaks() => Sign::There(last_at),
            (None, _) => Sign::Unknown,
        };
        Self { sign, silence }
    }

    /// The silence that is told.
    pub fn silence(&self, since: Timestamp) -> Silence {
        self.silence.unwrap_or(Silence { since, missed: 0.0, limit: 0.0, days: 0 })
    }
}

/// Why the silence of a site is told, in a sentence.
pub fn reason_of_no_data(last_at: Timestamp, silence: &Silence, now: Timestamp) -> String {
    format!(
        "No event for {}, where about {:.0} visitors are usual by {} days of history. Look whether the tracker is still on the \
         pages, and whether the site can be reached.",
        in_words(now.since(last_at)),
        silence.missed.round(),
        silence.days
    )
}

/// Why it is told that a goal stalls, in a sentence.
pub fn reason_of_goal_stalled(goal: &str, last_at: Timestamp, silence: &Silence, now: Timestamp) -> String {
    format!(
        "\"{goal}\" was last completed {} ago, where about {:.0} completions are usual by {} days of history. Visitors still \
         come: try what completes it yourself.",
        in_words(now.since(last_at)),
        silence.missed.round(),
        silence.days
    )
}

/// Why a milestone is told, in a sentence. `what` is counted.
pub fn reason_of_milestone(what: &str, period: Period, reached: &Reached, count: u64) -> String {
    format!("{count} {what} this {} so far: past {}.", period.as_str(), reached.milestone)
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

    /// What is counted, in words: all of a site, or the completions of a goal.
    pub fn of(self, goal: Option<&str>) -> String {
        match goal {
            Some(goal) => format!("completions of \"{goal}\""),
            None => self.as_str().to_owned(),
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

    /// When each period begins that some of `span` is in.
    pub fn starts(self, span: Range<Timestamp>, zone: &TimeZone) -> Vec<Timestamp> {
        // Shorter than any period, so that none is passed over.
        const STEP: Duration = Duration::from_secs(12 * 3_600);
        let mut starts = vec![self.start(span.start, zone)];
        let (mut now, last) = (span.start, span.end - Duration::from_micros(1));
        while now < last {
            now = (now + STEP).min(last);
            let start = self.start(now, zone);
            if starts.last() != Some(&start) {
                starts.push(start);
            }
        }
        starts
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
