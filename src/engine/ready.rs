//! Whose turn it is: deliveries that are due, in memory, handed out fairly.
//!
//! Accounts take turns, within an account its endpoints, and within an endpoint first attempts go before retries and both
//! before resends. An endpoint that may not be spoken to now is not in the round at all, so it costs nothing: it waits for
//! a moment, for an attempt of its own to end, for room at its host, or for room among those of its repute.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;

use crate::domain::breaker::Turn;
use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::domain::pace::{Admission, Pace, Repute, Told};
use crate::domain::time::Timestamp;
use crate::store::queue::{Due, Lane};

/// How many attempts may be under way at once.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub total: usize,
    /// To one host, whoever the webhooks there belong to.
    pub per_host: usize,
}

impl Room {
    /// Endpoints nobody knows get half of the room and those that fail a quarter, all of them together: however many
    /// hang, there is room for those that do well.
    fn of(self, repute: Repute) -> usize {
        match repute {
            Repute::Proven => self.total,
            Repute::Fresh => self.total / 2,
            Repute::Failing => self.total / 4,
        }
    }
}

#[derive(Debug)]
pub struct Ready {
    room: Room,
    in_flight: usize,
    /// Accounts with an endpoint in the round, the next one first.
    accounts: VecDeque<AccountId>,
    /// Each account's endpoints in the round, the next one first.
    rounds: HashMap<AccountId, VecDeque<WebhookId>>,
    endpoints: HashMap<WebhookId, Endpoint>,
    hosts: HashMap<Arc<str>, Crowd>,
    /// One for each repute.
    reputes: [Crowd; Repute::COUNT],
    /// Endpoints that wait for a moment.
    timers: BTreeSet<(Timestamp, WebhookId)>,
    waiting: usize,
}

/// Endpoints that share room.
#[derive(Debug, Default)]
struct Crowd {
    in_flight: usize,
    waiting: VecDeque<WebhookId>,
}

#[derive(Debug)]
struct Endpoint {
    account_id: AccountId,
    host: Arc<str>,
    pace: Pace,
    lanes: [VecDeque<Due>; 3],
    in_flight: u32,
    /// How many of those were started under each repute.
    started_as: [usize; Repute::COUNT],
    place: Place,
    /// When it was last spoken to, or met.
    used_at: Timestamp,
}

/// Where an endpoint waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    InTheRound,
    ForAMoment(Timestamp),
    AtItsHost,
    AmongItsLike(Repute),
}

impl Ready {
    pub fn new(room: Room) -> Self {
        Self {
            room,
            in_flight: 0,
            accounts: VecDeque::new(),
            rounds: HashMap::default(),
            endpoints: HashMap::default(),
            hosts: HashMap::default(),
            reputes: Default::default(),
            timers: BTreeSet::new(),
            waiting: 0,
        }
    }

    /// Gets to know an endpoint, or what has become of it.
    pub fn meet(&mut self, id: WebhookId, account_id: AccountId, host: Arc<str>, pace: Pace, now: Timestamp) {
        match self.endpoints.get_mut(&id) {
            Some(endpoint) => {
                // What is under way counts at the host it was started for, which is where it comes back from.
                if endpoint.in_flight == 0 {
                    endpoint.host = host;
                }
                endpoint.pace = pace;
                endpoint.used_at = now;
            }
            None => {
                let endpoint = Endpoint {
                    account_id,
                    host,
                    pace,
                    lanes: Default::default(),
                    in_flight: 0,
                    started_as: Default::default(),
                    place: Place::Nowhere,
                    used_at: now,
                };
                self.endpoints.insert(id, endpoint);
            }
        }
        self.enter_round(id);
    }

    pub fn knows(&self, id: WebhookId) -> bool {
        self.endpoints.contains_key(&id)
    }

    /// A delivery waits for its turn. `false`: its endpoint has to be met first.
    pub fn push(&mut self, due: Due) -> bool {
        let id = due.webhook_id;
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return false };
        endpoint.lanes[due.lane as usize].push_back(due);
        self.waiting += 1;
        self.enter_round(id);
        true
    }

    /// The next delivery to attempt. It counts as under way until [`Ready::done`] or [`Ready::put_back`].
    pub fn take_turn(&mut self, now: Timestamp) -> Option<Due> {
        self.wake(now);
        while self.in_flight < self.room.total {
            let id = self.next_in_round()?;
            let endpoint = self.endpoints.get(&id).expect("an endpoint in the round is known");
            let Some(lane) = endpoint.next_lane() else { continue };
            let (host, repute) = (Arc::clone(&endpoint.host), endpoint.pace.repute());
            let place = match endpoint.pace.admits(endpoint.in_flight, lane == Lane::Resend, now) {
                Admission::At(moment) => Place::ForAMoment(moment),
                Admission::AfterAnother => Place::Nowhere,
                Admission::Now if !self.has_room_at(&host) => Place::AtItsHost,
                Admission::Now if !self.has_room_among(repute) => Place::AmongItsLike(repute),
                Admission::Now => return Some(self.start(id, lane, repute, now)),
            };
            self.endpoints.get_mut(&id).expect("it was just there").place = place;
            match place {
                Place::ForAMoment(moment) => drop(self.timers.insert((moment, id))),
                Place::AtItsHost => self.hosts.entry(Arc::clone(&host)).or_default().waiting.push_back(id),
                Place::AmongItsLike(repute) => self.reputes[repute as usize].waiting.push_back(id),
                Place::Nowhere | Place::InTheRound => {}
            }
            // It may have been let in where it does not take the room now: the next one may.
            self.let_in(&host, repute);
        }
        None
    }

    fn has_room_at(&self, host: &Arc<str>) -> bool {
        self.hosts.get(host).is_none_or(|crowd| crowd.in_flight < self.room.per_host)
    }

    fn has_room_among(&self, repute: Repute) -> bool {
        self.reputes[repute as usize].in_flight < self.room.of(repute)
    }

    /// Lets the next one into room that has become free.
    fn let_in(&mut self, host: &Arc<str>, repute: Repute) {
        if self.has_room_at(host) {
            let next = self.hosts.get_mut(host).and_then(|crowd| crowd.waiting.pop_front());
            self.leave_place(next, Place::AtItsHost);
        }
        // Who has come to another repute meanwhile takes no room here: the one behind may come too.
        let mut room = self.has_room_among(repute);
        while room {
            let Some(next) = self.reputes[repute as usize].waiting.pop_front() else { return };
            room = self.endpoints.get(&next).is_none_or(|endpoint| endpoint.pace.repute() != repute);
            self.leave_place(Some(next), Place::AmongItsLike(repute));
        }
    }

    fn start(&mut self, id: WebhookId, lane: Lane, repute: Repute, now: Timestamp) -> Due {
        let endpoint = self.endpoints.get_mut(&id).expect("the caller has it");
        let due = endpoint.lanes[lane as usize].pop_front().expect("the lane is not empty");
        endpoint.pace.start(lane == Lane::Resend, now);
        endpoint.in_flight += 1;
        endpoint.used_at = now;
        endpoint.started_as[repute as usize] += 1;
        self.hosts.entry(Arc::clone(&endpoint.host)).or_default().in_flight += 1;
        self.reputes[repute as usize].in_flight += 1;
        self.in_flight += 1;
        self.waiting -= 1;
        self.enter_round(id);
        due
    }

    /// An attempt handed out by [`Ready::take_turn`] is over. Answers what is worth remembering of its endpoint.
    pub fn done(&mut self, id: WebhookId, told: Told, now: Timestamp) -> Option<Turn> {
        let endpoint = self.endpoints.get_mut(&id).expect("an endpoint is known while an attempt is under way");
        let turn = endpoint.pace.finish(told, now);
        endpoint.in_flight -= 1;
        self.in_flight -= 1;
        let repute = Repute::ALL.into_iter().find(|repute| endpoint.started_as[*repute as usize] > 0);
        let repute = repute.expect("it was started under some repute");
        endpoint.started_as[repute as usize] -= 1;
        let host = Arc::clone(&endpoint.host);
        if let Some(crowd) = self.hosts.get_mut(&host) {
            crowd.in_flight -= 1;
            if crowd.in_flight == 0 && crowd.waiting.is_empty() {
                self.hosts.remove(&host);
            }
        }
        self.reputes[repute as usize].in_flight -= 1;
        self.let_in(&host, repute);
        self.enter_round(id);
        turn
    }

    /// A turn that was not taken.
    pub fn put_back(&mut self, id: WebhookId, now: Timestamp) {
        self.done(id, Told::Nothing, now);
    }

    /// Nothing goes to the endpoint before `moment`: it asked for it.
    pub fn hold_until(&mut self, id: WebhookId, moment: Timestamp) {
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.pace.hold_until(moment);
        }
    }

    /// When somebody's moment comes, if nobody ends an attempt before.
    pub fn next_moment(&self) -> Option<Timestamp> {
        self.timers.first().map(|(moment, _)| *moment)
    }

    /// Deliveries of a lane that wait in memory.
    pub fn waiting_in(&self, id: WebhookId, lane: Lane) -> usize {
        self.endpoints.get(&id).map_or(0, |endpoint| endpoint.lanes[lane as usize].len())
    }

    /// All that wait in memory.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether somebody could have a turn now.
    pub fn is_resting(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Drops what waits for an endpoint; the database still has it.
    pub fn reset(&mut self, id: WebhookId) -> Vec<EventId> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Vec::new() };
        let dropped: Vec<_> =
            endpoint.lanes.iter_mut().flat_map(|lane| lane.drain(..)).map(|due| due.event_id).collect();
        self.waiting -= dropped.len();
        let (host, repute) = (Arc::clone(&endpoint.host), endpoint.pace.repute());
        self.leave_wherever(id);
        self.let_in(&host, repute);
        dropped
    }

    /// Forgets an endpoint that changed; it has to be met again.
    pub fn forget(&mut self, id: WebhookId) {
        self.reset(id);
        if self.endpoints.get(&id).is_some_and(|endpoint| endpoint.in_flight == 0) {
            self.endpoints.remove(&id);
        }
    }

    /// Drops everything that waits, of everybody.
    pub fn clear(&mut self) -> Vec<EventId> {
        let ids: Vec<_> = self.endpoints.keys().copied().collect();
        ids.into_iter().flat_map(|id| self.reset(id)).collect()
    }

    /// Forgets endpoints that nothing was sent to since `before`.
    pub fn forget_idle(&mut self, before: Timestamp) {
        self.endpoints
            .retain(|_, endpoint| endpoint.in_flight > 0 || endpoint.waiting() > 0 || endpoint.used_at >= before);
    }

    fn next_in_round(&mut self) -> Option<WebhookId> {
        let account_id = self.accounts.pop_front()?;
        let round = self.rounds.get_mut(&account_id).expect("an account in turn has a round");
        let id = round.pop_front().expect("a round in turn is not empty");
        if round.is_empty() {
            self.rounds.remove(&account_id);
        } else {
            self.accounts.push_back(account_id);
        }
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.place = Place::Nowhere;
        }
        Some(id)
    }

    /// Puts everybody whose moment has come into the round.
    fn wake(&mut self, now: Timestamp) {
        while let Some((moment, id)) = self.timers.first().copied()
            && moment <= now
        {
            self.timers.pop_first();
            self.leave_place(Some(id), Place::ForAMoment(moment));
        }
    }

    fn leave_place(&mut self, id: Option<WebhookId>, place: Place) {
        let Some(id) = id else { return };
        if let Some(endpoint) = self.endpoints.get_mut(&id).filter(|endpoint| endpoint.place == place) {
            endpoint.place = Place::Nowhere;
            self.enter_round(id);
        }
    }

    fn enter_round(&mut self, id: WebhookId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        if endpoint.place != Place::Nowhere || endpoint.waiting() == 0 {
            return;
        }
        endpoint.place = Place::InTheRound;
        let round = self.rounds.entry(endpoint.account_id).or_default();
        if round.is_empty() {
            self.accounts.push_back(endpoint.account_id);
        }
        round.push_back(id);
    }

    fn leave_wherever(&mut self, id: WebhookId) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        match std::mem::replace(&mut endpoint.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::ForAMoment(moment) => drop(self.timers.remove(&(moment, id))),
            Place::AtItsHost => {
                if let Some(crowd) = self.hosts.get_mut(&endpoint.host) {
                    crowd.waiting.retain(|waiting| *waiting != id);
                }
            }
            Place::AmongItsLike(repute) => {
                self.reputes[repute as usize].waiting.retain(|waiting| *waiting != id);
            }
            Place::InTheRound => {
                let account_id = endpoint.account_id;
                if let Some(round) = self.rounds.get_mut(&account_id) {
                    round.retain(|waiting| *waiting != id);
                    if round.is_empty() {
                        self.rounds.remove(&account_id);
                        self.accounts.retain(|waiting| *waiting != account_id);
                    }
                }
            }
        }
    }
}

impl Endpoint {
    fn waiting(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    fn next_lane(&self) -> Option<Lane> {
        [Lane::First, Lane::Retry, Lane::Resend].into_iter().find(|lane| !self.lanes[*lane as usize].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::pace::Limits;
    use crate::domain::webhook::Format;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const CAP: u32 = 16;

    fn due(account: i64, webhook: u128, event: u128, lane: Lane) -> Due {
        Due {
            event_id: EventId(Uuid::from_u128(event)),
            account_id: AccountId(account),
            webhook_id: WebhookId(Uuid::from_u128(webhook)),
            shard: 0,
            lane,
            attempt: 0,
            other_attempts: 0,
            due_at: Timestamp::EPOCH,
            expires_at: None,
            event_type: "test".into(),
            format: Format::Json,
            payload: bytes::Bytes::new(),
        }
    }

    fn pace(repute: Repute) -> Pace {
        let mut pace = Pace::new(Limits { in_flight: CAP, rate: None }, None, repute, NOW);
        if repute == Repute::Proven {
            for _ in 0..CAP {
                pace.finish(Told::Well, NOW);
            }
        }
        pace
    }

    fn ready(total: usize, per_host: usize) -> Ready {
        Ready::new(Room { total, per_host })
    }

    fn push(ready: &mut Ready, due: Due, repute: Repute) {
        if !ready.knows(due.webhook_id) {
            ready.meet(due.webhook_id, due.account_id, due.webhook_id.to_string().into(), pace(repute), NOW);
        }
        assert!(ready.push(due));
    }

    fn all(ready: &mut Ready) -> Vec<Due> {
        std::iter::from_fn(|| ready.take_turn(NOW)).collect()
    }

    #[test]
    fn accounts_take_turns_whatever_they_have_waiting() {
        let mut ready = ready(100, 100);
        for event in 0..10 {
            push(&mut ready, due(1, 1, event, Lane::First), Repute::Proven);
        }
        push(&mut ready, due(2, 2, 100, Lane::First), Repute::Proven);
        let order: Vec<_> = all(&mut ready).iter().take(3).map(|due| due.account_id.0).collect();
        assert_eq!(order, [1, 2, 1]);
    }

    #[test]
    fn first_attempts_go_before_retries_and_those_before_resends() {
        let mut ready = ready(100, 100);
        for (event, lane) in [(1, Lane::Resend), (2, Lane::Retry), (3, Lane::First)] {
            push(&mut ready, due(1, 1, event, lane), Repute::Proven);
        }
        let order: Vec<_> = all(&mut ready).iter().map(|due| due.lane).collect();
        assert_eq!(order, [Lane::First, Lane::Retry, Lane::Resend]);
    }

    #[test]
    fn an_endpoint_at_its_cap_waits_and_the_others_do_not() {
        let mut ready = ready(100, 100);
        for event in 0..40 {
            push(&mut ready, due(1, 1, event, Lane::First), Repute::Proven);
        }
        push(&mut ready, due(1, 2, 100, Lane::First), Repute::Proven);
        let handed_out = all(&mut ready);
        assert_eq!(handed_out.len(), CAP as usize + 1);
        ready.done(handed_out[0].webhook_id, Told::Well, NOW);
        assert!(ready.take_turn(NOW).is_some());
        assert!(ready.take_turn(NOW).is_none());
    }

    #[test]
    fn a_host_has_so_much_room_whoever_it_serves() {
        let mut ready = ready(100, 3);
        for webhook in 0..5 {
            let id = WebhookId(Uuid::from_u128(webhook));
            ready.meet(id, AccountId(1), "shared:443".into(), pace(Repute::Proven), NOW);
            assert!(ready.push(due(1, webhook, webhook, Lane::First)));
        }
        let handed_out = all(&mut ready);
        assert_eq!(handed_out.len(), 3);
        ready.done(handed_out[0].webhook_id, Told::Well, NOW);
        assert_eq!(all(&mut ready).len(), 1);
    }

    #[test]
    fn those_that_fail_leave_room_for_those_that_do_well() {
        let mut ready = ready(40, 100);
        for webhook in 0..100 {
            push(&mut ready, due(1, webhook, webhook, Lane::First), Repute::Failing);
            push(&mut ready, due(2, 200 + webhook, 200 + webhook, Lane::First), Repute::Fresh);
        }
        let handed_out = all(&mut ready);
        let of = |account| handed_out.iter().filter(|due| due.account_id.0 == account).count();
        assert_eq!((of(1), of(2)), (10, 20));
        push(&mut ready, due(3, 300, 300, Lane::First), Repute::Proven);
        assert_eq!(all(&mut ready).len(), 1);
        ready.done(handed_out[0].webhook_id, Told::Overwhelmed, NOW);
        assert_eq!(all(&mut ready).len(), 1, "room that becomes free is taken");
    }

    #[test]
    fn an_endpoint_that_has_to_wait_comes_back_by_itself() {
        let mut ready = ready(100, 100);
        push(&mut ready, due(1, 1, 1, Lane::First), Repute::Proven);
        let later = NOW + std::time::Duration::from_secs(30);
        ready.hold_until(WebhookId(Uuid::from_u128(1)), later);
        assert!(ready.take_turn(NOW).is_none());
        assert_eq!(ready.next_moment(), Some(later));
        assert!(ready.is_resting());
        assert!(ready.take_turn(later).is_some());
    }

    #[test]
    fn a_reset_endpoint_has_nothing_waiting_and_can_begin_again() {
        let mut ready = ready(100, 100);
        let webhook = due(1, 1, 1, Lane::First).webhook_id;
        push(&mut ready, due(1, 1, 1, Lane::First), Repute::Proven);
        assert_eq!(ready.reset(webhook).len(), 1);
        assert!(ready.take_turn(NOW).is_none());
        push(&mut ready, due(1, 1, 2, Lane::First), Repute::Proven);
        assert!(ready.take_turn(NOW).is_some());
    }

    proptest! {
        /// Everything pushed comes out once, whatever ends when and however little room there is, and no cap is passed.
        #[test]
        fn everything_comes_out_once(
            rows in prop::collection::vec((0i64..5, 0u128..8, 0usize..3), 0..200),
            ends in prop::collection::vec((any::<bool>(), any::<bool>()), 0..600),
            total in 4usize..40,
            per_host in 1usize..20,
        ) {
            let mut ready = ready(total, per_host);
            let lanes = [Lane::First, Lane::Retry, Lane::Resend];
            for (event, (account, webhook, lane)) in rows.iter().enumerate() {
                // A webhook belongs to one account.
                let due = due(*account, (*account as u128) << 8 | webhook, event as u128, lanes[*lane]);
                push(&mut ready, due, [Repute::Fresh, Repute::Proven, Repute::Failing][*webhook as usize % 3]);
            }
            let mut under_way: Vec<Due> = Vec::new();
            let mut seen = std::collections::HashSet::new();
            let mut ends = ends.into_iter();
            let mut now = NOW;
            while seen.len() < rows.len() {
                match ready.take_turn(now) {
                    Some(next) => {
                        prop_assert!(seen.insert(next.event_id));
                        let (ends_now, well) = ends.next().unwrap_or((true, true));
                        if ends_now {
                            ready.done(next.webhook_id, if well { Told::Well } else { Told::Refused }, now);
                        } else {
                            under_way.push(next);
                            prop_assert!(ready.in_flight() <= total);
                        }
                    }
                    None => match (under_way.pop(), ready.next_moment()) {
                        (Some(due), _) => drop(ready.done(due.webhook_id, Told::Well, now)),
                        (None, Some(moment)) => now = moment,
                        (None, None) => prop_assert!(false, "{} of {} came out", seen.len(), rows.len()),
                    },
                }
            }
            prop_assert_eq!(ready.waiting(), 0);
        }
    }
}
