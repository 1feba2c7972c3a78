//! What a run is judged by: the history, and what the databases say in the end.

use std::collections::{HashMap, HashSet};

use pulsehook::store::Store;
use pulsehook::store::deliveries::Filter;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use uuid::Uuid;

use super::history::{Log, Moment};
use super::world::{GOALS, World};

/// Everything the checker looks at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub log: Log,
    pub hooks: Vec<Hook>,
    pub stored: Vec<Stored>,
    /// In the order of their ids.
    pub events: Vec<Event>,
    /// Ids of each webhook's events as it lists them, newest first.
    pub listed: HashMap<String, Vec<String>>,
}

/// A webhook and the goals it is to be told about.
#[derive(Debug, Clone)]
pub struct Hook {
    pub id: String,
    pub site_id: i64,
    /// Id and event name.
    pub goals: Vec<(String, &'static str)>,
}

/// Hits of one name in the analytics database of one node.
#[derive(Debug, Clone)]
pub struct Stored {
    pub node: usize,
    pub site_id: i64,
    pub name: String,
    pub count: u64,
}

/// A recorded event and where its delivery stands.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: String,
    pub webhook_id: String,
    /// `None` for a test.
    pub trigger_id: Option<String>,
    pub moment: String,
    pub payload: Vec<u8>,
    pub recorded_at: Moment,
    /// Still in the queue.
    pub owed: bool,
    /// What its last attempt made of it.
    pub ended: Option<String>,
}

impl Event {
    /// The goal and how many completions it reports.
    pub fn completions(&self) -> Option<(String, u64)> {
        completions(&self.payload)
    }
}

/// The goal and the number of completions in a payload that reports some.
pub fn completions(payload: &[u8]) -> Option<(String, u64)> {
    let payload: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let data = &payload["data"];
    Some((data["goal_id"].as_str()?.to_owned(), data["count"].as_u64()?))
}

/// Gathers everything once the nodes have stopped.
pub async fn gather(world: &World) -> Evidence {
    let log = world.history.log().clone();
    Evidence {
        log,
        hooks: hooks(world),
        stored: stored(world).await,
        events: events(&world.database_url, world.history.day_began()).await,
        listed: listed(world).await,
    }
}

pub fn hooks(world: &World) -> Vec<Hook> {
    let hooks = world.hooks.iter().map(|hook| {
        let site = &world.sites[hook.site];
        let goals = hook.goals.iter().map(|goal| (site.goals[*goal].clone(), GOALS[*goal])).collect();
        Hook { id: hook.id.clone(), site_id: site.id, goals }
    });
    hooks.collect()
}

/// What each node has taken in, while it runs or afterwards.
pub async fn stored(world: &World) -> Vec<Stored> {
    const SQL: &str = "SELECT site_id, name, count(*) FROM hits WHERE id > 0 GROUP BY site_id, name";
    let mut stored = Vec::new();
    for (node, home) in world.homes.iter().enumerate() {
        let options = SqliteConnectOptions::new().filename(home.folder.path().join("analytics.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.expect("every node has one");
        let rows: Vec<(i64, String, i64)> = sqlx::query_as(SQL).fetch_all(&mut connection).await.expect("it is whole");
        connection.close().await.expect("it can be closed");
        let rows = rows.into_iter();
        stored.extend(rows.map(|(site_id, name, count)| Stored { node, site_id, name, count: count.unsigned_abs() }));
    }
    stored
}

async fn listed(world: &World) -> HashMap<String, Vec<String>> {
    let store = Store::open(&world.database_url).await.expect("the database is there");
    let ids: Vec<_> = world.hooks.iter().map(|hook| hook.id.parse().expect("it is one")).collect();
    let mut listed = HashMap::new();
    for webhook in store.operator_webhooks(&ids).await.expect("they are there") {
        let all = store.deliveries(webhook.account_id, webhook.id, &Filter::default(), usize::MAX, 0).await;
        let all = all.expect("they can be read").into_iter().map(|delivery| delivery.id.to_string());
        listed.insert(webhook.id.to_string(), all.collect());
    }
    store.close().await;
    listed
}

/// How many deliveries are still owed; `None` when the database does not say.
pub async fn owed(database_url: &str) -> Option<i64> {
    let store = Store::open(database_url).await.ok()?;
    let depth = store.operator_depth().await;
    store.close().await;
    depth.ok().map(|depth| depth.deliveries)
}

type EventRow = (Uuid, Uuid, Option<Uuid>, String, Vec<u8>, i64);

/// `day_began`: how far the clock of the day is ahead of the history's, in microseconds.
async fn events(database_url: &str, day_began: i64) -> Vec<Event> {
    const EVENTS: &str = "SELECT id, webhook_id, trigger_id, moment, payload, inserted_at FROM events ORDER BY id";
    const OWED: &str = "SELECT event_id FROM queue";
    const ENDED: &str = "SELECT event_id, ended FROM attempts WHERE ended IS NOT NULL ORDER BY event_id, number";
    macro_rules! read {
        ($connection:expr) => {{
            let mut connection = $connection.await.expect("the database is there");
            let events: Vec<EventRow> = sqlx::query_as(EVENTS).fetch_all(&mut connection).await.expect("it is whole");
            let owed: Vec<(Uuid,)> = sqlx::query_as(OWED).fetch_all(&mut connection).await.expect("it is whole");
            let ended: Vec<(Uuid, String)> =
                sqlx::query_as(ENDED).fetch_all(&mut connection).await.expect("it is whole");
            (events, owed, ended)
        }};
    }
    let (events, owed, ended) = match database_url.strip_prefix("sqlite://") {
        Some(path) => read!(SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path))),
        None => read!(PgConnection::connect(database_url)),
    };
    let owed: HashSet<_> = owed.into_iter().map(|(id,)| id).collect();
    // The last one stays.
    let mut ended: HashMap<_, _> = ended.into_iter().collect();
    let events = events.into_iter().map(|(id, webhook_id, trigger_id, moment, payload, recorded_at)| Event {
        id: id.to_string(),
        webhook_id: webhook_id.to_string(),
        trigger_id: trigger_id.map(|id| id.to_string()),
        moment,
        payload,
        recorded_at: Moment::from_micros(recorded_at.saturating_sub(day_began).max(0).unsigned_abs()),
        owed: owed.contains(&id),
        ended: ended.remove(&id),
    });
    events.collect()
}
