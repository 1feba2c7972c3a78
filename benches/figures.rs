//! What it can do, each figure beside its ceiling in the same run. `make bench` prints them all; `make bench ONLY=ingest`
//! one of ingest, deliveries, latency, start.
//!
//! The real binary does the work; this process is the world around it: trackers that post, an endpoint that answers, a
//! private PostgreSQL. All of them share the machine, so ratios say more than numbers.

#![expect(clippy::print_stdout, reason = "figures are its result")]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pulsehook::chance::Chance;
use pulsehook::cli::receive::{Options, Received, Receiver};
use pulsehook::clock::Clock;
use pulsehook::directory::{Grant, issue_key};
use pulsehook::domain::access::{Role, Who};
use pulsehook::domain::address::AddressPolicy;
use pulsehook::domain::endpoint_url::EndpointUrl;
use pulsehook::domain::event::{Addressee, Data, Event};
use pulsehook::domain::ids::EventId;
use pulsehook::domain::signature::SigningSecret;
use pulsehook::domain::time::Timestamp;
use pulsehook::domain::webhook::Format;
use pulsehook::engine::egress::{EgressConnector, Resolver, trusted_roots};
use pulsehook::engine::sender::{Address, Outgoing, Sender};
use pulsehook::store::Store;
use pulsehook::store::audit::Change;
use pulsehook::store::outbox::{Fired, Step};
use pulsehook::store::shards::shard_of;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

#[expect(dead_code, reason = "only tests have clusters of their own and restart them")]
#[path = "../tests/it/support/postgres.rs"]
mod postgres;
mod sink;

use sink::Sink;

const BINARY: &str = env!("CARGO_BIN_EXE_pulsehook");
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";
const SITE: &str = "example.com";
/// Each figure is the median of so many runs.
const RUNS: usize = 5;
const EVENTS: usize = 20_000;
const DELIVERIES: usize = 100_000;
/// Requests under way at once.
const CONNECTIONS: usize = 64;
/// Endpoints the deliveries go to: enough that their caps do not matter.
const WEBHOOKS: usize = 8;
const SECONDS_OF_LATENCY: u64 = 10;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let world = World { clock: Clock::system(), chance: Chance::from_system() };
    println!("cores {}, medians of {RUNS} runs unless said otherwise\n", std::thread::available_parallelism().unwrap());
    if wanted("start") {
        start(&world).await;
    }
    if wanted("ingest") {
        ingest(&world).await;
    }
    if wanted("deliveries") {
        deliveries(&world).await;
    }
    if wanted("latency") {
        latency(&world).await;
    }
}

struct World {
    clock: Clock,
    chance: Chance,
}

/// A data folder with a database, an account and its key.
struct Home {
    folder: tempfile::TempDir,
    database_url: String,
    key: String,
}

/// The running binary.
struct Served {
    child: Child,
    address: SocketAddr,
}

type Http = Client<HttpConnector, Full<Bytes>>;

impl World {
    async fn home(&self, postgres: bool) -> Home {
        let folder = tempfile::tempdir().unwrap();
        let database_url = match postgres {
            true => postgres::database().await,
            false => format!("sqlite://{}", folder.path().join("pulsehook.db").display()),
        };
        let store = Store::open(&database_url).await.unwrap();
        store.migrate().await.unwrap();
        let account_id = store.find_or_create_account("Bench", self.clock.now()).await.unwrap();
        let change =
            Change { account_id, who: Who::Operator, now: self.clock.now(), id: self.chance.uuid_v7(self.clock.now()) };
        let grant = Grant { name: "Bench".to_owned(), role: Role::Owner, expires_at: None };
        let (_, key) = issue_key(&store, &change, grant, &self.chance).await.unwrap();
        store.close().await;
        Home { folder, database_url, key: key.expose().to_owned() }
    }

    async fn receiver(&self) -> Receiver {
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: None,
            tls: true,
            status: StatusCode::OK,
            delay: Duration::ZERO,
        };
        Receiver::start(options, self.clock.clone()).await.unwrap()
    }

    /// Seconds `work` took.
    async fn timed(&self, work: impl Future<Output = ()>) -> f64 {
        let began = self.clock.monotonic();
        work.await;
        (self.clock.monotonic() - began).as_secs_f64()
    }
}

impl Home {
    /// Starts the binary and waits until it listens.
    async fn serve(&self, authority_pem: Option<&str>) -> Served {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut command = Command::new(BINARY);
        command
            .arg("serve")
            .env_clear()
            .env("PULSEHOOK_LISTEN", address.to_string())
            .env("PULSEHOOK_DATA_DIR", self.folder.path())
            .env("PULSEHOOK_DATABASE_URL", &self.database_url)
            .env("PULSEHOOK_MASTER_KEY", MASTER_KEY)
            .env("PULSEHOOK_EGRESS_ALLOW", "127.0.0.0/8")
            .env("PULSEHOOK_LOG_LEVEL", "error")
            .env("PULSEHOOK_ENDPOINT_RATE", "0")
            .env("PULSEHOOK_HOST_IN_FLIGHT", "128")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        if let Some(pem) = authority_pem {
            let path = self.folder.path().join("authority.pem");
            std::fs::write(&path, pem).unwrap();
            command.env("PULSEHOOK_EGRESS_CA", path);
        }
        let child = command.spawn().unwrap();
        let http = http();
        let live = format!("http://{address}/health/live");
        while http.request(Request::get(&live).body(Full::default()).unwrap()).await.is_err() {
            tokio::task::yield_now().await;
        }
        Served { child, address }
    }

    async fn api(&self, served: &Served, path: &str, body: Value) -> Value {
        let request = Request::post(format!("http://{}{path}", served.address))
            .header("authorization", format!("Bearer {}", self.key))
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = http().request(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }
}

impl Served {
    /// Resident memory in MiB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1_024.0
    }

    async fn stop(mut self) {
        let id = self.child.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        self.child.wait().await.unwrap();
    }
}

fn http() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

fn event(address: SocketAddr, name: &str, site: &str, visitor: usize) -> Request<Full<Bytes>> {
    let body =
        json!({"n": name, "u": format!("https://{site}/pricing"), "d": site, "r": "https://news.ycombinator.com/"});
    Request::post(format!("http://{address}/api/event"))
        .header("user-agent", BROWSER)
        .header("content-type", "text/plain")
        .header("x-forwarded-for", format!("10.{}.{}.{}", visitor >> 16 & 255, visitor >> 8 & 255, visitor & 255))
        .body(Full::from(body.to_string()))
        .unwrap()
}

/// Posts so many events over so many connections; all must be answered 202.
async fn post(
    http: &Http,
    address: SocketAddr,
    count: usize,
    connections: usize,
    name: &'static str,
    site: &'static str,
) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (http, next) = (http.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let visitor = next.fetch_add(1, Ordering::Relaxed);
                if visitor >= count {
                    return;
                }
                let response = http.request(event(address, name, site, visitor % 5_000)).await.unwrap();
                assert_eq!(response.status(), StatusCode::ACCEPTED);
                response.into_body().collect().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Time to ready, memory, size.
async fn start(world: &World) {
    let home = world.home(false).await;
    let (mut ready, mut bare) = (Vec::new(), Vec::new());
    let mut idle = 0.0;
    for _ in 0..RUNS + 1 {
        let mut served = None;
        ready.push(world.timed(async { served = Some(home.serve(None).await) }).await);
        let version = async {
            Command::new(BINARY).arg("--version").stdout(Stdio::null()).status().await.unwrap();
        };
        bare.push(world.timed(version).await);
        let served = served.unwrap();
        idle = served.memory();
        served.stop().await;
    }
    let size = std::fs::metadata(BINARY).unwrap().len() as f64 / 1_048_576.0;
    println!(
        "start to ready (embedded)       {:>8.0} ms   ceiling: the process alone {:.0} ms",
        median(&ready) * 1e3,
        median(&bare) * 1e3
    );
    println!("memory, idle                    {idle:>8.1} MiB");
    println!("binary                          {size:>8.1} MiB\n");
}

/// Events a second, beside the same server answering events it does not store.
async fn ingest(world: &World) {
    let home = world.home(false).await;
    let served = home.serve(None).await;
    home.api(&served, "/api/sites", json!({"domain": SITE})).await;
    let http = http();
    let (mut stored, mut dropped) = (Vec::new(), Vec::new());
    post(&http, served.address, EVENTS / 4, CONNECTIONS, "pageview", SITE).await;
    for _ in 0..RUNS {
        let work = post(&http, served.address, EVENTS, CONNECTIONS, "pageview", SITE);
        stored.push(EVENTS as f64 / world.timed(work).await);
        let work = post(&http, served.address, EVENTS, CONNECTIONS, "pageview", "unknown.example");
        dropped.push(EVENTS as f64 / world.timed(work).await);
    }
    let (stored, dropped) = (median(&stored), median(&dropped));
    println!(
        "events ingested and on disk     {stored:>8.0} /s   ceiling: answered, not stored {dropped:.0} /s   ratio {:.2}",
        stored / dropped
    );
    println!("memory after {:>7} events      {:>8.1} MiB\n", EVENTS * RUNS + EVENTS / 4, served.memory());
    served.stop().await;
}

/// Deliveries a second from a full queue to a recorded success, beside the same sender without a database.
async fn deliveries(world: &World) {
    for (name, on_postgres) in [("SQLite", false), ("PostgreSQL", true)] {
        let (mut drained, mut ceilings, mut memory) = (Vec::new(), Vec::new(), 0.0_f64);
        for _ in 0..RUNS {
            let sink = Sink::start().await;
            ceilings.push(DELIVERIES as f64 / world.timed(send_alone(world, &sink)).await);
            let sink = Sink::start().await;
            let home = world.home(on_postgres).await;
            fill(world, &home, &sink).await;
            let served = home.serve(Some(&sink.authority_pem)).await;
            sink.wait_for(1).await;
            let began = world.clock.monotonic();
            for part in 1..=10 {
                sink.wait_for(DELIVERIES * part / 10).await;
                memory = memory.max(served.memory());
            }
            let store = Store::open(&home.database_url).await.unwrap();
            while store.operator_depth().await.unwrap().deliveries > 0 {
                tokio::task::yield_now().await;
            }
            drained.push(DELIVERIES as f64 / (world.clock.monotonic() - began).as_secs_f64());
            store.close().await;
            served.stop().await;
        }
        let (drained, ceiling) = (median(&drained), median(&ceilings));
        println!(
            "deliveries over HTTPS, {name:<10} {drained:>7.0} /s   ceiling: sent, not recorded {ceiling:.0} /s   ratio {:.2}",
            drained / ceiling
        );
        println!("memory while delivering         {memory:>8.1} MiB");
    }
    println!();
}

/// The ceiling: the same sender, the same bodies, no database.
async fn send_alone(world: &World, sink: &Sink) {
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
    let roots = trusted_roots(Some(sink.authority_pem.as_bytes())).unwrap();
    let connector = EgressConnector::new(policy.clone(), Resolver::system().unwrap(), roots, world.clock.clone());
    let sender = Arc::new(Sender::new(connector, world.clock.clone(), CONNECTIONS));
    let url = EndpointUrl::parse(&sink.url(), &policy).unwrap();
    let address = Arc::new(Address::new(Ok(url), &[]));
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let outgoing = Outgoing {
            address: Arc::clone(&address),
            secrets: vec![SigningSecret::parse(SECRET).unwrap()],
            event_id: EventId(world.chance.uuid_v7(world.clock.now())),
            event_type: "goal_completion".to_owned(),
            content_type: "application/json",
            body: Bytes::from(vec![b'x'; 600]),
        };
        let (sender, next) = (Arc::clone(&sender), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < DELIVERIES {
                assert!(sender.attempt(&outgoing).await.outcome.is_success());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// A queue of deliveries to several webhooks, as an outage would leave it.
async fn fill(world: &World, home: &Home, sink: &Sink) {
    let served = home.serve(Some(&sink.authority_pem)).await;
    let site = home.api(&served, "/api/sites", json!({"domain": SITE})).await;
    let mut webhooks = Vec::new();
    for index in 0..WEBHOOKS {
        let body = json!({
            "url": format!("{}/{index}", sink.url()), "name": index.to_string(), "secret": SECRET,
            "triggers": [{"type": "visitor_spike"}]
        });
        webhooks.push(home.api(&served, &format!("/api/sites/{SITE}/webhooks"), body).await["webhook"].clone());
    }
    served.stop().await;
    let store = Store::open(&home.database_url).await.unwrap();
    let site_id = site["site"]["id"].as_str().unwrap().parse().unwrap();
    let account_id = store.find_or_create_account("Bench", world.clock.now()).await.unwrap();
    for batch in 0..DELIVERIES / 1_000 {
        let now = world.clock.now();
        let fired = (0..1_000)
            .map(|index| {
                let webhook = &webhooks[index % WEBHOOKS];
                let addressee = Addressee {
                    account_id,
                    site_id,
                    site_domain: SITE,
                    webhook_id: webhook["id"].as_str().unwrap().parse().unwrap(),
                    format: Format::default(),
                    trigger: None,
                };
                let id = EventId(world.chance.uuid_v7(now));
                let mut event = Event::new(id, &addressee, format!("bench:{batch}:{index}"), Data::test(), now);
                event.trigger_id = Some(webhook["triggers"][0]["id"].as_str().unwrap().parse().unwrap());
                event.payload.resize(600, b' ');
                Fired { event, shard: shard_of(site_id), trigger_version: Some(1), state: None, shadow: false }
            })
            .collect();
        let step = Step { fired, ..Step::default() };
        assert_eq!(store.record(&step, now).await.unwrap().len(), 1_000);
    }
    store.close().await;
}

/// From the moment a completion is on disk to its POST, at a steady rate; one long run each.
async fn latency(world: &World) {
    for (name, on_postgres) in [("SQLite", false), ("PostgreSQL", true)] {
        for rate in [100_u64, 1_000] {
            let mut receiver = world.receiver().await;
            let home = world.home(on_postgres).await;
            let served = home.serve(receiver.authority_pem.as_deref()).await;
            home.api(&served, "/api/sites", json!({"domain": SITE})).await;
            home.api(&served, &format!("/api/sites/{SITE}/goals"), json!({"event_name": "Signup"})).await;
            let body = json!({
                "url": receiver.url(), "name": "Latency", "secret": SECRET, "triggers": [{"type": "goal_completion"}]
            });
            home.api(&served, &format!("/api/sites/{SITE}/webhooks"), body).await;
            let total = rate * SECONDS_OF_LATENCY;
            let (waits, round_trips) =
                tokio::join!(arrivals(&mut receiver, total), at_a_rate(world, served.address, rate, total),);
            println!(
                "event to POST, {name:<10} {rate:>5}/s   p50 {:>5.1} ms   p99 {:>6.1} ms   the tracker's own 202: p50 {:.1} ms, p99 {:.1} ms",
                percentile(&waits, 50),
                percentile(&waits, 99),
                percentile(&round_trips, 50),
                percentile(&round_trips, 99),
            );
            served.stop().await;
        }
    }
}

/// Milliseconds each completion waited for its POST. Completions of one evaluation share a POST; all of them are charged
/// with the wait of the first.
async fn arrivals(receiver: &mut Receiver, total: u64) -> Vec<f64> {
    let mut waits = Vec::new();
    while (waits.len() as u64) < total {
        let received: Received = receiver.received.recv().await.unwrap();
        let data = received.payload()["data"].clone();
        let first: Timestamp = data["window_start"].as_str().unwrap().parse().unwrap();
        let wait = received.at.since(first).as_secs_f64() * 1e3;
        waits.extend(std::iter::repeat_n(wait, usize::try_from(data["count"].as_u64().unwrap()).unwrap()));
    }
    waits
}

/// Posts at a steady rate whatever the answers do, and says how many milliseconds each answer took.
async fn at_a_rate(world: &World, address: SocketAddr, rate: u64, total: u64) -> Vec<f64> {
    let http = http();
    let began = world.clock.now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..total {
        world.clock.sleep_until(began + Duration::from_secs_f64(number as f64 / rate as f64)).await;
        let (http, clock) = (http.clone(), world.clock.clone());
        tasks.spawn(async move {
            let began = clock.monotonic();
            let visitor = usize::try_from(number % 5_000).unwrap();
            let response = http.request(event(address, "Signup", SITE, visitor)).await.unwrap();
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            response.into_body().collect().await.unwrap();
            (clock.monotonic() - began).as_secs_f64() * 1e3
        });
    }
    tasks.join_all().await
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
