//! What is usual: a site's own five-minute windows, learned one at a time as they close.
//!
//! A [`Profile`] is a few hundred numbers, and a window costs the same however long the history is. What a window is
//! expected to hold is a product: how busy the site is (half-life a week), what this half hour of the local day and this
//! day of the week make of that, and how the last hours went (half-life twelve hours). Counts are clipped at three
//! spreads before anything learns of them, and while visitors are missing nothing is learned, a day at most: a launch, a
//! holiday or an outage leaves hardly a trace. What stays for a day on one side of what is expected is a new normal, and
//! how busy the site is is learned anew within hours.
//!
//! How unusual a window is says the excess over what was expected, in spreads, over five minutes, half an hour and two
//! hours: a rush shows in the first, what builds up slowly in the others. How much of that is too much is not a constant:
//! each site has bursts of its own. The peaks of past excursions ([`Tail`]) are a sample of them, their logarithms are
//! taken to be exponential as in extreme-value theory (a Pareto tail), and what that predicts to be passed once in
//! so many days is the limit. With few peaks the prediction is wide, so a young site is judged mildly. A peak that was
//! itself beyond the limit counts as the limit: one great day does not make the site blind.
//!
//! Rises are held against the greater of what the last hours and what the longer history expect, falls against the
//! smaller: the morning after a holiday is no rush. In the same way the first and the last window of a half hour may be
//! like the half hour they are next to: what begins every day at six may begin a little before.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(300);
/// How far back is read to learn a site anew.
pub const HISTORY: Duration = Duration::from_secs(56 * 86_400);
/// Looks kept for whoever comes late: two hours.
pub const LOOKS: usize = 24;

/// How far above or below what is expected, in spreads, a window must lie at least. Five spreads of Poisson noise come up
/// less often than once in ten years of windows.
pub const SIGNIFICANCE: f64 = 5.0;

/// Windows of a day.
const DAY: f64 = 288.0;
/// Windows over which excess is added up.
const SPANS: [usize; 3] = [1, 6, 24];
const MINUTES: [u16; 3] = [5, 30, 120];
const LONGEST_SPAN: usize = 24;
/// Windows below which nothing is known: an hour's worth.
const ENOUGH_WINDOWS: u64 = 12;
/// Days from which time of day is told from chance.
const ENOUGH_DAYS: u64 = 3;
/// Days from which days of the week are told apart.
const ENOUGH_FOR_WEEKDAYS: u64 = 7;
/// Slots of a day: half hours.
const SLOTS: usize = 48;
/// A slot's own evidence weighs as much as "no different from the rest" after so many days.
const SLOT_PRIOR: f64 = 2.0;
const WEEKDAY_PRIOR: f64 = 1.0;
/// Weeks a weekday remembers.
const WEEKDAY_WEEKS: f64 = 3.0;
/// Half-lives in windows.
const BUSYNESS_HALF_LIFE: f64 = 7.0 * DAY;
const SLOT_HALF_LIFE: f64 = 7.0 * 6.0;
const LEVEL_HALF_LIFE: f64 = 0.5 * DAY;
const NOISE_HALF_LIFE: f64 = 3.0 * DAY;
const TAIL_HALF_LIFE: f64 = 28.0 * DAY;
/// What pulls the last hours back to the longer history, for each window.
const LEVEL_PULL: f64 = 0.01;
/// Counts further off than this many spreads are learned as if they were no further.
const CLIP: f64 = 3.0;
/// A shift of one spread one way or the other, all day long, is a new normal: from so much of it on, on an average with
/// [`SHIFT_HALF_LIFE`], busyness is learned anew, at [`SHIFTED_HALF_LIFE`].
const SHIFTED: f64 = 0.6;
const SHIFT_HALF_LIFE: f64 = 0.75 * DAY;
const SHIFTED_HALF_LIFE: f64 = 0.25 * DAY;
/// How long visitors may be missing before that is usual.
const OUTAGE_AT_MOST: u32 = 288;
/// Expected visitors of a window never fall below this: one in a hundred minutes.
const LEAST: f64 = 0.05;

/// Distinct visitors of one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowCount {
    pub start: Timestamp,
    pub visitors: u32,
}

/// Where the window begins that `moment` is in. Windows are aligned to the hour in UTC.
pub fn window_start(moment: Timestamp) -> Timestamp {
    let width = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(moment.micros().div_euclid(width) * width)
}

/// What an expectation rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// This time of day on so many days.
    History { days: u32 },
    /// Too young for that: its last hours.
    LastHours { hours: u32 },
}

/// How much has to happen before it is worth a word. Each trigger chooses one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    /// What noise alone does less than once in two months.
    Low,
    /// What noise alone does about once in two weeks.
    #[default]
    Normal,
    /// What noise alone does twice a week.
    High,
}

impl Sensitivity {
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Days in which noise may pass the limit once.
    pub(super) fn days(self) -> f64 {
        match self {
            Self::Low => 60.0,
            Self::Normal => 14.0,
            Self::High => 3.5,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Which way visitors went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Rise,
    Fall,
}

/// What a window is held against, one way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub expected: f64,
    /// Spreads beyond what is expected, in the span where that is most unusual. Positive is unusual.
    pub score: f64,
    /// How long that span is.
    pub minutes: u16,
    /// The score divided by the site's limit, for each [`Sensitivity`] in their order: 1 is as much as noise does that
    /// rarely. Zero below [`SIGNIFICANCE`] for those that would be above.
    of_limit: [f64; 3],
}

impl Side {
    pub fn of_limit(&self, sensitivity: Sensitivity) -> f64 {
        self.of_limit[sensitivity as usize]
    }
}

/// One window, judged before it was learned from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub start: Timestamp,
    pub visitors: u32,
    /// One standard deviation of a window, never less than Poisson's.
    pub spread: f64,
    pub rise: Side,
    pub fall: Side,
    pub basis: Basis,
}

impl Look {
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Rise => &self.rise,
            Direction::Fall => &self.fall,
        }
    }

    /// When the window closes.
    pub fn end(&self) -> Timestamp {
        self.start + WINDOW
    }
}

/// An average of what was seen so far, that forgets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Factor {
    mean: f64,
    /// Days it was seen on.
    days: f64,
}

/// Peaks of past excursions beyond [`Tail::FROM`] spreads: how many, how high, in how many days. All three are forgotten
/// at the same pace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Tail {
    peaks: f64,
    /// Sum of the logarithms of the peaks in units of [`Tail::FROM`].
    logs: f64,
    days: f64,
    /// What a site of which nothing is known is taken to have: the mean logarithm of its peaks.
    prior: f64,
    /// The excursion that is under way: its peak, and windows since it was last beyond.
    peak: f64,
    calm: u16,
}

/// What was learned of one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The first window learned from.
    pub began: Timestamp,
    /// Everything before was learned from.
    pub until: Timestamp,
    windows: u64,
    busyness: f64,
    level: f64,
    /// Variance over what is expected: one for Poisson's.
    noise: f64,
    slots: Vec<Factor>,
    weekdays: [Factor; 7],
    rises: [Tail; SPANS.len()],
    falls: [Tail; SPANS.len()],
    /// On which side of what is expected the last hours were: 1 when all lay a spread above.
    shift: f64,
    /// Windows in a row in which visitors were missing beyond the limit.
    missing: u32,
    /// Visitors of the last windows, and what rises and falls expected of them.
    recent: VecDeque<(u32, f64, f64)>,
    looks: VecDeque<Look>,
}

/// What a window is expected to hold.
#[derive(Debug, Clone, Copy)]
struct Expected {
    middle: f64,
    rise: f64,
    fall: f64,
    /// What rises and falls of this window are held against: next to another half hour it may be like that one.
    rise_at_most: f64,
    fall_at_least: f64,
    slot: usize,
    weekday: usize,
    slot_factor: f64,
    weekday_factor: f64,
}

impl Profile {
    /// A profile that knows nothing before `began`, the start of the first window.
    pub fn new(began: Timestamp) -> Self {
        let unknown = Factor { mean: 1.0, days: 0.0 };
        Self {
            began,
            until: began,
            windows: 0,
            busyness: 0.0,
            level: 1.0,
            noise: 1.0,
            slots: vec![unknown; SLOTS],
            weekdays: [unknown; 7],
            rises: [Tail::new(Tail::PRIOR_OF_RISES); SPANS.len()],
            falls: [Tail::new(Tail::PRIOR_OF_FALLS); SPANS.len()],
            shift: 0.0,
            missing: 0,
            recent: VecDeque::with_capacity(LONGEST_SPAN),
            looks: VecDeque::with_capacity(LOOKS),
        }
    }

    /// Learns from consecutive windows, oldest first. `None` when there are none.
    pub fn learn(windows: &[WindowCount], zone: &TimeZone) -> Option<Self> {
        let mut profile = Self::new(windows.first()?.start);
        for window in windows {
            profile.step(*window, zone);
        }
        Some(profile)
    }

    /// Whether it is too young to tell the time of day.
    pub fn is_young(&self) -> bool {
        matches!(self.basis(), Basis::LastHours { .. })
    }

    /// Judges a window that has closed, then learns from it. `None` while there is less than an hour to judge by.
    pub fn step(&mut self, window: WindowCount, zone: &TimeZone) -> Option<Look> {
        let expected = self.expected(window.start, zone);
        let look = self.judge(window, &expected);
        if let Some(look) = look {
            self.remember_peaks(&look, window, &expected);
            if self.looks.len() == LOOKS {
                self.looks.pop_front();
            }
            self.looks.push_back(look);
        }
        self.take_in(window, &expected, look.as_ref());
        look
    }

    /// What the window that opened when the last one closed looks like so far, with so many visitors. Of rises it never
    /// says more than it will say when the window has closed; of falls it says nothing yet.
    pub fn peek(&self, visitors: u32, zone: &TimeZone) -> Option<Look> {
        let window = WindowCount { start: self.until, visitors };
        self.judge(window, &self.expected(window.start, zone))
    }

    /// Looks at windows that end after `after`, oldest first, as far as they are remembered.
    pub fn looks_after(&self, after: Timestamp) -> impl Iterator<Item = &Look> {
        self.looks.iter().filter(move |look| look.end() > after)
    }

    /// Whole days of windows that were learned from.
    fn days(&self) -> u64 {
        self.windows / 288
    }

    fn basis(&self) -> Basis {
        let days = self.days();
        if days < ENOUGH_DAYS {
            return Basis::LastHours { hours: u32::try_from(self.windows / 12).unwrap_or(u32::MAX) };
        }
        Basis::History { days: u32::try_from(days).unwrap_or(u32::MAX) }
    }

    fn expected(&self, start: Timestamp, zone: &TimeZone) -> Expected {
        let (slot, weekday, beside) = slot(start, zone);
        let slot_factor = self.slots[slot].shrunk(SLOT_PRIOR);
        let beside = self.slots[beside].shrunk(SLOT_PRIOR);
        let weekday_factor =
            if self.days() >= ENOUGH_FOR_WEEKDAYS { self.weekdays[weekday].shrunk(WEEKDAY_PRIOR) } else { 1.0 };
        let usual = |slot_factor: f64| self.busyness * slot_factor * weekday_factor;
        Expected {
            middle: (usual(slot_factor) * self.level).max(LEAST),
            rise: (usual(slot_factor) * self.level.max(1.0)).max(LEAST),
            fall: (usual(slot_factor) * self.level.min(1.0)).max(LEAST),
            rise_at_most: (usual(slot_factor.max(beside)) * self.level.max(1.0)).max(LEAST),
            fall_at_least: (usual(slot_factor.min(beside)) * self.level.min(1.0)).max(LEAST),
            slot,
            weekday,
            slot_factor,
            weekday_factor,
        }
    }

    /// One spread of so many windows together. Noise is measured against how busy the site is as a whole: a burst of
    /// twenty is not more of a burst by night.
    fn spread(&self, windows: usize, expected: f64) -> f64 {
        let busyness = (self.busyness * windows as f64).max(1.0);
        (self.noise * busyness).max(expected).max(1.0).sqrt()
    }

    fn judge(&self, window: WindowCount, expected: &Expected) -> Option<Look> {
        if self.windows < ENOUGH_WINDOWS {
            return None;
        }
        let rises = self.scores(window.visitors, expected.rise_at_most, Direction::Rise);
        let falls = self.scores(window.visitors, expected.fall_at_least, Direction::Fall);
        let fall = side(expected.fall_at_least, &falls, &self.falls);
        Some(Look {
            start: window.start,
            visitors: window.visitors,
            spread: self.spread(1, expected.middle),
            rise: side(expected.rise_at_most, &rises, &self.rises),
            // The first nights are no drop.
            fall: if self.is_young() { Side { of_limit: [0.0; 3], ..fall } } else { fall },
            basis: self.basis(),
        })
    }

    /// Spreads beyond what is expected in each span that ends with this window; zero for a span that is longer than what
    /// is known.
    fn scores(&self, visitors: u32, expected: f64, direction: Direction) -> [f64; SPANS.len()] {
        let (mut seen, mut wanted) = (f64::from(visitors), expected);
        let mut scores = [0.0; SPANS.len()];
        let mut added = 1;
        for (span, score) in SPANS.into_iter().zip(&mut scores) {
            if span > 1 && span > self.recent.len() + 1 {
                break;
            }
            while added < span {
                let (count, rise, fall) = self.recent[self.recent.len() - added];
                seen += f64::from(count);
                wanted += if direction == Direction::Rise { rise } else { fall };
                added += 1;
            }
            let excess = if direction == Direction::Rise { seen - wanted } else { wanted - seen };
            *score = excess / self.spread(span, wanted);
        }
        scores
    }

    fn remember_peaks(&mut self, look: &Look, window: WindowCount, expected: &Expected) {
        let rises = self.scores(window.visitors, expected.rise, Direction::Rise);
        let falls = self.scores(window.visitors, expected.fall, Direction::Fall);
        for (tails, scores) in [(&mut self.rises, rises), (&mut self.falls, falls)] {
            for ((tail, score), span) in tails.iter_mut().zip(scores).zip(SPANS) {
                tail.step(score, span);
            }
        }
        let is_missing = look.fall.of_limit(Sensitivity::Normal) >= 1.0;
        self.missing = if is_missing { self.missing.saturating_add(1) } else { 0 };
    }

    fn take_in(&mut self, window: WindowCount, expected: &Expected, look: Option<&Look>) {
        let visitors = f64::from(window.visitors);
        self.windows += 1;
        self.until = window.start + WINDOW;
        let windows = self.windows as f64;
        if self.recent.len() == LONGEST_SPAN {
            self.recent.pop_front();
        }
        self.recent.push_back((window.visitors, expected.rise, expected.fall));
        if look.is_none() {
            self.busyness += (visitors - self.busyness) / windows;
            return;
        }
        let middle = expected.middle;
        let spread = (self.noise * middle.max(1.0)).sqrt();
        let off = ((visitors - middle) / spread).clamp(-CLIP, CLIP);
        let clipped = middle + off * spread;
        let noise = off * off * self.noise;
        self.noise = (self.noise + pace(NOISE_HALF_LIFE, windows) * (noise - self.noise)).max(1.0);
        self.shift += pace(SHIFT_HALF_LIFE, f64::INFINITY) * (off.clamp(-1.0, 1.0) - self.shift);
        let has_shifted = self.shift.abs() > SHIFTED;
        let is_outage = (1..=OUTAGE_AT_MOST).contains(&self.missing);
        self.level += (1.0 - self.level) * LEVEL_PULL;
        if is_outage && !has_shifted {
            return;
        }
        self.level *= 1.0 + pace(LEVEL_HALF_LIFE, f64::INFINITY) * (clipped / middle - 1.0).clamp(-1.0, 1.0);
        self.level = self.level.clamp(0.1, 10.0);
        let factors = (expected.slot_factor * expected.weekday_factor).max(0.1);
        if has_shifted {
            self.busyness += pace(SHIFTED_HALF_LIFE, windows) * (visitors / factors - self.busyness);
            return;
        }
        self.busyness += pace(BUSYNESS_HALF_LIFE, windows) * (clipped / factors - self.busyness);
        let busyness = self.busyness.max(LEAST);
        let per_slot = (clipped / busyness / expected.weekday_factor).min(20.0);
        self.slots[expected.slot].add(per_slot, 1.0 / 6.0, pace(SLOT_HALF_LIFE, f64::INFINITY));
        let per_weekday = (clipped / (busyness * expected.slot_factor).max(LEAST)).min(5.0);
        self.weekdays[expected.weekday].add(per_weekday, 1.0 / DAY, 1.0 / (WEEKDAY_WEEKS * DAY));
    }
}

impl Factor {
    fn shrunk(&self, prior_days: f64) -> f64 {
        (self.mean * self.days + prior_days) / (self.days + prior_days)
    }

    /// Counts a window of `share` of a day in, at no less than `pace`.
    fn add(&mut self, value: f64, share: f64, pace: f64) {
        self.days += share;
        self.mean += (share / self.days).max(pace) * (value - self.mean);
    }
}

impl Tail {
    /// Spreads from which a peak is counted.
    const FROM: f64 = 3.0;
    /// Windows below it after which an excursion is over.
    const OVER_AFTER: u16 = 12;
    /// Peaks, and days, of a site of which nothing is known.
    const PRIOR_PEAKS: f64 = 4.0;
    const PRIOR_DAYS: f64 = 7.0;
    /// Traffic comes in bursts: the peaks are taken to be this high until they are seen.
    const PRIOR_OF_RISES: f64 = 0.5;
    /// It cannot fall below nothing.
    const PRIOR_OF_FALLS: f64 = 0.15;

    fn new(prior: f64) -> Self {
        Self { peaks: 0.0, logs: 0.0, days: 0.0, prior, peak: 0.0, calm: Self::OVER_AFTER }
    }

    /// What is passed once in so many days, in spreads: the predictive distribution of an exponential with few
    /// observations, whose tail is wider the fewer there are.
    fn limit(&self, days: f64) -> f64 {
        let peaks = self.peaks + Self::PRIOR_PEAKS;
        let logs = self.logs + Self::PRIOR_PEAKS * self.prior;
        let expected_peaks = (days * peaks / (self.days + Self::PRIOR_DAYS)).max(1.0);
        let limit = Self::FROM * (logs * (expected_peaks.powf(1.0 / peaks) - 1.0)).exp();
        limit.max(SIGNIFICANCE)
    }

    fn step(&mut self, score: f64, span: usize) {
        let keeps = 0.5_f64.powf(1.0 / TAIL_HALF_LIFE);
        self.peaks *= keeps;
        self.logs *= keeps;
        self.days = self.days * keeps + 1.0 / DAY;
        if score > Self::FROM {
            // What is beyond the limit counts as the limit.
            self.peak = self.peak.max(score.min(self.limit(Sensitivity::Normal.days())));
            self.calm = 0;
            return;
        }
        self.calm = self.calm.saturating_add(1);
        let over_after = Self::OVER_AFTER.max(u16::try_from(span).unwrap_or(u16::MAX));
        if self.calm == over_after && self.peak > 0.0 {
            self.peaks += 1.0;
            self.logs += (self.peak / Self::FROM).ln();
            self.peak = 0.0;
        }
    }
}

/// The span whose score is most of its limit.
fn side(expected: f64, scores: &[f64; SPANS.len()], tails: &[Tail; SPANS.len()]) -> Side {
    let mut side = Side { expected, score: f64::NEG_INFINITY, minutes: 5, of_limit: [0.0; 3] };
    let mut most = f64::NEG_INFINITY;
    for ((score, tail), minutes) in scores.iter().zip(tails).zip(MINUTES) {
        for sensitivity in Sensitivity::ALL {
            let of_limit = score / tail.limit(sensitivity.days());
            let best = &mut side.of_limit[sensitivity as usize];
            *best = best.max(of_limit);
            if sensitivity == Sensitivity::Normal && of_limit > most {
                most = of_limit;
                side.score = *score;
                side.minutes = minutes;
            }
        }
    }
    side
}

/// The weight of a new value: that of a plain average while there are few, then that of the half-life.
fn pace(half_life: f64, seen: f64) -> f64 {
    (1.0 - 0.5_f64.powf(1.0 / half_life)).max(1.0 / seen)
}

/// The half hour of the local day, the day of the week, and the half hour a window is next to, or its own. A day with a
/// clock change repeats or skips an hour, which is what its visitors do too.
fn slot(moment: Timestamp, zone: &TimeZone) -> (usize, usize, usize) {
    let local = zone.to_datetime(moment.to_jiff());
    let minute = usize::try_from(local.minute()).unwrap_or(0);
    let half_hour = (usize::try_from(local.hour()).unwrap_or(0) * 2 + usize::from(minute >= 30)).min(SLOTS - 1);
    let weekday = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
    let beside = match minute % 30 {
        0..5 => half_hour + SLOTS - 1,
        25..30 => half_hour + 1,
        _ => half_hour,
    };
    (half_hour, weekday.min(6), beside % SLOTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(days: u32, visitors: impl Fn(u32, u32) -> u32) -> Vec<WindowCount> {
        let count = |window: u32| WindowCount {
            start: Timestamp::from_secs(i64::from(window) * 300),
            visitors: visitors(window / 288, window % 288),
        };
        (0..days * 288).map(count).collect()
    }

    fn learned(days: u32, visitors: impl Fn(u32, u32) -> u32) -> Profile {
        Profile::learn(&windows(days, visitors), &TimeZone::UTC).unwrap()
    }

    /// What is expected of the window at an hour of the day that follows.
    fn expected(profile: &Profile, hour: i64, zone: &TimeZone) -> f64 {
        profile.expected(Timestamp::from_secs(profile.until.secs() + hour * 3_600), zone).middle
    }

    #[test]
    fn the_night_is_not_judged_by_the_day() {
        let profile = learned(14, |_, slot| if (96..240).contains(&slot) { 100 } else { 4 });
        let (noon, night) = (expected(&profile, 12, &TimeZone::UTC), expected(&profile, 3, &TimeZone::UTC));
        assert!((80.0..120.0).contains(&noon) && night < 20.0, "{noon} by day, {night} by night");
        assert_eq!(profile.basis(), Basis::History { days: 14 });
    }

    #[test]
    fn the_weekend_is_not_judged_by_the_week() {
        // The first day of 1970 was a Thursday.
        let is_weekend = |day: u32| matches!(day % 7, 2 | 3);
        let profile = learned(42, |day, _| if is_weekend(day) { 20 } else { 60 });
        let start = |day: u32| Timestamp::from_secs(i64::from(day) * 86_400 + 43_200);
        let saturday = profile.expected(start(44), &TimeZone::UTC).middle;
        let tuesday = profile.expected(start(47), &TimeZone::UTC).middle;
        assert!(saturday < 35.0 && tuesday > 45.0, "{saturday} on Saturday, {tuesday} on Tuesday");
    }

    #[test]
    fn one_launch_day_leaves_hardly_a_trace() {
        let usual = expected(&learned(21, |_, _| 9), 12, &TimeZone::UTC);
        let launched = expected(&learned(21, |day, _| if day == 10 { 5_000 } else { 9 }), 12, &TimeZone::UTC);
        assert!((launched / usual - 1.0).abs() < 0.5, "{launched} instead of {usual}");
    }

    #[test]
    fn what_stays_becomes_usual_within_days() {
        let grown = expected(&learned(24, |day, _| if day >= 20 { 400 } else { 100 }), 12, &TimeZone::UTC);
        assert!((300.0..450.0).contains(&grown), "{grown}");
    }

    #[test]
    fn a_young_site_says_so() {
        let windows = windows(1, |_, _| 16);
        let mut profile = Profile::new(windows[0].start);
        let looks: Vec<_> = windows[..24].iter().map(|window| profile.step(*window, &TimeZone::UTC)).collect();
        assert_eq!(looks.iter().position(Option::is_some), Some(12), "an hour is waited for");
        assert_eq!(looks[23].unwrap().basis, Basis::LastHours { hours: 1 });
        let look = profile.peek(16, &TimeZone::UTC).unwrap();
        assert_eq!((look.basis, look.spread), (Basis::LastHours { hours: 2 }, 4.0));
        assert!((look.rise.expected - 16.0).abs() < 0.1);
    }

    #[test]
    fn the_day_is_the_sites_own() {
        // In 2025 clocks in Berlin went forward on 30 March: what comes at nine comes an hour earlier in UTC.
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let start: Timestamp = "2025-03-01T00:00:00Z".parse().unwrap();
        let count = |window: u32| {
            let start = start + WINDOW * window;
            let hour = berlin.to_datetime(start.to_jiff()).hour();
            WindowCount { start, visitors: if hour == 9 { 90 } else { 10 } }
        };
        let windows: Vec<_> = (0..31 * 288).map(count).collect();
        let profile = Profile::learn(&windows, &berlin).unwrap();
        let nine: Timestamp = "2025-04-01T07:30:00Z".parse().unwrap();
        let before: Timestamp = "2025-04-01T08:30:00Z".parse().unwrap();
        assert!(profile.expected(nine, &berlin).middle > 3.0 * profile.expected(before, &berlin).middle);
    }

    #[test]
    fn the_limit_grows_with_what_a_site_does_by_itself() {
        let quiet = learned(28, |_, _| 20);
        let bursts = learned(28, |day, slot| if slot == 100 + day * 5 { 150 } else { 20 });
        let of_limit =
            |profile: &Profile| profile.peek(150, &TimeZone::UTC).unwrap().rise.of_limit(Sensitivity::Normal);
        assert!(of_limit(&quiet) > 2.0 && of_limit(&bursts) < 1.0, "{} and {}", of_limit(&quiet), of_limit(&bursts));
    }

    #[test]
    fn an_hour_without_anybody_shows_as_a_fall() {
        let mut profile = learned(14, |_, _| 30);
        let mut most = 0.0_f64;
        for _ in 0..12 {
            let window = WindowCount { start: profile.until, visitors: 0 };
            most = most.max(profile.step(window, &TimeZone::UTC).unwrap().fall.of_limit(Sensitivity::Normal));
        }
        assert!(most > 1.0, "{most}");
    }

    proptest! {
        /// What an open window says of a rise it will say when it has closed: more visitors are never less of one.
        #[test]
        fn a_window_only_becomes_more_of_a_rise(seen in 0u32..500, more in 0u32..500) {
            let profile = learned(4, |_, slot| 10 + slot % 7);
            let before = profile.peek(seen, &TimeZone::UTC).unwrap();
            let after = profile.peek(seen + more, &TimeZone::UTC).unwrap();
            for sensitivity in Sensitivity::ALL {
                prop_assert!(after.rise.of_limit(sensitivity) >= before.rise.of_limit(sensitivity));
            }
        }

        #[test]
        fn who_is_more_sensitive_fires_on_no_less(seen in 0u32..500) {
            let look = learned(4, |_, slot| 10 + slot % 7).peek(seen, &TimeZone::UTC).unwrap();
            let [low, normal, high] = Sensitivity::ALL.map(|sensitivity| look.rise.of_limit(sensitivity).max(0.0));
            prop_assert!(low <= normal && normal <= high);
        }
    }
}
