//! What is counted, over what has happened: completions and custom events, at once or in batches, and milestones.
//!
//! Live something is told at once, or at a look every ten seconds. Here what happened in the same minute is together for
//! completions, and in the same window of five for milestones: what live tells of it in several events is one firing, with its
//! count, and of the milestones passed in it the highest.

use std::ops::Range;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Backtest, Firing, Heard, Point, whole};
use crate::domain::baseline::{WINDOW, window_start};
use crate::domain::condition::{Marks, Period, Reached, milestone, reason_of_milestone};
use crate::domain::time::{Timestamp, in_words};
use crate::domain::trigger::Batch;

/// What is counted together.
pub const TOGETHER: Duration = Duration::from_secs(60);

/// What happened under one name, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// In quotation marks, and what it did: `"Signup" was completed`.
    pub what: String,
    pub heard: Vec<Heard>,
}

/// When completions, or a custom event, would have been told.
pub fn completions(batch: Option<Batch>, all: &[Named], span: Range<Timestamp>) -> Backtest {
    let mut firings = Vec::new();
    for Named { what, heard } in all {
        let inside = heard.iter().filter(|heard| span.contains(&heard.first_at));
        match batch {
            None => firings.extend(inside.map(|heard| told(what, heard, heard.first_at))),
            Some(batch) => firings.extend(batches(batch, what, inside, span.end)),
        }
    }
    firings.sort_by_key(|firing| firing.timestamp);
    let mut counts = std::collections::BTreeMap::new();
    for heard in all.iter().flat_map(|named| &named.heard).filter(|heard| span.contains(&heard.first_at)) {
        *counts.entry(window_start(heard.first_at)).or_insert(0_u64) += heard.count;
    }
    let series = windows(&span).map(|start| Point::counted(start, counts.get(&start).copied().unwrap_or(0)));
    Backtest { firings, series: series.collect(), ..Backtest::default() }
}

/// Batches of what happened until `until`, as they become due.
fn batches<'a>(batch: Batch, what: &str, heard: impl Iterator<Item = &'a Heard>, until: Timestamp) -> Vec<Firing> {
    let mut firings = Vec::new();
    let mut open: Option<Heard> = None;
    for heard in heard {
        if let Some(due) = open.filter(|open| batch.due_at(open.first_at) <= heard.first_at) {
            firings.push(told(what, &due, batch.due_at(due.first_at)));
            open = None;
        }
        let gathered = open.get_or_insert(Heard { count: 0, ..*heard });
        gathered.count += heard.count;
        gathered.last_at = heard.last_at;
        if batch.is_due(gathered.count, gathered.first_at, gathered.last_at) {
            firings.push(told(what, gathered, gathered.last_at));
            open = None;
        }
    }
    let due = open.filter(|open| batch.due_at(open.first_at) < until);
    firings.extend(due.map(|due| told(what, &due, batch.due_at(due.first_at))));
    firings
}

fn told(what: &str, heard: &Heard, timestamp: Timestamp) -> Firing {
    let within = heard.last_at.since(heard.first_at);
    let reason = match heard.count {
        1 => format!("{what} once."),
        count if within < TOGETHER => format!("{what} {count} times within a minute."),
        count => format!("{what} {count} times within {}.", in_words(within)),
    };
    counted(timestamp, heard.count, reason)
}

/// When milestones would have been told. `grows` says by how much the count of its period grew in each window of five minutes,
/// beginning with the period that `span` begins in.
pub fn milestones(
    marks: &Marks,
    period: Period,
    what: &str,
    grows: &[(Timestamp, u64)],
    zone: &TimeZone,
    span: Range<Timestamp>,
) -> Backtest {
    let mut firings = Vec::new();
    let mut series = Vec::new();
    let mut grows = grows.iter().copied().peekable();
    let (mut period_start, mut count, mut told) = (period.start(span.start, zone), 0, None::<Reached>);
    // What was there before it began.
    while let Some((_, more)) = grows.next_if(|(start, _)| *start < span.start) {
        count += more;
    }
    let mut before = count;
    for start in windows(&span) {
        let begins = period.start(start, zone);
        if begins != period_start {
            (period_start, count, before) = (begins, 0, 0);
        }
        if let Some((_, more)) = grows.next_if(|(grew, _)| *grew <= start) {
            count += more;
        }
        if let Some(reached) = milestone(marks, count, before, told.as_ref(), period_start) {
            told = Some(reached);
            firings.push(counted(start, count, reason_of_milestone(what, period, &reached, count)));
        }
        series.push(Point::counted(start, count));
    }
    Backtest { firings, series, ..Backtest::default() }
}

fn windows(span: &Range<Timestamp>) -> impl Iterator<Item = Timestamp> + use<> {
    let end = span.end;
    std::iter::successors(Some(window_start(span.start)), |start| Some(*start + WINDOW))
        .take_while(move |start| *start < end)
}

fn counted(timestamp: Timestamp, count: u64, reason: String) -> Firing {
    let observed = whole(count);
    Firing { timestamp, observed, expected: None, change_percent: None, score: None, reason, ended_at: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(minute: i64, count: u64) -> Heard {
        let at = Timestamp::from_secs(minute * 60);
        Heard { first_at: at, last_at: at, count }
    }

    fn tell(batch: Option<Batch>, heard: Vec<Heard>) -> Vec<(i64, u32)> {
        let named = Named { what: "\"Signup\" was completed".to_owned(), heard };
        let done = completions(batch, &[named], Timestamp::EPOCH..Timestamp::from_secs(3 * 86_400));
        done.firings.iter().map(|firing| (firing.timestamp.secs() / 60, firing.observed)).collect()
    }

    #[test]
    fn completions_are_told_at_once_or_together() {
        let all = vec![heard(1, 1), heard(3, 2), heard(10, 1), heard(100, 1)];
        assert_eq!(tell(None, all.clone()), [(1, 1), (3, 2), (10, 1), (100, 1)]);
        let quarter = Batch::Every(Duration::from_secs(900));
        assert_eq!(tell(Some(quarter), all.clone()), [(16, 4), (115, 1)]);
        assert_eq!(tell(Some(Batch::Count(3)), all), [(3, 3), (10 + 1_440, 2)], "a day after the first at the latest");
    }

    #[test]
    fn a_milestone_is_told_in_the_window_that_passes_it() {
        let window = |number: i64| Timestamp::from_secs(number * 300);
        let grows = [(window(0), 90), (window(2), 5), (window(3), 8), (window(7), 300), (window(288), 150)];
        let marks = Marks::Step(100);
        let span = window(1)..window(2 * 288);
        let done = milestones(&marks, Period::Day, "visitors", &grows, &TimeZone::UTC, span);
        let told: Vec<_> = done.firings.iter().map(|firing| (firing.timestamp, firing.observed)).collect();
        assert_eq!(told, [(window(3), 103), (window(7), 403), (window(288), 150)]);
        assert_eq!(done.firings[1].reason, "403 visitors this day so far: past 400.");
        assert_eq!(done.series.last().unwrap().observed, 150);
    }

    proptest! {
        /// Whatever is gathered, nothing is told twice and nothing that was due is left out.
        #[test]
        fn batches_have_everything_once(times in prop::collection::vec((0i64..2_000, 1u64..5), 0..80), count in 2u64..30) {
            let mut times = times;
            times.sort_unstable();
            let all: Vec<_> = times.iter().map(|(minute, count)| heard(*minute, *count)).collect();
            let happened: u64 = times.iter().map(|(_, count)| count).sum();
            for batch in [Batch::Count(count), Batch::Every(Duration::from_secs(60 * count))] {
                let told: u64 = tell(Some(batch), all.clone()).iter().map(|(_, count)| u64::from(*count)).sum();
                prop_assert_eq!(told, happened);
            }
        }
    }
}
