//! `listen`: what happens on a site, sent to a server on this machine while somebody builds it. A client of the site's
//! stream: each event is forwarded once, signed with a secret made for this run, and the webhook's endpoint notices nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::redirect;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use url::{Host, Url};

use super::client::{Client, Connection, Opening, id_of};
use super::output::{self, plain};
use super::{WrongUsage, serve};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::ids::EventId;
use crate::domain::signature::SigningSecret;
use crate::domain::time::Timestamp;
use crate::domain::webhook::Format;

/// Events on their way at once.
const AT_ONCE: usize = 8;
/// Ids that are remembered: what comes twice after a reconnection came lately.
const REMEMBERED: usize = 10_000;
/// An event recorded so shortly before is new all the same: it may just have been committed.
const GRACE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Listen {
    /// Id or domain
    #[arg(long)]
    site: String,
    /// Where events go, such as localhost:3000/hook
    #[arg(long, value_name = "URL")]
    forward_to: String,
    /// Only what is meant for this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,
    /// Print the payloads too
    #[arg(long)]
    print_json: bool,
    /// Do not check the certificate of the local server
    #[arg(long)]
    skip_verify: bool,
    /// Allow a target that is not on this machine
    #[arg(long)]
    allow_external: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Listen {
    pub async fn run(self) -> anyhow::Result<()> {
        let target = target(&self.forward_to, self.allow_external)?;
        let secret = SigningSecret::generate(Chance::from_system().bytes());
        // It comes first, for it brings what TLS needs.
        let client = self.connection.client()?;
        let forwarder = Forwarder { http: local_client(&target, self.skip_verify)?, target, secret };
        let mut stop = std::pin::pin!(serve::stop_signal()?);
        let mut listening = Listening {
            path: format!("/api/sites/{}", id_of(&self.site)),
            command: &self,
            client,
            forwarder,
            clock: Clock::system(),
            last_id: None,
            began_at: None,
            seen: HashSet::new(),
            order: VecDeque::new(),
            formats: HashMap::new(),
        };
        listening.introduce();
        tokio::select! {
            () = &mut stop => Ok(()),
            failed = listening.run() => failed.map(|never| match never {}),
        }
    }
}

/// What a run knows.
struct Listening<'a> {
    path: String,
    command: &'a Listen,
    client: Client,
    forwarder: Forwarder,
    clock: Clock,
    last_id: Option<String>,
    /// On the server's clock.
    began_at: Option<Timestamp>,
    seen: HashSet<EventId>,
    order: VecDeque<EventId>,
    /// By webhook.
    formats: HashMap<String, Format>,
}

impl Listening<'_> {
    fn introduce(&self) {
        let secret = self.forwarder.secret.expose();
        if self.command.connection.json {
            output::json_line(&json!({ "signing_secret": secret, "forward_to": self.forwarder.target.as_str() }));
            return;
        }
        output::say(secret);
        output::hint(&format!(
            "The signing secret of this run. Events of {} go to {}; Ctrl-C ends it.",
            self.command.site, self.forwarder.target
        ));
    }

    /// # Errors
    /// The server says that this will never work.
    async fn run(&mut self) -> anyhow::Result<std::convert::Infallible> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.client.open_stream(&format!("{}/stream", self.path), self.last_id.as_deref()).await {
                Opening::Refused(error) => return Err(error),
                Opening::Later(error) => {
                    output::hint(&format!("{}; trying again in {} s", output::in_words(&error), pause.as_secs()));
                    self.clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Opening::Open(response) => {
                    pause = FIRST_PAUSE;
                    if self.last_id.is_none() {
                        output::hint("Listening.");
                    }
                    self.follow(response).await;
                    self.clock.sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    /// Forwards until the stream ends, which it does now and then: the next one goes on where it was.
    async fn follow(&mut self, mut response: reqwest::Response) {
        let mut frames = Frames::default();
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                Some(forwarded) = under_way.join_next() => {
                    if let Ok(forwarded) = forwarded {
                        self.tell(&forwarded);
                    }
                }
                chunk = response.chunk(), if under_way.len() < AT_ONCE => {
                    let Ok(Some(chunk)) = chunk else { break };
                    frames.push(&chunk);
                    for frame in frames.take() {
                        if let Some(event) = self.understand(&frame).await {
                            let forwarder = self.forwarder.clone();
                            let clock = self.clock.clone();
                            under_way.spawn(async move { forwarder.forward(event, &clock).await });
                        }
                        // It counts as seen only now.
                        self.last_id = frame.id.or(self.last_id.take());
                    }
                }
            }
        }
        while let Some(forwarded) = under_way.join_next().await {
            if let Ok(forwarded) = forwarded {
                self.tell(&forwarded);
            }
        }
    }

    /// An event to be forwarded: one that fired since this run began and was not forwarded yet.
    async fn understand(&mut self, frame: &Frame) -> Option<Fired> {
        if self.began_at.is_none()
            && let Some(micros) = frame.id.as_ref().and_then(|id| id.parse().ok())
        {
            self.began_at = Some(Timestamp::from_micros(micros));
        }
        match frame.event.as_str() {
            "reset" => output::hint("Some events were missed while the server could not be reached."),
            "delivery" => {
                let delivery: Value = serde_json::from_str(&frame.data).ok()?;
                return self.fired(delivery).await;
            }
            _ => {}
        }
        None
    }

    async fn fired(&mut self, mut delivery: Value) -> Option<Fired> {
        let id = EventId::from_str(delivery["event_id"].as_str()?).ok()?;
        let webhook_id = plain(&delivery["webhook_id"]);
        // A shadow trigger sends nothing, here neither.
        let wanted = delivery["reason"] != "shadow"
            && self.command.webhook.as_ref().is_none_or(|wanted| *wanted == webhook_id)
            && id.recorded_at() + GRACE >= self.began_at?;
        if !wanted || !self.remember(id) {
            return None;
        }
        let format = self.format_of(&webhook_id).await;
        Some(Fired {
            id,
            event_type: plain(&delivery["event_type"]),
            webhook_id,
            format,
            payload: delivery["payload"].take(),
        })
    }

    /// Whether it is new.
    fn remember(&mut self, id: EventId) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    async fn format_of(&mut self, webhook_id: &str) -> Format {
        if let Some(format) = self.formats.get(webhook_id) {
            return *format;
        }
        let answer = self.client.get(&format!("{}/webhooks/{}", self.path, id_of(webhook_id))).await;
        let format = answer.ok().and_then(|answer| plain(&answer["webhook"]["format"]).parse().ok());
        if let Some(format) = format {
            self.formats.insert(webhook_id.to_owned(), format);
        }
        // A webhook that was just deleted: its last events are shaped like most.
        format.unwrap_or_default()
    }

    fn tell(&self, forwarded: &Forwarded) {
        let Forwarded { fired, at, outcome, took } = forwarded;
        let payload = self.command.print_json.then_some(&fired.payload);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if self.command.connection.json {
            let (status, error) = match outcome {
                Ok(status) => (Some(*status), None),
                Err(error) => (None, Some(error)),
            };
            let mut line = json!({
                "at": at.to_string(), "event_id": fired.id.to_string(), "event_type": fired.event_type,
                "webhook_id": fired.webhook_id, "status": status, "error": error, "ms": millis,
            });
            if let Some(payload) = payload {
                line["payload"] = payload.clone();
            }
            output::json_line(&line);
            return;
        }
        let outcome = match outcome {
            Ok(status) => status.to_string(),
            Err(error) => error.clone(),
        };
        let time = at.to_jiff().strftime("%H:%M:%S").to_string();
        let line = format!("{time}  {:<15}  {outcome}  {millis} ms  {}", fired.event_type, fired.id);
        output::say(&line.replace('\n', " "));
        if let Some(payload) = payload {
            output::json(payload);
        }
    }
}

/// An event to be forwarded.
struct Fired {
    id: EventId,
    event_type: String,
    webhook_id: String,
    format: Format,
    payload: Value,
}

/// What came of it.
struct Forwarded {
    fired: Fired,
    at: Timestamp,
    outcome: Result<u16, String>,
    took: Duration,
}

#[derive(Clone)]
struct Forwarder {
    http: reqwest::Client,
    target: Url,
    secret: SigningSecret,
}

impl Forwarder {
    /// The same headers a receiver gets, and the signature of this run's secret.
    async fn forward(self, fired: Fired, clock: &Clock) -> Forwarded {
        let body = match &fired.payload {
            Value::String(text) => text.clone().into_bytes(),
            payload => payload.to_string().into_bytes(),
        };
        let (at, began) = (clock.now(), clock.monotonic());
        let id = fired.id.to_string();
        let request = self
            .http
            .post(self.target)
            .header("content-type", fired.format.content_type())
            .header("user-agent", concat!("Pulsehook/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &id)
            .header("webhook-timestamp", at.secs().to_string())
            .header("webhook-signature", self.secret.sign_standard(&id, at.secs(), &body))
            .header("x-webhook-event-id", &id)
            .header("x-webhook-event-type", &fired.event_type)
            .header("x-webhook-signature", self.secret.sign_body(&body))
            .body(body);
        let outcome = request.send().await;
        let took = clock.monotonic().saturating_sub(began);
        let outcome = outcome.map(|response| response.status().as_u16()).map_err(|error| in_words(&error));
        Forwarded { fired, at, outcome, took }
    }
}

fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Where to forward to, as an address.
///
/// # Errors
/// It is none, or not on this machine although nobody said that it may be elsewhere.
fn target(text: &str, allow_external: bool) -> anyhow::Result<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    let url = url
        .ok_or_else(|| WrongUsage(format!("--forward-to: \"{text}\" is not an address such as localhost:3000/hook")))?;
    if !allow_external && !is_here(&url) {
        let sentence = format!(
            "--forward-to: {} is not on this machine; say --allow-external if that is meant",
            url.host_str().unwrap_or("it")
        );
        return Err(WrongUsage(sentence).into());
    }
    Ok(url)
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn local_client(target: &Url, skip_verify: bool) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        // Elsewhere is not where somebody said it may go.
        .redirect(redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(ANSWER_WITHIN)
        .tls_danger_accept_invalid_certs(skip_verify);
    if target.host_str() == Some("localhost") {
        // Whatever a resolver thinks of the name.
        let addresses = ["127.0.0.1:0", "[::1]:0"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        builder = builder.resolve_to_addrs("localhost", &addresses);
    }
    builder.build().context("the HTTP client cannot be started")
}

/// An event as it comes over the wire.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    id: Option<String>,
    event: String,
    data: String,
}

/// Puts frames together from pieces of any size.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Those that are whole.
    fn take(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(end) = self.0.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<_> = self.0.drain(..end + 2).collect();
            frames.push(Frame::read(&String::from_utf8_lossy(&block)));
        }
        frames
    }
}

impl Frame {
    fn read(block: &str) -> Self {
        let mut frame = Self::default();
        for line in block.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => frame.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut frame.event),
                "data" => frame.data.push_str(value),
                // Comments, and how long to wait before coming back.
                _ => {}
            }
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_forwarded_to() {
        for text in ["localhost:3000/hook", "http://127.0.0.1:9/", "https://[::1]/x", "127.9.9.9", "http://LOCALHOST"] {
            assert!(target(text, false).is_ok(), "{text}");
        }
        for text in [
            "https://example.com/",
            "10.0.0.1:80",
            "http://localhost.example.com/",
            "http://localhost@example.com/",
            "http://[::ffff:127.0.0.1]/",
            "0.0.0.0:3000",
        ] {
            assert!(target(text, false).unwrap_err().is::<WrongUsage>(), "{text}");
            assert!(target(text, true).is_ok(), "{text}");
        }
        for text in ["ftp://localhost/", "", "http://"] {
            assert!(target(text, true).unwrap_err().is::<WrongUsage>(), "{text}");
        }
    }

    #[test]
    fn frames_come_in_pieces() {
        let text = ": still here\nid: 7\n\nid: 8\nevent: delivery\ndata: {\"a\":\"ü\"}\n\nid: 9\n";
        for size in 1..12 {
            let mut frames = Frames::default();
            let mut taken = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                frames.push(piece);
                taken.extend(frames.take());
            }
            let frame = |id: &str, event: &str, data: &str| Frame {
                id: Some(id.into()),
                event: event.into(),
                data: data.into(),
            };
            assert_eq!(taken, [frame("7", "", ""), frame("8", "delivery", "{\"a\":\"ü\"}")]);
        }
    }
}
