//! The product at work: `serve` as a child of this process, and its API.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::home::Account;
use super::trackers::{Http, http};
use super::{World, usage};

const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const LONGEST_START: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// More than any figure makes.
const WEBHOOKS_PER_ACCOUNT: &str = "1000000";
/// As many attempts a second as an endpoint takes, and more under way than C has: what matters is what the product can
/// do, not what an endpoint should bear.
const UNLIMITED: [(&str, &str); 2] = [("PULSEHOOK_ENDPOINT_RATE", "0"), ("PULSEHOOK_HOST_IN_FLIGHT", "128")];

/// How the server is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Authorities that vouch for the endpoints.
    pub authorities_pem: String,
    /// Whether the limits that protect endpoints are off. Without, they are what they are by default.
    pub unlimited: bool,
    /// Where traffic is kept, if not in a file of its own.
    pub analytics_url: String,
}

/// The running server. It is killed when dropped.
pub struct Served {
    child: Child,
    pid: u32,
    pub address: SocketAddr,
    pub api: Api,
}

/// Its API. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    server: SocketAddr,
    http: Http,
}

/// Metrics of the server at one moment.
pub struct Metrics(String);

impl Metrics {
    /// Of one series, by its name with its labels; zero where nothing was counted yet.
    pub fn value(&self, name: &str) -> anyhow::Result<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), str::parse::<f64>)?)
    }
}

impl Served {
    /// Starts it and waits until it says that it can work.
    pub async fn start(world: &World, database_url: &str, folder: &Path, launch: &Launch) -> anyhow::Result<Self> {
        let mut served = Self::spawn(world, database_url, folder, launch)?;
        served.ready(world).await?;
        Ok(served)
    }

    /// Starts it and does not wait.
    pub fn spawn(world: &World, database_url: &str, folder: &Path, launch: &Launch) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(&world.executable);
        command
            .arg("serve")
            .env_clear()
            .env("PULSEHOOK_LISTEN", address.to_string())
            .env("PULSEHOOK_DATA_DIR", folder)
            .env("PULSEHOOK_DATABASE_URL", database_url)
            .env("PULSEHOOK_MASTER_KEY", MASTER_KEY)
            .env("PULSEHOOK_EGRESS_ALLOW", "127.0.0.0/8")
            .env("PULSEHOOK_MAX_WEBHOOKS_PER_ACCOUNT", WEBHOOKS_PER_ACCOUNT)
            .env("PULSEHOOK_LOG_LEVEL", "error")
            // A settings file of the current folder is not meant.
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        if launch.unlimited {
            command.envs(UNLIMITED);
        }
        if !launch.analytics_url.is_empty() {
            command.env("PULSEHOOK_ANALYTICS_URL", &launch.analytics_url);
        }
        if !launch.authorities_pem.is_empty() {
            let path = folder.join("authorities.pem");
            std::fs::write(&path, &launch.authorities_pem)?;
            command.env("PULSEHOOK_EGRESS_CA", path);
        }
        let child = command.spawn().context("the server cannot be started")?;
        let pid = child.id().context("the server ended at once")?;
        Ok(Self { child, pid, address, api: Api { server: address, http: http() } })
    }

    async fn ready(&mut self, world: &World) -> anyhow::Result<()> {
        let began = world.clock.monotonic();
        let address = format!("http://{}/health/ready", self.address);
        loop {
            if let Ok(response) = self.api.http.request(Request::get(&address).body(Full::default())?).await
                && response.status() == StatusCode::OK
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the server ended with {status} instead of getting ready");
            }
            anyhow::ensure!(world.clock.monotonic() - began < LONGEST_START, "the server does not get ready");
            world.clock.sleep(BETWEEN_LOOKS).await;
        }
    }

    /// What it counts, as it tells now.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let request = Request::get(format!("http://{}/metrics", self.address)).body(Full::default())?;
        let body = self.api.http.request(request).await?.into_body().collect().await?.to_bytes();
        Ok(Metrics(String::from_utf8(body.to_vec())?))
    }

    /// CPU seconds it has used so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        usage::cpu_seconds(self.pid).context("the server's CPU time cannot be read; has it ended?")
    }

    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        usage::resident_mib(self.pid).context("the server's memory cannot be read; has it ended?")
    }

    pub fn peak_resident_mib(&self) -> anyhow::Result<f64> {
        usage::peak_resident_mib(self.pid).context("the server's memory cannot be read; has it ended?")
    }

    /// Asks it to finish what it has begun, and waits until it has.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.pid.to_string()]).status().await?;
        anyhow::ensure!(asked.success(), "the server cannot be stopped; has it ended by itself?");
        let status = self.child.wait().await?;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// Ends it where it stands, where nobody needs what it would still do.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the server cannot be killed")
    }
}

impl Api {
    /// A POST on behalf of an account.
    ///
    /// # Errors
    /// The answer is not a success.
    pub async fn post(&self, account: &Account, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(format!("http://{}{path}", self.server))
            .header("authorization", format!("Bearer {}", account.key))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = self.http.request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }
}
