//! A client of our own API: what the other commands speak through.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::output::printable;

/// Where the API is and who asks.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Address of the server [env: PULSEHOOK_SERVER] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    server: Option<String>,
    /// API key; better in the environment than on the command line [env: PULSEHOOK_KEY, PULSEHOOK_KEY_FILE]
    #[arg(long, value_name = "KEY", help_heading = "Connection", hide_default_value = true)]
    key: Option<String>,
}

/// The same, and how its answers are shown.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    #[command(flatten)]
    place: Place,
    /// Print the API's JSON
    #[arg(long, help_heading = "Connection")]
    pub json: bool,
}

pub struct Client {
    http: reqwest::Client,
    server: String,
    key: Option<String>,
}

impl Connection {
    /// # Errors
    /// There is no key anywhere.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.place.client()
    }

    /// For what needs no key.
    pub fn anonymous(&self) -> anyhow::Result<Client> {
        Ok(Client { http: http_client()?, server: self.place.server(), key: None })
    }
}

impl Place {
    fn server(&self) -> String {
        let server = self.server.clone().or_else(|| std::env::var("PULSEHOOK_SERVER").ok());
        server.unwrap_or_else(|| "http://127.0.0.1:8080".to_owned()).trim_end_matches('/').to_owned()
    }

    /// # Errors
    /// There is no key anywhere.
    pub fn client(&self) -> anyhow::Result<Client> {
        let key = match self.key.clone().or_else(|| std::env::var("PULSEHOOK_KEY").ok()) {
            Some(key) => key,
            None => match std::env::var("PULSEHOOK_KEY_FILE").map(PathBuf::from) {
                Ok(path) => std::fs::read_to_string(&path)
                    .with_context(|| format!("PULSEHOOK_KEY_FILE {} cannot be read", path.display()))?
                    .trim()
                    .to_owned(),
                Err(_) => bail!(
                    "an API key is needed: set PULSEHOOK_KEY, or make one on the server's machine with \
                     `pulsehook keys create --account NAME --role owner`"
                ),
            },
        };
        Ok(Client { http: http_client()?, server: self.server(), key: Some(key) })
    }
}

/// What came of asking for a stream.
pub enum Opening {
    Open(reqwest::Response),
    /// It will not work however often it is tried.
    Refused(anyhow::Error),
    /// It may work later.
    Later(anyhow::Error),
}

impl Client {
    /// Asks for server-sent events after `last_id`.
    pub async fn open_stream(&self, path: &str, last_id: Option<&str>) -> Opening {
        let http = match streaming_client() {
            Ok(http) => http,
            Err(error) => return Opening::Refused(error),
        };
        let mut request = http.get(format!("{}{path}", self.server)).header("accept", "text/event-stream");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Opening::Refused(self.unreachable(error)),
            Err(error) => return Opening::Later(self.unreachable(error)),
        };
        let status = response.status();
        if status.is_success() {
            return Opening::Open(response);
        }
        let answer = response.json().await.unwrap_or_default();
        let error = problem(status, &answer, None);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Opening::Later(error)
        } else {
            Opening::Refused(error)
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Map<String, Value>) -> anyhow::Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Map<String, Value>) -> anyhow::Result<Value> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::DELETE, path, None).await
    }

    /// Posts an event as a tracker would.
    pub async fn track(&self, body: &Value, user_agent: &str, address: &str) -> anyhow::Result<StatusCode> {
        let request = self
            .http
            .post(format!("{}/api/event", self.server))
            .header("user-agent", user_agent)
            .header("x-forwarded-for", address)
            .json(body);
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        Ok(response.status())
    }

    async fn send(&self, method: Method, path: &str, body: Option<Map<String, Value>>) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.server));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await.context("the answer broke off")?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{} does not answer like a Pulsehook server (status {status})", self.server))?;
        if status.is_success() { Ok(answer) } else { Err(problem(status, &answer, id)) }
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        if error.is_builder() {
            return anyhow::anyhow!("{} is not an address of a server", self.server);
        }
        anyhow::anyhow!("cannot reach {}: is `pulsehook serve` running there?", self.server)
    }
}

/// The API's problem as people read it: one line for each field that is wrong.
fn problem(status: StatusCode, answer: &Value, request_id: Option<String>) -> anyhow::Error {
    let mut text = match answer["errors"].as_object() {
        Some(errors) if !errors.is_empty() => {
            let lines: Vec<_> = errors
                .iter()
                .flat_map(|(field, texts)| {
                    texts
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(move |text| format!("{field} {}", super::output::plain(text)))
                })
                .collect();
            lines.join("\n       ")
        }
        _ => {
            answer["detail"].as_str().map_or_else(|| format!("the server answered with status {status}"), str::to_owned)
        }
    };
    if status.is_server_error()
        && let Some(id) = request_id
    {
        text.push_str(&format!(" (request {id})"));
    }
    anyhow::anyhow!(printable(&text))
}

/// A client for servers of our own.
///
/// # Errors
/// It cannot be started.
pub fn http_client() -> anyhow::Result<reqwest::Client> {
    // A second client finds it installed.
    let _ = Arc::new(rustls::crypto::ring::default_provider()).as_ref().clone().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .user_agent(concat!("pulsehook-cli/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("the HTTP client cannot be started")
}

/// For answers that go on: the server says something every 15 seconds, and who hears nothing comes back.
fn streaming_client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(40))
        .user_agent(concat!("pulsehook-cli/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("the HTTP client cannot be started")
}

/// An id or a domain as a part of a path.
pub fn id_of(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
