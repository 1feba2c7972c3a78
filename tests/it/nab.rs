//! The default trigger on real series: five of the Numenta Anomaly Benchmark, scored as in Lavin and Ahmad, "Evaluating
//! Real-time Anomaly Detection Algorithms" (2015), standard profile.
//!
//! A detection inside a labelled window earns by how early it is there, each window once; one outside costs by how far
//! behind the last window it is; a window without one costs one. The sum is set between that of a detector that says
//! nothing (0) and that of a perfect one (100). Published on these files: ARTime 84.5, contextOSE 82.2, Numenta HTM 78.4,
//! Skyline 75.3, KNN-CAD 71.3, ADVec 63.2, windowed Gaussian 55.5, relative entropy 53.0.

#![expect(clippy::print_stdout, reason = "the table is what somebody runs it for")]

use std::collections::BTreeMap;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pulsehook::domain::backtest;
use pulsehook::domain::baseline::WindowCount;
use pulsehook::domain::time::Timestamp;
use pulsehook::domain::trigger::Settings;
use serde_json::json;

const FALSE_POSITIVE: f64 = 0.11;
const FALSE_NEGATIVE: f64 = 1.0;
/// Percent of a file in which nothing is scored, and its most rows.
const PROBATION: (usize, usize) = (15, 750);

/// First and last row of each labelled window.
type Labels = Vec<(usize, usize)>;

#[derive(Debug, Default)]
struct Score {
    sum: f64,
    windows: usize,
    found: usize,
    false_positives: usize,
}

impl Score {
    /// Between saying nothing and perfection, in percent.
    fn normalised(&self) -> f64 {
        let windows = self.windows as f64;
        100.0 * (self.sum + FALSE_NEGATIVE * windows) / (windows + FALSE_NEGATIVE * windows)
    }

    fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.windows += other.windows;
        self.found += other.found;
        self.false_positives += other.false_positives;
    }
}

/// The paper's scaled sigmoid: near 1 at the beginning of a window (-1), 0 at its end, -1 far behind it.
fn worth(position: f64) -> f64 {
    if position > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

fn score(rows: usize, labels: &Labels, detections: &[usize]) -> Score {
    let probation = (rows * PROBATION.0 / 100).min(PROBATION.1);
    let mut score = Score { windows: labels.len(), ..Score::default() };
    let mut earned = vec![None::<f64>; labels.len()];
    for row in detections.iter().copied().filter(|row| *row >= probation) {
        if let Some(window) = labels.iter().position(|(first, last)| (*first..=*last).contains(&row)) {
            let (first, last) = labels[window];
            let position = -((last - row + 1) as f64) / (last - first + 1) as f64;
            let worth = worth(position) / worth(-1.0);
            earned[window] = Some(earned[window].map_or(worth, |best| best.max(worth)));
            continue;
        }
        score.false_positives += 1;
        let behind = labels.iter().rev().find(|(_, last)| *last < row);
        let cost = behind.map_or(-1.0, |(first, last)| worth((row - last) as f64 / (last - first) as f64));
        score.sum += FALSE_POSITIVE * cost;
    }
    score.found = earned.iter().flatten().count();
    score.sum += earned.iter().map(|worth| worth.unwrap_or(-FALSE_NEGATIVE)).sum::<f64>();
    score
}

fn moment(text: &str) -> Timestamp {
    let civil: DateTime = text.parse().expect("a date and a time");
    Timestamp::from_micros(TimeZone::UTC.to_timestamp(civil).expect("within the calendar").as_microsecond())
}

fn series() -> Vec<(String, Vec<WindowCount>, Labels)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/nab");
    let windows = std::fs::read_to_string(folder.join("windows.json")).unwrap();
    let windows: BTreeMap<String, Vec<(String, String)>> = serde_json::from_str(&windows).unwrap();
    let read = |(name, labels): (String, Vec<(String, String)>)| {
        let text = std::fs::read_to_string(folder.join(&name)).unwrap();
        let rows = text.lines().skip(1).map(|line| {
            let (at, value) = line.split_once(',').unwrap();
            WindowCount { start: moment(at), visitors: value.parse().unwrap() }
        });
        let rows: Vec<_> = rows.collect();
        let labels = labels.iter().map(|(first, last)| {
            let (first, last) = (moment(first), moment(last));
            (rows.partition_point(|row| row.start < first), rows.partition_point(|row| row.start <= last) - 1)
        });
        let labels = labels.collect();
        (name, rows, labels)
    };
    windows.into_iter().map(read).collect()
}

#[test]
fn the_default_trigger_is_ahead_of_every_published_detector() {
    let settings = Settings::parse(json!({"type": "visitor_spike"}).as_object().unwrap()).unwrap();
    let (direction, change) = settings.visitor_change().unwrap();
    let mut total = Score::default();
    for (name, rows, labels) in series() {
        let done = backtest::run(direction, change, rows.iter().copied(), &TimeZone::UTC, rows[0].start);
        let detections: Vec<_> =
            done.firings.iter().map(|firing| rows.partition_point(|row| row.start < firing.timestamp)).collect();
        let score = score(rows.len(), &labels, &detections);
        println!(
            "{name:26} {:5.1}  {} of {} windows, {} false positives",
            score.normalised(),
            score.found,
            score.windows,
            score.false_positives
        );
        total.add(&score);
    }
    println!(
        "{:26} {:5.1}  {} of {} windows, {} false positives",
        "total",
        total.normalised(),
        total.found,
        total.windows,
        total.false_positives
    );
    assert_eq!(total.windows, 16);
    // The best published is 84.5. Which of them is found hangs on little, so there is some room.
    assert!(total.normalised() > 84.5, "{total:?}");
    assert!(total.false_positives < 20, "{total:?}");
}

#[test]
fn saying_nothing_scores_zero_and_perfection_a_hundred() {
    let labels = vec![(1_000, 1_399), (2_000, 2_399)];
    assert_eq!(score(10_000, &labels, &[]).normalised(), 0.0);
    assert!((score(10_000, &labels, &[1_000, 2_000, 2_200]).normalised() - 100.0).abs() < 1e-9);
    let half = score(10_000, &labels, &[10, 1_000, 9_000]);
    assert_eq!((half.found, half.false_positives), (1, 1), "the beginning is not scored");
    assert!((half.normalised() - 100.0 * (1.0 - 1.0 - 0.11 + 2.0) / 4.0).abs() < 1e-9);
}
