//! The store does the same on both databases, and nothing in it was never run.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use pulsehook::domain::access::Role;
use pulsehook::domain::goal::{Goal, GoalKind};
use pulsehook::domain::ids::{EventId, GoalId, InvitationId, NodeId, SiteId, WebhookId};
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
use pulsehook::store::outbox::{Fired, StateChange, Step};
use pulsehook::store::outcomes::Standing;
use pulsehook::store::people::Changed;
use pulsehook::store::sealed::{SealedAnswer, SealedWebhook};
use pulsehook::store::sessions::NewSession;
use pulsehook::store::shards::{Lease, Node};
use pulsehook::store::waiting::{Known, Look};
use pulsehook::store::{Store, StoreError};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use uuid::Uuid;

use crate::plans;
use crate::steps::{a_lease, event, settled};
use crate::support::Database;
use crate::support::app::{SITE, TestApp, text};
use crate::support::events::Listener;
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Endpoint};

/// Where statements for SQLite are told of that go past the driver.
const DIRECT: &str = "pulsehook::store::direct";

/// Statements that ran in this process, with white space made plain, by database.
static EXECUTED: LazyLock<Mutex<HashSet<(Kind, String)>>> = LazyLock::new(|| {
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("sqlx::query", tracing::Level::TRACE)
        .with_target(DIRECT, tracing::Level::TRACE);
    // Not a filter of the recorder alone: that remembers by thread what it refused, and when a call site was asked about while
    // another thread registered it, the next statement of this thread was lost.
    let subscriber = tracing_subscriber::registry().with(Recorder).with(filter);
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
        let sqlite = event.metadata().target() == DIRECT
            || std::thread::current().name().is_some_and(|name| name.starts_with("sqlx-sqlite"));
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
    let mut paths = vec![folder];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
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
    let texts = executed.iter().filter(|(on, _)| *on == kind).map(|(_, text)| text);
    texts.cloned().collect()
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
        {"type": "milestone", "metric": "visitors", "step": 1},
        {"type": "milestone", "metric": "conversions", "step": 1},
    ]);
    let webhook = app.webhook(&endpoint.url(), triggers).await;
    app.visit(77, "/").await;
    app.drain().await;
    let gathers = json!([
        {"type": "goal_completion", "batch": 2}, {"type": "goal_completion", "batch": 2, "shadow": true},
        {"type": "visitor_spike", "page": "/a*"},
        {"type": "visitor_spike", "page": "/a", "baseline": "fixed", "min_visitors": 1},
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
    // What is put off gets its row when its first attempt fails, if not before.
    app.convert(9, "Signup").await;
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
        until: Some(now),
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
    let unsaved = Looked { until: None, ..looked.clone() };
    app.store.observe(node, &Step::default(), &unsaved, now).await.unwrap();
    let lost = Looked { until: None, ..lost };
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
        assert_eq!(app.store.record(step, app.now()).await.unwrap().1.len(), owed);
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

/// A lease whose time is half over, and a node that was missed.
async fn leases(app: &TestApp, node: NodeId) {
    if !app.store.is_sqlite() {
        let mut connection = sqlx::PgConnection::connect(&app.database.url).await.unwrap();
        let later = "UPDATE shards SET lease_until = lease_until - 40000000";
        sqlx::query(later).execute(&mut connection).await.unwrap();
    }
    assert_eq!(app.store.renew_shards(node).await.unwrap().len(), 256);
    let missed = Node { id: NodeId(Uuid::from_u128(9)), version: "test", roles: "api".to_owned() };
    for _ in 0..2 {
        app.store.announce(&missed, Duration::ZERO, app.now()).await.unwrap();
    }
    app.store.leave(missed.id).await.unwrap();
}

async fn bookkeeping(app: &TestApp) {
    let store = &app.store;
    store.ping().await.unwrap();
    let other = Store::open(&app.database.url).await.unwrap();
    assert_eq!(store.operator_depth().await.unwrap(), other.operator_depth().await.unwrap());
    // A node that comes back looks through what it may have left.
    let node = store.operator_nodes(app.now()).await.unwrap()[0].id;
    other.take_up(node, &other.held_shards(node).await.unwrap(), true, app.now()).await.unwrap();
    other.close().await;
    leases(app, node).await;
    let beside = Look { known: Some(Known { webhooks: vec![], elsewhere: app.now() }), ..Look::default() };
    assert_eq!(store.waiting(&beside).await.unwrap(), []);
    assert_eq!(store.waiting(&Look { patiently: true, ..Look::default() }).await.unwrap(), []);
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
    store.record(Step { states: vec![gone], ..Step::default() }, app.now()).await.unwrap();
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

on_both!({
    async fn migrating_twice_changes_nothing(database: Database) {
        let store = Store::open(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
    }
});

/// Indexes on years of events take longer than a statement may otherwise; a lock that somebody else has is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_may_take_long_and_waits_for_no_table() {
    let database = Database::postgres().await;
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    let watch = "
        CREATE FUNCTION timeouts() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('statement_timeout') <> '0' OR current_setting('lock_timeout') <> '10s' THEN
                RAISE 'statements %, locks %', current_setting('statement_timeout'), current_setting('lock_timeout');
            END IF;
        END $$;
        CREATE EVENT TRIGGER timeouts ON ddl_command_start WHEN TAG IN ('CREATE INDEX', 'ALTER TABLE')
            EXECUTE FUNCTION timeouts()";
    sqlx::raw_sql(watch).execute(&mut connection).await.unwrap();
    let store = Store::open(&database.url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_finds_a_table_locked_says_so() {
    let database = Database::postgres().await;
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    let locked = "
        CREATE FUNCTION locked() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'canceling statement due to lock timeout' USING ERRCODE = '55P03'; END $$;
        CREATE EVENT TRIGGER locked ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION locked()";
    sqlx::raw_sql(locked).execute(&mut connection).await.unwrap();
    let store = Store::open(&database.url).await.unwrap();
    let refused = store.migrate().await.unwrap_err().to_string();
    assert!(refused.contains("somebody else has locked") && !refused.contains("schema"), "{refused}");
    sqlx::raw_sql("DROP EVENT TRIGGER locked").execute(&mut connection).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
}

/// A database with partitions for a few days.
async fn with_days() -> (Database, sqlx::PgConnection) {
    let database = Database::postgres().await;
    let store = Store::open(&database.url).await.unwrap();
    store.migrate().await.unwrap();
    store.operator_make_days(Timestamp::from_secs(1_800_000_000)).await.unwrap();
    store.close().await;
    let connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    (database, connection)
}

/// An index in the order of a language is one that the system's next library may no longer find its texts in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moments_are_told_apart_by_their_bytes() {
    let (_database, mut connection) = with_days().await;
    let sql = "SELECT indexdef FROM pg_indexes WHERE indexname LIKE '%_moment_key'";
    let indexes: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert!(indexes.len() > 1, "the rest's and that of a day");
    for index in indexes {
        assert!(index.contains("UNIQUE") && index.contains(r#"(moment COLLATE "C", trigger_id)"#), "{index}");
    }
}

/// A day of many events would be read from end to end again and again, behind somebody's old snapshot to no end at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_not_vacuumed_because_rows_were_added() {
    let (_database, mut connection) = with_days().await;
    let sql = "SELECT coalesce(reloptions::text, '') FROM pg_class WHERE relkind = 'r' AND relispartition AND relname LIKE '%_d2%'";
    let options: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert!(options.len() >= 10, "events and attempts of five days: {options:?}");
    assert!(options.iter().all(|options| options == "{autovacuum_vacuum_insert_threshold=-1}"), "{options:?}");
}

/// What `.cargo/config.toml` asks for is easily lost on the way into a library that is built elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_built_without_locks_that_nobody_needs() {
    let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let options: Vec<String> = sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut connection).await.unwrap();
    let has = |option: &str| options.iter().any(|there| there == option);
    assert!(has("DEFAULT_MEMSTATUS=0") && has("DISABLE_PAGECACHE_OVERFLOW_STATS"), "{options:?}");
    assert!(has("THREADSAFE=1") && !has("ENABLE_MEMORY_MANAGEMENT"), "{options:?}");
    assert!(has("DEFAULT_LOOKASIDE=1200,96"), "{options:?}");
}

/// A migration puts one text of the constraint in place of another in the schema itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_end_in_one_of_three_ways_on_sqlite() {
    let database = Database::sqlite();
    let store = Store::open(&database.url).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
    let mut number = 0;
    let mut end = async |ended: Option<&str>| {
        let sql =
            "INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, ended)
            VALUES (x'00', $1, 1, x'00', 1, 1, 'success', $2)";
        number += 1;
        sqlx::query(sql).bind(number).bind(ended).execute(&mut connection).await.map(drop)
    };
    for ended in [Some("success"), Some("failed"), Some("cancelled"), None] {
        end(ended).await.unwrap();
    }
    let refused = end(Some("somehow")).await.unwrap_err().to_string();
    assert!(refused.contains("CHECK constraint failed: ended"), "{refused}");
    let whole: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    let may_write: bool = sqlx::query_scalar("PRAGMA writable_schema").fetch_one(&mut connection).await.unwrap();
    assert_eq!((whole.as_str(), may_write), ("ok", false));
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
