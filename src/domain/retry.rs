//! When to try again.

use std::time::Duration;

use super::time::{format_span, parse_span};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
const MOST_RETRIES: usize = 20;
/// Jitter adds at most this part of a wait, so that retries of one outage do not all come back together.
const JITTER: f64 = 0.1;

/// Waits between attempts; there is one attempt more than there are waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// The text is not a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 20 waits of 1s to 7d, such as 1m,5m,15m")]
pub struct InvalidSchedule;

impl Default for RetrySchedule {
    /// 5 s, 1 min, 5 min, 15 min, 1 h, 3 h, 6 h, 12 h and 24 h after the attempt before: ten attempts in two days.
    fn default() -> Self {
        Self([5, 60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400].map(Duration::from_secs).to_vec())
    }
}

impl RetrySchedule {
    /// Reads waits separated by commas.
    pub fn parse(text: &str) -> Result<Self, InvalidSchedule> {
        let waits: Vec<_> = text.split(',').map(parse_span).collect::<Result<_, _>>().map_err(|_| InvalidSchedule)?;
        let fits =
            (1..=MOST_RETRIES).contains(&waits.len()) && waits.iter().all(|wait| (SHORTEST..=LONGEST).contains(wait));
        if fits { Ok(Self(waits)) } else { Err(InvalidSchedule) }
    }

    /// How long to wait after attempt number `attempt` (from 1); `None` after the last.
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        self.0.get(usize::try_from(attempt.checked_sub(1)?).ok()?).copied()
    }

    /// Attempts in all.
    pub fn attempts(&self) -> usize {
        self.0.len() + 1
    }
}

impl std::fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waits: Vec<_> = self.0.iter().copied().map(format_span).collect();
        f.write_str(&waits.join(","))
    }
}

/// The wait, a little longer. `unit` is uniform in `0.0..1.0`.
pub fn jittered(wait: Duration, unit: f64) -> Duration {
    wait + wait.mul_f64(JITTER * unit.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_is_ten_attempts() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.attempts(), 10);
        assert_eq!(schedule.to_string(), "5s,1m,5m,15m,1h,3h,6h,12h,1d");
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(5)));
        assert_eq!(schedule.wait_after(9), Some(Duration::from_secs(86_400)));
        assert_eq!(schedule.wait_after(10), None);
        assert_eq!(schedule.wait_after(0), None);
    }

    #[test]
    fn an_own_schedule_is_read_back_as_written() {
        assert_eq!(RetrySchedule::parse("1m,5m,15m").unwrap().to_string(), "1m,5m,15m");
        for text in ["", "1m,", "0s", "8d", "5", "1m,,5m", &["1m"; 21].join(",")] {
            assert_eq!(RetrySchedule::parse(text), Err(InvalidSchedule), "{text}");
        }
    }

    proptest! {
        #[test]
        fn jitter_only_ever_adds(secs in 1u64..86_400, unit in 0.0f64..1.0) {
            let wait = Duration::from_secs(secs);
            let jittered = jittered(wait, unit);
            prop_assert!(jittered >= wait && jittered <= wait.mul_f64(1.1 + 1e-9));
        }
    }
}
