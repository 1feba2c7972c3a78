//! What stays away, over what has happened: between two times it did, the same habits, learned at the same moments, and the same
//! [`Seen`] as live.
//!
//! Live a silence counts only while it could have been heard ([`crate::domain::condition`] says when nobody can tell). Of that
//! history knows one thing, whether the whole site was silent; where this server was away, or every site was silent at once, a
//! back-test tells what live did not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Backtest, Firing, Heard, Point};
use crate::domain::baseline::{Basis, Sensitivity};
use crate::domain::condition::{Seen, Sign, reason_of_goal_stalled, reason_of_no_data};
use crate::domain::habit::{Habit, LEARN_EVERY, QUARTER, Quarters, Silence, learned_until, quarter_start};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::{GoalStalled, NoData};

/// How exactly the moment is found at which a silence speaks: as moments are kept.
const EXACT: Duration = Duration::from_micros(1);

/// What is known of the traffic of a site.
#[derive(Debug, Clone, Copy)]
pub struct Traffic<'a> {
    pub site_id: SiteId,
    pub zone: &'a TimeZone,
    /// How busy each quarter hour was.
    pub quarters: &'a Quarters,
    /// When something happened, oldest first.
    pub heard: &'a [Heard],
}

/// A silence that spoke.
struct Spoken {
    last_at: Timestamp,
    /// When it began to.
    at: Timestamp,
    habit: Habit,
    /// When it was over.
    ended_at: Option<Timestamp>,
}

/// What was usual, by the moment up to which it was learned.
struct Habits<'a> {
    of: Traffic<'a>,
    busiest: u64,
    learned: BTreeMap<Timestamp, Option<Habit>>,
}

impl<'a> Habits<'a> {
    fn new(of: Traffic<'a>) -> Self {
        Self { of, busiest: of.quarters.values().copied().max().unwrap_or(0), learned: BTreeMap::new() }
    }

    fn at(&mut self, until: Timestamp) -> Option<&Habit> {
        let Traffic { quarters, zone, .. } = self.of;
        self.learned.entry(until).or_insert_with(|| Habit::until(quarters, until, zone)).as_ref()
    }

    /// The first moment of `span` at which what was usual by then has something said that goes on being said, and by what.
    fn first(
        &mut self,
        span: Range<Timestamp>,
        says: impl Fn(&Habit, Timestamp) -> bool,
    ) -> Option<(Timestamp, Habit)> {
        let mut start = span.start;
        while start < span.end {
            let until = learned_until(self.of.site_id, start);
            let end = (until + LEARN_EVERY).min(span.end);
            if let Some(habit) = self.at(until)
                && let Some(at) = first_of(start..end, |now| says(habit, now))
            {
                return Some((at, habit.clone()));
            }
            start = end;
        }
        None
    }

    /// The silences of a site, of `least` at least, that spoke before `until`.
    fn spoken(&mut self, least: Duration, until: Timestamp) -> Vec<Spoken> {
        let zone = self.of.zone;
        let mut all = Vec::new();
        for (last_at, ended_at) in gaps(self.of.heard, until) {
            let end = ended_at.unwrap_or(until);
            let span = end.since(last_at);
            if span < least || !Habit::may_speak(self.busiest, span) {
                continue;
            }
            let speaks = |habit: &Habit, now| habit.silence(last_at, now, Sensitivity::Normal, zone).speaks();
            if let Some((at, habit)) = self.first(last_at..end, speaks) {
                all.push(Spoken { last_at, at, habit, ended_at });
            }
        }
        all
    }
}

/// Times without anything, from the last before until the first after it.
fn gaps(heard: &[Heard], until: Timestamp) -> impl Iterator<Item = (Timestamp, Option<Timestamp>)> {
    let next = heard.iter().skip(1).map(|heard| Some(heard.first_at)).chain([None]);
    heard.iter().zip(next).map(|(heard, next)| (heard.last_at, next)).take_while(move |(last_at, _)| *last_at < until)
}

/// How often something happened in each quarter hour.
pub fn quarters(heard: &[Heard]) -> Quarters {
    let mut quarters = Quarters::new();
    for heard in heard {
        *quarters.entry(quarter_start(heard.first_at)).or_default() += heard.count;
    }
    quarters
}

/// When a site would have been told to be silent.
pub fn no_data(settings: &NoData, traffic: Traffic<'_>, span: Range<Timestamp>) -> Backtest {
    let mut habits = Habits::new(traffic);
    let mut firings = Vec::new();
    for Spoken { last_at, at, habit, ended_at } in habits.spoken(settings.after, span.end) {
        let silence = |now| habit.silence(last_at, now, Sensitivity::Normal, traffic.zone);
        let end = ended_at.unwrap_or(span.end);
        // What it was held against once it spoke stays.
        let told = first_of(at.max(span.start)..end, |now| {
            let seen = Seen::no_data(settings.after, last_at, last_at, Some(silence(now)), None, now);
            matches!(seen.sign, Sign::There(_))
        });
        if let Some(now) = told {
            let reason = reason_of_no_data(last_at, &silence(now), now);
            firings.push(firing(now, &silence(now), reason, ended_at.filter(|_| settings.notify_end)));
        }
    }
    done(firings, &mut habits, span)
}

/// When a goal would have been told to stall. `named` is its name, `completions` are its own; `site` is the traffic of its site,
/// where that is known: nobody completes a goal of a site that nobody visits.
pub fn goal_stalled(
    settings: &GoalStalled,
    named: &str,
    completions: Traffic<'_>,
    site: Option<Traffic<'_>>,
    span: Range<Timestamp>,
) -> Backtest {
    let mut habits = Habits::new(completions);
    let silent: Vec<_> = site.map_or_else(Vec::new, |site| Habits::new(site).spoken(Duration::ZERO, span.end));
    let mut firings = Vec::new();
    for (last_at, ended_at) in gaps(completions.heard, span.end) {
        let end = ended_at.unwrap_or(span.end);
        if end <= span.start || !Habit::may_speak(habits.busiest, end.since(last_at)) {
            continue;
        }
        for part in visited(last_at..end, &silent) {
            let since = part.start;
            let silence = |habit: &Habit, now| habit.silence(since, now, settings.sensitivity, completions.zone);
            let told = habits.first(part.start.max(span.start)..part.end, |habit, now| {
                let seen = Seen::goal_stalled(last_at, Some(silence(habit, now)), None, now);
                matches!(seen.sign, Sign::There(_))
            });
            if let Some((now, habit)) = told {
                let silence = silence(&habit, now);
                let reason = reason_of_goal_stalled(named, last_at, &silence, now);
                firings.push(firing(now, &silence, reason, ended_at.filter(|_| settings.notify_end)));
                break;
            }
        }
    }
    done(firings, &mut habits, span)
}

/// The parts of a time in which the site was not silent.
fn visited(span: Range<Timestamp>, silent: &[Spoken]) -> Vec<Range<Timestamp>> {
    let mut parts = Vec::new();
    let mut start = span.start;
    let over = silent.partition_point(|silence| silence.ended_at.is_some_and(|ended_at| ended_at <= span.start));
    for silence in &silent[over..] {
        if silence.at >= span.end {
            break;
        }
        if silence.at > start {
            parts.push(start..silence.at);
        }
        start = silence.ended_at.unwrap_or(span.end);
    }
    if start < span.end {
        parts.push(start..span.end);
    }
    parts
}

/// The first moment of `span` at which something is that goes on being.
fn first_of(span: Range<Timestamp>, is: impl Fn(Timestamp) -> bool) -> Option<Timestamp> {
    if span.is_empty() {
        return None;
    }
    let (mut before, mut since) = (span.start, span.end - EXACT);
    if is(before) {
        return Some(before);
    }
    if !is(since) {
        return None;
    }
    while since.since(before) > EXACT {
        let middle = before + since.since(before) / 2;
        if is(middle) { since = middle } else { before = middle }
    }
    Some(since)
}

fn firing(now: Timestamp, silence: &Silence, reason: String, ended_at: Option<Timestamp>) -> Firing {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative, and saturating is right"
    )]
    let expected = silence.missed.round() as u32;
    let score = Some((silence.score() * 10.0).round() / 10.0);
    Firing { timestamp: now, observed: 0, expected: Some(expected), change_percent: None, score, reason, ended_at }
}

fn done(firings: Vec<Firing>, habits: &mut Habits<'_>, span: Range<Timestamp>) -> Backtest {
    let mut series = Vec::new();
    let mut start = quarter_start(span.start);
    while start < span.end {
        series.push(Point::counted(start, habits.of.quarters.get(&start).copied().unwrap_or(0)));
        start = start + QUARTER;
    }
    let until = learned_until(habits.of.site_id, span.end);
    let basis = habits.at(until).map(|habit| Basis::History { days: habit.days });
    Backtest { firings, series, suggestions: Vec::new(), basis }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const MINUTE: Duration = Duration::from_secs(60);
    static ZONE: TimeZone = TimeZone::UTC;
    /// A Monday.
    const START: Timestamp = Timestamp::from_secs(1_767_571_200);

    /// Something every so many minutes for four weeks, but in `silent`.
    fn heard(every: u32, silent: &[Range<Timestamp>]) -> (Vec<Heard>, Quarters) {
        let times = (0..28 * 1_440 / every).map(|time| START + MINUTE * (time * every));
        let times: Vec<_> = times.filter(|at| !silent.iter().any(|silent| silent.contains(at))).collect();
        let heard: Vec<_> = times.into_iter().map(|at| Heard { first_at: at, last_at: at, count: 1 }).collect();
        let quarters = super::quarters(&heard);
        (heard, quarters)
    }

    fn traffic<'a>((heard, quarters): &'a (Vec<Heard>, Quarters)) -> Traffic<'a> {
        Traffic { site_id: SiteId(4), zone: &ZONE, quarters, heard }
    }

    fn stalled() -> GoalStalled {
        let settings = r#"{"goal_id": "1", "sensitivity": "normal", "notify_end": true, "shadow": false}"#;
        serde_json::from_str(settings).unwrap()
    }

    #[test]
    fn an_hour_of_silence_is_told_when_it_is_an_hour_and_its_end_with_it() {
        let silent = START + DAY * 20..START + DAY * 20 + MINUTE * 150;
        let heard = heard(5, std::slice::from_ref(&silent));
        let settings = NoData { after: MINUTE * 60, notify_end: true, shadow: false };
        let span = START + DAY * 7..START + DAY * 28;
        let done = no_data(&settings, traffic(&heard), span.clone());
        let [firing] = &done.firings[..] else { panic!("{:?}", done.firings) };
        assert_eq!(firing.timestamp.since(silent.start), MINUTE * 55, "the last was five minutes before");
        assert_eq!(firing.ended_at, Some(silent.end));
        assert!(firing.reason.contains("No event for 60 minutes"), "{}", firing.reason);
        assert_eq!(done.series.len(), 21 * 96);
        // Whoever begins in the middle of it is told at once.
        let begun = no_data(&settings, traffic(&heard), silent.start + MINUTE * 100..span.end);
        assert_eq!(begun.firings[0].timestamp, silent.start + MINUTE * 100);
        let patient = NoData { after: MINUTE * 180, ..settings };
        assert_eq!(no_data(&patient, traffic(&heard), span).firings, []);
    }

    #[test]
    fn a_goal_stalls_while_its_site_is_visited() {
        let stalls = START + DAY * 18..START + DAY * 18 + MINUTE * 600;
        let away = START + DAY * 22..START + DAY * 22 + MINUTE * 600;
        let completions = heard(30, &[stalls.clone(), away.clone()]);
        let site = heard(5, std::slice::from_ref(&away));
        let span = START + DAY * 7..START + DAY * 28;
        let done = goal_stalled(&stalled(), "Signup", traffic(&completions), Some(traffic(&site)), span.clone());
        let [firing] = &done.firings[..] else { panic!("{:?}", done.firings) };
        assert!(stalls.contains(&firing.timestamp) && firing.ended_at == Some(stalls.end), "{firing:?}");
        let alone = goal_stalled(&stalled(), "Signup", traffic(&completions), None, span);
        assert_eq!(alone.firings.len(), 2, "nobody says that the site was silent too");
    }

    #[test]
    fn nothing_heard_is_nothing_told() {
        let nothing = (Vec::new(), Quarters::new());
        let settings = NoData { after: MINUTE * 60, notify_end: false, shadow: false };
        let done = no_data(&settings, traffic(&nothing), START..START + DAY);
        assert_eq!((done.firings, done.basis), (Vec::new(), None));
    }
}
