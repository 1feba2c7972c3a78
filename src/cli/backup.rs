//! `backup`: the databases of this machine as they are at one moment, while the server runs.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{Flags, WrongUsage, output};
use crate::app::MASTER_KEY_FILE;
use crate::config::{AnalyticsPlace, Config};
use crate::store::backup::{align, copy_file};

const TRAFFIC: &str = "analytics.db";
const QUEUE: &str = "pulsehook.db";

#[derive(Debug, clap::Args)]
pub struct Backup {
    /// Folder to be made; it must not exist
    to: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// A file that was written.
struct Copied {
    name: &'static str,
    bytes: u64,
}

impl Backup {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.flags.config()?;
        // Traffic first: the other file says how far it was looked at, and of two that do not fit it must be the newer one, or
        // what was noticed already would be noticed again.
        let mut files = Vec::new();
        let mut elsewhere = Vec::new();
        match &config.analytics {
            AnalyticsPlace::Embedded(path) => files.push((TRAFFIC, path.clone())),
            AnalyticsPlace::ClickHouse { .. } => elsewhere.push(
                "The traffic is in ClickHouse: use its BACKUP DATABASE, or clickhouse-backup. Hits that wait on this machine \
                 for ClickHouse are not copied.",
            ),
        }
        match config.database_url.strip_prefix("sqlite://") {
            Some(path) => files.push((QUEUE, PathBuf::from(path))),
            None => {
                elsewhere.push("The database is PostgreSQL: use pg_dump, or pg_basebackup with an archive of its log.");
            }
        }
        if files.is_empty() {
            return Err(WrongUsage(format!("there is no database on this machine. {}", elsewhere.join(" "))).into());
        }
        let copied = copy_all(&files, &self.to).await?;
        let key = key_sentence(&config);
        if self.json {
            let files: Vec<_> = copied.iter().map(|file| json!({ "name": file.name, "bytes": file.bytes })).collect();
            output::json(&json!({ "folder": self.to, "files": files, "not_included": key, "elsewhere": elsewhere }));
            return Ok(());
        }
        for file in &copied {
            output::say(&format!("{}  {} bytes, checked", self.to.join(file.name).display(), file.bytes));
        }
        for sentence in elsewhere {
            output::hint(sentence);
        }
        output::hint(&key);
        output::hint(
            "To restore: stop the server, put these files and the master key into an empty data_dir, start the server. \
             What was pending then is sent again, under the same event ids.",
        );
        Ok(())
    }
}

/// Without it secrets in the copy cannot be opened; with it beside them they are no secrets.
fn key_sentence(config: &Config) -> String {
    let place = match &config.master_key {
        Some(_) => "the setting master_key".to_owned(),
        None => config.data_dir.join(MASTER_KEY_FILE).display().to_string(),
    };
    format!(
        "Not included: the master key ({place}). Without it no secret in the copy can be read: keep it, apart from the copy."
    )
}

/// Writes beside the folder first, so that a folder of that name is a whole backup.
async fn copy_all(files: &[(&'static str, PathBuf)], to: &Path) -> anyhow::Result<Vec<Copied>> {
    anyhow::ensure!(!to.exists(), "{} exists already; nothing is overwritten", to.display());
    let name = to.file_name().with_context(|| format!("{} is no name for a folder", to.display()))?;
    let mut unfinished = name.to_owned();
    unfinished.push(".unfinished");
    let unfinished = to.with_file_name(unfinished);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&unfinished);
    made.with_context(|| format!("{} cannot be made; if a backup was interrupted, remove it", unfinished.display()))?;
    let copied = copy_into(files, &unfinished).await;
    let finished = copied.and_then(|copied| {
        // Whoever was faster keeps what he wrote: a folder with something in it is not replaced.
        std::fs::rename(&unfinished, to).with_context(|| format!("{} cannot be made", to.display()))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|folder| folder.sync_all())?;
        Ok(copied)
    });
    if finished.is_err() {
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    finished
}

async fn copy_into(files: &[(&'static str, PathBuf)], folder: &Path) -> anyhow::Result<Vec<Copied>> {
    let mut copied = Vec::new();
    for (name, from) in files {
        if !from.exists() {
            bail!("there is no {}: is data_dir right?", from.display());
        }
        let to = folder.join(name);
        copy_file(from, &to).await.with_context(|| format!("{} cannot be copied", from.display()))?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600))?;
        copied.push(Copied { name, bytes: std::fs::metadata(&to)?.len() });
    }
    if let [_, _] = files {
        align(&folder.join(TRAFFIC), &folder.join(QUEUE)).await.context("the copies cannot be put together")?;
    }
    std::fs::File::open(folder).and_then(|folder| folder.sync_all())?;
    Ok(copied)
}
