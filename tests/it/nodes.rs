//! Several nodes on one PostgreSQL: they share the work, wake each other, keep each other's promises, and take over from
//! those that die. Real processes, in real time: what is waited for is what arrives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pulsehook::clock::Clock;
use pulsehook::domain::ids::NodeId;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::leases::{Leases, TTL, renew};
use pulsehook::store::Store;
use pulsehook::store::shards::{Lease, Node, SHARDS};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::steps::until_somebody_waits;
use crate::support::Database;
use crate::support::app::{Answer, SITE, http_client, text};
use crate::support::clickhouse::{ClickHouse, Row};
use crate::support::events::Listener;
use crate::support::process::{Served, key, pulsehook};
use crate::support::zoo::{Arrived, Behaviour, Endpoint};

/// What a wake-up takes on a busy machine, at most; without one it would be the sweep's second.
const PROMPTLY: Duration = Duration::from_millis(1_500);
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(20);

/// An installation that several nodes work for.
struct Cluster {
    home: Database,
    http: reqwest::Client,
    key: String,
}

impl Cluster {
    async fn new() -> Self {
        let home = Database::postgres().await;
        let key = key(&home).await;
        Self { home, http: http_client(), key }
    }

    /// A node with a data folder of its own.
    async fn node(&self, role: &str) -> (Served, Database) {
        self.node_with(&[("PULSEHOOK_ROLE", role)]).await
    }

    async fn node_with(&self, environment: &[(&str, &str)]) -> (Served, Database) {
        let folder = tempfile::tempdir().unwrap();
        let home = Database { url: self.home.url.clone(), folder };
        let mut command = pulsehook(&home);
        command.envs(environment.iter().copied());
        (Served::run(command).await, home)
    }

    async fn ask(&self, node: &Served, method: Method, path: &str, body: Value) -> Answer {
        Answer::of(self.http.request(method, format!("{}{path}", node.url)).bearer_auth(&self.key).json(&body)).await
    }

    /// Ten sites with a webhook each, so that every node owns some of them.
    async fn webhooks(&self, node: &Served, url: &str) -> Vec<String> {
        let mut paths = Vec::new();
        for number in 0..10 {
            let site = format!("site{number}.{SITE}");
            self.ask(node, Method::POST, "/api/sites", json!({"domain": site})).await.expect(201);
            let body = json!({"url": url, "name": "Nodes", "triggers": [{"type": "goal_completion"}]});
            let path = format!("/api/sites/{site}/webhooks");
            let answer = self.ask(node, Method::POST, &path, body).await.expect(201);
            paths.push(format!("{path}/{}", text(&answer["webhook"]["id"])));
        }
        paths
    }

    /// How many shards each node owns, most first.
    async fn shards(&self) -> Vec<i64> {
        const SQL: &str = "
            SELECT count(*) FROM shards
            WHERE node_id IS NOT NULL AND lease_until > extract(epoch FROM clock_timestamp()) * 1000000
            GROUP BY node_id ORDER BY 1 DESC";
        let mut connection = PgConnection::connect(&self.home.url).await.unwrap();
        sqlx::query_scalar(SQL).fetch_all(&mut connection).await.unwrap()
    }

    async fn wait_for_shards(&self, expected: &[i64]) {
        while self.shards().await != expected {
            tokio::task::yield_now().await;
        }
    }
}

/// Real time, for what real processes take.
#[expect(clippy::disallowed_methods, reason = "the clock of the processes that are waited for")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_the_work_and_take_over_from_the_dead() {
    crate::support::in_time(async {
        let cluster = Cluster::new().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let (first, _first_home) = cluster.node("api,ingest,engine").await;
        cluster.wait_for_shards(&[256]).await;
        let paths = cluster.webhooks(&first, &endpoint.url()).await;
        let (second, _second_home) = cluster.node("api,ingest,engine").await;
        cluster.wait_for_shards(&[128, 128]).await;

        // Whoever is asked, the owner sends, and soon.
        let began = now();
        for path in &paths {
            cluster.ask(&first, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
            cluster.ask(&second, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
        }
        endpoint.wait_for(20).await;
        assert!(now() - began < PROMPTLY, "{:?}", now() - began);

        // A node that is killed does not say goodbye.
        second.kill().await;
        let died = now();
        for path in &paths {
            cluster.ask(&first, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
        }
        endpoint.wait_for(30).await;
        assert!(now() - died < TAKES_OVER_WITHIN, "{:?}", now() - died);
        cluster.wait_for_shards(&[256]).await;

        // One that is stopped does, and nobody has to wait.
        let (third, _third_home) = cluster.node("api,ingest,engine").await;
        cluster.wait_for_shards(&[128, 128]).await;
        let stopped = now();
        assert!(third.stop().await.success());
        cluster.wait_for_shards(&[256]).await;
        assert!(now() - stopped < Duration::from_secs(5), "{:?}", now() - stopped);
        assert!(first.stop().await.success());
    })
    .await;
}

/// What is free is not all his who comes first.
#[tokio::test]
async fn a_node_takes_what_it_is_short_of_its_part() {
    crate::support::in_time(async {
        let database = Database::postgres().await;
        let store = Store::open(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        let node = |number| {
            let roles = "api,ingest,engine".to_owned();
            Node { id: NodeId(Uuid::from_u128(number)), version: "test", roles }
        };
        let clock = Clock::system();
        store.announce(&node(2), TTL, clock.now()).await.unwrap();
        assert_eq!(store.claim_shards(NodeId(Uuid::from_u128(1)), TTL, 100).await.unwrap().len(), 100);
        let leases = Leases::new(node(1), clock);
        for _ in 0..2 {
            renew(&store, &leases).await.unwrap();
            assert_eq!(leases.count(), 128);
        }
        assert!((0..SHARDS).any(|shard| leases.may_be_elsewhere(shard)));
        store.close().await;
    })
    .await;
}

/// Two nodes of an installation whose clock is put on by making what is there older.
struct Pair {
    store: Store,
    connection: PgConnection,
    database: Database,
}

impl Pair {
    async fn new() -> Self {
        let database = Database::postgres().await;
        let store = Store::open(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        let connection = PgConnection::connect(&database.url).await.unwrap();
        Self { store, connection, database }
    }

    async fn announce(&self, number: u128) {
        let (id, roles) = (NodeId(Uuid::from_u128(number)), "api,ingest,engine".to_owned());
        self.store.announce(&Node { id, version: "test", roles }, TTL, Clock::system().now()).await.unwrap();
    }

    async fn claim(&self, number: u128) -> Vec<Lease> {
        in_order(self.store.claim_shards(NodeId(Uuid::from_u128(number)), TTL, 256).await.unwrap())
    }

    async fn renew(&self, number: u128) -> Vec<Lease> {
        in_order(self.store.renew_shards(NodeId(Uuid::from_u128(number))).await.unwrap())
    }

    async fn age_node(&mut self, number: u128, by: Duration) {
        let sql = "UPDATE nodes SET seen_at = seen_at - $2 WHERE id = $1";
        let by = i64::try_from(by.as_micros()).unwrap();
        sqlx::query(sql).bind(Uuid::from_u128(number)).bind(by).execute(&mut self.connection).await.unwrap();
    }

    async fn age_leases(&mut self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap();
        let sql = "UPDATE shards SET lease_until = lease_until - $1";
        sqlx::query(sql).bind(by).execute(&mut self.connection).await.unwrap();
    }

    /// How long the shortest lease runs.
    async fn run_for(&mut self) -> Duration {
        let sql = "SELECT min(lease_until) - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM shards";
        let micros: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.connection).await.unwrap();
        Duration::from_micros(micros.try_into().unwrap())
    }

    /// The last transaction that wrote a shard.
    async fn written_by(&mut self) -> i64 {
        let sql = "SELECT max(xmin::text::bigint) FROM shards";
        sqlx::query_scalar(sql).fetch_one(&mut self.connection).await.unwrap()
    }
}

fn in_order(mut leases: Vec<Lease>) -> Vec<Lease> {
    leases.sort_by_key(|lease| lease.shard);
    leases
}

/// A lease runs longer than a node may be missed.
#[tokio::test]
async fn a_node_that_is_not_seen_loses_its_shards() {
    crate::support::in_time(async {
        let mut pair = Pair::new().await;
        pair.announce(1).await;
        pair.announce(2).await;
        let first = pair.claim(1).await;
        assert_eq!(first.len(), 256);
        pair.age_node(1, TTL - Duration::from_secs(1)).await;
        assert_eq!(pair.claim(2).await, []);
        pair.age_node(1, Duration::from_secs(2)).await;
        assert!(pair.run_for().await > Duration::from_secs(30));
        let second = pair.claim(2).await;
        assert_eq!(second.len(), 256);
        // It comes back, and has nothing, nor does it take what is somebody's.
        pair.announce(1).await;
        assert_eq!(pair.renew(1).await, []);
        assert_eq!(pair.claim(1).await, []);
        assert_eq!(pair.renew(2).await.len(), 256);
        // One that nobody missed begins anew: somebody may have been about to take over.
        pair.age_node(2, TTL + Duration::from_secs(1)).await;
        pair.announce(2).await;
        assert_eq!(pair.renew(2).await, []);
        let anew = pair.claim(2).await;
        assert!(anew.iter().all(|lease| lease.epoch == second[0].epoch + 1), "{anew:?}");
        // Of whom nothing is known but its leases has them until they run out.
        pair.store.leave(NodeId(Uuid::from_u128(2))).await.unwrap();
        assert_eq!(pair.claim(1).await, []);
        pair.age_leases(Duration::from_secs(61)).await;
        assert_eq!(pair.renew(2).await, []);
        assert_eq!(pair.claim(1).await.len(), 256);
        pair.store.close().await;
    })
    .await;
}

/// What is written stays for as long as somebody holds an old snapshot, and everybody who looks up a shard goes past it.
#[tokio::test]
async fn leases_are_not_written_as_often_as_they_are_looked_at() {
    crate::support::in_time(async {
        let mut pair = Pair::new().await;
        pair.announce(1).await;
        let claimed = pair.claim(1).await;
        let written_by = pair.written_by().await;
        assert_eq!((pair.renew(1).await, pair.written_by().await), (claimed, written_by));
        pair.age_leases(Duration::from_secs(31)).await;
        assert_eq!(pair.renew(1).await.len(), 256);
        assert!(pair.run_for().await > Duration::from_secs(45));
        let written_by = pair.written_by().await;
        pair.announce(1).await;
        assert_eq!(pair.renew(1).await.len(), 256);
        assert_eq!(pair.written_by().await, written_by);
        pair.store.close().await;
    })
    .await;
}

/// Whoever records or looks writes to a shard too, and may do so in the moment in which its lease is prolonged.
#[tokio::test]
async fn a_shard_that_is_written_meanwhile_is_not_lost() {
    crate::support::in_time(async {
        let mut pair = Pair::new().await;
        pair.announce(1).await;
        let claimed = pair.claim(1).await;
        pair.age_leases(Duration::from_secs(31)).await;
        let mut watch = PgConnection::connect(&pair.database.url).await.unwrap();
        let mut somebody = PgConnection::connect(&pair.database.url).await.unwrap();
        let mut tx = somebody.begin().await.unwrap();
        sqlx::query("UPDATE shards SET looked_until = 1 WHERE shard = 5").execute(&mut *tx).await.unwrap();
        let goes_on = async {
            until_somebody_waits(&mut watch).await;
            tx.commit().await.unwrap();
        };
        let (held, ()) = tokio::join!(pair.renew(1), goes_on);
        assert_eq!(held, claimed);
        assert!(pair.run_for().await > Duration::from_secs(45));
        pair.store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_through_one_node_holds_on_all_of_them() {
    crate::support::in_time(async {
        let cluster = Cluster::new().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let (first, _first_home) = cluster.node("api,ingest,engine").await;
        let (second, _second_home) = cluster.node("api,ingest,engine").await;
        cluster.wait_for_shards(&[128, 128]).await;
        let paths = cluster.webhooks(&first, &endpoint.url()).await;
        // Both have just sent for all of theirs and know them well.
        for path in &paths {
            cluster.ask(&first, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
        }
        endpoint.wait_for(10).await;
        // Half of the webhooks are owned by the node that is not asked.
        let mut paused = Vec::new();
        for path in &paths {
            let sent = cluster.ask(&second, Method::POST, &format!("{path}/test"), json!({})).await.expect(202);
            cluster.ask(&first, Method::PATCH, path, json!({"active": false})).await.expect(200);
            paused.push((format!("{path}/deliveries/{}", text(&sent["delivery"]["id"])), Clock::system().now()));
        }
        // Whatever was not under way when the answer came stays where it is. All nodes are on one machine and its clock.
        for (delivery, answered_at) in paused {
            let shown = cluster.ask(&second, Method::GET, &delivery, json!({})).await.expect(200);
            for attempt in shown["delivery"]["attempts"].as_array().unwrap() {
                let started_at: Timestamp = text(&attempt["started_at"]).parse().unwrap();
                assert!(started_at <= answered_at, "{started_at} is after {answered_at}: {shown}");
            }
        }
        assert!(first.stop().await.success());
        assert!(second.stop().await.success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_sent_shows_within_a_second() {
    crate::support::in_time(async {
        let cluster = Cluster::new().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let (engine, _engine_home) = cluster.node("api,engine").await;
        cluster.wait_for_shards(&[256]).await;
        let paths = cluster.webhooks(&engine, &endpoint.url()).await;
        let (api, _api_home) = cluster.node("api").await;
        let stream = format!("{}/api/sites/site0.{SITE}/stream", api.url);
        let mut listener = Listener::begun(cluster.http.get(stream).bearer_auth(&cluster.key)).await;
        for number in 1..=5 {
            let sent = cluster.ask(&engine, Method::POST, &format!("{}/test", paths[0]), json!({})).await.expect(202);
            endpoint.wait_for(number).await;
            let attempted = now();
            loop {
                let told = listener.next().await.unwrap();
                if told.event == "attempt" && told.data["delivery_id"] == sent["delivery"]["id"] {
                    break;
                }
            }
            assert!(now() - attempted < PROMPTLY, "{:?}", now() - attempted);
        }
        // Nobody who listens holds up a node that stops.
        let stopped = now();
        assert!(api.stop().await.success());
        listener.ended().await;
        assert!(now() - stopped < Duration::from_secs(3), "{:?}", now() - stopped);
        assert!(engine.stop().await.success());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_can_be_split() {
    crate::support::in_time(async {
        let cluster = Cluster::new().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let (api, _api_home) = cluster.node("api").await;
        let (ingest, _ingest_home) = cluster.node("ingest").await;
        let paths = cluster.webhooks(&api, &endpoint.url()).await;
        let goal = json!({"event_name": "Signup"});
        cluster.ask(&api, Method::POST, &format!("/api/sites/site0.{SITE}/goals"), goal).await.expect(201);
        // Each answers what is its own.
        let hit = json!({"n": "Signup", "u": format!("https://site0.{SITE}/"), "d": format!("site0.{SITE}")});
        cluster.ask(&api, Method::POST, "/api/event", hit.clone()).await.expect(404);
        cluster.ask(&ingest, Method::GET, "/api/sites", json!({})).await.expect(404);
        cluster.ask(&ingest, Method::GET, "/health/ready", json!({})).await.expect(200);
        // Nobody sends yet; what is owed waits for somebody who does.
        cluster.ask(&api, Method::POST, &format!("{}/test", paths[0]), json!({})).await.expect(202);
        let (engine, _engine_home) = cluster.node("engine").await;
        endpoint.wait_for(1).await;
        // A site that another node has made a moment ago may not be known yet, and then the answer says so.
        loop {
            let request = cluster.http.post(format!("{}/api/event", ingest.url)).json(&hit);
            let answer = Answer::of(request.header("user-agent", crate::support::app::BROWSER)).await;
            assert_eq!(answer.status, 202);
            if !answer.headers.contains_key("x-plausible-dropped") {
                break;
            }
        }
        endpoint.wait_for(2).await;
        assert_eq!(endpoint.arrived()[1].json()["event_type"], "goal_completion");
        for node in [api, ingest, engine] {
            assert!(node.stop().await.success());
        }
    })
    .await;
}

/// Each node counts what it took in itself; whoever tells tells it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_nodes_gather_is_told_once() {
    crate::support::within(Duration::from_secs(120), async {
        let cluster = Cluster::new().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let (first, _first_home) = cluster.node("api,ingest,engine").await;
        let (second, _second_home) = cluster.node("api,ingest,engine").await;
        cluster.wait_for_shards(&[128, 128]).await;
        cluster.ask(&first, Method::POST, "/api/sites", json!({"domain": SITE})).await.expect(201);
        let goal = json!({"event_name": "Signup"});
        cluster.ask(&first, Method::POST, &format!("/api/sites/{SITE}/goals"), goal).await.expect(201);
        let triggers = json!([{"type": "goal_completion", "batch": 40}]);
        let body = json!({"url": endpoint.url(), "name": "Nodes", "triggers": triggers});
        cluster.ask(&first, Method::POST, &format!("/api/sites/{SITE}/webhooks"), body).await.expect(201);
        // The other node looks whether the configuration changed every few seconds, and says so with its first answer.
        let convert = async |node: &Served, visitor: u32| {
            let hit = json!({"n": "Signup", "u": format!("https://{SITE}/"), "d": SITE});
            loop {
                let request = cluster.http.post(format!("{}/api/event", node.url)).json(&hit);
                let request = request.header("x-forwarded-for", format!("203.0.113.{visitor}"));
                let answer = Answer::of(request.header("user-agent", crate::support::app::BROWSER)).await;
                assert_eq!(answer.status, 202);
                if !answer.headers.contains_key("x-plausible-dropped") {
                    break;
                }
            }
        };
        for round in 1..=2 {
            for visitor in 0..20 {
                tokio::join!(convert(&first, visitor), convert(&second, 100 + visitor));
            }
            endpoint.wait_for(round).await;
        }
        assert!(first.stop().await.success());
        assert!(second.stop().await.success());
        let counts: Vec<_> = endpoint.arrived().iter().map(|arrived| arrived.json()["data"]["count"].clone()).collect();
        assert_eq!(counts, [40, 40]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_what_is_in_clickhouse_and_report_it_once() {
    crate::support::in_time(async {
        let cluster = Cluster::new().await;
        let clickhouse = ClickHouse::empty().await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        let url = clickhouse.url();
        let environment = [("PULSEHOOK_ANALYTICS_URL", url.as_str()), ("PULSEHOOK_EVALUATION_INTERVAL", "200ms")];
        let (first, _first_home) = cluster.node_with(&environment).await;
        cluster.wait_for_shards(&[256]).await;
        cluster.webhooks(&first, &endpoint.url()).await;
        let mut sites = Vec::new();
        for number in 0..10 {
            let path = format!("/api/sites/site{number}.{SITE}");
            for name in ["Signup", "Last"] {
                let goals = format!("{path}/goals");
                cluster.ask(&first, Method::POST, &goals, json!({"event_name": name})).await.expect(201);
            }
            let site = cluster.ask(&first, Method::GET, &path, json!({})).await.expect(200);
            sites.push(text(&site["site"]["id"]).parse::<i64>().unwrap());
        }
        let (second, _second_home) = cluster.node_with(&environment).await;
        let (third, _third_home) = cluster.node_with(&environment).await;
        cluster.wait_for_shards(&[86, 86, 84]).await;
        let happen = async |name: &'static str, visitor| {
            let at = Clock::system().now();
            let rows: Vec<_> =
                sites.iter().map(|site| Row { site: *site, name, visitor, at, ..Row::default() }).collect();
            clickhouse.insert(&rows).await;
        };
        let told = |arrived: &[Arrived], name: &str| {
            // What was sent when its node was killed is sent again, under the same id.
            let events: BTreeMap<_, _> = arrived
                .iter()
                .map(|arrived| (arrived.header("webhook-id").unwrap().to_owned(), arrived.json()))
                .collect();
            let data = events.values().map(|event| &event["data"]).filter(|data| data["goal_name"] == name);
            data.map(|data| data["count"].as_u64().unwrap()).sum::<u64>()
        };
        for visitor in 0..10 {
            happen("Signup", visitor).await;
        }
        endpoint.wait_until(|arrived| told(arrived, "Signup") >= 100).await;
        // One is killed, one leaves; what they worked for is looked at by the one that is left.
        second.kill().await;
        for visitor in 10..20 {
            happen("Signup", visitor).await;
        }
        assert!(third.stop().await.success());
        for visitor in 20..30 {
            happen("Signup", visitor).await;
        }
        cluster.wait_for_shards(&[256]).await;
        happen("Last", 1).await;
        // Deliveries overtake each other, so what happened last may arrive before what happened first.
        endpoint.wait_until(|arrived| told(arrived, "Last") >= 10 && told(arrived, "Signup") >= 300).await;
        assert_eq!(told(&endpoint.arrived(), "Signup"), 300);
        assert!(first.stop().await.success());
    })
    .await;
}
