//! Logs and metrics: how they are set up, and what each number means.

use std::io::IsTerminal as _;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

const LATENCY_BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const SIZE_BUCKETS: [f64; 6] = [1.0, 5.0, 20.0, 100.0, 250.0, 500.0];

/// Writes logs to standard error, as text on a terminal and as JSON elsewhere unless told otherwise.
pub fn start_logs(format: Option<LogFormat>, level: &str) {
    // Our own words at the level asked for; libraries only when something is wrong.
    let filter = EnvFilter::new(format!("warn,pulsehook={level}"));
    let format = format.unwrap_or(if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as tests do it, keeps the first.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Installs the metrics of this process, once, and says how to print them.
pub fn start_metrics() -> PrometheusHandle {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
                .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_batch".to_owned()), &SIZE_BUCKETS))
                .expect("the buckets are not empty")
                .build_recorder();
            let handle = recorder.handle();
            // Only a test that installs its own comes before us.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            handle
        })
        .clone()
}

fn describe() {
    describe_counter!("pulsehook_hits_total", "Tracked events, by what became of them");
    describe_counter!("pulsehook_clickhouse_rows_total", "Tracked events that ClickHouse has taken");
    describe_counter!("pulsehook_clickhouse_batches_total", "Inserts that ClickHouse has taken");
    describe_counter!("pulsehook_clickhouse_insert_failures_total", "Inserts that failed and were repeated");
    describe_gauge!("pulsehook_spill_bytes", Unit::Bytes, "Tracked events on disk that wait for ClickHouse");
    describe_gauge!("pulsehook_spill_oldest_seconds", Unit::Seconds, "How long the oldest of them has waited");
    describe_counter!("pulsehook_spill_damaged_bytes_total", Unit::Bytes, "What of them was damaged and set aside");
    describe_gauge!("pulsehook_connections", "Connections of clients that are open");
    describe_counter!("pulsehook_connections_refused_total", "Connections refused, by what there was too much of");
    describe_counter!("pulsehook_events_fired_total", "Events recorded, by type");
    describe_counter!("pulsehook_evaluations_total", "Looks at the traffic, by result");
    describe_histogram!("pulsehook_evaluation_seconds", Unit::Seconds, "Time of one look at the traffic");
    describe_histogram!("pulsehook_lookout_seconds", Unit::Seconds, "Time of one look for what no hit shows");
    describe_counter!("pulsehook_attempts_total", "Attempts, by outcome");
    describe_counter!("pulsehook_deliveries_total", "Deliveries, by what an attempt made of them");
    describe_histogram!(
        "pulsehook_delivery_seconds",
        Unit::Seconds,
        "From the event's record to its successful answer"
    );
    describe_histogram!("pulsehook_claim_seconds", Unit::Seconds, "Time of one read of deliveries that are due");
    describe_counter!("pulsehook_claimed_total", "Deliveries read from the queue");
    describe_histogram!("pulsehook_settle_batch", "Outcomes written by one commit");
    describe_counter!("pulsehook_settle_failures_total", "Commits of outcomes that failed and were repeated");
    describe_counter!("pulsehook_late_outcomes_total", "Outcomes dropped because another node had taken over");
    describe_gauge!("pulsehook_in_flight", "Attempts under way");
    describe_gauge!("pulsehook_queue_depth", "Deliveries owed");
    describe_gauge!("pulsehook_queue_oldest_due_seconds", Unit::Seconds, "How long the oldest delivery is overdue");
    describe_counter!("pulsehook_pruned_total", "Events removed after their retention");
}
