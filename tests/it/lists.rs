//! The list of a webhook's deliveries, where one event is listed with others of its step.

use std::collections::BTreeMap;
use std::time::Duration;

use pulsehook::domain::access::{Origin, Who};
use pulsehook::domain::ids::{AccountId, EventId, ResendId, SiteId, WebhookId};
use pulsehook::domain::resend::Range;
use pulsehook::domain::settle::Ended;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::leases::TTL;
use pulsehook::store::Store;
use pulsehook::store::audit::Change;
use pulsehook::store::deliveries::Filter;
use pulsehook::store::outbox::{Fired, Step, Watermark};
use pulsehook::store::outcomes::Standing;
use pulsehook::store::retention::first_id_of;
use pulsehook::store::sites::Site;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::steps::{FIRST, event, settled};
use crate::support::Database;
use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;

/// A store with two webhooks in it, and no engine.
struct Stage {
    store: Store,
    site: Site,
    webhooks: [Value; 2],
    account_id: AccountId,
    database: Database,
    /// How far hits were looked at.
    seen: i64,
    /// What was recorded of each webhook.
    recorded: BTreeMap<WebhookId, Vec<EventId>>,
}

impl Stage {
    async fn new(database: Database) -> Self {
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let mut webhooks = Vec::new();
        for url in ["https://one.example.com/", "https://two.example.com/"] {
            webhooks.push(app.webhook(url, json!([{"type": "goal_completion"}])).await);
        }
        let account_id = app.account_id;
        let database = app.stop().await;
        let store = Store::open(&database.url).await.unwrap();
        let site = store.site(account_id, SITE).await.unwrap().unwrap();
        store.operator_watermark("here", 0).await.unwrap();
        let webhooks = webhooks.try_into().expect("two");
        Self { store, site, webhooks, account_id, database, seen: 0, recorded: BTreeMap::new() }
    }

    fn webhook(&self, number: usize) -> WebhookId {
        text(&self.webhooks[number]["id"]).parse().unwrap()
    }

    fn now(&self) -> Timestamp {
        self.event_at(0, Duration::ZERO, 0).event.inserted_at
    }

    /// Of a webhook, made so long after ten o'clock.
    fn event_at(&self, webhook: usize, after: Duration, number: u128) -> Fired {
        let ten: Timestamp = "2026-02-25T10:00:00Z".parse().unwrap();
        let made = ten + after;
        let id = first_id_of(made).0.as_u128() | 7 << 76 | number;
        let mut fired = event(&self.site, &self.webhooks[webhook], id, &format!("rise:{number}"));
        fired.event.inserted_at = made;
        fired
    }

    /// All in one step.
    async fn record(&mut self, fired: Vec<Fired>) -> Vec<EventId> {
        for fired in &fired {
            self.recorded.entry(fired.event.webhook_id).or_default().push(fired.event.id);
        }
        let catalog_version = self.store.catalog_version().await.unwrap();
        let (from, to) = (self.seen, self.seen + 1);
        self.seen = to;
        let watermark = Some(Watermark { source: "here".to_owned(), from, to, catalog_version });
        self.store.record(Step { fired, watermark, ..Step::default() }, self.now()).await.unwrap().1
    }

    /// Steps whose events lie between each other's, of both webhooks in turn, more of them than one event lists, for longer
    /// than one lists, and one by itself.
    async fn record_much(&mut self) {
        for (step, first) in [0, 7, 1_500].into_iter().enumerate() {
            let made =
                |number: u64| (Duration::from_millis(first + number * 5), u128::from(number) + step as u128 * 1_000);
            let numbers = (0..300).map(made).enumerate();
            let fired =
                numbers.map(|(index, (after, number))| self.event_at(usize::from(index % 3 == 0), after, number));
            let fired = fired.collect();
            self.record(fired).await;
        }
        let alone = self.event_at(0, Duration::from_secs(60), 9_000);
        self.record(vec![alone]).await;
        for ids in self.recorded.values_mut() {
            ids.sort_unstable();
            ids.reverse();
        }
    }

    async fn page(&self, webhook: usize, filter: &Filter, limit: usize, offset: usize) -> Vec<EventId> {
        let page = self.store.deliveries(self.account_id, self.webhook(webhook), filter, limit, offset).await.unwrap();
        page.into_iter().map(|delivery| delivery.id).collect()
    }

    async fn count(&self, webhook: usize, filter: &Filter) -> i64 {
        self.store.count_deliveries(self.account_id, self.webhook(webhook), filter).await.unwrap()
    }

    /// Each of these succeeded.
    async fn succeed(&self, webhook: usize, ids: &[EventId]) {
        self.store.claim_shards(FIRST, TTL, 256).await.unwrap();
        let leases = self.store.held_shards(FIRST).await.unwrap();
        let shard = self.event_at(0, Duration::ZERO, 0).shard;
        let lease = *leases.iter().find(|lease| lease.shard == shard).unwrap();
        let over = Standing::Over { ended: Ended::Success, reason: None };
        let outcomes = ids.iter().map(|id| settled(lease, *id, self.account_id, self.webhook(webhook), over.clone()));
        self.store.settle(FIRST, &leases, &outcomes.collect::<Vec<_>>().into(), self.now()).await.unwrap();
    }

    fn change(&self, number: u128) -> Change {
        let (who, origin) = (Who::Plausible, Origin { network: None, request_id: None });
        Change { account_id: self.account_id, who, now: self.now(), id: Uuid::from_u128(number), origin }
    }

    async fn rows(&self, sql: &'static str) -> i64 {
        if let Some(path) = self.database.url.strip_prefix("sqlite://") {
            let mut watch = <sqlx::SqliteConnection as sqlx::Connection>::connect(path).await.unwrap();
            return sqlx::query_scalar(sql).fetch_one(&mut watch).await.unwrap();
        }
        let mut watch = <sqlx::PgConnection as sqlx::Connection>::connect(&self.database.url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut watch).await.unwrap()
    }
}

/// Some of them, far apart and side by side.
fn some_of(ids: &[EventId]) -> Vec<EventId> {
    ids.iter().copied().enumerate().filter(|(index, _)| index % 7 < 2).map(|(_, id)| id).collect()
}

on_both!({
    async fn all_are_listed_in_the_order_of_their_ids(database: Database) {
        let mut stage = Stage::new(database).await;
        stage.record_much().await;
        for webhook in 0..2 {
            let wanted = stage.recorded[&stage.webhook(webhook)].clone();
            let everything = Filter::default();
            assert_eq!(stage.page(webhook, &everything, 2_000, 0).await, wanted);
            assert_eq!(stage.count(webhook, &everything).await, i64::try_from(wanted.len()).unwrap());
            // By a cursor, by page numbers, and beyond the end.
            let mut by_cursor = Vec::new();
            loop {
                let filter = Filter { before: by_cursor.last().copied(), ..Filter::default() };
                let page = stage.page(webhook, &filter, 41, 0).await;
                assert_eq!(stage.count(webhook, &filter).await, i64::try_from(wanted.len()).unwrap(), "of all pages");
                if page.is_empty() {
                    break;
                }
                by_cursor.extend(page);
            }
            assert_eq!(by_cursor, wanted);
            for (number, page) in wanted.chunks(41).enumerate() {
                assert_eq!(stage.page(webhook, &everything, 41, number * 41).await, page);
            }
            assert_eq!(stage.page(webhook, &everything, 41, wanted.len()).await, []);
        }
        let entries = "SELECT count(*) FROM events WHERE lists IS NULL OR length(lists) > 0";
        assert!(stage.rows(entries).await < 40, "they share entries");
        let elsewhere = stage.store.deliveries(AccountId(99), stage.webhook(0), &Filter::default(), 10, 0).await;
        assert_eq!(elsewhere.unwrap(), []);
        stage.store.close().await;
    }

    async fn filters_see_each_of_them(database: Database) {
        let mut stage = Stage::new(database).await;
        stage.record_much().await;
        let all = stage.recorded[&stage.webhook(0)].clone();
        let succeeded = some_of(&all);
        stage.succeed(0, &succeeded).await;
        let waiting: Vec<_> = all.iter().copied().filter(|id| !succeeded.contains(id)).collect();
        for (status, wanted) in [("success", &succeeded), ("pending", &waiting), ("failed", &Vec::new())] {
            let filter = Filter { status: Some(status.to_owned()), ..Filter::default() };
            assert_eq!(stage.page(0, &filter, 2_000, 0).await, *wanted);
            assert_eq!(stage.count(0, &filter).await, i64::try_from(wanted.len()).unwrap());
            for (number, page) in wanted.chunks(41).enumerate() {
                assert_eq!(stage.page(0, &filter, 41, number * 41).await, page);
            }
            let third = wanted.get(2).copied();
            let after = Filter { before: third, ..filter };
            assert_eq!(stage.page(0, &after, 5, 0).await, wanted.iter().skip(3).take(5).copied().collect::<Vec<_>>());
        }
        let moment = |id: &EventId| id.recorded_at();
        let (from, to) = (moment(&all[200]), moment(&all[50]));
        let between: Vec<_> = all.iter().copied().filter(|id| from <= moment(id) && moment(id) <= to).collect();
        let filter = Filter { from: Some(from), to: Some(to), ..Filter::default() };
        assert_eq!(stage.page(0, &filter, 2_000, 0).await, between);
        assert_eq!(stage.count(0, &filter).await, i64::try_from(between.len()).unwrap());
        let filter = Filter { event_type: Some("traffic_spike".to_owned()), ..Filter::default() };
        assert_eq!((stage.page(0, &filter, 10, 0).await, stage.count(0, &filter).await), (Vec::new(), 0));
        stage.store.close().await;
    }

    async fn one_that_was_recorded_before_takes_nobody_off_the_list(database: Database) {
        let mut stage = Stage::new(database).await;
        let now = stage.now();
        let first: Vec<_> = [1, 5].map(|number| stage.event_at(0, Duration::ZERO, number)).into();
        stage.record(first).await;
        // The last one would have listed the others.
        let mut again: Vec<_> = (2..6).map(|number| stage.event_at(0, Duration::from_millis(9), number)).collect();
        again[3].event.id = EventId(Uuid::from_u128(again[3].event.id.0.as_u128() + 1));
        let wanted: Vec<_> = again[..3].iter().map(|fired| fired.event.id).collect();
        let watermark = Some(Watermark {
            source: "here".to_owned(),
            from: 1,
            to: 2,
            catalog_version: stage.store.catalog_version().await.unwrap(),
        });
        let step = Step { fired: again, watermark, ..Step::default() };
        assert_eq!(stage.store.record(step, now).await.unwrap().1, wanted);
        let mut listed = stage.page(0, &Filter::default(), 10, 0).await;
        listed.reverse();
        assert_eq!(listed[2..], wanted);
        assert_eq!((listed.len(), stage.count(0, &Filter::default()).await), (5, 5));
        stage.store.close().await;
    }

    async fn a_range_finds_each_of_them(database: Database) {
        let mut stage = Stage::new(database).await;
        stage.record_much().await;
        let webhook_id = stage.webhook(0);
        let succeeded = some_of(&stage.recorded[&webhook_id]);
        stage.succeed(0, &succeeded).await;
        let (from, to) = (succeeded[90].recorded_at(), succeeded[3].recorded_at());
        let range = Range { ended: Ended::Success, event_type: None, from_at: Some(from), to_at: Some(to) };
        let wanted = 88;
        let now = to + Duration::from_secs(1);
        assert_eq!(stage.store.count_range(stage.account_id, webhook_id, &range, now).await.unwrap(), wanted);
        let change = Change { now, ..stage.change(1) };
        let (id, shard) = (ResendId(Uuid::from_u128(1)), stage.event_at(0, Duration::ZERO, 0).shard);
        let mut resend = stage.store.start_resend(&change, id, webhook_id, shard, range, wanted).await.unwrap();
        loop {
            let fed = stage.store.feed_resend(&resend, 1_000, now).await.unwrap();
            (resend.cursor, resend.queued) = (fed.cursor, resend.queued + fed.queued);
            if !fed.is_hungry {
                break;
            }
        }
        assert_eq!(resend.queued, wanted);
        let again = Filter { status: Some("pending".to_owned()), from: Some(from), to: Some(to), ..Filter::default() };
        let listed = stage.page(0, &again, 2_000, 0).await;
        assert!(succeeded[3..91].iter().all(|id| listed.contains(id)));
        stage.store.close().await;
    }

    async fn what_moved_is_found_among_them(database: Database) {
        let mut stage = Stage::new(database).await;
        stage.record_much().await;
        let watched = [(stage.account_id, stage.site.id), (stage.account_id, SiteId(99))];
        let mut wanted: Vec<_> = stage.recorded.values().flatten().copied().collect();
        wanted.sort_unstable();
        let mut found = Vec::new();
        loop {
            let after = found.last().copied().unwrap_or(EventId(Uuid::nil()));
            let now = stage.now() + Duration::from_secs(60);
            let page = stage.store.movements(&watched, stage.now(), now, after, 100).await.unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|movement| movement.id));
        }
        assert_eq!(found, wanted);
        stage.store.close().await;
    }

    async fn they_go_together_and_not_before_each_has_found_its_end(database: Database) {
        let mut stage = Stage::new(database).await;
        // Of a day that PostgreSQL has no partition for, which would go as a whole.
        let made = Duration::from_secs(1_000 * 86_400);
        let fired: Vec<_> = (1..=5).map(|number| stage.event_at(0, made, number)).collect();
        let ids: Vec<_> = fired.iter().map(|fired| fired.event.id).collect();
        stage.record(fired).await;
        let later = stage.now() + made + Duration::from_secs(86_400);
        // The one that lists the others, and all but one of those.
        stage.succeed(0, &[ids[0], ids[1], ids[3], ids[4]]).await;
        assert_eq!(stage.store.operator_prune_events(later, 100).await.unwrap(), 0);
        assert_eq!(stage.count(0, &Filter::default()).await, 5);
        stage.succeed(0, &[ids[2]]).await;
        assert_eq!(stage.store.operator_prune_events(later, 2).await.unwrap(), 5);
        assert_eq!(
            (stage.page(0, &Filter::default(), 10, 0).await, stage.count(0, &Filter::default()).await),
            (vec![], 0)
        );
        assert_eq!(stage.rows("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM attempts)").await, 0);
        stage.store.close().await;
    }

    async fn all_of_them_go_with_their_webhook(database: Database) {
        let mut stage = Stage::new(database).await;
        stage.record_much().await;
        let left = i64::try_from(stage.recorded[&stage.webhook(1)].len()).unwrap();
        assert!(stage.store.delete_webhook(&stage.change(7), stage.webhook(0)).await.unwrap());
        while stage.store.operator_remove_deleted(50).await.unwrap() > 0 {}
        assert_eq!(stage.rows("SELECT count(*) FROM events").await, left);
        assert_eq!(stage.count(1, &Filter::default()).await, left);
        stage.store.close().await;
    }
});
