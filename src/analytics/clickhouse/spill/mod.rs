//! Hits between their answer and ClickHouse: files in a folder of this process, appended to in group commits.
//!
//! A file is a batch: it is sent as one, under its name as the token by which ClickHouse knows it again, and removed when it
//! is stored. Its records are [`frames`]. One thread appends; whoever waits for a record is answered after the file was
//! synced, together with everybody who came in the meantime. This part does not know ClickHouse.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use self::append::{Appender, Ask};
use self::frames::Scan;
use super::rows::Rows;
use crate::analytics::{AnalyticsError, Result};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::ids::NodeId;
use crate::domain::time::Timestamp;

mod append;
mod folder;
mod frames;

/// Requests waiting for the disk before new ones are turned away.
const WAITING: usize = 1_024;
/// What a file holds at most, give or take a request.
pub const BATCH_ROWS: usize = 10_000;
const BATCH_BYTES: u64 = 8 << 20;
/// The end of a file's name says how it is to be read. Others are left alone.
const ENDING: &str = "hits1";
/// What could not be read is kept under this ending.
const DAMAGED: &str = "damaged";

/// A file nothing more is appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// In the order they were begun.
    number: u64,
    /// Its name without the ending, by which ClickHouse knows the batch. Never given twice.
    pub token: String,
    path: PathBuf,
    bytes: u64,
    /// When its first hit came in; with files of an earlier life, when they were written last.
    pub since: Timestamp,
}

/// The folder. Cheap to clone.
#[derive(Clone)]
pub struct Spill {
    folder: Arc<Path>,
    asks: mpsc::Sender<Ask>,
    standing: watch::Sender<Standing>,
    /// Of all files, with what is on its way into them.
    bytes: Arc<AtomicU64>,
    limit: u64,
    /// Locked while the folder is ours.
    lock: Arc<Mutex<Option<File>>>,
}

/// What there is to be sent.
#[derive(Debug, Default)]
struct Standing {
    /// Oldest first.
    closed: VecDeque<Segment>,
    /// Since when the file that is appended to has hits.
    open_since: Option<Timestamp>,
}

impl Spill {
    /// Opens the folder of this process below `data_dir`, with what an earlier life left in it.
    ///
    /// # Errors
    /// It cannot be made, read or locked.
    pub fn open(data_dir: &Path, node: NodeId, limit: u64, clock: Clock, chance: Chance) -> io::Result<Self> {
        let (folder, lock) = folder::take(data_dir, node)?;
        let closed = folder::leftovers(&folder, clock.now())?;
        let bytes = closed.iter().map(|segment| segment.bytes).sum();
        if !closed.is_empty() {
            info!("{} batches of events of an earlier life wait in {} for ClickHouse", closed.len(), folder.display());
        }
        let folder: Arc<Path> = folder.into();
        let last = closed.back().map_or(0, |segment| segment.number);
        let standing = watch::channel(Standing { closed, open_since: None }).0;
        let bytes = Arc::new(AtomicU64::new(bytes));
        let (asks, asked) = mpsc::channel(WAITING);
        let appender = Appender::new(Arc::clone(&folder), last, standing.clone(), Arc::clone(&bytes), clock, chance);
        std::thread::Builder::new().name("spill".to_owned()).spawn(move || appender.run(asked))?;
        Ok(Self { folder, asks, standing, bytes, limit, lock: Arc::new(Mutex::new(Some(lock))) })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends rows. Returns once they are on disk; calls made at the same time share a sync.
    ///
    /// # Errors
    /// [`AnalyticsError::Busy`] at once when the folder is full or too many wait already; [`AnalyticsError::Unavailable`]
    /// when the disk does not take them. Nothing was stored then.
    pub async fn append(&self, rows: Rows) -> Result<()> {
        let size = (rows.bytes.len() + rows.len() * frames::OVERHEAD) as u64;
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > self.limit {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(AnalyticsError::Busy);
        }
        let (done, finished) = oneshot::channel();
        if let Err(error) = self.asks.try_send(Ask::Append { rows, size, done }) {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => AnalyticsError::Busy,
                mpsc::error::TrySendError::Closed(_) => closed(),
            });
        }
        let outcome = finished.await.map_err(|_| closed())?;
        outcome.map_err(|error| {
            AnalyticsError::Unavailable(format!("events cannot be written to {}: {error}", self.folder.display()))
        })
    }

    /// Ends the file that is appended to, so that it can be sent. The number of the last one that ended.
    pub async fn end_batch(&self) -> Result<u64> {
        let (done, finished) = oneshot::channel();
        self.asks.send(Ask::Close { done }).await.map_err(|_| closed())?;
        finished.await.map_err(|_| closed())
    }

    /// The oldest batch, if one has ended.
    pub fn oldest(&self) -> Option<Segment> {
        self.standing.borrow().closed.front().cloned()
    }

    /// Since when the oldest hit waits.
    pub fn oldest_since(&self) -> Option<Timestamp> {
        let standing = self.standing.borrow();
        standing.closed.front().map(|segment| segment.since).or(standing.open_since)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether more would be taken, as far as usual events go.
    pub fn has_room(&self) -> bool {
        const USUAL: u64 = 4 << 10;
        self.bytes() + USUAL <= self.limit
    }

    /// Returns once there is a hit that waits.
    pub async fn has_hits(&self) {
        self.wait_for(|standing| !standing.closed.is_empty() || standing.open_since.is_some()).await;
    }

    /// Returns once a batch has ended.
    pub async fn has_batch(&self) {
        self.wait_for(|standing| !standing.closed.is_empty()).await;
    }

    /// Returns once all batches up to this one are removed.
    pub async fn is_through(&self, number: u64) {
        self.wait_for(|standing| standing.closed.front().is_none_or(|segment| segment.number > number)).await;
    }

    async fn wait_for(&self, condition: impl Fn(&Standing) -> bool) {
        // The sender lives in `self`, so that waiting only ends when it is so.
        let _ = self.standing.subscribe().wait_for(|standing| condition(standing)).await;
    }

    /// The rows of a batch, and how many there are. What is not whole is set aside.
    ///
    /// # Errors
    /// The file cannot be read, or what is damaged cannot be set aside.
    pub fn read(&self, segment: &Segment) -> io::Result<(Vec<u8>, usize)> {
        let file = match std::fs::read(&segment.path) {
            Ok(file) => file,
            // What comes after it must not wait for a file that will never be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                error!("{} was removed by somebody else: its events are lost", segment.path.display());
                return Ok((Vec::new(), 0));
            }
            Err(error) => return Err(error),
        };
        let scan = frames::scan(frames::seed(&segment.token), &file);
        set_aside(segment, &file, &scan)?;
        if let Some(torn) = &scan.torn {
            warn!(
                "{} bytes at the end of {} were never acknowledged and are left out",
                torn.len(),
                segment.path.display()
            );
        }
        Ok((scan.records, scan.count))
    }

    /// Removes a batch that is stored.
    pub fn remove(&self, segment: &Segment) {
        if let Err(error) = std::fs::remove_file(&segment.path) {
            // After a restart it is sent again, and known by its token.
            warn!(%error, "{} is stored but cannot be removed: {error}", segment.path.display());
        }
        self.bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
        self.standing.send_modify(|standing| standing.closed.retain(|one| one.token != segment.token));
    }

    /// Takes nothing more and lets another process have the folder.
    pub async fn leave(&self) {
        let (done, finished) = oneshot::channel();
        if self.asks.send(Ask::Stop { done }).await.is_ok() {
            let _ = finished.await;
        }
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn closed() -> AnalyticsError {
    AnalyticsError::Unavailable("it is closed".to_owned())
}

/// Keeps what was a record and is none any more beside the file.
fn set_aside(segment: &Segment, file: &[u8], scan: &Scan) -> io::Result<()> {
    if scan.damaged.is_empty() {
        return Ok(());
    }
    let path = segment.path.with_extension(DAMAGED);
    let bytes: Vec<u8> = scan.damaged.iter().flat_map(|range| &file[range.clone()]).copied().collect();
    if std::fs::metadata(&path).is_ok_and(|aside| aside.len() == bytes.len() as u64) {
        // An earlier try to send the batch has done it.
        return Ok(());
    }
    let mut aside = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    aside.write_all(&bytes)?;
    aside.sync_all()?;
    metrics::counter!("pulsehook_spill_damaged_bytes_total").increment(bytes.len() as u64);
    error!(
        "{} bytes of {} are damaged and not among the events that are stored; they are kept in {}",
        bytes.len(),
        segment.path.display(),
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: NodeId = NodeId(uuid::Uuid::nil());

    fn open(folder: &Path, limit: u64) -> Spill {
        Spill::open(folder, NOBODY, limit, Clock::system(), Chance::seeded(1)).unwrap()
    }

    fn rows(texts: &[&str]) -> Rows {
        let mut rows = Rows::default();
        for text in texts {
            rows.bytes.extend_from_slice(text.as_bytes());
            rows.ends.push(rows.bytes.len());
        }
        rows
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_in_the_next_life() {
        let folder = tempfile::tempdir().unwrap();
        let spill = open(folder.path(), 1_000);
        spill.append(rows(&["one", "two"])).await.unwrap();
        spill.end_batch().await.unwrap();
        spill.append(rows(&["three"])).await.unwrap();
        spill.leave().await;
        let spill = open(folder.path(), 1_000);
        let first = spill.oldest().unwrap();
        assert_eq!(spill.read(&first).unwrap(), (b"onetwo".to_vec(), 2));
        spill.remove(&first);
        let second = spill.oldest().unwrap();
        assert_eq!(spill.read(&second).unwrap(), (b"three".to_vec(), 1));
        assert!(second.token > first.token);
        spill.remove(&second);
        assert_eq!((spill.oldest(), spill.bytes()), (None, 0));
    }

    #[tokio::test]
    async fn a_full_folder_refuses_and_takes_again_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let spill = open(folder.path(), 30);
        spill.append(rows(&["0123456789"])).await.unwrap();
        assert!(matches!(spill.append(rows(&["0123456789"])).await, Err(AnalyticsError::Busy)));
        let last = spill.end_batch().await.unwrap();
        spill.remove(&spill.oldest().unwrap());
        spill.is_through(last).await;
        spill.append(rows(&["0123456789"])).await.unwrap();
    }

    #[tokio::test]
    async fn a_batch_ends_when_it_is_large_enough() {
        let folder = tempfile::tempdir().unwrap();
        let spill = open(folder.path(), 1 << 30);
        let many = vec!["x"; BATCH_ROWS];
        spill.append(rows(&many)).await.unwrap();
        spill.has_batch().await;
        spill.append(rows(&["y"])).await.unwrap();
        assert_eq!(spill.read(&spill.oldest().unwrap()).unwrap().1, BATCH_ROWS);
    }

    #[tokio::test]
    async fn what_is_damaged_is_set_aside_and_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let spill = open(folder.path(), 1_000);
        spill.append(rows(&["one", "two", "three"])).await.unwrap();
        spill.end_batch().await.unwrap();
        let segment = spill.oldest().unwrap();
        let mut bytes = std::fs::read(&segment.path).unwrap();
        bytes[frames::OVERHEAD * 2 + 3] ^= 1;
        std::fs::write(&segment.path, [&bytes[..], &[9, 0, 0, 0, 1]].concat()).unwrap();
        assert_eq!(spill.read(&segment).unwrap(), (b"onethree".to_vec(), 2));
        let aside = std::fs::read(segment.path.with_extension(DAMAGED)).unwrap();
        assert_eq!(aside.len(), frames::OVERHEAD + 3);
    }

    #[tokio::test]
    async fn a_second_process_has_a_folder_of_its_own_and_leaves_it_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (open(folder.path(), 1_000), open(folder.path(), 1_000));
        assert_ne!(first.folder(), second.folder());
        second.append(rows(&["orphan"])).await.unwrap();
        second.leave().await;
        first.leave().await;
        let next = open(folder.path(), 1_000);
        assert_eq!(next.read(&next.oldest().unwrap()).unwrap(), (b"orphan".to_vec(), 1));
        assert!(!second.folder().exists());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_refuses_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let spill = open(folder.path(), 1_000);
        let (path, away) = (spill.folder().to_owned(), folder.path().join("away"));
        std::fs::rename(&path, &away).unwrap();
        assert!(matches!(spill.append(rows(&["one"])).await, Err(AnalyticsError::Unavailable(_))));
        assert_eq!(spill.bytes(), 0);
        std::fs::rename(&away, &path).unwrap();
        spill.append(rows(&["one"])).await.unwrap();
    }
}
