//! What a step records, what is read of the queue and what becomes of attempts, whoever else is at it at the same time.

use std::sync::Arc;
use std::time::Duration;

use pulsehook::domain::access::{Origin, Who};
use pulsehook::domain::event::{Addressee, Data, Event};
use pulsehook::domain::ids::{AccountId, EventId, NodeId, WebhookId};
use pulsehook::domain::settle::Ended;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::leases::TTL;
use pulsehook::store::audit::Change;
use pulsehook::store::outbox::{Fired, StateChange, Step, Watermark};
use pulsehook::store::outcomes::{AttemptRow, Life, Settled, Standing};
use pulsehook::store::queue::{Lane, Position, Rest, Wanted};
use pulsehook::store::retention::first_id_of;
use pulsehook::store::shards::{Lease, SHARDS, shard_of};
use pulsehook::store::sites::Site;
use pulsehook::store::waiting::{Fronts, Known, Look};
use pulsehook::store::{Store, StoreError};
use serde_json::{Value, json};
use sqlx::Connection as _;
use uuid::Uuid;

use crate::support::Database;
use crate::support::app::{SITE, TestApp, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

pub fn a_lease() -> Lease {
    Lease { shard: 1, epoch: 1 }
}

pub fn settled(
    lease: Lease,
    event_id: EventId,
    account_id: AccountId,
    webhook_id: WebhookId,
    standing: Standing,
) -> Settled {
    let attempt = AttemptRow {
        number: 1,
        started_at: Timestamp::EPOCH,
        duration_ms: 5,
        outcome: "success",
        advice: None,
        response_code: Some(200),
        response_headers: None,
        response_body: None,
        phases: None,
    };
    Settled { lease, event_id, account_id, webhook_id, attempt, standing, life: Life::AsBefore, turn: None }
}

/// An event of a webhook's first trigger, as it was when it was made.
pub fn event(site: &Site, webhook: &Value, number: u128, moment: &str) -> Fired {
    let addressee = Addressee {
        account_id: site.account_id,
        site_id: site.id,
        site_domain: SITE,
        webhook_id: text(&webhook["id"]).parse().unwrap(),
        format: "json".parse().unwrap(),
        trigger: None,
    };
    let now: Timestamp = "2026-02-25T10:00:00Z".parse().unwrap();
    let mut event = Event::new(EventId(Uuid::from_u128(number)), &addressee, moment.to_owned(), Data::test(), now);
    event.trigger_id = Some(text(&webhook["triggers"][0]["id"]).parse().unwrap());
    Fired { event, shard: shard_of(site.id), trigger_version: Some(1), state: None, shadow: false }
}

/// A store of its own, with a site and a webhook in it, and no engine.
pub struct Bench {
    pub store: Store,
    pub site: Site,
    pub webhook: Value,
    pub account_id: AccountId,
    pub database: Database,
}

impl Bench {
    pub async fn new(database: Database) -> Self {
        let app = TestApp::start(database).await;
        app.site().await;
        app.goal(json!({"event_name": "Signup"})).await;
        let webhook = app.webhook("https://hooks.example.com/", json!([{"type": "goal_completion"}])).await;
        let account_id = app.account_id;
        let database = app.stop().await;
        let store = Store::open(&database.url).await.unwrap();
        let site = store.site(account_id, SITE).await.unwrap().unwrap();
        Self { store, site, webhook, account_id, database }
    }

    pub fn event(&self, number: u128, moment: &str) -> Fired {
        event(&self.site, &self.webhook, number, moment)
    }

    /// Records events 1, 2 … `count`, and answers whose they are and when they are due.
    async fn owe(&self, count: u128) -> (WebhookId, Timestamp) {
        let fired: Vec<_> = (1..=count).map(|number| self.event(number, &format!("rise:{number}"))).collect();
        let (webhook_id, now) = (fired[0].event.webhook_id, fired[0].event.inserted_at);
        assert_eq!(self.store.record(Step { fired, ..Step::default() }, now).await.unwrap().1.len() as u128, count);
        (webhook_id, now)
    }

    pub async fn claim(&self, node: NodeId) -> Vec<Lease> {
        self.store.claim_shards(node, TTL, 256).await.unwrap();
        self.store.held_shards(node).await.unwrap()
    }

    /// Who changes something by hand, for the `number`th time.
    pub fn change(&self, number: u128) -> Change {
        let (who, origin) = (Who::Plausible, Origin { network: None, request_id: None });
        Change { account_id: self.account_id, who, now: self.site.inserted_at, id: Uuid::from_u128(number), origin }
    }

    pub fn mine(&self, leases: &[Lease]) -> Lease {
        *leases.iter().find(|lease| lease.shard == shard_of(self.site.id)).unwrap()
    }
}

pub const FIRST: NodeId = NodeId(Uuid::from_u128(1));
pub const SECOND: NodeId = NodeId(Uuid::from_u128(2));

on_both!({
    async fn of_two_that_look_at_the_same_hits_one_is_refused(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        bench.store.operator_watermark("here", 3).await.unwrap();
        let catalog_version = bench.store.catalog_version().await.unwrap();
        let step = |number, moment: &str, to| Step {
            fired: vec![bench.event(number, moment)],
            watermark: Some(Watermark { source: "here".to_owned(), from: 3, to, catalog_version }),
            ..Step::default()
        };
        assert_eq!(bench.store.record(step(1, "7:4-9", 9), now).await.unwrap().1.len(), 1);
        // It had seen one hit less, so its moment has another name.
        let refused = bench.store.record(step(2, "7:4-8", 8), now).await;
        assert!(matches!(refused, Err(StoreError::Overtaken)), "{refused:?}");
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 1);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 9);
        // Nor does it move for one that looked with a configuration that is not the one any more.
        let watermark = Watermark { source: "here".to_owned(), from: 9, to: 12, catalog_version: catalog_version - 1 };
        let refused = bench.store.record(Step { watermark: Some(watermark), ..Step::default() }, now).await;
        assert!(matches!(refused, Err(StoreError::Overtaken)), "{refused:?}");
        bench.store.close().await;
    }

    async fn what_is_not_as_a_step_knew_it_keeps_nothing_else_back(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        bench.store.operator_watermark("here", 0).await.unwrap();
        let catalog_version = bench.store.catalog_version().await.unwrap();
        let step = |fired, from, to| {
            let watermark = Watermark { source: "here".to_owned(), from, to, catalog_version };
            Step { fired, watermark: Some(watermark), ..Step::default() }
        };
        // SQLite takes a watermark's word that the configuration is what the step knew; without one it looks itself.
        let sqlite = bench.store.is_sqlite();
        let beside = |fired, from, to| if sqlite { Step { fired, ..Step::default() } } else { step(fired, from, to) };
        let id = |number| EventId(Uuid::from_u128(number));
        let mut shadow = bench.event(2, "7:4-5");
        shadow.shadow = true;
        let usual = step(vec![bench.event(1, "7:1-3"), shadow], 0, 5);
        assert_eq!(bench.store.record(usual, now).await.unwrap().1, [id(1)]);
        let repeated = step(vec![bench.event(3, "7:1-3"), bench.event(4, "7:6-7")], 5, 7);
        assert_eq!(bench.store.record(repeated, now).await.unwrap().1, [id(4)]);
        let mut edited = bench.event(5, "7:8-9");
        edited.trigger_version = Some(0);
        let beside_edited = beside(vec![edited, bench.event(6, "7:8-10")], 7, 10);
        assert_eq!(bench.store.record(beside_edited, now).await.unwrap().1, [id(6)]);
        let mut deleted = bench.event(7, "7:11-12");
        deleted.event.webhook_id = WebhookId(Uuid::from_u128(9));
        let beside_deleted = beside(vec![deleted, bench.event(8, "7:11-13")], 10, 13);
        assert_eq!(bench.store.record(beside_deleted, now).await.unwrap().1, [id(8)]);
        let from = if sqlite { 7 } else { 13 };
        let without_trigger = step(vec![Fired { trigger_version: None, ..bench.event(9, "7:14-15") }], from, 15);
        assert_eq!(bench.store.record(without_trigger, now).await.unwrap().1, [id(9)]);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 15);
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 5);
        bench.store.close().await;
    }

    /// What a step that has a watermark relies on.
    async fn whatever_changes_who_is_watched_has_steps_that_did_not_see_it_refused(database: Database) {
        let app = TestApp::start(database).await;
        let gone = Endpoint::http([Behaviour::status(410)]).await;
        app.site().await;
        app.store.operator_watermark("here", 3).await.unwrap();
        let webhook = app.webhook(&gone.url(), json!([{"type": "goal_completion"}])).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
        let trigger = format!("{path}/triggers/{}", text(&webhook["triggers"][0]["id"]));
        let mut seen = Vec::new();
        let mut after = async |what: &str| {
            let catalog_version = app.store.catalog_version().await.unwrap();
            assert!(seen.iter().all(|before| *before < catalog_version), "{what}");
            for catalog_version in &seen {
                let watermark =
                    Watermark { source: "here".to_owned(), from: 3, to: 9, catalog_version: *catalog_version };
                let step = Step { watermark: Some(watermark), ..Step::default() };
                let refused = app.store.record(step, app.now()).await;
                assert!(matches!(refused, Err(StoreError::Overtaken)), "{what}: {refused:?}");
            }
            seen.push(catalog_version);
        };
        after("a webhook is made").await;
        let spike = json!({"type": "visitor_spike", "baseline": "fixed", "min_visitors": 5});
        app.post(&format!("{path}/triggers"), spike.clone()).await.expect(201);
        after("a trigger is made").await;
        app.patch(&trigger, json!({"type": "goal_completion", "batch": "10m"})).await.expect(200);
        after("a trigger is edited").await;
        app.delete(&trigger).await.expect(204);
        after("a trigger is deleted").await;
        app.patch(&path, json!({"triggers": [spike]})).await.expect(200);
        after("triggers are edited with their webhook").await;
        app.patch(&path, json!({"active": false})).await.expect(200);
        after("a webhook is paused").await;
        app.patch(&path, json!({"active": true})).await.expect(200);
        after("a webhook goes on").await;
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.drain().await;
        assert_eq!(app.get(&path).await.expect(200)["webhook"]["status"], "disabled");
        after("a webhook is disabled").await;
        app.patch(&path, json!({"active": true})).await.expect(200);
        after("a webhook is enabled").await;
        app.store.suspend_account(&app.change(app.account_id), true).await.unwrap();
        after("an account is suspended").await;
        app.store.suspend_account(&app.change(app.account_id), false).await.unwrap();
        after("an account goes on").await;
        app.delete(&path).await.expect(204);
        after("a webhook is deleted").await;
        app.delete(&format!("/api/sites/{SITE}")).await.expect(204);
        after("a site is deleted").await;
        app.stop().await;
    }

    async fn a_moment_is_recorded_once(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        let step = |fired| Step { fired, ..Step::default() };
        let first = step(vec![bench.event(1, "rise:1")]);
        assert_eq!(bench.store.record(first, now).await.unwrap().1, [EventId(Uuid::from_u128(1))]);
        let again = step(vec![bench.event(2, "rise:1")]);
        assert_eq!(bench.store.record(again, now).await.unwrap().1, []);
        // What is new beside it is owed, what is new and only looked at is not.
        let mut shadow = bench.event(5, "rise:3");
        shadow.shadow = true;
        let mixed = step(vec![bench.event(3, "rise:1"), bench.event(4, "rise:2"), shadow]);
        assert_eq!(bench.store.record(mixed, now).await.unwrap().1, [EventId(Uuid::from_u128(4))]);
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 2);
        bench.store.close().await;
    }

    async fn a_step_is_all_or_nothing(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        let mut fired = bench.event(1, "rise:1");
        let trigger_id = fired.event.trigger_id.unwrap();
        // Somebody else moved the trigger's memory on: the whole step is void.
        fired.state = Some(StateChange {
            trigger_id,
            account_id: bench.account_id,
            fired_before: 0,
            fired: 1,
            state: "{}".to_owned(),
        });
        let moved =
            StateChange { trigger_id, account_id: bench.account_id, fired_before: 0, fired: 7, state: "{}".to_owned() };
        let other = Step { states: vec![moved], ..Step::default() };
        bench.store.record(other, now).await.unwrap();
        bench.store.operator_watermark("here", 0).await.unwrap();
        let catalog_version = bench.store.catalog_version().await.unwrap();
        let watermark = Some(Watermark { source: "here".to_owned(), from: 0, to: 99, catalog_version });
        let step = Step { fired: vec![fired], watermark, ..Step::default() };
        let refused = bench.store.record(step, now).await;
        assert!(matches!(refused, Err(StoreError::Overtaken)), "{refused:?}");
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 0);
        bench.store.close().await;
    }

    async fn an_event_of_an_edited_trigger_or_a_paused_webhook_is_not_owed(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        let mut stale = bench.event(1, "rise:1");
        stale.trigger_version = Some(0);
        let owed = bench.store.record(Step { fired: vec![stale], ..Step::default() }, now).await.unwrap();
        assert_eq!(owed.1, []);
        let database = bench.database;
        bench.store.close().await;
        let app = TestApp::start(database).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&bench.webhook["id"]));
        app.patch(&path, json!({"active": false})).await.expect(200);
        let database = app.stop().await;
        let bench = Bench { store: Store::open(&database.url).await.unwrap(), database, ..bench };
        let step = Step { fired: vec![bench.event(2, "rise:2")], ..Step::default() };
        assert_eq!(bench.store.record(step, now).await.unwrap().1, []);
        bench.store.close().await;
    }

    async fn a_result_under_a_lost_lease_changes_nothing(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let now = bench.site.inserted_at;
        let fired = bench.event(1, "rise:1");
        let webhook_id = fired.event.webhook_id;
        bench.store.record(Step { fired: vec![fired], ..Step::default() }, now).await.unwrap();
        // The node pauses; another takes over.
        bench.store.release_shards(FIRST).await.unwrap();
        let newer = bench.mine(&bench.claim(SECOND).await);
        assert!(newer.epoch > lease.epoch);
        let over = Standing::Over { ended: Ended::Success, reason: None };
        let late = vec![settled(lease, EventId(Uuid::from_u128(1)), bench.account_id, webhook_id, over.clone())];
        let refused = bench.store.settle(FIRST, &[lease], &late.into(), now).await;
        assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 1);
        let on_time = vec![settled(newer, EventId(Uuid::from_u128(1)), bench.account_id, webhook_id, over)].into();
        bench.store.settle(SECOND, &[newer], &on_time, now).await.unwrap();
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
        assert_eq!(bench.store.recorded_attempts(&on_time).await.unwrap(), [(EventId(Uuid::from_u128(1)), 1)]);
        bench.store.close().await;
    }

    async fn of_each_lane_the_oldest_due_are_read(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let (webhook_id, now) = bench.owe(4).await;
        let after = |secs| now + Duration::from_secs(secs);
        // The later ones are to be tried again before the first.
        let again = |number, secs| {
            let standing = Standing::Again { attempt: 1, other_attempts: 0, due_at: after(secs) };
            settled(lease, EventId(Uuid::from_u128(number)), bench.account_id, webhook_id, standing)
        };
        let outcomes = vec![again(1, 30), again(2, 20), again(3, 10)].into();
        bench.store.settle(FIRST, &[lease], &outcomes, now).await.unwrap();

        let rest = |lane, after| Rest { shard: lease.shard, account_id: bench.account_id, webhook_id, lane, after };
        let read = async |lanes, limit, secs| {
            let due = bench.store.due(&Wanted { lanes, limit }, after(secs)).await.unwrap();
            due.into_iter().map(|due| (due.lane, due.event_id.0.as_u128())).collect::<Vec<_>>()
        };
        let (first, retries) = (rest(Lane::First, Position::START), rest(Lane::Retry, Position::START));
        assert_eq!(read(vec![retries, first], 8, 9).await, [(Lane::First, 4)]);
        let both = [(Lane::First, 4), (Lane::Retry, 3), (Lane::Retry, 2)];
        assert_eq!(read(vec![retries, first], 2, 30).await, both, "so many of each");
        let read_before = Position { due_at: after(20), event_id: EventId(Uuid::from_u128(2)) };
        assert_eq!(read(vec![rest(Lane::Retry, read_before)], 8, 30).await, [(Lane::Retry, 1)]);
        assert_eq!(read(vec![rest(Lane::Resend, Position::START)], 8, 30).await, []);
        // What waits. SQLite does not ask what is known: its rows go when they are deleted.
        let ours = |lanes| Fronts { shard: lease.shard, webhook_id, lanes };
        let (before, behind) = (WebhookId(Uuid::from_u128(1)), WebhookId(Uuid::from_u128(u128::MAX - 1)));
        let another = |webhook_id| Fronts { webhook_id, ..ours([now; 3]) };
        let waiting = async |known: Option<(&[Fronts], Timestamp)>| {
            let known = known.map(|(webhooks, elsewhere)| Known { webhooks: webhooks.to_vec(), elsewhere });
            let waiting = bench.store.waiting(&Look { known, ..Look::default() }).await.unwrap();
            let waiting = waiting.iter().map(|lane| (lane.lane, lane.event_id.0.as_u128()));
            waiting.collect::<Vec<_>>()
        };
        let all = [(Lane::First, 4), (Lane::Retry, 3)];
        let or_all = |found: &[(Lane, u128)]| if bench.store.is_sqlite() { all.to_vec() } else { found.to_vec() };
        assert_eq!(waiting(None).await, all);
        let patiently = bench.store.waiting(&Look { patiently: true, ..Look::default() }).await.unwrap();
        assert_eq!(patiently.iter().map(|lane| lane.lane).collect::<Vec<_>>(), [Lane::First, Lane::Retry]);
        assert_eq!(waiting(Some((&[], now))).await, all);
        assert_eq!(waiting(Some((&[], after(11)))).await, or_all(&[(Lane::Retry, 2)]));
        assert_eq!(waiting(Some((&[], after(31)))).await, or_all(&[]));
        assert_eq!(waiting(Some((&[ours([now; 3])], after(31)))).await, all);
        let later = ours([now, after(11), now]);
        let first_and_later = or_all(&[(Lane::First, 4), (Lane::Retry, 2)]);
        assert_eq!(waiting(Some((&[later], after(31)))).await, first_and_later);
        assert_eq!(waiting(Some((&[ours([after(1), after(31), now])], now))).await, or_all(&[]));
        assert_eq!(waiting(Some((&[another(before), another(behind)], now))).await, all, "it is between them");
        assert_eq!(waiting(Some((&[another(before)], now))).await, all);
        assert_eq!(waiting(Some((&[another(behind)], now))).await, all);
        assert_eq!(waiting(Some((&[another(before), later, another(behind)], now))).await, first_and_later);
        bench.store.close().await;
    }

    async fn what_became_of_those_that_are_not_owed_is_not_kept(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let (webhook_id, now) = bench.owe(4).await;
        let settle = async |outcomes: Vec<(u128, i32, Standing)>| {
            let outcomes = outcomes.into_iter().map(|(event, number, standing)| {
                let event_id = EventId(Uuid::from_u128(event));
                let mut settled = settled(lease, event_id, bench.account_id, webhook_id, standing);
                settled.attempt.number = number;
                settled
            });
            let outcomes = Arc::new(outcomes.collect());
            bench.store.settle(FIRST, &[lease], &outcomes, now).await.unwrap();
            let recorded = bench.store.recorded_attempts(&outcomes).await.unwrap();
            recorded.into_iter().map(|(event_id, number)| (event_id.0.as_u128(), number)).collect::<Vec<_>>()
        };
        let over = || Standing::Over { ended: Ended::Success, reason: None };
        let again = |attempt| Standing::Again { attempt, other_attempts: 0, due_at: now };
        assert_eq!(settle(vec![(1, 1, over()), (2, 1, again(1))]).await, [(1, 1), (2, 1)]);
        // The first is over, whoever else answers for it; the others beside it are as ever.
        let beside = vec![(1, 2, over()), (2, 2, again(2)), (3, 1, over())];
        assert_eq!(settle(beside).await, [(2, 2), (3, 1)]);
        assert_eq!(settle(vec![(1, 3, again(3)), (3, 2, over())]).await, []);
        let lanes = [Lane::First, Lane::Retry].map(|lane| {
            let (shard, account_id) = (lease.shard, bench.account_id);
            Rest { shard, account_id, webhook_id, lane, after: Position::START }
        });
        let left = bench.store.due(&Wanted { lanes: lanes.to_vec(), limit: 8 }, now).await.unwrap();
        let left: Vec<_> = left.iter().map(|due| (due.event_id.0.as_u128(), due.attempt)).collect();
        assert_eq!(left, [(2, 2), (4, 0)]);
        bench.store.close().await;
    }

    /// As two nodes would that take each other for dead.
    async fn of_two_that_record_the_same_moments_at_once_each_is_there_once(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        let other = Store::open(&bench.database.url).await.unwrap();
        // One begins with the moment the other ends with, so that each may hold what the other waits for.
        let moments: Vec<_> = (0..300).map(|moment| format!("rise:{moment}")).collect();
        let there = moments.iter().enumerate().map(|(index, moment)| bench.event(1_000 + index as u128, moment));
        let back = moments.iter().rev().enumerate().map(|(index, moment)| bench.event(2_000 + index as u128, moment));
        let there = Step { fired: there.collect(), ..Step::default() };
        let back = Step { fired: back.collect(), ..Step::default() };
        // Whoever is refused because of the other decides again.
        let insist = async |store: &Store, step: &Step| loop {
            if let Ok((_, owed)) = store.record(step.clone(), now).await {
                break owed.len();
            }
        };
        let (ours, theirs) = tokio::join!(insist(&bench.store, &there), insist(&other, &back));
        assert_eq!(ours + theirs, moments.len());
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 300);
        other.close().await;
        bench.store.close().await;
    }

    /// More than a statement takes at once, and more than PostgreSQL sorts in memory.
    async fn much_at_once_is_recorded_read_and_settled(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let payload = |number: u128| {
            let length = if number.is_multiple_of(50) { 200_000 } else { 600 };
            number.to_be_bytes().into_iter().cycle().take(length).collect::<Vec<_>>()
        };
        let fired = |number: u128| {
            let mut fired = bench.event(number, &format!("rise:{number}"));
            fired.event.payload = payload(number);
            fired
        };
        let fired: Vec<_> = (1..=2_000).map(fired).collect();
        let (webhook_id, now) = (fired[0].event.webhook_id, fired[0].event.inserted_at);
        assert_eq!(bench.store.record(Step { fired, ..Step::default() }, now).await.unwrap().1.len(), 2_000);

        let read = async |lane| {
            let (shard, account_id) = (lease.shard, bench.account_id);
            let rest = Rest { shard, account_id, webhook_id, lane, after: Position::START };
            bench.store.due(&Wanted { lanes: vec![rest], limit: 3_000 }, now).await.unwrap()
        };
        let first = read(Lane::First).await;
        assert_eq!(first.len(), 2_000);
        assert!(first.iter().all(|due| due.payload == payload(due.event_id.0.as_u128())));
        // Every other one is to be tried again.
        let outcomes = first.iter().map(|due| {
            let standing = if due.event_id.0.as_u128().is_multiple_of(2) {
                Standing::Over { ended: Ended::Success, reason: None }
            } else {
                Standing::Again { attempt: 1, other_attempts: 0, due_at: now }
            };
            settled(lease, due.event_id, bench.account_id, webhook_id, standing)
        });
        let outcomes = Arc::new(outcomes.collect());
        bench.store.settle(FIRST, &[lease], &outcomes, now).await.unwrap();
        assert_eq!(bench.store.recorded_attempts(&outcomes).await.unwrap().len(), 2_000);
        assert_eq!(read(Lane::First).await, []);
        let again = read(Lane::Retry).await;
        assert_eq!(again.len(), 1_000);
        assert!(again.iter().all(|due| due.attempt == 1 && !due.event_id.0.as_u128().is_multiple_of(2)));
        bench.store.close().await;
    }

    async fn every_shard_has_one_owner(database: Database) {
        let bench = Bench::new(database).await;
        assert_eq!(bench.claim(FIRST).await.len(), usize::try_from(SHARDS).unwrap());
        if !bench.store.is_sqlite() {
            assert_eq!(bench.claim(SECOND).await, [], "a lease that runs is respected");
        }
        bench.store.release_shards(FIRST).await.unwrap();
        assert_eq!(bench.claim(SECOND).await.len(), usize::try_from(SHARDS).unwrap());
        assert_eq!(bench.store.held_shards(FIRST).await.unwrap(), []);
        assert_eq!(bench.store.renew_shards(SECOND).await.unwrap().len(), usize::try_from(SHARDS).unwrap());
        bench.store.close().await;
    }
});

/// What is recorded and what attempts tell of an endpoint are both many a second, so neither waits for the other; whoever
/// decides that nothing is owed any more waits for those who record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorders_wait_for_edits_and_not_for_outcomes() {
    crate::support::in_time(Box::pin(async {
        let endpoint = Endpoint::http([Behaviour::status(500), Behaviour::status(410)]).await;
        let app = TestApp::start(Database::postgres().await).await;
        app.site().await;
        let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
        let id: WebhookId = text(&webhook["id"]).parse().unwrap();
        let mut somebody = sqlx::PgConnection::connect(&app.database.url).await.unwrap();
        let mut watch = sqlx::PgConnection::connect(&app.database.url).await.unwrap();

        const OUTCOME: &str = "UPDATE webhooks SET failed_at = failed_at WHERE id = $1";
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query(OUTCOME).bind(id).execute(&mut *tx).await.unwrap();
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        tx.commit().await.unwrap();

        const RECORD: &str = "SELECT 1 FROM webhooks WHERE id = $1 FOR KEY SHARE";
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query(RECORD).bind(id).execute(&mut *tx).await.unwrap();
        app.drain().await;
        assert_eq!(app.get(&path).await.expect(200)["webhook"]["status"], "failing");
        let pause = app.patch(&path, json!({"active": false}));
        let release = async {
            until_somebody_waits(&mut watch).await;
            tx.commit().await.unwrap();
        };
        let (paused, ()) = tokio::join!(pause, release);
        paused.expect(200);

        app.patch(&path, json!({"active": true})).await.expect(200);
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query(RECORD).bind(id).execute(&mut *tx).await.unwrap();
        let release = async {
            until_somebody_waits(&mut watch).await;
            tx.commit().await.unwrap();
        };
        tokio::join!(app.drain(), release);
        assert_eq!(app.get(&path).await.expect(200)["webhook"]["status"], "disabled");
        app.stop().await;
    }))
    .await;
}

/// A pause is a barrier: what is recorded after it goes by it, though it was decided before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_waits_for_a_pause_owes_nothing_of_it() {
    let pause = ["SELECT 1 FROM webhooks FOR UPDATE", "UPDATE webhooks SET active = FALSE"];
    crate::support::in_time(Box::pin(nothing_is_owed_after(&pause))).await;
}

/// An account that ends takes along what was decided for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_waits_for_the_end_of_an_account_owes_nothing_of_it() {
    crate::support::in_time(Box::pin(nothing_is_owed_after(&["DELETE FROM accounts"]))).await;
}

/// Somebody does this and has not committed when a step comes, which waits for it.
async fn nothing_is_owed_after(statements: &[&'static str]) {
    let bench = Bench::new(Database::postgres().await).await;
    let now = bench.site.inserted_at;
    bench.store.operator_watermark("here", 0).await.unwrap();
    let catalog_version = bench.store.catalog_version().await.unwrap();
    let watermark = Some(Watermark { source: "here".to_owned(), from: 0, to: 9, catalog_version });
    let step = Step { fired: vec![bench.event(1, "7:4-9")], watermark, ..Step::default() };
    let mut somebody = sqlx::PgConnection::connect(&bench.database.url).await.unwrap();
    let mut watch = sqlx::PgConnection::connect(&bench.database.url).await.unwrap();

    let mut tx = somebody.begin().await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&mut *tx).await.unwrap();
    }
    let release = async {
        until_somebody_waits(&mut watch).await;
        tx.commit().await.unwrap();
    };
    let (owed, ()) = tokio::join!(bench.store.record(step, now), release);
    assert_eq!(owed.unwrap().1, []);
    assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 9);
    assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
    let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&mut watch).await.unwrap();
    assert_eq!(recorded, 0);
    bench.store.close().await;
}

/// A day that is dropped locks what steps, reads and outcomes need; they wait for each other and nobody is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_and_outcomes_go_on_while_days_are_dropped() {
    const DAYS: u64 = 12;
    crate::support::in_time(Box::pin(async {
        let bench = Bench::new(Database::postgres().await).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let now = bench.event(1, "rise:0").event.inserted_at;
        bench.store.operator_drop_days(now + Duration::from_secs(365 * 86_400)).await.unwrap();
        let old = now - Duration::from_secs(40 * 86_400);
        for day in 0..DAYS {
            bench
                .store
                .operator_make_days(old + Duration::from_secs(86_400) * u32::try_from(day).unwrap())
                .await
                .unwrap();
        }
        bench.store.operator_make_days(now).await.unwrap();
        let newest = first_id_of(now).0.as_u128();
        let work = async {
            for number in 0..100 {
                let fired = vec![bench.event(newest + number, &format!("rise:{number}"))];
                let (event_id, webhook_id) = (fired[0].event.id, fired[0].event.webhook_id);
                assert_eq!(bench.store.record(Step { fired, ..Step::default() }, now).await.unwrap().1, [event_id]);
                let rest = Rest {
                    shard: lease.shard,
                    account_id: bench.account_id,
                    webhook_id,
                    lane: Lane::First,
                    after: Position::START,
                };
                let due = bench.store.due(&Wanted { lanes: vec![rest], limit: 8 }, now).await.unwrap();
                assert_eq!(due.len(), 1);
                let over = Standing::Over { ended: Ended::Success, reason: None };
                let outcome = vec![settled(lease, event_id, bench.account_id, webhook_id, over)].into();
                bench.store.settle(FIRST, &[lease], &outcome, now).await.unwrap();
            }
        };
        let drop = bench.store.operator_drop_days(now - Duration::from_secs(10 * 86_400));
        let ((), dropped) = tokio::join!(work, drop);
        assert!(dropped.unwrap() >= DAYS);
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
        bench.store.close().await;
    }))
    .await;
}

pub async fn until_somebody_waits(watch: &mut sqlx::PgConnection) {
    until_so_many_wait(1, watch).await;
}

pub async fn until_so_many_wait(count: i64, watch: &mut sqlx::PgConnection) {
    const WAITING: &str = "
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut *watch).await.unwrap() < count {
        tokio::task::yield_now().await;
    }
}
