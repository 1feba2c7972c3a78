//! ClickHouse for tests: the real engine behind `tests/fixtures/clickhouse`, one server for the whole test process, a
//! database for each test. It is gone with the process, however that ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pulsehook::analytics::clickhouse::Address;
use pulsehook::domain::time::Timestamp;
use serde_json::Value;

use super::app::http_client;
use super::process::tools;

/// Started when first looked at.
static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
/// Numbers databases and inserts.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// The versions of Plausible whose tables there are.
pub const CURRENT: &str = "current";
pub const OLDEST: &str = "v2_0";

struct Server {
    url: String,
    /// It ends when this does: its input is a pipe of ours.
    _process: Child,
}

/// A database of a test's own.
pub struct ClickHouse {
    pub name: String,
    http: reqwest::Client,
}

/// A row of `events_v2`. What is not said is as in most rows.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub site: i64,
    pub at: Timestamp,
    pub name: &'a str,
    pub visitor: u64,
    pub path: &'a str,
    pub source: &'a str,
    pub hostname: &'a str,
    /// Two letters; empty when not known.
    pub country: &'a str,
    pub props: &'a [(&'a str, &'a str)],
    /// Of engagement.
    pub scroll_depth: u8,
}

impl Default for Row<'_> {
    fn default() -> Self {
        Self {
            site: 1,
            at: Timestamp::EPOCH,
            name: "pageview",
            visitor: 1,
            path: "/",
            source: "",
            hostname: "example.com",
            country: "",
            props: &[],
            scroll_depth: 0,
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(tools().join(".venv/bin/python"))
            .arg(fixtures().join("clickhouse/server.py"))
            .arg("--parent-pipe")
            .args(["--readonly-user", "reader:secret", "--strict-user", "strict:secret"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server can be started");
        let mut line = String::new();
        let mut answers = BufReader::new(process.stdout.take().expect("it is piped"));
        answers.read_line(&mut line).expect("it says where it listens");
        let url = line.split_whitespace().nth(1).unwrap_or_else(|| panic!("it said {line:?}")).to_owned();
        Self { url, _process: process }
    }
}

impl ClickHouse {
    /// A new database without tables.
    pub async fn empty() -> Self {
        // The first look starts a process and waits for it.
        let server = tokio::task::spawn_blocking(|| &*SERVER).await.expect("the server starts");
        let name = format!("test_{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        let database = Self { name: name.clone(), http: http_client() };
        let made = database.http.post(&server.url).body(format!("CREATE DATABASE {name}")).send().await.unwrap();
        assert!(made.status().is_success(), "{}", made.text().await.unwrap());
        database
    }

    /// One with the tables of a version of Plausible.
    pub async fn plausible(version: &str) -> Self {
        let database = Self::empty().await;
        let path = fixtures().join(format!("plausible/clickhouse_{version}.sql"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for statement in text.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            database.run(statement).await;
        }
        database
    }

    /// What goes into `analytics_url`.
    pub fn url(&self) -> String {
        format!("{}/{}", SERVER.url.replace("http://", "clickhouse://"), self.name)
    }

    /// The same for a user: `reader` may read and bound what is read, `strict` may not even do that.
    pub fn url_as(&self, user: &str) -> String {
        self.url().replacen("://", &format!("://{user}:secret@"), 1)
    }

    pub fn address(&self) -> Address {
        self.url().parse().unwrap()
    }

    /// Runs a statement and answers what it says, as text.
    pub async fn run(&self, sql: &str) -> String {
        let address = format!("{}/?database={}", SERVER.url, self.name);
        let answer = self.http.post(address).body(sql.to_owned()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{sql}: {text}");
        text
    }

    /// Puts rows in, as a flush of Plausible's would: all in one insert.
    pub async fn insert(&self, rows: &[Row<'_>]) {
        let lines: Vec<_> = rows.iter().map(Row::json).collect();
        // Two inserts that are alike are two.
        let token = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let insert =
            format!("INSERT INTO events_v2 SETTINGS insert_deduplication_token = 'test {token}' FORMAT JSONEachRow");
        self.run(&format!("{insert}\n{}", lines.join("\n"))).await;
    }

    /// The same into tables of a version.
    pub async fn insert_as(&self, version: &str, rows: &[Row<'_>]) {
        match version {
            // They have no column for how far a page was scrolled.
            OLDEST => {
                let lines: Vec<_> = rows.iter().map(Row::json).collect();
                let settings = "SETTINGS input_format_skip_unknown_fields = 1";
                self.run(&format!("INSERT INTO events_v2 {settings} FORMAT JSONEachRow\n{}", lines.join("\n"))).await;
            }
            _ => self.insert(rows).await,
        }
    }

    /// The next statements that fit go wrong like this; see the fixture for what there is.
    pub async fn fault(&self, what: &str) {
        let address = format!("{}/fault?database={}&{what}", SERVER.url, self.name);
        let answer = self.http.post(address).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// No more faults.
    pub async fn heal(&self) {
        let address = format!("{}/fault?database={}", SERVER.url, self.name);
        self.http.delete(address).send().await.unwrap();
    }

    /// Statements served so far, oldest first.
    pub async fn queries(&self) -> Vec<Value> {
        let address = format!("{}/queries?database={}", SERVER.url, self.name);
        let answer: Value = self.http.get(address).send().await.unwrap().json().await.unwrap();
        answer["queries"].as_array().cloned().unwrap_or_default()
    }
}

impl Row<'_> {
    fn json(&self) -> String {
        let (keys, values): (Vec<_>, Vec<_>) = self.props.iter().copied().unzip();
        serde_json::json!({
            "timestamp": self.at.micros().div_euclid(1_000_000),
            "name": self.name,
            "site_id": self.site,
            "user_id": self.visitor,
            "session_id": self.visitor,
            "hostname": self.hostname,
            "country_code": self.country,
            "pathname": self.path,
            "referrer_source": self.source,
            "meta.key": keys,
            "meta.value": values,
            "scroll_depth": self.scroll_depth,
        })
        .to_string()
    }
}
