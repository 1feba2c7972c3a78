//! Whose turn it is: deliveries that are due, in memory, handed out fairly.
//!
//! Accounts take turns, within an account its webhooks, and within a webhook first attempts go before retries. A webhook
//! that has as many attempts under way as it may have is not in the round at all, so it costs nothing.

use std::collections::{HashMap, VecDeque};

use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::store::queue::Due;

/// Attempts one webhook may have under way.
pub const IN_FLIGHT_PER_WEBHOOK: usize = 16;

#[derive(Debug, Default)]
pub struct Ready {
    /// Accounts with a webhook in the round, the next one first.
    accounts: VecDeque<AccountId>,
    /// Each account's webhooks in the round, the next one first.
    rounds: HashMap<AccountId, VecDeque<WebhookId>>,
    lanes: HashMap<WebhookId, Lane>,
    waiting: usize,
}

#[derive(Debug)]
struct Lane {
    account_id: AccountId,
    first: VecDeque<Due>,
    again: VecDeque<Due>,
    in_flight: usize,
    in_round: bool,
}

impl Ready {
    pub fn push(&mut self, due: Due) {
        let webhook_id = due.webhook_id;
        let lane = self.lanes.entry(webhook_id).or_insert_with(|| Lane {
            account_id: due.account_id,
            first: VecDeque::new(),
            again: VecDeque::new(),
            in_flight: 0,
            in_round: false,
        });
        if due.attempt == 0 {
            lane.first.push_back(due);
        } else {
            lane.again.push_back(due);
        }
        self.waiting += 1;
        self.enter_round(webhook_id);
    }

    /// The next delivery to attempt. It counts as under way until [`Ready::done`].
    pub fn take_turn(&mut self) -> Option<Due> {
        let account_id = self.accounts.pop_front()?;
        let round = self.rounds.get_mut(&account_id).expect("an account in turn has a round");
        let webhook_id = round.pop_front().expect("a round in turn is not empty");
        if round.is_empty() {
            self.rounds.remove(&account_id);
        } else {
            self.accounts.push_back(account_id);
        }
        let lane = self.lanes.get_mut(&webhook_id).expect("a webhook in the round has a lane");
        lane.in_round = false;
        let due = lane.first.pop_front().or_else(|| lane.again.pop_front()).expect("a lane in the round is not empty");
        lane.in_flight += 1;
        self.waiting -= 1;
        self.enter_round(webhook_id);
        Some(due)
    }

    /// An attempt handed out by [`Ready::take_turn`] is over.
    pub fn done(&mut self, webhook_id: WebhookId) {
        if let Some(lane) = self.lanes.get_mut(&webhook_id) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            self.enter_round(webhook_id);
            self.forget_if_idle(webhook_id);
        }
    }

    /// Deliveries of the webhook that wait in memory.
    pub fn waiting_for(&self, webhook_id: WebhookId) -> usize {
        self.lanes.get(&webhook_id).map_or(0, Lane::waiting)
    }

    /// Attempts of the webhook that are under way.
    pub fn in_flight_of(&self, webhook_id: WebhookId) -> usize {
        self.lanes.get(&webhook_id).map_or(0, |lane| lane.in_flight)
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Drops what waits for a webhook; the database still has it.
    pub fn reset(&mut self, webhook_id: WebhookId) -> Vec<EventId> {
        let dropped = self.drop_waiting(webhook_id);
        self.forget_if_idle(webhook_id);
        dropped
    }

    /// Drops everything that waits, of everybody.
    pub fn clear(&mut self) -> Vec<EventId> {
        let webhooks: Vec<_> = self.lanes.keys().copied().collect();
        webhooks.into_iter().flat_map(|webhook_id| self.drop_waiting(webhook_id)).collect()
    }

    fn drop_waiting(&mut self, webhook_id: WebhookId) -> Vec<EventId> {
        let Some(lane) = self.lanes.get_mut(&webhook_id) else { return Vec::new() };
        let dropped: Vec<_> = lane.first.drain(..).chain(lane.again.drain(..)).map(|due| due.event_id).collect();
        self.waiting -= dropped.len();
        if lane.in_round {
            lane.in_round = false;
            let account_id = lane.account_id;
            if let Some(round) = self.rounds.get_mut(&account_id) {
                round.retain(|id| *id != webhook_id);
                if round.is_empty() {
                    self.rounds.remove(&account_id);
                    self.accounts.retain(|id| *id != account_id);
                }
            }
        }
        dropped
    }

    fn enter_round(&mut self, webhook_id: WebhookId) {
        let Some(lane) = self.lanes.get_mut(&webhook_id) else { return };
        if lane.in_round || lane.in_flight >= IN_FLIGHT_PER_WEBHOOK || lane.waiting() == 0 {
            return;
        }
        lane.in_round = true;
        let round = self.rounds.entry(lane.account_id).or_default();
        if round.is_empty() {
            self.accounts.push_back(lane.account_id);
        }
        round.push_back(webhook_id);
    }

    fn forget_if_idle(&mut self, webhook_id: WebhookId) {
        if self.lanes.get(&webhook_id).is_some_and(|lane| lane.waiting() == 0 && lane.in_flight == 0) {
            self.lanes.remove(&webhook_id);
        }
    }
}

impl Lane {
    fn waiting(&self) -> usize {
        self.first.len() + self.again.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::time::Timestamp;
    use crate::domain::webhook::Format;

    fn due(account: i64, webhook: u128, event: u128, attempt: i32) -> Due {
        Due {
            event_id: EventId(Uuid::from_u128(event)),
            account_id: AccountId(account),
            webhook_id: WebhookId(Uuid::from_u128(webhook)),
            shard: 0,
            attempt,
            other_attempts: 0,
            due_at: Timestamp::EPOCH,
            expires_at: None,
            event_type: "test".into(),
            format: Format::Json,
            payload: Vec::new(),
            inserted_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn accounts_take_turns_whatever_they_have_waiting() {
        let mut ready = Ready::default();
        for event in 0..10 {
            ready.push(due(1, 1, event, 0));
        }
        ready.push(due(2, 2, 100, 0));
        let order: Vec<_> = (0..3).filter_map(|_| ready.take_turn()).map(|due| due.account_id.0).collect();
        assert_eq!(order, [1, 2, 1]);
    }

    #[test]
    fn first_attempts_go_before_retries() {
        let mut ready = Ready::default();
        ready.push(due(1, 1, 1, 3));
        ready.push(due(1, 1, 2, 0));
        let order: Vec<_> = std::iter::from_fn(|| ready.take_turn()).map(|due| due.attempt).collect();
        assert_eq!(order, [0, 3]);
    }

    #[test]
    fn a_webhook_at_its_cap_waits_and_the_others_do_not() {
        let mut ready = Ready::default();
        for event in 0..40 {
            ready.push(due(1, 1, event, 0));
        }
        ready.push(due(1, 2, 100, 0));
        let handed_out: Vec<_> = std::iter::from_fn(|| ready.take_turn()).collect();
        assert_eq!(handed_out.len(), IN_FLIGHT_PER_WEBHOOK + 1);
        ready.done(handed_out[0].webhook_id);
        assert!(ready.take_turn().is_some());
        assert!(ready.take_turn().is_none());
    }

    #[test]
    fn a_reset_webhook_has_nothing_waiting_and_can_begin_again() {
        let mut ready = Ready::default();
        let webhook = due(1, 1, 1, 0).webhook_id;
        ready.push(due(1, 1, 1, 0));
        assert_eq!(ready.reset(webhook).len(), 1);
        assert!(ready.take_turn().is_none());
        ready.push(due(1, 1, 2, 0));
        assert!(ready.take_turn().is_some());
    }

    proptest! {
        /// Everything pushed comes out once, never more than the cap at a time, and nobody is starved: between two turns
        /// of an account with room every other account with room has had one.
        #[test]
        fn everything_comes_out_once(
            rows in prop::collection::vec((0i64..5, 0u128..8, 0i32..2), 0..200),
            finish in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let mut ready = Ready::default();
            for (event, (account, webhook, attempt)) in rows.iter().enumerate() {
                // A webhook belongs to one account.
                ready.push(due(*account, (*account as u128) << 8 | webhook, event as u128, *attempt));
            }
            let mut under_way: Vec<Due> = Vec::new();
            let mut seen = std::collections::HashSet::new();
            let mut finish = finish.into_iter();
            while seen.len() < rows.len() {
                match ready.take_turn() {
                    Some(next) if finish.next().unwrap_or(true) => {
                        prop_assert!(seen.insert(next.event_id));
                        ready.done(next.webhook_id);
                    }
                    Some(next) => {
                        prop_assert!(seen.insert(next.event_id));
                        under_way.push(next);
                        for due in &under_way {
                            prop_assert!(ready.in_flight_of(due.webhook_id) <= IN_FLIGHT_PER_WEBHOOK);
                        }
                    }
                    None => {
                        prop_assert!(!under_way.is_empty(), "{} of {} came out", seen.len(), rows.len());
                        ready.done(under_way.pop().unwrap().webhook_id);
                    }
                }
            }
            prop_assert_eq!(ready.waiting(), 0);
        }
    }
}
