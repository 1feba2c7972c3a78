//! Sessions, in memory: who is still here, and under which id they came.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

/// A session ends when nothing came for so long.
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// More than this are not remembered; the oldest sweep makes room.
const MOST: usize = 2_000_000;

/// A visitor's running session on a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub id: u64,
    /// The id the visitor had when it began: midnight does not change it.
    pub visitor: u64,
    seen_at: Timestamp,
}

#[derive(Debug, Default)]
pub struct Sessions {
    running: HashMap<(SiteId, u64), Session>,
    swept_at: Timestamp,
}

impl Sessions {
    /// Finds the session of somebody who may be known by any of these ids, and keeps it alive.
    pub fn resume(&mut self, site_id: SiteId, visitors: &[u64], now: Timestamp) -> Option<Session> {
        for visitor in visitors {
            if let Some(session) = self.running.get_mut(&(site_id, *visitor))
                && now.since(session.seen_at) <= IDLE
            {
                session.seen_at = session.seen_at.max(now);
                return Some(*session);
            }
        }
        None
    }

    pub fn begin(&mut self, site_id: SiteId, visitor: u64, id: u64, now: Timestamp) -> Session {
        self.sweep(now);
        let session = Session { id, visitor, seen_at: now };
        if self.running.len() < MOST {
            self.running.insert((site_id, visitor), session);
        }
        session
    }

    /// Forgets ended sessions every now and then.
    fn sweep(&mut self, now: Timestamp) {
        if now.since(self.swept_at) >= IDLE / 6 {
            self.running.retain(|_, session| now.since(session.seen_at) <= IDLE);
            self.swept_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId(1);

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_secs(minute * 60)
    }

    #[test]
    fn a_session_lasts_until_half_an_hour_of_silence() {
        let mut sessions = Sessions::default();
        let begun = sessions.begin(SITE, 7, 100, minute(0));
        assert_eq!(sessions.resume(SITE, &[7], minute(30)).map(|session| session.id), Some(begun.id));
        assert_eq!(sessions.resume(SITE, &[7], minute(60)).map(|session| session.id), Some(begun.id));
        assert_eq!(sessions.resume(SITE, &[7], minute(91)), None);
        assert_eq!(sessions.resume(SiteId(2), &[7], minute(60)), None);
    }

    #[test]
    fn somebody_known_by_yesterdays_id_keeps_it() {
        let mut sessions = Sessions::default();
        sessions.begin(SITE, 7, 100, minute(0));
        assert_eq!(sessions.resume(SITE, &[9, 7], minute(5)).map(|session| session.visitor), Some(7));
    }

    #[test]
    fn ended_sessions_are_forgotten() {
        let mut sessions = Sessions::default();
        for visitor in 0..100 {
            sessions.begin(SITE, visitor, visitor, minute(0));
        }
        sessions.begin(SITE, 1_000, 1_000, minute(40));
        assert_eq!(sessions.running.len(), 1);
    }
}
