//! The directory of a Plausible Community Edition beside us: its PostgreSQL, read and never written.
//!
//! [`truth`] reads who owns which sites and goals, for the mirror that keeps the same in our tables; [`credentials`] says
//! who is behind a token of its Plugins API or an API key, [`people`] who signs in; [`shape`] tells its versions apart. The only SQL on Plausible's
//! database is here. This room does not know our tables.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, PgPool, Postgres, Transaction};

use self::shape::Shape;
use crate::clock::Clock;

pub mod credentials;
pub mod people;
pub mod shape;
pub mod truth;

/// One for the mirror, others for whoever asks meanwhile.
const CONNECTIONS: u32 = 4;
/// Whoever shows a credential waits this long at most for a database that does not answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const STATEMENT_TIMEOUT: &str = "10000";

/// Plausible's PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Plausible {
    pool: PgPool,
    options: PgConnectOptions,
    secret_key_base: Option<Arc<str>>,
    clock: Clock,
}

/// Why Plausible's database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PlausibleError {
    /// It cannot be reached or does not answer in time: it will again.
    #[error("Plausible's database does not answer: {0}")]
    Away(sqlx::Error),
    /// Waiting does not help.
    #[error("{0}")]
    Unusable(String),
}

pub type Result<T, E = PlausibleError> = std::result::Result<T, E>;

impl From<sqlx::Error> for PlausibleError {
    fn from(error: sqlx::Error) -> Self {
        let cause = match &error {
            sqlx::Error::Database(cause) => cause,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => return Self::Away(error),
            _ => return Self::Unusable(format!("Plausible's database cannot be read: {error}")),
        };
        match cause.code().as_deref() {
            Some("42501") => Self::Unusable(format!(
                "the role of plausible_database_url may not read everything that is needed ({cause}); run \
                 deploy/plausible/postgres-reader.sql in Plausible's database"
            )),
            Some("28P01" | "28000") => Self::Unusable(format!(
                "Plausible's database does not let us in ({cause}); check plausible_database_url"
            )),
            Some("3D000") => {
                Self::Unusable(format!("there is no such database ({cause}); check plausible_database_url"))
            }
            Some(code) if code.starts_with("42") => {
                Self::Unusable(format!("Plausible's database is not one this version knows: {cause}"))
            }
            _ => Self::Away(error),
        }
    }
}

impl Plausible {
    /// Does not connect yet.
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn new(url: &str, secret_key_base: Option<&str>, clock: Clock) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| PlausibleError::Unusable(format!("plausible_database_url cannot be read: {error}")))?
            .application_name("pulsehook")
            .options([
                // Whatever its role may do, nothing is written here.
                ("default_transaction_read_only", "on"),
                ("statement_timeout", STATEMENT_TIMEOUT),
                ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT),
            ])
            // It is somebody else's database, and some statements have hashes of credentials.
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_lazy_with(options.clone());
        Ok(Self { pool, options, secret_key_base: secret_key_base.map(Into::into), clock })
    }

    /// Connects and looks whether everything that is needed is there and may be read.
    ///
    /// # Errors
    /// [`PlausibleError::Away`] when that cannot be told now; otherwise a sentence about what is missing.
    pub async fn check(&self) -> Result<()> {
        let mut tx = match self.snapshot().await {
            Err(PlausibleError::Away(sqlx::Error::PoolTimedOut)) => return Err(self.reason().await),
            outcome => outcome?,
        };
        let shape = Shape::of(&mut tx).await?;
        if self.secret_key_base.is_some() {
            shape.has_keys()?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The pool does not say why it could not connect; a connection does.
    async fn reason(&self) -> PlausibleError {
        tokio::select! {
            connected = self.options.connect() => match connected {
                Ok(connection) => {
                    let _ = connection.close().await;
                    sqlx::Error::PoolTimedOut.into()
                }
                Err(error) => error.into(),
            },
            () = self.clock.sleep(CONNECT_WITHIN) => sqlx::Error::PoolTimedOut.into(),
        }
    }

    /// Everything read in it is of one moment.
    async fn snapshot(&self) -> Result<Transaction<'static, Postgres>> {
        Ok(self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
