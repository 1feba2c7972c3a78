//! One attempt: sign, POST, read a little of the answer. The result is a value; nothing here can fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::egress::{EgressConnector, NoConnection};
use super::stopwatch;
use crate::clock::Clock;
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::headers;
use crate::domain::ids::EventId;
use crate::domain::outcome::{Attempted, KEPT_BODY_BYTES, Outcome, Response, Stage, parse_retry_after};
use crate::domain::signature::{SigningSecret, standard_header};
use crate::domain::time::Timestamp;

/// Everything, from the look-up of the name to the end of what is read of the answer.
pub const ATTEMPT_BUDGET: Duration = Duration::from_secs(15);
/// A connection nobody used for so long is closed, so that a change of policy or DNS takes effect soon.
const IDLE_FOR: Duration = Duration::from_secs(30);
const MOST_HEADERS: usize = 64;
/// Answers that only announce an answer (1xx): nobody sends more of them who means to give one.
const MOST_ANNOUNCEMENTS: usize = 8;
const HEADER_BYTES: usize = 16 * 1_024;
/// Once the head of the answer is there the rest is only for the curious.
const BODY_BUDGET: Duration = Duration::from_secs(3);
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const BODY_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
const EVENT_ID: HeaderName = HeaderName::from_static("x-webhook-event-id");
const EVENT_TYPE: HeaderName = HeaderName::from_static("x-webhook-event-type");
const USER_AGENT_TEXT: &str = concat!("Pulsehook/", env!("CARGO_PKG_VERSION"));

/// Headers of an answer that help finding out what happened.
const KEPT_HEADERS: &[&str] = &[
    "content-type",
    "content-length",
    "content-encoding",
    "retry-after",
    "server",
    "location",
    "date",
    "allow",
    "www-authenticate",
    "x-request-id",
    "x-correlation-id",
    "x-amzn-requestid",
    "x-amzn-errortype",
    "cf-ray",
    "via",
    "x-cache",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];
const KEPT_HEADER_BYTES: usize = 1_024;

/// Where a webhook is, and what every request to it carries.
#[derive(Debug)]
pub struct Address {
    /// The sentence when the stored address is refused.
    uri: Result<Uri, String>,
    headers: HeaderMap,
}

impl Address {
    pub fn new(url: Result<EndpointUrl, String>, custom: &[(String, String)]) -> Self {
        let mut headers = HeaderMap::with_capacity(16);
        for (name, value) in custom {
            // Checked when they were saved; rules may have become stricter since.
            if let Ok((name, value)) = headers::check(name, value) {
                headers.insert(name, value);
            }
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_TEXT));
        // Nothing here decodes anything: a small answer that unpacks to gigabytes stays small.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let uri = url.and_then(|url| url.as_str().parse().map_err(|_| "cannot be put into a request".to_owned()));
        Self { uri, headers }
    }
}

/// What is to be sent where.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub address: &'a Address,
    /// None means unsigned.
    pub secret: Option<&'a SigningSecret>,
    /// The one before, while receivers may still go by it.
    pub previous_secret: Option<&'a SigningSecret>,
    pub event_id: EventId,
    pub event_type: &'a str,
    pub content_type: &'static str,
    /// Signed and sent as they are.
    pub body: &'a Bytes,
}

pub struct Sender {
    client: Client<EgressConnector, Full<Bytes>>,
    clock: Clock,
}

impl Sender {
    /// As many connections to a host are kept open as may be used at once: a handshake costs twenty requests.
    pub fn new(connector: EgressConnector, clock: Clock, per_host: usize) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(per_host)
            .http1_max_headers(MOST_HEADERS)
            .http1_max_buf_size(HEADER_BYTES)
            .build(connector);
        Self { client, clock }
    }

    /// Begins at `started_at`, which is now.
    pub fn attempt(&self, outgoing: &Outgoing<'_>, started_at: Timestamp) -> impl Future<Output = Attempted> {
        stopwatch::timed(self.clock.monotonic(), self.attempt_timed(outgoing, started_at))
    }

    async fn attempt_timed(&self, outgoing: &Outgoing<'_>, started_at: Timestamp) -> Attempted {
        let until = self.clock.monotonic() + ATTEMPT_BUDGET;
        let answered = match self.request(outgoing, started_at) {
            Ok(request) => self
                .clock
                .within(ATTEMPT_BUDGET, self.answer(request))
                .await
                .unwrap_or_else(|| self.unanswered(Outcome::Timeout(Stage::Response))),
            Err(outcome) => Err(outcome),
        };
        let (outcome, response) = match answered {
            Ok(answer) => {
                let left = until.saturating_sub(self.clock.monotonic());
                let (outcome, response) = self.read(answer, left.min(BODY_BUDGET)).await;
                (outcome, Some(response))
            }
            Err(outcome) => (outcome, None),
        };
        let (duration, phases) = stopwatch::read(self.clock.monotonic());
        Attempted { outcome, started_at, duration, phases, response }
    }

    /// There was a connection, and no answer comes any more.
    fn unanswered(&self, outcome: Outcome) -> Result<hyper::Response<Incoming>, Outcome> {
        stopwatch::waited(self.clock.monotonic(), false);
        Err(outcome)
    }

    fn request(&self, outgoing: &Outgoing<'_>, now: Timestamp) -> Result<Request<Full<Bytes>>, Outcome> {
        let uri = match &outgoing.address.uri {
            Ok(uri) => uri.clone(),
            Err(problem) => return Err(Outcome::ForbiddenUrl { problem: problem.clone() }),
        };
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = head_of(outgoing, now)?;
        Ok(request)
    }

    /// Sends the request, and waits for the head of the answer.
    async fn answer(&self, mut request: Request<Full<Bytes>>) -> Result<hyper::Response<Incoming>, Outcome> {
        let too_many = limit_announcements(&mut request);
        let answer = tokio::select! {
            biased;
            () = too_many.cancelled() => return self.unanswered(Outcome::InvalidHttp),
            answer = self.client.request(request) => answer,
        };
        // They may have come in one piece with the answer.
        if too_many.is_cancelled() {
            return self.unanswered(Outcome::InvalidHttp);
        }
        match answer {
            Ok(answer) => {
                stopwatch::waited(self.clock.monotonic(), true);
                Ok(answer)
            }
            Err(error) if error.is_connect() => Err(outcome_of(&error)),
            Err(error) => self.unanswered(outcome_of(&error)),
        }
    }

    /// A 2xx status with complete headers is a success, whatever the body does afterwards and however little time is left.
    async fn read(&self, answer: hyper::Response<Incoming>, budget: Duration) -> (Outcome, Response) {
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        let location = head.headers.get(LOCATION).map(text_of);
        let retry_after = head.headers.get(RETRY_AFTER).map(text_of);
        let retry_after = retry_after.and_then(|text| parse_retry_after(&text, self.clock.now()));
        let body = self.beginning_of(body, budget).await;
        let response = Response { status, headers: kept(&head.headers), body, retry_after };
        (Outcome::Responded { status, location }, response)
    }

    /// The first bytes of a body, as far as they come in time. The rest is not waited for.
    async fn beginning_of(&self, mut body: Incoming, budget: Duration) -> Vec<u8> {
        let mut kept = Vec::new();
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                if let Some(data) = frame.data_ref() {
                    let room = KEPT_BODY_BYTES - kept.len();
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                    if kept.len() == KEPT_BODY_BYTES {
                        break;
                    }
                }
            }
        };
        let _ = self.clock.within(budget, reading).await;
        kept
    }
}

/// What the request carries, signed at `now`.
///
/// # Errors
/// A value that is no text, which is ours to mend.
pub fn head_of(outgoing: &Outgoing<'_>, now: Timestamp) -> Result<HeaderMap, Outcome> {
    let mut head = outgoing.address.headers.clone();
    let id = outgoing.event_id.to_string();
    let secs = now.secs();
    head.insert(CONTENT_TYPE, HeaderValue::from_static(outgoing.content_type));
    set(&mut head, WEBHOOK_TIMESTAMP, secs.to_string())?;
    set(&mut head, EVENT_TYPE, outgoing.event_type.to_owned())?;
    if let Some(current) = outgoing.secret {
        let secrets = std::iter::once(current).chain(outgoing.previous_secret);
        set(&mut head, WEBHOOK_SIGNATURE, standard_header(secrets, &id, secs, outgoing.body))?;
        set(&mut head, BODY_SIGNATURE, current.sign_body(outgoing.body))?;
    }
    set(&mut head, EVENT_ID, id.clone())?;
    set(&mut head, WEBHOOK_ID, id)?;
    Ok(head)
}

/// Says when more than [`MOST_ANNOUNCEMENTS`] came.
fn limit_announcements(request: &mut Request<Full<Bytes>>) -> CancellationToken {
    let (too_many, count) = (CancellationToken::new(), AtomicUsize::new(0));
    let told = too_many.clone();
    hyper::ext::on_informational(request, move |_| {
        if count.fetch_add(1, Ordering::Relaxed) >= MOST_ANNOUNCEMENTS {
            told.cancel();
        }
    });
    too_many
}

fn set(head: &mut HeaderMap, name: HeaderName, value: String) -> Result<(), Outcome> {
    let value =
        HeaderValue::try_from(value).map_err(|_| Outcome::Internal { what: "a header value that is not text" })?;
    head.insert(name, value);
    Ok(())
}

fn text_of(value: &HeaderValue) -> String {
    let bytes = &value.as_bytes()[..value.len().min(KEPT_HEADER_BYTES)];
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

/// The first of each name.
fn kept(head: &HeaderMap) -> Vec<(String, String)> {
    let wanted = head.keys().filter(|name| KEPT_HEADERS.contains(&name.as_str()));
    wanted.filter_map(|name| Some((name.as_str().to_owned(), text_of(head.get(name)?)))).collect()
}

fn outcome_of(error: &hyper_util::client::legacy::Error) -> Outcome {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(NoConnection { outcome, .. }) = error.downcast_ref::<NoConnection>() {
            return outcome.clone();
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && let Some(outcome) = http_outcome(error)
        {
            return outcome;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return match error.kind() {
                std::io::ErrorKind::UnexpectedEof => Outcome::ClosedEarly,
                std::io::ErrorKind::InvalidData => Outcome::TlsFailed,
                _ => Outcome::ConnectionReset,
            };
        }
        cause = error.source();
    }
    Outcome::ClosedEarly
}

fn http_outcome(error: &hyper::Error) -> Option<Outcome> {
    if error.is_parse_too_large() {
        Some(Outcome::HeadersTooLarge)
    } else if error.is_parse() || error.is_parse_status() {
        Some(Outcome::InvalidHttp)
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Some(Outcome::ClosedEarly)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;

    use super::super::egress::Resolver;
    use super::*;
    use crate::domain::address::AddressPolicy;

    /// Thousands of attempts are under way at once, and each is moved about.
    #[tokio::test]
    async fn an_attempt_takes_little_room() {
        let clock = Clock::system();
        let resolver = Resolver::Scripted(Arc::new(|_: &str| Vec::new()));
        let connector = EgressConnector::new(AddressPolicy::default(), resolver, RootCertStore::empty(), clock.clone());
        let sender = Sender::new(connector, clock.clone(), 1);
        let address = Address::new(Err("cannot be read".to_owned()), &[]);
        let outgoing = Outgoing {
            address: &address,
            secret: None,
            previous_secret: None,
            event_id: EventId(uuid::Uuid::nil()),
            event_type: "test",
            content_type: "application/json",
            body: &Bytes::new(),
        };
        let room = size_of_val(&sender.attempt(&outgoing, clock.now()));
        assert!(room <= 1_900, "{room} bytes");
    }
}
