//! Idempotency keys: a request that is repeated gets the answer of the first.

use sqlx::FromRow;

use super::{Result, Store, on};
use crate::domain::ids::AccountId;
use crate::domain::time::Timestamp;

/// What is known about a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Repeated {
    /// Nobody used it before: go on, and [`Store::remember_answer`].
    First,
    /// The first request is still being answered.
    InProgress,
    /// It was used for something else.
    Mismatch,
    Answered {
        status: i32,
        response: Vec<u8>,
    },
}

#[derive(FromRow)]
struct Row {
    request_hash: Vec<u8>,
    status: Option<i32>,
    response: Option<Vec<u8>>,
}

impl Store {
    /// Takes the key, or says what came of the request that did.
    pub async fn take_idempotency_key(
        &self,
        account_id: AccountId,
        key: &str,
        request_hash: &[u8],
        now: Timestamp,
    ) -> Result<Repeated> {
        const INSERT: &str = "
            INSERT INTO idempotency_keys (account_id, key, request_hash, inserted_at)
            VALUES ($1, $2, $3, $4)
            ON CONFLICT (account_id, key) DO NOTHING";
        const SELECT: &str = "
            SELECT request_hash, status, response FROM idempotency_keys WHERE account_id = $1 AND key = $2";
        let taken = on!(self.writer(), pool => sqlx::query(INSERT)
            .bind(account_id).bind(key).bind(request_hash).bind(now)
            .execute(pool).await.map(|done| done.rows_affected()))?;
        if taken == 1 {
            return Ok(Repeated::First);
        }
        let row: Option<Row> = on!(self.writer(), pool => sqlx::query_as(SELECT)
            .bind(account_id).bind(key).fetch_optional(pool).await)?;
        Ok(match row {
            // Pruned between the two statements: as good as new, and the next try will be the first.
            None => Repeated::InProgress,
            Some(row) if row.request_hash != request_hash => Repeated::Mismatch,
            Some(Row { status: Some(status), response, .. }) => {
                Repeated::Answered { status, response: response.unwrap_or_default() }
            }
            Some(_) => Repeated::InProgress,
        })
    }

    pub async fn remember_answer(&self, account_id: AccountId, key: &str, status: i32, response: &[u8]) -> Result<()> {
        const SQL: &str = "
            UPDATE idempotency_keys SET status = $3, response = $4 WHERE account_id = $1 AND key = $2";
        on!(self.writer(), pool => sqlx::query(SQL)
            .bind(account_id).bind(key).bind(status).bind(response).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Gives a key back: the request failed on our side and may be tried again.
    pub async fn forget_idempotency_key(&self, account_id: AccountId, key: &str) -> Result<()> {
        const SQL: &str = "DELETE FROM idempotency_keys WHERE account_id = $1 AND key = $2";
        on!(self.writer(), pool => sqlx::query(SQL).bind(account_id).bind(key).execute(pool).await.map(drop))?;
        Ok(())
    }

    pub async fn operator_prune_idempotency_keys(&self, before: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM idempotency_keys WHERE inserted_at < $1";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(before).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}
