//! Which events a webhook has, in the order of their ids.
//!
//! An entry in an index for every event is much of what an event costs, and what a step records for a webhook lies together in
//! the list of its deliveries as well. So it has one entry there: the last event, which has the ids
//! of the others with it (`events.lists`). What is recorded by itself has an entry of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use foldhash::HashMap;
use sqlx::FromRow;
use uuid::Uuid;

use super::outbox::Fired;
use super::{Backend, Result, Store, Tx};
use crate::domain::ids::{AccountId, EventId, WebhookId};

/// An event lists so many others at most: they have room in its row.
const MOST: usize = 64;
/// And none that is so much older, nor of another day: they lie in the same partition and are gone at the same time.
const SPAN: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const ID_BYTES: usize = 16;

/// What each of these events lists, which are in the order of their ids: nothing of its own, ids of others as well, or, if it
/// is empty, not even itself.
pub(super) fn lists(fired: &[&Fired]) -> Vec<Option<Vec<u8>>> {
    let ids = fired.iter().map(|fired| (fired.event.webhook_id, fired.event.id));
    lists_of(&ids.collect::<Vec<_>>())
}

fn lists_of(events: &[(WebhookId, EventId)]) -> Vec<Option<Vec<u8>>> {
    /// The last event of a webhook so far.
    struct Last {
        index: usize,
        first_of_entry: EventId,
        others: Vec<u8>,
    }
    let mut lists = vec![None; events.len()];
    let mut last_of: HashMap<WebhookId, Last> = HashMap::default();
    for (index, (webhook_id, id)) in events.iter().enumerate() {
        let Some(last) = last_of.get_mut(webhook_id) else {
            last_of.insert(*webhook_id, Last { index, first_of_entry: *id, others: Vec::new() });
            continue;
        };
        if last.others.len() < MOST * ID_BYTES && may_list(*id, last.first_of_entry) {
            last.others.extend_from_slice(events[last.index].1.0.as_bytes());
            lists[last.index] = Some(Vec::new());
        } else {
            lists[last.index] = Some(std::mem::take(&mut last.others)).filter(|others| !others.is_empty());
            last.first_of_entry = *id;
        }
        last.index = index;
    }
    for last in last_of.into_values().filter(|last| !last.others.is_empty()) {
        lists[last.index] = Some(last.others);
    }
    lists
}

fn may_list(id: EventId, older: EventId) -> bool {
    let (id, older) = (millis(id), millis(older));
    let day = DAY.as_millis();
    id - older < SPAN.as_millis() && id / day == older / day
}

/// What an id begins with, whatever is behind it.
fn millis(id: EventId) -> u128 {
    id.0.as_u128() >> 80
}

/// The smallest id of a moment.
fn first_of(millis: u128) -> EventId {
    EventId(if millis >> 48 == 0 { Uuid::from_u128(millis << 80) } else { Uuid::max() })
}

/// An event in the index.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Entry {
    id: EventId,
    lists: Option<Vec<u8>>,
}

impl Entry {
    /// All that it lists.
    pub fn ids(&self) -> impl Iterator<Item = EventId> {
        let others = self.lists.iter().flat_map(|lists| lists.chunks_exact(ID_BYTES));
        let others = others.filter_map(|id| Uuid::from_slice(id).ok()).map(EventId);
        others.chain([self.id])
    }
}

/// A way through the events of a webhook, a part at a time.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    account_id: AccountId,
    webhook_id: WebhookId,
    order: Order,
    /// Exclusive, as the other end is.
    after: EventId,
    before: EventId,
    /// The entry that was read last, or what none is beyond.
    reached: EventId,
    /// Of entries that were read, not handed out yet.
    held: BTreeSet<EventId>,
    is_through: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Newest,
    Oldest,
}

impl Listing {
    /// From the newest one before this to the oldest one after that.
    pub fn newest(account_id: AccountId, webhook_id: WebhookId, after: EventId, before: EventId) -> Self {
        let reached = past_entries_of(before);
        let (order, held) = (Order::Newest, BTreeSet::new());
        Self { account_id, webhook_id, order, after, before, reached, held, is_through: false }
    }

    /// The other way round.
    pub fn oldest(account_id: AccountId, webhook_id: WebhookId, after: EventId, before: EventId) -> Self {
        let (order, held) = (Order::Oldest, BTreeSet::new());
        Self { account_id, webhook_id, order, after, before, reached: after, held, is_through: false }
    }

    /// The next ones in order, so many unless there are fewer, once that is known.
    fn ready(&mut self, most: usize) -> Option<Vec<EventId>> {
        // Whatever comes before these was read: an entry that was not read lists nothing newer than itself, and nothing that
        // is older by the whole span.
        let is_known = |id: &EventId| match self.order {
            Order::Newest => *id >= self.reached,
            Order::Oldest => millis(*id) + SPAN.as_millis() <= millis(self.reached),
        };
        let is_ready = |id: &&EventId| self.is_through || is_known(id);
        let ids: Vec<_> = match self.order {
            Order::Newest => self.held.iter().rev().take_while(is_ready).take(most).copied().collect(),
            Order::Oldest => self.held.iter().take_while(is_ready).take(most).copied().collect(),
        };
        if ids.len() < most && !self.is_through {
            return None;
        }
        for id in &ids {
            self.held.remove(id);
        }
        Some(ids)
    }

    /// Entries between these, both exclusive, are to be read next, in its order.
    fn span(&self) -> (EventId, EventId) {
        match self.order {
            Order::Newest => (self.after, self.reached),
            Order::Oldest => (self.reached, past_entries_of(self.before)),
        }
    }

    /// What was read, at most so many.
    fn add(&mut self, entries: &[Entry], limit: usize) {
        self.is_through = entries.len() < limit;
        if let Some(last) = entries.last() {
            self.reached = last.id;
        }
        let ids = entries.iter().flat_map(Entry::ids);
        self.held.extend(ids.filter(|id| self.after < *id && *id < self.before));
    }
}

/// No event before this is listed by one from there on.
fn past_entries_of(before: EventId) -> EventId {
    first_of(millis(before) + SPAN.as_millis())
}

/// That an event has an entry, in the words of the index of entries. Without a function: of a statement that calls one SQLite
/// believes that it may fail halfway, and copies every page it touches to a file, whatever the statement says of conflicts.
macro_rules! has_entry_sqlite {
    () => {
        "(lists IS NULL OR lists <> x'')"
    };
}
macro_rules! has_entry_postgres {
    () => {
        "(lists IS NULL OR length(lists) > 0)"
    };
}
pub(super) use {has_entry_postgres, has_entry_sqlite};

/// Reads the entries a listing asks for.
macro_rules! entries {
    ($sql:expr, $listing:expr, $limit:expr, $executor:expr) => {{
        let (after, before) = $listing.span();
        sqlx::query_as($sql)
            .bind($listing.account_id)
            .bind($listing.webhook_id)
            .bind(after)
            .bind(before)
            .bind($limit)
            .fetch_all($executor)
            .await
    }};
}

macro_rules! entries_sql {
    ($select:literal, $has_entry:expr, $order:literal) => {
        concat!(
            $select,
            " FROM events
            WHERE account_id = $1
                AND webhook_id = $2
                AND ",
            $has_entry,
            " AND id > $3
                AND id < $4
            ORDER BY id ",
            $order,
            " LIMIT $5"
        )
    };
}

impl Order {
    const fn sqlite(self) -> &'static str {
        const NEWEST_SQLITE: &str = entries_sql!("SELECT id, lists", has_entry_sqlite!(), "DESC");
        const OLDEST_SQLITE: &str = entries_sql!("SELECT id, lists", has_entry_sqlite!(), "ASC");
        match self {
            Self::Newest => NEWEST_SQLITE,
            Self::Oldest => OLDEST_SQLITE,
        }
    }

    const fn postgres(self) -> &'static str {
        const NEWEST_POSTGRES: &str = entries_sql!("SELECT id, lists", has_entry_postgres!(), "DESC");
        const OLDEST_POSTGRES: &str = entries_sql!("SELECT id, lists", has_entry_postgres!(), "ASC");
        match self {
            Self::Newest => NEWEST_POSTGRES,
            Self::Oldest => OLDEST_POSTGRES,
        }
    }
}

impl Store {
    /// The next events of a listing, so many unless there are fewer.
    pub(super) async fn next_of(&self, listing: &mut Listing, most: usize) -> Result<Vec<EventId>> {
        loop {
            if let Some(ids) = listing.ready(most) {
                return Ok(ids);
            }
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let entries: Vec<Entry> = match self.lookups() {
                Backend::Sqlite(pool) => entries!(listing.order.sqlite(), listing, limit, pool),
                Backend::Postgres(pool) => entries!(listing.order.postgres(), listing, limit, pool),
            }?;
            listing.add(&entries, most);
        }
    }
}

impl Tx {
    /// The same, as this transaction sees it.
    pub(super) async fn next_of(&mut self, listing: &mut Listing, most: usize) -> Result<Vec<EventId>> {
        loop {
            if let Some(ids) = listing.ready(most) {
                return Ok(ids);
            }
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let entries: Vec<Entry> = match &mut self.0 {
                Backend::Sqlite(tx) => entries!(listing.order.sqlite(), listing, limit, &mut **tx),
                Backend::Postgres(tx) => entries!(listing.order.postgres(), listing, limit, &mut **tx),
            }?;
            listing.add(&entries, most);
        }
    }
}

/// Ids as SQLite takes a list of them: `SELECT unhex(value) FROM json_each(…)`.
pub(super) fn hex_list(ids: &[EventId]) -> String {
    let ids: Vec<_> = ids.iter().map(|id| id.0.simple().to_string()).collect();
    serde_json::to_string(&ids).expect("texts serialise")
}

/// As PostgreSQL does.
pub(super) fn uuids(ids: &[EventId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WEBHOOKS: u128 = 3;
    /// Two seconds before midnight.
    const EVENING: u128 = (20_000 * 86_400 - 2) * 1_000;

    fn id(millis: u128, tail: u128) -> EventId {
        EventId(Uuid::from_u128((EVENING + millis) << 80 | 7 << 76 | tail))
    }

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    /// The entries that steps make, of the webhook with this number, as the index has them.
    fn entries(steps: &[Vec<(WebhookId, EventId)>], number: u128) -> BTreeMap<EventId, Entry> {
        let mut entries = BTreeMap::new();
        for step in steps {
            let listed = step.iter().zip(lists_of(step)).filter(|((of, _), _)| *of == webhook(number));
            let listed = listed.map(|((_, id), lists)| Entry { id: *id, lists });
            let in_index = listed.filter(|entry| entry.lists.as_ref().is_none_or(|lists| !lists.is_empty()));
            entries.extend(in_index.map(|entry| (entry.id, entry)));
        }
        entries
    }

    /// What a listing hands out, `most` at a time.
    fn gone_through(mut listing: Listing, entries: &BTreeMap<EventId, Entry>, most: usize) -> Vec<EventId> {
        let mut ids = Vec::new();
        loop {
            let Some(part) = listing.ready(most) else {
                let (after, before) = listing.span();
                let between = entries.values().filter(|entry| after < entry.id && entry.id < before).cloned();
                let mut read: Vec<_> = between.collect();
                if listing.order == Order::Newest {
                    read.reverse();
                }
                read.truncate(most);
                listing.add(&read, most);
                continue;
            };
            assert!(part.len() <= most);
            if part.is_empty() {
                return ids;
            }
            ids.extend(part);
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Vec<(WebhookId, EventId)>>> {
        // Steps of several nodes, which overlap, before and after midnight.
        let event = (0..WEBHOOKS, 0..300u128, any::<u32>());
        let step = (0..5_000u128, 1..20u128, prop::collection::vec(event, 1..120));
        let step = step.prop_map(|(began, slowness, events)| {
            let made =
                events.into_iter().map(|(of, after, tail)| (webhook(of), id(began + after * slowness, tail.into())));
            let mut made: Vec<_> = made.collect();
            made.sort_by_key(|(_, id)| *id);
            made.dedup_by_key(|(_, id)| *id);
            made
        });
        prop::collection::vec(step, 1..6)
    }

    proptest! {
        #[test]
        fn what_is_listed_is_gone_through_in_order_and_completely(
            mut steps in steps(),
            of in 0..WEBHOOKS,
            most in 1..40usize,
            ends in (0..6_000u128, 0..6_000u128),
        ) {
            let mut seen = std::collections::HashSet::new();
            for step in &mut steps {
                step.retain(|(_, id)| seen.insert(*id));
            }
            let entries = entries(&steps, of);
            let (after, before) = (id(ends.0.min(ends.1), 1 << 30), id(ends.0.max(ends.1), 1 << 31));
            let all = steps.iter().flatten().filter(|(webhook_id, _)| *webhook_id == webhook(of)).map(|(_, id)| *id);
            let mut wanted: Vec<_> = all.filter(|id| after < *id && *id < before).collect();
            wanted.sort_unstable();
            let oldest = Listing::oldest(AccountId(1), webhook(of), after, before);
            prop_assert_eq!(&gone_through(oldest, &entries, most), &wanted);
            wanted.reverse();
            let newest = Listing::newest(AccountId(1), webhook(of), after, before);
            prop_assert_eq!(&gone_through(newest, &entries, most), &wanted);
        }

        #[test]
        fn an_entry_is_short_and_of_one_day(steps in steps(), of in 0..WEBHOOKS) {
            for entry in entries(&steps, of).values() {
                let ids: Vec<_> = entry.ids().collect();
                prop_assert!(ids.is_sorted() && ids.len() <= MOST + 1);
                prop_assert!(millis(entry.id) - millis(ids[0]) < SPAN.as_millis());
                prop_assert_eq!(entry.id.recorded_at().secs() / 86_400, ids[0].recorded_at().secs() / 86_400);
            }
        }
    }

    #[test]
    fn events_of_a_webhook_share_an_entry() {
        let step: Vec<_> = (0..10).map(|tail| (webhook(tail % 2), id(0, tail))).collect();
        let shared = entries(&[step], 1);
        assert_eq!(shared.keys().collect::<Vec<_>>(), [&id(0, 9)]);
        assert_eq!(shared[&id(0, 9)].ids().collect::<Vec<_>>(), [1, 3, 5, 7, 9].map(|tail| id(0, tail)));
        let alone = [(webhook(0), id(0, 0)), (webhook(1), id(0, 1))];
        assert_eq!(lists_of(&alone), [None, None]);
        let long: Vec<_> = (0..200).map(|tail| (webhook(0), id(0, tail))).collect();
        let entries = entries(&[long], 0);
        assert_eq!(entries.keys().collect::<Vec<_>>(), [&id(0, 64), &id(0, 129), &id(0, 194), &id(0, 199)]);
    }

    #[test]
    fn a_list_ends_where_ids_end() {
        let everything = Listing::newest(AccountId(1), webhook(0), EventId(Uuid::nil()), EventId(Uuid::max()));
        assert_eq!(everything.span(), (EventId(Uuid::nil()), EventId(Uuid::max())));
    }
}
