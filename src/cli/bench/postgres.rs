//! The PostgreSQL cluster the figures run on: fresh databases in it, and what it has used.

use std::str::FromStr as _;

use anyhow::Context as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::usage;

/// A cluster in which databases may be made. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster(url::Url);

/// A connection beside the work, for reading the cluster's counters.
pub struct Meter {
    connection: PgConnection,
    /// `None` when the server runs on another machine, or this is not Linux: its CPU cannot be seen from here.
    postmaster: Option<u32>,
}

/// Counters of the whole cluster at one moment; only differences mean something.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub cpu_seconds: Option<f64>,
    pub wal_bytes: f64,
}

impl Cluster {
    /// # Errors
    /// The address is not one of PostgreSQL.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let url: url::Url = url.parse().context("--postgres must be an address such as postgres://user@host:5432")?;
        anyhow::ensure!(matches!(url.scheme(), "postgres" | "postgresql"), "--postgres must begin with postgres://");
        Ok(Self(url))
    }

    /// Makes an empty database and answers its address.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.run(&format!("CREATE DATABASE {name}")).await.context("no database can be made in --postgres")?;
        Ok(self.address_of(name))
    }

    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await.context("a database could not be dropped")
    }

    pub async fn meter(&self) -> anyhow::Result<Meter> {
        let mut connection = self.connect().await?;
        let (backend,): (i32,) = sqlx::query_as("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let postmaster = u32::try_from(backend).ok().and_then(usage::parent_of).filter(|pid| *pid > 1);
        Ok(Meter { connection, postmaster })
    }

    fn address_of(&self, database: &str) -> String {
        let mut url = self.0.clone();
        url.set_path(database);
        url.into()
    }

    /// Where no database is named, the one every cluster has.
    async fn connect(&self) -> anyhow::Result<PgConnection> {
        let named = !matches!(self.0.path(), "" | "/");
        let url = if named { self.0.to_string() } else { self.address_of("postgres") };
        connect(&url).await.context("the cluster of --postgres does not answer")
    }

    async fn run(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

/// A connection of ours. That a statement takes its time is no news here.
pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)?.application_name("pulsehook bench").disable_statement_logging();
    Ok(PgConnection::connect_with(&options).await?)
}

impl Meter {
    pub async fn read(&mut self) -> anyhow::Result<Reading> {
        const WRITTEN: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8";
        let (wal_bytes,): (f64,) = sqlx::query_as(WRITTEN).fetch_one(&mut self.connection).await?;
        Ok(Reading { cpu_seconds: self.postmaster.and_then(usage::family_cpu_seconds), wal_bytes })
    }

    /// Transactions committed in a database so far. A connection reports its own when it has been idle for a while or
    /// ends, so this is exact only once everybody has left.
    pub async fn commits(&mut self, database: &str) -> anyhow::Result<f64> {
        const COMMITS: &str = "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = $1";
        let (commits,): (f64,) = sqlx::query_as(COMMITS).bind(database).fetch_one(&mut self.connection).await?;
        Ok(commits)
    }

    /// Everything dirty goes to disk now, so that it does not during what is measured.
    pub async fn checkpoint(&mut self) -> anyhow::Result<()> {
        sqlx::query("CHECKPOINT").execute(&mut self.connection).await.context("a checkpoint needs a superuser")?;
        Ok(())
    }
}
