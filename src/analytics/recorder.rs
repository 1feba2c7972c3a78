//! Takes tracked events in: attributes each to a visitor and a session, and stores it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::error;

use super::sessions::Sessions;
use super::visitor::{SALT_BYTES, Salts, day_of, visitor_id};
use super::{Analytics, Result};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::hit::{Device, ENGAGEMENT, Hit, TrackedEvent};
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// Who sent an event. Used for the visitor id and forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    pub address: IpAddr,
    pub user_agent: &'a str,
}

/// Why an event was not stored, by the names Plausible gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    Bot,
    SpamReferrer,
    NotFound,
    NoSessionForEngagement,
}

impl Dropped {
    pub fn code(self) -> &'static str {
        match self {
            Self::Bot => "bot",
            Self::SpamReferrer => "spam_referrer",
            Self::NotFound => "not_found",
            Self::NoSessionForEngagement => "no_session_for_engagement",
        }
    }
}

/// Cheap to clone; clones share sessions and salts.
#[derive(Clone)]
pub struct Recorder {
    analytics: Analytics,
    clock: Clock,
    chance: Chance,
    state: Arc<Mutex<State>>,
    refusals: Arc<Mutex<Refusals>>,
}

/// How often it is told that hits are refused, whatever their number: a log that grows with every one of them is no help, least
/// of all where it is the disk that is full.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Hits that could not be stored.
#[derive(Default)]
struct Refusals {
    told_at: Option<Duration>,
    /// Of which nothing was told yet.
    untold: usize,
}

impl Refusals {
    /// `now`: of the monotonic clock. Answers how many are to be told of, when it is time.
    fn add(&mut self, hits: usize, now: Duration) -> Option<usize> {
        self.untold += hits;
        if self.told_at.is_some_and(|told_at| now.saturating_sub(told_at) < TOLD_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// How often the salts are read again: another node may have been first.
const REREAD: Duration = Duration::from_secs(90);

struct State {
    salts: Salts,
    read_at: Timestamp,
    sessions: Sessions,
}

impl Recorder {
    /// Reads today's salt, or makes it.
    ///
    /// # Errors
    /// The analytics database does not answer.
    pub async fn new(analytics: Analytics, clock: Clock, chance: Chance) -> Result<Self> {
        let now = clock.now();
        let salts = load_salts(&analytics, &chance, now).await?;
        let state = Arc::new(Mutex::new(State { salts, read_at: now, sessions: Sessions::default() }));
        Ok(Self { analytics, clock, chance, state, refusals: Arc::default() })
    }

    /// Attributes an event to a visitor of `site_id`. Storing it is the caller's next step: [`Recorder::store`].
    ///
    /// # Errors
    /// The event belongs to no session, or the salt of a new day cannot be stored.
    pub async fn attribute(
        &self,
        event: &TrackedEvent,
        site_id: SiteId,
        domain: &str,
        client: &Client<'_>,
        device: Device,
    ) -> Result<Result<Hit, Dropped>> {
        let now = self.clock.now();
        self.read_salts_again(now).await?;
        Ok(self.attribute_at(event, site_id, domain, client, device, now))
    }

    /// Stores hits; returns once they are committed. Tells in the log when they are not, once for many.
    ///
    /// # Errors
    /// There is no room for them, or too many wait already. None of them was stored.
    pub async fn store(&self, hits: Vec<Hit>) -> Result<()> {
        let count = hits.len();
        let outcome = self.analytics.record(hits).await;
        if let Err(error) = &outcome {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refused) = refusals.add(count, self.clock.monotonic()) {
                error!(%error, "{refused} events could not be stored and were refused: {error}");
            }
        }
        outcome
    }

    /// The same for history, which carries its own time.
    pub fn attribute_at(
        &self,
        event: &TrackedEvent,
        site_id: SiteId,
        domain: &str,
        client: &Client<'_>,
        device: Device,
        at: Timestamp,
    ) -> Result<Hit, Dropped> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id_with =
            |salt: &[u8; SALT_BYTES]| visitor_id(salt, client.user_agent, client.address, domain, &event.page.hostname);
        let current = id_with(&state.salts.current);
        let mut known_as = vec![current];
        known_as.extend(state.salts.previous.as_ref().map(id_with));
        let session = match state.sessions.resume(site_id, &known_as, at) {
            Some(session) => session,
            // Whoever is not here cannot be looking at anything.
            None if event.name == ENGAGEMENT => return Err(Dropped::NoSessionForEngagement),
            None => state.sessions.begin(site_id, current, u64::from_le_bytes(self.chance.bytes()), at),
        };
        Ok(Hit {
            site_id,
            at,
            name: event.name.clone(),
            visitor: session.visitor,
            session: session.id,
            page: event.page.clone(),
            origin: event.origin.clone(),
            country: String::new(),
            device,
            props: event.props.clone(),
            interactive: event.interactive,
            scroll_depth: event.scroll_depth,
            engagement_ms: event.engagement_ms,
            revenue: event.revenue.clone(),
        })
    }

    /// At midnight, and every now and then.
    async fn read_salts_again(&self, now: Timestamp) -> Result<()> {
        let is_new_day = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new_day = day_of(now) > state.salts.day;
            if !is_new_day && now.since(state.read_at) < REREAD {
                return Ok(());
            }
            // One request does it; at midnight nobody goes on without.
            state.read_at = now;
            is_new_day
        };
        match load_salts(&self.analytics, &self.chance, now).await {
            Ok(salts) => self.state.lock().unwrap_or_else(PoisonError::into_inner).salts = salts,
            Err(error) if is_new_day => return Err(error),
            // Those of the day are known.
            Err(_) => {}
        }
        Ok(())
    }
}

async fn load_salts(analytics: &Analytics, chance: &Chance, now: Timestamp) -> Result<Salts> {
    let day = day_of(now);
    // Whoever comes first decides; everybody reads what is there then.
    analytics.keep_salt(day, &chance.bytes::<SALT_BYTES>()).await?;
    let known = analytics.salts().await?;
    let of = |wanted: i64| -> Option<[u8; SALT_BYTES]> {
        known.iter().find(|(day, _)| *day == wanted).and_then(|(_, salt)| salt.as_slice().try_into().ok())
    };
    Ok(Salts { day, current: of(day).unwrap_or_default(), previous: of(day - 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_at_once_and_then_once_for_many() {
        let at = |secs| Duration::from_secs(secs);
        let mut refusals = Refusals::default();
        let told =
            [(1, 5), (2, 6), (3, 14), (1, 15), (1, 16), (4, 60)].map(|(hits, secs)| refusals.add(hits, at(secs)));
        assert_eq!(told, [Some(1), None, None, Some(6), None, Some(5)]);
    }
}
