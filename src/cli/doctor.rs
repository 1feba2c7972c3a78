//! `doctor`: looks at everything a set-up needs and says in a sentence what is wrong and what to do. It changes nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::{Flags, output};
use crate::analytics::clickhouse::{ClickHouse, Limits, Mode};
use crate::analytics::sqlite::Embedded;
use crate::analytics::{Analytics, AnalyticsError};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{AnalyticsPlace, Config, DirectoryPlace};
use crate::directory::plausible::Plausible;
use crate::domain::ids::NodeId;
use crate::domain::time::Timestamp;
use crate::store::Store;

/// Clocks further apart are worth a word, and further than the second are a fault: times in payloads and windows are off.
const CLOCK_WARNING: Duration = Duration::from_secs(1);
const CLOCK_FAULT: Duration = Duration::from_secs(30);
/// Traffic older than this may have stopped.
const STALE: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warning,
    Fault,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

struct Check {
    what: &'static str,
    state: State,
    sentence: String,
}

/// What was looked at so far.
#[derive(Default)]
struct Findings(Vec<Check>);

impl Findings {
    fn add(&mut self, what: &'static str, state: State, sentence: impl Into<String>) {
        self.0.push(Check { what, state, sentence: sentence.into() });
    }

    fn ok(&mut self, what: &'static str, sentence: impl Into<String>) {
        self.add(what, State::Ok, sentence);
    }

    fn warn(&mut self, what: &'static str, sentence: impl Into<String>) {
        self.add(what, State::Warning, sentence);
    }

    fn fault(&mut self, what: &'static str, sentence: impl Into<String>) {
        self.add(what, State::Fault, sentence);
    }
}

impl Doctor {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut findings = Findings::default();
        match self.flags.config() {
            Ok(config) => {
                findings.ok("settings", format!("understood; people reach this server at {}", config.base_url));
                let clock = Clock::system();
                look_at_folder(&config, &mut findings);
                look_at_database(&config, &clock, &mut findings).await;
                look_at_plausible(&config, &clock, &mut findings).await;
                look_at_analytics(&config, &clock, &mut findings).await;
            }
            Err(error) => findings.fault("settings", output::in_words(&error)),
        }
        let faults = findings.0.iter().filter(|check| check.state == State::Fault).count();
        if self.json {
            let checks = findings
                .0
                .iter()
                .map(|check| json!({"check": check.what, "state": check.state.as_str(), "message": check.sentence}));
            output::json(&json!({"ok": faults == 0, "checks": checks.collect::<Vec<_>>()}));
        } else {
            for check in &findings.0 {
                let line = format!("{:<8} {:<12} {}", check.state.as_str(), check.what, check.sentence);
                output::say(&output::printable(&line));
            }
        }
        match faults {
            0 => Ok(()),
            1 => bail!("one thing has to be mended"),
            faults => bail!("{faults} things have to be mended"),
        }
    }
}

fn look_at_folder(config: &Config, findings: &mut Findings) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = config.data_dir.display();
    match std::fs::metadata(&config.data_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.ok("data folder", format!("{folder} is not there yet; the first start makes it"));
        }
        Err(error) => findings.fault("data folder", format!("{folder} cannot be looked at: {error}")),
        Ok(found) if !found.is_dir() => findings.fault("data folder", format!("{folder} is not a folder")),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            findings.warn("data folder", format!("{folder} can be read by others; chmod 700 it"));
        }
        Ok(_) => findings.ok("data folder", folder.to_string()),
    }
    let key = config.data_dir.join("master.key");
    match &config.master_key {
        Some(_) => findings.ok("master key", "set"),
        None if key.exists() => findings.ok("master key", format!("in {}; keep a copy elsewhere", key.display())),
        None => findings.ok("master key", "not there yet; the first start makes it"),
    }
}

/// A start makes a database's file, and of folders none but the one for data.
fn look_at_what_is_to_be_made(path: &Path, what: &'static str, config: &Config, findings: &mut Findings) {
    let shown = path.display();
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) if !folder.is_dir() && !config.data_dir.starts_with(folder) => {
            let folder = folder.display();
            findings.fault(what, format!("{shown} cannot be made: the folder {folder} is not there; make it first"));
        }
        _ => findings.ok(what, format!("{shown} is not there yet; the first start makes it")),
    }
}

async fn look_at_database(config: &Config, clock: &Clock, findings: &mut Findings) {
    const WHAT: &str = "database";
    // To open an SQLite file is to make it.
    if let Some(path) = config.database_url.strip_prefix("sqlite://")
        && !Path::new(path).exists()
    {
        return look_at_what_is_to_be_made(Path::new(path), WHAT, config, findings);
    }
    let outcome = match Store::open(&config.database_url).await {
        Ok(store) => {
            let began = clock.monotonic();
            let condition = store.condition().await;
            let took = clock.monotonic().saturating_sub(began);
            store.close().await;
            condition.map(|condition| (condition, took))
        }
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) => {
            let place = Store::place_of(&config.database_url).unwrap_or_else(|| "it".to_owned());
            findings.fault(WHAT, format!("{place} cannot be used: {error}"));
        }
        Ok((condition, took)) => {
            let server = &condition.server;
            match (condition.missing, condition.unknown) {
                (0, 0) => {
                    findings.ok(WHAT, format!("{server}, schema up to date, answers in {} ms", took.as_millis()));
                }
                (0, _) => findings.warn(
                    WHAT,
                    format!("{server}; a newer Pulsehook was here, which is fine during an upgrade and not for long"),
                ),
                (missing, _) => findings.warn(
                    WHAT,
                    format!("{server}, {missing} steps of the schema behind; `pulsehook migrate` or the next start adds them"),
                ),
            }
            if let Some(theirs) = condition.clock {
                compare_clocks("PostgreSQL", theirs, clock.now(), findings);
            }
        }
    }
}

async fn look_at_plausible(config: &Config, clock: &Clock, findings: &mut Findings) {
    const WHAT: &str = "plausible";
    let DirectoryPlace::Plausible { database_url, secret_key_base } = &config.directory else { return };
    let truth = match Plausible::new(database_url, secret_key_base.as_deref(), clock.clone()) {
        Ok(plausible) => {
            // Everything that is read for the mirror, so that a missing right shows here.
            let checked = plausible.check().await;
            let truth = match checked {
                Ok(()) => plausible.truth(clock.now()).await,
                Err(error) => Err(error),
            };
            plausible.close().await;
            truth
        }
        Err(error) => Err(error),
    };
    match truth {
        Err(error) => findings.fault(WHAT, error.to_string()),
        Ok(truth) => {
            let resting = truth.owners.iter().filter(|owner| owner.suspended).count();
            let mut sentence = format!("{} sites and {} goals can be read", truth.sites.len(), truth.goals.len());
            if resting > 0 {
                sentence.push_str(&format!("; {resting} teams are locked and left alone"));
            }
            findings.ok(WHAT, sentence);
        }
    }
}

async fn look_at_analytics(config: &Config, clock: &Clock, findings: &mut Findings) {
    const WHAT: &str = "analytics";
    if let AnalyticsPlace::Embedded(path) = &config.analytics
        && !path.exists()
    {
        return look_at_what_is_to_be_made(path, WHAT, config, findings);
    }
    // As somebody who only reads: whatever is not there yet is not made.
    let opened = match &config.analytics {
        AnalyticsPlace::Embedded(path) => Embedded::open(path).await.map(Analytics::Embedded),
        AnalyticsPlace::ClickHouse(address) => {
            let node = NodeId(Chance::from_system().uuid_v7(clock.now()));
            let connected = ClickHouse::connect(address, node, clock.clone(), Mode::Theirs).await;
            connected.map(Analytics::ClickHouse)
        }
    };
    let analytics = match opened {
        Ok(analytics) => analytics,
        Err(AnalyticsError::NoTable(_)) if config.directory == DirectoryPlace::Own => {
            return findings.ok(WHAT, "ClickHouse answers; the first start makes the tables");
        }
        Err(error) => {
            let sentence = match &config.analytics {
                AnalyticsPlace::Embedded(path) => format!("{}: {error}", path.display()),
                AnalyticsPlace::ClickHouse(address) => format!("ClickHouse at {address}: {error}"),
            };
            return findings.fault(WHAT, sentence);
        }
    };
    match &analytics {
        Analytics::Embedded(_) => findings.ok(WHAT, "an SQLite file of our own"),
        Analytics::ClickHouse(clickhouse) => look_at_clickhouse(config, clickhouse, clock, findings).await,
    }
    let now = clock.now();
    match analytics.freshness(now).await {
        Err(error) => findings.fault("freshness", format!("the newest hit cannot be found: {error}")),
        Ok(fresh) => match fresh.newest_at {
            None => findings.warn("freshness", "nothing came in within a day; are trackers sending?"),
            Some(newest) => {
                let age = now.since(newest);
                let sentence = format!("newest hit {} s ago, {} in the last hour", age.as_secs(), fresh.hits_last_hour);
                let state = if age > STALE { State::Warning } else { State::Ok };
                findings.add("freshness", state, sentence);
            }
        },
    }
    analytics.close().await;
}

async fn look_at_clickhouse(config: &Config, clickhouse: &ClickHouse, clock: &Clock, findings: &mut Findings) {
    let shape = clickhouse.shape();
    if config.directory == DirectoryPlace::Own && !shape.is_ours {
        findings.fault(
            "analytics",
            "events_v2 was not made by Pulsehook, which writes into no other; if it is Plausible's, set directory to \
             plausible, else name a database of Pulsehook's own in analytics_url",
        );
    }
    let began = clock.monotonic();
    let theirs = clickhouse.clock().await;
    let took = clock.monotonic().saturating_sub(began);
    let place = match &config.analytics {
        AnalyticsPlace::ClickHouse(address) => address.to_string(),
        AnalyticsPlace::Embedded(path) => path.display().to_string(),
    };
    let scroll = if shape.has_scroll_depth { "" } else { ", without scroll depths (before Plausible 3.0)" };
    let sentence = format!("ClickHouse {} at {place}{scroll}, answers in {} ms", shape.version, took.as_millis());
    findings.ok("analytics", sentence);
    match shape.limits {
        Limits::AskedFor if shape.is_ours => findings.ok("permissions", "may write, as it has to"),
        Limits::Allowed | Limits::TheirsOnly if shape.is_ours => {
            findings.fault("permissions", "this user of ClickHouse may not write, so no events can be taken in");
        }
        Limits::AskedFor => findings.warn(
            "permissions",
            "this user of ClickHouse may write; Pulsehook asks for read-only, but a user with readonly = 2 cannot err",
        ),
        Limits::Allowed => findings.ok("permissions", "read-only"),
        Limits::TheirsOnly => findings.ok(
            "permissions",
            "read-only, without limits of ours (readonly = 1): give the user's profile a max_execution_time",
        ),
    }
    match theirs {
        Ok(theirs) => compare_clocks("ClickHouse", theirs, clock.now(), findings),
        Err(error) => findings.fault("clock", format!("ClickHouse does not tell the time: {error}")),
    }
}

fn compare_clocks(whose: &str, theirs: Timestamp, ours: Timestamp, findings: &mut Findings) {
    let (apart, direction) =
        if theirs > ours { (theirs.since(ours), "behind") } else { (ours.since(theirs), "ahead of") };
    let sentence = format!("this machine is {:.1} s {direction} {whose}", apart.as_secs_f64());
    if apart > CLOCK_FAULT {
        findings.fault(
            "clock",
            format!("{sentence}; windows and leases are off, set the clocks (chrony or systemd-timesyncd)"),
        );
    } else if apart > CLOCK_WARNING {
        findings.warn("clock", format!("{sentence}; set the clocks (chrony or systemd-timesyncd)"));
    } else {
        findings.ok("clock", format!("within {} ms of {whose}", apart.as_millis()));
    }
}
