//! `import access-log`: a log becomes history, or is played as live traffic.

use std::io::{BufRead, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::client::{Client, Connection};
use super::import_config::ImportConfig;
use super::{Flags, output};
use crate::analytics::access_log::{Judged, Line, Reason, Summary};
use crate::analytics::recorder::{self, Recorder};
use crate::analytics::user_agent;
use crate::app;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::hit::{Hit, TrackedEvent};
use crate::domain::ids::{NodeId, SiteId};
use crate::domain::time::Timestamp;

/// Hits written at once.
const BATCH: usize = 1_000;

#[derive(Debug, clap::Subcommand)]
pub enum Import {
    /// A log of nginx or Apache, common or combined, plain or gzip
    AccessLog(AccessLog),
    /// Sites, goals, webhooks and triggers as `pulsehook export` writes them
    Config(ImportConfig),
}

#[derive(Debug, clap::Args)]
pub struct AccessLog {
    /// The log; - for standard input
    file: PathBuf,
    /// Domain of the site
    #[arg(long, value_name = "DOMAIN")]
    site: String,
    /// Play it as live traffic so many times faster than it was, such as 60x, instead of storing history
    #[arg(long, value_name = "SPEED", value_parser = speed)]
    replay: Option<f64>,
    /// Import a file although it was imported before
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    flags: Flags,
}

/// A visit of a log, with what tells its visitor from others.
pub struct Visit {
    pub at: Timestamp,
    pub address: std::net::IpAddr,
    pub user_agent: String,
    pub event: TrackedEvent,
}

impl Import {
    pub async fn run(self) -> anyhow::Result<()> {
        let command = match self {
            Self::Config(command) => return command.run().await,
            Self::AccessLog(command) => command,
        };
        let site = command.site.trim().to_lowercase();
        let bytes = read_whole(&command.file)?;
        let (visits, summary) = judge(&bytes, &site);
        match command.replay {
            Some(speed) => replay(&command.connection.anonymous()?, &visits, speed, &site).await?,
            None => store_history(&command, &site, &bytes, &visits).await?,
        }
        if command.connection.json {
            let left: serde_json::Map<_, _> =
                summary.left.iter().map(|(reason, count)| (reason.code().to_owned(), (*count).into())).collect();
            output::json(&json!({ "lines": summary.lines(), "taken": summary.taken, "left_out": left }));
        } else {
            output::say(summary.to_string().trim_end());
        }
        Ok(())
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix(['x', 'X']).unwrap_or(text).parse::<f64>();
    match number {
        Ok(speed) if speed > 0.0 && speed <= 1_000_000.0 => Ok(speed),
        _ => Err("must be a number of times such as 60x".to_owned()),
    }
}

fn read_whole(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
    } else {
        bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    }
    unpack(bytes)
}

/// Takes gzip apart; anything else stays what it is.
pub fn unpack(bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).context("the gzip file is damaged")?;
    Ok(plain)
}

/// The visits of a log in the order of time, and what became of every line.
pub fn judge(log: &[u8], site: &str) -> (Vec<Visit>, Summary) {
    let mut summary = Summary::default();
    let mut visits = Vec::new();
    let mut reader = BufReader::new(log);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            match Line::parse(&text) {
                Ok(line) => match line.judge(site) {
                    Judged::Visit(event) => {
                        summary.taken += 1;
                        let (at, address) = (line.at, line.address());
                        visits.push(Visit { at, address, user_agent: line.user_agent.into_owned(), event: *event });
                    }
                    Judged::Left(reason) => summary.leave(reason),
                },
                Err(_) => summary.leave(Reason::Malformed),
            }
        }
        line.clear();
    }
    visits.sort_by_key(|visit| visit.at);
    (visits, summary)
}

async fn store_history(command: &AccessLog, site: &str, bytes: &[u8], visits: &[Visit]) -> anyhow::Result<()> {
    let config = command.flags.config()?;
    let store = app::open_store(&config).await?;
    let known = store.operator_domains().await?;
    let Some((site_id, _)) = known.into_iter().find(|(_, domain)| domain == site) else {
        bail!("there is no site {site} here yet; create it with `pulsehook sites create {site}`");
    };
    let fingerprint = format!("import:{site_id}:{}", hex::encode(Sha256::digest(bytes)));
    if store.fact(&fingerprint).await?.is_some() && !command.again {
        bail!("this log was imported for {site} before, and would count twice; say --again to do it all the same");
    }
    let (clock, chance) = (Clock::system(), Chance::from_system());
    let node = NodeId(chance.uuid_v7(clock.now()));
    let analytics = app::open_analytics(&config, node, &clock, &chance).await?;
    let recorder = Recorder::new(analytics.clone(), clock.clone(), chance.clone()).await?;
    let progress = progress_bar(visits.len());
    for batch in visits.chunks(BATCH) {
        analytics.import(attribute(&recorder, batch, site_id, site, Duration::ZERO)).await?;
        progress.inc(batch.len() as u64);
    }
    progress.finish_and_clear();
    store.set_fact(&fingerprint, &clock.now().to_string()).await?;
    analytics.close().await;
    store.close().await;
    Ok(())
}

/// Visits as hits of a site, `later` than they were.
pub fn attribute(recorder: &Recorder, visits: &[Visit], site_id: SiteId, site: &str, later: Duration) -> Vec<Hit> {
    visits
        .iter()
        .filter_map(|visit| {
            let client = recorder::Client { address: visit.address, user_agent: &visit.user_agent };
            let device = user_agent::device(&visit.user_agent);
            recorder.attribute_at(&visit.event, site_id, site, &client, device, visit.at + later).ok()
        })
        .collect()
}

/// Posts the visits at the log's own pace times `speed`.
async fn replay(client: &Client, visits: &[Visit], speed: f64, site: &str) -> anyhow::Result<()> {
    let Some(first) = visits.first() else { return Ok(()) };
    let clock = Clock::system();
    let began = clock.now();
    let progress = progress_bar(visits.len());
    let mut stop = std::pin::pin!(super::serve::stop_signal()?);
    for (played, visit) in visits.iter().enumerate() {
        let due = began + visit.at.since(first.at).div_f64(speed);
        tokio::select! {
            () = &mut stop => {
                progress.finish_and_clear();
                output::hint(&format!("Stopped after {played} of {} visits.", visits.len()));
                return Ok(());
            }
            () = clock.sleep_until(due) => {}
        }
        let status = client.track(&body_of(&visit.event, site), &visit.user_agent, &visit.address.to_string()).await?;
        if !status.is_success() {
            bail!("the server refused a visit with status {status}");
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// An event as a tracker would send it.
pub fn body_of(event: &TrackedEvent, site: &str) -> serde_json::Value {
    let path = percent_encoding::utf8_percent_encode(&event.page.pathname, percent_encoding::CONTROLS)
        .to_string()
        .replace('?', "%3F");
    let referrer =
        if event.origin.referrer.is_empty() { None } else { Some(format!("https://{}", event.origin.referrer)) };
    json!({ "n": event.name, "u": format!("https://{}{path}", event.page.hostname), "d": site, "r": referrer })
}

fn progress_bar(length: usize) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} visits, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length as u64), target).with_style(style)
}
