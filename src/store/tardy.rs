//! Webhooks whose first attempts are not over soon, since their endpoints hang or are left alone for a while.
//!
//! A row in the queue is put off because an attempt as a rule is over before anybody needs one ([`super::unqueued`],
//! [`super::put_off`]). Where one was not, the next will not be either, and its row costs less with its event than in a
//! transaction of its own, for which everybody who records has to wait.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;

use super::outcomes::Settled;
use crate::domain::ids::WebhookId;

/// So long after an event its delivery is over, as a rule.
pub const PROMPT: Duration = Duration::from_secs(1);

/// Which they are. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub(super) struct Tardy(Arc<HashSet<WebhookId>>);

impl Tardy {
    pub fn contains(&self, webhook_id: WebhookId) -> bool {
        self.0.contains(&webhook_id)
    }

    /// What is owed to these was not attempted, or that is not over, when it should have been.
    pub fn add(&mut self, webhooks: impl Iterator<Item = WebhookId>) {
        let new: Vec<_> = webhooks.filter(|id| !self.contains(*id)).collect();
        if !new.is_empty() {
            Arc::make_mut(&mut self.0).extend(new);
        }
    }

    /// Takes out those that answered what they were sent, and soon.
    pub fn learn(&mut self, settled: &[Settled]) {
        if self.0.is_empty() {
            return;
        }
        let answered = settled.iter().filter(|row| row.answered_after().is_some_and(|after| after < PROMPT));
        let answered: Vec<_> = answered.map(|row| row.webhook_id).filter(|id| self.contains(*id)).collect();
        if !answered.is_empty() {
            let tardy = Arc::make_mut(&mut self.0);
            for id in answered {
                tardy.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::outcomes::Standing;
    use super::super::stage::{NOW, id, settled};
    use super::*;
    use crate::domain::settle::Ended;

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    fn outcome(number: u128, started_after: Duration, took: Duration, standing: Standing) -> Settled {
        let mut settled = settled(id(NOW, 1), webhook(number), standing);
        settled.attempt.started_at = NOW + started_after;
        settled.attempt.duration_ms = took.as_millis().try_into().unwrap();
        settled
    }

    #[test]
    fn only_who_answers_soon_and_well_is_not_tardy_any_more() {
        let over = |ended| Standing::Over { ended, reason: None };
        let again = Standing::Again { attempt: 1, other_attempts: 0, due_at: NOW };
        let (at_once, brief, half) = (Duration::ZERO, Duration::from_millis(1), PROMPT / 2);
        let mut tardy = Tardy::default();
        tardy.learn(&[outcome(1, at_once, brief, over(Ended::Success))]);
        tardy.add((1..=5).map(webhook));
        let as_it_was = tardy.clone();
        tardy.learn(&[
            outcome(1, at_once, brief, over(Ended::Success)),
            outcome(2, half, half - brief, over(Ended::Success)),
            outcome(3, half, half, over(Ended::Success)),
            outcome(4, at_once, brief, over(Ended::Failed)),
            outcome(5, at_once, brief, again),
            outcome(6, at_once, brief, over(Ended::Success)),
        ]);
        let left: Vec<_> = (1..=6).filter(|number| tardy.contains(webhook(*number))).collect();
        assert_eq!(left, [3, 4, 5]);
        assert!(as_it_was.contains(webhook(1)), "a step goes on with what it began with");
    }
}
