use std::pin::pin;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use uuid::Uuid;

use super::super::outbox::{Fired, Step};
use super::super::outcomes::{Life, Settled, Standing};
use super::super::rows::MOST_ROWS;
use super::super::shards::Lease;
use super::super::stage::{NODE, NOW, Stage, fired, id, open, over, sqlite};
use super::super::waiting::Look;
use super::super::{Backend, SqlitePools, StoreError};
use super::*;
use crate::domain::breaker::{Parked, Turn};
use crate::domain::ids::{EventId, TriggerId, WebhookId};

const OTHER: WebhookId = WebhookId(Uuid::from_u128(8));
const SECOND: Duration = Duration::from_secs(1);

fn pools(stage: &Stage) -> &SqlitePools {
    let Backend::Sqlite(pools) = &stage.store.db else { unreachable!("it was opened as that") };
    pools
}

/// The usual way or none.
async fn record(stage: &Stage, step: &Step) -> Option<Vec<EventId>> {
    step::record(pools(stage), &Arc::new(step.clone())).await.unwrap()
}

async fn settle(stage: &Stage, lease: Lease, settled: &[Settled]) -> bool {
    outcomes::settle(pools(stage), NODE, &[lease], &Arc::new(settled.to_vec()), NOW).await.unwrap()
}

/// Everything there is, as text, and how much is owed.
async fn dump(stage: &Stage) -> (Vec<String>, i64) {
    let mut rows = Vec::new();
    for table in ["events", "queue", "attempts", "webhooks", "watermarks", "facts"] {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(table)
            .fetch_all(sqlite(&stage.store))
            .await
            .unwrap();
        let quoted: Vec<_> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
        let sql = format!("SELECT '{table}: ' || {} AS row FROM {table} ORDER BY row", quoted.join(" || ' ' || "));
        rows.extend(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(sqlite(&stage.store)).await.unwrap());
    }
    (rows, stage.depth().await)
}

fn of(webhook_id: WebhookId, mut fired: Fired) -> Fired {
    fired.event.webhook_id = webhook_id;
    fired
}

/// Events of every kind, in two steps, and outcomes of some; the usual way or the long one.
async fn a_life(goes_at_once: bool) -> (Vec<Option<Vec<EventId>>>, Vec<(Vec<String>, i64)>) {
    let stage = Stage::new().await;
    sqlx::query(
        "INSERT INTO webhooks (id, account_id, site_id, name, url, format, active, live_since, version, inserted_at,
            updated_at)
        VALUES (unhex('00000000000000000000000000000008'), 1, 1, 'Other', '', 'json', 1, 0, 1, 0, 0)",
    )
    .execute(sqlite(&stage.store))
    .await
    .unwrap();
    let (mut owed, mut seen) = (Vec::new(), Vec::new());
    let [plain, shadow, brief, other] = [1, 2, 3, 4].map(|number| id(NOW, number));
    let first = vec![of(OTHER, fired(other)), fired(plain), Fired { shadow: true, ..fired(shadow) }, {
        let mut brief = fired(brief);
        brief.event.expires_at = Some(NOW + SECOND);
        brief
    }];
    let later = [5, 6, 7, 8].map(|number| id(NOW + 2 * SECOND, number));
    let second = vec![fired(later[0]), of(OTHER, fired(later[1])), fired(later[2]), of(OTHER, fired(later[3]))];
    for (number, fired) in [first, second].into_iter().enumerate() {
        let step = stage.step(fired).await;
        owed.push(if goes_at_once {
            record(&stage, &step).await
        } else {
            stage.store.record_in_parts(&step, NOW).await.ok()
        });
        seen.push(dump(&stage).await);
        if number == 0 {
            // Both are slow, until one of them answers.
            let look = Look { young_since: Some(NOW + SECOND), ..Look::default() };
            stage.store.waiting(&look).await.unwrap();
            let answer = Settled { webhook_id: OTHER, ..stage.outcome(other, 1, over()) };
            stage.store.settle(NODE, &[stage.lease()], &vec![answer].into(), NOW).await.unwrap();
        }
    }
    // One was given a row, two had theirs from the beginning, and two have none, of which one goes on.
    let until = NOW + SECOND;
    let fails = Settled {
        life: Life::Failing,
        turn: Some(Turn::Opened(Parked { until, span: SECOND })),
        ..stage.outcome(later[0], 1, Standing::Again { attempt: 1, other_attempts: 2, due_at: until })
    };
    let gets_well = Settled { webhook_id: OTHER, life: Life::Healthy, ..stage.outcome(later[1], 1, over()) };
    let goes_on = Standing::Again { attempt: 0, other_attempts: 1, due_at: until };
    let goes_on = Settled { webhook_id: OTHER, ..stage.outcome(later[3], 1, goes_on) };
    let outcomes = [stage.outcome(plain, 1, over()), fails, gets_well, stage.outcome(later[2], 1, over()), goes_on];
    if goes_at_once {
        assert!(settle(&stage, stage.lease(), &outcomes).await);
    } else {
        stage.store.settle_the_long_way(NODE, &[stage.lease()], &outcomes, NOW).await.unwrap();
    }
    seen.push(dump(&stage).await);
    (owed, seen)
}

#[tokio::test]
async fn either_way_leaves_the_same() {
    let (at_once, in_parts) = (a_life(true).await, a_life(false).await);
    assert!(at_once.0.iter().all(Option::is_some));
    assert_eq!(at_once.0, in_parts.0);
    for (at_once, in_parts) in at_once.1.iter().zip(&in_parts.1) {
        assert_eq!(at_once, in_parts);
    }
    let (rows, depth) = at_once.1.last().unwrap();
    let count = |table: &str| rows.iter().filter(|row| row.starts_with(table)).count();
    assert_eq!((count("events"), count("queue"), count("attempts"), *depth), (8, 3, 6, 3));
}

#[tokio::test]
async fn what_does_not_hold_leaves_nothing_and_nobody_waiting() {
    let stage = Stage::new().await;
    stage.record(vec![fired(id(NOW, 1))]).await;
    let before = dump(&stage).await;
    let refused = async |step: Step| {
        assert_eq!(record(&stage, &step).await, None);
        assert!(matches!(stage.store.record(step, NOW).await, Err(StoreError::Overtaken)));
        assert_eq!(dump(&stage).await, before);
        // Nobody has the file to himself.
        open(&stage.folder).await.begin().await.unwrap();
    };
    let step = async |number: u128| stage.step(vec![fired(id(NOW, number))]).await;
    let mut moved = step(2).await;
    moved.watermark.as_mut().unwrap().from += 1;
    refused(moved).await;
    let mut changed = step(3).await;
    changed.watermark.as_mut().unwrap().from -= 1;
    changed.watermark.as_mut().unwrap().catalog_version += 1;
    refused(changed).await;
    let mut unknown = step(4).await;
    unknown.watermark.as_mut().unwrap().source = "elsewhere".to_owned();
    refused(unknown).await;

    let lost = Lease { epoch: stage.lease().epoch + 1, ..stage.lease() };
    let outcome = Settled { lease: lost, ..stage.outcome(id(NOW, 1), 1, over()) };
    assert!(!settle(&stage, lost, std::slice::from_ref(&outcome)).await);
    let outcome = stage.store.settle(NODE, &[lost], &vec![outcome].into(), NOW).await;
    assert!(matches!(outcome, Err(StoreError::LeaseLost)));
    assert_eq!(dump(&stage).await, before);
    let nobody = stage.outcome(id(NOW, 9), 1, over());
    assert!(!settle(&stage, stage.lease(), &[nobody]).await, "it is not owed");
    assert_eq!(dump(&stage).await, before);
    stage.settle(id(NOW, 1), over()).await;
    assert_eq!((stage.depth().await, stage.rows().await), (0, 0));
}

#[tokio::test]
async fn a_moment_that_is_recorded_already_is_passed_over_the_long_way() {
    let stage = Stage::new().await;
    let moment = |number: u128| {
        let mut fired = fired(id(NOW, number));
        (fired.event.trigger_id, fired.event.moment) = (Some(TriggerId(Uuid::from_u128(5))), "rise:1".to_owned());
        fired
    };
    stage.record(vec![moment(1)]).await;
    let step = stage.step(vec![moment(2), fired(id(NOW, 3))]).await;
    assert_eq!(record(&stage, &step).await, None);
    assert_eq!(stage.depth().await, 1, "nothing is remembered of it");
    assert_eq!(stage.store.record(step, NOW).await.unwrap().1, [id(NOW, 3)]);
    assert_eq!((stage.depth().await, stage.count("SELECT count(*) FROM events").await), (2, 2));
}

#[tokio::test]
async fn what_is_more_than_usual_goes_the_long_way() {
    let stage = Stage::new().await;
    // More rows than a statement takes.
    let many = MOST_ROWS as u128 + 2;
    let step = stage.step((0..many).map(|number| fired(id(NOW, number))).collect()).await;
    assert_eq!(record(&stage, &step).await.unwrap().len() as u128, many);
    let outcomes: Vec<_> = (0..many).map(|number| stage.outcome(id(NOW, number), 1, over())).collect();
    let (usual, gone) = outcomes.split_at(MOST_ROWS + 1);
    assert!(settle(&stage, stage.lease(), usual).await);
    assert_eq!((stage.depth().await, stage.count("SELECT count(*) FROM attempts").await), (1, MOST_ROWS as i64 + 1));
    let gone = Settled { life: Life::Disable { reason: "gone".to_owned() }, ..gone[0].clone() };
    assert!(!settle(&stage, stage.lease(), &[gone]).await, "what else is owed to it is given up");
    let empty = stage.step(Vec::new()).await;
    assert_eq!(record(&stage, &empty).await, None);
    assert_eq!(stage.store.record(empty, NOW).await.unwrap().1, []);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_happens_all_the_same_and_keeps_nobody_waiting() {
    let stage = Stage::new().await;
    let file = stage.folder.path().join("test.db");
    let mut somebody = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut somebody).await.unwrap();
    let step = stage.step(vec![fired(id(NOW, 1))]).await;
    {
        let mut recording = pin!(stage.store.record(step.clone(), NOW));
        // It has its turn, and waits for the file.
        assert!(futures_util::poll!(&mut recording).is_pending());
        while sqlite(&stage.store).num_idle() > 0 {
            assert!(futures_util::poll!(&mut recording).is_pending());
            tokio::task::yield_now().await;
        }
    }
    sqlx::query("COMMIT").execute(&mut somebody).await.unwrap();
    // Who writes next comes after it.
    stage.store.begin().await.unwrap().commit().await.unwrap();
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 1);
    assert_eq!(stage.store.operator_watermark_of("here").await.unwrap(), Some(1));
    assert_eq!(stage.depth().await, 1);
    assert!(matches!(stage.store.record(step, NOW).await, Err(StoreError::Overtaken)));
}

/// The file does not become longer than so many pages.
async fn limit(stage: &Stage, pages: i64) {
    let limit = move |connection: &mut Connection| connection.pragma_update(None, "max_page_count", pages);
    pools(stage).hot.on(limit).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_and_the_next_goes_well() {
    let stage = Stage::new().await;
    let pages = stage.count("PRAGMA page_count").await;
    limit(&stage, pages).await;
    let mut large = fired(id(NOW, 1));
    large.event.payload = vec![b'x'; 1_000_000];
    let step = stage.step(vec![large]).await;
    let before = dump(&stage).await;
    let full = stage.store.record(step.clone(), NOW).await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    assert_eq!(dump(&stage).await.0, before.0);
    limit(&stage, 100_000).await;
    assert_eq!(stage.store.record(step, NOW).await.unwrap().1, [id(NOW, 1)]);
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn a_panic_leaves_nothing_of_a_transaction_and_the_connection_to_others() {
    let stage = Stage::new().await;
    let pools = pools(&stage).clone();
    let panics = tokio::spawn(async move {
        let work = |transaction: &Transaction<'_>, _: &mut Taken| -> rusqlite::Result<Option<()>> {
            transaction.execute("DELETE FROM webhooks", ())?;
            panic!("as a mistake would")
        };
        in_turn(&pools, work).await
    });
    assert!(panics.await.unwrap_err().is_panic());
    stage.record(vec![fired(id(NOW, 1))]).await;
    stage.settle(id(NOW, 1), over()).await;
    assert_eq!(stage.count("SELECT count(*) FROM webhooks").await, 1);
}

#[tokio::test]
async fn who_comes_after_the_end_is_told() {
    let stage = Stage::new().await;
    let step = stage.step(vec![fired(id(NOW, 1))]).await;
    stage.store.close().await;
    let refused = stage.store.record(step, NOW).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let refused = pools(&stage).lanes.on(|_| Ok(())).await.unwrap_err();
    assert_eq!(refused.to_string(), "the database is not available: it is closed");
}
