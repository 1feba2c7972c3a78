//! Accounts, the people in them, and their sessions.

use super::facts::SETUP_TOKEN;
use super::{Result, Store, Tx, on};
use crate::domain::access::Role;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::time::Timestamp;

/// Somebody who can sign in.
#[derive(Debug, sqlx::FromRow)]
pub struct Login {
    pub user_id: UserId,
    pub account_id: AccountId,
    pub password_hash: String,
}

/// A session that has not expired.
#[derive(Debug, sqlx::FromRow)]
pub struct Session {
    pub user_id: UserId,
    pub account_id: AccountId,
    pub role: Role,
}

/// A member of an account.
#[derive(Debug, sqlx::FromRow)]
pub struct Member {
    pub user_id: UserId,
    pub email: String,
    pub role: Role,
    pub inserted_at: Timestamp,
}

/// The first owner, as the set-up page takes it.
#[derive(Debug)]
pub struct FirstOwner<'a> {
    pub account: &'a str,
    pub email: &'a str,
    pub password_hash: &'a str,
}

impl Store {
    /// The account of this name, created when there is none.
    pub async fn find_or_create_account(&self, name: &str, now: Timestamp) -> Result<AccountId> {
        const INSERT: &str = "
            INSERT INTO accounts (name, inserted_at) VALUES ($1, $2)
            ON CONFLICT (name) DO NOTHING";
        const SELECT: &str = "SELECT id FROM accounts WHERE name = $1";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(INSERT).bind(name).bind(now).execute(&mut **tx).await.map(drop))?;
        let id = on!(&mut tx.0, tx => sqlx::query_scalar(SELECT).bind(name).fetch_one(&mut **tx).await)?;
        tx.commit().await?;
        Ok(id)
    }

    pub async fn account_name(&self, account_id: AccountId) -> Result<Option<String>> {
        const SQL: &str = "SELECT name FROM accounts WHERE id = $1";
        Ok(on!(self.reader(), pool => sqlx::query_scalar(SQL).bind(account_id).fetch_optional(pool).await)?)
    }

    /// Whether anybody could use this installation yet: a user or a key exists.
    pub async fn operator_is_set_up(&self) -> Result<bool> {
        const SQL: &str = "
            SELECT count(*)
            FROM (SELECT 1 AS one FROM users UNION ALL SELECT 1 FROM api_keys LIMIT 1) AS credentials";
        let count: i64 = on!(self.reader(), pool => sqlx::query_scalar(SQL).fetch_one(pool).await)?;
        Ok(count > 0)
    }

    /// Creates account, user and ownership in exchange for the set-up token. `None` when the token is not the one, or
    /// was used before.
    pub async fn set_up(
        &self,
        token_hash: &str,
        owner: &FirstOwner<'_>,
        now: Timestamp,
    ) -> Result<Option<(AccountId, UserId)>> {
        const ACCOUNT: &str = "INSERT INTO accounts (name, inserted_at) VALUES ($1, $2) RETURNING id";
        const USER: &str = "INSERT INTO users (email, password_hash, inserted_at) VALUES ($1, $2, $3) RETURNING id";
        const MEMBER: &str =
            "INSERT INTO memberships (account_id, user_id, role, inserted_at) VALUES ($1, $2, 'owner', $3)";
        let mut tx = self.begin().await?;
        if !tx.take_fact(SETUP_TOKEN, token_hash).await? {
            return Ok(None);
        }
        let account_id: AccountId = on!(&mut tx.0, tx => sqlx::query_scalar(ACCOUNT)
            .bind(owner.account).bind(now).fetch_one(&mut **tx).await)?;
        let user_id: UserId = on!(&mut tx.0, tx => sqlx::query_scalar(USER)
            .bind(owner.email).bind(owner.password_hash).bind(now).fetch_one(&mut **tx).await)?;
        on!(&mut tx.0, tx => sqlx::query(MEMBER)
            .bind(account_id).bind(user_id).bind(now).execute(&mut **tx).await.map(drop))?;
        tx.commit().await?;
        Ok(Some((account_id, user_id)))
    }

    /// The user of this address with the account they joined first.
    pub async fn login(&self, email: &str) -> Result<Option<Login>> {
        const SQL: &str = "
            SELECT users.id AS user_id, memberships.account_id, users.password_hash
            FROM users
            JOIN memberships ON memberships.user_id = users.id
            WHERE users.email = $1
            ORDER BY memberships.inserted_at, memberships.account_id
            LIMIT 1";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(email).fetch_optional(pool).await)?)
    }

    pub async fn members(&self, account_id: AccountId) -> Result<Vec<Member>> {
        const SQL: &str = "
            SELECT users.id AS user_id, users.email, memberships.role, memberships.inserted_at
            FROM memberships
            JOIN users ON users.id = memberships.user_id
            WHERE memberships.account_id = $1
            ORDER BY users.email";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).fetch_all(pool).await)?)
    }

    pub async fn open_session(
        &self,
        account_id: AccountId,
        user_id: UserId,
        token_hash: &[u8],
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO sessions (token_hash, account_id, user_id, inserted_at, expires_at)
            VALUES ($1, $2, $3, $4, $5)";
        on!(self.writer(), pool => sqlx::query(SQL)
            .bind(token_hash).bind(account_id).bind(user_id).bind(now).bind(expires_at)
            .execute(pool).await.map(drop))?;
        Ok(())
    }

    pub async fn session(&self, token_hash: &[u8], now: Timestamp) -> Result<Option<Session>> {
        const SQL: &str = "
            SELECT sessions.user_id, sessions.account_id, memberships.role
            FROM sessions
            JOIN memberships ON memberships.account_id = sessions.account_id
                AND memberships.user_id = sessions.user_id
            WHERE sessions.token_hash = $1
                AND sessions.expires_at > $2";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(token_hash).bind(now).fetch_optional(pool).await)?)
    }

    /// Somebody who signed in to the other directory is here from now on, with this role in the account.
    pub async fn welcome(
        &self,
        account_id: AccountId,
        external_id: &str,
        email: &str,
        role: Role,
        now: Timestamp,
    ) -> Result<UserId> {
        // Whoever had the address before has another one by now, or none.
        const FORMER: &str = "DELETE FROM users WHERE email = $1 AND (external_id IS NULL OR external_id <> $2)";
        const USER: &str = "
            INSERT INTO users (external_id, email, password_hash, inserted_at) VALUES ($1, $2, '', $3)
            ON CONFLICT (external_id) DO UPDATE SET email = excluded.email
            RETURNING id";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(FORMER).bind(email).bind(external_id).execute(&mut **tx).await.map(drop))?;
        let user_id: UserId = on!(&mut tx.0, tx => sqlx::query_scalar(USER)
            .bind(external_id).bind(email).bind(now).fetch_one(&mut **tx).await)?;
        tx.set_role(account_id, user_id, role, now).await?;
        tx.commit().await?;
        Ok(user_id)
    }

    /// A member from the other directory may do something else there now.
    pub async fn set_role(&self, account_id: AccountId, user_id: UserId, role: Role, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.set_role(account_id, user_id, role, now).await?;
        tx.commit().await
    }

    /// What the other directory calls a user and an account of ours.
    pub async fn names_there(&self, account_id: AccountId, user_id: UserId) -> Result<Option<(String, String)>> {
        const SQL: &str = "
            SELECT users.external_id, accounts.external_id
            FROM users, accounts
            WHERE users.id = $2 AND accounts.id = $1
                AND users.external_id IS NOT NULL AND accounts.external_id IS NOT NULL";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL)
            .bind(account_id).bind(user_id).fetch_optional(pool).await)?)
    }

    /// Somebody is no member any more: none of their sessions goes on.
    pub async fn dismiss(&self, account_id: AccountId, user_id: UserId) -> Result<()> {
        const SESSIONS: &str = "DELETE FROM sessions WHERE account_id = $1 AND user_id = $2";
        const MEMBER: &str = "DELETE FROM memberships WHERE account_id = $1 AND user_id = $2";
        let mut tx = self.begin().await?;
        for sql in [SESSIONS, MEMBER] {
            on!(&mut tx.0, tx => sqlx::query(sql)
                .bind(account_id).bind(user_id).execute(&mut **tx).await.map(drop))?;
        }
        tx.commit().await
    }

    pub async fn close_session(&self, token_hash: &[u8]) -> Result<()> {
        const SQL: &str = "DELETE FROM sessions WHERE token_hash = $1";
        on!(self.writer(), pool => sqlx::query(SQL).bind(token_hash).execute(pool).await.map(drop))?;
        Ok(())
    }

    pub async fn operator_prune_sessions(&self, now: Timestamp) -> Result<u64> {
        const SQL: &str = "DELETE FROM sessions WHERE expires_at <= $1";
        Ok(on!(self.writer(), pool => sqlx::query(SQL)
            .bind(now).execute(pool).await.map(|done| done.rows_affected()))?)
    }
}

impl Tx {
    async fn set_role(&mut self, account_id: AccountId, user_id: UserId, role: Role, now: Timestamp) -> Result<()> {
        const SQL: &str = "
            INSERT INTO memberships (account_id, user_id, role, inserted_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (account_id, user_id) DO UPDATE SET role = excluded.role";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(account_id).bind(user_id).bind(role).bind(now).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    /// Makes two requests of one account take turns, so that a limit holds when they race.
    pub(super) async fn lock_account(&mut self, account_id: AccountId) -> Result<()> {
        // SQLite's writers take turns anyway.
        if let super::Backend::Postgres(tx) = &mut self.0 {
            sqlx::query("SELECT 1 FROM accounts WHERE id = $1 FOR UPDATE").bind(account_id).execute(&mut **tx).await?;
        }
        Ok(())
    }
}
