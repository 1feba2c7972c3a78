//! `receive`: a receiver that verifies and prints what arrives. The demo and the tests use it too.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::output;
use crate::clock::Clock;
use crate::domain::signature::{SigningSecret, Unverified, verify_body, verify_standard};
use crate::domain::time::{Timestamp, parse_span};

const MOST_BYTES: usize = 1_000_000;

#[derive(Debug, clap::Args)]
pub struct Receive {
    /// Address and port
    #[arg(long, default_value = "127.0.0.1:9099")]
    listen: SocketAddr,
    /// Signing secret; without it nothing is verified
    #[arg(long)]
    secret: Option<String>,
    /// Speak HTTPS with a certificate made up for this run
    #[arg(long)]
    tls: bool,
    /// Answer with this status
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// Wait so long before answering, such as 3s
    #[arg(long, default_value = "0")]
    delay: String,
}

impl Receive {
    pub async fn run(self) -> anyhow::Result<()> {
        let options = Options {
            listen: self.listen,
            secret: self.secret.as_deref().map(SigningSecret::parse).transpose().context("--secret")?,
            tls: self.tls,
            status: StatusCode::from_u16(self.status).context("--status must be a number from 100 to 999")?,
            delay: parse_span(&self.delay).context("--delay")?,
        };
        let signed = options.secret.is_some();
        let mut receiver = Receiver::start(options, Clock::system()).await?;
        output::hint(&format!("Listening on {}", receiver.url()));
        if let Some(pem) = &receiver.authority_pem {
            let path = std::env::temp_dir().join(format!("pulsehook-receive-{}.pem", receiver.address.port()));
            std::fs::write(&path, pem).with_context(|| format!("{} cannot be written", path.display()))?;
            output::hint(&format!("Start the sender with: --egress-ca {} --egress-allow 127.0.0.0/8", path.display()));
        }
        if !signed {
            output::hint("Nothing is verified: no --secret was given.");
        }
        let mut stop = std::pin::pin!(super::serve::stop_signal()?);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                received = receiver.received.recv() => match received {
                    Some(received) => output::say(&received.line()),
                    None => return Ok(()),
                },
            }
        }
    }
}

/// How a receiver behaves.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    pub secret: Option<SigningSecret>,
    pub tls: bool,
    pub status: StatusCode,
    pub delay: Duration,
}

/// A running receiver. It ends with the process.
pub struct Receiver {
    pub address: SocketAddr,
    /// Of the authority that vouches for its certificate, where it speaks HTTPS.
    pub authority_pem: Option<String>,
    pub received: mpsc::UnboundedReceiver<Received>,
}

/// A delivery that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub at: Timestamp,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `None`: there was no secret to verify with.
    pub verified: Option<Result<(), Unverified>>,
}

impl Receiver {
    pub async fn start(options: Options, clock: Clock) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("cannot listen on {}; is another server there?", options.listen))?;
        let address = listener.local_addr()?;
        let (tls, authority_pem) = if options.tls {
            let (acceptor, pem) = made_up_certificate(&["localhost", "127.0.0.1", "::1"])?;
            (Some(acceptor), Some(pem))
        } else {
            (None, None)
        };
        let (arrived, received) = mpsc::unbounded_channel();
        let options = Arc::new(options);
        tokio::spawn(async move {
            // A connection that cannot be accepted is the client's loss; the next one may do better.
            loop {
                if let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(answer(connection, tls.clone(), Arc::clone(&options), clock.clone(), arrived.clone()));
                }
            }
        });
        Ok(Self { address, authority_pem, received })
    }

    pub fn url(&self) -> String {
        let scheme = if self.authority_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/hook", self.address)
    }
}

async fn answer(
    connection: TcpStream,
    tls: Option<TlsAcceptor>,
    options: Arc<Options>,
    clock: Clock,
    arrived: mpsc::UnboundedSender<Received>,
) {
    let service = service_fn(move |request| {
        let (options, clock, arrived) = (Arc::clone(&options), clock.clone(), arrived.clone());
        async move { Ok::<_, Infallible>(take(request, &options, &clock, &arrived).await) }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    // Whatever goes wrong with a connection ends that connection.
    match tls {
        Some(tls) => {
            if let Ok(stream) = tls.accept(connection).await {
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            }
        }
        None => {
            let _ = builder.serve_connection(TokioIo::new(connection), service).await;
        }
    }
}

async fn take(
    request: Request<Incoming>,
    options: &Options,
    clock: &Clock,
    arrived: &mpsc::UnboundedSender<Received>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let status = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    let Ok(body) = Limited::new(body, MOST_BYTES).collect().await else { return status(StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    let at = clock.now();
    let verified = options.secret.as_ref().map(|secret| verify(secret, &parts.headers, &body, at));
    let refused = matches!(verified, Some(Err(_)));
    // Nobody looking any more is no reason not to answer.
    let _ = arrived.send(Received { at, headers: parts.headers, body, verified });
    clock.sleep(options.delay).await;
    status(if refused { StatusCode::UNAUTHORIZED } else { options.status })
}

/// Both signatures must be there and right.
fn verify(secret: &SigningSecret, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Unverified> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(timestamp), Some(standard), Some(plain)) =
        (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"), text("x-webhook-signature"))
    else {
        return Err(Unverified::Unsigned);
    };
    verify_standard(secret, id, timestamp, standard, body, now.secs())?;
    verify_body(secret, plain, body)
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn payload(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let verified = match &self.verified {
            None => "not verified".to_owned(),
            Some(Ok(())) => "verified".to_owned(),
            Some(Err(problem)) => format!("REFUSED: {problem}"),
        };
        let text = match self.payload() {
            Value::Null => String::from_utf8_lossy(&self.body).chars().take(120).collect(),
            payload => summary(&payload),
        };
        let line = format!(
            "{}  {:<15}  {}  {verified}  {text}",
            time_of_day(self.at),
            self.header("x-webhook-event-type"),
            self.header("webhook-id"),
        );
        output::printable(&line).replace('\n', " ")
    }
}

/// What a payload says, in a few words.
pub fn summary(payload: &Value) -> String {
    let data = &payload["data"];
    let top = |list: &str, name: &str| {
        let first = &data[list][0];
        if first.is_null() { String::new() } else { format!(", top {name} {}", output::plain(&first[name])) }
    };
    match payload["event_type"].as_str() {
        Some(change @ ("visitor_spike" | "visitor_drop")) => {
            let side = if change == "visitor_spike" { '+' } else { '-' };
            // A percentage of nothing says nothing.
            let expected = match &data["previous_visitors"] {
                none if *none == 0 => "hardly any expected".to_owned(),
                expected => format!("{expected} expected, {side}{} %", data["change_percent"]),
            };
            let (source, page) = (top("top_sources", "source"), top("top_pages", "page"));
            format!("{} current visitors, {expected}{source}{page}", data["current_visitors"])
        }
        Some("visitor_spike_ended" | "visitor_drop_ended") => {
            format!("over after {} s, {} current visitors", data["duration_seconds"], data["current_visitors"])
        }
        Some("goal_completion") => {
            format!("{} ×{}{}", output::plain(&data["goal_name"]), data["count"], top("top_pages", "page"))
        }
        Some("custom_event") => {
            format!("{} ×{}{}", output::plain(&data["event_name"]), data["count"], top("top_pages", "page"))
        }
        Some("goal_stalled" | "milestone" | "no_data" | "error_condition") => output::plain(&data["reason"]),
        Some("goal_stalled_ended" | "no_data_ended" | "error_condition_ended") => {
            format!("over after {} s", data["duration_seconds"])
        }
        Some("test") => output::plain(&data["message"]),
        _ => payload.to_string().chars().take(120).collect(),
    }
}

fn time_of_day(moment: Timestamp) -> String {
    moment.to_jiff().strftime("%H:%M:%S%.3f").to_string()
}

/// A certificate for these names, and the authority of this run that vouches for it, as PEM.
///
/// # Errors
/// A name cannot be one.
pub fn made_up_certificate(names: &[&str]) -> anyhow::Result<(TlsAcceptor, String)> {
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Pulsehook receive, for one run");
    let authority_key = rcgen::KeyPair::generate()?;
    let authority = rcgen::CertifiedIssuer::self_signed(params, authority_key)?;
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem()))
}
