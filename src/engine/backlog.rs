//! What this node holds of the queue: a part of each lane that is due, never so much that memory would notice, and how far
//! each lane has been read. The database has all of it; nothing here is true that a look at the queue would not say.

use std::collections::hash_map::Entry;
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::looks::Looks;
use super::ready::{Ready, Room};
use super::settler::Written;
use super::unread::{Unread, UnreadLanes};
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::queue::{Due, Lane, Position, Rest, Wanted};
use crate::store::tardy::PROMPT;
use crate::store::waiting::{Look, Waiting};

/// Deliveries kept in memory, over all lanes; the rest waits in the database. Beyond it only lanes with next to none are read:
/// nobody waits for room that others take up.
const KEPT: usize = 16_384;
const KEPT_PER_LANE: usize = 1_024;
/// Even with very many lanes each may keep so many.
const KEPT_AT_LEAST: usize = 8;
/// The news that something was fired is at most this late.
const RECENT: Duration = Duration::from_secs(2);
/// While the front of a lane is known and the lane was read to its end no longer ago than this, what else is due in it is
/// known too, unless somebody says that it is not: first attempts come by memory, and what fell due in another lane since is
/// behind one that waits for its turn.
const TRUSTED_FOR: Duration = Duration::from_secs(15);
/// Lanes that fall due within this share what is kept with those that are due: there is a look at least that often.
const SOON: Duration = Duration::from_secs(2);
/// Lanes read with one statement.
const LANES_AT_ONCE: usize = 256;

pub struct Backlog {
    pub ready: Ready,
    /// Everything in memory: waiting for its turn, under way, or being written.
    held: HashMap<EventId, Known>,
    /// Lanes that have more than is held.
    lanes: UnreadLanes,
    /// Lanes of which nothing was due yet at the last look, and when something is; the soonest comes last.
    coming: Vec<(Timestamp, Waiting)>,
    /// Lanes that were read to the end, and when.
    read: HashMap<(WebhookId, Lane), Timestamp>,
    /// Shards that somebody put something into behind our back.
    doubted: HashSet<i32>,
    /// Webhooks that nothing is sent to, and until when nobody asks again.
    parked: HashMap<WebhookId, Timestamp>,
    /// Being written.
    settling: usize,
    /// A read that is under way, by its number: what was read before somebody changed something is not taken.
    reading: Option<u64>,
    reads: u64,
    /// Webhooks that changed since it began, and deliveries that were written: what it finds of them is from before.
    changed: HashSet<WebhookId>,
    overtaken: HashSet<EventId>,
    /// Deliveries that were read, and written in the last seconds: the news that they were fired may come after that they were
    /// sent.
    recent: [HashSet<EventId>; 2],
    aged_at: Timestamp,
    looks: Looks,
    /// The last look found nothing that is not held, and nothing came since.
    clean: bool,
    stirred: bool,
    /// Something that may be sent is in nobody's memory: the next look finds it, however young it is.
    seeks_young: bool,
    /// Lanes that waited at the last look: what is kept is shared among them.
    crowd: usize,
}

/// From whom a delivery is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was just fired. There are no such news again.
    ByNews,
    /// From the database.
    Read,
}

/// What came of asking the database.
pub enum Found {
    Waiting { took: Duration, waiting: Result<Vec<Waiting>, StoreError> },
    Due { reading: u64, wanted: Wanted, rows: Result<Vec<Due>, StoreError> },
}

impl Backlog {
    pub fn new(room: Room, looks: Looks) -> Self {
        Self {
            ready: Ready::new(room),
            held: HashMap::default(),
            lanes: UnreadLanes::default(),
            coming: Vec::new(),
            read: HashMap::default(),
            doubted: HashSet::default(),
            parked: HashMap::default(),
            settling: 0,
            reading: None,
            reads: 0,
            changed: HashSet::default(),
            overtaken: HashSet::default(),
            recent: Default::default(),
            aged_at: Timestamp::EPOCH,
            looks,
            clean: false,
            stirred: false,
            seeks_young: false,
            crowd: 1,
        }
    }

    /// Deliveries a lane may keep.
    fn share(&self) -> usize {
        if self.ready.waiting() >= KEPT {
            return KEPT_AT_LEAST;
        }
        (KEPT / self.crowd.max(1)).clamp(KEPT_AT_LEAST, KEPT_PER_LANE)
    }

    /// Something may have changed in the queue: the last look proves nothing any more.
    pub fn stir(&mut self) {
        self.clean = false;
        self.stirred = true;
    }

    /// Somebody put something into the queue of a shard, or may have.
    pub fn doubt(&mut self, shard: i32) {
        self.doubted.insert(shard);
        self.stir();
    }

    /// The same, and what was put there may have no row yet.
    pub fn seek(&mut self, shard: i32) {
        self.seeks_young = true;
        self.doubt(shard);
    }

    /// The next look leaves nothing out.
    pub fn doubt_all(&mut self) {
        self.looks.doubt();
        self.stir();
    }

    pub fn may_look(&self) -> bool {
        !self.looks.is_under_way()
    }

    /// A look begins. Answers which.
    pub fn looks(&mut self, at_everything: bool, now: Timestamp) -> Look {
        self.stirred = false;
        let at_everything = std::mem::take(&mut self.seeks_young) || at_everything;
        Look { young_since: (!at_everything).then_some(now - PROMPT), ..self.looks.begin(now) }
    }

    /// Forgets what was written more than a few seconds ago.
    pub fn grow_older(&mut self, now: Timestamp) {
        if now.since(self.aged_at) >= RECENT {
            self.aged_at = now;
            self.recent.swap(0, 1);
            self.recent[0].clear();
        }
    }

    pub fn looked_in_vain(&mut self) {
        self.looks.end_in_vain();
    }

    /// What a look found, and how long that took.
    pub fn waiting(&mut self, waiting: Vec<Waiting>, took: Duration, now: Timestamp, ours: impl Fn(i32) -> bool) {
        self.looks.end(&waiting, took, now);
        self.parked.retain(|_, until| *until > now);
        self.read.retain(|_, at| now.since(*at) < TRUSTED_FOR);
        let doubted = std::mem::take(&mut self.doubted);
        self.coming.clear();
        let mut crowd = 0;
        for lane in waiting {
            if !ours(lane.shard) {
                continue;
            }
            let parked_until = self.parked.get(&lane.webhook_id).copied();
            let moment = parked_until.map_or(lane.next_due_at, |until| until.max(lane.next_due_at));
            crowd += usize::from(moment <= now + SOON);
            if moment > now {
                self.coming.push((moment, lane));
                continue;
            }
            if doubted.contains(&lane.shard) {
                self.read.remove(&(lane.webhook_id, lane.lane));
            }
            self.falls_due(&lane);
        }
        self.coming.sort_unstable_by_key(|(moment, lane)| std::cmp::Reverse((*moment, lane.event_id)));
        self.crowd = crowd.max(1);
        // What waits in memory for its moment is no reason to look again.
        self.clean = self.lanes.is_empty() && !self.stirred;
    }

    /// When the next lane falls due of which nothing was at the last look.
    pub fn next_coming(&self) -> Option<Timestamp> {
        self.coming.last().map(|(moment, _)| *moment)
    }

    /// Has those read that fell due since the last look. To look again for each of them would cost as much as all of them.
    pub fn grow_due(&mut self, now: Timestamp) {
        while let Some((_, lane)) = self.coming.pop_if(|(moment, _)| *moment <= now) {
            if !self.is_parked(lane.webhook_id, now) {
                self.falls_due(&lane);
                self.stir();
            }
        }
    }

    fn falls_due(&mut self, lane: &Waiting) {
        let waiting = self.ready.waiting_in(lane.webhook_id, lane.lane);
        let known = self.held.contains_key(&lane.event_id)
            && self.read.contains_key(&(lane.webhook_id, lane.lane))
            && (lane.lane == Lane::First || waiting > 0);
        // From the front again: what came in behind our back may be due before what was read last. Before the front there
        // was nothing, and what comes there is the front of the next look.
        if !known && waiting <= self.share() / 2 {
            let Waiting { shard, account_id, webhook_id, lane, next_due_at, .. } = *lane;
            self.read_from(Rest { shard, account_id, webhook_id, lane, after: Position::before(next_due_at) });
        }
    }

    fn read_from(&mut self, rest: Rest) {
        let Rest { shard, account_id, webhook_id, lane, after } = rest;
        self.lanes.insert((webhook_id, lane), Unread { shard, account_id, after, wanted_at: self.reads });
    }

    /// The next read: lanes that run low, and with them those that soon will. They are read together since their events lie
    /// side by side. It is under way until [`Backlog::due`] or [`Backlog::read_in_vain`].
    pub fn wants(&mut self) -> Option<(u64, Wanted)> {
        if self.reading.is_some() || self.lanes.is_empty() {
            return None;
        }
        let share = self.share();
        let lanes = self.lanes.next(LANES_AT_ONCE, share, |key| self.ready.waiting_in(key.0, key.1))?;
        self.reads += 1;
        self.reading = Some(self.reads);
        self.changed.clear();
        self.overtaken.clear();
        Some((self.reads, Wanted { lanes, limit: i64::try_from(share).unwrap_or(i64::MAX) }))
    }

    /// What a read found: those that are new.
    pub fn due(&mut self, reading: u64, wanted: &Wanted, rows: Vec<Due>, now: Timestamp) -> Vec<Due> {
        if self.reading != Some(reading) {
            return Vec::new();
        }
        self.reading = None;
        let mut read: HashMap<(WebhookId, Lane), (i64, Position)> = HashMap::default();
        for due in &rows {
            let position = Position { due_at: due.due_at, event_id: due.event_id };
            let (count, last) = read.entry((due.webhook_id, due.lane)).or_insert((0, position));
            *count += 1;
            *last = position.max(*last);
        }
        for lane in wanted.lanes.iter().filter(|lane| !self.changed.contains(&lane.webhook_id)) {
            let key = (lane.webhook_id, lane.lane);
            if self.lanes.get(&key).is_none_or(|unread| unread.wanted_at >= reading) {
                continue;
            }
            match read.get(&key) {
                Some((count, last)) if *count == wanted.limit => self.lanes.read_until(&key, *last),
                _ => {
                    self.lanes.remove(&key);
                    self.read.insert(key, now);
                }
            }
        }
        let mut rows = rows;
        rows.retain(|due| {
            !self.held.contains_key(&due.event_id)
                && !self.overtaken.contains(&due.event_id)
                && !self.changed.contains(&due.webhook_id)
        });
        self.clean = rows.is_empty() && self.lanes.is_empty() && !self.stirred;
        rows
    }

    pub fn read_in_vain(&mut self, reading: u64) {
        if self.reading == Some(reading) {
            self.reading = None;
            // Everything is looked at again then.
            self.lanes.clear();
            self.read.clear();
        }
    }

    /// Whether a delivery that was just fired may be kept, or is better read when its turn comes.
    pub fn has_room_for(&self, due: &Due, now: Timestamp) -> bool {
        !self.recent.iter().any(|recent| recent.contains(&due.event_id))
            && self.ready.waiting_in(due.webhook_id, due.lane) < self.share()
            && !self.is_parked(due.webhook_id, now)
    }

    /// A delivery that was just fired and has no room: it is read when its turn comes.
    pub fn leave(&mut self, due: &Due, now: Timestamp) {
        let is_to_be_read = self.reading.is_none() && self.lanes.get(&(due.webhook_id, due.lane)).is_some();
        if !self.is_parked(due.webhook_id, now) && !is_to_be_read {
            let Due { shard, account_id, webhook_id, lane, due_at, .. } = *due;
            let after = self.looks.front(shard, webhook_id, lane, due_at);
            self.read_from(Rest { shard, account_id, webhook_id, lane, after });
        }
        self.stir();
    }

    /// Keeps a delivery until its turn, unless it is kept already or nothing may be sent to its webhook.
    pub fn take(&mut self, due: Due, known: Known, now: Timestamp) {
        self.clean = false;
        let id = due.event_id;
        if self.is_parked(due.webhook_id, now) {
            return;
        }
        match self.held.entry(id) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(known),
        };
        if !self.ready.push(due) {
            self.held.remove(&id);
            self.seeks_young = true;
        }
    }

    /// The next delivery to attempt, as [`Ready::take_turn`] has it.
    pub fn take_turn(&mut self, now: Timestamp) -> Option<Due> {
        let due = self.ready.take_turn(now)?;
        if !self.lanes.is_empty() {
            let key = (due.webhook_id, due.lane);
            self.lanes.keeps(&key, self.ready.waiting_in(key.0, key.1), self.share());
        }
        Some(due)
    }

    /// A turn that was not taken.
    pub fn put_back(&mut self, due: &Due, now: Timestamp) {
        self.held.remove(&due.event_id);
        self.ready.put_back(due.webhook_id, now);
        self.seeks_young = true;
        self.stir();
    }

    /// An attempt is over and being written.
    pub fn settles(&mut self) {
        self.settling += 1;
    }

    /// What was written is not ours to remember any more.
    pub fn written(&mut self, written: &Written) {
        self.settling -= 1;
        let known = self.held.remove(&written.event_id);
        if self.reading.is_some() {
            self.overtaken.insert(written.event_id);
        }
        if known != Some(Known::ByNews) {
            self.recent[0].insert(written.event_id);
        }
        self.stir();
    }

    pub fn park(&mut self, id: WebhookId, until: Timestamp) {
        self.drop_waiting(id);
        let parked = self.parked.entry(id).or_insert(until);
        *parked = until.max(*parked);
    }

    pub fn unpark(&mut self, id: WebhookId) {
        self.parked.remove(&id);
        self.seeks_young = true;
    }

    fn is_parked(&self, id: WebhookId, now: Timestamp) -> bool {
        self.parked.get(&id).is_some_and(|until| *until > now)
    }

    /// Drops what waits for a webhook; the database still has it.
    pub fn drop_waiting(&mut self, id: WebhookId) {
        for dropped in self.ready.reset(id) {
            self.held.remove(&dropped);
        }
        for lane in Lane::ALL {
            self.lanes.remove(&(id, lane));
            self.read.remove(&(id, lane));
        }
        self.coming.retain(|(_, lane)| lane.webhook_id != id);
        self.changed.insert(id);
        self.stir();
    }

    /// Drops everything that waits.
    pub fn forget_what_waits(&mut self) {
        for dropped in self.ready.clear() {
            self.held.remove(&dropped);
        }
        self.lanes.clear();
        self.coming.clear();
        self.read.clear();
        self.parked.clear();
        self.reading = None;
        self.seeks_young = true;
        self.doubt_all();
    }

    /// Nothing is under way and nothing can be started.
    pub fn is_idle(&self) -> bool {
        self.settling == 0
            && self.ready.in_flight() == 0
            && self.ready.is_resting()
            && self.reading.is_none()
            && self.lanes.is_empty()
    }

    /// The last look found nothing that is not held, and nothing came since.
    pub fn is_clean(&self) -> bool {
        self.clean && self.may_look()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::AccountId;
    use crate::domain::pace::{Limits, Pace, Repute, Told};
    use crate::domain::webhook::Format;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    fn due(webhook_number: u128, event: u128) -> Due {
        Due {
            event_id: EventId(Uuid::from_u128(event)),
            account_id: AccountId(1),
            webhook_id: webhook(webhook_number),
            shard: 0,
            lane: Lane::First,
            attempt: 0,
            other_attempts: 0,
            due_at: NOW,
            expires_at: None,
            event_type: "test".into(),
            format: Format::Json,
            payload: bytes::Bytes::new(),
        }
    }

    fn waiting(webhook_number: u128, event: u128) -> Waiting {
        let due = due(webhook_number, event);
        Waiting {
            shard: due.shard,
            account_id: due.account_id,
            webhook_id: due.webhook_id,
            lane: due.lane,
            next_due_at: due.due_at,
            event_id: due.event_id,
        }
    }

    fn backlog_of(webhooks: u128) -> Backlog {
        let mut backlog = Backlog::new(Room { total: 10, per_host: 10 }, Looks::default());
        for number in 0..webhooks {
            let pace = Pace::new(Limits { in_flight: 1, rate: None }, None, Repute::Fresh, NOW);
            backlog.ready.meet(webhook(number), AccountId(1), Arc::from("host"), pace, NOW);
        }
        backlog
    }

    fn look(backlog: &mut Backlog, lanes: Vec<Waiting>) {
        backlog.looks(false, NOW);
        backlog.waiting(lanes, Duration::ZERO, NOW, |_| true);
    }

    #[test]
    fn who_has_nothing_in_memory_is_read_although_others_fill_it() {
        let mut backlog = backlog_of(2);
        for event in 0..KEPT as u128 {
            backlog.take(due(0, event), Known::Read, NOW);
        }
        let last = KEPT as u128;
        look(&mut backlog, vec![waiting(0, 0), waiting(1, last)]);
        let (_, wanted) = backlog.wants().expect("somebody has nothing");
        let lanes: Vec<_> = wanted.lanes.iter().map(|lane| lane.webhook_id).collect();
        assert_eq!((lanes, wanted.limit), (vec![webhook(1)], KEPT_AT_LEAST as i64));
        assert!(backlog.has_room_for(&due(1, last + 1), NOW));
        assert!(!backlog.has_room_for(&due(0, last + 2), NOW));
    }

    #[test]
    fn who_soon_runs_low_is_read_with_those_that_do() {
        let mut backlog = backlog_of(3);
        look(&mut backlog, (0..3).map(|number| waiting(number, 0)).collect());
        let mut next = 0..;
        let mut keeps = |backlog: &mut Backlog, number, count| {
            for event in next.by_ref().take(count) {
                backlog.take(due(number, event), Known::Read, NOW);
            }
        };
        keeps(&mut backlog, 0, KEPT_PER_LANE / 4 * 3);
        keeps(&mut backlog, 1, KEPT_PER_LANE / 4 * 3 + 1);
        keeps(&mut backlog, 2, KEPT_PER_LANE / 2 + 1);
        assert!(backlog.wants().is_none(), "nobody runs low");
        for _ in 0..3 {
            let turn = backlog.take_turn(NOW).expect("everybody has one");
            backlog.ready.done(turn.webhook_id, Told::Nothing, NOW);
        }
        let (_, wanted) = backlog.wants().expect("one runs low");
        let lanes: Vec<_> = wanted.lanes.iter().map(|lane| lane.webhook_id).collect();
        assert_eq!(lanes[0], webhook(2), "who runs low comes first");
        assert_eq!(lanes.len(), 3);

        let mut backlog = backlog_of(2);
        look(&mut backlog, (0..2).map(|number| waiting(number, 0)).collect());
        keeps(&mut backlog, 0, KEPT_PER_LANE / 4 * 3 + 1);
        let (_, wanted) = backlog.wants().expect("one has nothing");
        let lanes: Vec<_> = wanted.lanes.iter().map(|lane| lane.webhook_id).collect();
        assert_eq!(lanes, [webhook(1)], "who has enough is not read");
    }

    #[test]
    fn of_what_was_read_the_news_may_come_late_and_of_what_is_known_by_them_there_are_no_others() {
        let mut backlog = backlog_of(1);
        for (event, known) in [(1, Known::Read), (2, Known::ByNews)] {
            let delivery = due(0, event);
            backlog.take(delivery.clone(), known, NOW);
            assert!(backlog.take_turn(NOW).is_some());
            backlog.settles();
            backlog.written(&Written { event_id: delivery.event_id, shard: 0 });
            let (is_news, is_remembered) = (backlog.has_room_for(&delivery, NOW), !backlog.recent[0].is_empty());
            assert_eq!((is_news, is_remembered), (known == Known::ByNews, known == Known::Read));
            backlog.ready.done(webhook(0), Told::Nothing, NOW);
            backlog.recent = Default::default();
        }
    }

    #[test]
    fn what_is_known_is_not_read_again_until_somebody_doubts_it() {
        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 1)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        for row in backlog.due(reading, &wanted, vec![due(0, 1)], NOW) {
            backlog.take(row, Known::Read, NOW);
        }
        look(&mut backlog, vec![waiting(0, 1)]);
        assert!(backlog.wants().is_none(), "its front is known");
        backlog.doubt(0);
        look(&mut backlog, vec![waiting(0, 1)]);
        assert!(backlog.wants().is_some(), "somebody put something there");

        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 1)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        backlog.due(reading, &wanted, Vec::new(), NOW);
        look(&mut backlog, vec![waiting(0, 2)]);
        assert!(backlog.wants().is_some(), "its front is not known");
    }

    #[test]
    fn what_fell_due_behind_one_that_waits_is_not_read_before_its_turn() {
        let mut backlog = backlog_of(1);
        let front = Waiting { lane: Lane::Retry, ..waiting(0, 1) };
        look(&mut backlog, vec![front]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        for row in backlog.due(reading, &wanted, vec![Due { lane: Lane::Retry, ..due(0, 1) }], NOW) {
            backlog.take(row, Known::Read, NOW);
        }
        look(&mut backlog, vec![front]);
        assert!(backlog.wants().is_none(), "its front waits");
        assert!(backlog.take_turn(NOW).is_some());
        look(&mut backlog, vec![front]);
        assert!(backlog.wants().is_some(), "the next one could have a turn");
    }

    #[test]
    fn a_look_leaves_the_young_without_rows_unless_nobody_may_have_them_in_memory() {
        let mut backlog = backlog_of(1);
        let young_since = |backlog: &mut Backlog| {
            let look = backlog.looks(false, NOW);
            backlog.waiting(Vec::new(), Duration::ZERO, NOW, |_| true);
            look.young_since
        };
        let as_usual = Some(NOW - PROMPT);
        assert_eq!(young_since(&mut backlog), as_usual);
        backlog.take(due(0, 1), Known::Read, NOW);
        backlog.leave(&due(0, 2), NOW);
        assert_eq!(young_since(&mut backlog), as_usual, "one is here and the other is read when its turn comes");
        let turn = backlog.take_turn(NOW).expect("it is its turn");
        backlog.put_back(&turn, NOW);
        assert_eq!((young_since(&mut backlog), young_since(&mut backlog)), (None, as_usual));
        backlog.take(due(7, 3), Known::Read, NOW);
        assert_eq!((young_since(&mut backlog), young_since(&mut backlog)), (None, as_usual), "nobody met its webhook");
        backlog.forget_what_waits();
        assert_eq!((young_since(&mut backlog), young_since(&mut backlog)), (None, as_usual));
        backlog.park(webhook(0), NOW + Duration::from_secs(60));
        assert_eq!(young_since(&mut backlog), as_usual, "it may not be spoken to before they are old");
        backlog.unpark(webhook(0));
        assert_eq!((young_since(&mut backlog), young_since(&mut backlog)), (None, as_usual));
        backlog.seek(0);
        assert_eq!((young_since(&mut backlog), young_since(&mut backlog)), (None, as_usual));
        backlog.doubt(0);
        assert_eq!(young_since(&mut backlog), as_usual, "another node writes rows at once");
        assert_eq!(backlog.looks(true, NOW).young_since, None);
    }

    /// The row came after the read that was under way had begun.
    #[test]
    fn a_read_that_began_before_does_not_prove_that_nothing_came_since() {
        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 1)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        backlog.doubt(0);
        look(&mut backlog, vec![waiting(0, 1)]);
        backlog.due(reading, &wanted, vec![due(0, 1)], NOW);
        assert!(backlog.wants().is_some(), "somebody put something there");

        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 1)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        backlog.leave(&due(0, 2), NOW);
        backlog.due(reading, &wanted, vec![due(0, 1)], NOW);
        assert!(backlog.wants().is_some(), "one had no room");
    }

    #[test]
    fn a_doubt_is_kept_while_there_is_enough_to_do() {
        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 0)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        let many = (0..KEPT_PER_LANE as u128 - 1).map(|event| due(0, event)).collect();
        for row in backlog.due(reading, &wanted, many, NOW) {
            backlog.take(row, Known::Read, NOW);
        }
        backlog.doubt(0);
        look(&mut backlog, vec![waiting(0, 0)]);
        assert!(backlog.wants().is_none(), "there is enough to do");
        // It runs low, and nobody doubts it once more.
        backlog.ready.reset(webhook(0));
        look(&mut backlog, vec![waiting(0, 0)]);
        assert!(backlog.wants().is_some(), "what was put there has not been read");
    }

    #[test]
    fn what_finds_no_room_is_read_without_waiting_for_a_look() {
        let mut backlog = backlog_of(1);
        backlog.leave(&due(0, 1), NOW);
        assert!(backlog.wants().is_some());
    }

    #[test]
    fn what_comes_before_the_front_is_read_after_the_next_look() {
        let mut backlog = backlog_of(1);
        look(&mut backlog, vec![waiting(0, 1)]);
        let (reading, wanted) = backlog.wants().expect("nobody has read it yet");
        assert_eq!(wanted.lanes[0].after, Position::before(NOW), "before it there was nothing");
        for row in backlog.due(reading, &wanted, vec![due(0, 1)], NOW) {
            backlog.take(row, Known::Read, NOW);
        }
        let earlier = NOW - Duration::from_secs(5);
        look(&mut backlog, vec![Waiting { next_due_at: earlier, ..waiting(0, 2) }]);
        let (_, wanted) = backlog.wants().expect("its front is not known");
        assert_eq!(wanted.lanes[0].after, Position::before(earlier));
    }

    #[test]
    fn what_falls_due_is_read_without_another_look() {
        let mut backlog = backlog_of(3);
        let at = |webhook_number, after| {
            let later = Waiting { lane: Lane::Retry, ..waiting(webhook_number, webhook_number) };
            Waiting { next_due_at: NOW + Duration::from_millis(after), ..later }
        };
        look(&mut backlog, vec![at(0, 20), at(1, 10), at(2, 30)]);
        assert!(backlog.wants().is_none() && backlog.is_clean(), "nothing is due");
        backlog.park(webhook(2), NOW + Duration::from_secs(60));
        let first = NOW + Duration::from_millis(10);
        assert_eq!(backlog.next_coming(), Some(first));
        backlog.grow_due(first);
        assert!(!backlog.is_clean(), "there is something to read");
        let (_, wanted) = backlog.wants().expect("one fell due");
        let wanted: Vec<_> = wanted.lanes.iter().map(|lane| (lane.webhook_id, lane.lane)).collect();
        assert_eq!(wanted, [(webhook(1), Lane::Retry)]);
        backlog.grow_due(NOW + Duration::from_secs(1));
        assert_eq!(backlog.next_coming(), None);
        assert!(backlog.lanes.get(&(webhook(2), Lane::Retry)).is_none(), "it was parked meanwhile");
    }
}
