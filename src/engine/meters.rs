//! The dispatcher's metrics. To look one up by its name costs more than to count, so each is looked up once.

use std::time::Duration;

use foldhash::HashMap;
use metrics::{Counter, Histogram, counter, histogram};

pub struct Meters {
    attempts: HashMap<&'static str, Counter>,
    delivered: Counter,
    retried: Counter,
    failed: Counter,
    seconds: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        let deliveries = |result| counter!("pulsehook_deliveries_total", "result" => result);
        Self {
            attempts: HashMap::default(),
            delivered: deliveries("delivered"),
            retried: deliveries("retried"),
            failed: deliveries("failed"),
            seconds: histogram!("pulsehook_delivery_seconds"),
        }
    }
}

impl Meters {
    /// An attempt ended with an outcome of this code.
    pub fn attempted(&mut self, outcome: &'static str) {
        let counter = || counter!("pulsehook_attempts_total", "outcome" => outcome);
        self.attempts.entry(outcome).or_insert_with(counter).increment(1);
    }

    /// A delivery succeeded so long after its event was recorded.
    pub fn delivered(&self, after: Duration) {
        self.delivered.increment(1);
        self.seconds.record(after.as_secs_f64());
    }

    pub fn retried(&self) {
        self.retried.increment(1);
    }

    pub fn failed(&self) {
        self.failed.increment(1);
    }
}
