//! The one writer of the file: hits in group commits, in the order in which they came.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Connection as _, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Recent, WAITING_WRITES};
use crate::domain::hit::Hit;

/// Hits one commit takes at most.
const BATCH: usize = 2_000;

/// Hits that are to be committed together, and who waits for it.
pub(super) struct Write {
    pub hits: Vec<Arc<Hit>>,
    pub live: bool,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// One commit after the other, each with everything that came in during the one before.
pub(super) async fn write_until_closed(
    writer: SqlitePool,
    mut writes: mpsc::Receiver<Write>,
    closing: CancellationToken,
    announce: watch::Sender<i64>,
    recent: Arc<Mutex<Recent>>,
) {
    let mut waiting = Vec::new();
    let mut connection: Option<PoolConnection<Sqlite>> = None;
    loop {
        tokio::select! {
            count = writes.recv_many(&mut waiting, WAITING_WRITES) => if count == 0 { break },
            // What was sent before comes all the same.
            () = closing.cancelled(), if !writes.is_closed() => writes.close(),
        }
        while !waiting.is_empty() {
            let batch = next_batch(&mut waiting);
            let outcome = match &mut connection {
                Some(connection) => commit(connection, &batch).await,
                None => match writer.acquire().await {
                    Ok(acquired) => commit(connection.insert(acquired), &batch).await,
                    Err(error) => Err(error),
                },
            };
            if outcome.is_err() {
                // The next one is the same again, if it is fit for that.
                connection = None;
            }
            let outcome = outcome.map_err(|error| error.to_string());
            match &outcome {
                Ok(Some(last)) => {
                    let live = batch.iter().filter(|write| write.live).flat_map(|write| &write.hits).cloned();
                    recent.lock().unwrap_or_else(PoisonError::into_inner).extend(*last, live);
                    announce.send_if_modified(|committed| std::mem::replace(committed, *last) != *last)
                }
                Ok(None) | Err(_) => false,
            };
            for write in batch {
                // Somebody who does not wait any more has hung up; the hits are stored all the same.
                let _ = write.done.send(outcome.clone().map(drop));
            }
        }
    }
    drop(connection);
    writer.close().await;
}

/// As many requests as fit into a commit; one larger than that gets its own.
fn next_batch(waiting: &mut Vec<Write>) -> Vec<Write> {
    let mut hits = 0;
    let fitting = waiting
        .iter()
        .take_while(|write| {
            hits += write.hits.len();
            hits <= BATCH
        })
        .count();
    waiting.drain(..fitting.max(1)).collect()
}

/// The last row id of live hits, if there were any.
async fn commit(connection: &mut SqliteConnection, batch: &[Write]) -> Result<Option<i64>, sqlx::Error> {
    let hits = |live: bool| -> Vec<&Hit> {
        batch.iter().filter(|write| write.live == live).flat_map(|write| &write.hits).map(AsRef::as_ref).collect()
    };
    let (live, history) = (hits(true), hits(false));
    crate::failpoint::hit("ingest.before_commit");
    let last = if history.is_empty() && live.len() <= MOST_ROWS {
        // One statement is a transaction by itself, and one round trip to the driver's thread instead of three.
        insert(connection, &live, None).await?
    } else {
        const LOWEST: &str = "SELECT min(0, coalesce(min(id), 0)) FROM hits";
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let last = insert(&mut transaction, &live, None).await?;
        let lowest: i64 = sqlx::query_scalar(LOWEST).fetch_one(&mut *transaction).await?;
        insert(&mut transaction, &history, Some(lowest)).await?;
        transaction.commit().await?;
        last
    };
    crate::failpoint::hit("ingest.after_commit");
    Ok(last)
}

/// Rows the largest statement takes.
const MOST_ROWS: usize = 256;

/// Statements for 1, 2, 4 … [`MOST_ROWS`] rows. Rows without a site fill up what is missing to the next size. `OR FAIL`, or
/// SQLite would copy every page it touches to a file, in case it must take back the rows before one that is refused; here
/// the whole transaction is given up then.
static INSERTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    let sizes = (0..=MOST_ROWS.ilog2()).map(|power| 1 << power);
    sizes
        .map(|rows| {
            format!(
                "INSERT OR FAIL INTO hits (id, site_id, at, name, visitor, session, hostname, pathname, referrer, source, \
                 utm_medium, utm_source, utm_campaign, utm_content, utm_term, country, screen_size, browser, \
                 operating_system, props, interactive, scroll_depth, engagement_ms, revenue_amount, revenue_currency) \
                 SELECT * FROM (VALUES {}) WHERE column2 IS NOT NULL",
                vec![row.as_str(); rows].join(", ")
            )
        })
        .collect()
});

/// Columns of `hits`.
const COLUMNS: usize = 25;

/// Inserts hits in their order, with ids below `below` if that is given, otherwise with the next ones. The last id.
async fn insert(
    connection: &mut SqliteConnection,
    hits: &[&Hit],
    mut below: Option<i64>,
) -> Result<Option<i64>, sqlx::Error> {
    let mut last = None;
    for rows in hits.chunks(MOST_ROWS) {
        let size = rows.len().next_power_of_two();
        let mut query = sqlx::query(sqlx::AssertSqlSafe(INSERTS[size.ilog2() as usize].as_str()));
        for hit in rows {
            below = below.map(|below| below - 1);
            query = bind(query, below, hit);
        }
        for _ in 0..(size - rows.len()) * COLUMNS {
            query = query.bind(None::<i64>);
        }
        last = Some(query.execute(&mut *connection).await?.last_insert_rowid());
    }
    Ok(last)
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(query: Query<'q>, id: Option<i64>, hit: &'q Hit) -> Query<'q> {
    let props = if hit.props.is_empty() {
        String::new()
    } else {
        let pairs: serde_json::Map<_, _> =
            hit.props.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        serde_json::Value::Object(pairs).to_string()
    };
    query
        .bind(id)
        .bind(hit.site_id)
        .bind(hit.at)
        .bind(hit.name.as_str())
        .bind(hit.visitor.cast_signed())
        .bind(hit.session.cast_signed())
        .bind(hit.page.hostname.as_str())
        .bind(hit.page.pathname.as_str())
        .bind(hit.origin.referrer.as_str())
        .bind(hit.origin.source.as_str())
        .bind(hit.origin.utm_medium.as_str())
        .bind(hit.origin.utm_source.as_str())
        .bind(hit.origin.utm_campaign.as_str())
        .bind(hit.origin.utm_content.as_str())
        .bind(hit.origin.utm_term.as_str())
        .bind(hit.country.as_str())
        .bind(hit.device.screen_size.as_str())
        .bind(hit.device.browser.as_str())
        .bind(hit.device.operating_system.as_str())
        .bind(props)
        .bind(hit.interactive)
        .bind(hit.scroll_depth.map(i64::from))
        .bind(i64::from(hit.engagement_ms))
        .bind(hit.revenue.as_ref().map(|revenue| revenue.amount.as_str()))
        .bind(hit.revenue.as_ref().map(|revenue| revenue.currency.as_str()))
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

    use super::super::SCHEMA;
    use super::*;
    use crate::checkpoints::Checkpoints;
    use crate::domain::ids::SiteId;
    use crate::domain::time::Timestamp;

    #[tokio::test]
    async fn a_full_disk_refuses_what_comes_and_nothing_of_what_comes_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("analytics.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let checkpoints = Checkpoints::start(options.clone(), 1_000, 100);
        let writer = checkpoints.writer(options.clone()).await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&writer).await.unwrap();
        // As long as the connection lives.
        sqlx::query("PRAGMA max_page_count = 20").execute(&writer).await.unwrap();
        let (sender, writes) = mpsc::channel(WAITING_WRITES);
        let (announce, _committed) = watch::channel(0);
        let recent = Arc::new(Mutex::new(Recent { next: 1, hits: Default::default() }));
        let closing = CancellationToken::new();
        let writing = tokio::spawn(write_until_closed(writer, writes, closing.clone(), announce, recent));
        let hits: Vec<_> =
            (0..2_000).map(|visitor| Arc::new(Hit::new(SiteId(1), Timestamp::EPOCH, visitor, "pageview"))).collect();
        let import = async || {
            let (done, finished) = oneshot::channel();
            let whole = Write { hits: hits.clone(), live: false, done };
            assert!(sender.send(whole).await.is_ok());
            finished.await.unwrap()
        };
        assert!(import().await.unwrap_err().contains("disk is full"));
        assert_eq!(import().await, Ok(()));
        closing.cancel();
        writing.await.unwrap();
        checkpoints.close().await;
        let mut reader = SqliteConnection::connect_with(&options).await.unwrap();
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM hits").fetch_one(&mut reader).await.unwrap();
        assert_eq!(stored, 2_000);
    }
}
