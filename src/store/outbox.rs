//! The outbox: what a step noticed becomes durable here, all of it or nothing.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use sqlx::Arguments as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use super::gathered::Gathered;
use super::lists::lists;
use super::rows::{MOST_ROWS, Rows, Value, values};
use super::step_at_once::Whole;
use super::unqueued::{Putting, owed_until};
use super::{Backend, Result, Store, StoreError, Tx, direct, on};
use crate::domain::event::Event;
use crate::domain::ids::{AccountId, EventId, TriggerId, WebhookId};
use crate::domain::time::Timestamp;

/// What one step of the evaluator wants recorded.
#[derive(Debug, Default, Clone)]
pub struct Step {
    pub fired: Vec<Fired>,
    /// States that changed without an event.
    pub states: Vec<StateChange>,
    /// What triggers with a batch counted.
    pub gathered: Vec<Gathered>,
    /// How far hits were looked at for it.
    pub watermark: Option<Watermark>,
}

/// An event, if its trigger still is what it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Fired {
    pub event: Event,
    pub shard: i32,
    /// Absent where no trigger fired, such as for a test.
    pub trigger_version: Option<i64>,
    pub state: Option<StateChange>,
    /// A shadow trigger's event: recorded, not sent.
    pub shadow: bool,
}

/// A trigger's memory, and how many events it had fired before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    pub trigger_id: TriggerId,
    pub account_id: AccountId,
    pub fired_before: i64,
    pub fired: i64,
    pub state: String,
}

/// A source's watermark on its way: it moves only from where the step began to look, so of two that look at the same hits
/// one is refused; and only while the configuration is what the step knew, so that hits nobody seemed to want are looked
/// at again when somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    pub source: String,
    pub from: i64,
    pub to: i64,
    pub catalog_version: i64,
}

impl Step {
    /// Whether what triggers remember is another after it.
    pub fn moves_memory(&self) -> bool {
        let with_state = self.fired.iter().any(|fired| fired.state.is_some());
        with_state || !self.states.is_empty() || !self.gathered.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.fired.is_empty() && self.states.is_empty() && self.gathered.is_empty() && self.watermark.is_none()
    }

    /// Adds what was noticed apart from it, which has no watermark of its own.
    pub fn append(&mut self, mut noticed: Self) {
        self.fired.append(&mut noticed.fired);
        self.states.append(&mut noticed.states);
        self.gathered.append(&mut noticed.gathered);
    }
}

/// With rows of [`event_values`].
pub(super) const INTO_EVENTS_SQLITE: &str = "
    INSERT OR FAIL INTO events (id, account_id, site_id, webhook_id, trigger_id, type, moment, format, payload,
        inserted_at, owed_until, lists)
    SELECT * FROM";
const WATERMARK: &str = "SELECT seq FROM watermarks WHERE source = $1";

/// What records events and owes those to be sent, as parts of a statement: the rows of [`event_columns`]. Takes what is said
/// of a moment that is recorded already. Where nothing is, the statement is refused; to pass the moment over costs every
/// other row a second search of two indexes. Arrays are gone through where rows are made of them: as tables to select from
/// each would be written to a store of its own and read back.
macro_rules! events_and_owed {
    ($on_conflict:literal) => {
        concat!(
            "
        owed AS (
            INSERT INTO queue (event_id, account_id, webhook_id, shard, lane, attempt, other_attempts, due_at,
                expires_at)
            SELECT unnest($13::uuid[]), unnest($14::bigint[]), unnest($15::uuid[]), unnest($16::integer[]), 0, 0, 0,
                unnest($17::bigint[]), unnest($18::bigint[])
        ),
        recorded AS (
            INSERT INTO events (id, account_id, site_id, webhook_id, trigger_id, type, moment, format, payload,
                inserted_at, owed_until, lists)
            SELECT unnest($1::uuid[]), unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::uuid[]),
                unnest($5::uuid[]), unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bytea[]),
                unnest($10::bigint[]), unnest($11::bigint[]), unnest($12::bytea[])
            ",
            $on_conflict,
            "
            RETURNING 1
        )
        "
        )
    };
}
pub(super) use events_and_owed;

impl Store {
    /// Commits events, queue rows, trigger states and the watermark together. Answers what fired, and which of it is owed
    /// now: what belongs to a trigger that was edited, deleted or paused meanwhile is not, and that of shadow triggers never is.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] when somebody else moved the watermark, a trigger's state, or the configuration that the
    /// watermark was based on. Nothing was recorded then.
    pub async fn record(&self, step: Step, now: Timestamp) -> Result<(Vec<Fired>, Vec<EventId>)> {
        let step = Arc::new(step);
        let owed = match self.record_at_once(&step).await? {
            Some(owed) => owed,
            None => self.record_in_parts(&step, now).await?,
        };
        crate::failpoint::hit("evaluator.after_commit");
        let step = Arc::into_inner(step).expect("nobody works on it any more");
        Ok((step.fired, owed))
    }

    /// Nothing is recorded, and nothing answered, where that is not possible.
    async fn record_at_once(&self, step: &Arc<Step>) -> Result<Option<Vec<EventId>>> {
        match &self.db {
            Backend::Sqlite(pools) => direct::step::record(pools, step).await,
            Backend::Postgres(pools) => {
                let Some(whole) = Whole::of(step) else { return Ok(None) };
                crate::failpoint::hit("evaluator.before_commit");
                whole.record(&pools.hot, &pools.put_off).await
            }
        }
    }

    pub(super) async fn record_in_parts(&self, step: &Step, now: Timestamp) -> Result<Vec<EventId>> {
        let mut tx = self.begin_hot().await?;
        let owed = match &step.watermark {
            // It moves only while the configuration is what the step knew, and no other writer changes that before the
            // commit: nobody needs to look how webhooks and triggers stand.
            Some(watermark) if self.is_sqlite() => {
                tx.move_watermark(watermark).await?;
                tx.insert_all(step.fired.iter().collect(), now).await?.owed
            }
            _ => tx.insert_and_enqueue(&step.fired, now).await?,
        };
        for state in &step.states {
            tx.save_state(state, now).await?;
        }
        tx.gather(&step.gathered, now).await?;
        if let Some(watermark) = step.watermark.as_ref().filter(|_| !self.is_sqlite()) {
            tx.move_watermark(watermark).await?;
        }
        crate::failpoint::hit("evaluator.before_commit");
        tx.commit().await?;
        Ok(owed)
    }

    /// Every trigger's memory.
    pub async fn operator_trigger_states(&self) -> Result<Vec<(TriggerId, i64, String)>> {
        const SQL: &str = "SELECT trigger_id, fired, state FROM trigger_states";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }

    /// How far a source of hits has been looked at; a source nobody has heard of begins at `newest`, for no trigger can
    /// have wanted what came before.
    pub async fn operator_watermark(&self, source: &str, newest: i64) -> Result<i64> {
        const INSERT: &str = "INSERT INTO watermarks (source, seq) VALUES ($1, $2) ON CONFLICT (source) DO NOTHING";
        on!(self.writer(), pool => sqlx::query(INSERT).bind(source).bind(newest).execute(pool).await.map(drop))?;
        Ok(on!(self.writer(), pool => sqlx::query_scalar(WATERMARK).bind(source).fetch_one(pool).await)?)
    }

    /// The same of a source that may be unknown yet.
    pub async fn operator_watermark_of(&self, source: &str) -> Result<Option<i64>> {
        Ok(on!(self.reader(), pool => sqlx::query_scalar(WATERMARK).bind(source).fetch_optional(pool).await)?)
    }
}

/// What became of events that fired.
pub(super) struct Inserted {
    pub recorded: HashSet<EventId>,
    pub owed: Vec<EventId>,
}

/// What the webhooks and triggers of a step are when it commits. They are locked until then: whoever pauses, edits or
/// deletes one comes before or after the whole step.
struct Standing {
    live: HashSet<WebhookId>,
    versions: HashMap<TriggerId, i64>,
}

impl Standing {
    fn allows(&self, fired: &Fired) -> bool {
        let trigger = fired.event.trigger_id.and_then(|id| self.versions.get(&id)).copied();
        self.live.contains(&fired.event.webhook_id)
            && fired.trigger_version.is_none_or(|version| trigger == Some(version))
    }
}

impl Tx {
    /// Records events with the states their triggers are in afterwards, and owes those that are to be sent. Answers which.
    pub(super) async fn insert_and_enqueue(&mut self, fired: &[Fired], now: Timestamp) -> Result<Vec<EventId>> {
        Ok(self.insert(fired, now).await?.owed)
    }

    /// The same, and answers which were recorded too.
    pub(super) async fn insert(&mut self, fired: &[Fired], now: Timestamp) -> Result<Inserted> {
        let standing = self.standing_of(fired).await?;
        self.insert_all(fired.iter().filter(|fired| standing.allows(fired)).collect(), now).await
    }

    /// Records events that nothing speaks against but that they are recorded already.
    async fn insert_all(&mut self, mut wanted: Vec<&Fired>, now: Timestamp) -> Result<Inserted> {
        if wanted.is_empty() {
            return Ok(Inserted { recorded: HashSet::default(), owed: Vec::new() });
        }
        let mut to_be_sent = put_in_order(&mut wanted);
        let recorded = match &self.0 {
            Backend::Sqlite(_) => self.insert_in_parts(&wanted, &mut to_be_sent).await?,
            Backend::Postgres(_) => self.insert_at_once(&wanted, &mut to_be_sent).await?,
        };
        for fired in wanted.iter().filter(|fired| recorded.contains(&fired.event.id)) {
            if let Some(state) = &fired.state {
                self.save_state(state, now).await?;
            }
        }
        Ok(Inserted { owed: to_be_sent.iter().map(|fired| fired.event.id).collect(), recorded })
    }

    async fn move_watermark(&mut self, watermark: &Watermark) -> Result<()> {
        const SQL: &str = "
            UPDATE watermarks
            SET seq = $3
            WHERE source = $1 AND seq = $2
                AND (SELECT value FROM facts WHERE name = 'catalog_version') = $4";
        let moved = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(&watermark.source)
            .bind(watermark.from)
            .bind(watermark.to)
            .bind(watermark.catalog_version.to_string())
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if moved == 1 { Ok(()) } else { Err(StoreError::Overtaken) }
    }

    /// One trip to the database. Webhooks before triggers and both in the order of ids, so that two steps never wait for each
    /// other. The weakest lock on webhooks, so that what attempts tell of them meanwhile waits for nobody and nobody for it:
    /// whoever changes who is owed takes the one that excludes it, with [`Tx::keep_recorders_out`].
    async fn standing_of(&mut self, fired: &[Fired]) -> Result<Standing> {
        const SQLITE: &str = "
            SELECT id, NULL AS version
            FROM webhooks
            WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND active AND disabled_at IS NULL
            UNION ALL
            SELECT id, version FROM triggers WHERE id IN (SELECT unhex(value) FROM json_each($2))";
        const POSTGRES: &str = "
            WITH live AS MATERIALIZED (
                SELECT id
                FROM webhooks
                WHERE id = ANY ($1) AND active AND disabled_at IS NULL
                ORDER BY id
                FOR KEY SHARE
            ),
            versions AS MATERIALIZED (
                SELECT id, version FROM triggers WHERE id = ANY ($2) ORDER BY id FOR SHARE
            )
            SELECT id, NULL AS version FROM live UNION ALL SELECT id, version FROM versions";
        let webhooks: HashSet<_> = fired.iter().map(|fired| fired.event.webhook_id.0).collect();
        let versioned = fired.iter().filter(|fired| fired.trigger_version.is_some());
        let triggers: HashSet<_> = versioned.filter_map(|fired| Some(fired.event.trigger_id?.0)).collect();
        if webhooks.is_empty() {
            return Ok(Standing { live: HashSet::default(), versions: HashMap::default() });
        }
        let standing: Vec<(Uuid, Option<i64>)> = match &mut self.0 {
            Backend::Sqlite(tx) => {
                let list = |ids: &HashSet<Uuid>| {
                    let ids: Vec<_> = ids.iter().map(|id| id.simple().to_string()).collect();
                    serde_json::to_string(&ids).expect("texts serialise")
                };
                sqlx::query_as(SQLITE).bind(list(&webhooks)).bind(list(&triggers)).fetch_all(&mut **tx).await?
            }
            Backend::Postgres(tx) => {
                let list = |ids: HashSet<Uuid>| ids.into_iter().collect::<Vec<_>>();
                sqlx::query_as(POSTGRES).bind(list(webhooks)).bind(list(triggers)).fetch_all(&mut **tx).await?
            }
        };
        let live = standing.iter().filter(|(_, version)| version.is_none()).map(|(id, _)| WebhookId(*id)).collect();
        let versions = standing.iter().filter_map(|(id, version)| Some((TriggerId(*id), (*version)?))).collect();
        Ok(Standing { live, versions })
    }

    /// In process it is the rows that cost: events, then what of them is owed, a few hundred rows a statement. Answers which
    /// events are there now, and leaves those to be sent that are: one is not when its moment is recorded already.
    async fn insert_in_parts(&mut self, wanted: &[&Fired], to_be_sent: &mut Vec<&Fired>) -> Result<HashSet<EventId>> {
        static EVENTS: Rows<12> = Rows::new(INTO_EVENTS_SQLITE, "WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING");
        static RECORDED: Rows<1> = Rows::new("SELECT id FROM events WHERE id IN", "");
        static LISTED_APART: Rows<1> = Rows::new("UPDATE OR FAIL events SET lists = NULL WHERE id IN", "");
        let mut recorded = HashSet::default();
        let putting = self.1.putting();
        let Backend::Sqlite(tx) = &mut self.0 else { unreachable!("the caller looked") };
        let lists = lists(wanted);
        let listed: Vec<_> = wanted.iter().copied().zip(&lists).collect();
        for (rows, listed) in wanted.chunks(MOST_ROWS).zip(listed.chunks(MOST_ROWS)) {
            let insert = EVENTS.query(listed, |(fired, lists)| event_values(fired, &putting, lists.as_deref()));
            let inserted = insert.execute(&mut **tx).await?.rows_affected();
            // Every row that is answered is a trip to the driver's thread, so they are asked for only if some are missing.
            if inserted == rows.len() as u64 {
                recorded.extend(rows.iter().map(|fired| fired.event.id));
                continue;
            }
            let present = RECORDED.query(rows, |fired| values![&fired.event.id]);
            for row in present.fetch_all(&mut **tx).await? {
                recorded.insert(sqlx::Row::try_get(&row, 0)?);
            }
        }
        if recorded.len() < wanted.len() {
            // One that is not recorded may have been to list others.
            for rows in wanted.chunks(MOST_ROWS) {
                let apart = LISTED_APART.query(rows, |fired| values![&fired.event.id]);
                apart.execute(&mut **tx).await?;
            }
        }
        to_be_sent.retain(|fired| recorded.contains(&fired.event.id));
        self.owe(to_be_sent, &putting).await?;
        Ok(recorded)
    }

    /// Over a connection round trips are what costs, so events and what of them is owed are one statement.
    async fn insert_at_once(&mut self, wanted: &[&Fired], to_be_sent: &mut Vec<&Fired>) -> Result<HashSet<EventId>> {
        const POSTGRES: &str =
            concat!("WITH", events_and_owed!("ON CONFLICT DO NOTHING"), "SELECT count(*) FROM recorded");
        const RECORDED_POSTGRES: &str = "SELECT id FROM events WHERE id = ANY ($1)";
        const NOT_OWED_POSTGRES: &str = "DELETE FROM queue WHERE event_id = ANY ($1)";
        let Backend::Postgres(tx) = &mut self.0 else { unreachable!("the caller looked") };
        let ids = column(wanted, |fired| fired.event.id.0);
        let columns = event_columns(wanted, |_| false, &vec![None; wanted.len()], to_be_sent)?;
        let count: i64 = sqlx::query_scalar_with(POSTGRES, columns).fetch_one(&mut **tx).await?;
        if usize::try_from(count) == Ok(wanted.len()) {
            return Ok(wanted.iter().map(|fired| fired.event.id).collect());
        }
        // Some moments were recorded before, which is rare enough to be put right afterwards.
        let recorded: Vec<EventId> = sqlx::query_scalar(RECORDED_POSTGRES).bind(&ids).fetch_all(&mut **tx).await?;
        let recorded: HashSet<_> = recorded.into_iter().collect();
        let (owed, not_owed): (Vec<_>, Vec<_>) =
            to_be_sent.iter().copied().partition(|fired| recorded.contains(&fired.event.id));
        sqlx::query(NOT_OWED_POSTGRES).bind(column(&not_owed, |fired| fired.event.id.0)).execute(&mut **tx).await?;
        *to_be_sent = owed;
        Ok(recorded)
    }

    /// Moves a trigger's memory on, unless somebody else did: two steps that look at the same moment cannot both win.
    pub(super) async fn save_state(&mut self, change: &StateChange, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            INSERT INTO trigger_states (trigger_id, account_id, fired, state, updated_at)
            SELECT id, $2, $3, $4, $5 FROM triggers WHERE id = $1
            ON CONFLICT (trigger_id) DO UPDATE
            SET fired = excluded.fired, state = excluded.state, updated_at = excluded.updated_at
            WHERE trigger_states.fired = $6";
        const GONE: &str = "SELECT count(*) FROM triggers WHERE id = $1";
        let saved = on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(change.trigger_id)
            .bind(change.account_id)
            .bind(change.fired)
            .bind(&change.state)
            .bind(now)
            .bind(change.fired_before)
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected()))?;
        if saved == 1 {
            return Ok(());
        }
        // A trigger that was deleted meanwhile needs no memory.
        let left: i64 = on!(&mut self.0, tx => sqlx::query_scalar(GONE)
            .bind(change.trigger_id).fetch_one(&mut **tx).await)?;
        if left == 0 { Ok(()) } else { Err(StoreError::Overtaken) }
    }
}

/// Rows go where they will lie, one after the other: that costs less than to look each one's place up anew. Answers those
/// that are to be sent, in the order of the queue.
pub(super) fn put_in_order<'a>(fired: &mut [&'a Fired]) -> Vec<&'a Fired> {
    fired.sort_unstable_by_key(|fired| fired.event.id);
    let mut to_be_sent: Vec<_> = fired.iter().copied().filter(|fired| !fired.shadow).collect();
    to_be_sent.sort_by_key(|fired| (fired.shard, fired.event.webhook_id));
    to_be_sent
}

/// Events and which of them get rows in the queue, as columns to be unnested: eleven of the one, then six of the other. An
/// event that is `put_off` says itself that it is owed.
pub(super) fn event_columns(
    fired: &[&Fired],
    put_off: impl Fn(&Fired) -> bool,
    lists: &[Option<Vec<u8>>],
    queued: &[&Fired],
) -> Result<PgArguments> {
    let mut columns = PgArguments::default();
    let mut add = || -> std::result::Result<(), BoxDynError> {
        columns.add(column(fired, |fired| fired.event.id.0))?;
        columns.add(column(fired, |fired| fired.event.account_id.0))?;
        columns.add(column(fired, |fired| fired.event.site_id.0))?;
        columns.add(column(fired, |fired| fired.event.webhook_id.0))?;
        columns.add(column(fired, |fired| fired.event.trigger_id.map(|id| id.0)))?;
        columns.add(column(fired, |fired| fired.event.event_type.as_str()))?;
        columns.add(column(fired, |fired| fired.event.moment.as_str()))?;
        columns.add(column(fired, |fired| fired.event.format.as_str()))?;
        columns.add(column(fired, |fired| fired.event.payload.as_slice()))?;
        columns.add(column(fired, |fired| fired.event.inserted_at.micros()))?;
        columns.add(column(fired, |fired| owed_until(fired).filter(|_| put_off(fired))))?;
        columns.add(lists)?;
        columns.add(column(queued, |fired| fired.event.id.0))?;
        columns.add(column(queued, |fired| fired.event.account_id.0))?;
        columns.add(column(queued, |fired| fired.event.webhook_id.0))?;
        columns.add(column(queued, |fired| fired.shard))?;
        columns.add(column(queued, |fired| fired.event.inserted_at.micros()))?;
        columns.add(column(queued, |fired| fired.event.expires_at.map(Timestamp::micros)))
    };
    add().map_err(sqlx::Error::Encode)?;
    Ok(columns)
}

fn column<'a, T>(fired: &[&'a Fired], get: impl Fn(&'a Fired) -> T) -> Vec<T> {
    fired.iter().copied().map(get).collect()
}

/// A row of [`INTO_EVENTS_SQLITE`].
pub(super) fn event_values<'q>(fired: &'q Fired, putting: &Putting, lists: Option<&'q [u8]>) -> [Value<'q>; 12] {
    let event = &fired.event;
    values![
        &event.id,
        event.account_id,
        event.site_id,
        &event.webhook_id,
        event.trigger_id.as_ref(),
        event.event_type.as_str(),
        event.moment.as_str(),
        event.format.as_str(),
        event.payload.as_slice(),
        event.inserted_at,
        owed_until(fired).filter(|_| putting.puts_off(fired)),
        lists,
    ]
}
