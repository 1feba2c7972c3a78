//! How often something usually happens, and how long it may stay away before that says something.
//!
//! A [`Habit`] is learned from quarter hours of the last four weeks: how much is usual in each hour of the local day and on
//! each day of the week, and how long it stayed away before. Wherever the history leaves room it expects less rather than
//! more: a weekday lowers an hour and never raises it, and so does a last week below the weeks before.
//!
//! A silence is measured in what was missed: what was expected from its beginning until now. Nights and weekends add next
//! to nothing, so they may be silent. Of what happens independently, `missed` is exceeded by chance with probability
//! exp(−missed); what happens so often a day begins as many silences, so ln(times a day · days) is what chance passes once in
//! so many days. What comes in bursts is silent for longer: one and a half times the second longest silence of its own
//! history is waited for at least. The longest may have been an outage.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::baseline::Sensitivity;
use super::ids::SiteId;
use super::time::Timestamp;

/// Width of what is counted: it divides the offset of every time zone.
pub const QUARTER: Duration = Duration::from_secs(900);
/// How far back is learned from.
pub const LEARNED: Duration = Duration::from_secs(28 * 86_400);
/// How often what is usual is learned anew.
pub const LEARN_EVERY: Duration = Duration::from_secs(6 * 3_600);
/// Sites take turns at it, by the hour.
const TURNS: i64 = 6;
/// With less history, fewer times, or on fewer days than this nothing is usual.
const ENOUGH_DAYS: u32 = 3;
const ENOUGH_TIMES: u64 = 20;
/// It has to happen on such a part of its days.
const ENOUGH_OF_DAYS: f64 = 0.5;
/// Days from which weekdays, and the last week, are told apart.
const ENOUGH_FOR_WEEKDAYS: u32 = 14;
/// Silences are never judged by less than this, which one in twenty passes.
const LEAST_LIMIT: f64 = 3.0;
const OF_OWN_SILENCES: f64 = 1.5;
/// A silence is measured so far back at most.
const LONGEST: Duration = Duration::from_secs(8 * 86_400);
const QUARTERS_A_DAY: f64 = 96.0;
const DAY_SECS: i64 = 86_400;

/// How often something happened in each quarter hour (by its start) in which it did.
pub type Quarters = BTreeMap<Timestamp, u64>;

/// What is usual.
#[derive(Debug, Clone, PartialEq)]
pub struct Habit {
    /// Expected in a quarter of each hour of the local day.
    hours: [f64; 24],
    /// What is left of that on each day of the week, from Monday; one at most.
    weekdays: [f64; 7],
    /// Times a day, on average.
    pub per_day: f64,
    /// Days it was learned from.
    pub days: u32,
    /// The second longest silence there was, by what was missed in it.
    second_longest: f64,
}

/// Something stays away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Silence {
    pub since: Timestamp,
    /// How often it would have happened since, by habit.
    pub missed: f64,
    /// From how much on that says something.
    pub limit: f64,
    /// Days it is judged by.
    pub days: u32,
}

impl Silence {
    /// Whether it is more than chance.
    pub fn speaks(&self) -> bool {
        self.missed >= self.limit
    }

    /// One standard deviation of what was expected, Poisson's.
    pub fn spread(&self) -> f64 {
        self.missed.max(1.0).sqrt()
    }

    /// Standard deviations between what was expected and nothing.
    pub fn score(&self) -> f64 {
        self.missed / self.spread()
    }
}

/// The quarter hour that `moment` is in.
pub fn quarter_start(moment: Timestamp) -> Timestamp {
    let width = i64::try_from(QUARTER.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(moment.micros().div_euclid(width) * width)
}

/// Up to when it is learned what is usual for a site at `now`: the last of the moments at which that is learned anew. They are
/// the same for everybody who looks, so that a back-test knows what was known.
pub fn learned_until(site_id: SiteId, now: Timestamp) -> Timestamp {
    let every = i64::try_from(LEARN_EVERY.as_micros()).unwrap_or(i64::MAX);
    let turn = site_id.0.rem_euclid(TURNS) * (every / TURNS);
    Timestamp::from_micros((now.micros() - turn).div_euclid(every) * every + turn)
}

impl Habit {
    /// Learns from the last four weeks before `until`, from the first time on that it happened in them.
    pub fn until(quarters: &Quarters, until: Timestamp, zone: &TimeZone) -> Option<Self> {
        let (first, _) = quarters.range(quarter_start(until - LEARNED)..until).next()?;
        Self::learn(quarters, *first, until, zone)
    }

    /// Whether `span` may be a silence that speaks, where at most `busiest` is seen in a quarter of an hour. Whoever asks has
    /// no need of a habit when not.
    pub fn may_speak(busiest: u64, span: Duration) -> bool {
        busiest as f64 * span.as_secs_f64() / QUARTER.as_secs_f64() >= LEAST_LIMIT
    }

    /// Learns from the quarter hours from `from` until `until`. `None` when nothing is usual: too young, too rare, or only on
    /// some days.
    pub fn learn(quarters: &Quarters, from: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Self> {
        let (from, until) = (quarter_start(from.max(until - LEARNED)), quarter_start(until));
        let span = until.since(from);
        let days = u32::try_from(span.as_secs() / 86_400).unwrap_or(u32::MAX);
        let inside = || quarters.range(from..until);
        let times: u64 = inside().map(|(_, count)| count).sum();
        if days < ENOUGH_DAYS || times < ENOUGH_TIMES {
            return None;
        }
        let mut places = Places::of(zone);
        let mut active: Vec<_> = inside().map(|(at, _)| places.at(*at).day).collect();
        active.dedup();
        if (active.len() as f64) < f64::from(days) * ENOUGH_OF_DAYS {
            return None;
        }
        let (mut of_hours, mut of_weekdays) = ([(0.0, 0.0); 24], [(0.0, 0.0); 7]);
        let mut last_week = (0.0, 0.0);
        let mut start = from;
        let mut counts = inside().peekable();
        while start < until {
            let count = counts.next_if(|(at, _)| **at == start).map_or(0, |(_, count)| *count) as f64;
            let Place { hour, weekday, .. } = places.at(start);
            let add = |(sum, quarters): &mut (f64, f64)| {
                *sum += count;
                *quarters += 1.0;
            };
            add(&mut of_hours[hour]);
            add(&mut of_weekdays[weekday]);
            if until.since(start) <= Duration::from_secs(7 * 86_400) {
                add(&mut last_week);
            }
            start = start + QUARTER;
        }
        let mean = |(sum, quarters): (f64, f64)| if quarters == 0.0 { 0.0 } else { sum / quarters };
        let overall = times as f64 / (span.as_secs_f64() / QUARTER.as_secs_f64());
        let tells_weeks = days >= ENOUGH_FOR_WEEKDAYS;
        let at_most_one = |part: (f64, f64)| if tells_weeks { (mean(part) / overall).min(1.0) } else { 1.0 };
        let lately = at_most_one(last_week);
        let mut habit = Self {
            hours: of_hours.map(|hour| mean(hour) * lately),
            weekdays: of_weekdays.map(at_most_one),
            per_day: overall * QUARTERS_A_DAY,
            days,
            second_longest: 0.0,
        };
        habit.second_longest = habit.silences(inside().map(|(at, _)| *at), zone);
        Some(habit)
    }

    /// How often it is expected between two moments.
    pub fn expected(&self, from: Timestamp, until: Timestamp, zone: &TimeZone) -> f64 {
        let from = from.max(until - LONGEST);
        let mut start = quarter_start(from);
        let (mut expected, mut places) = (0.0, Places::of(zone));
        while start < until {
            let inside = until.min(start + QUARTER).since(from.max(start));
            expected += self.of_quarter(places.at(start)) * inside.as_secs_f64() / QUARTER.as_secs_f64();
            start = start + QUARTER;
        }
        expected
    }

    /// What it says that something has not happened from `since` until `now`.
    pub fn silence(&self, since: Timestamp, now: Timestamp, sensitivity: Sensitivity, zone: &TimeZone) -> Silence {
        let by_chance = (self.per_day * sensitivity.days()).ln();
        let limit = by_chance.max(LEAST_LIMIT).max(self.second_longest * OF_OWN_SILENCES);
        Silence { since, missed: self.expected(since, now, zone), limit, days: self.days }
    }

    fn of_quarter(&self, place: Place) -> f64 {
        self.hours[place.hour] * self.weekdays[place.weekday]
    }

    /// The second longest silence between quarter hours in which it happened. Where in those it did is not known, so half of
    /// each counts in.
    fn silences(&self, happened: impl Iterator<Item = Timestamp>, zone: &TimeZone) -> f64 {
        let (mut longest, mut second) = (0.0_f64, 0.0_f64);
        let mut last: Option<Timestamp> = None;
        for at in happened {
            if let Some(last) = last.filter(|last| *last + QUARTER < at) {
                let missed = self.expected(last + QUARTER / 2, at + QUARTER / 2, zone);
                second = second.max(missed.min(longest));
                longest = longest.max(missed);
            }
            last = Some(at);
        }
        second
    }
}

/// Where in the site's days and weeks a moment is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    /// Of the local calendar, since 1970.
    day: i64,
    hour: usize,
    /// From Monday.
    weekday: usize,
}

/// Tells places of many moments, one after the other: the zone is asked twice for a day of UTC, and by the moment on days on
/// which its clocks change.
struct Places<'a> {
    zone: &'a TimeZone,
    /// The day asked for last, and the seconds the zone is ahead all day.
    asked: Option<(i64, Option<i64>)>,
}

impl<'a> Places<'a> {
    fn of(zone: &'a TimeZone) -> Self {
        Self { zone, asked: None }
    }

    fn at(&mut self, moment: Timestamp) -> Place {
        let utc_day = moment.secs().div_euclid(DAY_SECS);
        let ahead = |moment: Timestamp| i64::from(self.zone.to_offset(moment.to_jiff()).seconds());
        let ahead = match self.asked {
            Some((day, Some(all_day))) if day == utc_day => all_day,
            Some((day, None)) if day == utc_day => ahead(moment),
            _ => {
                let (first, last) = (utc_day * DAY_SECS, (utc_day + 1) * DAY_SECS - 1);
                let (first, last) = (ahead(Timestamp::from_secs(first)), ahead(Timestamp::from_secs(last)));
                let now = ahead(moment);
                self.asked = Some((utc_day, (first == last && now == first).then_some(first)));
                now
            }
        };
        let local = moment.secs() + ahead;
        let day = local.div_euclid(DAY_SECS);
        // The first day of 1970 was a Thursday.
        let (hour, weekday) = (local.rem_euclid(DAY_SECS) / 3_600, (day + 3).rem_euclid(7));
        Place { day, hour: usize::try_from(hour).unwrap_or(0), weekday: usize::try_from(weekday).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3_600);
    /// A Monday.
    const START: Timestamp = Timestamp::from_secs(1_767_571_200);

    /// Counts of each quarter hour, by its number.
    fn quarters(days: u32, count: impl Fn(u32) -> u64) -> Quarters {
        let all = (0..days * 96).map(|quarter| (START + QUARTER * quarter, count(quarter)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    fn learned(days: u32, count: impl Fn(u32) -> u64) -> Option<Habit> {
        Habit::learn(&quarters(days, count), START, START + DAY * days, &TimeZone::UTC)
    }

    fn silence(habit: &Habit, since: Timestamp, span: Duration) -> Silence {
        habit.silence(since, since + span, Sensitivity::Normal, &TimeZone::UTC)
    }

    #[test]
    fn places_are_those_of_the_calendar() {
        // Hours and halves ahead and behind, with clocks that change in the middle of a day and of a night.
        for zone in ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe"] {
            let zone = TimeZone::get(zone).unwrap();
            let mut places = Places::of(&zone);
            for quarter in 0..400 * 96 {
                let at = START + QUARTER * quarter;
                let local = zone.to_datetime(at.to_jiff());
                let place = places.at(at);
                assert_eq!(place.hour, usize::try_from(local.hour()).unwrap(), "{at}");
                assert_eq!(place.weekday, usize::try_from(local.weekday().to_monday_zero_offset()).unwrap(), "{at}");
                let since = jiff::civil::date(1970, 1, 1).until(local.date()).unwrap().get_days();
                assert_eq!(place.day, i64::from(since), "{at}");
            }
        }
    }

    #[test]
    fn what_is_rare_or_new_or_happens_on_some_days_only_is_no_habit() {
        assert_eq!(learned(2, |_| 5), None, "too young");
        assert_eq!(learned(28, |quarter| u64::from(quarter.is_multiple_of(96 * 2))), None, "fourteen times in all");
        let one_day = |quarter: u32| if quarter / 96 == 9 { 50 } else { 0 };
        assert_eq!(learned(28, one_day), None, "one great day");
        assert_eq!(Habit::learn(&Quarters::new(), START, START, &TimeZone::UTC), None);
        assert!(learned(28, |quarter| u64::from(quarter.is_multiple_of(96))).is_some(), "once a day");
    }

    #[test]
    fn a_night_without_anybody_is_no_silence() {
        let by_day = |quarter: u32| if (32..80).contains(&(quarter % 96)) { 4 } else { 0 };
        let habit = learned(21, by_day).unwrap();
        let evening = START + DAY * 21 + HOUR * 20;
        let night = silence(&habit, evening, HOUR * 12);
        assert!(!night.speaks() && night.missed < 0.1, "{night:?}");
        let morning = silence(&habit, evening, HOUR * 15);
        assert!(morning.speaks(), "three hours of the day were missed: {morning:?}");
    }

    #[test]
    fn a_weekend_without_anybody_is_no_silence() {
        let on_weekdays = |quarter: u32| u64::from((quarter / 96) % 7 < 5);
        let habit = learned(28, on_weekdays).unwrap();
        let friday = START + DAY * 33;
        assert!(!silence(&habit, friday, DAY * 2).speaks());
        assert!(silence(&habit, friday, DAY * 3).speaks());
    }

    #[test]
    fn what_happens_once_a_day_may_be_missing_for_days_and_what_is_frequent_for_minutes() {
        let daily = learned(28, |quarter| u64::from(quarter % 96 == 40)).unwrap();
        let now = START + DAY * 28;
        assert!(!silence(&daily, now, DAY * 2).speaks());
        assert!(silence(&daily, now, DAY * 4).speaks());
        let often = learned(28, |_| 20).unwrap();
        assert!(!silence(&often, now, Duration::from_secs(300)).speaks());
        assert!(silence(&often, now, Duration::from_secs(900)).speaks());
    }

    #[test]
    fn what_comes_in_bursts_is_given_longer_and_one_outage_does_not_make_it_blind() {
        let now = START + DAY * 28;
        let steady = learned(28, |_| 2).unwrap();
        let bursts = learned(28, |quarter| if quarter % 12 < 3 { 8 } else { 0 }).unwrap();
        let limit = |habit: &Habit| silence(habit, now, HOUR).limit;
        assert!(limit(&bursts) > 1.5 * limit(&steady), "{} and {}", limit(&bursts), limit(&steady));
        let outage = learned(28, |quarter| if (1_000..1_096).contains(&quarter) { 0 } else { 2 }).unwrap();
        assert!((limit(&outage) - limit(&steady)).abs() < 0.5, "{} and {}", limit(&outage), limit(&steady));
    }

    #[test]
    fn less_in_the_last_week_is_less_expected() {
        let fading = learned(28, |quarter| if quarter < 96 * 21 { 8 } else { 1 }).unwrap();
        let now = START + DAY * 28;
        let expected = fading.expected(now, now + HOUR, &TimeZone::UTC);
        assert!((2.0..6.0).contains(&expected), "{expected}");
    }

    proptest! {
        /// Whoever is more sensitive speaks no later, and a silence that speaks goes on speaking.
        #[test]
        fn silences_only_grow(counts in prop::collection::vec(0u64..6, 96 * 4), minutes in 1u32..3_000, more in 0u32..600) {
            let Some(habit) = learned(4, |quarter| counts[quarter as usize]) else { return Ok(()) };
            let since = START + DAY * 4;
            let now = since + Duration::from_secs(60) * minutes;
            let spoken = Sensitivity::ALL.map(|one| habit.silence(since, now, one, &TimeZone::UTC).speaks());
            prop_assert!(spoken[0] <= spoken[1] && spoken[1] <= spoken[2]);
            let later = silence(&habit, since, Duration::from_secs(60) * (minutes + more));
            prop_assert!(later.missed >= silence(&habit, since, Duration::from_secs(60) * minutes).missed);
            prop_assert!(later.missed.is_finite() && later.score() >= 0.0);
        }

        /// Of what happens by chance alone, at a steady rate, few silences of a month speak.
        #[test]
        fn chance_alone_hardly_ever_speaks(seed in 0u64..1_000) {
            use rand::{RngExt as _, SeedableRng as _};
            let mut dice = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut counts = |_| u64::from(dice.random::<f64>() < 0.2);
            let all: Vec<u64> = (0..96 * 56).map(&mut counts).collect();
            let habit = learned(28, |quarter| all[quarter as usize]).unwrap();
            let (mut last, mut spoke) = (START + DAY * 28, 0);
            for (quarter, count) in all.iter().enumerate().skip(96 * 28) {
                let at = START + QUARTER * u32::try_from(quarter).unwrap();
                if *count > 0 {
                    spoke += u32::from(silence(&habit, last, at.since(last)).speaks());
                    last = at;
                }
            }
            prop_assert!(spoke <= 6, "{} in four weeks", spoke);
        }
    }
}
