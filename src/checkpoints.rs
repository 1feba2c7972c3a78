//! Keeps what SQLite's writer has to carry from its log into the database small.
//!
//! A commit goes into the log, and the commit that makes the log longer than it is meant to be carries all of it into the
//! database, however long that takes: everybody who commits, or waits for one who does, waits for that. So most of it is
//! carried beforehand, by a connection of its own, for which no writer and no reader waits. The writer carries the little
//! that came in since, and the log starts anew.
//!
//! See "Checkpointing" in <https://sqlite.org/wal.html>, and <https://sqlite.org/pragma.html#pragma_wal_checkpoint>.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// What waits is carried when it is more than so many times what the log may still grow: at the latest at 7/8 of its length,
/// and at 63/64 again.
const WAITING_TO_ROOM: i64 = 7;
/// The log is looked at after so many commits, whatever they wrote.
const MOST_COMMITS: u64 = 64;

/// Dropped, it stops.
pub struct Checkpoints {
    commits: Arc<Commits>,
    stop: CancellationToken,
    task: TaskTracker,
}

#[derive(Default)]
struct Commits {
    made: AtomicU64,
    /// How many there are when the log is looked at.
    look_at: AtomicU64,
    due: Notify,
}

/// What is known of the log, in pages.
#[derive(Debug, Clone, Copy, Default)]
struct Log {
    /// How long it is meant to become.
    length: i64,
    /// So much of it is carried, however long it is.
    bite: i64,
    /// How long it is.
    written: i64,
    /// What of it is in the database.
    carried: i64,
}

impl Checkpoints {
    /// For the database of `options`, which sets its writer's `wal_autocheckpoint` to `length` pages; `bite` pages are
    /// carried at once, or as many as wait when that length is near. Large ones carry a page that many commits change fewer
    /// times, small ones keep the disk busy for a shorter time.
    pub fn start(options: SqliteConnectOptions, length: u32, bite: u32) -> Self {
        let commits = Arc::new(Commits { look_at: AtomicU64::new(MOST_COMMITS), ..Commits::default() });
        let (stop, task) = (CancellationToken::new(), TaskTracker::new());
        let log = Log { length: i64::from(length), bite: i64::from(bite), ..Log::default() };
        task.spawn(carry_until_stopped(options, log, Arc::clone(&commits), stop.clone()));
        task.close();
        Self { commits, stop, task }
    }

    /// Counts the commits of `writer` from now on.
    ///
    /// # Errors
    /// The connection's thread is gone.
    pub async fn follow(&self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let commits = Arc::clone(&self.commits);
        writer.lock_handle().await?.set_commit_hook(move || {
            commits.one_more();
            true
        });
        Ok(())
    }

    /// Once it returns nobody here has the file open.
    pub async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Commits {
    fn one_more(&self) {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        if made >= self.look_at.load(Ordering::Relaxed) {
            self.due.notify_one();
        }
    }
}

async fn carry_until_stopped(
    options: SqliteConnectOptions,
    mut log: Log,
    commits: Arc<Commits>,
    stop: CancellationToken,
) {
    let mut connection: Option<SqliteConnection> = None;
    let mut looked_at = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = commits.due.notified() => {}
        }
        let made = commits.made.load(Ordering::Relaxed);
        let before = log;
        let next = match look(&options, &mut connection, &mut log).await {
            Ok(()) => log.commits_until_it_is_worth_it(before, made - looked_at),
            Err(error) => {
                // The writer carries all of it then.
                debug!(%error, "SQLite's log could not be carried into the database beforehand: {error}");
                if let Some(broken) = connection.take() {
                    let _ = broken.close().await;
                }
                MOST_COMMITS
            }
        };
        looked_at = made;
        commits.look_at.store(made + next, Ordering::Relaxed);
    }
    if let Some(connection) = connection {
        let _ = connection.close().await;
    }
}

/// Carries what waits, if it is worth it.
async fn look(
    options: &SqliteConnectOptions,
    connection: &mut Option<SqliteConnection>,
    log: &mut Log,
) -> Result<(), sqlx::Error> {
    // Most processes of the command line commit too little ever to get here.
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(SqliteConnection::connect_with(options).await?),
    };
    log.learn(connection, "PRAGMA wal_checkpoint(NOOP)").await?;
    if log.written >= log.worth_it_at() {
        log.learn(connection, "PRAGMA wal_checkpoint(PASSIVE)").await?;
    }
    Ok(())
}

impl Log {
    async fn learn(&mut self, connection: &mut SqliteConnection, pragma: &'static str) -> Result<(), sqlx::Error> {
        let (busy, written, carried): (i64, i64, i64) = sqlx::query_as(pragma).fetch_one(connection).await?;
        // Busy: the writer does it right now.
        if busy == 0 {
            (self.written, self.carried) = (written, carried);
        }
        Ok(())
    }

    /// The length at which what waits is to be carried.
    fn worth_it_at(&self) -> i64 {
        let near_the_end = (WAITING_TO_ROOM * self.length + self.carried) / (WAITING_TO_ROOM + 1) + 1;
        near_the_end.min(self.carried + self.bite)
    }

    /// The next look comes as late as commits like those since the last one allow, of which there were `commits`.
    fn commits_until_it_is_worth_it(&self, before: Self, commits: u64) -> u64 {
        let missing = u64::try_from(self.worth_it_at() - self.written).unwrap_or(0);
        // A log that began anew has grown by what it has.
        let grown = if self.written < before.written { self.written } else { self.written - before.written };
        let by_commit = (u64::try_from(grown).unwrap_or(0) / commits.max(1)).max(1);
        if self.written >= self.length { MOST_COMMITS } else { (missing / by_commit).clamp(1, MOST_COMMITS) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sqlx::sqlite::SqliteJournalMode;

    use super::*;

    async fn log_of(connection: &mut SqliteConnection) -> Log {
        let mut log = Log::default();
        log.learn(connection, "PRAGMA wal_checkpoint(NOOP)").await.unwrap();
        log
    }

    #[tokio::test]
    async fn the_log_begins_anew_though_its_writer_carries_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("some.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", "0");
        let mut writer = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("CREATE TABLE numbers (number INTEGER)").execute(&mut writer).await.unwrap();
        let checkpoints = Checkpoints::start(options, 50, 20);
        checkpoints.follow(&mut writer).await.unwrap();
        let (mut written, mut count) = (0, 0);
        while log_of(&mut writer).await.written >= written {
            written = log_of(&mut writer).await.written;
            assert!(written < 10_000, "it only grows");
            sqlx::query("INSERT INTO numbers (number) VALUES ($1)").bind(count).execute(&mut writer).await.unwrap();
            count += 1;
        }
        checkpoints.close().await;
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM numbers").fetch_one(&mut writer).await.unwrap();
        assert_eq!(found, count);
        writer.close().await.unwrap();
        let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["some.db"], "the last to close it carries what is left and removes the log");
    }

    proptest! {
        #[test]
        fn what_waits_is_a_bite_or_the_end_is_near(length in 8i64..10_000, bite in 1i64..10_000, part in 0i64..100) {
            let carried = length * part / 100;
            let worth_it_at = Log { length, bite, written: carried, carried }.worth_it_at();
            prop_assert!(worth_it_at > carried && worth_it_at <= length, "{}", worth_it_at);
            let waits = worth_it_at - carried;
            prop_assert!(waits == bite || (waits < bite && waits > WAITING_TO_ROOM * (length - worth_it_at)));
        }

        /// Commits that go on as they did make it worth it when it is looked at next, or not much earlier.
        #[test]
        fn it_is_looked_at_when_it_is_worth_it(by_commit in 1i64..400, commits in 1u64..64) {
            let before = Log { length: 8_000, bite: 8_000, written: 100, carried: 0 };
            let log = Log { written: 100 + by_commit * commits.cast_signed(), ..before };
            let next = log.commits_until_it_is_worth_it(before, commits);
            prop_assert!((1..=MOST_COMMITS).contains(&next));
            let then = log.written + by_commit * next.cast_signed();
            prop_assert!(then + by_commit > log.worth_it_at() || next == MOST_COMMITS);
        }
    }
}
