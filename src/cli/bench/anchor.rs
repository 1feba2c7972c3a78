//! Something to hold on to: graphile-worker, a job queue on PostgreSQL that others know, on the same cluster with its best
//! settings: 24 jobs at once, a local queue of 500, completions in batches, a task that does nothing.
//!
//! It deletes its jobs and keeps no record of attempts; a delivery of ours is more than a job of its. It is here so that
//! figures of other machines can be compared.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use super::World;
use super::report::{Figure, Kind};

/// Jobs a second of graphile-worker on the same PostgreSQL, doing nothing
#[derive(Debug, clap::Args)]
pub struct Anchor {
    /// Jobs
    #[arg(long, default_value_t = 100_000, value_parser = super::at_least_one())]
    count: usize,
    /// Where its script and its package are
    #[arg(long, value_name = "FOLDER", default_value = "scripts/anchor")]
    folder: PathBuf,
}

impl Anchor {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        if let Some(missing) = self.missing(world).await {
            world.progress(&format!("anchor is left out: {missing}"));
            return Ok(());
        }
        let about = format!("graphile-worker, {} jobs of 570 bytes that do nothing", self.count);
        let mut figure = Figure::new("anchor", Some(Kind::Postgres), about);
        for _ in world.runs("anchor", Some(Kind::Postgres)) {
            self.once(world, &mut figure).await?;
        }
        world.show(&figure);
        Ok(())
    }

    /// One sentence about what is not there.
    async fn missing(&self, world: &World) -> Option<String> {
        if !world.databases().contains(&Kind::Postgres) {
            return Some("it needs --postgres".to_owned());
        }
        let mut node = Command::new("node");
        let node =
            node.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !node.is_ok_and(|status| status.success()) {
            return Some("there is no node".to_owned());
        }
        let package = self.folder.join("node_modules/graphile-worker");
        (!package.is_dir()).then(|| format!("there is no {}; scripts/need.sh anchor gets it", package.display()))
    }

    async fn once(&self, world: &World, figure: &mut Figure) -> anyhow::Result<()> {
        let cluster = world.cluster()?;
        let name = format!("pulsehook_bench_{}", hex::encode(world.chance.bytes::<6>()));
        let url = cluster.create_database(&name).await?;
        let (count, jobs) = (self.count as f64, self.count.to_string());
        let seconds = script(&self.folder, &url, &["add", &jobs]).await?;
        figure.add("added_per_second", count / seconds);
        let mut meter = cluster.meter().await?;
        meter.checkpoint().await?;
        let before = meter.read().await?;
        let seconds = script(&self.folder, &url, &["work"]).await?;
        let after = meter.read().await?;
        figure.add("jobs_per_second", count / seconds);
        if let Some((from, to)) = before.cpu_seconds.zip(after.cpu_seconds) {
            figure.add("postgres_cpu_us", (to - from) * 1e6 / count);
        }
        figure.add("wal_bytes_per_job", (after.wal_bytes - before.wal_bytes) / count);
        cluster.drop_database(&name).await
    }
}

/// Runs the script to its end and answers the seconds it measured.
async fn script(folder: &Path, url: &str, arguments: &[&str]) -> anyhow::Result<f64> {
    let mut command = Command::new("node");
    command.arg("graphile.mjs").args(arguments).current_dir(folder).env("PGURL", url).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.context("node cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "graphile-worker: {said}{}", String::from_utf8_lossy(&output.stderr));
    let last = said.lines().last().unwrap_or_default();
    let result: serde_json::Value = serde_json::from_str(last).context("the script said nothing that is a result")?;
    result["seconds"].as_f64().context("the script measured nothing")
}
