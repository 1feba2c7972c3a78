//! Traffic in ClickHouse, in tables of Plausible's shape: Plausible's own, or ours when we take hits in.
//!
//! Rows have whole-second times and no name, and they land late and out of order, so whoever reads them asks again and
//! again for what is new ([`reads`]) and keeps count. Every statement is read-only where the user lets us ask for that,
//! bounded in time and size, and carries an id of ours. What a server cannot answer is an error, never zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::clickhouse::Client;
use ::clickhouse::query::Query;

pub use self::address::{Address, NotAnAddress};
pub use self::reads::{Sites, Visitors};
pub use self::shape::{EVENTS, Limits, Shape};
use super::{AnalyticsError, Result};
use crate::clock::Clock;
use crate::domain::hit::Hit;
use crate::domain::ids::{NodeId, SiteId};
use crate::domain::time::Timestamp;

mod address;
mod errors;
mod reads;
mod shape;

/// The longest a statement may take on the server.
const MAX_EXECUTION: Duration = Duration::from_secs(20);
/// The longest we wait for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// More rows than this are never asked for; an answer that has more is an error.
const MAX_RESULT_ROWS: u64 = 20_000_000;

/// A connected ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    client: Arc<Client>,
    shape: Arc<Shape>,
    clock: Clock,
    /// Begins the ids of our statements, so that an operator finds them in `system.query_log`.
    asker: Arc<str>,
    asked: Arc<AtomicU64>,
    spent_micros: Arc<AtomicU64>,
}

impl ClickHouse {
    /// Connects and looks at what is there.
    ///
    /// # Errors
    /// The server does not answer, or is not what we can work with. The sentence says which.
    pub async fn connect(address: &Address, node: NodeId, clock: Clock) -> Result<Self> {
        let mut client = Client::default().with_url(&address.url).with_database(&address.database);
        if let Some(user) = &address.user {
            client = client.with_user(user);
        }
        if let Some(password) = &address.password {
            client = client.with_password(password);
        }
        let shape = within(&clock, Shape::probe(&client, &address.database)).await?;
        client = match shape.limits {
            Limits::AskedFor => bounded(client).with_setting("readonly", "2"),
            Limits::Allowed => bounded(client),
            Limits::TheirsOnly => client,
        };
        Ok(Self {
            client: Arc::new(client),
            shape: Arc::new(shape),
            clock,
            asker: format!("pulsehook-{node}").into(),
            asked: Arc::default(),
            spent_micros: Arc::default(),
        })
    }

    /// What was found when we connected.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How long statements have taken since we connected, all together, as we saw it.
    pub fn time_spent(&self) -> Duration {
        Duration::from_micros(self.spent_micros.load(Ordering::Relaxed))
    }

    /// # Errors
    /// The server does not answer.
    pub async fn ping(&self) -> Result<()> {
        self.timed(async { self.query("SELECT 1", "ping").fetch_one::<u8>().await.map_err(errors::explain) }).await?;
        Ok(())
    }

    /// A statement, known to the server by what it is for.
    fn query(&self, sql: &str, purpose: &str) -> Query {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.client.query(sql).with_setting("query_id", format!("{}-{purpose}-{number}", self.asker))
    }

    /// Waits for an answer, but not for ever, and keeps account of the time.
    async fn timed<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let began = self.clock.monotonic();
        let outcome = within(&self.clock, answer).await;
        let spent = self.clock.monotonic().saturating_sub(began);
        self.spent_micros.fetch_add(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        outcome
    }
}

/// Plausible takes hits in and keeps them; what is written here is its own.
#[expect(clippy::unused_async, reason = "the embedded store's are")]
impl ClickHouse {
    pub async fn close(&self) {}

    /// Hits are somebody else's to write.
    ///
    /// # Errors
    /// Always.
    pub async fn record(&self, _: Vec<Hit>) -> Result<()> {
        Err(AnalyticsError::Refused("Plausible takes hits in, not Pulsehook".to_owned()))
    }

    /// The same for history.
    pub async fn import(&self, hits: Vec<Hit>) -> Result<()> {
        self.record(hits).await
    }

    pub async fn salts(&self) -> Result<Vec<(i64, Vec<u8>)>> {
        Ok(Vec::new())
    }

    pub async fn keep_salt(&self, _: i64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    /// What Plausible keeps is not ours to remove.
    pub async fn delete_site(&self, _: SiteId) -> Result<()> {
        Ok(())
    }

    pub async fn prune(&self, _: Timestamp) -> Result<()> {
        Ok(())
    }
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
