//! Lanes that have more than is held: how far each was read, and which are read next.
//!
//! Whoever has run low is read in the order in which they did, so that nobody waits behind those who run low again and
//! again. A lane is looked at when something happens to it, and all of them only when each may keep more than before: what
//! it costs to find the next does not grow with how many there are.

use foldhash::HashMap;
use foldhash::fast::RandomState;
use hashlink::LinkedHashSet;

use crate::domain::ids::{AccountId, WebhookId};
use crate::store::queue::{Lane, Position, Rest};

type Key = (WebhookId, Lane);

/// How far a lane was read.
#[derive(Debug, Clone, Copy)]
pub struct Unread {
    pub shard: i32,
    pub account_id: AccountId,
    pub after: Position,
    /// Reads begun before somebody wanted it: the last of them proves nothing if it is still under way.
    pub wanted_at: u64,
}

#[derive(Default)]
pub struct UnreadLanes {
    lanes: HashMap<Key, Unread>,
    /// Those that run low, and those that soon will; the longest so comes first, and none is in both. Some were given more
    /// since, which is seen when it is their turn.
    low: LinkedHashSet<Key, RandomState>,
    soon: LinkedHashSet<Key, RandomState>,
    /// The least that each could keep since all were last looked at.
    share: usize,
}

impl UnreadLanes {
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub fn get(&self, key: &Key) -> Option<&Unread> {
        self.lanes.get(key)
    }

    /// A lane is to be read, from where it says.
    pub fn insert(&mut self, key: Key, unread: Unread) {
        self.lanes.insert(key, unread);
        self.runs_low(key);
    }

    /// There is nothing more in it.
    pub fn remove(&mut self, key: &Key) {
        self.lanes.remove(key);
        self.low.remove(key);
        self.soon.remove(key);
    }

    pub fn clear(&mut self) {
        self.lanes.clear();
        self.low.clear();
        self.soon.clear();
    }

    /// It was read as far as this, and has more.
    pub fn read_until(&mut self, key: &Key, position: Position) {
        if let Some(unread) = self.lanes.get_mut(key) {
            unread.after = position;
            // Whether all of that is kept nobody knows yet.
            self.runs_low(*key);
        }
    }

    /// One was taken from a lane, which keeps so many now of the `share` that each may.
    pub fn keeps(&mut self, key: &Key, kept: usize, share: usize) {
        self.share = self.share.min(share);
        if self.lanes.contains_key(key) {
            self.sort(*key, kept, share);
        }
    }

    /// So many at most that are to be read next, with what each has `kept` of the `share` that it may: those that run low, and
    /// with them those that soon will. `None` if nobody runs low.
    pub fn next(&mut self, at_most: usize, share: usize, kept: impl Fn(&Key) -> usize) -> Option<Vec<Rest>> {
        if share > self.share {
            for key in self.lanes.keys().copied().collect::<Vec<_>>() {
                self.sort(key, kept(&key), share);
            }
        }
        self.share = share;
        let mut next = Vec::new();
        while next.len() < at_most
            && let Some(key) = self.low.pop_front()
        {
            let kept = kept(&key);
            if is_low(kept, share) {
                next.push(self.rest(key));
            } else {
                self.sort(key, kept, share);
            }
        }
        if next.is_empty() {
            return None;
        }
        while next.len() < at_most
            && let Some(key) = self.soon.pop_front()
        {
            if is_soon_low(kept(&key), share) {
                next.push(self.rest(key));
            }
        }
        Some(next)
    }

    fn rest(&self, key: Key) -> Rest {
        let Unread { shard, account_id, after, .. } = self.lanes[&key];
        Rest { shard, account_id, webhook_id: key.0, lane: key.1, after }
    }

    fn sort(&mut self, key: Key, kept: usize, share: usize) {
        if is_low(kept, share) {
            self.runs_low(key);
        } else if is_soon_low(kept, share) && !self.low.contains(&key) && !self.soon.contains(&key) {
            self.soon.insert(key);
        }
    }

    /// Keeps its place if it runs low already.
    fn runs_low(&mut self, key: Key) {
        if !self.low.contains(&key) {
            self.soon.remove(&key);
            self.low.insert(key);
        }
    }
}

fn is_low(kept: usize, share: usize) -> bool {
    kept <= share / 2
}

fn is_soon_low(kept: usize, share: usize) -> bool {
    kept <= share / 4 * 3
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::EventId;
    use crate::domain::time::Timestamp;

    const SHARE: usize = 16;

    fn key(number: u128) -> Key {
        (WebhookId(Uuid::from_u128(number)), Lane::First)
    }

    fn position(number: u128) -> Position {
        Position { due_at: Timestamp::EPOCH, event_id: EventId(Uuid::from_u128(number)) }
    }

    fn unread() -> Unread {
        Unread { shard: 0, account_id: AccountId(1), after: position(0), wanted_at: 0 }
    }

    fn lanes(count: u128) -> UnreadLanes {
        let mut lanes = UnreadLanes::default();
        (0..count).for_each(|number| lanes.insert(key(number), unread()));
        lanes
    }

    /// Each is empty again by the next read.
    #[test]
    fn everybody_is_read_however_many_run_low_again_and_again() {
        let mut lanes = lanes(10);
        let mut read = BTreeMap::new();
        for _ in 0..6 {
            for rest in lanes.next(5, SHARE, |_| 0).expect("all run low") {
                *read.entry(rest.webhook_id).or_insert(0) += 1;
                lanes.read_until(&(rest.webhook_id, rest.lane), position(1));
            }
        }
        assert_eq!(read.into_values().collect::<Vec<_>>(), [3; 10]);
    }

    #[test]
    fn who_may_keep_more_runs_low_without_a_turn() {
        let mut lanes = lanes(1);
        let kept = |_: &Key| SHARE / 2 + 1;
        assert!(lanes.next(5, SHARE, kept).is_none());
        assert!(lanes.next(5, SHARE / 2, kept).is_none());
        assert!(lanes.next(5, SHARE, kept).is_none());
        assert!(lanes.next(5, SHARE * 2, kept).is_some());
    }

    #[test]
    fn who_had_a_turn_while_less_was_kept_runs_low_when_more_may_be() {
        let mut lanes = lanes(1);
        assert!(lanes.next(5, SHARE, |_| SHARE).is_none());
        lanes.keeps(&key(0), SHARE / 2, SHARE / 2);
        assert!(lanes.next(5, SHARE, |_| SHARE / 2).is_some());
    }

    #[test]
    fn what_was_read_goes_on_from_there() {
        let mut lanes = lanes(1);
        assert!(lanes.next(5, SHARE, |_| 0).is_some());
        assert!(lanes.next(5, SHARE, |_| 0).is_none(), "it is being read");
        lanes.read_until(&key(0), position(7));
        assert_eq!(lanes.next(5, SHARE, |_| 0).expect("it is empty")[0].after, position(7));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Something was put there that is not kept.
        Wanted(u128),
        Turn(u128),
        Dropped(u128),
        /// A read, of which so many come of each lane; fewer than could come are the last.
        Read(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, usize)>> {
        let step = prop_oneof![
            2 => (0u128..12).prop_map(Step::Wanted),
            9 => (0u128..12).prop_map(Step::Turn),
            1 => (0u128..12).prop_map(Step::Dropped),
            3 => (0usize..=SHARE).prop_map(Step::Read),
        ];
        prop::collection::vec((step, prop_oneof![4 => Just(SHARE), 1 => Just(SHARE / 2), 1 => Just(SHARE * 2)]), 1..200)
    }

    proptest! {
        /// Held against whoever looks at all of them every time.
        #[test]
        fn a_lane_is_read_if_and_only_if_it_runs_low_or_soon_will_beside_one_that_does(steps in steps()) {
            let (mut lanes, mut kept) = (UnreadLanes::default(), BTreeMap::<Key, usize>::new());
            let mut unread_ones = std::collections::BTreeSet::new();
            for (step, share) in steps {
                match step {
                    Step::Wanted(number) => {
                        lanes.insert(key(number), unread());
                        unread_ones.insert(key(number));
                    }
                    Step::Turn(number) => {
                        let left = kept.entry(key(number)).or_default();
                        if *left > 0 {
                            *left -= 1;
                            lanes.keeps(&key(number), *left, share);
                        }
                    }
                    Step::Dropped(number) => {
                        kept.remove(&key(number));
                        unread_ones.remove(&key(number));
                        lanes.remove(&key(number));
                    }
                    Step::Read(count) => {
                        let keeps = |key: &Key| kept.get(key).copied().unwrap_or(0);
                        let low = unread_ones.iter().filter(|key| keeps(key) <= share / 2).count();
                        let at_most = 5;
                        let next = lanes.next(at_most, share, keeps).unwrap_or_default();
                        let next: Vec<_> = next.into_iter().map(|rest| (rest.webhook_id, rest.lane)).collect();
                        let (first, others) = next.split_at(low.min(at_most));
                        prop_assert!(first.iter().all(|key| keeps(key) <= share / 2));
                        prop_assert!(others.iter().all(|key| keeps(key) <= share / 4 * 3));
                        prop_assert!(next.iter().all(|key| unread_ones.contains(key)));
                        prop_assert_eq!(next.iter().collect::<std::collections::BTreeSet<_>>().len(), next.len());
                        prop_assert!(low > 0 || next.is_empty());
                        for key in next {
                            *kept.entry(key).or_default() += count;
                            if count == SHARE {
                                lanes.read_until(&key, position(1));
                            } else {
                                unread_ones.remove(&key);
                                lanes.remove(&key);
                            }
                        }
                    }
                }
                prop_assert_eq!(lanes.is_empty(), unread_ones.is_empty());
            }
        }
    }
}
