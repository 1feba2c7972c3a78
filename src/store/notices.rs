//! Telling other nodes that there is something in the queue for them. Wake-ups are speed, not truth: what is not heard is
//! found by the next sweep.

use sqlx::postgres::PgListener;

use super::{Backend, Result, Store};

const CHANNEL: &str = "pulsehook_queue";

/// What other nodes say.
pub struct Notices(PgListener);

impl Store {
    /// Says that something was put into the queue of these shards. Never inside the transaction that does it: a commit
    /// with a notice waits for all others that have one.
    pub async fn notify(&self, shards: &[i32]) -> Result<()> {
        const POSTGRES: &str = "SELECT pg_notify($1, $2)";
        let Backend::Postgres(pool) = self.writer() else { return Ok(()) };
        let list: Vec<_> = shards.iter().map(i32::to_string).collect();
        sqlx::query(POSTGRES).bind(CHANNEL).bind(list.join(",")).execute(pool).await?;
        Ok(())
    }

    /// Listens to the others, over a connection of its own. `None` on SQLite, where there are none.
    pub async fn notices(&self) -> Result<Option<Notices>> {
        let Backend::Postgres(pool) = self.writer() else { return Ok(None) };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen(CHANNEL).await?;
        Ok(Some(Notices(listener)))
    }
}

impl Notices {
    /// The shards of the next notice.
    ///
    /// # Errors
    /// The connection was lost and could not be opened again.
    pub async fn next(&mut self) -> Result<Vec<i32>> {
        let notice = self.0.recv().await?;
        Ok(notice.payload().split(',').filter_map(|shard| shard.parse().ok()).collect())
    }
}
