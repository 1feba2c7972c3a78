//! First attempts without a row in the queue on PostgreSQL: whatever happens to the node that remembers them, and whoever
//! changes something meanwhile, each is found by somebody and made by one.

use std::time::Duration;

use pulsehook::domain::ids::{EventId, WebhookId};
use pulsehook::domain::settle::Ended;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::leases::TTL;
use pulsehook::store::outbox::{Fired, Step, Watermark};
use pulsehook::store::outcomes::{Life, Settled, Standing};
use pulsehook::store::queue::{Due, Lane, Position, Rest, Wanted};
use pulsehook::store::retention::first_id_of;
use pulsehook::store::shards::{Lease, Node};
use pulsehook::store::waiting::Look;
use pulsehook::store::{Store, StoreError};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};

use crate::steps::{Bench, FIRST, SECOND, settled, until_so_many_wait, until_somebody_waits};
use crate::support::{Database, in_time};

/// Two nodes over one database; the first has all shards and puts rows off.
struct Stage {
    bench: Bench,
    lease: Lease,
    other: Store,
    watch: PgConnection,
    /// How far the first one's hits were looked at.
    seen: i64,
}

impl Stage {
    async fn new() -> Self {
        let bench = Bench::new(Database::postgres().await).await;
        let other = Store::open(&bench.database.url).await.unwrap();
        let watch = PgConnection::connect(&bench.database.url).await.unwrap();
        let held = bench.claim(FIRST).await;
        let lease = bench.mine(&held);
        let stage = Self { bench, lease, other, watch, seen: 0 };
        stage.bench.store.take_up(FIRST, &held, true, stage.now()).await.unwrap();
        stage.bench.store.operator_watermark("here", 0).await.unwrap();
        stage
    }

    fn now(&self) -> Timestamp {
        self.bench.event(1, "").event.inserted_at
    }

    fn webhook(&self) -> WebhookId {
        self.bench.event(1, "").event.webhook_id
    }

    /// Made at this moment.
    fn event_at(&self, number: u128, moment: Timestamp) -> Fired {
        let version = 7 << 76;
        self.bench.event(first_id_of(moment).0.as_u128() | version | number, &format!("rise:{number}"))
    }

    async fn step(&mut self, fired: Vec<Fired>) -> Step {
        let catalog_version = self.bench.store.catalog_version().await.unwrap();
        let (from, to) = (self.seen, self.seen + 1);
        let watermark = Some(Watermark { source: "here".to_owned(), from, to, catalog_version });
        Step { fired, watermark, ..Step::default() }
    }

    /// The first node records an event that is made at this moment.
    async fn record_at(&mut self, number: u128, moment: Timestamp) -> EventId {
        let fired = self.event_at(number, moment);
        let id = fired.event.id;
        let step = self.step(vec![fired]).await;
        assert_eq!(self.bench.store.record(step, moment).await.unwrap().1, [id]);
        self.seen += 1;
        id
    }

    async fn record(&mut self, number: u128) -> EventId {
        self.record_at(number, self.now()).await
    }

    fn outcome(&self, lease: Lease, id: EventId, standing: Standing) -> Settled {
        settled(lease, id, self.bench.account_id, self.webhook(), standing)
    }

    async fn settle(&self, id: EventId, standing: Standing) -> Result<(), StoreError> {
        let outcome = self.outcome(self.lease, id, standing);
        self.bench.store.settle(FIRST, &[self.lease], &vec![outcome].into(), self.now()).await
    }

    /// What a node reads of the queue, as its dispatcher would.
    async fn due(&self, store: &Store, lane: Lane) -> Vec<Due> {
        let (shard, account_id, webhook_id) = (self.lease.shard, self.bench.account_id, self.webhook());
        let rest = Rest { shard, account_id, webhook_id, lane, after: Position::START };
        store.due(&Wanted { lanes: vec![rest], limit: 100 }, self.now() + Duration::from_secs(600)).await.unwrap()
    }

    /// Rows there are of the queue, and attempts.
    async fn written(&mut self) -> (i64, i64) {
        const SQL: &str = "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM attempts)";
        sqlx::query_as(SQL).fetch_one(&mut self.watch).await.unwrap()
    }

    async fn execute(&mut self, sql: &'static str) {
        sqlx::query(sql).execute(&mut self.watch).await.unwrap();
    }

    /// The first node's leases run out, and the second takes everything up.
    async fn second_takes_over(&mut self) -> Lease {
        self.execute("UPDATE shards SET lease_until = 0").await;
        let held = self.other.claim_shards(SECOND, TTL, 256).await.unwrap();
        self.other.take_up(SECOND, &held, true, self.now()).await.unwrap();
        self.bench.mine(&held)
    }

    async fn commit_once_somebody_waits(&self, tx: Transaction<'_, Postgres>) {
        let mut watch = PgConnection::connect(&self.bench.database.url).await.unwrap();
        until_somebody_waits(&mut watch).await;
        tx.commit().await.unwrap();
    }

    /// Writes the outcome of a delivery that has a row, while somebody has done the first of two things and does the second as
    /// soon as he is waited for.
    async fn settle_beside(&mut self, life: Life, first: &'static str, second: &'static str) {
        let id = self.record(1).await;
        assert_eq!(ids(&self.due(&self.bench.store, Lane::First).await), [id]);
        let mut somebody = PgConnection::connect(&self.bench.database.url).await.unwrap();
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query(first).execute(&mut *tx).await.unwrap();
        let goes_on = async {
            let mut watch = PgConnection::connect(&self.bench.database.url).await.unwrap();
            until_somebody_waits(&mut watch).await;
            sqlx::query(second).execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
        };
        let outcomes = vec![Settled { life, ..self.outcome(self.lease, id, over()) }].into();
        let leases = [self.lease];
        let settling = self.bench.store.settle(FIRST, &leases, &outcomes, self.now());
        let (settled, ()) = tokio::join!(settling, goes_on);
        settled.unwrap();
    }

    async fn close(self) {
        self.other.close().await;
        self.bench.store.close().await;
    }
}

fn over() -> Standing {
    Standing::Over { ended: Ended::Success, reason: None }
}

fn again(due_at: Timestamp) -> Standing {
    Standing::Again { attempt: 1, other_attempts: 0, due_at }
}

fn gone() -> Life {
    Life::Disable { reason: "It is gone.".to_owned() }
}

fn ids(due: &[Due]) -> Vec<EventId> {
    due.iter().map(|due| due.event_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_at_once_never_has_a_row() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let id = stage.record(1).await;
        assert_eq!(stage.written().await, (0, 0));
        assert_eq!(stage.bench.store.operator_depth().await.unwrap().deliveries, 1);
        assert_eq!(stage.other.operator_depth().await.unwrap().deliveries, 1, "another process is told too");
        stage.settle(id, over()).await.unwrap();
        assert_eq!(stage.written().await, (0, 1));
        assert_eq!(stage.due(&stage.bench.store, Lane::First).await, []);
        for store in [&stage.bench.store, &stage.other] {
            assert_eq!(store.operator_depth().await.unwrap().deliveries, 0);
        }
        stage.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_has_one_as_soon_as_somebody_looks() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let (first, second) = (stage.record(1).await, stage.record(2).await);
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::First).await), [first, second]);
        assert_eq!(stage.written().await, (2, 0));
        let third = stage.record(3).await;
        // Of those with a row and of one without, one ends and the others go on.
        let due_at = stage.now();
        let standings = [(first, over()), (second, again(due_at)), (third, again(due_at))];
        let outcomes = standings.map(|(id, standing)| stage.outcome(stage.lease, id, standing));
        stage.bench.store.settle(FIRST, &[stage.lease], &outcomes.to_vec().into(), due_at).await.unwrap();
        assert_eq!(stage.written().await, (2, 3));
        let retries = stage.due(&stage.bench.store, Lane::Retry).await;
        assert_eq!((ids(&retries), retries[0].attempt), (vec![second, third], 1));
        stage.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_remembered_is_found_by_the_next_owner() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let (made, left) = (stage.record(1).await, stage.record(2).await);
        stage.settle(made, over()).await.unwrap();
        let lease = stage.second_takes_over().await;
        assert_eq!(stage.written().await, (1, 1));
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [left]);
        // The first one was only paused. What it still says changes nothing, and it writes no row of what is not its own.
        let late = stage.settle(left, over()).await;
        assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
        let outcome = stage.outcome(lease, left, over());
        stage.other.settle(SECOND, &[lease], &vec![outcome].into(), stage.now()).await.unwrap();
        assert_eq!(stage.due(&stage.bench.store, Lane::First).await, []);
        assert_eq!(stage.written().await, (0, 2));
        // Nor does it put off any more what it records for a shard of another's.
        let id = stage.record(3).await;
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [id]);
        stage.close().await;
    }))
    .await;
}

/// A node that comes back as the same has forgotten what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_remembered_is_found_when_it_starts_again() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let id = stage.record(1).await;
        stage.other.release_shards(FIRST).await.unwrap();
        let held = stage.other.claim_shards(FIRST, TTL, 256).await.unwrap();
        stage.other.take_up(FIRST, &held, true, stage.now() + Duration::from_secs(3_600)).await.unwrap();
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [id]);
        // Looked through once: what is prolonged is not looked through again.
        stage.execute("DELETE FROM queue").await;
        stage.other.take_up(FIRST, &held, true, stage.now() + Duration::from_secs(3_600)).await.unwrap();
        assert_eq!(stage.written().await, (0, 0));
        stage.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_another_node_deletes_is_owed_nothing() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let (under_way, waiting) = (stage.record(1).await, stage.record(2).await);
        // The first outcome after a start is believed under no configuration; from here on there is one.
        stage.due(&stage.bench.store, Lane::First).await;
        let remembered = stage.record(3).await;
        stage.execute("DELETE FROM webhooks").await;
        stage.execute("DELETE FROM queue").await;
        stage.execute("UPDATE facts SET value = value::int + 1 WHERE name = 'catalog_version'").await;
        let outcomes = [under_way, remembered].map(|id| stage.outcome(stage.lease, id, over()));
        stage.bench.store.settle(FIRST, &[stage.lease], &outcomes.to_vec().into(), stage.now()).await.unwrap();
        assert_eq!(stage.written().await, (0, 0));
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::First).await), []);
        stage.second_takes_over().await;
        assert_eq!(stage.written().await, (0, 0), "{waiting}");
        stage.close().await;
    }))
    .await;
}

/// Any other change of the configuration loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_outlives_other_changes_of_the_configuration() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let (first, second) = (stage.record(1).await, stage.record(2).await);
        for (id, left) in [(first, 1), (second, 0)] {
            stage.execute("UPDATE facts SET value = value::int + 1 WHERE name = 'catalog_version'").await;
            stage.settle(id, over()).await.unwrap();
            assert_eq!(stage.written().await, (left, 2 - left));
        }
        stage.close().await;
    }))
    .await;
}

/// Somebody asks another node for a delivery once more while its first attempt is under way, which nobody there knows of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_while_it_is_under_way_is_made_once() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        // So that it is believed.
        let before = stage.record(1).await;
        stage.settle(before, over()).await.unwrap();
        let (made, fails) = (stage.record(2).await, stage.record(3).await);
        for (number, id) in [(1, made), (2, fails)] {
            let change = stage.bench.change(number);
            assert!(stage.other.resend(&change, stage.webhook(), id, stage.lease.shard).await.unwrap());
        }
        assert_eq!(stage.written().await, (2, 1));
        stage.settle(made, over()).await.unwrap();
        stage.settle(fails, again(stage.now())).await.unwrap();
        assert_eq!(stage.written().await, (1, 3));
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::Resend).await), [fails]);
        stage.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_put_off_beside_a_node_that_would_not_find_it() {
    const OLDER: &str = "
        INSERT INTO nodes (id, version, roles, started_at, seen_at)
        SELECT gen_random_uuid(), '0.0.1', 'api,ingest,engine', now, now
        FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock";
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let node = Node { id: FIRST, version: "test", roles: "api,ingest,engine".to_owned() };
        let alone = stage.bench.store.announce(&node, TTL, stage.now()).await.unwrap();
        assert_eq!((alone.count, alone.take_up), (1, true));
        stage.execute(OLDER).await;
        let beside = stage.bench.store.announce(&node, TTL, stage.now()).await.unwrap();
        assert_eq!((beside.count, beside.take_up), (2, false));
        let held = stage.bench.store.held_shards(FIRST).await.unwrap();
        stage.bench.store.take_up(FIRST, &held, beside.take_up, stage.now()).await.unwrap();
        stage.record(1).await;
        assert_eq!(stage.written().await, (1, 0));
        stage.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_leaves_nothing_but_rows() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let (first, second) = (stage.record(1).await, stage.record(2).await);
        stage.bench.store.put_rows_off_no_longer().await.unwrap();
        assert_eq!(stage.written().await, (2, 0));
        let third = stage.record(3).await;
        assert_eq!(stage.written().await, (3, 0));
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM shards WHERE unqueued_since IS NOT NULL")
            .fetch_one(&mut stage.watch)
            .await
            .unwrap();
        assert_eq!(left, 0, "the next owner has nothing to look through");
        stage.settle(first, over()).await.unwrap();
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [second, third]);
        stage.close().await;
    }))
    .await;
}

/// A clock that is set back makes ids that a later look would not find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_from_before_has_a_row_at_once() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let before = stage.record_at(1, stage.now() - Duration::from_secs(3_600)).await;
        assert_eq!(stage.written().await, (1, 0));
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [before]);
        stage.close().await;
    }))
    .await;
}

/// How far is to be looked back goes on with the time, and never past what is remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_long_is_found_all_the_same() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let held = stage.bench.store.held_shards(FIRST).await.unwrap();
        let (first, mut now) = (stage.record(1).await, stage.now());
        let since = async |stage: &mut Stage| -> i64 {
            let sql = "SELECT min(unqueued_since) FROM shards";
            sqlx::query_scalar(sql).fetch_one(&mut stage.watch).await.unwrap()
        };
        let at_first = since(&mut stage).await;
        let mut second = first;
        for number in 2..6 {
            now = now + Duration::from_secs(60);
            second = stage.record_at(number, now).await;
            stage.bench.store.take_up(FIRST, &held, true, now).await.unwrap();
        }
        let moved = since(&mut stage).await;
        assert!(moved > at_first && moved <= stage.now().micros(), "{at_first} {moved}");
        stage.settle(first, over()).await.unwrap();
        now = now + Duration::from_secs(60);
        let third = stage.record_at(6, now).await;
        stage.bench.store.take_up(FIRST, &held, true, now).await.unwrap();
        assert!(since(&mut stage).await > moved);
        stage.second_takes_over().await;
        let found = ids(&stage.due(&stage.other, Lane::First).await);
        assert_eq!(found.len(), 5);
        assert!(found.contains(&second) && found.contains(&third) && !found.contains(&first));
        stage.close().await;
    }))
    .await;
}

/// The connection is lost while the database records a step: nobody is told that it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_nobody_heard_of_is_found_once_the_watermark_is_known() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let fired = stage.event_at(1, stage.now());
        let id = fired.event.id;
        let step = stage.step(vec![fired]).await;
        // Connections and statements are made before.
        stage.bench.store.operator_depth().await.unwrap();
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut lock = somebody.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM webhooks FOR UPDATE").execute(&mut *lock).await.unwrap();
        {
            let (store, now) = (stage.bench.store.clone(), stage.now());
            let mut recording = Box::pin(store.record(step, now));
            tokio::select! {
                outcome = &mut recording => panic!("it waits for the lock: {outcome:?}"),
                () = until_somebody_waits(&mut stage.watch) => {}
            }
            // And is dropped here, with its connection.
        }
        // It may still come to nothing, so there is nothing to look for yet.
        assert_eq!(stage.due(&stage.bench.store, Lane::First).await, []);
        lock.commit().await.unwrap();
        while stage.bench.store.operator_watermark_of("here").await.unwrap() == Some(0) {
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.written().await, (0, 0));
        // Nobody records anything after it.
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::First).await), [id]);
        stage.settle(id, over()).await.unwrap();
        assert_eq!(stage.written().await, (0, 1));
        stage.close().await;
    }))
    .await;
}

/// The same of an outcome: it is written once, and leaves no row behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_nobody_heard_of_leaves_no_row() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let before = stage.record(1).await;
        stage.settle(before, over()).await.unwrap();
        let id = stage.record(2).await;
        let outcomes = vec![stage.outcome(stage.lease, id, over())].into();
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut lock = somebody.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM shards FOR UPDATE").execute(&mut *lock).await.unwrap();
        {
            let (store, leases, now) = (stage.bench.store.clone(), [stage.lease], stage.now());
            let mut settling = Box::pin(store.settle(FIRST, &leases, &outcomes, now));
            tokio::select! {
                outcome = &mut settling => panic!("it waits for the lock: {outcome:?}"),
                () = until_somebody_waits(&mut stage.watch) => {}
            }
        }
        // A look waits for what is still under way.
        let left = {
            let mut watch = PgConnection::connect(&stage.bench.database.url).await.unwrap();
            let mut look = Box::pin(stage.due(&stage.bench.store, Lane::First));
            tokio::select! {
                left = &mut look => panic!("it does not wait: {left:?}"),
                () = until_so_many_wait(2, &mut watch) => {}
            }
            lock.commit().await.unwrap();
            look.await
        };
        assert_eq!(left, []);
        assert_eq!(stage.bench.store.recorded_attempts(&outcomes).await.unwrap(), [(id, 1)]);
        assert_eq!(stage.written().await, (0, 2));
        stage.close().await;
    }))
    .await;
}

/// A look writes rows while somebody deletes the webhook: none is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_not_written_behind_the_back_of_who_deletes_its_webhook() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        stage.record(1).await;
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut deletion = somebody.begin().await.unwrap();
        sqlx::query("DELETE FROM webhooks").execute(&mut *deletion).await.unwrap();
        sqlx::query("DELETE FROM queue").execute(&mut *deletion).await.unwrap();
        let commit = stage.commit_once_somebody_waits(deletion);
        let (left, ()) = tokio::join!(stage.due(&stage.bench.store, Lane::First), commit);
        assert_eq!(left, []);
        assert_eq!(stage.written().await, (0, 0));
        stage.close().await;
    }))
    .await;
}

/// Whoever deletes a webhook has it first and then what is owed to it, and so has who writes what attempts tell of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tells_of_a_webhook_and_who_deletes_it_never_wait_for_each_other() {
    in_time(Box::pin(async {
        for life in [Life::Failing, gone()] {
            let mut stage = Stage::new().await;
            stage.settle_beside(life, "DELETE FROM webhooks", "DELETE FROM queue").await;
            assert_eq!(stage.written().await, (0, 0), "what is not owed any more has no attempt either");
            stage.close().await;
        }
    }))
    .await;
}

/// Whoever looks at the traffic records what it shows and has the leases last, and so has who disables a webhook.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tells_of_a_webhook_and_who_records_for_it_never_wait_for_each_other() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let recording = "SELECT 1 FROM webhooks FOR KEY SHARE";
        stage.settle_beside(gone(), recording, "SELECT 1 FROM shards FOR UPDATE").await;
        assert_eq!(stage.written().await, (0, 1));
        stage.close().await;
    }))
    .await;
}

/// Who records or tells outcomes gets his turn before a look has rows for all of many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_writes_rows_in_bites() {
    const MANY: i64 = 150;
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let numbers = 1..=MANY.unsigned_abs();
        let fired: Vec<_> = numbers.map(|number| stage.event_at(number.into(), stage.now())).collect();
        let ids: Vec<_> = fired.iter().map(|fired| fired.event.id).collect();
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        let step = stage.step(fired).await;
        stage.bench.store.record(step, stage.now()).await.unwrap();
        // Somebody is about to write the row that would be written last.
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut writing = somebody.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at)
            SELECT id, account_id, webhook_id, $2, 0, 0, 0, inserted_at FROM events WHERE id = $1",
        )
        .bind(last)
        .bind(stage.lease.shard)
        .execute(&mut *writing)
        .await
        .unwrap();
        let meanwhile = async {
            let mut watch = PgConnection::connect(&stage.bench.database.url).await.unwrap();
            until_somebody_waits(&mut watch).await;
            let before: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut watch).await.unwrap();
            writing.rollback().await.unwrap();
            before
        };
        let look = Look::default();
        let (waiting, before) = tokio::join!(stage.bench.store.waiting(&look), meanwhile);
        assert!(0 < before && before < MANY, "{before} rows were there while the last ones were written");
        assert_eq!(waiting.unwrap()[0].event_id, first);
        assert_eq!(stage.written().await, (MANY, 0));
        stage.close().await;
    }))
    .await;
}

/// What is attempted from memory right now would lose its row in a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_leaves_what_is_young_and_a_read_what_is_for_others() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let now = stage.now();
        let old = stage.record(1).await;
        let mut fired = stage.event_at(2, now + Duration::from_secs(5));
        fired.event.inserted_at = now + Duration::from_secs(5);
        let young = fired.event.id;
        let step = stage.step(vec![fired]).await;
        stage.bench.store.record(step, now).await.unwrap();
        let look = Look { young_since: Some(now + Duration::from_secs(1)), ..Look::default() };
        let found: Vec<_> = stage.bench.store.waiting(&look).await.unwrap().iter().map(|lane| lane.event_id).collect();
        assert_eq!((found, stage.written().await), (vec![old], (1, 0)));
        assert_eq!(stage.bench.store.operator_depth().await.unwrap().deliveries, 2);
        assert_eq!(stage.due(&stage.bench.store, Lane::Retry).await, []);
        assert_eq!(stage.written().await, (1, 0), "nothing was put off in that lane");
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::First).await), [old, young]);
        stage.close().await;
    }))
    .await;
}

/// A look tells whose deliveries wait, an answer that comes soon that they do not any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_wait_has_its_row_from_the_beginning_until_something_is_answered_soon() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let first = stage.record(1).await;
        let look = Look { young_since: Some(stage.now() + Duration::from_secs(1)), ..Look::default() };
        stage.bench.store.waiting(&look).await.unwrap();
        assert_eq!(stage.written().await, (1, 0));
        let second = stage.record(2).await;
        assert_eq!(stage.written().await, (2, 0));
        stage.settle(first, again(stage.now())).await.unwrap();
        let third = stage.record(3).await;
        assert_eq!(stage.written().await, (3, 1), "that was no answer");
        stage.settle(second, over()).await.unwrap();
        let fourth = stage.record(4).await;
        assert_eq!(stage.written().await, (2, 2));
        assert_eq!(stage.bench.store.operator_depth().await.unwrap().deliveries, 3);
        stage.second_takes_over().await;
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [third, fourth]);
        stage.close().await;
    }))
    .await;
}

/// Somebody asks for a delivery once more while its outcome is being written: the next attempt has the next number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_while_its_outcome_is_written_goes_on_counting() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let id = stage.record(1).await;
        assert_eq!(ids(&stage.due(&stage.bench.store, Lane::First).await), [id]);
        // An outcome on its way, all but its end.
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut outcome = somebody.begin().await.unwrap();
        for sql in [
            "SELECT 1 FROM shards FOR SHARE",
            "INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, ended)
                SELECT event_id, 1, account_id, webhook_id, 0, 0, 'success', 'success' FROM queue",
            "DELETE FROM queue",
        ] {
            sqlx::query(sql).execute(&mut *outcome).await.unwrap();
        }
        let change = stage.bench.change(1);
        let commit = stage.commit_once_somebody_waits(outcome);
        let asked = stage.other.resend(&change, stage.webhook(), id, stage.lease.shard);
        let (found, ()) = tokio::join!(asked, commit);
        assert!(found.unwrap());
        let due = stage.due(&stage.bench.store, Lane::Resend).await;
        assert_eq!((ids(&due), due[0].other_attempts), (vec![id], 1));
        stage.close().await;
    }))
    .await;
}

/// A step takes long, and its shards are another node's meanwhile: who took them over has looked already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_outlasts_its_lease_has_rows() {
    in_time(Box::pin(async {
        let mut stage = Stage::new().await;
        let fired = stage.event_at(1, stage.now());
        let id = fired.event.id;
        let step = stage.step(vec![fired]).await;
        let mut somebody = PgConnection::connect(&stage.bench.database.url).await.unwrap();
        let mut lock = somebody.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM webhooks FOR UPDATE").execute(&mut *lock).await.unwrap();
        let (store, now) = (stage.bench.store.clone(), stage.now());
        let takeover = async {
            until_somebody_waits(&mut stage.watch).await;
            stage.second_takes_over().await;
            lock.commit().await.unwrap();
        };
        let (owed, ()) = tokio::join!(store.record(step, now), takeover);
        assert_eq!(owed.unwrap().1, [id]);
        assert_eq!(stage.written().await, (1, 0));
        assert_eq!(ids(&stage.due(&stage.other, Lane::First).await), [id]);
        stage.close().await;
    }))
    .await;
}
