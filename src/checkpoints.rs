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
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// What waits is carried when it is more than so many times what the log may still grow: at the latest at 7/8 of its length,
/// and at 63/64 again.
const WAITING_TO_ROOM: i64 = 7;
/// The log is looked at after so many commits, whatever they wrote: they may be larger than those before.
const MOST_COMMITS: u64 = 16;
/// What was written meanwhile is carried as well, so often at most: only where nothing is left does SQLite wait until the disk
/// has it all, and otherwise the writer does.
const MOST_PASSES: usize = 3;

/// A statement that takes so long is not told of with all its text.
const SLOW: Duration = Duration::from_secs(1);

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

    /// The driver's one connection that writes, whose commits are counted.
    ///
    /// When the disk is full or fails, SQLite takes a transaction back by itself, and refuses the ROLLBACK that follows. The
    /// driver takes the connection to be inside that transaction ever after and begins no other on it, so there is a new one
    /// then. See "Response To Errors Within A Transaction" in <https://sqlite.org/lang_transaction.html>.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn writer(&self, options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
        let commits = Arc::clone(&self.commits);
        // It waits for the disk or for another process then, and its text is long.
        let options = options.log_slow_statements(log::LevelFilter::Debug, SLOW);
        SqlitePoolOptions::new()
            .max_connections(1)
            // What is in this process need not be asked whether it is there: that would be a trip to the driver's thread.
            .test_before_acquire(false)
            .before_acquire(|writer, _| Box::pin(async move { Ok(!writer.is_in_transaction()) }))
            .after_connect(move |writer, _| {
                let commits = Arc::clone(&commits);
                Box::pin(async move { commits.follow(writer).await })
            })
            .connect_with(options)
            .await
    }

    /// Somebody else in this process, whose `wal_autocheckpoint` is the same, has committed something.
    pub fn committed(&self) {
        self.commits.one_more();
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
    /// Counts those of `writer` from now on.
    async fn follow(self: &Arc<Self>, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let commits = Arc::clone(self);
        writer.lock_handle().await?.set_commit_hook(move || {
            commits.one_more();
            true
        });
        Ok(())
    }

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
    if log.written < log.worth_it_at() {
        return Ok(());
    }
    for _ in 0..MOST_PASSES {
        let carried = log.carried;
        log.learn(connection, "PRAGMA wal_checkpoint(PASSIVE)").await?;
        if log.carried == carried {
            break;
        }
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

    /// The next look comes when half of what is missing is there, if commits go on like those since the last one, of which
    /// there were `commits`. Should they be larger than it seems, half of it is room for that.
    fn commits_until_it_is_worth_it(&self, before: Self, commits: u64) -> u64 {
        // A log that is as long as it is meant to be begins anew with the next commit, unless somebody still reads what is in
        // it; it has grown by what it has then.
        let log = if self.written < self.length { *self } else { Self { written: 0, carried: 0, ..*self } };
        let missing = log.worth_it_at() - log.written;
        let grown = if self.written < before.written { self.written } else { self.written - before.written };
        let by_commit = grown / i64::try_from(commits).unwrap_or(i64::MAX).max(1);
        u64::try_from(missing / (2 * by_commit.max(1))).unwrap_or(0).clamp(1, MOST_COMMITS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use sqlx::sqlite::SqliteJournalMode;
    use tempfile::TempDir;

    use super::*;

    async fn log_of(connection: &mut SqliteConnection) -> Log {
        let mut log = Log::default();
        log.learn(connection, "PRAGMA wal_checkpoint(NOOP)").await.unwrap();
        log
    }

    /// A database whose writer carries nothing.
    async fn a_writer(folder: &TempDir) -> (SqliteConnectOptions, SqliteConnection) {
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("some.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", "0");
        let mut writer = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("CREATE TABLE numbers (number INTEGER)").execute(&mut writer).await.unwrap();
        (options, writer)
    }

    /// Commits until the log begins anew. Answers how many it took.
    async fn commit_until_it_begins_anew(writer: &mut SqliteConnection) -> i64 {
        let (mut written, mut count) = (0, 0);
        while log_of(writer).await.written >= written {
            written = log_of(writer).await.written;
            assert!(written < 10_000, "it only grows");
            sqlx::query("INSERT INTO numbers (number) VALUES ($1)").bind(count).execute(&mut *writer).await.unwrap();
            count += 1;
        }
        count
    }

    async fn count(connection: &mut SqliteConnection) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM numbers").fetch_one(connection).await.unwrap()
    }

    #[tokio::test]
    async fn the_log_begins_anew_though_its_writer_carries_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (options, mut writer) = a_writer(&folder).await;
        let checkpoints = Checkpoints::start(options, 50, 20);
        checkpoints.commits.follow(&mut writer).await.unwrap();
        let committed = commit_until_it_begins_anew(&mut writer).await;
        checkpoints.close().await;
        assert_eq!(count(&mut writer).await, committed);
        writer.close().await.unwrap();
        let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["some.db"], "the last to close it carries what is left and removes the log");
    }

    #[tokio::test]
    async fn somebody_who_reads_for_long_sees_what_was_and_the_log_begins_anew_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (options, mut writer) = a_writer(&folder).await;
        let mut reader = SqliteConnection::connect_with(&options).await.unwrap();
        let mut long = reader.begin().await.unwrap();
        assert_eq!(count(&mut long).await, 0);
        let checkpoints = Checkpoints::start(options, 50, 20);
        checkpoints.commits.follow(&mut writer).await.unwrap();
        for number in 0..500 {
            sqlx::query("INSERT INTO numbers (number) VALUES ($1)").bind(number).execute(&mut writer).await.unwrap();
        }
        assert!(log_of(&mut writer).await.written >= 500, "it cannot begin anew while somebody needs it");
        assert_eq!(count(&mut long).await, 0);
        long.commit().await.unwrap();
        let committed = commit_until_it_begins_anew(&mut writer).await;
        checkpoints.close().await;
        assert_eq!(count(&mut writer).await, 500 + committed);
    }

    #[tokio::test]
    async fn a_transaction_that_a_full_disk_ended_is_not_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let (options, first) = a_writer(&folder).await;
        first.close().await.unwrap();
        let checkpoints = Checkpoints::start(options.clone(), 50, 20);
        let writer = checkpoints.writer(options).await.unwrap();
        // As long as the connection lives.
        sqlx::query("PRAGMA max_page_count = 5").execute(&writer).await.unwrap();
        let mut full = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let refused = sqlx::query("INSERT INTO numbers VALUES (zeroblob(100000))").execute(&mut *full).await;
        assert!(refused.unwrap_err().to_string().contains("disk is full"));
        drop(full);
        let mut next = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
        sqlx::query("INSERT INTO numbers VALUES (1)").execute(&mut *next).await.unwrap();
        next.commit().await.unwrap();
        assert_eq!(count(&mut writer.acquire().await.unwrap()).await, 1);
        checkpoints.close().await;
        writer.close().await;
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

        /// However large commits are, as long as they are small beside the log and at least half as large as the largest:
        /// once the log has begun anew, little waits for the writer.
        #[test]
        fn most_is_carried_beforehand(largest in 2i64..500, parts in vec(50i64..=100, 1..100), bite in 500i64..=8_000) {
            let length = 8_000;
            let mut log = Log { length, bite, ..Log::default() };
            let (mut before, mut made, mut look_in, mut looks, mut logs) = (log, 0, MOST_COMMITS, 0, 0);
            for (commit, part) in (1..=6 * length / largest).zip(parts.iter().cycle()) {
                // The writer carries what waits when the log is long enough, and begins anew.
                if log.written >= length {
                    let waits = log.written - log.carried;
                    prop_assert!(logs == 0 || waits <= length / (WAITING_TO_ROOM + 1) + largest, "{} pages", waits);
                    (log.written, log.carried, logs) = (0, 0, logs + 1);
                }
                log.written += largest * part / 100;
                made += 1;
                if made < look_in {
                    continue;
                }
                looks += 1;
                if log.written >= log.worth_it_at() {
                    log.carried = log.written;
                }
                look_in = log.commits_until_it_is_worth_it(before, made);
                (before, made) = (log, 0);
                // Halves of what is missing, for each time that something is carried.
                let often = (logs + 1) * 12 * (length / bite + 3);
                let often_enough = commit / MOST_COMMITS.cast_signed() + 1;
                prop_assert!(looks <= often + often_enough, "{} looks after {} commits", looks, commit);
            }
        }
    }
}
