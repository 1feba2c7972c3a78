//! First attempts without a row in the queue, on SQLite.
//!
//! Nearly every delivery is made within milliseconds by the process that recorded its event. A row in the queue would be
//! written, found and deleted again for it, which is much beside what else is written once per delivery. So an event
//! says itself that it is owed (`owed_until`), this process remembers which are, and what is left of them gets its rows
//! before anybody reads or changes that part of the queue: each time the dispatcher looks at what waits, which is every
//! second or two, those that are older than a second. Whose attempts last that long has rows at once ([`super::tardy`]). Who
//! only reads has them written in bites, so that nobody who records waits for all of many; who gives a delivery up does it
//! behind that, in the same transaction.
//!
//! What the process remembered when it was killed is found at the next start: events from `unqueued_since` on that are owed
//! and have no attempt. Where nobody has begun to remember, as in a process that only records, rows are written at once; and
//! a process that ends leaves nothing but rows. [`super::put_off`] is the same for PostgreSQL and its several nodes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashSet};

use super::outbox::Fired;
use super::outcomes::Settled;
use super::queue::Depth;
use super::retention::first_id_of;
use super::rows::{MOST_ROWS, Rows, Value, values};
use super::shards::shard_of;
use super::tardy::Tardy;
use super::{Backend, Result, Store, Tx};
use crate::domain::ids::{AccountId, EventId, SiteId, WebhookId};
use crate::domain::time::Timestamp;

/// From which event on some may be owed that have no row: its id, in hexadecimal digits. Absent while none are.
const SINCE: &str = "unqueued_since";
/// How far before the newest event that is, so that events which are recorded a little out of order need not move it.
const SLACK: Duration = Duration::from_secs(5);
/// It is moved on after so long even if every event found its end by itself: the next start has so much to look through.
const MOVES_AFTER: Duration = Duration::from_secs(10);
/// `owed_until` of what does not expire.
const FOR_EVER: i64 = i64::MAX;
/// Those who only read the queue have rows written for so many at once, or for more where there would be too many bites: who
/// records events or tells outcomes gets his turn in between.
const BITE: usize = 16;
const MOST_BITES: usize = 64;

/// What this process remembers; nothing where it writes rows at once. Changed under the write lock of the database alone.
#[derive(Default)]
pub(super) struct Unqueued(Mutex<Option<Memory>>);

struct Memory {
    owed: HashMap<EventId, Owed>,
    /// Not before [`SINCE`] as it is in the database.
    since: Timestamp,
    /// When the event was recorded that was remembered last.
    newest: Timestamp,
    /// Of the configuration under which it is believed.
    catalog_version: i64,
    tardy: Tardy,
}

/// Which of those that are owed without a row get theirs.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    Everything,
    /// What should have been over by now.
    Before(Timestamp),
    OfWebhooks(&'a HashSet<WebhookId>),
}

impl Which<'_> {
    fn includes(self, owed: &Owed) -> bool {
        match self {
            Self::Everything => true,
            Self::Before(moment) => owed.due_at < moment,
            Self::OfWebhooks(webhooks) => webhooks.contains(&owed.webhook_id),
        }
    }

    /// In the order in which their rows will lie. Whose should have been over is tardy.
    pub fn of(self, owed: &HashMap<EventId, Owed>, tardy: &mut Tardy) -> Vec<EventId> {
        let ids = in_order(owed.values().filter(|owed| self.includes(owed)));
        if let Self::Before(_) = self {
            tardy.add(ids.iter().map(|id| owed[id].webhook_id));
        }
        ids
    }
}

/// What is put off of a step, if anything is.
pub(super) struct Putting(Option<Tardy>);

impl Putting {
    pub fn puts_off(&self, fired: &Fired) -> bool {
        !fired.shadow && self.0.as_ref().is_some_and(|tardy| !tardy.contains(fired.event.webhook_id))
    }
}

/// A first attempt that is owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub event_id: EventId,
    pub account_id: AccountId,
    pub webhook_id: WebhookId,
    pub shard: i32,
    pub due_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Whether nobody has tried to write a row for it without hearing what came of that.
    pub has_no_row: bool,
}

impl Owed {
    pub fn of(fired: &Fired) -> Self {
        Self {
            event_id: fired.event.id,
            account_id: fired.event.account_id,
            webhook_id: fired.event.webhook_id,
            shard: fired.shard,
            due_at: fired.event.inserted_at,
            expires_at: fired.event.expires_at,
            has_no_row: true,
        }
    }

    /// A row of [`QUEUE`].
    pub fn values(&self) -> [Value<'_>; 6] {
        values![&self.event_id, self.account_id, &self.webhook_id, self.shard, self.due_at, self.expires_at]
    }

    /// Where its row lies in the queue.
    pub fn place(&self) -> (i32, WebhookId, Timestamp, EventId) {
        (self.shard, self.webhook_id, self.due_at, self.event_id)
    }

    pub fn of_row(row: OwedRow) -> Self {
        let (event_id, account_id, site_id, webhook_id, due_at, owed_until) = row;
        let expires_at = (owed_until != FOR_EVER).then_some(Timestamp::from_micros(owed_until));
        Self { event_id, account_id, webhook_id, shard: shard_of(site_id), due_at, expires_at, has_no_row: true }
    }
}

pub(super) type OwedRow = (EventId, AccountId, SiteId, WebhookId, Timestamp, i64);

/// What an event says of itself: until when it is owed, or nothing if it is not.
pub(super) fn owed_until(fired: &Fired) -> Option<i64> {
    (!fired.shadow).then(|| fired.event.expires_at.map_or(FOR_EVER, Timestamp::micros))
}

/// Their ids in the order in which their rows lie, so that those of few shards are written together.
pub(super) fn in_order<'a>(owed: impl Iterator<Item = &'a Owed>) -> Vec<EventId> {
    let mut owed: Vec<_> = owed.collect();
    owed.sort_unstable_by_key(|owed| owed.place());
    owed.into_iter().map(|owed| owed.event_id).collect()
}

/// In such portions.
pub(super) fn bites(ids: &[EventId]) -> std::slice::Chunks<'_, EventId> {
    ids.chunks(ids.len().div_ceil(MOST_BITES).max(BITE))
}

impl Unqueued {
    fn memory(&self) -> MutexGuard<'_, Option<Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing where nothing is remembered.
    fn depth(&self) -> Option<Depth> {
        self.memory().as_ref().map(|memory| Depth {
            deliveries: i64::try_from(memory.owed.len()).unwrap_or(i64::MAX),
            oldest_due_at: memory.owed.values().map(|owed| owed.due_at).min(),
        })
    }

    /// Which of them get rows now, in the order in which they will lie. Nothing where no place is to be moved on either.
    fn wanting_rows(&self, which: Which<'_>) -> Option<Vec<EventId>> {
        let mut memory = self.memory();
        let memory = memory.as_mut()?;
        let ids = which.of(&memory.owed, &mut memory.tardy);
        (!ids.is_empty() || memory.newest.since(memory.since) > MOVES_AFTER).then_some(ids)
    }
}

/// The part of a transaction that concerns them: what it took out of memory to write it down. Nothing is known of it when
/// the transaction ends without a word, so it is put back.
#[derive(Default)]
pub(super) struct Taken {
    from: Option<Arc<Unqueued>>,
    owed: Vec<Owed>,
}

impl Taken {
    pub fn of(unqueued: &Arc<Unqueued>) -> Self {
        Self { from: Some(Arc::clone(unqueued)), owed: Vec::new() }
    }

    /// The transaction was committed.
    pub fn for_good(mut self) {
        self.owed.clear();
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Memory, &mut Vec<Owed>) -> T) -> Option<T> {
        let mut memory = self.from.as_ref()?.memory();
        Some(work(memory.as_mut()?, &mut self.owed))
    }

    /// Whether rows are put off.
    fn puts_off(&mut self) -> bool {
        self.with(|_, _| ()).is_some()
    }

    pub fn putting(&mut self) -> Putting {
        Putting(self.with(|memory, _| memory.tardy.clone()))
    }

    /// Before the commit: if that does not happen, there are no such events, and they get no rows.
    pub fn remember(&mut self, owed: impl Iterator<Item = Owed>) {
        self.with(|memory, _| {
            for owed in owed {
                memory.newest = owed.event_id.recorded_at();
                memory.owed.insert(owed.event_id, owed);
            }
        });
    }

    fn learn(&mut self, settled: &[Settled]) {
        self.with(|memory, _| memory.tardy.learn(settled));
    }

    /// Forgets those that were attempted. Answers which of them are over and never had a row, and those that get one which their
    /// outcome then moves, or deletes if they may have had one before.
    pub fn take_attempted(&mut self, settled: &[Settled]) -> (HashSet<EventId>, Vec<Owed>) {
        self.learn(settled);
        let taken = self.take(settled.iter().map(|row| row.event_id));
        let goes_on: HashSet<_> = settled.iter().filter(|row| row.standing.goes_on()).map(|row| row.event_id).collect();
        let (over, mut needs_row): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|owed| owed.has_no_row && !goes_on.contains(&owed.event_id));
        needs_row.sort_unstable_by_key(Owed::place);
        (over.into_iter().map(|owed| owed.event_id).collect(), needs_row)
    }

    fn take(&mut self, ids: impl Iterator<Item = EventId>) -> Vec<Owed> {
        let take = |memory: &mut Memory, taken: &mut Vec<Owed>| {
            let before = taken.len();
            taken.extend(ids.filter_map(|id| memory.owed.remove(&id)));
            taken[before..].to_vec()
        };
        self.with(take).unwrap_or_default()
    }

    fn take_all(&mut self) -> Option<Vec<Owed>> {
        self.with(|memory, taken| {
            let all: Vec<_> = memory.owed.drain().map(|(_, owed)| owed).collect();
            taken.extend(&all);
            all
        })
    }

    /// From where on there will be others, beside those that are left. The database is not told a later place than this
    /// process believes in.
    fn moves_on(&mut self) -> Option<Timestamp> {
        self.with(|memory, _| {
            let oldest = memory.owed.keys().map(|id| id.recorded_at()).min();
            let since = (memory.newest - SLACK).min(oldest.unwrap_or(memory.newest));
            memory.since = memory.since.max(since);
            since
        })
    }

    /// From the first of these on, unless that is known.
    pub fn is_before_what_is_known(&mut self, id: EventId) -> bool {
        self.with(|memory, _| id < first_id_of(memory.since)).unwrap_or(false)
    }

    fn believe_under(&mut self, catalog_version: i64) {
        self.with(|memory, _| {
            memory.catalog_version = catalog_version;
            // Of webhooks that are gone or were changed nothing is known.
            memory.tardy = Tardy::default();
        });
    }

    pub fn is_believed_under(&mut self, catalog_version: i64) -> bool {
        self.with(|memory, _| memory.catalog_version == catalog_version).unwrap_or(true)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        self.with(|memory, _| {
            memory.owed.extend(owed.into_iter().map(|owed| (owed.event_id, Owed { has_no_row: false, ..owed })));
        });
    }
}

fn in_digits(id: EventId) -> String {
    id.0.simple().to_string()
}

/// What is to be told of them, from what is on disk. `$1` is [`SINCE`].
macro_rules! unqueued_sql {
    ($select:literal) => {
        concat!(
            $select,
            " FROM events
            WHERE id >= (SELECT unhex(value) FROM facts WHERE name = $1)
                AND owed_until IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = events.id)"
        )
    };
}

impl Store {
    /// Puts rows off from now on, as who sends what is recorded here may. Before that, what a process that did so before
    /// and was killed has left behind gets its rows.
    pub async fn put_rows_off(&self, now: Timestamp) -> Result<()> {
        const LEFT_SQLITE: &str = unqueued_sql!("SELECT id, account_id, site_id, webhook_id, inserted_at, owed_until");
        const BEGIN_SQLITE: &str = "
            INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let Some(unqueued) = self.unqueued() else { return Ok(()) };
        let mut tx = self.begin().await?;
        let Backend::Sqlite(connection) = &mut tx.0 else { unreachable!("there are some on SQLite alone") };
        let left: Vec<OwedRow> = sqlx::query_as(LEFT_SQLITE).bind(SINCE).fetch_all(&mut **connection).await?;
        let since = now - SLACK;
        sqlx::query(BEGIN_SQLITE).bind(SINCE).bind(in_digits(first_id_of(since))).execute(&mut **connection).await?;
        tx.queue(left.into_iter().map(Owed::of_row).collect()).await?;
        let catalog_version = tx.catalog_version().await?;
        tx.commit().await?;
        let (owed, tardy) = (HashMap::default(), Tardy::default());
        *unqueued.memory() = Some(Memory { owed, since, newest: now, catalog_version, tardy });
        Ok(())
    }

    /// Gives everything that is owed its row, and puts no other off.
    pub async fn put_rows_off_no_longer(&self) -> Result<()> {
        const END_SQLITE: &str = "DELETE FROM facts WHERE name = $1";
        let Some(unqueued) = self.unqueued() else { return self.put_off_no_longer().await };
        let mut tx = self.begin().await?;
        if !tx.1.puts_off() {
            return Ok(());
        }
        tx.queue_what_is_owed().await?;
        let Backend::Sqlite(connection) = &mut tx.0 else { unreachable!("there are some on SQLite alone") };
        sqlx::query(END_SQLITE).bind(SINCE).execute(&mut **connection).await?;
        // Nobody records in between: who writes waits for this.
        *unqueued.memory() = None;
        tx.commit().await
    }

    /// How many there are, whichever process remembers them.
    pub(super) async fn unqueued_depth(&self) -> Result<Depth> {
        const DEPTH_SQLITE: &str = unqueued_sql!("SELECT count(*) AS deliveries, min(inserted_at) AS oldest_due_at");
        match (self.reader(), self.unqueued().and_then(Unqueued::depth)) {
            (_, Some(depth)) => Ok(depth),
            (Backend::Sqlite(pool), None) => Ok(sqlx::query_as(DEPTH_SQLITE).bind(SINCE).fetch_one(pool).await?),
            (Backend::Postgres(_), None) => self.put_off_depth().await,
        }
    }

    /// For those who read the queue: what is owed has its row afterwards.
    pub(super) async fn queue_what_is_owed(&self) -> Result<()> {
        self.queue_of_what_is_owed(Which::Everything).await
    }

    /// For those who read a part of it.
    pub(super) async fn queue_of_what_is_owed(&self, which: Which<'_>) -> Result<()> {
        if let Some(ids) = self.unqueued().and_then(|unqueued| unqueued.wanting_rows(which)) {
            let mut bites = bites(&ids);
            loop {
                let bite = bites.next().unwrap_or_default();
                let mut tx = self.begin_hot().await?;
                // What was attempted meanwhile needs none.
                let owed = tx.1.take(bite.iter().copied());
                tx.queue(owed).await?;
                let is_last = bites.len() == 0;
                if is_last {
                    tx.move_on().await?;
                }
                tx.commit().await?;
                if is_last {
                    break;
                }
            }
        }
        self.queue_what_was_put_off(which).await
    }
}

impl Tx {
    /// For those who change the queue: what is owed has its row afterwards.
    pub(super) async fn queue_what_is_owed(&mut self) -> Result<()> {
        let Some(owed) = self.1.take_all() else { return Ok(()) };
        self.queue(owed).await?;
        self.move_on().await
    }

    async fn move_on(&mut self) -> Result<()> {
        const MOVE_ON_SQLITE: &str = "UPDATE facts SET value = $2 WHERE name = $1";
        let Some(since) = self.1.moves_on() else { return Ok(()) };
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("there are some on SQLite alone") };
        sqlx::query(MOVE_ON_SQLITE).bind(SINCE).bind(in_digits(first_id_of(since))).execute(&mut **tx).await?;
        Ok(())
    }

    /// What was just recorded is owed.
    pub(super) async fn owe(&mut self, fired: &[&Fired], putting: &Putting) -> Result<()> {
        const MOVE_BACK_SQLITE: &str = "UPDATE facts SET value = $2 WHERE name = $1 AND value > $2";
        let (put_off, queued): (Vec<&Fired>, Vec<_>) = fired.iter().partition(|fired| putting.puts_off(fired));
        self.write_rows(queued.into_iter().map(Owed::of).collect()).await?;
        let Some(first) = put_off.iter().map(|fired| fired.event.id).min() else { return Ok(()) };
        if self.1.is_before_what_is_known(first) {
            let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("there are some on SQLite alone") };
            sqlx::query(MOVE_BACK_SQLITE).bind(SINCE).bind(in_digits(first)).execute(&mut **tx).await?;
        }
        self.1.remember(put_off.into_iter().map(Owed::of));
        Ok(())
    }

    /// Forgets those that were attempted, and answers which of them are over: these never had a row. What goes on gets the
    /// row that its outcome then moves.
    pub(super) async fn forget_what_is_over(&mut self, settled: &[Settled]) -> Result<HashSet<EventId>> {
        let (over, needs_row) = self.1.take_attempted(settled);
        self.queue(needs_row).await?;
        Ok(over)
    }

    /// Whether what is remembered is to be believed without looking. Another process that changed the configuration, and may
    /// have deleted webhooks, knows nothing of what is owed to them here: what is not believed is to be queued, or not, by
    /// [`Tx::queue_and_believe`].
    pub(super) async fn believes_its_memory(&mut self) -> Result<bool> {
        let catalog_version = self.catalog_version().await?;
        Ok(self.1.is_believed_under(catalog_version))
    }

    /// What is owed, and still is, has its row afterwards.
    pub(super) async fn queue_and_believe(&mut self) -> Result<()> {
        self.queue_what_is_owed().await?;
        // Should this not be committed, then what was taken is looked at anyway, since it may have a row.
        let catalog_version = self.catalog_version().await?;
        self.1.believe_under(catalog_version);
        Ok(())
    }

    /// Writes rows of what was put off.
    async fn queue(&mut self, owed: Vec<Owed>) -> Result<()> {
        let ids = in_order(owed.iter());
        self.write_rows(owed).await?;
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        for ids in ids.chunks(MOST_ROWS) {
            QUEUED.query(ids, |id| values![id]).execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// Writes rows, in the order in which they lie, unless there are some, or the events or their webhooks are not there or
    /// the events not owed any more.
    async fn write_rows(&mut self, mut owed: Vec<Owed>) -> Result<()> {
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        owed.sort_unstable_by_key(Owed::place);
        for rows in owed.chunks(MOST_ROWS) {
            QUEUE.query(rows, Owed::values).execute(&mut **tx).await?;
        }
        Ok(())
    }
}

/// Rows unless there are some, or the events or their webhooks are not there or the events not owed any more.
pub(super) static QUEUE: Rows<6> = Rows::new(
    "INSERT OR FAIL INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at,
        expires_at)
    SELECT column1, column2, column3, column4, 0, 0, 0, column5, column6 FROM",
    "WHERE EXISTS (SELECT 1 FROM events WHERE events.id = column1)
        AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.event_id = column1)
        AND EXISTS (SELECT 1 FROM webhooks WHERE webhooks.id = column3)
    ON CONFLICT (event_id) DO NOTHING",
);

/// These have rows now.
pub(super) static QUEUED: Rows<1> = Rows::new("UPDATE OR FAIL events SET owed_until = NULL WHERE id IN", "");

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::outcomes::Standing;
    use super::super::queue::Lane;
    use super::super::stage::{ACCOUNT, NOW, SITE, Stage, WEBHOOK, fired, id, open, over, sqlite};
    use super::super::waiting::Look;
    use super::*;

    #[tokio::test]
    async fn what_a_process_that_was_killed_left_behind_gets_its_rows() {
        let stage = Stage::new().await;
        let (plain, mut shadow, mut brief) = (fired(id(NOW, 1)), fired(id(NOW, 2)), fired(id(NOW, 3)));
        shadow.shadow = true;
        brief.event.expires_at = Some(NOW + MOVES_AFTER);
        stage.record(vec![plain, shadow, brief]).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 2));
        let other = open(&stage.folder).await;
        assert_eq!(other.operator_depth().await.unwrap().deliveries, 2, "another process knows of them too");
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (2, 2));
        let due: Vec<_> = stage.due(Lane::First).await.iter().map(|due| (due.event_id, due.expires_at)).collect();
        assert_eq!(due, [(id(NOW, 1), None), (id(NOW, 3), Some(NOW + MOVES_AFTER))]);
        stage.settle(id(NOW, 1), over()).await;
        stage.settle(id(NOW, 3), over()).await;
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn what_was_attempted_at_once_never_has_a_row() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1)), fired(id(NOW, 2))]).await;
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 1));
        stage.settle(id(NOW, 2), over()).await;
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn one_that_goes_on_has_a_row_from_then_on() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        stage.settle(id(NOW, 1), Standing::Again { attempt: 1, other_attempts: 0, due_at: NOW }).await;
        assert_eq!((stage.rows().await, stage.depth().await), (1, 1));
        let stage = stage.killed().await;
        assert_eq!(stage.due(Lane::First).await, []);
        assert_eq!(stage.due(Lane::Retry).await[0].attempt, 1);
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn who_reads_the_queue_finds_everything_there() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        assert_eq!(stage.due(Lane::First).await.len(), 1);
        assert_eq!((stage.rows().await, stage.depth().await), (1, 1));
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn a_look_leaves_what_is_young_and_a_read_what_is_for_others() {
        let stage = Stage::new().await;
        let (old, young) = (id(NOW, 1), id(NOW + Duration::from_secs(5), 2));
        stage.record(vec![fired(old), fired(young)]).await;
        let look = Look { young_since: Some(NOW + Duration::from_secs(1)), ..Look::default() };
        let found: Vec<_> = stage.store.waiting(&look).await.unwrap().iter().map(|lane| lane.event_id).collect();
        assert_eq!((found, stage.rows().await, stage.depth().await), (vec![old], 1, 2));
        assert_eq!(stage.due(Lane::Retry).await, []);
        assert_eq!(stage.rows().await, 1, "nothing is owed in that lane");
        stage.due(Lane::First).await;
        assert_eq!(stage.rows().await, 2);
        // What was left without is found by the next process, though what came after it is far ahead.
        stage.settle(old, over()).await;
        let left = [(300, 3), (600, 4)].map(|(seconds, number)| id(NOW + Duration::from_secs(seconds), number));
        stage.record(left.map(fired).into()).await;
        stage.store.waiting(&look).await.unwrap();
        assert_eq!(stage.rows().await, 1);
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (3, 3));
    }

    #[tokio::test]
    async fn what_would_wait_has_its_row_from_the_beginning_until_something_is_answered_soon() {
        let stage = Stage::new().await;
        let owed = "SELECT count(*) FROM events WHERE owed_until IS NOT NULL";
        let [slow, beside, hangs, answered, next] = [0, 0, 2, 3, 4].map(|after| NOW + Duration::from_secs(after));
        stage.record(vec![fired(id(slow, 1))]).await;
        stage.store.waiting(&Look::default()).await.unwrap();
        stage.record(vec![fired(id(beside, 2))]).await;
        assert_eq!(stage.rows().await, 1, "a look at everything tells nothing of who is slow");
        let look = Look { young_since: Some(hangs), ..Look::default() };
        stage.store.waiting(&look).await.unwrap();
        assert_eq!((stage.rows().await, stage.count(owed).await), (2, 0));
        stage.record(vec![fired(id(hangs, 3)), fired(id(answered, 4))]).await;
        assert_eq!((stage.rows().await, stage.depth().await, stage.count(owed).await), (4, 4, 0));
        stage.settle(id(hangs, 3), Standing::Again { attempt: 1, other_attempts: 0, due_at: next }).await;
        stage.record(vec![fired(id(next, 5))]).await;
        assert_eq!((stage.rows().await, stage.depth().await), (5, 5));
        stage.settle(id(answered, 4), over()).await;
        stage.record(vec![fired(id(next, 6))]).await;
        assert_eq!((stage.rows().await, stage.depth().await, stage.count(owed).await), (4, 5, 1));
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (5, 5));
    }

    #[tokio::test]
    async fn nothing_is_known_of_who_is_slow_under_another_configuration() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        let look = Look { young_since: Some(NOW + Duration::from_secs(1)), ..Look::default() };
        stage.store.waiting(&look).await.unwrap();
        let mut tx = stage.store.begin().await.unwrap();
        tx.touch_catalog().await.unwrap();
        tx.commit().await.unwrap();
        stage.settle(id(NOW, 1), Standing::Again { attempt: 1, other_attempts: 0, due_at: NOW }).await;
        stage.record(vec![fired(id(NOW, 2))]).await;
        assert_eq!((stage.rows().await, stage.depth().await), (1, 2));
    }

    /// Who records or tells outcomes gets his turn before a look has rows for all of many.
    #[tokio::test]
    async fn a_look_writes_rows_in_bites() {
        const MANY: i64 = 150;
        let stage = Stage::new().await;
        stage.record((0..MANY.unsigned_abs()).map(|number| fired(id(NOW, number.into()))).collect()).await;
        let somebody = stage.store.begin().await.unwrap();
        let look = Look::default();
        // Each waits for its turn in this order.
        let (waiting, rows, ()) = tokio::join!(
            stage.store.waiting(&look),
            async {
                let mut tx = stage.store.begin().await.unwrap();
                let Backend::Sqlite(connection) = &mut tx.0 else { unreachable!("it was opened as that") };
                let rows: i64 =
                    sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut **connection).await.unwrap();
                rows
            },
            async { drop(somebody) },
        );
        assert!(0 < rows && rows < MANY, "{rows} rows were there when the next one had his turn");
        assert_eq!(waiting.unwrap()[0].event_id, id(NOW, 0));
        assert_eq!((stage.rows().await, stage.depth().await), (MANY, MANY));
    }

    #[test]
    fn bites_are_small_and_not_too_many() {
        let sizes = |ids: usize| {
            let ids = vec![EventId(Uuid::nil()); ids];
            let sizes: Vec<_> = bites(&ids).map(<[_]>::len).collect();
            (sizes.len(), sizes.first().copied().unwrap_or_default(), sizes.iter().sum::<usize>())
        };
        assert_eq!(sizes(0), (0, 0, 0));
        assert_eq!(sizes(BITE), (1, BITE, BITE));
        assert_eq!(sizes(BITE + 1), (2, BITE, BITE + 1));
        assert_eq!(sizes(100_000), (MOST_BITES, 1_563, 100_000));
    }

    #[tokio::test]
    async fn what_was_given_up_does_not_come_back() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        let mut tx = stage.store.begin().await.unwrap();
        tx.forget_deliveries(WEBHOOK, shard_of(SITE), NOW).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
        // It was under way.
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!(stage.count("SELECT count(*) FROM attempts").await, 0);
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    /// The command line works on accounts beside the server.
    #[tokio::test]
    async fn what_another_process_deleted_gets_no_rows_and_no_outcomes() {
        let stage = Stage::new().await;
        stage.record((1..=3).map(|number| fired(id(NOW, number))).collect()).await;
        open(&stage.folder).await.delete_account(ACCOUNT, NOW).await.unwrap();
        // It was under way.
        stage.settle(id(NOW, 1), over()).await;
        stage.settle(id(NOW, 2), Standing::Again { attempt: 1, other_attempts: 0, due_at: NOW }).await;
        assert_eq!(stage.count("SELECT count(*) FROM attempts").await, 0);
        assert_eq!(stage.due(Lane::First).await, []);
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
        let stage = stage.killed().await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn what_another_process_changed_otherwise_is_delivered_like_before() {
        let stage = Stage::new().await;
        stage.record((1..=4).map(|number| fired(id(NOW, number))).collect()).await;
        let mut tx = open(&stage.folder).await.begin().await.unwrap();
        tx.touch_catalog().await.unwrap();
        tx.commit().await.unwrap();
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (3, 3));
        stage.settle(id(NOW, 2), over()).await;
        stage.record(vec![fired(id(NOW, 5))]).await;
        stage.settle(id(NOW, 5), over()).await;
        assert_eq!(stage.count("SELECT count(*) FROM attempts").await, 3);
        assert_eq!((stage.rows().await, stage.depth().await), (2, 2));
    }

    #[tokio::test]
    async fn a_transaction_that_did_not_happen_takes_nothing() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1)), fired(id(NOW, 2))]).await;
        let mut tx = stage.store.begin().await.unwrap();
        tx.forget_deliveries(WEBHOOK, shard_of(SITE), NOW).await.unwrap();
        drop(tx);
        assert_eq!((stage.rows().await, stage.depth().await), (0, 2));
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 1));
        assert_eq!(stage.due(Lane::First).await.len(), 1);
    }

    /// Nobody heard of the commit: the row is there, and memory does not know.
    #[tokio::test]
    async fn a_row_that_nobody_knows_of_goes_with_its_outcome() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        let mut tx = stage.store.begin().await.unwrap();
        tx.queue_what_is_owed().await.unwrap();
        let Tx(Backend::Sqlite(connection), taken) = tx else { unreachable!("it was opened as that") };
        connection.commit().await.unwrap();
        drop(taken);
        assert_eq!(stage.rows().await, 1);
        stage.settle(id(NOW, 1), over()).await;
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn events_that_were_not_recorded_get_no_rows() {
        let stage = Stage::new().await;
        let mut tx = stage.store.begin().await.unwrap();
        tx.insert_and_enqueue(&[fired(id(NOW, 1))], NOW).await.unwrap();
        drop(tx);
        assert_eq!(stage.due(Lane::First).await, []);
        assert_eq!((stage.rows().await, stage.depth().await), (0, 0));
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_hides_nothing() {
        let stage = Stage::new().await;
        let later = NOW + MOVES_AFTER * 10;
        stage.record(vec![fired(id(later, 1))]).await;
        assert_eq!(stage.due(Lane::First).await, [], "it is not due yet");
        assert_eq!(stage.rows().await, 1);
        stage.record(vec![fired(id(NOW - MOVES_AFTER * 10, 2))]).await;
        let stage = stage.killed().await;
        assert_eq!(stage.rows().await, 2);
    }

    #[tokio::test]
    async fn there_is_little_to_look_through_after_hours_in_which_nothing_waited() {
        let stage = Stage::new().await;
        for minute in 0..10 {
            let id = id(NOW + MOVES_AFTER * minute, minute.into());
            stage.record(vec![fired(id)]).await;
            stage.settle(id, over()).await;
            stage.due(Lane::First).await;
        }
        let since: String = sqlx::query_scalar("SELECT value FROM facts WHERE name = 'unqueued_since'")
            .fetch_one(sqlite(&stage.store))
            .await
            .unwrap();
        assert!(since > in_digits(first_id_of(NOW + MOVES_AFTER * 8)), "{since}");
    }

    #[tokio::test]
    async fn a_process_that_ends_leaves_rows_and_one_that_only_records_writes_them_at_once() {
        let stage = Stage::new().await;
        stage.record(vec![fired(id(NOW, 1))]).await;
        stage.store.put_rows_off_no_longer().await.unwrap();
        assert_eq!(stage.rows().await, 1);
        stage.record(vec![fired(id(NOW, 2))]).await;
        assert_eq!((stage.rows().await, stage.depth().await), (2, 2));
        assert_eq!(stage.count("SELECT count(*) FROM facts WHERE name = 'unqueued_since'").await, 0);
        assert_eq!(stage.count("SELECT count(*) FROM events WHERE owed_until IS NOT NULL").await, 0);
    }
}
