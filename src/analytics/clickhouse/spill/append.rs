//! The thread that appends to files: whoever waits is answered after a sync, together with everybody who came meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::{BATCH_BYTES, BATCH_ROWS, ENDING, Segment, Standing, WAITING, folder, frames};
use crate::analytics::clickhouse::rows::Rows;
use crate::chance::Chance;
use crate::clock::Clock;

/// The thread that appends.
pub struct Appender {
    folder: Arc<Path>,
    open: Option<Open>,
    /// Number of the last file that was begun.
    last: u64,
    clock: Clock,
    chance: Chance,
    standing: watch::Sender<Standing>,
    bytes: Arc<AtomicU64>,
}

/// What the appending thread is asked.
pub enum Ask {
    Append {
        rows: Rows,
        /// What it takes in a file.
        size: u64,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Ends the file that is appended to, and answers the number of the last one that ended.
    Close { done: oneshot::Sender<u64> },
    /// The same, for good.
    Stop { done: oneshot::Sender<()> },
}

/// The file that is appended to.
struct Open {
    segment: Segment,
    file: File,
    seed: u32,
    rows: usize,
    /// What is to be written by the next commit.
    pending: Vec<u8>,
}

impl Appender {
    /// The files of `folder` up to number `last` are there already.
    pub fn new(
        folder: Arc<Path>,
        last: u64,
        standing: watch::Sender<Standing>,
        bytes: Arc<AtomicU64>,
        clock: Clock,
        chance: Chance,
    ) -> Self {
        Self { folder, open: None, last, clock, chance, standing, bytes }
    }

    pub fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let mut asks = Vec::new();
        while asked.blocking_recv_many(&mut asks, WAITING) > 0 {
            let mut waiting = Vec::new();
            for ask in asks.drain(..) {
                match ask {
                    Ask::Append { rows, size, done } => match self.push(&rows) {
                        Ok(()) => waiting.push(done),
                        Err(error) => {
                            self.bytes.fetch_sub(size, Ordering::Relaxed);
                            let _ = done.send(Err(error));
                        }
                    },
                    Ask::Close { done } => {
                        self.commit(&mut waiting);
                        self.close();
                        let _ = done.send(self.last);
                    }
                    Ask::Stop { done } => {
                        self.commit(&mut waiting);
                        self.close();
                        asked.close();
                        let _ = done.send(());
                    }
                }
                if self.is_full() {
                    self.commit(&mut waiting);
                    self.close();
                }
            }
            self.commit(&mut waiting);
        }
        self.close();
    }

    /// Takes rows for the next commit.
    fn push(&mut self, rows: &Rows) -> io::Result<()> {
        if rows.iter().any(|row| row.len() > frames::LONGEST) {
            return Err(io::Error::other("an event is larger than any should be"));
        }
        if self.open.is_none() {
            self.open = Some(self.begin()?);
        }
        let open = self.open.as_mut().expect("it was begun");
        for row in rows.iter() {
            frames::push(open.seed, row, &mut open.pending);
        }
        open.rows += rows.len();
        Ok(())
    }

    fn begin(&mut self) -> io::Result<Open> {
        let number = self.last + 1;
        let token = format!("{number:016}-{}", hex::encode(self.chance.bytes::<12>()));
        let path = self.folder.join(format!("{token}.{ENDING}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        folder::sync(&self.folder)?;
        self.last = number;
        let seed = frames::seed(&token);
        let segment = Segment { number, token, path, bytes: 0, since: self.clock.now() };
        Ok(Open { segment, file, seed, rows: 0, pending: Vec::new() })
    }

    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.rows >= BATCH_ROWS || open.segment.bytes + open.pending.len() as u64 >= BATCH_BYTES
        })
    }

    /// Writes what was taken, and tells everybody.
    fn commit(&mut self, waiting: &mut Vec<oneshot::Sender<io::Result<()>>>) {
        let Some(open) = self.open.as_mut().filter(|open| !open.pending.is_empty()) else {
            // Nothing was asked for: a request without rows is as good as stored.
            waiting.drain(..).for_each(|done| drop(done.send(Ok(()))));
            return;
        };
        crate::failpoint::hit("spill.before_sync");
        let size = open.pending.len() as u64;
        let outcome = open.write();
        crate::failpoint::hit("spill.after_sync");
        match outcome {
            Ok(()) => {
                let since = open.segment.since;
                self.standing.send_if_modified(|standing| standing.open_since.replace(since).is_none());
                waiting.drain(..).for_each(|done| drop(done.send(Ok(()))));
            }
            Err(error) => {
                self.bytes.fetch_sub(size, Ordering::Relaxed);
                for done in waiting.drain(..) {
                    let _ = done.send(Err(io::Error::new(error.kind(), error.to_string())));
                }
                // What the disk made of it is not known; what comes next goes elsewhere.
                self.close();
            }
        }
    }

    /// Ends the file, if there is one.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.segment.bytes == 0 {
            // Nothing of it was ever acknowledged.
            let _ = std::fs::remove_file(&open.segment.path);
        }
        self.standing.send_modify(|standing| {
            standing.open_since = None;
            if open.segment.bytes > 0 {
                standing.closed.push_back(open.segment);
            }
        });
    }
}

impl Open {
    /// All of it or, as far as that can be had, nothing.
    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.pending).and_then(|()| self.file.sync_data());
        if written.is_ok() {
            self.segment.bytes += self.pending.len() as u64;
        } else {
            let _ = self.file.set_len(self.segment.bytes).and_then(|()| self.file.seek(io::SeekFrom::End(0)));
        }
        self.pending.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_refuses_what_it_does_not_take_and_the_next_file_may_go() {
        let folder = tempfile::tempdir().unwrap();
        let standing = watch::channel(Standing::default()).0;
        let bytes = Arc::new(AtomicU64::new(22));
        let (clock, chance) = (Clock::system(), Chance::seeded(1));
        let mut appender = Appender::new(folder.path().into(), 0, standing.clone(), Arc::clone(&bytes), clock, chance);
        let append = |appender: &mut Appender| {
            let (done, mut finished) = oneshot::channel();
            appender.push(&Rows { bytes: b"one".to_vec(), ends: vec![3] }).unwrap();
            appender.commit(&mut vec![done]);
            finished.try_recv().unwrap()
        };
        let mut full = appender.begin().unwrap();
        full.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        appender.open = Some(full);
        assert_eq!(append(&mut appender).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(bytes.load(Ordering::Relaxed), 11);
        append(&mut appender).unwrap();
        appender.close();
        assert_eq!(standing.borrow().closed.len(), 1);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left of the file that was refused"
        );
    }
}
