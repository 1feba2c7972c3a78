//! The folder a process keeps its files in: which one it is, and what is in it when it is opened.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{DAMAGED, ENDING, Segment};
use crate::domain::ids::NodeId;
use crate::domain::time::Timestamp;

const LOCK: &str = "lock";

/// A folder nobody else has, with everything in it that processes which are gone left in theirs.
pub fn take(data_dir: &Path, node: NodeId) -> io::Result<(PathBuf, File)> {
    let shared = data_dir.join("spill");
    let (folder, lock) = match lock(&shared)? {
        Some(lock) => (shared, lock),
        // Another process works on the same data folder.
        None => {
            let own = data_dir.join(format!("spill-{node}"));
            let lock = lock(&own)?.ok_or_else(|| io::Error::other(format!("{} is locked", own.display())))?;
            (own, lock)
        }
    };
    for entry in std::fs::read_dir(data_dir)? {
        let other = entry?.path();
        let is_one = other.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("spill-"));
        if !is_one || other == folder {
            continue;
        }
        if let Some(_lock) = lock_existing(&other)? {
            for entry in std::fs::read_dir(&other)? {
                let path = entry?.path();
                if path.extension().is_some_and(|ending| ending == ENDING || ending == DAMAGED) {
                    std::fs::rename(&path, folder.join(path.file_name().unwrap_or_default()))?;
                }
            }
            std::fs::remove_dir_all(&other)?;
        }
    }
    sync(&folder)?;
    Ok((folder, lock))
}

fn lock(folder: &Path) -> io::Result<Option<File>> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if let Some(parent) = folder.parent() {
        sync(parent)?;
    }
    lock_existing(folder)
}

/// `None`: somebody has it.
fn lock_existing(folder: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The files in a folder, oldest first.
pub fn leftovers(folder: &Path, now: Timestamp) -> io::Result<VecDeque<Segment>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        let Some(token) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else { continue };
        let Some(number) = token.split('-').next().and_then(|number| number.parse().ok()) else { continue };
        let metadata = entry.metadata()?;
        let since = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let since = (Timestamp::EPOCH + since).min(now);
        found.push(Segment { number, token, path, bytes: metadata.len(), since });
    }
    found.sort_by(|a, b| (a.number, &a.token).cmp(&(b.number, &b.token)));
    Ok(found.into())
}

/// Makes names in a folder last.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
