//! The store does the same on both databases, and nothing in it was never run.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use pulsehook::domain::access::Role;
use pulsehook::domain::event::{Addressee, Data, Event};
use pulsehook::domain::goal::{Goal, GoalKind};
use pulsehook::domain::ids::{AccountId, EventId, GoalId, InvitationId, NodeId, SiteId, WebhookId};
use pulsehook::domain::mirror::{Changes, Owner, SiteThere, Truth};
use pulsehook::domain::settle::Ended;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::leases::TTL;
use pulsehook::store::accounts::Founding;
use pulsehook::store::backup::{align, copy_file};
use pulsehook::store::facts::SETUP_TOKEN;
use pulsehook::store::health::Told;
use pulsehook::store::idempotency::Repeated;
use pulsehook::store::invitations::{Invitation, Invited, Newcomer};
use pulsehook::store::observations::{Gap, Looked, Reported};
use pulsehook::store::outbox::{Fired, StateChange, Step, Watermark};
use pulsehook::store::outcomes::{AttemptRow, Life, Settled, Standing};
use pulsehook::store::people::Changed;
use pulsehook::store::queue::{Lane, Position, Rest, Wanted};
use pulsehook::store::sealed::{SealedAnswer, SealedWebhook};
use pulsehook::store::sessions::NewSession;
use pulsehook::store::shards::{Lease, SHARDS, shard_of};
use pulsehook::store::sites::Site;
use pulsehook::store::{Store, StoreError};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use uuid::Uuid;

use crate::plans;
use crate::support::Database;
use crate::support::app::{SITE, TestApp, text};
use crate::support::events::Listener;
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

/// Statements that ran in this process, with white space made plain, by database.
static EXECUTED: LazyLock<Mutex<HashSet<(Kind, String)>>> = LazyLock::new(|| {
    let filter = tracing_subscriber::filter::Targets::new().with_target("sqlx::query", tracing::Level::TRACE);
    let subscriber = tracing_subscriber::registry().with(tracing_subscriber::Layer::with_filter(Recorder, filter));
    tracing::subscriber::set_global_default(subscriber).expect("nobody else records here");
    Mutex::default()
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Sqlite,
    Postgres,
}

struct Recorder;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Statement(String);
        impl tracing::field::Visit for Statement {
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}

            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if matches!(field.name(), "db.statement" | "summary") && value.len() > self.0.len() {
                    self.0 = plain(value);
                }
            }
        }
        let mut statement = Statement(String::new());
        event.record(&mut statement);
        // SQLite runs on threads of its own.
        let sqlite = std::thread::current().name().is_some_and(|name| name.starts_with("sqlx-sqlite"));
        let kind = if sqlite { Kind::Sqlite } else { Kind::Postgres };
        EXECUTED.lock().unwrap().insert((kind, statement.0));
    }
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every text constant of the store that is a statement, with the parts it is made of and the databases it is for.
fn statements() -> Vec<(String, Vec<String>, Vec<Kind>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let constant = regex::Regex::new(r#"(?s)const (\w+): &str =\s*(\w+!\()?\s*(".*?")\s*\)?;"#).unwrap();
    let literal = regex::Regex::new(r#"(?s)"(.*?)""#).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        for capture in constant.captures_iter(&source) {
            let parts: Vec<_> = literal.captures_iter(&capture[3]).map(|part| plain(&part[1])).collect();
            if !["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].iter().any(|verb| parts[0].starts_with(verb)) {
                continue;
            }
            let kinds = match &capture[1] {
                name if name.ends_with("SQLITE") => vec![Kind::Sqlite],
                name if name.ends_with("POSTGRES") => vec![Kind::Postgres],
                _ => vec![Kind::Sqlite, Kind::Postgres],
            };
            let name = format!("{}: {}", path.file_name().unwrap().display(), &capture[1]);
            found.push((name, parts, kinds));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_runs_on_both_databases() {
    LazyLock::force(&EXECUTED);
    let databases = crate::support::in_time(async {
        let sqlite = Box::pin(use_everything(Database::sqlite())).await;
        (sqlite, Box::pin(use_everything(Database::postgres().await)).await)
    })
    .await;
    let executed = EXECUTED.lock().unwrap().clone();
    let statements = statements();
    assert!(statements.len() > 60, "only {} statements were found; has their spelling changed?", statements.len());
    let mut missing = Vec::new();
    for (name, parts, kinds) in statements {
        for kind in kinds {
            let ran = executed.iter().any(|(on, text)| *on == kind && parts.iter().all(|part| text.contains(part)));
            if !ran {
                missing.push(format!("{name} on {kind:?}"));
            }
        }
    }
    assert!(missing.is_empty(), "never ran: {missing:#?}");
    let mut astray = plans::astray_on_sqlite(&databases.0, of(&executed, Kind::Sqlite)).await;
    astray.extend(plans::astray_on_postgres(&databases.1, of(&executed, Kind::Postgres)).await);
    assert!(astray.is_empty(), "read more than they need: {astray:#?}");
}

fn of(executed: &HashSet<(Kind, String)>, kind: Kind) -> BTreeSet<String> {
    executed.iter().filter(|(on, _)| *on == kind).map(|(_, text)| text.clone()).collect()
}

/// Everything somebody can do, and what the engine does by itself.
async fn use_everything(database: Database) -> Database {
    let endpoint = Endpoint::http([500, 200, 410, 200].map(Behaviour::status)).await;
    let app = TestApp::start(database).await;
    let site = app.site().await;
    let goal = app.goal(json!({"event_name": "Signup"})).await;
    app.get("/api/sites").await.expect(200);
    app.get(&format!("/api/sites/{}", text(&site["id"]))).await.expect(200);
    app.get(&format!("/api/sites/{SITE}/goals")).await.expect(200);
    let spike = json!({"type": "visitor_spike", "min_visitors": 1, "baseline": "fixed"});
    let typical = json!({"type": "visitor_spike"});
    let webhook = app.webhook(&endpoint.url(), json!([spike, typical, {"type": "goal_completion"}])).await;
    let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
    // It begins to fail, gets well, and is gone for good until somebody enables it again.
    app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    app.advance(Duration::from_secs(10));
    app.drain().await;
    app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    app.patch(&path, json!({"active": true})).await.expect(200);
    // An hour of history is what a profile needs at least.
    for _ in 0..70 {
        app.visit(1, "/").await;
        app.advance(Duration::from_secs(60));
    }
    app.convert(2, "Signup").await;
    app.drain().await;
    let triggers = app.get(&path).await.expect(200)["webhook"]["triggers"].clone();
    app.patch(&path, json!({"triggers": [triggers[0], {"type": "goal_completion", "goal_id": goal["id"]}]}))
        .await
        .expect(200);
    let trigger = app.post(&format!("{path}/triggers"), json!({"type": "goal_completion"})).await.expect(201);
    let trigger_path = format!("{path}/triggers/{}", text(&trigger["trigger"]["id"]));
    app.patch(&trigger_path, json!({"shadow": true})).await.expect(200);
    app.delete(&trigger_path).await.expect(204);
    let mut edited = app.get(&path).await.expect(200)["webhook"]["triggers"].clone();
    edited[0]["shadow"] = json!(true);
    app.patch(&path, json!({"triggers": edited})).await.expect(200);
    app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    let deliveries = app.get(&format!("{path}/deliveries")).await.expect(200)["deliveries"].clone();
    let delivery = format!("{path}/deliveries/{}", text(&deliveries[0]["id"]));
    app.get(&delivery).await.expect(200);
    app.post(&format!("{delivery}/resend"), json!({})).await.expect(202);
    // Somebody watches, and comes back.
    let mut listener = Listener::start(&app).await;
    let watched = app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    app.api.streams.look(&app.api).await;
    listener.until("delivery", "id", text(&watched["delivery"]["id"])).await;
    let mut listener = Listener::resume(&app, listener.last_id.unwrap()).await;
    listener.until("delivery", "id", text(&watched["delivery"]["id"])).await;
    drop(listener);
    let range = json!({"status": "success", "to": app.now().to_string()});
    let started = app.post(&format!("{path}/resend"), range).await.expect(202);
    let resend = format!("{path}/resends/{}", text(&started["resend"]["id"]));
    app.patch(&resend, json!({"status": "paused"})).await.expect(409);
    app.get(&resend).await.expect(200);
    app.get(&format!("{path}/resends")).await.expect(200);
    app.drain().await;
    app.patch(&path, json!({"url": "inbox:"})).await.expect(200);
    app.post(&format!("{path}/test"), json!({})).await.expect(202);
    app.drain().await;
    app.get(&format!("{path}/inbox")).await.expect(200);
    assert!(app.store.operator_prune_inbox(app.now() + Duration::from_secs(60)).await.unwrap() > 0);
    app.get(&format!("/api/sites/{SITE}/deliveries")).await.expect(200);
    app.get("/api/operation").await.expect(200);
    app.get("/api/members").await.expect(200);
    app.get("/api/audit").await.expect(200);
    let key = app.post("/api/keys", json!({"name": "x", "role": "viewer"})).await.expect(201);
    app.get("/api/keys").await.expect(200);
    app.delete(&format!("/api/keys/{}", text(&key["api_key"]["id"]))).await.expect(204);
    app.get("/api/me").await.expect(200);
    trouble(&app).await;
    conditions(&app, &goal).await;
    people(&app).await;
    another_directory(&app).await;
    repeats(&app).await;
    sealed(&app).await;
    repeated_moment(&app, &webhook).await;
    bookkeeping(&app).await;
    observations(&app).await;
    app.patch(&format!("/api/sites/{SITE}"), json!({"timezone": "Asia/Tokyo"})).await.expect(200);
    app.delete(&format!("/api/sites/{SITE}/goals/{}", text(&goal["id"]))).await.expect(204);
    app.delete(&path).await.expect(204);
    app.delete(&format!("/api/sites/{SITE}")).await.expect(204);
    while app.store.operator_remove_deleted(10).await.unwrap() > 0 {}
    let later = app.now() + Duration::from_secs(10 * 86_400);
    app.store.operator_prune_resends(later).await.unwrap();
    app.store.operator_drop_days(later).await.unwrap();
    app.store.operator_make_days(later).await.unwrap();
    if app.store.is_sqlite() {
        let folder = app.database.folder.path();
        let [traffic, queue] = ["traffic.copy", "queue.copy"].map(|name| folder.join(name));
        copy_file(&folder.join("analytics.db"), &traffic).await.unwrap();
        copy_file(&folder.join("pulsehook.db"), &queue).await.unwrap();
        align(&traffic, &queue).await.unwrap();
    }
    app.stop().await
}

/// What no single hit shows.
async fn conditions(app: &TestApp, goal: &serde_json::Value) {
    let endpoint = Endpoint::http([Behaviour::status(200)]).await;
    let triggers = json!([
        {"type": "no_data"}, {"type": "error_condition"}, {"type": "goal_stalled", "goal_id": goal["id"]},
        {"type": "milestone", "metric": "visitors", "step": 1}, {"type": "milestone", "metric": "conversions", "step": 1},
    ]);
    let webhook = app.webhook(&endpoint.url(), triggers).await;
    app.visit(77, "/").await;
    app.drain().await;
    let gathers = json!([
        {"type": "goal_completion", "batch": 2}, {"type": "goal_completion", "batch": 2, "shadow": true},
        {"type": "visitor_spike", "page": "/a*"}, {"type": "visitor_spike", "page": "/a", "baseline": "fixed", "min_visitors": 1},
    ]);
    let gathering = app.webhook(&endpoint.url(), gathers).await;
    for visitor in 78..81 {
        app.convert(visitor, "Signup").await;
        app.visit(visitor, "/a").await;
        app.drain().await;
    }
    assert_eq!(app.store.operator_batches().await.unwrap().len(), 2);
    app.delete(&format!("/api/sites/{SITE}/webhooks/{}", text(&gathering["id"]))).await.expect(204);
    assert_eq!(app.store.operator_prune_gathered().await.unwrap(), 2);
    app.analytics.quarters_of_all(app.now() - Duration::from_secs(86_400), app.now()).await.unwrap();
    app.delete(&format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]))).await.expect(204);
}

/// An endpoint that fails until its breaker opens.
async fn trouble(app: &TestApp) {
    let endpoint = Endpoint::http([Behaviour::status(500)]).await;
    let webhook = app.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
    let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
    for _ in 0..12 {
        app.post(&format!("{path}/test"), json!({})).await.expect(202);
    }
    app.drain().await;
    assert!(app.get(&path).await.expect(200)["webhook"]["left_alone_until"].is_string());
    let ailing = app.store.operator_ailing(9).await.unwrap().remove(0);
    assert!(app.store.operator_health_listeners(app.account_id, ailing.webhook_id).await.unwrap().is_empty());
    let told = app.store.record_health(&ailing, Told::GivenUp, &[], app.now()).await.unwrap();
    assert_eq!(told, Some(Vec::new()));
    let again = app.store.record_health(&ailing, Told::GivenUp, &[], app.now()).await.unwrap();
    assert_eq!(again, None, "nobody is told twice");
    app.delete(&path).await.expect(204);
}

async fn people(app: &TestApp) {
    let (store, now) = (&app.store, app.now());
    let owner = Founding { account: "Second", email: "b@example.com", password_hash: "x" };
    store.set_fact(SETUP_TOKEN, "hash").await.unwrap();
    let (account_id, user_id) = store.set_up("hash", &owner, now).await.unwrap().unwrap();
    assert_eq!(store.set_up("hash", &owner, now).await.unwrap(), None);
    assert!(store.operator_is_set_up().await.unwrap());
    let again = store.found_account(&owner, now).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    assert_eq!(store.user("b@example.com").await.unwrap().unwrap().id, user_id);
    assert_eq!(store.user_by_id(user_id).await.unwrap().unwrap().email, "b@example.com");
    assert!(store.operator_users().await.unwrap().iter().any(|(id, _, accounts)| (*id, *accounts) == (user_id, 1)));
    assert_eq!(store.members(account_id).await.unwrap().len(), 1);
    assert_eq!(store.memberships(user_id).await.unwrap()[0].name, "Second");
    assert_eq!(store.account_name(account_id).await.unwrap().as_deref(), Some("Second"));
    store.rename_account(&app.change(account_id), "Renamed").await.unwrap();
    assert!(
        store
            .operator_accounts()
            .await
            .unwrap()
            .iter()
            .any(|account| account.name == "Renamed" && account.members == 1)
    );

    let until = now + Duration::from_secs(60);
    let session = |token: u8| NewSession { user_id, token_hash: [token; 32], user_agent: "Browser", expires_at: until };
    store.open_session(&app.change(account_id), session(1)).await.unwrap();
    let idle = now - Duration::from_secs(1);
    assert!(store.session(&[1; 32], now, idle).await.unwrap().unwrap().active);
    assert!(store.session(&[1; 32], until, idle).await.unwrap().is_none());
    assert!(store.session(&[1; 32], now, now).await.unwrap().is_none());
    store.touch_session(&[1; 32], until).await.unwrap();
    assert!(store.session(&[1; 32], now, now).await.unwrap().is_some());
    store.replace_session(&app.change(account_id), &[1; 32], session(2)).await.unwrap();
    assert_eq!(store.sessions_of(user_id, now, idle).await.unwrap().len(), 1);
    store.set_password(&app.change(account_id), user_id, "y", Some(&[2; 32])).await.unwrap();
    assert_eq!(store.operator_prune_sessions(until).await.unwrap(), 1);
    store.close_session(&app.change(account_id), &[2; 32]).await.unwrap();
    assert_eq!(store.close_sessions(&app.change(account_id), user_id, None).await.unwrap(), 0);

    let invitation = |id: u128, email: &str| Invitation {
        id: InvitationId(Uuid::from_u128(id)),
        account_id,
        email: email.to_owned(),
        role: Role::Viewer,
        invited_by: "user:1".to_owned(),
        expires_at: until,
        inserted_at: now,
    };
    let invite = async |invitation: &Invitation, limit| {
        store.invite(&app.change(account_id), invitation, &invitation.id.0.as_bytes()[15..], limit).await.unwrap()
    };
    assert_eq!(invite(&invitation(1, "b@example.com"), 9).await, Invited::AlreadyIn);
    assert_eq!(invite(&invitation(2, "c@example.com"), 1).await, Invited::LimitReached);
    assert_eq!(invite(&invitation(3, "c@example.com"), 2).await, Invited::Done);
    assert_eq!(invite(&invitation(4, "d@example.com"), 9).await, Invited::Done);
    assert_eq!(store.invitations(account_id, now).await.unwrap().len(), 2);
    let found = store.operator_invitation(&[3], now).await.unwrap().unwrap();
    let accepted = store.accept_invitation(&app.change(account_id), &found, Newcomer::New("z")).await.unwrap().unwrap();
    assert_eq!(
        store.accept_invitation(&app.change(account_id), &found, Newcomer::Known(accepted)).await.unwrap(),
        None
    );
    assert!(store.revoke_invitation(&app.change(account_id), InvitationId(Uuid::from_u128(4))).await.unwrap());
    assert_eq!(store.operator_prune_invitations(until).await.unwrap(), 0);
    let change = async |id, role| store.change_member(&app.change(account_id), Role::Admin, id, role).await.unwrap();
    assert_eq!(change(accepted, Role::Editor).await, Changed::Done);
    assert_eq!(change(accepted, Role::Owner).await, Changed::Above(Role::Owner));
    assert_eq!(change(user_id, Role::Viewer).await, Changed::Above(Role::Owner));
    let remove = async |id| store.remove_member(&app.change(account_id), Role::Owner, id).await.unwrap();
    assert_eq!(remove(user_id).await, Changed::LastOwner);
    assert_eq!((remove(accepted).await, remove(accepted).await), (Changed::Done, Changed::NotFound));

    store.note(&app.change(account_id), "session.refuse", "user:1").await.unwrap();
    assert!(store.suspend_account(&app.change(account_id), true).await.unwrap().is_some());
    assert_eq!(store.suspend_account(&app.change(account_id), true).await.unwrap(), None);
    assert!(store.suspend_account(&app.change(account_id), false).await.unwrap().is_some());
    assert!(!store.audit_log(account_id, None, 100).await.unwrap().is_empty());
    assert_eq!(store.operator_prune_audit(now - Duration::from_secs(86_400), 10).await.unwrap(), 0);
    store.delete_account(account_id, now).await.unwrap();
    assert_eq!(store.user("b@example.com").await.unwrap().map(|user| user.id), None);
}

/// Accounts, sites and goals that come from elsewhere, change and go.
async fn another_directory(app: &TestApp) {
    let store = &app.store;
    assert!(store.settle_directory("own").await.unwrap());
    assert!(!store.settle_directory("plausible").await.unwrap(), "it has accounts of its own");
    let node = std::fs::read_to_string(app.database.folder.path().join("node")).unwrap();
    let node = NodeId(node.trim().parse().unwrap());
    let lease = store.held_shards(node).await.unwrap()[0];
    let (id, owner) = (SiteId(9_000), Some("team:5".to_owned()));
    let team = Owner { external_id: "team:5".into(), formerly: None, name: "Team (5)".into(), suspended: false };
    let site =
        SiteThere { id, owner, domain: "there.example".into(), timezone: "Etc/UTC".into(), inserted_at: app.now() };
    let goal = Goal {
        id: GoalId(9_000),
        site_id: id,
        display_name: "Signup".into(),
        kind: GoalKind::Event { name: "Signup".into() },
        custom_props: vec![("plan".into(), "pro".into())],
        currency: None,
        inserted_at: app.now(),
    };
    let mut truth = Truth { owners: vec![team], sites: vec![site], goals: vec![goal] };
    let follow = async |truth: &Truth, lease: Lease| {
        let known = store.mirrored().await.unwrap();
        // What this directory has of its own is none of the other's.
        let mut changes = Changes::between(&known, truth);
        changes.forgotten_sites.retain(|site| site.id == id);
        changes.forgotten_goals.retain(|goal| goal.site_id == id);
        let outcome = store.mirror(node, lease, &changes, app.now(), || app.change(app.account_id).id).await;
        (changes, outcome)
    };
    let elsewhere = Lease { epoch: lease.epoch + 1, ..lease };
    assert!(matches!(follow(&truth, elsewhere).await.1, Err(StoreError::LeaseLost)));
    assert_eq!(store.operator_holder_of(id).await.unwrap(), None, "nothing of it happened");
    follow(&truth, lease).await.1.unwrap();
    assert!(follow(&truth, lease).await.0.is_empty());
    let holder = store.operator_holder_of(id).await.unwrap().unwrap();
    assert_eq!(store.operator_account_there("team:5").await.unwrap(), Some(holder));
    assert_eq!(store.operator_account_named("Team (5)").await.unwrap(), Some(holder.account_id));
    for suspended in [true, false] {
        truth.owners[0].suspended = suspended;
        truth.sites[0].domain = format!("{suspended}.example");
        truth.goals[0].display_name = format!("{suspended}");
        follow(&truth, lease).await.1.unwrap();
        assert_eq!(store.operator_holder_of(id).await.unwrap().unwrap().active, !suspended);
        assert!(follow(&truth, lease).await.0.is_empty());
    }
    let user_id = store.welcome(holder.account_id, "user:7", "ann@example.com", Role::Editor, app.now()).await.unwrap();
    let renamed = store.welcome(holder.account_id, "user:7", "new@example.com", Role::Editor, app.now()).await.unwrap();
    assert_eq!(renamed, user_id);
    let other = store.welcome(holder.account_id, "user:8", "ann@example.com", Role::Viewer, app.now()).await.unwrap();
    store.set_role(holder.account_id, other, Role::Admin, app.now()).await.unwrap();
    let names = store.names_there(holder.account_id, other).await.unwrap();
    assert_eq!(names, Some(("user:8".to_owned(), "team:5".to_owned())));
    assert_eq!(
        store.members(holder.account_id).await.unwrap().iter().map(|member| member.role).collect::<Vec<_>>(),
        [Role::Admin, Role::Editor]
    );
    store.dismiss(holder.account_id, other).await.unwrap();
    assert_eq!(store.members(holder.account_id).await.unwrap().len(), 1);
    follow(&Truth::default(), lease).await.1.unwrap();
    assert_eq!(store.operator_account_there("team:5").await.unwrap(), None);
}

async fn repeats(app: &TestApp) {
    let store = &app.store;
    let take = async |hash: &[u8]| store.take_idempotency_key(app.account_id, "k", hash, app.now()).await.unwrap();
    assert_eq!(take(b"a").await, Repeated::First);
    assert_eq!(take(b"a").await, Repeated::InProgress);
    assert_eq!(take(b"b").await, Repeated::Mismatch);
    store.remember_answer(app.account_id, "k", 201, b"sealed").await.unwrap();
    assert_eq!(take(b"a").await, Repeated::Answered { status: 201, response: b"sealed".to_vec() });
    store.forget_idempotency_key(app.account_id, "k").await.unwrap();
    assert_eq!(take(b"b").await, Repeated::First);
    assert_eq!(store.operator_prune_idempotency_keys(app.now() + Duration::from_secs(1)).await.unwrap(), 1);
}

/// What is kept of traffic that others write.
async fn observations(app: &TestApp) {
    let (now, node) = (app.now(), NodeId(Uuid::from_u128(77)));
    let condition = app.store.condition().await.unwrap();
    assert_eq!((condition.missing, condition.unknown), (0, 0));
    let shards = app.store.looked_until(node).await.unwrap();
    app.store.operator_looked_until(1).await.unwrap();
    assert!(shards.is_empty(), "nobody of that name holds any");
    let row = Reported { shard: 1, at: now, identity: 5, count: 1 };
    let looked = Looked {
        leases: Vec::new(),
        until: now,
        catalog_version: version(app).await,
        reported: vec![row],
        gaps: Vec::new(),
    };
    for count in 1..=2 {
        let looked = Looked { reported: vec![Reported { count, ..row }], ..looked.clone() };
        app.store.observe(node, &Step::default(), &looked, now).await.unwrap();
        assert_eq!(app.store.operator_reported(1, now).await.unwrap(), [Reported { count, ..row }]);
    }
    let stale = Looked { catalog_version: -1, ..looked.clone() };
    let outcome = app.store.observe(node, &Step::default(), &stale, now).await;
    assert!(matches!(outcome, Err(StoreError::Overtaken)));
    let lost = Looked { leases: vec![Lease { shard: 1, epoch: -1 }], ..looked.clone() };
    let outcome = app.store.observe(node, &Step::default(), &lost, now).await;
    assert!(matches!(outcome, Err(StoreError::LeaseLost)));
    let gap = Gap { shard: 1, from_at: now, until_at: now + TTL };
    let looked = Looked { leases: Vec::new(), gaps: vec![gap], ..looked };
    app.store.observe(node, &Step::default(), &looked, now).await.unwrap();
    assert_eq!(app.store.gaps(1).await.unwrap(), [gap]);
    let later = now + TTL * 2;
    assert_eq!(app.store.operator_forget_reported(&[1, 2], later, later).await.unwrap(), 1);
    assert_eq!(app.store.gaps(1).await.unwrap(), []);
}

/// What was noticed before is noticed again.
async fn repeated_moment(app: &TestApp, webhook: &Value) {
    let site = app.store.site(app.account_id, SITE).await.unwrap().unwrap();
    for (number, owed) in [(71, 1), (72, 0)] {
        let fired = Fired { trigger_version: None, ..event(&site, webhook, number, "again") };
        let step = Step { fired: vec![fired], ..Step::default() };
        assert_eq!(app.store.record(&step, app.now()).await.unwrap().len(), owed);
    }
    app.drain().await;
}

/// What is kept secret, sealed anew.
async fn sealed(app: &TestApp) {
    let store = &app.store;
    assert_eq!(store.operator_master_keys().await.unwrap().len(), 1);
    store.set_fact("master_keys:gone", "").await.unwrap();
    store.forget_fact("master_keys:gone").await.unwrap();
    assert_eq!(store.operator_master_keys().await.unwrap().len(), 1);
    let found = store.operator_sealed_webhooks(WebhookId(Uuid::nil()), 1).await.unwrap().remove(0);
    assert!(found.secret.is_some() && found.headers.is_none());
    let renewed = SealedWebhook { secret: Some(vec![1]), ..found.clone() };
    assert_eq!(store.operator_reseal_webhooks(&[(found.clone(), renewed.clone())]).await.unwrap(), 1);
    // It is not what it was any more.
    assert_eq!(store.operator_reseal_webhooks(&[(found.clone(), renewed.clone())]).await.unwrap(), 0);
    assert_eq!(store.operator_reseal_webhooks(&[(renewed, found)]).await.unwrap(), 1);
    let now = app.now();
    store.take_idempotency_key(app.account_id, "sealed", b"hash", now).await.unwrap();
    store.remember_answer(app.account_id, "sealed", 200, b"old").await.unwrap();
    let answers = store.operator_sealed_answers(app.account_id, "seale", 9).await.unwrap();
    let found = answers.into_iter().find(|answer| answer.key == "sealed").unwrap();
    let renewed = SealedAnswer { response: b"new".to_vec(), ..found.clone() };
    assert_eq!(store.operator_reseal_answers(&[(found.clone(), renewed.clone())]).await.unwrap(), 1);
    assert_eq!(store.operator_reseal_answers(&[(found, renewed)]).await.unwrap(), 0);
    store.forget_idempotency_key(app.account_id, "sealed").await.unwrap();
}

async fn version(app: &TestApp) -> i64 {
    app.store.catalog_version().await.unwrap()
}

async fn bookkeeping(app: &TestApp) {
    let store = &app.store;
    store.ping().await.unwrap();
    assert!(store.operator_depth().await.unwrap().deliveries >= 0);
    store.operator_give_up_old(app.now() - Duration::from_secs(40 * 86_400), 10).await.unwrap();
    store.operator_prune_events(app.now(), 10).await.unwrap();
    store.operator_remove_deleted(10).await.unwrap();
    store.operator_make_days(app.now()).await.unwrap();
    store.operator_drop_days(app.now() - Duration::from_secs(40 * 86_400)).await.unwrap();
    store.operator_forget_nodes(TTL).await.unwrap();
    store.notify(&[1, 2]).await.unwrap();
    // A trigger that was deleted meanwhile needs no memory.
    let trigger_id = "00000000-0000-0000-0000-000000000001".parse().unwrap();
    let gone =
        StateChange { trigger_id, account_id: app.account_id, fired_before: 0, fired: 1, state: "{}".to_owned() };
    store.record(&Step { states: vec![gone], ..Step::default() }, app.now()).await.unwrap();
    store
        .recorded_attempts(&[settled(
            a_lease(),
            EventId(Uuid::nil()),
            app.account_id,
            WebhookId(Uuid::nil()),
            Standing::Over { ended: Ended::Failed, reason: None },
        )])
        .await
        .unwrap();
    let node = NodeId(Uuid::from_u128(9));
    assert_eq!(store.operator_watermark("elsewhere", 7).await.unwrap(), 7);
    assert_eq!(store.held_shards(node).await.unwrap(), []);
    store.release_shard(node, a_lease()).await.unwrap();
    store.leave(node).await.unwrap();
}

fn a_lease() -> Lease {
    Lease { shard: 1, epoch: 1 }
}

fn settled(
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
fn event(site: &Site, webhook: &Value, number: u128, moment: &str) -> Fired {
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
struct Bench {
    store: Store,
    site: Site,
    webhook: Value,
    account_id: AccountId,
    database: Database,
}

impl Bench {
    async fn new(database: Database) -> Self {
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

    fn event(&self, number: u128, moment: &str) -> Fired {
        event(&self.site, &self.webhook, number, moment)
    }

    async fn claim(&self, node: NodeId) -> Vec<Lease> {
        self.store.claim_shards(node, TTL, 256).await.unwrap();
        self.store.held_shards(node).await.unwrap()
    }

    fn mine(&self, leases: &[Lease]) -> Lease {
        *leases.iter().find(|lease| lease.shard == shard_of(self.site.id)).unwrap()
    }
}

const FIRST: NodeId = NodeId(Uuid::from_u128(1));
const SECOND: NodeId = NodeId(Uuid::from_u128(2));

on_both! {
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
        assert_eq!(bench.store.record(&step(1, "7:4-9", 9), now).await.unwrap().len(), 1);
        // It had seen one hit less, so its moment has another name.
        let refused = bench.store.record(&step(2, "7:4-8", 8), now).await;
        assert!(matches!(refused, Err(StoreError::Overtaken)), "{refused:?}");
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 1);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 9);
        // Nor does it move for one that looked with a configuration that is not the one any more.
        let watermark = Watermark { source: "here".to_owned(), from: 9, to: 12, catalog_version: catalog_version - 1 };
        let refused = bench.store.record(&Step { watermark: Some(watermark), ..Step::default() }, now).await;
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
        let id = |number| EventId(Uuid::from_u128(number));
        let mut shadow = bench.event(2, "7:4-5");
        shadow.shadow = true;
        let usual = step(vec![bench.event(1, "7:1-3"), shadow], 0, 5);
        assert_eq!(bench.store.record(&usual, now).await.unwrap(), [id(1)]);
        let repeated = step(vec![bench.event(3, "7:1-3"), bench.event(4, "7:6-7")], 5, 7);
        assert_eq!(bench.store.record(&repeated, now).await.unwrap(), [id(4)]);
        let mut edited = bench.event(5, "7:8-9");
        edited.trigger_version = Some(0);
        let beside_edited = step(vec![edited, bench.event(6, "7:8-10")], 7, 10);
        assert_eq!(bench.store.record(&beside_edited, now).await.unwrap(), [id(6)]);
        let mut deleted = bench.event(7, "7:11-12");
        deleted.event.webhook_id = WebhookId(Uuid::from_u128(9));
        let beside_deleted = step(vec![deleted, bench.event(8, "7:11-13")], 10, 13);
        assert_eq!(bench.store.record(&beside_deleted, now).await.unwrap(), [id(8)]);
        let without_trigger = step(vec![Fired { trigger_version: None, ..bench.event(9, "7:14-15") }], 13, 15);
        assert_eq!(bench.store.record(&without_trigger, now).await.unwrap(), [id(9)]);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 15);
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 5);
        bench.store.close().await;
    }

    async fn a_moment_is_recorded_once(database: Database) {
        let bench = Bench::new(database).await;
        let now = bench.site.inserted_at;
        let step = |fired| Step { fired, ..Step::default() };
        let first = step(vec![bench.event(1, "rise:1")]);
        assert_eq!(bench.store.record(&first, now).await.unwrap(), [EventId(Uuid::from_u128(1))]);
        let again = step(vec![bench.event(2, "rise:1")]);
        assert_eq!(bench.store.record(&again, now).await.unwrap(), []);
        // What is new beside it is owed, what is new and only looked at is not.
        let mut shadow = bench.event(5, "rise:3");
        shadow.shadow = true;
        let mixed = step(vec![bench.event(3, "rise:1"), bench.event(4, "rise:2"), shadow]);
        assert_eq!(bench.store.record(&mixed, now).await.unwrap(), [EventId(Uuid::from_u128(4))]);
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
            trigger_id, account_id: bench.account_id, fired_before: 0, fired: 1, state: "{}".to_owned(),
        });
        let moved = StateChange {
            trigger_id, account_id: bench.account_id, fired_before: 0, fired: 7, state: "{}".to_owned(),
        };
        let other = Step { states: vec![moved], ..Step::default() };
        bench.store.record(&other, now).await.unwrap();
        bench.store.operator_watermark("here", 0).await.unwrap();
        let catalog_version = bench.store.catalog_version().await.unwrap();
        let watermark = Some(Watermark { source: "here".to_owned(), from: 0, to: 99, catalog_version });
        let step = Step { fired: vec![fired], watermark, ..Step::default() };
        let refused = bench.store.record(&step, now).await;
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
        let owed = bench.store.record(&Step { fired: vec![stale], ..Step::default() }, now).await.unwrap();
        assert_eq!(owed, []);
        let database = bench.database;
        bench.store.close().await;
        let app = TestApp::start(database).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&bench.webhook["id"]));
        app.patch(&path, json!({"active": false})).await.expect(200);
        let database = app.stop().await;
        let bench = Bench { store: Store::open(&database.url).await.unwrap(), database, ..bench };
        let step = Step { fired: vec![bench.event(2, "rise:2")], ..Step::default() };
        assert_eq!(bench.store.record(&step, now).await.unwrap(), []);
        bench.store.close().await;
    }

    async fn a_result_under_a_lost_lease_changes_nothing(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let now = bench.site.inserted_at;
        let fired = bench.event(1, "rise:1");
        let webhook_id = fired.event.webhook_id;
        bench.store.record(&Step { fired: vec![fired], ..Step::default() }, now).await.unwrap();
        // The node pauses; another takes over.
        bench.store.release_shards(FIRST).await.unwrap();
        let newer = bench.mine(&bench.claim(SECOND).await);
        assert!(newer.epoch > lease.epoch);
        let over = Standing::Over { ended: Ended::Success, reason: None };
        let late = [settled(lease, EventId(Uuid::from_u128(1)), bench.account_id, webhook_id, over.clone())];
        let refused = bench.store.settle(FIRST, &[lease], &late, now).await;
        assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 1);
        let on_time = [settled(newer, EventId(Uuid::from_u128(1)), bench.account_id, webhook_id, over)];
        bench.store.settle(SECOND, &[newer], &on_time, now).await.unwrap();
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
        assert_eq!(bench.store.recorded_attempts(&on_time).await.unwrap(), [(EventId(Uuid::from_u128(1)), 1)]);
        bench.store.close().await;
    }

    async fn of_each_lane_the_oldest_due_are_read(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let fired: Vec<_> = (1..=4).map(|number| bench.event(number, &format!("rise:{number}"))).collect();
        let (webhook_id, now) = (fired[0].event.webhook_id, fired[0].event.inserted_at);
        let after = |secs| now + Duration::from_secs(secs);
        bench.store.record(&Step { fired, ..Step::default() }, now).await.unwrap();
        // The later ones are to be tried again before the first.
        let again = |number, secs| {
            let standing = Standing::Again { attempt: 1, other_attempts: 0, due_at: after(secs) };
            settled(lease, EventId(Uuid::from_u128(number)), bench.account_id, webhook_id, standing)
        };
        let outcomes = [again(1, 30), again(2, 20), again(3, 10)];
        bench.store.settle(FIRST, &[lease], &outcomes, now).await.unwrap();

        let rest = |lane, after| {
            Rest { shard: lease.shard, account_id: bench.account_id, webhook_id, lane, after }
        };
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
        bench.store.close().await;
    }

    async fn what_became_of_those_that_are_not_owed_is_not_kept(database: Database) {
        let bench = Bench::new(database).await;
        let lease = bench.mine(&bench.claim(FIRST).await);
        let fired: Vec<_> = (1..=4).map(|number| bench.event(number, &format!("rise:{number}"))).collect();
        let (webhook_id, now) = (fired[0].event.webhook_id, fired[0].event.inserted_at);
        bench.store.record(&Step { fired, ..Step::default() }, now).await.unwrap();
        let settle = async |outcomes: Vec<(u128, i32, Standing)>| {
            let outcomes = outcomes.into_iter().map(|(event, number, standing)| {
                let event_id = EventId(Uuid::from_u128(event));
                let mut settled = settled(lease, event_id, bench.account_id, webhook_id, standing);
                settled.attempt.number = number;
                settled
            });
            let outcomes: Vec<_> = outcomes.collect();
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

    async fn every_shard_has_one_owner(database: Database) {
        let bench = Bench::new(database).await;
        assert_eq!(bench.claim(FIRST).await.len(), usize::try_from(SHARDS).unwrap());
        if !bench.store.is_sqlite() {
            assert_eq!(bench.claim(SECOND).await, [], "a lease that runs is respected");
        }
        bench.store.release_shards(FIRST).await.unwrap();
        assert_eq!(bench.claim(SECOND).await.len(), usize::try_from(SHARDS).unwrap());
        assert_eq!(bench.store.held_shards(FIRST).await.unwrap(), []);
        assert_eq!(bench.store.renew_shards(SECOND, TTL).await.unwrap().len(), usize::try_from(SHARDS).unwrap());
        bench.store.close().await;
    }

    async fn migrating_twice_changes_nothing(database: Database) {
        let store = Store::open(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
    }
}

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
    crate::support::in_time(Box::pin(async {
        let bench = Bench::new(Database::postgres().await).await;
        let now = bench.site.inserted_at;
        bench.store.operator_watermark("here", 0).await.unwrap();
        let catalog_version = bench.store.catalog_version().await.unwrap();
        let watermark = Some(Watermark { source: "here".to_owned(), from: 0, to: 9, catalog_version });
        let step = Step { fired: vec![bench.event(1, "7:4-9")], watermark, ..Step::default() };
        let mut somebody = sqlx::PgConnection::connect(&bench.database.url).await.unwrap();
        let mut watch = sqlx::PgConnection::connect(&bench.database.url).await.unwrap();

        const LOCK: &str = "SELECT 1 FROM webhooks WHERE id = $1 FOR UPDATE";
        const PAUSE: &str = "UPDATE webhooks SET active = FALSE WHERE id = $1";
        let id = step.fired[0].event.webhook_id;
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query(LOCK).bind(id).execute(&mut *tx).await.unwrap();
        sqlx::query(PAUSE).bind(id).execute(&mut *tx).await.unwrap();
        let release = async {
            until_somebody_waits(&mut watch).await;
            tx.commit().await.unwrap();
        };
        let (owed, ()) = tokio::join!(bench.store.record(&step, now), release);
        assert_eq!(owed.unwrap(), []);
        assert_eq!(bench.store.operator_watermark("here", 0).await.unwrap(), 9);
        assert_eq!(bench.store.operator_depth().await.unwrap().deliveries, 0);
        bench.store.close().await;
    }))
    .await;
}

async fn until_somebody_waits(watch: &mut sqlx::PgConnection) {
    const WAITING: &str = "
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut *watch).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
}

/// Tables with their columns, whatever the database calls the types.
async fn columns(database: &Database) -> BTreeMap<String, BTreeSet<String>> {
    let store = Store::open(&database.url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let rows: Vec<(String, String)> = if database.url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
        let sql = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    } else {
        let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
        let sql =
            "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public'";
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (table, column) in rows {
        tables.entry(table).or_default().insert(column);
    }
    // Partitions are PostgreSQL's own.
    let partition = |table: &str| table.contains("_rest") || table.contains("_d2");
    tables.retain(|table, _| !table.starts_with("sqlite_") && table != "_sqlx_migrations" && !partition(table));
    tables
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_databases_have_the_same_tables_and_columns() {
    let (sqlite, postgres) = (columns(&Database::sqlite()).await, columns(&Database::postgres().await).await);
    assert_eq!(sqlite, postgres);
    let designed = [
        "accounts",
        "users",
        "memberships",
        "api_keys",
        "sessions",
        "sites",
        "goals",
        "webhooks",
        "triggers",
        "trigger_states",
        "site_profiles",
        "shards",
        "nodes",
        "audit_log",
        "idempotency_keys",
        "events",
        "queue",
        "attempts",
    ];
    for table in designed {
        assert!(sqlite.contains_key(table), "{table} is missing");
    }
}
