//! The command line as somebody uses it: from the first key to a delivery that was received, and what it says when
//! something is wrong.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::app::{SITE, text};
use crate::support::process::{Served, key, pulsehook, succeeded};
use crate::support::zoo::{Behaviour, Endpoint};
use crate::support::{Database, on_both};

/// A client's command, with the key where a careful user keeps it.
struct Cli<'a> {
    database: &'a Database,
    served: &'a Served,
    key: &'a str,
}

impl Cli<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = pulsehook(self.database);
        command.args(arguments).env("PULSEHOOK_SERVER", &self.served.url).env("PULSEHOOK_KEY", self.key);
        command
    }

    async fn run(&self, arguments: &[&str]) -> String {
        succeeded(&self.command(arguments).output().await.unwrap())
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let text = self.run(&arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?} printed no JSON: {text}"))
    }

    /// Exit code and what was complained about.
    async fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

on_both!({
    async fn from_the_first_key_to_a_delivery(database: Database) {
        let endpoint = Endpoint::http([500, 200].map(Behaviour::status)).await;
        let migrated = pulsehook(&database).arg("migrate").output().await.unwrap();
        assert!(succeeded(&migrated).contains("up to date"));
        // While it serves, too.
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let cli = Cli { database: &database, served: &served, key: &key };
        cli.run(&["sites", "create", SITE, "--timezone", "Europe/Berlin"]).await;
        assert!(cli.run(&["sites", "list"]).await.contains(SITE));
        let goal = cli.json(&["goals", "create", "--site", SITE, "--event-name", "Signup"]).await;
        let goal_id = text(&goal["goal"]["id"]).to_owned();
        let trigger = format!("goal_completion,goal_id={goal_id}");
        let created = cli
            .json(&[
                "webhooks",
                "create",
                "--site",
                SITE,
                "--url",
                &endpoint.url(),
                "--name",
                "Mine",
                "--trigger",
                &trigger,
                "--trigger",
                "visitor_spike,threshold=80",
                "--generate-secret",
                "--header",
                "X-Token: t",
            ])
            .await;
        let id = text(&created["webhook"]["id"]).to_owned();
        assert!(text(&created["webhook"]["signing_secret"]).starts_with("whsec_"));
        assert_eq!(created["webhook"]["triggers"][1]["threshold"], 80);
        // What was answered is what is there, but for what is told once.
        let mut shown = cli.json(&["webhooks", "show", &id, "--site", SITE]).await;
        shown["webhook"]["signing_secret"] = created["webhook"]["signing_secret"].clone();
        assert_eq!(shown, created);
        // The first attempt fails; the command says so, and that it goes on.
        let (code, said) = cli.fails(&["webhooks", "test", &id, "--site", SITE, "--wait"]).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("Look into its logs"), "{said}");
        let listed = cli.run(&["deliveries", "list", "--webhook", &id, "--site", SITE]).await;
        assert!(listed.contains("retrying") || listed.contains("success"), "{listed}");
        let tested = cli.run(&["webhooks", "test", &id, "--site", SITE, "--wait"]).await;
        assert!(tested.contains("success"), "{tested}");
        let deliveries = cli.json(&["deliveries", "list", "--webhook", &id, "--site", SITE]).await;
        let delivery = text(&deliveries["deliveries"][0]["id"]).to_owned();
        let shown = cli.run(&["deliveries", "show", &delivery, "--webhook", &id, "--site", SITE]).await;
        assert!(shown.contains("200"), "{shown}");
        // The one before had opened the connection.
        assert!(shown.contains("    connection kept, first byte "), "{shown}");
        cli.run(&["deliveries", "resend", &delivery, "--webhook", &id, "--site", SITE]).await;
        cli.run(&["webhooks", "pause", &id, "--site", SITE]).await;
        assert_eq!(cli.json(&["webhooks", "show", &id, "--site", SITE]).await["webhook"]["status"], "paused");
        cli.run(&["webhooks", "resume", &id, "--site", SITE]).await;
        let rotated = cli.json(&["webhooks", "rotate-secret", &id, "--site", SITE, "--overlap", "1h"]).await;
        assert!(text(&rotated["signing_secret"]).starts_with("whsec_"));
        let added = cli
            .json(&["triggers", "create", "visitor_spike,baseline=previous", "--webhook", &id, "--site", SITE])
            .await;
        let trigger_id = text(&added["trigger"]["id"]).to_owned();
        let changed =
            cli.json(&["triggers", "update", &trigger_id, "threshold=90", "--webhook", &id, "--site", SITE]).await;
        assert_eq!(changed["trigger"]["threshold"], 90);
        cli.run(&["triggers", "delete", &trigger_id, "--webhook", &id, "--site", SITE]).await;
        cli.run(&["goals", "delete", &goal_id, "--site", SITE]).await;
        cli.run(&["webhooks", "delete", &id, "--site", SITE, "--yes"]).await;
        assert!(cli.run(&["keys", "list"]).await.contains("owner"));
        cli.run(&["sites", "delete", SITE, "--yes"]).await;
        assert!(served.stop().await.success());
    }

    async fn a_trigger_is_tried_on_a_file_and_on_a_site(database: Database) {
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let cli = Cli { database: &database, served: &served, key: &key };
        cli.run(&["sites", "create", SITE]).await;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/nab/Twitter_volume_KO.csv");
        let tried = cli.json(&["backtest", "--counts", file, "--type", "visitor_spike"]).await;
        let surge =
            tried["firings"].as_array().unwrap().iter().find(|firing| firing["timestamp"] == "2015-04-14T14:52:53Z");
        assert_eq!(surge.expect("its greatest surge is found")["observed"], 2241);
        let said = cli.run(&["backtest", "--counts", file, "--sensitivity", "low"]).await;
        assert!(said.contains("visitors in five minutes"), "{said}");
        let tried = cli.json(&["backtest", "--site", SITE, "--type", "visitor_drop", "--days", "7"]).await;
        assert_eq!(tried["firings"], serde_json::json!([]));
        let said = cli.run(&["backtest", "--site", SITE]).await;
        assert!(said.contains("would not have fired"), "{said}");
        let silent = cli.json(&["backtest", "--counts", file, "--type", "no_data", "--after", "30m"]).await;
        assert_eq!(
            (&silent["window_seconds"], &silent["firings_total"]),
            (&serde_json::json!(900), &serde_json::json!(silent["firings"].as_array().unwrap().len()))
        );
        let stalls = cli.run(&["backtest", "--counts", file, "--type", "goal_stalled"]).await;
        assert!(stalls.contains("windows of a quarter of an hour"), "{stalls}");
        let tried = cli
            .json(&["backtest", "--site", SITE, "--type", "milestone", "--metric", "visitors", "--step", "100"])
            .await;
        assert_eq!((&tried["firings"], &tried["window_seconds"]), (&serde_json::json!([]), &serde_json::json!(300)));
        for (arguments, sentence) in [
            (vec!["backtest", "--counts", "/nowhere.csv"], "/nowhere.csv"),
            (vec!["backtest", "--counts", file, "--threshold", "0"], "threshold must be a whole number"),
            (vec!["backtest", "--counts", file, "--type", "goal_completion"], "type must be visitor_spike"),
            (vec!["backtest", "--counts", file, "--type", "milestone"], "type must be visitor_spike"),
            (vec!["backtest", "--site", SITE, "--type", "error_condition"], "the history of a site does not say"),
            (vec!["backtest", "--counts", file, "--timezone", "Mars/Olympus"], "Mars/Olympus"),
            (vec!["backtest", "--counts", concat!(env!("CARGO_MANIFEST_DIR"), "/data/nab/windows.json")], "line 1"),
        ] {
            let (exit, said) = cli.fails(&arguments).await;
            assert!(exit == 1 && said.contains(sentence), "{arguments:?}: {said}");
        }
        assert!(served.stop().await.success());
    }

    async fn what_is_wrong_is_said_in_a_sentence(database: Database) {
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let cli = Cli { database: &database, served: &served, key: &key };
        cli.run(&["sites", "create", SITE]).await;
        for (arguments, code, sentence) in [
            (vec!["sites", "show", "nowhere.example"], 1, "There is nothing here, or it is not yours"),
            (vec!["sites", "create", "not a domain"], 1, "domain"),
            (
                vec![
                    "webhooks",
                    "create",
                    "--site",
                    SITE,
                    "--url",
                    "http://10.0.0.1/",
                    "--name",
                    "x",
                    "--trigger",
                    "visitor_spike",
                ],
                1,
                "url is inside a private network",
            ),
            (
                vec![
                    "webhooks",
                    "create",
                    "--site",
                    SITE,
                    "--url",
                    "https://a.example/",
                    "--name",
                    "x",
                    "--trigger",
                    "visitor_spike,threshold=0",
                ],
                1,
                "threshold must be a whole number from 1 to 10000",
            ),
            (vec!["webhooks", "create", "--site", SITE], 2, "--url"),
            (vec!["sites", "frobnicate"], 2, "unrecognized subcommand"),
            (vec!["frobnicate"], 2, "unrecognized subcommand"),
            (vec!["import", "access-log", "/nowhere.log", "--site", SITE], 1, "/nowhere.log"),
        ] {
            let (exit, said) = cli.fails(&arguments).await;
            assert_eq!(exit, code, "{arguments:?}: {said}");
            assert!(said.contains(sentence), "{arguments:?}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
        let wrong_key = Cli { key: "phk_wrong", ..cli };
        let (code, said) = wrong_key.fails(&["sites", "list"]).await;
        assert!(code == 1 && said.contains("API key"), "{said}");
        assert!(served.stop().await.success());
        let nobody = pulsehook(&database)
            .args(["sites", "list", "--server", "http://127.0.0.1:1", "--key", "x"])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(nobody.stderr).unwrap();
        assert!(nobody.status.code() == Some(1) && said.contains("is `pulsehook serve` running there?"), "{said}");
    }

    async fn an_access_log_becomes_history_or_live_traffic(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let cli = Cli { database: &database, served: &served, key: &key };
        cli.run(&["sites", "create", SITE]).await;
        cli.run(&["goals", "create", "--site", SITE, "--page-path", "/thanks"]).await;
        cli.run(&[
            "webhooks",
            "create",
            "--site",
            SITE,
            "--url",
            &endpoint.url(),
            "--name",
            "x",
            "--trigger",
            "goal_completion",
        ])
        .await;
        let log = database.folder.path().join("access.log");
        let agent = crate::support::app::BROWSER;
        let line = |second: u32, path: &str, status: u16, agent: &str| {
            format!(
                "203.0.113.{second} - - [25/Feb/2026:10:00:{second:02} +0000] \"GET {path} HTTP/1.1\" {status} 512 \"-\" \"{agent}\"\n"
            )
        };
        let text = [
            line(1, "/", 200, agent),
            line(2, "/thanks", 200, agent),
            line(3, "/style.css", 200, agent),
            line(4, "/missing", 404, agent),
            line(5, "/", 200, "Googlebot/2.1 (+http://www.google.com/bot.html)"),
            "this is no log line\n".to_owned(),
            "203.0.113.6 - - [25/Feb/2026:10:00:06 +0000] \"GET /common HTTP/1.0\" 200 12\n".to_owned(),
        ]
        .concat();
        std::fs::write(&log, text).unwrap();
        let log = log.to_str().unwrap();
        let summary = cli.json(&["import", "access-log", log, "--site", SITE]).await;
        assert_eq!(summary["lines"], 7, "{summary}");
        assert_eq!(summary["taken"], 3, "{summary}");
        assert_eq!(endpoint.arrived().len(), 0, "history fires nothing");
        // The same file again would count everybody twice.
        let (code, said) = cli.fails(&["import", "access-log", log, "--site", SITE]).await;
        assert!(code == 1 && said.contains("--again"), "{said}");
        cli.run(&["import", "access-log", log, "--site", SITE, "--replay", "600x"]).await;
        endpoint.wait_for(1).await;
        assert_eq!(endpoint.arrived()[0].json()["data"]["goal_name"], "Visit /thanks");
        assert!(served.stop().await.success());
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_contradict_are_refused_at_start() {
    let database = Database::sqlite();
    for (name, value, sentence) in [
        ("PULSEHOOK_LISTEN", "nowhere", "listen must be an address and a port"),
        ("PULSEHOOK_DATABASE_URL", "mysql://x", "database_url must start with sqlite:// or postgres://"),
        ("PULSEHOOK_DIRECTORY", "ldap", "directory must be own or plausible, but it is \"ldap\""),
        ("PULSEHOOK_MASTER_KEY", "secret-but-wrong", "master_key must be 32 bytes in base64"),
        ("PULSEHOOK_RETENTION_FILE", "/nowhere", "PULSEHOOK_RETENTION_FILE names /nowhere"),
        ("PULSEHOOK_EGRESS_CA", "/nowhere.pem", "egress_ca /nowhere.pem cannot be read"),
        ("PULSEHOOK_EGRESS_CA", "/dev/null", "egress_ca /dev/null cannot be used: no certificate is in it"),
        (
            "PULSEHOOK_DATABASE_URL",
            "postgres://me:secret-but-wrong@127.0.0.1:1/x",
            "the database cannot be opened (PostgreSQL, 127.0.0.1:1)",
        ),
        ("PULSEHOOK_DATABASE_URL", "sqlite:///nowhere/x.db", "the database cannot be opened (SQLite, /nowhere/x.db)"),
        // Not only that, but why, and that once.
        ("PULSEHOOK_DATABASE_URL", "postgres://127.0.0.1:1/x", "Connection refused (os error 111)\n"),
    ] {
        let output = pulsehook(&database).arg("serve").env(name, value).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.matches(sentence).count() == 1 && !said.contains("secret-but-wrong"), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_and_version_are_there() {
    let database = Database::sqlite();
    for arguments in [
        vec!["--help"],
        vec!["--version"],
        vec!["serve", "--help"],
        vec!["demo", "--help"],
        vec!["receive", "--help"],
        vec!["import", "access-log", "--help"],
        vec!["webhooks", "create", "--help"],
        vec!["webhooks", "check", "--help"],
        vec!["rotate-key", "--help"],
        vec!["keys", "create", "--help"],
        vec!["deliveries", "list", "--help"],
        vec!["resends", "pause", "--help"],
    ] {
        let output = pulsehook(&database).args(&arguments).output().await.unwrap();
        assert!(!succeeded(&output).is_empty(), "{arguments:?}");
    }
}

on_both!({
    async fn people_are_invited_and_the_operator_has_the_last_word(database: Database) {
        use tokio::io::AsyncWriteExt as _;
        let served = Served::start(&database, None).await;
        let key = key(&database).await;
        let cli = Cli { database: &database, served: &served, key: &key };
        let link = cli.run(&["members", "invite", "new@example.com", "--role", "editor"]).await;
        let (server, token) = link.trim().split_once("/invitation?token=").unwrap();
        assert!(cli.run(&["members", "invitations"]).await.contains("new@example.com"));
        let http = crate::support::app::http_client();
        let sign_in =
            async |path: &str, body: Value| http.post(format!("{server}{path}")).json(&body).send().await.unwrap();
        let accepted =
            sign_in("/api/invitations/accept", json!({"token": token, "password": "correct horse battery"})).await;
        assert_eq!(accepted.status(), 201);
        let members = cli.json(&["members", "list"]).await;
        let id = text(&members["members"][0]["id"]).to_owned();
        assert_eq!(cli.json(&["members", "update", &id, "--role", "admin"]).await["member"]["role"], "admin");
        assert!(cli.run(&["accounts", "list"]).await.contains("Owner"));
        assert_eq!(cli.json(&["users", "list"]).await["users"][0]["email"], "new@example.com");

        let mut set = cli.command(&["users", "set-password", "new@example.com"]);
        set.stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut set = set.spawn().unwrap();
        set.stdin.take().unwrap().write_all(b"eleven geese asleep\n").await.unwrap();
        succeeded(&set.wait_with_output().await.unwrap());
        let body = |password: &str| json!({"email": "new@example.com", "password": password});
        assert_eq!(sign_in("/api/session", body("correct horse battery")).await.status(), 401);
        assert_eq!(sign_in("/api/session", body("eleven geese asleep")).await.status(), 204);
        cli.run(&["users", "sign-out", "new@example.com"]).await;

        cli.run(&["accounts", "suspend", "Owner"]).await;
        let (code, said) = cli.fails(&["members", "list"]).await;
        assert!(code == 1 && said.contains("suspended"), "{said}");
        cli.run(&["accounts", "resume", "Owner"]).await;
        cli.run(&["members", "remove", &id, "--yes"]).await;
        cli.run(&["accounts", "delete", "Owner", "--yes"]).await;
        let (code, said) = cli.fails(&["accounts", "suspend", "Owner"]).await;
        assert!(code == 1 && said.contains("there is no account"), "{said}");
        served.stop().await;
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_delivers_verified_webhooks_and_ends() {
    crate::support::in_time(async {
        let database = Database::sqlite();
        let mut command = pulsehook(&database);
        command.env_clear().args(["demo", "--exit-after", "3", "--listen", "127.0.0.1:0"]);
        let said = succeeded(&command.output().await.unwrap());
        let verified: Vec<_> = said.lines().filter(|line| line.contains("verified")).collect();
        assert!(verified.len() >= 3, "{said}");
        assert!(
            said.contains("visitor_spike") && said.contains("goal_completion") && said.contains("made-up surge"),
            "{said}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receiver_tells_what_verifies() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let database = Database::sqlite();
    let mut command = pulsehook(&database);
    command.args(["receive", "--listen", "127.0.0.1:0", "--secret", crate::support::app::SECRET]);
    let mut receiver =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut hints = BufReader::new(receiver.stderr.take().unwrap()).lines();
    let line = hints.next_line().await.unwrap().unwrap();
    let url = line.split_once("Listening on ").unwrap_or_else(|| panic!("{line}")).1.trim().to_owned();
    let app = crate::support::app::TestApp::start_now(Database::sqlite()).await;
    app.site().await;
    let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
    app.post(&format!("/api/sites/{SITE}/webhooks/{}/test", text(&webhook["id"])), json!({})).await.expect(202);
    app.drain().await;
    let mut said = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    assert!(line.contains("test") && line.contains("verified"), "{line}");
    // Somebody else's request is received, and told apart.
    let forged = crate::support::app::http_client().post(&url).body("{}").send().await.unwrap();
    assert!(!forged.status().is_success() || forged.status() == 200);
    let line = said.next_line().await.unwrap().unwrap();
    assert!(line.to_lowercase().contains("not verified") || line.contains("no signature"), "{line}");
    app.stop().await;
    receiver.kill().await.unwrap();
}
