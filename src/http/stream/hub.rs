//! Looks for everybody who listens at this process: one statement a look for all their sites, and none while nobody listens.
//!
//! Nothing that moved is left out. A row can only be found once its transaction has committed, which is after the moment its
//! id or its `late_at` names; so every look goes back [`LOOK_BACK`] from the one before, and what it finds that stands where
//! it stood is passed over. Ids of events are the moments of looks. Whoever comes back is told what moved since [`LOOK_BACK`]
//! before that look began to search, that is twice as long before the id. Duplicates name the same delivery in the state it
//! is in, or the same attempt by its number, and change nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;
use uuid::Uuid;

use super::super::Api;
use super::super::deliveries::{AttemptView, DeliveryView};
use super::super::error::{ApiError, Result};
use super::{HEARTBEAT, REACHES_BACK};
use crate::analytics::Analytics;
use crate::analytics::visitors_now::VisitorsNow;
use crate::domain::ids::{AccountId, EventId, SiteId};
use crate::domain::time::Timestamp;
use crate::store::deliveries::{Attempt, Delivery};
use crate::store::movements::{Mark, Movement, PAGE};
use crate::store::{Store, StoreError};

/// From one look to the next: what was attempted shows within a second, with what the look itself takes.
pub const LOOK_EVERY: Duration = Duration::from_millis(800);
/// How far a look goes back before the one before: longer than a transaction of ours lives, and clocks of nodes may differ.
pub const LOOK_BACK: Duration = Duration::from_secs(30);
/// Events a listener may be behind before he is cut off.
const BEHIND: usize = 512;
/// Deliveries that moved of which somebody who comes back is told.
const MOST_MISSED: usize = 1_000;
/// Deliveries whose details are read at once.
const AT_ONCE: usize = 200;
/// How often visitors are counted in our own file, and how often ClickHouse is asked, which does not know more often.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The part of its time that ClickHouse spends on us at most, as a divisor.
const BUDGET: u32 = 4;

type Watched = (AccountId, SiteId);

/// Who listens to what, and what they know.
#[derive(Default)]
pub struct Hub {
    sites: HashMap<Watched, Site>,
    /// Everything before was passed on.
    looked_until: Timestamp,
    /// Id given last, in microseconds.
    last_id: i64,
    /// When listeners were last told how far they are.
    told_at: Timestamp,
    visitors: VisitorsNow,
    running: bool,
    /// How often it began to run: of two who count visitors the older one goes.
    round: u64,
}

#[derive(Default)]
struct Site {
    listeners: Vec<mpsc::Sender<Bytes>>,
    /// Where deliveries stood when they were last looked at, as far as a look finds them again.
    known: HashMap<EventId, Mark>,
    visitors: Option<u32>,
}

/// Begins to listen: the id up to which everything is known or asked for, and what happens from there on.
pub async fn subscribe(api: &Api, watched: Watched) -> Result<(i64, mpsc::Receiver<Bytes>)> {
    let (sender, frames) = mpsc::channel(BEHIND);
    let mut hub = api.streams.hub.lock().await;
    let now = api.clock.now();
    if !hub.sites.contains_key(&watched) {
        // What is there already is no news.
        let moved = movements(&api.store, &[watched], now - LOOK_BACK, now).await?;
        let known = moved.into_iter().map(|movement| (movement.id, movement.mark)).collect();
        if hub.sites.is_empty() {
            hub.looked_until = now;
        }
        hub.sites.insert(watched, Site { known, ..Site::default() });
    }
    let id = hub.next_id(now);
    let visitors_id = hub.next_id(now);
    let site = hub.sites.get_mut(&watched).expect("it was put there");
    if let Some(visitors) = site.visitors {
        let _ = sender.try_send(visitors_frame(visitors_id, visitors));
    }
    site.listeners.push(sender);
    if !std::mem::replace(&mut hub.running, true) {
        tokio::spawn(follow_deliveries(api.clone()));
        hub.round += 1;
        if sees_visitors(api) {
            tokio::spawn(follow_visitors(api.clone(), hub.round));
        }
    }
    Ok((id, frames))
}

/// What somebody who has everything up to `resumed` has missed. It bears that same id, so that he who is cut off in the middle
/// asks for all of it again.
pub async fn missed(api: &Api, watched: Watched, resumed: Timestamp) -> Result<Vec<Bytes>> {
    let now = api.clock.now();
    let id = resumed.micros();
    let reset = |why: &str| frame(id, "reset", &json!({ "detail": why }));
    if now.since(resumed) > REACHES_BACK {
        return Ok(vec![reset("You were away for long: read the lists again.")]);
    }
    let since = resumed.min(now) - LOOK_BACK - LOOK_BACK;
    let moved = api.store.movements(&[watched], since, now, EventId(Uuid::nil()), MOST_MISSED + 1).await?;
    if moved.len() > MOST_MISSED {
        return Ok(vec![reset("Much has happened: read the lists again.")]);
    }
    let mut frames = Vec::new();
    for part in moved.chunks(AT_ONCE) {
        for (_, news) in details(&api.store, part, &HashMap::new(), since).await? {
            frames.extend(news.into_iter().map(|(event, data)| frame(id, event, &data)));
        }
    }
    Ok(frames)
}

/// Looks until nobody listens any more.
async fn follow_deliveries(api: Api) {
    loop {
        tokio::select! {
            () = api.streams.stop.cancelled() => return,
            () = api.clock.sleep(LOOK_EVERY) => {}
        }
        let mut hub = api.streams.hub.lock().await;
        hub.forget_who_left();
        if hub.sites.is_empty() {
            *hub = Hub { last_id: hub.last_id, round: hub.round, ..Hub::default() };
            return;
        }
        if let Err(error) = hub.look(&api).await {
            debug!(?error, "What moved cannot be read; the next look goes back as far: {}", error.detail());
        }
    }
}

async fn follow_visitors(api: Api, round: u64) {
    loop {
        let took = match count_visitors(&api, Some(round)).await {
            Some(took) => took,
            None => return,
        };
        let rest = match &api.analytics {
            Analytics::Embedded(_) => COUNT_EVERY,
            Analytics::ClickHouse(_) => ASK_EVERY.max(took * BUDGET),
        };
        tokio::select! {
            () = api.streams.stop.cancelled() => return,
            () = api.clock.sleep(rest) => {}
        }
    }
}

pub async fn look_at_everything(api: &Api) {
    let mut hub = api.streams.hub.lock().await;
    hub.forget_who_left();
    if hub.sites.is_empty() {
        return;
    }
    if let Err(error) = hub.look(api).await {
        debug!(?error, "What moved cannot be read: {}", error.detail());
    }
    drop(hub);
    if sees_visitors(api) {
        count_visitors(api, None).await;
    }
}

/// A file of our own has the hits this process took in, so who takes none in has nothing to tell.
fn sees_visitors(api: &Api) -> bool {
    match &api.analytics {
        Analytics::Embedded(_) => api.settings.takes_hits,
        Analytics::ClickHouse(_) => true,
    }
}

/// Counts and tells what changed. How long the answer took; `None` when nobody listens any more.
async fn count_visitors(api: &Api, round: Option<u64>) -> Option<Duration> {
    let (mut visitors, watched) = {
        let mut hub = api.streams.hub.lock().await;
        if !hub.running || round.is_some_and(|round| round != hub.round) {
            return None;
        }
        (std::mem::take(&mut hub.visitors), hub.sites.keys().copied().collect::<Vec<_>>())
    };
    let sites: Vec<_> = watched.iter().map(|(_, site)| *site).collect();
    // Not while others wait for the hub: ClickHouse may take its time.
    let began = api.clock.monotonic();
    let counted = visitors.look(&api.analytics, &sites, api.clock.now()).await;
    let took = api.clock.monotonic().saturating_sub(began);
    let mut hub = api.streams.hub.lock().await;
    hub.visitors = visitors;
    match counted {
        Ok(counted) => hub.tell_visitors(api, &watched, &counted),
        // Not known is not nobody.
        Err(error) => debug!(%error, "Visitors cannot be counted now: {error}"),
    }
    Some(took)
}

impl Hub {
    /// Larger than all before.
    fn next_id(&mut self, now: Timestamp) -> i64 {
        self.last_id = now.micros().max(self.last_id + 1);
        self.last_id
    }

    fn forget_who_left(&mut self) {
        self.sites.retain(|_, site| {
            site.listeners.retain(|listener| !listener.is_closed());
            !site.listeners.is_empty()
        });
    }

    async fn look(&mut self, api: &Api) -> Result<()> {
        let now = api.clock.now();
        let since = self.looked_until.min(now) - LOOK_BACK;
        let watched: Vec<_> = self.sites.keys().copied().collect();
        let moved = movements(&api.store, &watched, since, now).await?;
        let mut found: HashMap<Watched, HashMap<EventId, Mark>> = HashMap::new();
        let mut news = Vec::new();
        for movement in &moved {
            let of = (movement.account_id, movement.site_id);
            found.entry(of).or_default().insert(movement.id, movement.mark);
            let known = self.sites.get(&of).and_then(|site| site.known.get(&movement.id));
            if known != Some(&movement.mark) {
                news.push(*movement);
            }
        }
        for part in news.chunks(AT_ONCE) {
            let known: HashMap<_, _> = part
                .iter()
                .filter_map(|movement| {
                    let site = self.sites.get(&(movement.account_id, movement.site_id))?;
                    Some((movement.id, *site.known.get(&movement.id)?))
                })
                .collect();
            for (of, news) in details(&api.store, part, &known, since).await? {
                for (event, data) in news {
                    let id = self.next_id(now);
                    self.tell(of, &frame(id, event, &data));
                }
            }
        }
        for (of, site) in &mut self.sites {
            site.known = found.remove(of).unwrap_or_default();
        }
        self.looked_until = now;
        if now.since(self.told_at) >= HEARTBEAT {
            // Who comes back after a quiet hour need not be told about it.
            self.told_at = now;
            let id = self.next_id(now);
            for of in watched {
                self.tell(of, &Bytes::from(format!(": still here\nid: {id}\n\n")));
            }
        }
        Ok(())
    }

    fn tell_visitors(&mut self, api: &Api, watched: &[Watched], counted: &HashMap<SiteId, u32>) {
        let now = api.clock.now();
        for of in watched {
            let Some(visitors) = counted.get(&of.1).copied() else { continue };
            let Some(site) = self.sites.get_mut(of) else { continue };
            if site.visitors.replace(visitors) != Some(visitors) {
                let id = self.next_id(now);
                self.tell(*of, &visitors_frame(id, visitors));
            }
        }
    }

    /// Who cannot keep up is cut off: he comes back and says what he has.
    fn tell(&mut self, of: Watched, frame: &Bytes) {
        let Some(site) = self.sites.get_mut(&of) else { return };
        site.listeners.retain(|listener| match listener.try_send(frame.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                counter!("pulsehook_streams_cut_total").increment(1);
                false
            }
        });
    }
}

/// Everything that may have moved, page by page.
async fn movements(
    store: &Store,
    watched: &[Watched],
    since: Timestamp,
    now: Timestamp,
) -> Result<Vec<Movement>, StoreError> {
    let mut moved = Vec::new();
    let mut after = EventId(Uuid::nil());
    loop {
        let page = store.movements(watched, since, now, after, PAGE).await?;
        let full = page.len() == PAGE;
        moved.extend(page);
        match moved.last() {
            Some(last) if full => after = last.id,
            _ => return Ok(moved),
        }
    }
}

/// An attempt as a listener is told of it.
#[derive(Serialize)]
struct AttemptNews {
    delivery_id: String,
    webhook_id: String,
    #[serde(flatten)]
    attempt: AttemptView,
}

type News = Vec<(&'static str, String)>;

/// What there is to tell of deliveries that moved: attempts nobody was told of, then where it stands.
async fn details(
    store: &Store,
    moved: &[Movement],
    known: &HashMap<EventId, Mark>,
    since: Timestamp,
) -> Result<Vec<(Watched, News)>, ApiError> {
    let accounts: HashSet<_> = moved.iter().map(|movement| movement.account_id).collect();
    let mut deliveries: HashMap<EventId, Delivery> = HashMap::new();
    let mut attempts: HashMap<EventId, Vec<Attempt>> = HashMap::new();
    for account_id in accounts {
        let of_account = moved.iter().filter(|movement| movement.account_id == account_id);
        let ids: Vec<_> = of_account.map(|movement| movement.id).collect();
        // Attempts first: a delivery never stands before one that was told.
        for (id, attempt) in store.attempts_among(account_id, &ids).await? {
            attempts.entry(id).or_default().push(attempt);
        }
        let found = store.deliveries_among(account_id, &ids).await?;
        deliveries.extend(found.into_iter().map(|delivery| (delivery.id, delivery)));
    }
    let mut told = Vec::new();
    for movement in moved {
        // Gone with its webhook.
        let Some(delivery) = deliveries.remove(&movement.id) else { continue };
        let known = known.get(&movement.id);
        let is_news = |attempt: &Attempt| match known {
            Some(known) => attempt.number > known.attempts,
            // The last one may have been written long after it ended.
            None => attempt.number == movement.mark.attempts || ended_at(attempt) >= since,
        };
        let mut news = News::new();
        for attempt in attempts.remove(&movement.id).unwrap_or_default() {
            if is_news(&attempt) {
                let attempt = AttemptNews {
                    delivery_id: delivery.id.to_string(),
                    webhook_id: delivery.webhook_id.to_string(),
                    attempt: attempt.into(),
                };
                news.push(("attempt", text(&attempt)));
            }
        }
        news.push(("delivery", text(&DeliveryView::from(delivery))));
        told.push(((movement.account_id, movement.site_id), news));
    }
    Ok(told)
}

fn ended_at(attempt: &Attempt) -> Timestamp {
    attempt.started_at + Duration::from_millis(u64::try_from(attempt.duration_ms).unwrap_or(0))
}

fn visitors_frame(id: i64, visitors: u32) -> Bytes {
    frame(id, "current_visitors", &json!({ "current_visitors": visitors }).to_string())
}

/// JSON has no line ends of its own, so that its text is one line of data.
fn frame(id: i64, event: &str, data: &impl std::fmt::Display) -> Bytes {
    Bytes::from(format!("id: {id}\nevent: {event}\ndata: {data}\n\n"))
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what the API shows serialises")
}
