//! A master key is changed without anybody noticing: not the receivers, not the server that delivers meanwhile, and not
//! whoever is interrupted half-way.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulsehook::domain::signature::{SigningSecret, verify_standard};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::app::{Answer, SECRET, SITE, Setup, TestApp, http_client, text};
use crate::support::process::{Served, key, pulsehook, succeeded};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};
use crate::support::{Database, in_time, on_both};

const WEBHOOKS: &str = "/api/sites/example.com/webhooks";

/// Master keys, the newest first, told apart by a number; 7 is the usual one of tests.
fn keys(numbers: &[u8]) -> String {
    numbers.iter().map(|number| STANDARD.encode([*number; 32])).collect::<Vec<_>>().join(",")
}

/// `rotate-key` with these master keys.
async fn rotate(database: &Database, numbers: &[u8], arguments: &[&str]) -> Output {
    let mut command = pulsehook(database);
    command.env("PULSEHOOK_MASTER_KEY", keys(numbers)).arg("rotate-key").args(arguments);
    command.output().await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", said(output)))
}

fn with_keys(numbers: &[u8]) -> Setup {
    let most = ("max_webhooks_per_account", "100".to_owned());
    Setup { settings: vec![("master_key", keys(numbers)), most], ..Setup::default() }
}

/// The signature is the owner's secret's, and the header has the owner's value.
#[track_caller]
fn assert_as_ever(arrived: &Arrived) {
    let header = |name: &str| arrived.header(name).unwrap_or_else(|| panic!("no {name}: {}", arrived.head));
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let secret = SigningSecret::parse(SECRET).unwrap();
    let now = timestamp.parse().unwrap();
    verify_standard(&secret, id, timestamp, header("webhook-signature"), &arrived.body, now).unwrap();
    assert_eq!(header("x-token"), "of the owner");
}

/// What an owner has, wherever the server listens now.
struct Stage {
    database: Database,
    endpoint: Endpoint,
    http: reqwest::Client,
    key: String,
}

impl Stage {
    async fn new(database: Database) -> Self {
        let key = key(&database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        Self { database, endpoint, http: http_client(), key }
    }

    /// A server with these master keys, or those of the file in its folder.
    async fn serve(&self, numbers: &[u8]) -> Served {
        Served::run(self.command(numbers)).await
    }

    fn command(&self, numbers: &[u8]) -> Command {
        let mut command = pulsehook(&self.database);
        if numbers.is_empty() {
            command.env_remove("PULSEHOOK_MASTER_KEY");
        } else {
            command.env("PULSEHOOK_MASTER_KEY", keys(numbers));
        }
        command
    }

    async fn ask(&self, served: &Served, method: Method, path: &str, body: Value) -> Answer {
        let request = self.http.request(method, format!("{}{path}", served.url)).bearer_auth(&self.key);
        Answer::of(request.json(&body)).await
    }

    fn webhook(&self) -> Value {
        json!({
            "url": self.endpoint.url(), "name": "Mine", "secret": SECRET, "headers": {"X-Token": "of the owner"},
            "triggers": [{"type": "goal_completion"}],
        })
    }

    /// A site and a webhook, and the webhook's path.
    async fn set_up(&self, served: &Served) -> String {
        self.ask(served, Method::POST, "/api/sites", json!({"domain": SITE})).await.expect(201);
        let created = self.ask(served, Method::POST, WEBHOOKS, self.webhook()).await.expect(201);
        format!("{WEBHOOKS}/{}", text(&created["webhook"]["id"]))
    }

    /// A delivery arrives as ever.
    async fn delivers(&self, served: &Served, path: &str) {
        let before = self.endpoint.arrived().len();
        self.ask(served, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
        self.endpoint.wait_for(before + 1).await;
        self.endpoint.arrived().iter().for_each(assert_as_ever);
    }
}

on_both!({
    async fn without_the_key_of_what_is_kept_nothing_starts(database: Database) {
        let stage = Stage::new(database).await;
        // With PostgreSQL there is no file.
        let usual: &[u8] = if stage.database.url.starts_with("sqlite:") { &[] } else { &[7] };
        let served = stage.serve(usual).await;
        let path = stage.set_up(&served).await;
        assert!(served.stop().await.success());
        let file = stage.database.folder.path().join("master.key");
        let refused = async |numbers: &[u8]| {
            let output = stage.command(numbers).arg("serve").output().await.unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(
                said(&output).contains("was sealed with master key") && said(&output).contains("put it back"),
                "{}",
                said(&output)
            );
        };
        refused(&[8]).await;
        if usual.is_empty() {
            // None is made in place of one that got lost.
            let aside = file.with_extension("aside");
            std::fs::rename(&file, &aside).unwrap();
            refused(&[]).await;
            assert!(!file.exists());
            std::fs::rename(&aside, &file).unwrap();
        }
        let served = stage.serve(usual).await;
        stage.delivers(&served, &path).await;
        assert!(served.stop().await.success());
    }

    async fn an_address_that_lay_readable_is_sealed(database: Database) {
        let stage = Stage::new(database).await;
        let served = stage.serve(&[7]).await;
        let path = stage.set_up(&served).await;
        assert!(served.stop().await.success());
        // As a version wrote it that did not seal addresses.
        let id = path.rsplit('/').next().unwrap();
        let sql = "UPDATE webhooks SET url = $1, sealed_url = NULL WHERE id = $2";
        stage.database.rewrite(sql, &stage.endpoint.url(), id).await;
        let moved = report(&{
            let output = rotate(&stage.database, &[7], &["--json"]).await;
            assert!(output.status.success(), "{}", said(&output));
            output
        });
        assert_eq!(moved["webhooks"], 1);
        assert_eq!(report(&rotate(&stage.database, &[7], &["--json"]).await)["webhooks"], 0);
        let store = pulsehook::store::Store::open(&stage.database.url).await.unwrap();
        let kept =
            store.operator_sealed_webhooks(pulsehook::domain::ids::WebhookId(uuid::Uuid::nil()), 9).await.unwrap();
        assert!(kept[0].sealed_url.is_some());
        assert_eq!(kept[0].url, stage.endpoint.address.to_string());
        store.close().await;
        // Then it is sealed like everything else.
        assert_eq!(report(&rotate(&stage.database, &[8, 7], &["--json"]).await)["webhooks"], 1);
        let served = stage.serve(&[8]).await;
        stage.delivers(&served, &path).await;
        let shown = stage.ask(&served, Method::GET, &path, Value::Null).await.expect(200);
        assert_eq!(text(&shown["webhook"]["url"]), stage.endpoint.url());
        assert!(served.stop().await.success());
    }

    async fn a_key_is_changed_while_a_server_delivers(database: Database) {
        let stage = Stage::new(database).await;
        let served = stage.serve(&[7]).await;
        let path = stage.set_up(&served).await;
        // Signs with two secrets, and keeps an answer with a secret in it.
        let rotated =
            stage.ask(&served, Method::POST, &format!("{path}/secret/rotate"), json!({"secret": SECRET})).await;
        rotated.expect(200);
        let repeat = async |served: &Served| {
            let request = stage.http.post(format!("{}{WEBHOOKS}", served.url)).bearer_auth(&stage.key);
            Answer::of(request.header("idempotency-key", "once").json(&stage.webhook())).await
        };
        let created = repeat(&served).await.expect(201);
        assert!(served.stop().await.success());

        let served = stage.serve(&[8, 7]).await;
        let work = async {
            for number in 0..20 {
                stage.delivers(&served, &path).await;
                let body = json!({"headers": {"X-Token": "of the owner", "X-Number": number.to_string()}});
                stage.ask(&served, Method::PATCH, &path, body).await.expect(200);
            }
        };
        let (output, ()) = tokio::join!(rotate(&stage.database, &[8, 7], &["--json"]), work);
        let report = report(&output);
        assert!(output.status.success(), "{}", said(&output));
        // The headers were sealed anew by whoever edited them; the secrets are moved by us.
        assert!(report["webhooks"].as_u64().unwrap() >= 2, "{report}");
        assert_eq!((&report["answers"], &report["old_keys_can_be_removed"]), (&json!(1), &json!(true)), "{report}");
        assert_eq!(report["unreadable"], json!([]));
        assert!(served.stop().await.success());

        let served = stage.serve(&[8]).await;
        stage.delivers(&served, &path).await;
        let signatures = stage.endpoint.arrived().pop().unwrap().header("webhook-signature").unwrap().to_owned();
        assert_eq!(signatures.split(' ').count(), 2, "{signatures}");
        assert_eq!(repeat(&served).await.expect(201), created);
        let output = rotate(&stage.database, &[8], &[]).await;
        assert!(succeeded(&output).starts_with("There was nothing to move"), "{}", said(&output));
        assert!(served.stop().await.success());
    }

    async fn a_rotation_that_is_interrupted_goes_on_where_it_was(database: Database) {
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let app = TestApp::start_with(database, with_keys(&[7])).await;
        app.site().await;
        let mut path = String::new();
        for number in 0..60 {
            let body = json!({
                "url": endpoint.url(), "name": number.to_string(), "secret": SECRET,
                "headers": {"X-Token": "of the owner"}, "triggers": [{"type": "goal_completion"}],
            });
            let created = app.post(WEBHOOKS, body).await.expect(201);
            path = format!("{WEBHOOKS}/{}", text(&created["webhook"]["id"]));
        }
        let clock = app.clock.clone();
        let database = app.stop().await;

        let mut command = pulsehook(&database);
        command.env("PULSEHOOK_MASTER_KEY", keys(&[8, 7])).env("PULSEHOOK_FAILPOINT", "resealed").arg("rotate-key");
        let killed = command.output().await.unwrap();
        assert_eq!(killed.status.code(), None, "{}", said(&killed));
        // A part is moved, and all of it can be read with both keys.
        let half = report(&rotate(&database, &[8], &["--json"]).await);
        assert_eq!((&half["webhooks"], &half["old_keys_can_be_removed"]), (&json!(0), &json!(false)));
        assert_eq!(half["unreadable"].as_array().unwrap().len(), 35 * 3, "{half}");
        let app = TestApp::start_at(database, with_keys(&[8, 7]), clock.clone()).await;
        assert_eq!(app.get(WEBHOOKS).await.expect(200)["webhooks"].as_array().unwrap().len(), 60);
        let database = app.stop().await;

        let output = rotate(&database, &[8, 7], &[]).await;
        let told = succeeded(&output);
        assert!(told.contains("the secrets of 35 webhooks and 0 kept answers."), "{told}");
        assert!(told.contains("The older keys can be removed from master_key now."), "{told}");
        let again = succeeded(&rotate(&database, &[8, 7], &[]).await);
        assert!(again.contains("There was nothing to move") && again.contains("can be removed"), "{again}");
        let app = TestApp::start_at(database, with_keys(&[8]), clock).await;
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert_as_ever(&endpoint.arrived()[0]);
        app.stop().await;
    }

    async fn what_cannot_be_opened_is_named_and_stops_nothing(database: Database) {
        let app = TestApp::start_with(database, with_keys(&[9])).await;
        app.site().await;
        let lost = app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
        let clock = app.clock.clone();
        let database = app.stop().await;
        let app = TestApp::start_at(database, with_keys(&[7, 9]), clock.clone()).await;
        for _ in 0..2 {
            app.webhook("https://hooks.example.com/in", json!([{"type": "goal_completion"}])).await;
        }
        let database = app.stop().await;
        // It is shown as far as it can be read, and the others as ever.
        let app = TestApp::start_at(database, with_keys(&[7]), clock).await;
        let shown = app.get(WEBHOOKS).await.expect(200);
        let mut urls: Vec<_> =
            shown["webhooks"].as_array().unwrap().iter().map(|webhook| text(&webhook["url"])).collect();
        urls.sort_unstable();
        assert_eq!(urls, ["hooks.example.com", "https://hooks.example.com/in", "https://hooks.example.com/in"]);
        let database = app.stop().await;
        let output = rotate(&database, &[8, 7], &[]).await;
        assert_eq!(output.status.code(), Some(1));
        let told = said(&output);
        assert!(told.contains("the secrets of 2 webhooks"), "{told}");
        assert!(told.contains(&format!("Cannot be opened: secret of webhook {}", text(&lost["id"]))), "{told}");
        assert!(told.contains("sealed with key") && told.contains("2 values cannot be opened"), "{told}");
        assert!(told.contains("no key can be removed yet"), "{told}");
        // With the key that was missing there is nothing left to complain about.
        let output = rotate(&database, &[8, 9], &["--json"]).await;
        let report = report(&output);
        assert_eq!((&report["webhooks"], &report["old_keys_can_be_removed"]), (&json!(1), &json!(true)), "{report}");
    }

    async fn where_there_is_nothing_nothing_is_moved(database: Database) {
        let told = succeeded(&rotate(&database, &[7], &[]).await);
        assert!(told.starts_with("There was nothing to move to key ") && !told.contains("can be removed"), "{told}");
    }

    async fn a_server_that_does_not_know_the_new_key_is_not_locked_out(database: Database) {
        let stage = Stage::new(database).await;
        let served = stage.serve(&[7]).await;
        let path = stage.set_up(&served).await;
        let output = rotate(&stage.database, &[8, 7], &[]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("nothing was changed") && said(&output).contains("Restart it"),
            "{}",
            said(&output)
        );
        stage.delivers(&served, &path).await;
        // One that died said nothing; its owner has to.
        served.kill().await;
        assert_eq!(rotate(&stage.database, &[8, 7], &[]).await.status.code(), Some(1));
        let told = succeeded(&rotate(&stage.database, &[8, 7], &["--force"]).await);
        assert!(told.contains("the secrets of 1 webhook "), "{told}");
        let served = stage.serve(&[8]).await;
        stage.delivers(&served, &path).await;
        assert!(served.stop().await.success());
        // One that ended in good order is nobody to wait for.
        succeeded(&rotate(&stage.database, &[6, 8], &[]).await);
    }

    async fn where_a_setting_has_the_key_none_is_made(database: Database) {
        let output = rotate(&database, &[7], &["--generate"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("master_key is set, so its place is yours to change"), "{}", said(&output));
    }
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_made_in_the_file_and_used_once_the_server_knows_it() {
    in_time(async {
        let stage = Stage::new(Database::sqlite()).await;
        let file = stage.database.folder.path().join("master.key");
        let lines = || std::fs::read_to_string(&file).unwrap().trim().split(',').map(str::to_owned).collect::<Vec<_>>();
        let rotate =
            async |arguments: &[&str]| stage.command(&[]).arg("rotate-key").args(arguments).output().await.unwrap();
        let early = rotate(&["--generate"]).await;
        assert!(early.status.code() == Some(1) && said(&early).contains("makes it with its first start"));

        let served = stage.serve(&[]).await;
        let path = stage.set_up(&served).await;
        let first = lines();
        let output = rotate(&["--generate"]).await;
        assert!(succeeded(&output).starts_with("Now restart the server"), "{}", said(&output));
        assert_eq!((lines().len(), &lines()[1]), (2, &first[0]));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!said(&output).contains(&lines()[0]) && !said(&output).contains(&first[0]), "keys are not printed");
        // It goes on with the old one until then.
        stage.delivers(&served, &path).await;
        assert!(served.stop().await.success());
        let served = stage.serve(&[]).await;
        stage.delivers(&served, &path).await;
        let told = succeeded(&rotate(&[]).await);
        assert!(told.contains("the secrets of 1 webhook ") && told.contains("master.key now."), "{told}");
        assert!(served.stop().await.success());
        std::fs::write(&file, &lines()[0]).unwrap();
        let served = stage.serve(&[]).await;
        stage.delivers(&served, &path).await;
        assert!(served.stop().await.success());

        // Where no server runs it is one step.
        let told = succeeded(&rotate(&["--generate"]).await);
        assert!(told.contains("the secrets of 1 webhook ") && told.contains("can be removed"), "{told}");
        assert_eq!(lines().len(), 2);
        std::fs::write(&file, &lines()[0]).unwrap();
        let served = stage.serve(&[]).await;
        stage.delivers(&served, &path).await;
        assert!(served.stop().await.success());
    })
    .await;
}
