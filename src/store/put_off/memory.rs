//! What a process remembers of first attempts without a row in the queue, and what it does not know of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use tokio::sync::MutexGuard as Turn;

use super::super::outbox::{Fired, Watermark};
use super::super::outcomes::Settled;
use super::super::queue::Depth;
use super::super::shards::Lease;
use super::super::tardy::Tardy;
use super::super::unqueued::{Owed, Which};
use crate::domain::ids::{EventId, NodeId};
use crate::domain::time::Timestamp;

/// So far back `unqueued_since` is from what is put off at the moment: a step that takes longer from its events' ids to its
/// commit has rows.
pub(super) const SLACK: Duration = Duration::from_secs(20);
/// It is moved on when what is put off has come so far from it: whoever takes a shard up has so much to look through.
const MOVES_AFTER: Duration = Duration::from_secs(30);

/// What this process remembers, and whose turn it is to write any of it.
#[derive(Default)]
pub(in crate::store) struct PutOff {
    turn: tokio::sync::Mutex<()>,
    /// Nothing in a process that does not send.
    memory: Mutex<Option<Memory>>,
}

struct Memory {
    node: NodeId,
    /// The shards that were taken up, with their epochs.
    leases: HashMap<i32, i64>,
    /// Whether every node that sends would find what this one has left.
    others_take_up: bool,
    owed: HashMap<EventId, Owed>,
    /// The newest event that was put off, and up to when it is known that nothing older is.
    newest: Timestamp,
    since: Timestamp,
    /// Of the configuration under which it is believed; none to begin with.
    catalog_version: Option<i64>,
    /// The first event of the step under way.
    recording: Option<Timestamp>,
    doubt: Option<Doubt>,
    tardy: Tardy,
}

/// Steps of which nobody knows whether they were recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The moment of the first event of any of them.
    pub first: Timestamp,
    /// From where the last one moves which source's watermark. While that is there it may still happen.
    pub source: String,
    pub from: i64,
}

impl Memory {
    fn new(node: NodeId, now: Timestamp) -> Self {
        Self {
            node,
            leases: HashMap::default(),
            others_take_up: false,
            owed: HashMap::default(),
            newest: now,
            since: now - SLACK,
            catalog_version: None,
            recording: None,
            doubt: None,
            tardy: Tardy::default(),
        }
    }

    /// Nothing before this is put off.
    fn oldest(&self, now: Timestamp) -> Timestamp {
        let doubted = self.doubt.as_ref().map(|doubt| doubt.first);
        let owed = self.owed.keys().map(|id| id.recorded_at()).min();
        [Some(now - SLACK), self.recording, doubted, owed].into_iter().flatten().min().unwrap_or(now)
    }
}

impl PutOff {
    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        self.memory().as_mut().map(work)
    }

    pub async fn turn(&self) -> Turn<'_, ()> {
        self.turn.lock().await
    }

    /// Nothing where nothing is remembered.
    pub(super) fn depth(&self) -> Option<Depth> {
        self.with(|memory| Depth {
            deliveries: i64::try_from(memory.owed.len()).unwrap_or(i64::MAX),
            oldest_due_at: memory.owed.values().map(|owed| owed.due_at).min(),
        })
    }

    /// Under which configuration what is remembered is believed.
    pub fn believed_under(&self) -> Option<i64> {
        self.with(|memory| memory.catalog_version).flatten()
    }

    /// `node` holds these leases and no other. Answers which of them are new to it, and where what is put off begins by now if
    /// that is far from where it is said to begin.
    pub(super) fn is_to_take_up(
        &self,
        node: NodeId,
        held: &[Lease],
        others_take_up: bool,
        now: Timestamp,
    ) -> (Vec<Lease>, Option<Timestamp>) {
        let mut memory = self.memory();
        let memory = memory.get_or_insert_with(|| Memory::new(node, now));
        memory.others_take_up = others_take_up;
        let epochs: HashMap<_, _> = held.iter().map(|lease| (lease.shard, lease.epoch)).collect();
        memory.leases.retain(|shard, epoch| epochs.get(shard) == Some(epoch));
        let mut new = held.to_vec();
        new.retain(|lease| !memory.leases.contains_key(&lease.shard));
        let is_far = memory.newest.since(memory.since) > SLACK + MOVES_AFTER;
        (new, is_far.then(|| memory.oldest(now)))
    }

    /// Nothing before this is put off any more.
    pub(super) fn begins_at(&self, since: Timestamp) {
        self.with(|memory| memory.since = memory.since.max(since));
    }

    /// Their shards were looked through.
    pub(super) fn has_taken_up(&self, leases: &[Lease]) {
        self.with(|memory| memory.leases.extend(leases.iter().map(|lease| (lease.shard, lease.epoch))));
    }

    /// Under which rows are put off, in the order of their shards.
    pub(super) fn leases(&self) -> Option<(NodeId, Vec<Lease>)> {
        self.with(|memory| {
            let leases = memory.leases.iter().map(|(shard, epoch)| Lease { shard: *shard, epoch: *epoch });
            let mut leases: Vec<_> = leases.collect();
            leases.sort_unstable_by_key(|lease| lease.shard);
            (memory.node, leases)
        })
    }

    /// Which of them get rows now, in the order in which they will lie.
    pub(super) fn wanting_rows(&self, which: Which<'_>) -> Vec<EventId> {
        self.with(|memory| which.of(&memory.owed, &mut memory.tardy)).unwrap_or_default()
    }

    /// Outcomes that were written.
    pub fn learn(&self, settled: &[Settled]) {
        self.with(|memory| memory.tardy.learn(settled));
    }

    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.with(|memory| memory.doubt.clone()).flatten()
    }

    /// Everything, under this configuration, and what was found of this doubt.
    pub(super) fn is_written_down(&self, catalog_version: i64, cleared: Option<&Doubt>) {
        self.with(|memory| {
            if memory.catalog_version.replace(catalog_version) != Some(catalog_version) {
                // Of webhooks that are gone or were changed nothing is known.
                memory.tardy = Tardy::default();
            }
            // Another may have come into doubt meanwhile.
            if memory.doubt.as_ref() == cleared {
                memory.doubt = None;
            }
        });
    }

    pub(super) fn ends(&self) {
        *self.memory() = None;
    }
}

/// What a step puts off, and under which leases.
pub(in crate::store) struct Putting {
    from: Arc<PutOff>,
    pub node: NodeId,
    pub leases: Vec<Lease>,
    /// The moment of its first event.
    pub first: Timestamp,
    shards: HashSet<i32>,
    tardy: Tardy,
    /// Unless the outcome is known.
    doubt: Option<Doubt>,
}

impl Putting {
    /// Of these events, in the order of their ids; nothing if all of them get rows.
    pub fn of(put_off: &Arc<PutOff>, fired: &[&Fired], watermark: &Watermark) -> Option<Self> {
        let first = fired.first()?.event.id.recorded_at();
        let mut memory = put_off.memory();
        let known = memory.as_mut().filter(|memory| memory.others_take_up && first >= memory.since)?;
        let tardy = known.tardy.clone();
        let soon = fired.iter().filter(|fired| !tardy.contains(fired.event.webhook_id));
        let shards: HashSet<_> =
            soon.map(|fired| fired.shard).filter(|shard| known.leases.contains_key(shard)).collect();
        let mut leases: Vec<_> =
            shards.iter().map(|shard| Lease { shard: *shard, epoch: known.leases[shard] }).collect();
        leases.sort_unstable_by_key(|lease| lease.shard);
        known.recording = Some(first);
        let node = known.node;
        drop(memory);
        let doubt = Some(Doubt { first, source: watermark.source.clone(), from: watermark.from });
        Some(Self { from: Arc::clone(put_off), node, leases, first, shards, tardy, doubt })
    }

    pub fn puts_off(&self, fired: &Fired) -> bool {
        !fired.shadow && self.shards.contains(&fired.shard) && !self.tardy.contains(fired.event.webhook_id)
    }

    /// They were recorded.
    pub fn remember<'a>(mut self, fired: impl Iterator<Item = &'a Fired>) {
        self.doubt = None;
        let owed: Vec<_> = fired.filter(|fired| self.puts_off(fired)).map(Owed::of).collect();
        self.from.with(|memory| {
            for owed in owed {
                memory.newest = memory.newest.max(owed.event_id.recorded_at());
                memory.owed.insert(owed.event_id, owed);
            }
        });
    }

    /// They were not.
    pub fn forget(mut self) {
        self.doubt = None;
    }
}

impl Drop for Putting {
    fn drop(&mut self) {
        self.from.with(|memory| {
            memory.recording = None;
            if let Some(doubt) = self.doubt.take() {
                let first = memory.doubt.take().map_or(doubt.first, |before| before.first.min(doubt.first));
                memory.doubt = Some(Doubt { first, ..doubt });
            }
        });
    }
}

/// What was taken out of memory to write it, or what became of it. Nothing is known of it if that ends without a word, so
/// it is put back.
pub(in crate::store) struct Taken<'a> {
    from: &'a PutOff,
    owed: Vec<Owed>,
}

impl<'a> Taken<'a> {
    pub fn of(put_off: &'a PutOff, ids: impl Iterator<Item = EventId>) -> Self {
        let take = |memory: &mut Memory| ids.filter_map(|id| memory.owed.remove(&id)).collect();
        Self { from: put_off, owed: put_off.with(take).unwrap_or_default() }
    }

    pub(super) fn all(put_off: &'a PutOff) -> Self {
        let take = |memory: &mut Memory| memory.owed.drain().map(|(_, owed)| owed).collect();
        Self { from: put_off, owed: put_off.with(take).unwrap_or_default() }
    }

    pub(super) fn owed(&self) -> &[Owed] {
        &self.owed
    }

    /// Those that never had a row and need none, since these outcomes end them, and the rest.
    pub fn told_apart(&self, settled: &[Settled]) -> (Vec<EventId>, Vec<Owed>) {
        let goes_on: HashSet<_> = settled.iter().filter(|row| row.standing.goes_on()).map(|row| row.event_id).collect();
        let (over, needs_row): (Vec<_>, Vec<_>) =
            self.owed.iter().copied().partition(|owed| owed.has_no_row && !goes_on.contains(&owed.event_id));
        (over.into_iter().map(|owed| owed.event_id).collect(), needs_row)
    }

    /// It was committed.
    pub fn for_good(mut self) {
        self.owed.clear();
    }

    /// Nothing was changed.
    pub fn put_back(mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.from.with(|memory| memory.owed.extend(owed.into_iter().map(|owed| (owed.event_id, owed))));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.from.with(|memory| {
            memory.owed.extend(owed.into_iter().map(|owed| (owed.event_id, Owed { has_no_row: false, ..owed })));
        });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::super::retention::first_id_of;
    use super::super::super::tardy::PROMPT;
    use super::*;
    use crate::domain::event::{Addressee, Data, Event};
    use crate::domain::ids::{AccountId, SiteId, WebhookId};

    const NODE: NodeId = NodeId(Uuid::from_u128(9));
    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn step(from: i64) -> Watermark {
        Watermark { source: "here".to_owned(), from, to: from + 1, catalog_version: 1 }
    }

    fn leases(epoch: i64) -> [Lease; 2] {
        [1, 2].map(|shard| Lease { shard, epoch })
    }

    /// Works for two shards since [`NOW`].
    fn begun() -> Arc<PutOff> {
        let put_off = Arc::new(PutOff::default());
        assert_eq!(put_off.is_to_take_up(NODE, &leases(1), true, NOW), (leases(1).to_vec(), None));
        put_off.has_taken_up(&leases(1));
        put_off
    }

    fn fired(moment: Timestamp, shard: i32) -> Fired {
        let addressee = Addressee {
            account_id: AccountId(1),
            site_id: SiteId(1),
            site_domain: "example.com",
            webhook_id: WebhookId(Uuid::from_u128(7)),
            format: "json".parse().unwrap(),
            trigger: None,
        };
        let id = EventId(Uuid::from_u128(first_id_of(moment).0.as_u128() | 7 << 76 | shard.unsigned_abs() as u128));
        let event = Event::new(id, &addressee, String::new(), Data::test(), moment);
        Fired { event, shard, trigger_version: None, state: None, shadow: false }
    }

    fn put_off(memory: &Arc<PutOff>, fired: &Fired) {
        Putting::of(memory, &[fired], &step(3)).unwrap().remember([fired].into_iter());
    }

    /// Where it would begin if it were said now.
    fn begins(put_off: &PutOff, now: Timestamp) -> Timestamp {
        put_off.with(|memory| memory.oldest(now)).unwrap()
    }

    #[test]
    fn only_what_is_of_shards_that_were_taken_up_is_put_off() {
        let memory = begun();
        let [mine, others] = [1, 3].map(|shard| fired(NOW, shard));
        let putting = Putting::of(&memory, &[&mine, &others], &step(3)).unwrap();
        assert_eq!((putting.puts_off(&mine), putting.puts_off(&others)), (true, false));
        assert_eq!((&putting.leases[..], putting.first), (&leases(1)[..1], NOW));
        putting.remember([&mine, &others].into_iter());
        assert_eq!(memory.depth().unwrap().deliveries, 1);
        assert!(
            !Putting::of(&memory, &[&fired(NOW, 1)], &step(3))
                .unwrap()
                .puts_off(&Fired { shadow: true, ..fired(NOW, 1) })
        );
        // What was lost is new when it comes back.
        assert_eq!(memory.is_to_take_up(NODE, &leases(1)[..1], true, NOW).0, []);
        assert_eq!(memory.is_to_take_up(NODE, &leases(1), true, NOW).0, leases(1)[1..]);
        assert_eq!(memory.is_to_take_up(NODE, &leases(2), true, NOW).0, leases(2));
    }

    #[test]
    fn nothing_is_put_off_that_would_wait() {
        let memory = begun();
        let [first, second] = [1, 2].map(|shard| fired(NOW, shard));
        put_off(&memory, &first);
        assert_eq!(memory.wanting_rows(Which::Everything), [first.event.id]);
        let puts_off = |memory: &Arc<PutOff>| {
            let putting = Putting::of(memory, &[&first, &second], &step(3)).unwrap();
            let shards: Vec<_> = putting.leases.iter().map(|lease| lease.shard).collect();
            let puts_off = [&first, &second].map(|fired| putting.puts_off(fired));
            putting.forget();
            (puts_off, shards)
        };
        assert_eq!(puts_off(&memory), ([true; 2], vec![1, 2]), "that tells nothing of who is slow");
        assert_eq!(memory.wanting_rows(Which::Before(NOW + PROMPT)), [first.event.id]);
        assert_eq!(puts_off(&memory), ([false; 2], vec![]), "both are of one webhook");
        memory.is_written_down(1, None);
        assert_eq!(puts_off(&memory), ([true; 2], vec![1, 2]), "another configuration");
        memory.wanting_rows(Which::Before(NOW + PROMPT));
        memory.is_written_down(1, None);
        assert_eq!(puts_off(&memory), ([false; 2], vec![]), "the same");
    }

    #[test]
    fn nothing_is_put_off_that_would_not_be_found() {
        let memory = begun();
        assert!(Putting::of(&memory, &[&fired(NOW - SLACK, 1)], &step(3)).is_some());
        assert!(Putting::of(&memory, &[&fired(NOW - SLACK - Duration::from_millis(1), 1)], &step(3)).is_none());
        memory.begins_at(NOW);
        assert!(Putting::of(&memory, &[&fired(NOW - SLACK, 1)], &step(3)).is_none());
        assert!(Putting::of(&memory, &[&fired(NOW, 1)], &step(3)).is_some());
        memory.is_to_take_up(NODE, &leases(1), false, NOW);
        assert!(Putting::of(&memory, &[&fired(NOW, 1)], &step(3)).is_none(), "others would not look");
        assert!(Putting::of(&Arc::default(), &[&fired(NOW, 1)], &step(3)).is_none(), "this process does not send");
    }

    #[test]
    fn it_begins_no_later_than_what_is_remembered_under_way_or_in_doubt() {
        let memory = begun();
        let (event, later) = (fired(NOW, 1), NOW + 10 * MINUTE);
        assert_eq!(begins(&memory, later), later - SLACK);
        let putting = Putting::of(&memory, &[&event], &step(3)).unwrap();
        assert_eq!(begins(&memory, later), NOW, "under way");
        putting.remember([&event].into_iter());
        assert_eq!(begins(&memory, later), NOW, "remembered");
        Taken::all(&memory).for_good();
        assert_eq!(begins(&memory, later), later - SLACK);
        drop(Putting::of(&memory, &[&event], &step(3)));
        assert_eq!(begins(&memory, later), NOW, "in doubt");
        memory.is_written_down(1, None);
        assert_eq!(begins(&memory, later), NOW, "nobody looked");
        memory.is_written_down(1, memory.doubt().as_ref());
        assert_eq!(begins(&memory, later), later - SLACK);
        Putting::of(&memory, &[&event], &step(3)).unwrap().forget();
        assert_eq!(begins(&memory, later), later - SLACK, "refused");
    }

    #[test]
    fn where_it_begins_is_said_now_and_then() {
        let memory = begun();
        put_off(&memory, &fired(NOW + MOVES_AFTER, 1));
        assert_eq!(memory.is_to_take_up(NODE, &leases(1), true, NOW + MINUTE).1, None);
        put_off(&memory, &fired(NOW + MOVES_AFTER + Duration::from_millis(1), 2));
        assert_eq!(memory.is_to_take_up(NODE, &leases(1), true, NOW + MINUTE).1, Some(NOW + MOVES_AFTER));
        Taken::all(&memory).for_good();
        assert_eq!(memory.is_to_take_up(NODE, &leases(1), true, NOW + MINUTE).1, Some(NOW + MINUTE - SLACK));
        memory.begins_at(NOW + MINUTE - SLACK);
        assert_eq!(memory.is_to_take_up(NODE, &leases(1), true, NOW + MINUTE).1, None);
    }

    #[test]
    fn a_doubt_lasts_until_it_was_looked_into_and_another_after_it_too() {
        let memory = begun();
        assert_eq!(memory.doubt(), None);
        let doubt = |first, from| Some(Doubt { first, source: "here".to_owned(), from });
        drop(Putting::of(&memory, &[&fired(NOW, 1)], &step(3)));
        assert_eq!(memory.doubt(), doubt(NOW, 3));
        let looked_into = memory.doubt();
        // Another one meanwhile: from the first of both on, when the last is over.
        drop(Putting::of(&memory, &[&fired(NOW + MINUTE, 1)], &step(4)));
        assert_eq!(memory.doubt(), doubt(NOW, 4));
        memory.is_written_down(1, looked_into.as_ref());
        assert_eq!(memory.doubt(), doubt(NOW, 4), "it was not over");
        memory.is_written_down(1, None);
        assert_eq!(memory.doubt(), doubt(NOW, 4), "nobody looked");
        memory.is_written_down(1, memory.doubt().as_ref());
        assert_eq!(memory.doubt(), None);
    }

    #[test]
    fn what_is_taken_without_a_word_may_have_a_row() {
        let memory = begun();
        let event = fired(NOW, 1);
        put_off(&memory, &event);
        let has_no_row = || memory.with(|memory| memory.owed[&event.event.id].has_no_row).unwrap();
        Taken::all(&memory).put_back();
        assert!(has_no_row());
        drop(Taken::all(&memory));
        assert!(!has_no_row());
        Taken::all(&memory).put_back();
        assert!(!has_no_row());
        Taken::all(&memory).for_good();
        assert_eq!(memory.depth().unwrap().deliveries, 0);
    }
}
