//! Traffic in ClickHouse, in tables of Plausible's shape: Plausible's own, which are only read, or ours when we take hits in.
//!
//! A hit of ours is on disk ([`spill`]) before it is acknowledged, and goes from there to ClickHouse in batches ([`writes`]),
//! whenever that is there. Who starts reading: [`ClickHouse::connect`].
//!
//! Rows have whole-second times and no name, and they land late and out of order, so whoever reads them asks again and
//! again for what is new ([`reads`]) and keeps count. Every question is read-only where the user lets us ask for that,
//! bounded in time and size, and carries an id of ours. What a server cannot answer is an error, never zero.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::clickhouse::query::Query;
use ::clickhouse::{Client, RowOwned, RowRead};
use anyhow::Context as _;
use bytes::Bytes;
use tracing::warn;

pub use self::address::{Address, NotAnAddress};
use self::ours::Ours;
pub use self::questions::{Asked, Seconds, Sites};
pub use self::reads::{Digest, HitRow, Visitors};
use self::rows::Rows;
pub use self::shape::{EVENTS, Limits, Shape};
use self::tables::Tables;
use self::turns::Turns;
use super::{AnalyticsError, Result};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::domain::hit::Hit;
use crate::domain::ids::{NodeId, SiteId};
use crate::domain::time::Timestamp;

mod address;
mod counts;
mod errors;
mod ours;
mod questions;
mod reads;
mod rows;
mod salts;
mod shape;
mod spill;
mod tables;
mod turns;
mod writes;

/// The longest a statement may take on the server.
const MAX_EXECUTION: Duration = Duration::from_secs(20);
/// The longest we wait for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// More rows than this are never asked for; an answer that has more is an error.
const MAX_RESULT_ROWS: u64 = 20_000_000;

/// How long a node that may work without ClickHouse waits for it when it starts.
const PATIENCE_AT_START: Duration = Duration::from_secs(10);
/// How often a batch of history is tried, and how long is waited in between.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);

/// Whose tables they are.
#[derive(Clone)]
pub enum Mode {
    /// Plausible's. Nothing is ever made or written.
    Theirs,
    /// Our own, which are made when they are not there.
    Ours { chance: Chance },
}

/// A connected ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    client: Arc<Client>,
    shape: Arc<Shape>,
    clock: Clock,
    asker: Asker,
    spent_micros: Arc<AtomicU64>,
    turns: Arc<Turns>,
    /// What it takes to write; `None` beside Plausible.
    ours: Option<Arc<Ours>>,
}

/// Gives our statements ids, so that an operator finds them in `system.query_log`. Cheap to clone.
#[derive(Clone)]
struct Asker {
    node: NodeId,
    asked: Arc<AtomicU64>,
}

impl Asker {
    fn id(&self, purpose: &str) -> String {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        format!("pulsehook-{}-{purpose}-{number}", self.node)
    }
}

impl ClickHouse {
    /// Connects and looks at what is there. Where the tables are ours, a server that does not answer is no error: it is asked
    /// again, and until then nothing can be read.
    ///
    /// # Errors
    /// Plausible's server does not answer, or the server is not what we can work with. The sentence says which.
    pub async fn connect(address: &Address, node: NodeId, clock: Clock, mode: Mode) -> Result<Self> {
        let asker = Asker { node, asked: Arc::default() };
        let mut client = client(address);
        let (shape, ours) = match mode {
            Mode::Theirs => (within(&clock, Shape::probe(&client, &address.database)).await?, None),
            Mode::Ours { chance } => {
                let ours = Ours::new(bounded(client.clone()), address, asker.clone(), clock.clone(), chance);
                let reached = tokio::select! {
                    reached = ours.prepare(&client) => reached,
                    () = clock.sleep(PATIENCE_AT_START) => Err(AnalyticsError::Unavailable("it does not answer".to_owned())),
                };
                let shape = match reached {
                    Ok(shape) => shape,
                    Err(error @ AnalyticsError::Refused(_)) => return Err(error),
                    Err(error) => {
                        warn!(%error, "The ClickHouse at {address} is not there yet, and is waited for: {error}");
                        Shape::ours()
                    }
                };
                (shape, Some(Arc::new(ours)))
            }
        };
        client = match shape.limits {
            Limits::AskedFor => bounded(client).with_setting("readonly", "2"),
            Limits::Allowed => bounded(client),
            Limits::TheirsOnly => client,
        };
        let client = Arc::new(client);
        Ok(Self {
            client,
            shape: Arc::new(shape),
            clock,
            asker,
            spent_micros: Arc::default(),
            turns: Arc::default(),
            ours,
        })
    }

    /// Makes our tables where they are not there yet.
    ///
    /// # Errors
    /// The server does not answer, or has an `events_v2` that is not ours.
    pub async fn make_tables(address: &Address, clock: &Clock) -> Result<()> {
        within(clock, Tables::new(bounded(client(address)), &address.database).ready()).await
    }

    /// Begins to take hits, which wait below `data_dir` for ClickHouse, up to so many bytes of them. Beside Plausible it does
    /// nothing.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn take_hits(&self, data_dir: &Path, spill_limit: u64) -> anyhow::Result<()> {
        let Some(ours) = &self.ours else { return Ok(()) };
        let unusable = || format!("events cannot be kept in {}", data_dir.display());
        ours.take_hits(data_dir, spill_limit).with_context(unusable)
    }

    /// The same, with an account of its own of the time that statements take.
    pub fn apart(&self) -> Self {
        Self { spent_micros: Arc::default(), ..self.clone() }
    }

    /// What was found when we connected.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How long statements have taken since we connected, all together, as we saw it.
    pub fn time_spent(&self) -> Duration {
        Duration::from_micros(self.spent_micros.load(Ordering::Relaxed))
    }

    /// Whether it does what it is for: where hits are taken in, whether they still are, with or without a server.
    ///
    /// # Errors
    /// The server does not answer, or no more hits can be kept for it.
    pub async fn ping(&self) -> Result<()> {
        if let Some(spill) = self.ours.as_ref().and_then(|ours| ours.spill().ok()) {
            return if spill.has_room() { Ok(()) } else { Err(AnalyticsError::Busy) };
        }
        let asked = async { self.query("SELECT 1", "ping").fetch_one::<u8>().await.map_err(errors::explain) };
        // Not in turn: a long statement is no sign that nobody is there, and neither is an answer that too many ask.
        match within(&self.clock, asked).await {
            Ok(_) | Err(AnalyticsError::Crowded(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends what it still can and takes no more hits.
    pub async fn close(&self) {
        if let Some(ours) = &self.ours {
            ours.close().await;
        }
    }

    /// Keeps hits for ClickHouse. Returns once they are on disk.
    ///
    /// # Errors
    /// [`AnalyticsError::Busy`] when too many wait already; [`AnalyticsError::Unavailable`] when the disk does not take them.
    /// Nothing was stored then.
    pub async fn record(&self, hits: Vec<Hit>) -> Result<()> {
        self.ours()?.spill()?.append(Rows::of(&hits)).await
    }

    /// Everything acknowledged before is in ClickHouse when this returns, however long that takes.
    ///
    /// # Errors
    /// No hits are taken in.
    pub async fn settle(&self) -> Result<()> {
        let spill = self.ours()?.spill()?;
        let last = spill.end_batch().await?;
        spill.is_through(last).await;
        Ok(())
    }

    /// Stores history. Returns once ClickHouse has it.
    ///
    /// # Errors
    /// It does not take it, or does not answer again and again. A part may be stored then.
    pub async fn import(&self, hits: Vec<Hit>) -> Result<()> {
        let ours = self.ours()?;
        within(&self.clock, ours.tables.ready()).await?;
        for hits in hits.chunks(spill::BATCH_ROWS) {
            let token = ours.token();
            let rows = Bytes::from(Rows::of(hits).bytes);
            let mut tries = 1;
            while let Err(error) =
                within(&self.clock, writes::insert(&ours.client, self.asker.id("import"), &token, &rows)).await
            {
                if tries == TRIES || matches!(error, AnalyticsError::Refused(_)) {
                    return Err(error);
                }
                tries += 1;
                self.clock.sleep(BETWEEN_TRIES).await;
            }
        }
        Ok(())
    }

    /// The salts of the last days, as this node knows them. ClickHouse is not waited for. Beside Plausible there are none.
    #[expect(clippy::unused_async, reason = "the other store waits for its file")]
    pub async fn salts(&self) -> Result<Vec<(i64, Vec<u8>)>> {
        Ok(self.ours.as_ref().map(|ours| ours.salts.all()).unwrap_or_default())
    }

    /// Keeps `salt` for `day` unless this node knows one.
    #[expect(clippy::unused_async, reason = "the other store waits for its file")]
    pub async fn keep_salt(&self, day: i64, salt: &[u8]) -> Result<()> {
        if let Some(ours) = &self.ours {
            ours.salts.keep(day, salt);
        }
        Ok(())
    }

    /// Forgets a site: the server removes its rows when it comes to it. What Plausible keeps is not ours to remove.
    pub async fn delete_site(&self, site_id: SiteId) -> Result<()> {
        const SQL: &str = "ALTER TABLE events_v2 DELETE WHERE site_id = {site:UInt64}";
        let Some(ours) = &self.ours else { return Ok(()) };
        if ours.spill().is_ok() {
            // Only what is stored is removed. What does not get there in time goes with its month.
            let _ = within(&self.clock, self.settle()).await;
        }
        let query = ours
            .client
            .query(SQL)
            .with_setting("query_id", self.asker.id("forget"))
            .param("site", site_id.0.cast_unsigned());
        self.timed(async { query.execute().await.map_err(errors::explain) }).await
    }

    /// Forgets the months that ended before `before`. What Plausible keeps is not ours to remove.
    pub async fn prune(&self, before: Timestamp) -> Result<()> {
        const OLD: &str = "
            SELECT DISTINCT toUInt32OrZero(partition) AS month
            FROM system.parts
            WHERE database = {database:String} AND table = {table:String} AND active
                AND month > 0 AND month < toYYYYMM(toDateTime({before:Int64}, 'UTC'), 'UTC')";
        let Some(ours) = &self.ours else { return Ok(()) };
        let before = before.micros().div_euclid(1_000_000).max(0);
        let old =
            ours.client.query(OLD).param("database", &*ours.database).param("table", EVENTS).param("before", before);
        let months: Vec<u32> = self.timed(async { old.fetch_all().await.map_err(errors::explain) }).await?;
        for month in months {
            let drop = ours.client.query(&format!("ALTER TABLE events_v2 DROP PARTITION {month}"));
            let drop = drop.with_setting("query_id", self.asker.id("prune"));
            self.timed(async { drop.execute().await.map_err(errors::explain) }).await?;
        }
        Ok(())
    }

    fn ours(&self) -> Result<&Ours> {
        let plausibles = || AnalyticsError::Refused("Plausible takes hits in, not Pulsehook".to_owned());
        self.ours.as_deref().ok_or_else(plausibles)
    }

    /// A statement, known to the server by what it is for.
    fn query(&self, sql: &str, purpose: &str) -> Query {
        self.client.query(sql).with_setting("query_id", self.asker.id(purpose))
    }

    /// All rows of an answer.
    async fn all<T: RowOwned + RowRead>(&self, query: Query) -> Result<Vec<T>> {
        self.timed(async { query.fetch_all().await.map_err(errors::explain) }).await
    }

    /// The row of an answer that has one.
    async fn only<T: RowOwned + RowRead>(&self, query: Query) -> Result<T> {
        self.timed(async { query.fetch_one().await.map_err(errors::explain) }).await
    }

    /// Waits for an answer, but not for ever, and keeps account of the time.
    async fn timed<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let _turn = self.turns.take().await;
        let began = self.clock.monotonic();
        let outcome = within(&self.clock, answer).await;
        if let Err(AnalyticsError::Crowded(_)) = &outcome {
            self.turns.crowded();
        }
        let spent = self.clock.monotonic().saturating_sub(began);
        self.spent_micros.fetch_add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        outcome
    }
}

fn client(address: &Address) -> Client {
    let mut client = Client::default().with_url(&address.url).with_database(&address.database);
    if let Some(user) = &address.user {
        client = client.with_user(user);
    }
    if let Some(password) = &address.password {
        client = client.with_password(password);
    }
    client
}

fn bounded(client: Client) -> Client {
    client
        .with_setting("max_execution_time", MAX_EXECUTION.as_secs().to_string())
        .with_setting("max_result_rows", MAX_RESULT_ROWS.to_string())
        .with_setting("result_overflow_mode", "throw")
}

async fn within<T>(clock: &Clock, answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        outcome = answer => outcome,
        () = clock.sleep(PATIENCE) => {
            Err(AnalyticsError::Unavailable(format!("ClickHouse did not answer within {} s", PATIENCE.as_secs())))
        }
    }
}
