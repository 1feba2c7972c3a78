//! Sessions of people who signed in. A session is known by the hash of its token; the token is only in the cookie.

use super::audit::Change;
use super::{Result, Store, Tx, on};
use crate::domain::access::Role;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::time::Timestamp;

/// A session that goes on.
#[derive(Debug, sqlx::FromRow)]
pub struct Session {
    pub user_id: UserId,
    pub account_id: AccountId,
    pub role: Role,
    /// Whether the account is not suspended.
    pub active: bool,
    pub last_used_at: Timestamp,
}

/// A session as its owner sees it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct OpenSession {
    pub token_hash: Vec<u8>,
    pub account_id: AccountId,
    pub user_agent: String,
    pub last_used_at: Timestamp,
    pub inserted_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A session to be opened.
#[derive(Debug, Clone, Copy)]
pub struct NewSession<'a> {
    pub user_id: UserId,
    pub token_hash: [u8; 32],
    /// What the browser calls itself.
    pub user_agent: &'a str,
    pub expires_at: Timestamp,
}

impl Store {
    /// Signs somebody in to the account of `change`, which is noted there.
    pub async fn open_session(&self, change: &Change, session: NewSession<'_>) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.open_session(change, session).await?;
        tx.audit(change, "session.create", &format!("user:{}", session.user_id)).await?;
        tx.commit().await
    }

    /// The session of this token, unless it has expired or was not used since `idle_since`.
    pub async fn session(&self, token_hash: &[u8], now: Timestamp, idle_since: Timestamp) -> Result<Option<Session>> {
        const SQL: &str = "
            SELECT sessions.user_id, sessions.account_id, memberships.role, accounts.status = 'active' AS active,
                sessions.last_used_at
            FROM sessions
            JOIN memberships ON memberships.account_id = sessions.account_id
                AND memberships.user_id = sessions.user_id
            JOIN accounts ON accounts.id = sessions.account_id
            WHERE sessions.token_hash = $1
                AND sessions.expires_at > $2
                AND (sessions.last_used_at > $3 OR sessions.last_used_at = 0)";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(token_hash).bind(now).bind(idle_since).fetch_optional(pool).await)?)
    }

    pub async fn touch_session(&self, token_hash: &[u8], now: Timestamp) -> Result<()> {
        const SQL: &str = "UPDATE sessions SET last_used_at = $2 WHERE token_hash = $1";
        on!(self.writer(), pool => sqlx::query(SQL).bind(token_hash).bind(now).execute(pool).await.map(drop))?;
        Ok(())
    }

    /// Somebody's sessions in all their accounts, the one used last first.
    pub async fn sessions_of(
        &self,
        user_id: UserId,
        now: Timestamp,
        idle_since: Timestamp,
    ) -> Result<Vec<OpenSession>> {
        const SQL: &str = "
            SELECT token_hash, account_id, user_agent, last_used_at, inserted_at, expires_at
            FROM sessions
            WHERE user_id = $1 AND expires_at > $2 AND (last_used_at > $3 OR last_used_at = 0)
            ORDER BY last_used_at DESC, inserted_at DESC";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(user_id).bind(now).bind(idle_since).fetch_all(pool).await)?)
    }

    /// Ends the session in favour of another of the same person in the account of `change`.
    pub async fn replace_session(&self, change: &Change, old: &[u8], session: NewSession<'_>) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.close_session(old).await?;
        tx.open_session(change, session).await?;
        tx.audit(change, "session.switch", &format!("user:{}", session.user_id)).await?;
        tx.commit().await
    }

    /// Ends a session of the one who asks.
    pub async fn close_session(&self, change: &Change, token_hash: &[u8]) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.close_session(token_hash).await?;
        tx.audit(change, "session.delete", &change.who.to_string()).await?;
        tx.commit().await
    }

    /// Ends all sessions of somebody but the one that is spared. Answers how many.
    pub async fn close_sessions(&self, change: &Change, user_id: UserId, spared: Option<&[u8]>) -> Result<u64> {
        let mut tx = self.begin().await?;
        let closed = tx.close_sessions(user_id, spared).await?;
        tx.audit(change, "session.delete_all", &format!("user:{user_id}")).await?;
        tx.commit().await?;
        Ok(closed)
    }

    pub async fn operator_prune_sessions(&self, now: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM sessions WHERE expires_at <= $1";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(now).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

impl Tx {
    async fn open_session(&mut self, change: &Change, session: NewSession<'_>) -> Result<()> {
        const SQL: &str = "
            INSERT INTO sessions (token_hash, account_id, user_id, user_agent, last_used_at, inserted_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $5, $6)";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(session.token_hash.as_slice())
            .bind(change.account_id)
            .bind(session.user_id)
            .bind(session.user_agent)
            .bind(change.now)
            .bind(session.expires_at)
            .execute(&mut **tx)
            .await
            .map(drop))?;
        Ok(())
    }

    async fn close_session(&mut self, token_hash: &[u8]) -> Result<()> {
        const SQL: &str = "DELETE FROM sessions WHERE token_hash = $1";
        on!(&mut self.0, tx => sqlx::query(SQL).bind(token_hash).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    pub(super) async fn close_sessions(&mut self, user_id: UserId, spared: Option<&[u8]>) -> Result<u64> {
        const SQL: &str = "DELETE FROM sessions WHERE user_id = $1 AND token_hash <> $2";
        // No hash is empty.
        let spared = spared.unwrap_or_default();
        Ok(on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(user_id).bind(spared).execute(&mut **tx).await.map(|done| done.rows_affected()))?)
    }
}
