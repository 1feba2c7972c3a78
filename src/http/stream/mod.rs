//! What happens on a site, as it happens: server-sent events for those who watch.
//!
//! One [`hub`] looks for everybody who listens at this process. A connection passes on what it is given, asks now and then
//! whether its listener may still see the site, and ends after a while; whoever comes back says which event was the last.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use metrics::gauge;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::Api;
use super::auth::{Asking, authenticate};
use super::error::{ApiError, Problem, Result};
use super::sites::find;
use crate::domain::access::Actor;
use crate::domain::ids::{AccountId, SiteId};
use crate::domain::invalid::Invalid;
use crate::domain::time::Timestamp;

mod hub;

/// So often something is said although nothing happens, so that nobody in between takes the connection for dead.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// So often it is asked whether the listener may still see the site.
pub const RECHECK: Duration = Duration::from_secs(60);
/// A connection ends after this, so that those of a node that is full find another.
pub const LONGEST: Duration = Duration::from_secs(30 * 60);
/// How far back a listener who comes back is told what he missed.
pub const REACHES_BACK: Duration = Duration::from_secs(3_600);
/// Streams of one key or person, and of one account, at this process.
pub const MOST_OF_ONE: u32 = 10;
pub const MOST_OF_ACCOUNT: u32 = 50;
/// When to come again while there are so many.
const COME_AGAIN_SECS: u64 = 30;

#[derive(Deserialize, IntoParams)]
pub struct StreamQuery {
    /// Id of the last event that was seen, where the header `Last-Event-ID` cannot be sent.
    last_event_id: Option<String>,
}

/// What happens on a site, as it happens
///
/// Server-sent events. `delivery`: a delivery was made or stands elsewhere; its data is the delivery without its attempts.
/// `attempt`: an attempt was made; its data is the attempt with `delivery_id` and `webhook_id`. `current_visitors`: visitors
/// of the last five minutes, `{"current_visitors":12}`, when the number changes, at most once a second. `reset`: more
/// happened than is told again; read the lists. Ids grow; send the last one as `Last-Event-ID` and what was missed follows,
/// an hour back at most. An event may come twice, and none is left out. A comment comes every 15 seconds, the connection ends
/// after half an hour and when the credential does, and who reads too slowly is cut off and resumes. At most 10 streams of one
/// credential and 50 of an account.
#[utoipa::path(get, path = "/api/sites/{site}/stream", tag = "deliveries", security(("key" = []), ("session" = [])),
    params(("site" = String, Path, description = "Id or domain"), StreamQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen")),
    responses((status = 200, body = String, content_type = "text/event-stream"), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn watch_site(
    State(api): State<Api>,
    asking: Asking,
    Path(site): Path<String>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let site = find(&api, &asking.0, &site).await?;
    let resumed = last_event_id(&headers, query.last_event_id.as_deref())?;
    let place = api.streams.take_place(&asking.0)?;
    let watched = (asking.0.account_id, site.id);
    let (started, frames) = hub::subscribe(&api, watched).await?;
    let mut backlog = VecDeque::from([Bytes::from_static(b"retry: 2000\n\n")]);
    if let Some(resumed) = resumed {
        backlog.extend(hub::missed(&api, watched, resumed).await?);
    }
    // From here on the id says that everything before was told.
    backlog.push_back(Bytes::from(format!("id: {started}\n\n")));
    let now = api.clock.now();
    let stop = api.streams.stop.clone();
    let connection = Connection {
        credentials: credentials_of(&headers),
        account_id: asking.0.account_id,
        site_id: site.id,
        backlog,
        frames,
        stop,
        ends_at: now + LONGEST,
        checked_at: now,
        said_at: now,
        _place: place,
        api,
    };
    let body = Body::from_stream(futures_util::stream::unfold(connection, Connection::next));
    let mut response = body.into_response();
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx would keep it until it has a whole buffer.
    head.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The moment up to which a listener who comes back knows everything. The header is what a browser sends by itself when it
/// comes back, so it is newer than what the address says.
fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Timestamp>, Invalid> {
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let Some(text) = header.or(query).map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let micros = text.parse().ok().filter(|micros| *micros >= 0);
    micros.map(Timestamp::from_micros).map(Some).ok_or_else(|| {
        let mut invalid = Invalid::new();
        invalid.add("last_event_id", "must be the id of an event of this stream");
        invalid
    })
}

fn credentials_of(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| [AUTHORIZATION, COOKIE].contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A listener at the other end.
struct Connection {
    api: Api,
    credentials: HeaderMap,
    account_id: AccountId,
    site_id: SiteId,
    /// What is to be said before what happens now.
    backlog: VecDeque<Bytes>,
    frames: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
    ends_at: Timestamp,
    checked_at: Timestamp,
    said_at: Timestamp,
    _place: Place,
}

impl Connection {
    /// What to send next; nothing more when it is over.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        let frame = loop {
            if let Some(frame) = self.backlog.pop_front() {
                break frame;
            }
            let clock = self.api.clock.clone();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = clock.sleep_until(self.ends_at) => return None,
                () = clock.sleep_until(self.checked_at + RECHECK) => {
                    if !self.is_still_allowed().await {
                        return None;
                    }
                    self.checked_at = clock.now();
                }
                // None: he was too slow, and comes back.
                frame = self.frames.recv() => break frame?,
                () = clock.sleep_until(self.said_at + HEARTBEAT) => break Bytes::from_static(b": still here\n\n"),
            }
        };
        self.said_at = self.api.clock.now();
        Some((Ok(frame), self))
    }

    /// Who cannot be recognised now is sent away, and told why when he comes back.
    async fn is_still_allowed(&self) -> bool {
        let Ok(actor) = authenticate(&self.api, &Method::GET, &self.credentials).await else { return false };
        actor.account_id == self.account_id && find(&self.api, &actor, &self.site_id.to_string()).await.is_ok()
    }
}

/// Those who watch at this process. What they are told comes from the hub.
#[derive(Default)]
pub struct Streams {
    hub: tokio::sync::Mutex<hub::Hub>,
    /// How many there are, by account and by credential.
    places: Arc<Mutex<HashMap<String, u32>>>,
    stop: CancellationToken,
}

/// A place among the streams. Dropped, it is free.
struct Place {
    places: Arc<Mutex<HashMap<String, u32>>>,
    names: [String; 2],
}

impl Streams {
    /// Every stream ends, and no new one begins.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns once everything committed so far was passed on. For tests, whose clock stands still.
    pub async fn look(&self, api: &Api) {
        hub::look_at_everything(api).await;
    }

    /// # Errors
    /// 429 when there are enough.
    fn take_place(&self, actor: &Actor) -> Result<Place> {
        let names = [format!("{}", actor.account_id), format!("{} {}", actor.account_id, actor.who)];
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = |name: &String| places.get(name).copied().unwrap_or(0);
        if taken(&names[0]) >= MOST_OF_ACCOUNT || taken(&names[1]) >= MOST_OF_ONE {
            return Err(ApiError::too_many(COME_AGAIN_SECS));
        }
        for name in &names {
            *places.entry(name.clone()).or_default() += 1;
        }
        gauge!("pulsehook_streams").increment(1);
        Ok(Place { places: Arc::clone(&self.places), names })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            match places.get_mut(name) {
                Some(taken) if *taken > 1 => *taken -= 1,
                _ => drop(places.remove(name)),
            }
        }
        gauge!("pulsehook_streams").decrement(1);
    }
}
