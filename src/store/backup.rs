//! A copy of a database file while others work with it.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::{Result, StoreError};

/// Has hits that come into the copy `traffic` be numbered beyond what the copy `queue`, which is the newer one, says was looked
/// at: a number that was noticed once is taken for noticed.
///
/// # Errors
/// One of the files cannot be read or written.
pub async fn align(traffic: &Path, queue: &Path) -> Result<()> {
    const ATTACH: &str = "ATTACH $1 AS queue";
    const ALIGN_SQLITE: &str = "
        UPDATE sqlite_sequence
        SET seq = max(seq, coalesce(
            (SELECT seq FROM queue.watermarks WHERE queue.watermarks.source = (SELECT id FROM main.source)), 0
        ))
        WHERE name = 'hits'";
    let mut copy = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(traffic)).await?;
    sqlx::query(ATTACH).bind(queue.to_string_lossy()).execute(&mut copy).await?;
    sqlx::query(ALIGN_SQLITE).execute(&mut copy).await?;
    copy.close().await?;
    sync(traffic)
}

/// Copies the SQLite file `from` to `to`, which must not exist, as it is at one moment: everything that was committed before
/// this was called is in it. Nobody waits for it; what others commit meanwhile stays in the log beside the file. The copy
/// was checked and is on disk when this returns.
///
/// # Errors
/// The file cannot be read, `to` exists or cannot be written, or the copy is not sound.
pub async fn copy_file(from: &Path, to: &Path) -> Result<()> {
    const CHECK: &str = "PRAGMA integrity_check";
    let source = SqliteConnectOptions::new().filename(from).read_only(true).busy_timeout(Duration::from_secs(10));
    let mut connection = SqliteConnection::connect_with(&source).await?;
    let copied = sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy()).execute(&mut connection).await;
    connection.close().await?;
    copied?;
    let mut copy = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(to).read_only(true)).await?;
    let found: Vec<String> = sqlx::query_scalar(CHECK).fetch_all(&mut copy).await?;
    copy.close().await?;
    if found != ["ok"] {
        return Err(StoreError::Refused(format!("the copy {} is not sound: {}", to.display(), found.join("; "))));
    }
    sync(to)
}

fn sync(path: &Path) -> Result<()> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| StoreError::Refused(format!("{} cannot be written to the disk: {error}", path.display())))
}
