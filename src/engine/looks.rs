//! Looks at everything that waits: which leave nothing out, and what the others know already.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::ids::WebhookId;
use crate::domain::time::Timestamp;
use crate::store::queue::{Lane, Position};
use crate::store::waiting::{Fronts, Known, Look, Waiting};

/// What was recorded while a look ran may be due so much before that began: no statement of ours lives longer than ten
/// seconds, and the clocks of nodes differ.
const BACK: Duration = Duration::from_secs(20);
/// Looks that leave nothing out take one part in so many of the time, and are that often at least.
const WHOLE_ARE_ONE_IN: u32 = 100;
const WHOLE_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// But they never take more of it than this part.
const WHOLE_ARE_AT_MOST_ONE_IN: u32 = 10;
/// What takes longer may take too long soon.
const PATIENT_AFTER: Duration = Duration::from_secs(3);
/// Where they may be put off for less, every look leaves nothing out, and there is no need to know anything.
const WORTH_KNOWING: Duration = Duration::from_secs(1);
/// A webhook that no look has found anything for in so long is looked for like one nobody has heard of.
const KNOWN_FOR: Duration = Duration::from_secs(600);

#[derive(Default)]
pub struct Looks {
    /// None leaves anything out, nor is anything remembered.
    all_are_whole: bool,
    /// The one that is under way.
    under_way: Option<UnderWay>,
    /// When the last one began.
    looked_at: Timestamp,
    /// The last one that left nothing out.
    whole: Whole,
    /// None leaves anything out until then: one that did took longer.
    whole_until: Timestamp,
    /// What the last one found out; nothing if it is not needed or in doubt, and then the next leaves nothing out.
    proven: Option<Proven>,
    /// Those that something was found for, by shard.
    webhooks: BTreeMap<(i32, WebhookId), Found>,
}

#[derive(Clone, Copy)]
struct UnderWay {
    began_at: Timestamp,
    is_whole: bool,
    /// Somebody wants the next one to leave nothing out.
    is_doubted: bool,
}

#[derive(Default)]
struct Whole {
    began_at: Timestamp,
    took: Duration,
    /// One came to nothing since.
    failed: bool,
}

struct Proven {
    /// What is due before is not there, but in lanes whose front is before.
    until: Timestamp,
}

struct Found {
    at: Timestamp,
    /// By lane.
    fronts: [Timestamp; Lane::ALL.len()],
}

impl Whole {
    /// How long the next such may be put off.
    fn put_off(&self) -> Duration {
        (self.took * WHOLE_ARE_ONE_IN).min(WHOLE_AT_LEAST_EVERY.max(self.took * WHOLE_ARE_AT_MOST_ONE_IN))
    }
}

impl Looks {
    /// For a queue whose deleted rows are gone.
    pub fn at_everything() -> Self {
        Self { all_are_whole: true, ..Self::default() }
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// The next look leaves nothing out.
    pub fn doubt(&mut self) {
        self.proven = None;
        if let Some(look) = &mut self.under_way {
            look.is_doubted = true;
        }
    }

    /// A look begins. Answers which.
    pub fn begin(&mut self, now: Timestamp) -> Look {
        // A clock that was put back may give what is fired a moment that was over.
        let may_leave_out =
            now >= self.looked_at.max(self.whole_until) && now.since(self.whole.began_at) < self.whole.put_off();
        let proven = self.proven.as_ref().filter(|_| may_leave_out);
        let fronts = |((shard, webhook_id), found): (&(i32, WebhookId), &Found)| Fronts {
            shard: *shard,
            webhook_id: *webhook_id,
            lanes: found.fronts,
        };
        let known = proven
            .map(|proven| Known { webhooks: self.webhooks.iter().map(fronts).collect(), elsewhere: proven.until });
        self.looked_at = now;
        self.under_way = Some(UnderWay { began_at: now, is_whole: known.is_none(), is_doubted: false });
        let patiently = known.is_none() && (self.whole.failed || self.whole.took >= PATIENT_AFTER);
        Look { known, patiently, ..Look::default() }
    }

    /// What a look found, and how long that took.
    pub fn end(&mut self, waiting: &[Waiting], took: Duration, now: Timestamp) {
        let Some(look) = self.under_way.take() else { return };
        if look.is_whole {
            self.whole = Whole { began_at: look.began_at, took, failed: false };
        } else if took > self.whole.took {
            // Many webhooks are known, and little is left of what was deleted: to leave nothing out costs less.
            self.whole_until = now + WHOLE_AT_LEAST_EVERY;
        }
        if self.all_are_whole || self.whole.put_off() < WORTH_KNOWING {
            self.proven = None;
            self.webhooks.clear();
            return;
        }
        let until = look.began_at - BACK;
        self.proven = (!look.is_doubted).then_some(Proven { until });
        self.webhooks.retain(|_, found| now.since(found.at) < KNOWN_FOR);
        self.webhooks.values_mut().for_each(|found| found.fronts = [until; Lane::ALL.len()]);
        for lane in waiting {
            let unseen = Found { at: now, fronts: [until; Lane::ALL.len()] };
            let found = self.webhooks.entry((lane.shard, lane.webhook_id)).or_insert(unseen);
            found.at = now;
            found.fronts[lane.lane as usize] = lane.next_due_at.min(until);
        }
    }

    pub fn end_in_vain(&mut self) {
        self.whole.failed |= self.under_way.take().is_some_and(|look| look.is_whole);
        self.proven = None;
    }

    /// Before everything in a lane, what fell due there at `due_at` included.
    pub fn front(&self, shard: i32, webhook_id: WebhookId, lane: Lane, due_at: Timestamp) -> Position {
        let Some(proven) = &self.proven else { return Position::START };
        let found = self.webhooks.get(&(shard, webhook_id));
        let front = found.map_or(proven.until, |found| found.fronts[lane as usize]);
        Position::before(front.min(due_at))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{AccountId, EventId};

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    /// What a look takes that is put off as long as may be.
    const LONG: Duration = Duration::from_secs(5);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    /// The first one of a lane.
    fn found(number: u128, lane: Lane, next_due_at: Timestamp) -> Waiting {
        let (account_id, event_id) = (AccountId(1), EventId(Uuid::nil()));
        Waiting { shard: 0, account_id, webhook_id: webhook(number), lane, next_due_at, event_id }
    }

    /// What a look left out that found these and took so long.
    fn look(looks: &mut Looks, now: Timestamp, waiting: &[Waiting], took: Duration) -> Option<Known> {
        let look = looks.begin(now);
        looks.end(waiting, took, now);
        look.known
    }

    #[test]
    fn a_look_leaves_out_what_the_one_before_found_not_to_be_there() {
        let looks = &mut Looks::default();
        let known = |webhooks: &[(u128, [Timestamp; 3])], elsewhere| {
            let fronts = |(number, lanes): &(u128, _)| Fronts { shard: 0, webhook_id: webhook(*number), lanes: *lanes };
            Some(Known { webhooks: webhooks.iter().map(fronts).collect(), elsewhere })
        };
        assert_eq!(look(looks, NOW, &[], LONG), None, "nothing is known");
        let before = |secs_after| NOW + secs(secs_after) - BACK;
        let old = NOW - secs(30);
        let two = [found(1, Lane::Retry, old), found(2, Lane::First, NOW)];
        assert_eq!(look(looks, NOW + secs(1), &two, LONG), known(&[], before(0)));
        let fronts = [(1, [before(1), old, before(1)]), (2, [before(1); 3])];
        let third = [found(3, Lane::First, NOW)];
        assert_eq!(look(looks, NOW + secs(2), &third, LONG), known(&fronts, before(1)), "one is old");
        let fronts = [(1, [before(2); 3]), (2, [before(2); 3]), (3, [before(2); 3])];
        assert_eq!(look(looks, NOW + secs(3), &[], LONG), known(&fronts, before(2)), "the others are empty");
        looks.doubt();
        assert_eq!(look(looks, NOW + secs(4), &[], LONG), None, "somebody wants to be sure");
        assert_eq!(look(looks, NOW + secs(63), &[], LONG).map(|known| known.elsewhere), Some(before(4)));
        assert_eq!(look(looks, NOW + secs(64), &[], LONG), None, "now and then");
        assert_eq!(look(looks, NOW, &[], LONG), None, "the clock was put back");
        // While a look is under way.
        looks.begin(NOW + secs(1));
        looks.doubt();
        looks.end(&[], LONG, NOW + secs(1));
        assert_eq!(looks.begin(NOW + secs(2)).known, None);
        looks.end_in_vain();
        assert_eq!(looks.begin(NOW + secs(3)).known, None, "that one found nothing out");
    }

    #[test]
    fn what_takes_long_is_given_time_and_done_less_often() {
        let looks = &mut Looks::default();
        assert!(!looks.begin(NOW).patiently);
        looks.end_in_vain();
        assert!(looks.begin(NOW + secs(10)).patiently, "it may have taken too long");
        looks.end(&[], secs(30), NOW + secs(40));
        let look = looks.begin(NOW + secs(41));
        assert!(look.known.is_some() && !look.patiently);
        // One that leaves something out should not take long; if it does, the next is another anyway.
        looks.end_in_vain();
        looks.begin(NOW + secs(42));
        looks.end(&[], secs(30), NOW + secs(72));
        assert!(looks.begin(NOW + secs(42 + 299)).known.is_some());
        looks.end(&[], secs(1), NOW + secs(42 + 299));
        assert_eq!(looks.begin(NOW + secs(42 + 300)), Look { patiently: true, ..Look::default() });
        looks.end(&[], secs(1), NOW + secs(42 + 300));
        assert!(!looks.begin(NOW + secs(2_000)).patiently, "it does not take long any more");
    }

    #[test]
    fn looks_that_cost_little_leave_nothing_out() {
        let looks = &mut Looks::default();
        for after in 0..3 {
            let just_less = WORTH_KNOWING / WHOLE_ARE_ONE_IN - Duration::from_micros(1);
            assert_eq!(look(looks, NOW + secs(after), &[found(1, Lane::First, NOW)], just_less), None);
        }
        assert!(looks.webhooks.is_empty());
    }

    #[test]
    fn where_deleted_rows_are_gone_nothing_is_left_out() {
        let looks = &mut Looks::at_everything();
        for after in 0..3 {
            assert_eq!(look(looks, NOW + secs(after), &[found(1, Lane::First, NOW)], LONG), None);
        }
        assert!(looks.webhooks.is_empty());
        assert_eq!(looks.front(0, webhook(1), Lane::First, NOW), Position::START);
    }

    #[test]
    fn what_is_known_is_not_used_where_that_costs_more() {
        let looks = &mut Looks::default();
        look(looks, NOW, &[], LONG);
        assert!(look(looks, NOW + secs(1), &[], LONG + secs(1)).is_some());
        assert_eq!(look(looks, NOW + secs(2), &[], LONG), None);
        assert_eq!(look(looks, NOW + secs(3), &[], LONG), None, "nor every other time");
        assert_eq!(look(looks, NOW + secs(60), &[], LONG), None);
        assert!(look(looks, NOW + secs(61), &[], LONG).is_some(), "much may have been deleted since");
    }

    #[test]
    fn webhooks_that_nothing_waits_for_are_forgotten() {
        let looks = &mut Looks::default();
        look(looks, NOW, &[found(1, Lane::First, NOW), found(2, Lane::First, NOW)], LONG);
        look(looks, NOW + secs(599), &[found(2, Lane::First, NOW)], LONG);
        assert_eq!(looks.webhooks.len(), 2);
        look(looks, NOW + secs(600), &[], LONG);
        assert_eq!(looks.webhooks.keys().collect::<Vec<_>>(), [&(0, webhook(2))]);
    }

    #[test]
    fn a_lane_is_read_from_its_front() {
        let looks = &mut Looks::default();
        let old = NOW - secs(30);
        assert_eq!(looks.front(0, webhook(1), Lane::First, NOW), Position::START, "nothing is known");
        look(looks, NOW, &[found(1, Lane::First, old)], LONG);
        assert_eq!(looks.front(0, webhook(1), Lane::First, NOW), Position::before(old));
        let beside = Position::before(NOW - BACK);
        assert_eq!(looks.front(0, webhook(1), Lane::Retry, NOW), beside);
        assert_eq!(looks.front(0, webhook(2), Lane::First, NOW), beside);
        assert_eq!(looks.front(0, webhook(2), Lane::First, old), Position::before(old), "it is due before");
        looks.doubt();
        assert_eq!(looks.front(0, webhook(1), Lane::First, NOW), Position::START);
    }
}
