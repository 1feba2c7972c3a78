//! `demo`: the whole product on a throw-away folder, with real traffic.
//!
//! The bundled log of a real site becomes four days of history that end just now, then is played on as live traffic. A
//! surge that is made up, and marked as such, goes into it. Webhooks go to a receiver of our own over HTTPS; each that
//! arrives and verifies is printed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::import::{Visit, attribute, body_of, judge, unpack};
use super::receive::{Options, Received, Receiver, summary};
use super::{output, serve};
use crate::analytics::recorder::Recorder;
use crate::app::App;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::directory::{Grant, issue_key, password};
use crate::domain::access::{Role, Who};
use crate::domain::signature::SigningSecret;
use crate::domain::time::Timestamp;
use crate::store::accounts::Founding;
use crate::store::audit::Change;
use crate::telemetry;

const SITE: &str = "semicomplete.com";
/// Who can sign in.
const EMAIL: &str = "demo@example.com";
const LOG: &[u8] = include_bytes!("../../data/semicomplete-2015-05.access.log.gz");
/// How much faster than it was the log is played on.
const REPLAY: f64 = 60.0;
/// Visitors of the surge.
const SURGE: u8 = 60;
const SURGE_PAGE: &str = "/blog/geekery/ssl-latency.html";
const SURGE_AFTER: Duration = Duration::from_secs(4);
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Address and port of the API; any free port when it is taken
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// End with exit code 0 after so many verified deliveries
    #[arg(long, value_name = "N")]
    exit_after: Option<u64>,
    /// Keep the folder
    #[arg(long)]
    keep: bool,
}

/// What came out of the set-up.
struct Stage {
    base_url: String,
    key: String,
    /// Of [`EMAIL`], for the pages.
    password: String,
    visits: Vec<Visit>,
    client: reqwest::Client,
}

impl Demo {
    pub async fn run(self) -> anyhow::Result<()> {
        telemetry::start_logs(None, "error");
        let chance = Chance::from_system();
        let clock = Clock::system();
        let folder = std::env::temp_dir().join(format!("pulsehook-demo-{}", hex::encode(chance.bytes::<6>())));
        let outcome = self.play(&folder, clock, chance).await;
        if self.keep {
            output::hint(&format!("Everything is kept in {}", folder.display()));
        } else {
            // What is left of a throw-away folder bothers nobody.
            let _ = std::fs::remove_dir_all(&folder);
        }
        outcome
    }

    async fn play(&self, folder: &Path, clock: Clock, chance: Chance) -> anyhow::Result<()> {
        crate::app::prepare_data_dir(folder)?;
        let secret = SigningSecret::generate(chance.bytes());
        let receiver = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret: Some(secret.clone()),
            tls: true,
            status: StatusCode::OK,
            delay: Duration::ZERO,
        };
        let mut receiver = Receiver::start(receiver, clock.clone()).await?;
        let authority = folder.join("receiver-authority.pem");
        std::fs::write(&authority, receiver.authority_pem.as_deref().unwrap_or_default())?;
        let config = config(folder, &authority, free_address(self.listen).await)?;
        let app = App::build(config, clock.clone(), chance.clone()).await?;
        let stage = set_up(&app, &receiver.url(), &secret, &clock, &chance).await?;
        announce(&stage, &receiver.url());

        let stop = CancellationToken::new();
        let token = stop.clone();
        let service = tokio::spawn(app.run(async move { token.cancelled().await }));
        let traffic = tokio::spawn(live_traffic(stage, clock.clone()));
        let outcome = self.print_deliveries(&mut receiver).await;
        traffic.abort();
        stop.cancel();
        service.await.context("the service ended unexpectedly")??;
        outcome
    }

    /// One line a delivery, until there were enough or somebody stops it.
    async fn print_deliveries(&self, receiver: &mut Receiver) -> anyhow::Result<()> {
        let mut verified = 0;
        let mut spikes = 0;
        let mut stop = std::pin::pin!(serve::stop_signal()?);
        loop {
            let received = tokio::select! {
                () = &mut stop => break,
                received = receiver.received.recv() => received.context("the receiver stopped")?,
            };
            if let Some(Err(problem)) = received.verified {
                bail!("a delivery did not verify: {problem}");
            }
            verified += 1;
            spikes += u64::from(received.header("x-webhook-event-type") == "visitor_spike");
            output::say(&line(&received));
            // Leaving before the spike came would leave out the best part.
            if self.exit_after.is_some_and(|enough| verified >= enough && (enough < 2 || spikes > 0)) {
                break;
            }
        }
        output::hint(&format!("{verified} deliveries verified, {spikes} of them a visitor spike."));
        Ok(())
    }
}

fn config(folder: &Path, authority: &Path, listen: SocketAddr) -> anyhow::Result<Config> {
    let flags = BTreeMap::from(
        [
            ("listen", listen.to_string()),
            ("data_dir", folder.display().to_string()),
            ("egress_allow", "127.0.0.0/8".to_owned()),
            // An endpoint that somebody writes on this machine has no certificate yet.
            ("egress_allow_http", "true".to_owned()),
            ("egress_ca", authority.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    Ok(Config::from_sources(&Sources { flags, ..Sources::default() })?)
}

/// The address asked for, or any port of it when that one is taken.
async fn free_address(wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted).await {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

/// Account, key, site, goals, history and webhook.
async fn set_up(
    app: &App,
    hook: &str,
    secret: &SigningSecret,
    clock: &Clock,
    chance: &Chance,
) -> anyhow::Result<Stage> {
    let now = clock.now();
    let password = hex::encode(chance.bytes::<8>());
    let password_hash = password::hash(password.clone(), chance.bytes()).await?;
    let founding = Founding { account: "Demo", email: EMAIL, password_hash: &password_hash };
    let (account_id, _) = app.store.found_account(&founding, now).await?;
    let change = || Change::without_request(account_id, Who::Operator, now, chance.uuid_v7(now));
    let grant = Grant { name: "Demo".to_owned(), role: Role::Owner, site_id: None, expires_at: None };
    let made = issue_key(&app.store, &change(), grant, chance).await?;
    let (_, text) = made.context("a new account has as many keys as it may")?;
    let site = app.store.create_site(&change(), SITE, "America/Los_Angeles", 1).await?;
    let site = site.context("a new account has as many sites as it may")?;

    let (visits, summary) = judge(&unpack(LOG.to_vec())?, SITE);
    output::hint(&format!("The access log of {SITE}, four days in May 2015:\n{summary}"));
    let last = visits.last().context("the bundled log has visits")?.at;
    let recorder = Recorder::new(app.analytics.clone(), clock.clone(), chance.clone()).await?;
    app.analytics.import(attribute(&recorder, &visits, site.id, SITE, now.since(last))).await?;

    // Everything else goes through the API, as an owner would do it.
    let stage = Stage {
        base_url: app.config.base_url.clone(),
        key: text.expose().to_owned(),
        password,
        visits,
        client: client()?,
    };
    let api = crate::http::router(app.api.clone());
    let send = async |path: &str, body: Value| -> anyhow::Result<Value> {
        use tower::ServiceExt as _;
        let request = http::Request::post(path)
            .header("authorization", format!("Bearer {}", stage.key))
            .body(axum_body(&body))?;
        let response = api.clone().oneshot(request).await.expect("the router does not fail");
        let status = response.status();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    };
    for goal in [
        json!({"page_path": "/projects/xdotool*", "display_name": "Looks at xdotool"}),
        json!({"page_path": "/presentations/*", "display_name": "Opens a presentation"}),
        json!({"event_name": "Signup", "display_name": "Signs up"}),
    ] {
        send(&format!("/api/sites/{SITE}/goals"), goal).await?;
    }
    let webhook = json!({
        "name": "Demo receiver",
        "url": hook,
        "secret": secret.expose(),
        "triggers": [{"type": "visitor_spike"}, {"type": "goal_completion"}],
    });
    send(&format!("/api/sites/{SITE}/webhooks"), webhook).await?;
    Ok(stage)
}

fn announce(stage: &Stage, hook: &str) {
    output::hint(&format!(
        "Pages      {}   (sign in as {EMAIL}, password {})\nAPI        {}/docs\nKey        {}\nReceiver   {hook}\n\n\
         Playing the log on at {REPLAY} times its pace; a surge that is made up follows in {} seconds.\n",
        stage.base_url,
        stage.password,
        stage.base_url,
        stage.key,
        SURGE_AFTER.as_secs(),
    ));
}

/// The log once more, as it happens, with the surge in it.
async fn live_traffic(stage: Stage, clock: Clock) {
    let began = clock.now();
    let surge = surge_in(&stage, &clock);
    let replay = async {
        let Some(first) = stage.visits.first().map(|visit| visit.at) else { return };
        for visit in &stage.visits {
            clock.sleep_until(began + visit.at.since(first).div_f64(REPLAY)).await;
            track(&stage, &body_of(&visit.event, SITE), &visit.user_agent, visit.address).await;
        }
    };
    tokio::join!(replay, surge);
}

/// Made up: sixty people from Hacker News within a few seconds, some of whom sign up.
async fn surge_in(stage: &Stage, clock: &Clock) {
    clock.sleep(SURGE_AFTER).await;
    output::say(&format!("--- made-up surge: {SURGE} visitors from Hacker News to {SURGE_PAGE} ---"));
    for visitor in 0..SURGE {
        let address = IpAddr::V4(Ipv4Addr::new(198, 19, 255, visitor));
        let url = format!("https://{SITE}{SURGE_PAGE}");
        let visit = json!({"n": "pageview", "u": url, "d": SITE, "r": "https://news.ycombinator.com/"});
        track(stage, &visit, BROWSER, address).await;
        if visitor % 12 == 11 {
            let signup = json!({"n": "Signup", "u": url, "d": SITE, "p": {"plan": "free"}});
            track(stage, &signup, BROWSER, address).await;
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
}

async fn track(stage: &Stage, body: &Value, user_agent: &str, address: IpAddr) {
    let request = stage
        .client
        .post(format!("{}/api/event", stage.base_url))
        .header("user-agent", user_agent)
        .header("x-forwarded-for", address.to_string())
        .json(body);
    // A tracker that cannot reach its server has nobody to tell either.
    let _ = request.send().await;
}

fn line(received: &Received) -> String {
    let payload = received.payload();
    let fired: Option<Timestamp> = payload["timestamp"].as_str().and_then(|text| text.parse().ok());
    let latency = fired.map_or(Duration::ZERO, |fired| received.at.since(fired));
    format!(
        "{}  {:<15}  verified (v1, sha256)  {:>4} ms  {}",
        received.at.to_jiff().strftime("%H:%M:%S"),
        received.header("x-webhook-event-type"),
        latency.as_millis(),
        output::printable(&summary(&payload)),
    )
}

fn client() -> anyhow::Result<reqwest::Client> {
    super::client::http_client()
}

fn axum_body(body: &Value) -> axum::body::Body {
    axum::body::Body::from(body.to_string())
}
