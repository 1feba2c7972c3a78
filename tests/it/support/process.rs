//! The real binary, as somebody would run it.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::Database;

const BINARY: &str = env!("CARGO_BIN_EXE_pulsehook");
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// The binary with the settings of a test in its environment, and nothing of the machine's.
pub fn pulsehook(database: &Database) -> Command {
    of_version(Path::new(BINARY), database)
}

/// The same of the binary whose turn it is. Where `CHAOS_OLD` names one of an earlier version, the two take turns, the
/// earlier one first: an upgrade with nodes of both on one database, and its way back.
pub fn pulsehook_in_turn(turn: usize, database: &Database) -> Command {
    match old_binary().filter(|_| is_turn_of_the_past(turn)) {
        Some(old) => of_version(Path::new(&old), database),
        None => pulsehook(database),
    }
}

pub fn is_turn_of_the_past(turn: usize) -> bool {
    old_binary().is_some() && turn.is_multiple_of(2)
}

fn old_binary() -> Option<OsString> {
    std::env::var_os("CHAOS_OLD").filter(|path| !path.is_empty())
}

fn of_version(binary: &Path, database: &Database) -> Command {
    let mut command = Command::new(binary);
    command
        .env_clear()
        .env("PULSEHOOK_LISTEN", "127.0.0.1:0")
        .env("PULSEHOOK_DATA_DIR", database.folder.path())
        .env("PULSEHOOK_DATABASE_URL", &database.url)
        .env("PULSEHOOK_MASTER_KEY", MASTER_KEY)
        .env("PULSEHOOK_EGRESS_ALLOW", "127.0.0.0/8")
        .env("PULSEHOOK_EGRESS_ALLOW_HTTP", "true")
        .current_dir(database.folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end and answers what it wrote to standard output.
#[track_caller]
pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

/// Makes an owner's key on the machine.
pub async fn key(database: &Database) -> String {
    key_of(database, "Owner").await
}

/// The same for an account of this name, which is created when there is none.
pub async fn key_of(database: &Database, account: &str) -> String {
    // Whoever comes first makes the tables.
    let mut command = pulsehook_in_turn(0, database);
    let output = command.args(["keys", "create", "--account", account]).output().await.unwrap();
    succeeded(&output).trim().to_owned()
}

/// A running `serve`.
pub struct Served {
    child: Child,
    pub url: String,
    log: Arc<watch::Sender<Vec<String>>>,
}

impl Served {
    /// Starts it, to die at `failpoint` if there is one, and waits until it listens.
    pub async fn start(database: &Database, failpoint: Option<&str>) -> Self {
        let mut command = pulsehook(database);
        if let Some(failpoint) = failpoint {
            command.env("PULSEHOOK_FAILPOINT", failpoint);
        }
        Self::run(command).await
    }

    /// Starts it so that its disk can be full: [`Served::fill_the_disk`].
    pub async fn start_on_a_small_disk(database: &Database) -> Self {
        let mut command = of_version(Path::new("/bin/sh"), database);
        // Whoever writes beyond the limit is told so, instead of being killed.
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", BINARY]);
        Self::run(command).await
    }

    /// From now on no file of its own can be written to.
    pub async fn fill_the_disk(&self) {
        self.limit_files("1").await;
    }

    /// There is room again.
    pub async fn empty_the_disk(&self) {
        self.limit_files("unlimited").await;
    }

    async fn limit_files(&self, bytes: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let limit = format!("--fsize={bytes}:");
        assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().await.unwrap().success());
    }

    /// Has this command serve, and waits until it listens.
    pub async fn run(mut command: Command) -> Self {
        command.arg("serve").env("PULSEHOOK_LOG_FORMAT", "text").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is there");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = Arc::new(watch::Sender::<Vec<String>>::default());
        let url = loop {
            let line =
                lines.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended early: {:?}", *log.borrow()));
            log.send_modify(|log| log.push(line.clone()));
            if let Some((_, url)) = line.split_once("listens on ") {
                break url.trim().to_owned();
            }
        };
        // Somebody has to read the log, or it fills the pipe.
        let more = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                more.send_modify(|log| log.push(line));
            }
        });
        Self { child, url, log }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// Waits until it has logged this.
    pub async fn said(&self, text: &str) {
        let mut log = self.log.subscribe();
        log.wait_for(|log| log.iter().any(|line| line.contains(text))).await.expect("it is not over while we hold it");
    }

    /// Bytes of memory it holds.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it runs"))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says so");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// Asks it to stop, and answers how it did.
    pub async fn stop(mut self) -> ExitStatus {
        let id = self.child.id().expect("it still runs").to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        assert!(asked.success());
        self.child.wait().await.unwrap()
    }

    /// Kills it where it stands.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it is dead.
    pub async fn died(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

/// Where the packages are that verify our deliveries and feed our ingestion.
pub fn tools() -> std::path::PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let installed = tools.join(".venv/bin/python").exists() && tools.join("node_modules/stamp").exists();
    assert!(installed, "the packages of the tests are missing: run `make test`, which installs them");
    tools
}
