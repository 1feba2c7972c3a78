//! Looks at everything that waits: which leave nothing out, and what the others know already.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::time::Timestamp;
use crate::store::queue::Position;
use crate::store::waiting::{Known, Place, Waiting};

/// What was recorded while a look ran may be due so much before that began: no statement of ours lives longer than ten
/// seconds, and the clocks of nodes differ.
const BACK: Duration = Duration::from_secs(20);
/// Looks that leave nothing out take one part in so many of the time, and are that often at least.
const WHOLE_ARE_ONE_IN: u32 = 100;
const WHOLE_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Where they may be put off for less, every look leaves nothing out, and there is no need to know anything.
const WORTH_KNOWING: Duration = Duration::from_secs(1);
/// A lane that no look has found anything in for so long is looked for like one nobody has heard of.
const KNOWN_FOR: Duration = Duration::from_secs(600);

#[derive(Default)]
pub struct Looks {
    /// The one that is under way.
    under_way: Option<Look>,
    /// When the last one began.
    looked_at: Timestamp,
    /// The last one that left nothing out.
    whole: Whole,
    /// What the last one found out; nothing if it is not needed or in doubt, and then the next leaves nothing out.
    proven: Option<Proven>,
    /// Lanes that something was found in.
    lanes: BTreeMap<Place, Lane>,
}

#[derive(Clone, Copy)]
struct Look {
    began_at: Timestamp,
    is_whole: bool,
    /// Somebody wants the next one to leave nothing out.
    is_doubted: bool,
}

#[derive(Default)]
struct Whole {
    began_at: Timestamp,
    took: Duration,
    /// How long the next such may be put off.
    put_off: Duration,
}

struct Proven {
    /// What is due before is not there, but for the lanes whose front is before.
    until: Timestamp,
}

struct Lane {
    front: Timestamp,
    found_at: Timestamp,
}

impl Looks {
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

    /// A look begins. Answers what it may leave out.
    pub fn begin(&mut self, now: Timestamp) -> Known {
        // A clock that was put back may give what is fired a moment that was over.
        let may_leave_out = now >= self.looked_at && now.since(self.whole.began_at) < self.whole.put_off;
        let proven = self.proven.as_ref().filter(|_| may_leave_out);
        let known = proven.map_or(Known::NOTHING, |proven| Known {
            fronts: self.lanes.iter().map(|(place, lane)| (*place, lane.front)).collect(),
            elsewhere: proven.until,
        });
        self.looked_at = now;
        self.under_way = Some(Look { began_at: now, is_whole: proven.is_none(), is_doubted: false });
        known
    }

    /// What a look found, and how long that took.
    pub fn end(&mut self, waiting: &[Waiting], took: Duration, now: Timestamp) {
        let Some(look) = self.under_way.take() else { return };
        if look.is_whole {
            let put_off = (took * WHOLE_ARE_ONE_IN).min(WHOLE_AT_LEAST_EVERY);
            self.whole = Whole { began_at: look.began_at, took, put_off };
        } else if took > self.whole.took {
            // Many lanes are known, and little is left of what was deleted: to leave nothing out costs less.
            self.whole.put_off = Duration::ZERO;
        }
        if self.whole.put_off < WORTH_KNOWING {
            self.proven = None;
            self.lanes.clear();
            return;
        }
        let until = look.began_at - BACK;
        self.proven = (!look.is_doubted).then_some(Proven { until });
        self.lanes.retain(|_, lane| now.since(lane.found_at) < KNOWN_FOR);
        self.lanes.values_mut().for_each(|lane| lane.front = until);
        for found in waiting {
            let lane = Lane { front: found.next_due_at.min(until), found_at: now };
            self.lanes.insert(Place::from(found), lane);
        }
    }

    pub fn end_in_vain(&mut self) {
        self.under_way = None;
        self.proven = None;
    }

    /// Before everything in a lane, a delivery in it that fell due at `due_at` included.
    pub fn front(&self, place: Place, due_at: Timestamp) -> Position {
        let Some(proven) = &self.proven else { return Position::START };
        let front = self.lanes.get(&place).map_or(proven.until, |lane| lane.front);
        Position::before(front.min(due_at))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::{AccountId, EventId, WebhookId};
    use crate::store::queue;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    /// What a look takes that is put off as long as may be.
    const LONG: Duration = Duration::from_secs(5);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn place(webhook: u128) -> Place {
        Place { shard: 0, webhook_id: WebhookId(Uuid::from_u128(webhook)), lane: queue::Lane::First }
    }

    /// The first one of a lane.
    fn found(webhook: u128, next_due_at: Timestamp) -> Waiting {
        let Place { shard, webhook_id, lane } = place(webhook);
        Waiting { shard, account_id: AccountId(1), webhook_id, lane, next_due_at, event_id: EventId(Uuid::nil()) }
    }

    /// What a look left out that found these and took so long.
    fn look(looks: &mut Looks, now: Timestamp, waiting: &[Waiting], took: Duration) -> Known {
        let known = looks.begin(now);
        looks.end(waiting, took, now);
        known
    }

    #[test]
    fn a_look_leaves_out_what_the_one_before_found_not_to_be_there() {
        let looks = &mut Looks::default();
        let known = |fronts: &[(u128, Timestamp)], elsewhere| Known {
            fronts: fronts.iter().map(|(webhook, front)| (place(*webhook), *front)).collect(),
            elsewhere,
        };
        assert_eq!(look(looks, NOW, &[], LONG), Known::NOTHING, "nothing is known");
        let before = |secs_after| NOW + secs(secs_after) - BACK;
        let old = NOW - secs(30);
        assert_eq!(look(looks, NOW + secs(1), &[found(1, old), found(2, NOW)], LONG), known(&[], before(0)));
        let fronts = [(1, old), (2, before(1))];
        assert_eq!(look(looks, NOW + secs(2), &[found(3, NOW)], LONG), known(&fronts, before(1)), "one is old");
        let fronts = [(1, before(2)), (2, before(2)), (3, before(2))];
        assert_eq!(look(looks, NOW + secs(3), &[], LONG), known(&fronts, before(2)), "they are empty");
        looks.doubt();
        assert_eq!(look(looks, NOW + secs(4), &[], LONG), Known::NOTHING, "somebody wants to be sure");
        assert_eq!(look(looks, NOW + secs(63), &[], LONG).elsewhere, before(4));
        assert_eq!(look(looks, NOW + secs(64), &[], LONG), Known::NOTHING, "now and then");
        assert_eq!(look(looks, NOW, &[], LONG), Known::NOTHING, "the clock was put back");
        // While a look is under way.
        looks.begin(NOW + secs(1));
        looks.doubt();
        looks.end(&[], LONG, NOW + secs(1));
        assert_eq!(looks.begin(NOW + secs(2)), Known::NOTHING);
        looks.end_in_vain();
        assert_eq!(looks.begin(NOW + secs(3)), Known::NOTHING, "that one found nothing out");
    }

    #[test]
    fn looks_that_cost_little_leave_nothing_out() {
        let looks = &mut Looks::default();
        for after in 0..3 {
            let just_less = WORTH_KNOWING / WHOLE_ARE_ONE_IN - Duration::from_micros(1);
            assert_eq!(look(looks, NOW + secs(after), &[found(1, NOW)], just_less), Known::NOTHING);
        }
        assert!(looks.lanes.is_empty());
    }

    #[test]
    fn what_is_known_is_not_used_where_that_costs_more() {
        let looks = &mut Looks::default();
        look(looks, NOW, &[], LONG);
        assert_ne!(look(looks, NOW + secs(1), &[], LONG + secs(1)), Known::NOTHING);
        assert_eq!(look(looks, NOW + secs(2), &[], LONG), Known::NOTHING);
        assert_ne!(look(looks, NOW + secs(3), &[], LONG), Known::NOTHING);
    }

    #[test]
    fn lanes_that_stay_empty_are_forgotten() {
        let looks = &mut Looks::default();
        look(looks, NOW, &[found(1, NOW), found(2, NOW)], LONG);
        look(looks, NOW + secs(599), &[found(2, NOW)], LONG);
        assert_eq!(looks.lanes.len(), 2);
        look(looks, NOW + secs(600), &[], LONG);
        assert_eq!(looks.lanes.keys().collect::<Vec<_>>(), [&place(2)]);
    }

    #[test]
    fn a_lane_is_read_from_its_front() {
        let looks = &mut Looks::default();
        assert_eq!(looks.front(place(1), NOW), Position::START, "nothing is known");
        let old = NOW - secs(30);
        look(looks, NOW, &[found(1, old)], LONG);
        assert_eq!(looks.front(place(1), NOW), Position::before(old));
        assert_eq!(looks.front(place(2), NOW), Position::before(NOW - BACK));
        assert_eq!(looks.front(place(2), old), Position::before(old), "it is due before");
        looks.doubt();
        assert_eq!(looks.front(place(1), NOW), Position::START);
    }
}
