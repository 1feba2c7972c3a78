//! The whole service on a clock that stands still, spoken to over HTTP like anybody else does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pulsehook::analytics::Analytics;
use pulsehook::app::{App, Substitutes};
use pulsehook::chance::Chance;
use pulsehook::clock::{Clock, ManualClock};
use pulsehook::config::{Config, Sources};
use pulsehook::directory::{Grant, issue_key};
use pulsehook::domain::access::{Role, Who};
use pulsehook::domain::address::AddressPolicy;
use pulsehook::domain::ids::AccountId;
use pulsehook::domain::time::Timestamp;
use pulsehook::engine::egress::{DialRecorder, Resolver};
use pulsehook::http::Api;
use pulsehook::store::Store;
use pulsehook::store::audit::Change;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Database;
use super::zoo::{Certificate, Endpoint};

pub const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";
pub const SITE: &str = "example.com";
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// A Wednesday.
pub const START: &str = "2026-02-25T10:00:00Z";
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// What differs from the usual.
#[derive(Default)]
pub struct Setup {
    pub settings: Vec<(&'static str, String)>,
    pub resolver: Option<Resolver>,
    /// Who certifies endpoints, beside the well-known ones.
    pub authority_pem: Option<String>,
}

impl Setup {
    /// Endpoints with this certificate are trusted.
    pub fn trusting(certificate: &Certificate) -> Self {
        Self { authority_pem: Some(certificate.authority_pem.clone()), ..Self::default() }
    }
}

pub struct TestApp {
    pub clock: ManualClock,
    pub store: Store,
    pub analytics: Analytics,
    pub api: Api,
    pub address: SocketAddr,
    pub account_id: AccountId,
    /// An owner's.
    pub key: String,
    pub database: Database,
    chance: Chance,
    dialled: Dialled,
    http: reqwest::Client,
    stop: DropGuard,
    running: JoinHandle<anyhow::Result<()>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl TestApp {
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, Setup::default()).await
    }

    pub async fn start_with(database: Database, setup: Setup) -> Self {
        Self::start_at(database, setup, ManualClock::at(START.parse().unwrap())).await
    }

    /// With a clock that stands at the real time: for those who compare ours with theirs.
    pub async fn start_now(database: Database) -> Self {
        Self::start_at(database, Setup::default(), ManualClock::at(Clock::system().now())).await
    }

    pub async fn start_at(database: Database, setup: Setup, clock: ManualClock) -> Self {
        let mut flags: BTreeMap<String, String> = [
            ("listen", "127.0.0.1:0".to_owned()),
            ("data_dir", database.folder.path().display().to_string()),
            ("database_url", database.url.clone()),
            ("master_key", MASTER_KEY.to_owned()),
            ("egress_allow", "127.0.0.0/8".to_owned()),
            ("egress_allow_http", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(authority_pem) = setup.authority_pem {
            let file = database.folder.path().join("authorities.pem");
            std::fs::write(&file, authority_pem).unwrap();
            flags.insert("egress_ca".to_owned(), file.display().to_string());
        }
        flags.extend(setup.settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let config = Config::from_sources(&Sources { flags, ..Sources::default() }).expect("the settings are valid");
        let chance = Chance::from_system();
        let dialled = Dialled { addresses: DialRecorder::default(), policy: config.address_policy(Vec::new()) };
        let substitutes = Substitutes { resolver: setup.resolver, dialled: Some(dialled.addresses.clone()) };
        let app = App::build_with(config, clock.clock(), chance.clone(), substitutes).await.expect("the app starts");
        let (store, analytics, api, address) =
            (app.store.clone(), app.analytics.clone(), app.api.clone(), app.address());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let running = tokio::spawn(app.run(async move { token.cancelled().await }));
        let mut app = Self {
            clock,
            store,
            analytics,
            api,
            address,
            account_id: AccountId(0),
            key: String::new(),
            database,
            chance,
            dialled,
            http: http_client(),
            stop: stop.drop_guard(),
            running,
        };
        (app.account_id, app.key) = app.account("Test account", Role::Owner).await;
        app
    }

    /// Stops it gracefully and hands the database back.
    pub async fn stop(self) -> Database {
        self.stop.disarm().cancel();
        self.running.await.expect("it does not panic").expect("it stops without an error");
        self.database
    }

    /// Every address that was dialled so far.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        self.dialled.addresses.lock().unwrap().clone()
    }

    /// A key of an account, which is created when there is none of that name.
    pub async fn account(&self, name: &str, role: Role) -> (AccountId, String) {
        let now = self.clock.now();
        let account_id = self.store.find_or_create_account(name, now).await.unwrap();
        let change = self.change(account_id);
        let grant = Grant { name: "Test".to_owned(), role, site_id: None, expires_at: None };
        let (_, text) = issue_key(&self.store, &change, grant, &self.chance).await.unwrap().unwrap();
        (account_id, text.expose().to_owned())
    }

    pub fn change(&self, account_id: AccountId) -> Change {
        let now = self.clock.now();
        Change::without_request(account_id, Who::Operator, now, self.chance.uuid_v7(now))
    }

    /// Everything committed is evaluated and everything due is attempted when this returns.
    pub async fn drain(&self) {
        self.api.wake.drain().await;
    }

    pub fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(&self.key)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_as(&self.key, path, body).await
    }

    pub async fn post_as(&self, key: &str, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).bearer_auth(key).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).bearer_auth(&self.key).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path).bearer_auth(&self.key)).await
    }

    /// The site most tests use.
    pub async fn site(&self) -> Value {
        self.post("/api/sites", json!({"domain": SITE})).await.expect(201)["site"].clone()
    }

    pub async fn goal(&self, body: Value) -> Value {
        self.post(&format!("/api/sites/{SITE}/goals"), body).await.expect(201)["goal"].clone()
    }

    /// A signed webhook with these triggers.
    pub async fn webhook(&self, url: &str, triggers: Value) -> Value {
        let body = json!({"name": "Test", "url": url, "secret": SECRET, "triggers": triggers});
        self.post(&format!("/api/sites/{SITE}/webhooks"), body).await.expect(201)["webhook"].clone()
    }

    /// A site with a webhook at `endpoint` for every goal.
    pub async fn webhook_at(&self, endpoint: &Endpoint) -> Hook<'_> {
        self.site().await;
        let webhook = self.webhook(&endpoint.url(), json!([{"type": "goal_completion"}])).await;
        Hook { app: self, path: format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"])) }
    }

    /// What a tracker would send for `visitor`.
    pub async fn track(&self, visitor: u32, body: Value) -> Answer {
        let address = format!("203.0.{}.{}", visitor / 250, visitor % 250 + 1);
        let request = self.request(Method::POST, "/api/event").header("user-agent", BROWSER);
        let answer = Answer::of(request.header("x-forwarded-for", address).json(&body)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        answer
    }

    pub async fn visit(&self, visitor: u32, path: &str) {
        let url = format!("https://{SITE}{path}");
        let answer = self.track(visitor, json!({"n": "pageview", "u": url, "d": SITE})).await;
        assert_eq!(answer.header("x-plausible-dropped"), None);
    }

    pub async fn convert(&self, visitor: u32, name: &str) {
        let url = format!("https://{SITE}/");
        self.track(visitor, json!({"n": name, "u": url, "d": SITE})).await;
    }
}

/// A webhook and its path.
pub struct Hook<'a> {
    app: &'a TestApp,
    pub path: String,
}

impl Hook<'_> {
    /// Puts a test delivery into the queue and answers its id.
    pub async fn send_test(&self) -> String {
        let answer = self.app.post(&format!("{}/test", self.path), json!({})).await.expect(202);
        text(&answer["delivery"]["id"]).to_owned()
    }

    pub async fn show(&self) -> Value {
        self.app.get(&self.path).await.expect(200)["webhook"].clone()
    }

    pub async fn delivery(&self, id: &str) -> Value {
        self.app.get(&format!("{}/deliveries/{id}", self.path)).await.expect(200)["delivery"].clone()
    }

    pub async fn deliveries(&self) -> Vec<Value> {
        let answer = self.app.get(&format!("{}/deliveries?limit=100", self.path)).await.expect(200);
        answer["deliveries"].as_array().unwrap().clone()
    }
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("the answer is whole").to_vec() }
    }

    /// Of an answer that goes on: only how it begins.
    pub async fn head_of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = if status.is_success() { Vec::new() } else { response.bytes().await.expect("it ends").to_vec() };
        Self { status, headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body, if the status is the expected one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    #[track_caller]
    pub fn expect_text(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.text()
    }

    /// The sentences about a field of a request that was answered 422.
    #[track_caller]
    pub fn complaint(&self, field: &str) -> String {
        let problem = self.expect(422);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let sentences = problem["errors"][field].as_array().unwrap_or_else(|| panic!("no complaint: {problem}"));
        sentences.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

pub fn http_client() -> reqwest::Client {
    // The second one finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client can be made")
}

/// Names that lead to these addresses, and no others.
pub fn names<const N: usize>(names: [(&str, &[&str]); N]) -> Resolver {
    let names = names
        .into_iter()
        .map(|(name, addresses)| (name.to_owned(), addresses.iter().map(|text| text.parse().unwrap()).collect()));
    let names: BTreeMap<String, Vec<IpAddr>> = names.collect();
    resolver(move |name| names.get(name).cloned().unwrap_or_default())
}

/// Names that lead where this says.
pub fn resolver(answer: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Resolver {
    Resolver::Scripted(std::sync::Arc::new(answer))
}

/// Looks at what was dialled when a test ends, however it ends: only this machine, and of it only what the app's settings
/// allow.
struct Dialled {
    addresses: DialRecorder,
    policy: AddressPolicy,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        let addresses = self.addresses.lock().unwrap();
        let wrong = addresses.iter().find(|address| {
            let allowed = self.policy.allow.iter().any(|network| network.contains(&address.ip()));
            !address.ip().is_loopback() || !allowed || self.policy.judge(address.ip()).is_err()
        });
        // A second panic would end all tests.
        if let Some(address) = wrong.filter(|_| !std::thread::panicking()) {
            panic!("{address} was dialled");
        }
    }
}
