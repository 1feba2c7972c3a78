//! What it takes to write: tables and salts of our own, hits that wait, and the tasks that bring them to ClickHouse.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::clickhouse::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::salts::{self, Salts};
use super::shape::Shape;
use super::spill::Spill;
use super::tables::Tables;
use super::writes::{self, Writer};
use super::{Address, Asker, within};
use crate::analytics::{AnalyticsError, Result};
use crate::chance::Chance;
use crate::clock::Clock;

/// How long the end of the process waits for what can still be sent.
const LAST_TRY: Duration = Duration::from_secs(10);

/// The writing side of a ClickHouse.
pub struct Ours {
    /// May write.
    pub client: Client,
    pub database: Box<str>,
    pub tables: Arc<Tables>,
    asker: Asker,
    clock: Clock,
    chance: Chance,
    pub salts: Arc<Salts>,
    spill: OnceLock<Spill>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Ours {
    pub fn new(client: Client, address: &Address, asker: Asker, clock: Clock, chance: Chance) -> Self {
        let client = writes::for_inserts(client);
        Self {
            tables: Arc::new(Tables::new(client.clone(), &address.database)),
            client,
            database: address.database.as_str().into(),
            asker,
            clock,
            salts: Arc::new(Salts::new(chance.clone())),
            chance,
            spill: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        }
    }

    /// Makes the tables, learns the salts of the others, and looks at what there is.
    ///
    /// # Errors
    /// There is an `events_v2` that is not ours, or no answer.
    pub async fn prepare(&self, reader: &Client) -> Result<Shape> {
        self.tables.ready().await?;
        self.salts.refresh(&self.client, self.clock.now()).await?;
        Shape::probe(reader, &self.database).await
    }

    /// Opens the folder and starts the tasks.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn take_hits(&self, data_dir: &Path, limit: u64) -> std::io::Result<()> {
        let spill = Spill::open(data_dir, self.asker.node, limit, self.clock.clone(), self.chance.clone())?;
        self.salts.keep_in(&spill.folder().join("salts"));
        let writer = Writer {
            client: self.client.clone(),
            tables: Arc::clone(&self.tables),
            spill: spill.clone(),
            clock: self.clock.clone(),
            asker: self.asker.clone(),
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(writer.run(self.stop.clone()));
        tasks.spawn(self.keep_salts_fresh());
        let _ = self.spill.set(spill);
        Ok(())
    }

    /// Where hits wait.
    ///
    /// # Errors
    /// This process takes none.
    pub fn spill(&self) -> Result<&Spill> {
        self.spill.get().ok_or_else(|| AnalyticsError::Refused("this process takes no hits".to_owned()))
    }

    /// The name of a batch that goes to ClickHouse without having been in the folder.
    pub fn token(&self) -> String {
        hex::encode(self.chance.bytes::<16>())
    }

    /// Sends what it still can and gives the folder free. What is left is in it.
    pub async fn close(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = self.clock.sleep(LAST_TRY) => tasks.shutdown().await,
        }
        if let Some(spill) = self.spill.get() {
            spill.leave().await;
        }
    }

    fn keep_salts_fresh(&self) -> impl Future<Output = ()> + Send + 'static {
        let (salts, tables, client) = (Arc::clone(&self.salts), Arc::clone(&self.tables), self.client.clone());
        let (clock, stop) = (self.clock.clone(), self.stop.clone());
        async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = clock.sleep(salts::REFRESH) => {}
                }
                let learnt = within(&clock, async {
                    tables.ready().await?;
                    salts.refresh(&client, clock.now()).await
                });
                if let Err(error) = learnt.await {
                    // The writer says that there is nobody; what was known is still good.
                    debug!(%error, "The salts of the other nodes are not known: {error}");
                }
            }
        }
    }
}
