//! A database on SQLite for this room's own tests.

use std::cell::Cell;
use std::time::Duration;

use uuid::Uuid;

use super::outbox::{Fired, Step, Watermark};
use super::outcomes::{AttemptRow, Life, Settled, Standing};
use super::queue::{Due, Lane, Position, Rest, Wanted};
use super::retention::first_id_of;
use super::shards::{Lease, shard_of};
use super::{Backend, Store};
use crate::domain::event::Event;
use crate::domain::ids::{AccountId, EventId, NodeId, SiteId, WebhookId};
use crate::domain::settle::Ended;
use crate::domain::time::Timestamp;
use crate::domain::webhook::Format;

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(super) const WEBHOOK: WebhookId = WebhookId(Uuid::from_u128(7));
pub(super) const ACCOUNT: AccountId = AccountId(1);
pub(super) const SITE: SiteId = SiteId(1);
pub(super) const NODE: NodeId = NodeId(Uuid::from_u128(9));

const SOURCE: &str = "here";

/// A database with one webhook, and who works with it.
pub(super) struct Stage {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub leases: Vec<Lease>,
    /// How far a source's hits were looked at.
    seen: Cell<i64>,
}

impl Stage {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        for sql in [
            "INSERT INTO accounts (id, name, inserted_at) VALUES (1, 'Owner', 0)",
            "INSERT INTO sites (id, account_id, domain, timezone, inserted_at, updated_at)
                VALUES (1, 1, 'example.com', 'UTC', 0, 0)",
            "INSERT INTO webhooks (id, account_id, site_id, name, url, format, active, live_since, version, inserted_at,
                updated_at)
                VALUES (unhex('00000000000000000000000000000007'), 1, 1, 'Name', '', 'json', 1, 0, 1, 0, 0)",
        ] {
            sqlx::query(sql).execute(sqlite(&store)).await.unwrap();
        }
        let leases = store.claim_shards(NODE, Duration::ZERO, 0).await.unwrap();
        store.put_rows_off(NOW).await.unwrap();
        store.operator_watermark(SOURCE, 0).await.unwrap();
        Self { folder, store, leases, seen: Cell::new(0) }
    }

    /// The process is gone without a word, and another one starts.
    pub async fn killed(self) -> Self {
        self.store.close().await;
        let store = open(&self.folder).await;
        store.put_rows_off(NOW).await.unwrap();
        Self { store, ..self }
    }

    /// A step that has come so far.
    pub async fn step(&self, fired: Vec<Fired>) -> Step {
        let (from, catalog_version) = (self.seen.get(), self.store.catalog_version().await.unwrap());
        self.seen.set(from + 1);
        let watermark = Some(Watermark { source: SOURCE.to_owned(), from, to: from + 1, catalog_version });
        Step { fired, watermark, ..Step::default() }
    }

    pub async fn record(&self, fired: Vec<Fired>) {
        self.store.record(self.step(fired).await, NOW).await.unwrap();
    }

    /// Of the shard there are events of.
    pub fn lease(&self) -> Lease {
        *self.leases.iter().find(|lease| lease.shard == shard_of(SITE)).unwrap()
    }

    pub fn outcome(&self, id: EventId, number: i64, standing: Standing) -> Settled {
        let mut outcome = Settled { lease: self.lease(), ..settled(id, WEBHOOK, standing) };
        outcome.attempt.number = i32::try_from(number).unwrap();
        outcome
    }

    pub async fn settle(&self, id: EventId, standing: Standing) {
        let number = 1 + self.count("SELECT count(*) FROM attempts").await;
        let outcome = self.outcome(id, number, standing);
        self.store.settle(NODE, &[self.lease()], &vec![outcome].into(), NOW).await.unwrap();
    }

    /// What the dispatcher would read.
    pub async fn due(&self, lane: Lane) -> Vec<Due> {
        let after = Position::START;
        let rest = Rest { shard: shard_of(SITE), account_id: ACCOUNT, webhook_id: WEBHOOK, lane, after };
        self.store.due(&Wanted { lanes: vec![rest], limit: 100 }, NOW).await.unwrap()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(sqlite(&self.store)).await.unwrap()
    }

    pub async fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM queue").await
    }

    pub async fn depth(&self) -> i64 {
        self.store.operator_depth().await.unwrap().deliveries
    }
}

pub(super) async fn open(folder: &tempfile::TempDir) -> Store {
    let store = Store::open(&format!("sqlite://{}", folder.path().join("test.db").display())).await.unwrap();
    store.migrate().await.unwrap();
    store
}

pub(super) fn sqlite(store: &Store) -> &sqlx::SqlitePool {
    let Backend::Sqlite(pool) = store.writer() else { unreachable!("it was opened as that") };
    pool
}

pub(super) fn id(at: Timestamp, number: u128) -> EventId {
    EventId(Uuid::from_u128(first_id_of(at).0.as_u128() | 0x7000_8000_0000_0000_0000 | number))
}

pub(super) fn fired(id: EventId) -> Fired {
    let event = Event {
        id,
        account_id: ACCOUNT,
        site_id: SITE,
        webhook_id: WEBHOOK,
        trigger_id: None,
        event_type: "test".to_owned(),
        moment: id.to_string(),
        format: Format::Json,
        payload: b"{}".to_vec(),
        expires_at: None,
        inserted_at: id.recorded_at(),
    };
    Fired { event, shard: shard_of(SITE), trigger_version: None, state: None, shadow: false }
}

/// Of the first attempt, which took a millisecond.
pub(super) fn settled(event_id: EventId, webhook_id: WebhookId, standing: Standing) -> Settled {
    let attempt = AttemptRow {
        number: 1,
        started_at: NOW,
        duration_ms: 1,
        outcome: "success",
        advice: None,
        response_code: Some(200),
        response_headers: None,
        response_body: None,
        phases: None,
    };
    let lease = Lease { shard: shard_of(SITE), epoch: 1 };
    let (life, turn) = (Life::AsBefore, None);
    Settled { lease, event_id, account_id: ACCOUNT, webhook_id, attempt, standing, life, turn }
}

pub(super) fn over() -> Standing {
    Standing::Over { ended: Ended::Success, reason: None }
}
