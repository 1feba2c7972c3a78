//! `pulsehook doctor`: what is right is said to be, and what is wrong comes with what to do about it.

use serde_json::Value;

use pulsehook::clock::Clock;

use crate::support::app::text;
use crate::support::clickhouse::{CURRENT, ClickHouse, Row};
use crate::support::process::pulsehook;
use crate::support::{Database, in_time, on_both};

/// What it says of each thing, with this in the environment.
async fn doctor(database: &Database, environment: &[(&str, String)]) -> (bool, Vec<(String, String, String)>) {
    let mut command = pulsehook(database);
    command.args(["doctor", "--json"]);
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().await.unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    assert_eq!(said["ok"], output.status.success());
    let checks = said["checks"].as_array().unwrap().iter();
    let part = |check: &Value, name: &str| text(&check[name]).to_owned();
    let checks = checks.map(|check| (part(check, "check"), part(check, "state"), part(check, "message"))).collect();
    (output.status.success(), checks)
}

#[track_caller]
fn assert_said(checks: &[(String, String, String)], what: &str, state: &str, sentence: &str) {
    let fits = |check: &&(String, String, String)| check.0 == what && check.1 == state && check.2.contains(sentence);
    assert!(checks.iter().any(|check| fits(&check)), "no {state} of {what} with {sentence:?}: {checks:#?}");
}

on_both!({
    async fn a_set_up_that_works_is_fine(database: Database) {
        let clickhouse = ClickHouse::empty().await;
        let (fine, checks) = doctor(&database, &[("PULSEHOOK_ANALYTICS_URL", clickhouse.url())]).await;
        assert!(fine, "{checks:#?}");
        assert_said(&checks, "analytics", "ok", "the first start makes the tables");
        let mut migrate = pulsehook(&database);
        let migrated = migrate.arg("migrate").env("PULSEHOOK_ANALYTICS_URL", clickhouse.url()).output().await.unwrap();
        assert!(migrated.status.success());
        let at = Clock::system().now();
        clickhouse.insert(&[Row { at, ..Row::default() }]).await;
        let (fine, checks) = doctor(&database, &[("PULSEHOOK_ANALYTICS_URL", clickhouse.url())]).await;
        assert!(fine, "{checks:#?}");
        assert_said(&checks, "database", "ok", "schema up to date");
        assert_said(&checks, "analytics", "ok", "ClickHouse 26.9");
        assert_said(&checks, "permissions", "ok", "may write");
        assert_said(&checks, "clock", "ok", "of ClickHouse");
        assert_said(&checks, "freshness", "ok", "1 in the last hour");
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_start_nothing_is_made() {
    in_time(async {
        let database = Database::sqlite();
        let (fine, checks) = doctor(&database, &[]).await;
        assert!(fine, "{checks:#?}");
        assert_said(&checks, "database", "ok", "is not there yet");
        assert_eq!(std::fs::read_dir(database.folder.path()).unwrap().count(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_with_what_to_do() {
    in_time(async {
        let database = Database::postgres().await;
        let foreign = ClickHouse::plausible(CURRENT).await;
        let nowhere = "clickhouse://reader:secret@127.0.0.1:1/x".to_owned();
        for (name, value, what, state, sentence) in [
            ("PULSEHOOK_DATABASE_URL", database.url.clone(), "database", "warning", "steps of the schema behind"),
            (
                "PULSEHOOK_DATABASE_URL",
                "postgres://owner:secret@127.0.0.1:1/x".to_owned(),
                "database",
                "fault",
                "PostgreSQL, 127.0.0.1:1 cannot be used: the database is not available",
            ),
            (
                "PULSEHOOK_DATABASE_URL",
                "sqlite:///no/such/folder/pulsehook.db".to_owned(),
                "database",
                "fault",
                "/no/such/folder is not there",
            ),
            (
                "PULSEHOOK_ANALYTICS_URL",
                "sqlite:///no/such/folder/analytics.db".to_owned(),
                "analytics",
                "fault",
                "/no/such/folder is not there",
            ),
            ("PULSEHOOK_ANALYTICS_URL", foreign.url(), "analytics", "fault", "was not made by Pulsehook"),
            ("PULSEHOOK_ANALYTICS_URL", nowhere.clone(), "analytics", "fault", "Connection refused"),
            ("PULSEHOOK_ANALYTICS_URL", nowhere, "analytics", "fault", "127.0.0.1:1"),
            ("PULSEHOOK_ANALYTICS_URL", "mysql://x".to_owned(), "settings", "fault", "analytics_url must be"),
        ] {
            let (fine, checks) = doctor(&database, &[(name, value)]).await;
            assert_said(&checks, what, state, sentence);
            assert!(!format!("{checks:?}").contains("secret"), "{checks:#?}");
            assert_eq!(fine, state != "fault", "{checks:#?}");
        }
    })
    .await;
}
