//! Whose turn it is: deliveries that are due, in memory, handed out fairly.
//!
//! Accounts take turns, within an account its endpoints, and within an endpoint first attempts go before retries and both
//! before resends. An endpoint that may not be spoken to now is not in the round at all, so it costs nothing: it waits for
//! a moment, for an attempt of its own to end, for room at its host, or for room among those of its repute. Those that wait
//! for room take turns in the same way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;
use slab::Slab;

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

/// Endpoints and hosts go by numbers in here: they are looked up several times with every delivery.
#[derive(Debug)]
pub struct Ready {
    room: Room,
    in_flight: usize,
    round: Round,
    endpoints: Slab<Endpoint>,
    numbers: HashMap<WebhookId, usize>,
    hosts: Slab<Host>,
    hosts_by_name: HashMap<Arc<str>, usize>,
    /// One for each repute.
    reputes: [Crowd; Repute::COUNT],
    /// Endpoints that wait for a moment.
    timers: BTreeSet<(Timestamp, usize)>,
    waiting: usize,
}

/// Endpoints in turn: of one account after the other, and of each account one after the other.
#[derive(Debug, Default)]
struct Round {
    /// Accounts that have one here, the next one first.
    accounts: VecDeque<AccountId>,
    /// The endpoints of each account, the next one first; of some accounts none.
    endpoints: HashMap<AccountId, VecDeque<usize>>,
}

/// Endpoints that share room.
#[derive(Debug, Default)]
struct Crowd {
    in_flight: usize,
    waiting: Round,
}

/// Kept while endpoints there are known.
#[derive(Debug)]
struct Host {
    name: Arc<str>,
    endpoints: usize,
    crowd: Crowd,
}

#[derive(Debug)]
struct Endpoint {
    id: WebhookId,
    account_id: AccountId,
    host: usize,
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

impl Round {
    fn push(&mut self, account_id: AccountId, endpoint: usize) {
        let own = self.endpoints.entry(account_id).or_default();
        if own.is_empty() {
            self.accounts.push_back(account_id);
        }
        own.push_back(endpoint);
    }

    fn pop(&mut self) -> Option<usize> {
        let account_id = self.accounts.pop_front()?;
        let own = self.endpoints.get_mut(&account_id).expect("an account in turn has endpoints");
        let endpoint = own.pop_front().expect("an account in turn has an endpoint");
        if !own.is_empty() {
            self.accounts.push_back(account_id);
        }
        Some(endpoint)
    }

    fn remove(&mut self, account_id: AccountId, endpoint: usize) {
        let Some(own) = self.endpoints.get_mut(&account_id) else { return };
        own.retain(|other| *other != endpoint);
        if own.is_empty() {
            self.accounts.retain(|other| *other != account_id);
        }
    }

    fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// What is kept for accounts that may come back in a moment.
    fn forget_idle(&mut self) {
        self.endpoints.retain(|_, own| !own.is_empty());
    }
}

impl Ready {
    pub fn new(room: Room) -> Self {
        Self {
            room,
            in_flight: 0,
            round: Round::default(),
            endpoints: Slab::new(),
            numbers: HashMap::default(),
            hosts: Slab::new(),
            hosts_by_name: HashMap::default(),
            reputes: Default::default(),
            timers: BTreeSet::new(),
            waiting: 0,
        }
    }

    /// Gets to know an endpoint, or what has become of it.
    pub fn meet(&mut self, id: WebhookId, account_id: AccountId, host: Arc<str>, pace: Pace, now: Timestamp) {
        let number = match self.numbers.get(&id).copied() {
            Some(number) => {
                // What is under way counts at the host it was started for, which is where it comes back from.
                let endpoint = &self.endpoints[number];
                if endpoint.in_flight == 0 && self.hosts[endpoint.host].name != host {
                    if endpoint.place == Place::AtItsHost {
                        self.leave_wherever(number);
                    }
                    let before = self.endpoints[number].host;
                    self.endpoints[number].host = self.host(host);
                    self.leave_host(before);
                }
                let endpoint = &mut self.endpoints[number];
                endpoint.pace = pace;
                endpoint.used_at = now;
                number
            }
            None => {
                let host = self.host(host);
                let number = self.endpoints.insert(Endpoint {
                    id,
                    account_id,
                    host,
                    pace,
                    lanes: Default::default(),
                    in_flight: 0,
                    started_as: Default::default(),
                    place: Place::Nowhere,
                    used_at: now,
                });
                self.numbers.insert(id, number);
                number
            }
        };
        self.enter_round(number);
    }

    /// The host of one more endpoint.
    fn host(&mut self, name: Arc<str>) -> usize {
        let hosts = &mut self.hosts;
        let new = || hosts.insert(Host { name: Arc::clone(&name), endpoints: 0, crowd: Crowd::default() });
        let number = *self.hosts_by_name.entry(Arc::clone(&name)).or_insert_with(new);
        self.hosts[number].endpoints += 1;
        number
    }

    fn leave_host(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        host.endpoints -= 1;
        if host.endpoints == 0 {
            let host = self.hosts.remove(number);
            self.hosts_by_name.remove(&host.name);
        } else {
            // It may have been let in there.
            self.let_in_at(number);
        }
    }

    pub fn knows(&self, id: WebhookId) -> bool {
        self.numbers.contains_key(&id)
    }

    /// A delivery waits for its turn. `false`: its endpoint has to be met first.
    pub fn push(&mut self, due: Due) -> bool {
        let Some(number) = self.numbers.get(&due.webhook_id).copied() else { return false };
        self.endpoints[number].lanes[due.lane as usize].push_back(due);
        self.waiting += 1;
        self.enter_round(number);
        true
    }

    /// The next delivery to attempt. It counts as under way until [`Ready::done`] or [`Ready::put_back`].
    pub fn take_turn(&mut self, now: Timestamp) -> Option<Due> {
        self.wake(now);
        while self.in_flight < self.room.total {
            let number = self.round.pop()?;
            let endpoint = &mut self.endpoints[number];
            endpoint.place = Place::Nowhere;
            let Some(lane) = endpoint.next_lane() else { continue };
            let (host, account_id, repute) = (endpoint.host, endpoint.account_id, endpoint.pace.repute());
            let place = match endpoint.pace.admits(endpoint.in_flight, lane == Lane::Resend, now) {
                Admission::At(moment) => Place::ForAMoment(moment),
                Admission::AfterAnother => Place::Nowhere,
                Admission::Now if !self.has_room_at(host) => Place::AtItsHost,
                Admission::Now if !self.has_room_among(repute) => Place::AmongItsLike(repute),
                Admission::Now => return Some(self.start(number, lane, repute, now)),
            };
            self.endpoints[number].place = place;
            match place {
                Place::ForAMoment(moment) => drop(self.timers.insert((moment, number))),
                Place::AtItsHost => self.hosts[host].crowd.waiting.push(account_id, number),
                Place::AmongItsLike(repute) => self.reputes[repute as usize].waiting.push(account_id, number),
                Place::Nowhere | Place::InTheRound => {}
            }
            // It may have been let in where it does not take the room now: the next one may.
            self.let_in_at(host);
            self.let_in_among(repute);
        }
        None
    }

    fn has_room_at(&self, host: usize) -> bool {
        self.hosts[host].crowd.in_flight < self.room.per_host
    }

    fn has_room_among(&self, repute: Repute) -> bool {
        self.reputes[repute as usize].in_flight < self.room.of(repute)
    }

    /// Lets the next one into room that has become free.
    fn let_in_at(&mut self, host: usize) {
        if self.has_room_at(host)
            && let Some(next) = self.hosts[host].crowd.waiting.pop()
        {
            self.leave_place(next, Place::AtItsHost);
        }
    }

    fn let_in_among(&mut self, repute: Repute) {
        // Who has come to another repute meanwhile takes no room here: the one behind may come too.
        let mut room = self.has_room_among(repute);
        while room {
            let Some(next) = self.reputes[repute as usize].waiting.pop() else { return };
            room = self.endpoints[next].pace.repute() != repute;
            self.leave_place(next, Place::AmongItsLike(repute));
        }
    }

    fn start(&mut self, number: usize, lane: Lane, repute: Repute, now: Timestamp) -> Due {
        let endpoint = &mut self.endpoints[number];
        let due = endpoint.lanes[lane as usize].pop_front().expect("the lane is not empty");
        endpoint.pace.start(lane == Lane::Resend, now);
        endpoint.in_flight += 1;
        endpoint.used_at = now;
        endpoint.started_as[repute as usize] += 1;
        self.hosts[endpoint.host].crowd.in_flight += 1;
        self.reputes[repute as usize].in_flight += 1;
        self.in_flight += 1;
        self.waiting -= 1;
        self.enter_round(number);
        due
    }

    /// An attempt handed out by [`Ready::take_turn`] is over. Answers what is worth remembering of its endpoint.
    pub fn done(&mut self, id: WebhookId, told: Told, now: Timestamp) -> Option<Turn> {
        let number = *self.numbers.get(&id).expect("an endpoint is known while an attempt is under way");
        let endpoint = &mut self.endpoints[number];
        let turn = endpoint.pace.finish(told, now);
        endpoint.in_flight -= 1;
        self.in_flight -= 1;
        let repute = Repute::ALL.into_iter().find(|repute| endpoint.started_as[*repute as usize] > 0);
        let repute = repute.expect("it was started under some repute");
        endpoint.started_as[repute as usize] -= 1;
        let host = endpoint.host;
        self.hosts[host].crowd.in_flight -= 1;
        self.reputes[repute as usize].in_flight -= 1;
        self.let_in_at(host);
        self.let_in_among(repute);
        self.enter_round(number);
        turn
    }

    /// A turn that was not taken.
    pub fn put_back(&mut self, id: WebhookId, now: Timestamp) {
        self.done(id, Told::Nothing, now);
    }

    /// Nothing goes to the endpoint before `moment`: it asked for it.
    pub fn hold_until(&mut self, id: WebhookId, moment: Timestamp) {
        if let Some(number) = self.numbers.get(&id) {
            self.endpoints[*number].pace.hold_until(moment);
        }
    }

    /// When somebody's moment comes, if nobody ends an attempt before.
    pub fn next_moment(&self) -> Option<Timestamp> {
        self.timers.first().map(|(moment, _)| *moment)
    }

    /// Deliveries of a lane that wait in memory.
    pub fn waiting_in(&self, id: WebhookId, lane: Lane) -> usize {
        self.numbers.get(&id).map_or(0, |number| self.endpoints[*number].lanes[lane as usize].len())
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
        self.round.is_empty()
    }

    /// Drops what waits for an endpoint; the database still has it.
    pub fn reset(&mut self, id: WebhookId) -> Vec<EventId> {
        self.numbers.get(&id).copied().map_or_else(Vec::new, |number| self.empty(number))
    }

    fn empty(&mut self, number: usize) -> Vec<EventId> {
        let endpoint = &mut self.endpoints[number];
        let dropped: Vec<_> =
            endpoint.lanes.iter_mut().flat_map(|lane| lane.drain(..)).map(|due| due.event_id).collect();
        self.waiting -= dropped.len();
        let (host, repute) = (endpoint.host, endpoint.pace.repute());
        self.leave_wherever(number);
        self.let_in_at(host);
        self.let_in_among(repute);
        dropped
    }

    /// Forgets an endpoint that changed; it has to be met again.
    pub fn forget(&mut self, id: WebhookId) {
        let Some(number) = self.numbers.get(&id).copied() else { return };
        self.empty(number);
        if self.endpoints[number].in_flight == 0 {
            self.remove(number);
        }
    }

    /// It is nowhere, nothing is under way and nothing waits.
    fn remove(&mut self, number: usize) {
        let endpoint = self.endpoints.remove(number);
        debug_assert_eq!(endpoint.place, Place::Nowhere);
        self.numbers.remove(&endpoint.id);
        self.leave_host(endpoint.host);
    }

    /// Drops everything that waits, of everybody. All at once: to take one after the other out of the places where they wait
    /// would cost the square of how many there are.
    pub fn clear(&mut self) -> Vec<EventId> {
        let mut dropped = Vec::with_capacity(self.waiting);
        for (_, endpoint) in &mut self.endpoints {
            dropped.extend(endpoint.lanes.iter_mut().flat_map(|lane| lane.drain(..)).map(|due| due.event_id));
            endpoint.place = Place::Nowhere;
        }
        self.waiting = 0;
        self.timers.clear();
        self.rounds().for_each(|round| *round = Round::default());
        dropped
    }

    /// Forgets endpoints that nothing was sent to since `before`.
    pub fn forget_idle(&mut self, before: Timestamp) {
        let is_idle =
            |endpoint: &Endpoint| endpoint.in_flight == 0 && endpoint.waiting() == 0 && endpoint.used_at < before;
        let idle = self.endpoints.iter().filter(|(_, endpoint)| is_idle(endpoint));
        for number in idle.map(|(number, _)| number).collect::<Vec<_>>() {
            self.remove(number);
        }
        self.rounds().for_each(Round::forget_idle);
    }

    /// Wherever turns are waited for.
    fn rounds(&mut self) -> impl Iterator<Item = &mut Round> {
        let crowds = self.hosts.iter_mut().map(|(_, host)| &mut host.crowd).chain(&mut self.reputes);
        crowds.map(|crowd| &mut crowd.waiting).chain([&mut self.round])
    }

    /// Puts everybody whose moment has come into the round.
    fn wake(&mut self, now: Timestamp) {
        while let Some((moment, number)) = self.timers.first().copied()
            && moment <= now
        {
            self.timers.pop_first();
            self.leave_place(number, Place::ForAMoment(moment));
        }
    }

    fn leave_place(&mut self, number: usize, place: Place) {
        let endpoint = &mut self.endpoints[number];
        if endpoint.place == place {
            endpoint.place = Place::Nowhere;
            self.enter_round(number);
        }
    }

    /// Or waits at its host at once, where there is no room now.
    fn enter_round(&mut self, number: usize) {
        let endpoint = &self.endpoints[number];
        if endpoint.place != Place::Nowhere || endpoint.waiting() == 0 {
            return;
        }
        let has_room = self.has_room_at(endpoint.host);
        let endpoint = &mut self.endpoints[number];
        if has_room {
            endpoint.place = Place::InTheRound;
            self.round.push(endpoint.account_id, number);
        } else {
            endpoint.place = Place::AtItsHost;
            self.hosts[endpoint.host].crowd.waiting.push(endpoint.account_id, number);
        }
    }

    fn leave_wherever(&mut self, number: usize) {
        let endpoint = &mut self.endpoints[number];
        let account_id = endpoint.account_id;
        match std::mem::replace(&mut endpoint.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::InTheRound => self.round.remove(account_id, number),
            Place::ForAMoment(moment) => drop(self.timers.remove(&(moment, number))),
            Place::AtItsHost => self.hosts[endpoint.host].crowd.waiting.remove(account_id, number),
            Place::AmongItsLike(repute) => self.reputes[repute as usize].waiting.remove(account_id, number),
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
    fn accounts_take_turns_at_a_crowded_host() {
        let mut ready = ready(100, 2);
        let push_at = |ready: &mut Ready, due: Due| {
            ready.meet(due.webhook_id, due.account_id, "shared:443".into(), pace(Repute::Proven), NOW);
            assert!(ready.push(due));
        };
        for webhook in 0..50 {
            push_at(&mut ready, due(1, webhook, webhook, Lane::First));
        }
        let first = all(&mut ready);
        assert_eq!(first.len(), 2);
        push_at(&mut ready, due(2, 100, 100, Lane::First));
        assert_eq!(all(&mut ready).len(), 0);
        ready.done(first[0].webhook_id, Told::Well, NOW);
        ready.done(first[1].webhook_id, Told::Well, NOW);
        let next: Vec<_> = all(&mut ready).iter().map(|due| due.account_id.0).collect();
        assert_eq!(next, [1, 2], "not behind the other 48");
    }

    #[test]
    fn an_endpoint_that_moves_waits_at_its_new_host() {
        let mut ready = ready(100, 1);
        let (first, second) = (due(1, 1, 1, Lane::First), due(1, 2, 2, Lane::First));
        let (moving, moved) = (second.webhook_id, "other:443");
        for due in [first, second] {
            ready.meet(due.webhook_id, due.account_id, "shared:443".into(), pace(Repute::Proven), NOW);
            assert!(ready.push(due));
        }
        let first = all(&mut ready);
        assert_eq!(first.len(), 1, "the other one waits");
        ready.meet(moving, AccountId(1), moved.into(), pace(Repute::Proven), NOW);
        assert_eq!(ready.take_turn(NOW).map(|due| due.webhook_id), Some(moving));
        for id in [first[0].webhook_id, moving] {
            ready.done(id, Told::Well, NOW);
            ready.forget(id);
        }
        assert!(ready.hosts.is_empty() && ready.hosts_by_name.is_empty(), "nobody is there any more");
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

    #[test]
    fn nothing_waits_anywhere_once_all_is_dropped_and_everybody_can_begin_again() {
        // One in each place: among its like, at its host, for a moment, and in the round.
        let mut ready = ready(8, 2);
        let fill = |ready: &mut Ready| {
            for webhook in 0..4 {
                push(ready, due(1, webhook, webhook, Lane::First), Repute::Failing);
                push(ready, due(2, 10, 10 + webhook, Lane::First), Repute::Proven);
            }
        };
        fill(&mut ready);
        push(&mut ready, due(3, 20, 20, Lane::First), Repute::Proven);
        ready.hold_until(WebhookId(Uuid::from_u128(20)), NOW + std::time::Duration::from_secs(30));
        let under_way = all(&mut ready);
        assert_eq!(under_way.len(), 4, "two that fail and two at one host");
        push(&mut ready, due(4, 30, 30, Lane::First), Repute::Proven);
        assert!(ready.next_moment().is_some() && !ready.is_resting() && ready.waiting() == 6);
        assert_eq!(ready.clear().len(), 6);
        assert!(ready.next_moment().is_none() && ready.is_resting() && ready.waiting() == 0);
        for due in under_way {
            ready.done(due.webhook_id, Told::Well, NOW);
        }
        assert!(ready.take_turn(NOW).is_none());
        fill(&mut ready);
        assert_eq!(all(&mut ready).len(), 6, "two of those that failed do well now");
    }

    proptest! {
        /// Everything pushed comes out once, whatever ends when and however little room there is, and no cap is passed.
        #[test]
        fn everything_comes_out_once(
            rows in prop::collection::vec((0i64..5, 0u128..8, 0usize..3), 0..200),
            ends in prop::collection::vec((any::<bool>(), any::<bool>()), 0..600),
            total in 4usize..40,
            per_host in 1usize..20,
            hosts in 1u128..8,
        ) {
            let mut ready = ready(total, per_host);
            let lanes = [Lane::First, Lane::Retry, Lane::Resend];
            for (event, (account, webhook, lane)) in rows.iter().enumerate() {
                // A webhook belongs to one account.
                let due = due(*account, (*account as u128) << 8 | webhook, event as u128, lanes[*lane]);
                if !ready.knows(due.webhook_id) {
                    let repute = [Repute::Fresh, Repute::Proven, Repute::Failing][*webhook as usize % 3];
                    let host = format!("{}:443", webhook % hosts);
                    ready.meet(due.webhook_id, due.account_id, host.into(), pace(repute), NOW);
                }
                prop_assert!(ready.push(due));
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
                        prop_assert!(ready.hosts.iter().all(|(_, host)| host.crowd.in_flight <= per_host));
                    }
                    None => match (under_way.pop(), ready.next_moment()) {
                        (Some(due), _) => drop(ready.done(due.webhook_id, Told::Well, now)),
                        (None, Some(moment)) => now = moment,
                        (None, None) => prop_assert!(false, "{} of {} came out", seen.len(), rows.len()),
                    },
                }
            }
            prop_assert_eq!(ready.waiting(), 0);
            for due in under_way {
                ready.done(due.webhook_id, Told::Well, now);
            }
            ready.forget_idle(now + std::time::Duration::from_secs(1));
            prop_assert!(ready.endpoints.is_empty() && ready.hosts.is_empty(), "nobody is left behind");
        }
    }
}
