//! The database a run works on: made for it, looked at from outside, and gone afterwards.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, SqliteConnection};

use super::World;
use super::postgres::{self, Cluster};
use super::queue::Filled;
use super::report::Kind;
use crate::store::Store;
use crate::store::waiting::{Known, Look};

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// A database of one run, of today's schema.
pub struct Database {
    pub url: String,
    /// Where it is one of a cluster's: the cluster, and its name there.
    pub place: Option<(Cluster, String)>,
}

/// A transaction that has read something and sees the database as it was then, until it is dropped.
#[expect(dead_code, reason = "they are held, not used")]
pub enum Snapshot {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    pub async fn create(world: &World, kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        let database = match kind {
            Kind::Sqlite => Self { url: format!("sqlite://{}", folder.join("pulsehook.db").display()), place: None },
            Kind::Postgres => {
                let cluster = world.cluster()?.clone();
                let name = format!("pulsehook_bench_{}", hex::encode(world.chance.bytes::<6>()));
                Self { url: cluster.create_database(&name).await?, place: Some((cluster, name)) }
            }
        };
        let store = database.store().await?;
        store.migrate().await?;
        store.close().await;
        Ok(database)
    }

    pub async fn store(&self) -> anyhow::Result<Store> {
        Store::open(&self.url).await.context("the database of the run cannot be opened")
    }

    /// What days of operation would have done by now: statistics are there and dirty pages are on disk. SQLite does its
    /// part when the last connection closes.
    pub async fn calm_down(&self) -> anyhow::Result<()> {
        if let Some((cluster, _)) = &self.place {
            let mut connection = postgres::connect(&self.url).await?;
            sqlx::query("ANALYZE").execute(&mut connection).await?;
            connection.close().await?;
            cluster.meter().await?.checkpoint().await?;
        }
        Ok(())
    }

    /// As a forgotten report or a long backup would.
    pub async fn hold_snapshot(&self) -> anyhow::Result<Snapshot> {
        const READ: &str = "SELECT count(*) FROM queue";
        match &self.place {
            None => {
                let mut connection = self.open_file().await?;
                sqlx::query("BEGIN").execute(&mut connection).await?;
                sqlx::query(READ).execute(&mut connection).await?;
                Ok(Snapshot::Sqlite(connection))
            }
            Some(_) => {
                let mut connection = postgres::connect(&self.url).await?;
                sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await?;
                sqlx::query(READ).execute(&mut connection).await?;
                Ok(Snapshot::Postgres(connection))
            }
        }
    }

    /// A plain connection to an SQLite file.
    pub async fn open_file(&self) -> anyhow::Result<SqliteConnection> {
        let path = self.url.trim_start_matches("sqlite://");
        let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// The node that sends for a shard, if there is one. On PostgreSQL only: SQLite has one node.
    pub async fn owner_of_shard(&self, shard: i32) -> anyhow::Result<Option<String>> {
        const OWNER: &str = "SELECT node_id::text FROM shards WHERE shard = $1";
        let mut connection = postgres::connect(&self.url).await?;
        let (owner,) = sqlx::query_as(OWNER).bind(shard).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(owner)
    }

    /// A file goes with its folder.
    pub async fn discard(self) -> anyhow::Result<()> {
        match self.place {
            Some((cluster, name)) => cluster.drop_database(&name).await,
            None => Ok(()),
        }
    }
}

/// Deliveries owed.
pub async fn depth(store: &Store) -> anyhow::Result<f64> {
    Ok(store.operator_depth().await?.deliveries as f64)
}

/// Returns once nothing is owed any more, with the moment at which that was seen first. Does not count, for that goes past
/// every row that somebody's snapshot keeps, and a look at all of what was deleted, for the same reason, is not part of what
/// is measured: whatever goes last is looked for first.
pub async fn emptied<M>(
    world: &World,
    store: &Store,
    filled: &Filled,
    mut moment: impl AsyncFnMut() -> anyhow::Result<M>,
) -> anyhow::Result<M> {
    loop {
        if is_empty(store, &filled.last).await? {
            let seen_at = moment().await?;
            if is_empty(store, &filled.all).await? {
                return Ok(seen_at);
            }
        }
        world.clock.sleep(BETWEEN_LOOKS).await;
    }
}

async fn is_empty(store: &Store, known: &Known) -> anyhow::Result<bool> {
    let look = Look { known: Some(known.clone()), ..Look::default() };
    Ok(store.waiting(&look).await?.is_empty())
}
