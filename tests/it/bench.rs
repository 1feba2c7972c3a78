//! The load generator measures: few deliveries and short times, to see that every part of it works.

use serde_json::Value;
use tokio::process::Command;

use crate::support::clickhouse::ClickHouse;
use crate::support::process::succeeded;
use crate::support::{Database, in_time, on_both};

/// Runs a figure on one database and answers what it printed, one object a line.
async fn bench(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulsehook"));
    command.arg("bench").args(arguments).args(["--runs", "1", "--json"]).kill_on_drop(true);
    if database.url.starts_with("sqlite") {
        command.args(["--database", "sqlite"]);
    } else {
        command.args(["--database", "postgres", "--postgres", &database.url]);
    }
    let output = command.output().await.unwrap();
    succeeded(&output).lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

#[track_caller]
fn positive(figure: &Value, key: &str) {
    assert!(figure[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {figure:#}");
}

on_both!({
    async fn a_drain_is_measured(database: Database) {
        let figures = bench(&database, &["drain", "--count", "200", "--webhooks", "3"]).await;
        let [drain] = &figures[..] else { panic!("{figures:#?}") };
        assert_eq!(drain["figure"], "drain");
        for key in ["deliveries_per_second", "ceiling_per_second", "ratio", "quarter_1_per_second", "peak_mib"] {
            positive(drain, key);
        }
        // So few may take less than a tick of the CPU's clock.
        assert!(drain["app_cpu_us"].is_f64() && drain["sink_cpu_us"].is_f64(), "{drain:#}");
        assert_eq!(drain["runs"]["ratio"].as_array().map(Vec::len), Some(1));
        assert!(drain["targets"]["ratio"]["met"].is_boolean());
        if drain["database"] == "postgres" {
            positive(drain, "wal_bytes_per_delivery");
            positive(drain, "commits_per_delivery");
            assert!(drain["postgres_cpu_us"].is_f64(), "{drain:#}");
        } else {
            assert_eq!(drain["database"], "sqlite");
        }
    }

    /// More than is kept in memory, so that it goes on being read.
    async fn a_backlog_is_measured(database: Database) {
        let sizes = ["--count", "8000", "--webhooks", "2", "--deliver", "6000"];
        let figures = bench(&database, &[&["backlog"], &sizes[..]].concat()).await;
        let [backlog] = &figures[..] else { panic!("{figures:#?}") };
        for key in ["first_delivery_seconds", "peak_mib", "last_tenth_over_second", "claim_us_early", "claim_us_late"] {
            positive(backlog, key);
        }
        assert!(backlog["targets"]["claim_late_over_early"]["met"].is_boolean());
    }

    async fn the_whole_way_is_measured(database: Database) {
        let sizes = ["--sites", "2", "--webhooks", "2", "--goals", "3", "--seconds", "1", "--warm-up", "1"];
        let figures = bench(&database, &[&["flow"], &sizes[..]].concat()).await;
        let [flow] = &figures[..] else { panic!("{figures:#?}") };
        for key in ["deliveries_per_second", "ratio", "app_cpu_us"] {
            positive(flow, key);
        }
        assert_eq!(flow["postgres_cpu_us"].is_f64(), flow["database"] == "postgres", "{flow:#}");
    }

    async fn the_past_is_written_into_todays_tables(database: Database) {
        let figures = bench(&database, &["history", "--count", "100", "--sizes", "50,500"]).await;
        positive(&figures[0], "with_50_per_second");
        positive(&figures[0], "with_500_per_second");
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_noticing_costs_is_measured() {
    in_time(async {
        let figures = bench(
            &Database::sqlite(),
            &["noticing", "--sites", "5", "--visits", "40", "--years", "1", "--batches", "7"],
        )
        .await;
        let [noticing, batches] = &figures[..] else { panic!("{figures:#?}") };
        positive(batches, "look_ms");
        assert_eq!(batches["told"], 7.0);
        for key in ["learn_us_per_site", "judge_us_per_site", "years_seconds", "first_look_ms", "look_ms", "server_mib"]
        {
            positive(noticing, key);
        }
        for kind in ["visitor_spike", "goal_completion", "goal_stalled", "milestone", "no_data"] {
            positive(noticing, &format!("{kind}_90_days_ms"));
        }
        assert!(noticing["targets"]["no_data_90_days_ms"]["met"].is_boolean());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_in_clickhouse_is_measured() {
    in_time(async {
        let url = ClickHouse::empty().await.url();
        let (server, _) = url.rsplit_once('/').unwrap();
        let arguments = ["ingest", "--count", "50", "--rows", "500", "--clickhouse", server];
        let figures = bench(&Database::sqlite(), &arguments).await;
        let [embedded, clickhouse] = &figures[..] else { panic!("{figures:#?}") };
        positive(embedded, "ratio");
        for key in ["arrived_per_second", "writer_per_second", "driver_alone_per_second", "ratio"] {
            positive(clickhouse, key);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ceiling_is_measured_with_one_process_and_with_two() {
    in_time(async {
        let figures = bench(&Database::sqlite(), &["ceiling", "--count", "200"]).await;
        let [ceiling] = &figures[..] else { panic!("{figures:#?}") };
        for key in ["requests_per_second", "from_another_process_per_second"] {
            positive(ceiling, key);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_it_takes_is_measured_at_first_and_later() {
    in_time(async {
        let sizes = ["--seconds", "1", "--rate", "80", "--sites", "2", "--webhooks", "2", "--goals", "2"];
        let figures = bench(&Database::sqlite(), &[&["latency"], &sizes[..]].concat()).await;
        let [hit_to_post, under_load] = &figures[..] else { panic!("{figures:#?}") };
        positive(hit_to_post, "at_1000_per_second_p99_ms");
        for key in ["posts_per_second", "record_to_post_p99_ms", "in_the_first_second_p99_ms"] {
            positive(under_load, key);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulsehook"));
    let output = command.args(["bench", "drain", "--database", "postgres"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--postgres postgres://"), "{said}");
}

#[tokio::test]
async fn what_there_is_none_of_is_not_waited_for() {
    let none: [&[&str]; 4] = [
        &["drain", "--count", "0"],
        &["drain", "--webhooks", "0"],
        &["flow", "--sites", "0"],
        &["backlog", "--webhooks", "0"],
    ];
    for arguments in none {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pulsehook"));
        let output = command.args(["bench", "--database", "sqlite"]).args(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("invalid value '0'"), "{said}");
        assert!(said.contains(arguments[1]), "{said}");
    }
}

#[tokio::test]
async fn a_client_without_authorities_names_the_file() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulsehook"));
    command.args(["bench", "client", "--url", "https://127.0.0.1:1/", "--count", "1", "--authorities", "/dev/null"]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/dev/null cannot be used: no certificate is in it"), "{said}");
    assert!(!said.contains("egress_ca"), "{said}");
}
