//! Rows that land later than anybody looks for them: counted, so that an operator sees what cannot be reported.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use metrics::counter;
use tracing::warn;

use super::poller::SWEEP;
use crate::analytics::clickhouse::ClickHouse;
use crate::domain::time::Timestamp;

/// How much is counted at once.
const SPAN: Duration = Duration::from_secs(600);
/// How much later it is counted again.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// Counts of rows when they had just left the sweep.
#[derive(Default)]
pub struct Late {
    counted_until: Option<Timestamp>,
    counted: VecDeque<(Timestamp, HashMap<Timestamp, u64>)>,
}

impl Late {
    /// Counts what has just left the sweep, and again what left it an hour ago. Two statements every ten minutes.
    pub async fn look(&mut self, clickhouse: &ClickHouse, now: Timestamp) {
        let width = i64::try_from(SPAN.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp::from_micros((now - SWEEP).micros().div_euclid(width) * width);
        if self.counted_until.is_some_and(|counted| counted >= until) {
            return;
        }
        let from = until - SPAN;
        match clickhouse.rows_by_minute(from, until).await {
            Ok(rows) => {
                self.counted.push_back((from, rows));
                self.counted_until = Some(until);
            }
            // Nothing is known of this span then, and nothing is said of it.
            Err(_) => return,
        }
        while let Some((from, _)) = self.counted.front()
            && now.since(*from) >= AGAIN_AFTER + SPAN + SWEEP
        {
            let (from, before) = self.counted.pop_front().expect("it was looked at");
            let Ok(rows) = clickhouse.rows_by_minute(from, from + SPAN).await else { continue };
            let late: u64 =
                rows.iter().map(|(minute, rows)| rows.saturating_sub(before.get(minute).copied().unwrap_or(0))).sum();
            counter!("pulsehook_late_rows_total").increment(late);
            if late > 0 {
                warn!("{late} rows of the ten minutes from {from} landed too late to be reported");
            }
        }
    }
}
