//! Looks at what waits that leave out what is known, beside rows that come, move and go.

use std::time::Duration;

use pulsehook::chance::Chance;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::looks::Looks;
use pulsehook::store::Store;
use pulsehook::store::waiting::{Look, Waiting};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::Database;

/// The queue behind the store's back: what an engine owes is due when it says, and here it is due whenever it may be.
struct Queue {
    connection: PgConnection,
    chance: Chance,
    rows: Vec<Uuid>,
}

impl Queue {
    /// A number from 0 to `most`, that not included.
    fn one_of(&self, most: usize) -> usize {
        usize::from(u16::from_le_bytes(self.chance.bytes())) % most
    }

    /// As late and as early as a node's clock and a commit that took its time make it.
    fn moment(&self, now: Timestamp) -> Timestamp {
        now - Duration::from_secs(15) + Duration::from_millis(self.one_of(60_000) as u64)
    }

    async fn owe(&mut self, now: Timestamp) {
        const INSERT: &str = "
            INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at)
            VALUES ($1, 1, $2, $3, $4, 0, 0, $5)";
        let id = self.chance.uuid_v7(now);
        // A webhook's site, and so its shard, never changes.
        let (shard, webhooks) = [(0, 100), (5, 200), (6, 300), (255, 400)][self.one_of(4)];
        let webhook = Uuid::from_u128(webhooks + self.one_of(5) as u128);
        sqlx::query(INSERT)
            .bind(id)
            .bind(webhook)
            .bind(shard)
            .bind([0, 1, 2][self.one_of(3)])
            .bind(self.moment(now).micros())
            .execute(&mut self.connection)
            .await
            .unwrap();
        self.rows.push(id);
    }

    async fn put_off(&mut self, now: Timestamp) {
        const UPDATE: &str = "UPDATE queue SET lane = 1, due_at = $2 WHERE event_id = $1";
        if !self.rows.is_empty() {
            let id = self.rows[self.one_of(self.rows.len())];
            let due_at = self.moment(now).micros();
            sqlx::query(UPDATE).bind(id).bind(due_at).execute(&mut self.connection).await.unwrap();
        }
    }

    async fn end(&mut self) {
        if !self.rows.is_empty() {
            let id = self.rows.swap_remove(self.one_of(self.rows.len()));
            let delete = "DELETE FROM queue WHERE event_id = $1";
            sqlx::query(delete).bind(id).execute(&mut self.connection).await.unwrap();
        }
    }
}

async fn found(store: &Store, look: &Look) -> Vec<Waiting> {
    let mut found = store.waiting(look).await.unwrap();
    found.sort_unstable_by_key(|lane| (lane.shard, lane.webhook_id, lane.lane));
    found
}

#[tokio::test]
async fn what_is_left_out_is_not_there() {
    crate::support::in_time(what_is_known_changes_no_answer()).await;
}

async fn what_is_known_changes_no_answer() {
    let database = Database::postgres().await;
    let store = Store::open(&database.url).await.unwrap();
    store.migrate().await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let mut now = Timestamp::from_secs(1_800_000_000);
    for seed in 0..3 {
        let mut queue = Queue { connection, chance: Chance::seeded(seed), rows: Vec::new() };
        let mut looks = Looks::default();
        let mut left_something_out = 0;
        for round in 0..150 {
            now = now + Duration::from_millis(queue.one_of(2_000) as u64);
            for _ in 0..queue.one_of(8) {
                match queue.one_of(5) {
                    0 | 1 => queue.owe(now).await,
                    2 => queue.put_off(now).await,
                    _ => queue.end().await,
                }
            }
            let look = looks.begin(now);
            left_something_out += u32::from(look.known.is_some());
            let waiting = found(&store, &look).await;
            let everything = found(&store, &Look::default()).await;
            assert_eq!(waiting, everything, "seed {seed}, round {round}: {look:?}");
            // As if it had taken so long that the next is not to be another of the kind.
            looks.end(&waiting, Duration::from_secs(5), now);
        }
        assert!(left_something_out > 100, "only {left_something_out} looks left something out");
        connection = queue.connection;
    }
    store.close().await;
}
