//! People, and what they may do in which account.

use serde_json::json;

use super::audit::Change;
use super::{Result, Store, Tx, on};
use crate::domain::access::Role;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::time::Timestamp;

/// Somebody with a password of ours.
#[derive(Debug, sqlx::FromRow)]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub password_hash: String,
}

/// A member of an account.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Member {
    pub user_id: UserId,
    pub email: String,
    pub role: Role,
    pub inserted_at: Timestamp,
}

/// An account somebody is a member of.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Membership {
    pub account_id: AccountId,
    pub name: String,
    pub role: Role,
    /// Whether the account is not suspended.
    pub active: bool,
}

/// What came of changing or removing a member.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    Done,
    NotFound,
    /// The member, or what they were to become, is above whoever asked.
    Above(Role),
    /// Nobody could do everything any more.
    LastOwner,
}

impl Store {
    pub async fn user(&self, email: &str) -> Result<Option<User>> {
        const SQL: &str = "SELECT id, email, password_hash FROM users WHERE email = $1";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(email).fetch_optional(pool).await)?)
    }

    pub async fn user_by_id(&self, id: UserId) -> Result<Option<User>> {
        const SQL: &str = "SELECT id, email, password_hash FROM users WHERE id = $1";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(id).fetch_optional(pool).await)?)
    }

    /// Everybody, by e-mail address, each with the number of accounts they are in.
    pub async fn operator_users(&self) -> Result<Vec<(UserId, String, i64)>> {
        const SQL: &str = "
            SELECT id, email, (SELECT count(*) FROM memberships WHERE memberships.user_id = users.id) AS accounts
            FROM users
            ORDER BY email";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
    }

    /// The accounts somebody is in: those that are not suspended first, and of them the one they joined first.
    pub async fn memberships(&self, user_id: UserId) -> Result<Vec<Membership>> {
        const SQL: &str = "
            SELECT memberships.account_id, accounts.name, memberships.role, accounts.status = 'active' AS active
            FROM memberships
            JOIN accounts ON accounts.id = memberships.account_id
            WHERE memberships.user_id = $1
            ORDER BY accounts.status, memberships.inserted_at, memberships.account_id";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(user_id).fetch_all(pool).await)?)
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

    /// Has a member do something else, on behalf of somebody with the role `by`.
    pub async fn change_member(&self, change: &Change, by: Role, user_id: UserId, role: Role) -> Result<Changed> {
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let before = match tx.touchable(change.account_id, by, user_id).await? {
            Ok(before) => before,
            Err(refused) => return Ok(refused),
        };
        if role > by {
            return Ok(Changed::Above(role));
        }
        if before == Role::Owner && role != Role::Owner && tx.owners(change.account_id).await? == 1 {
            return Ok(Changed::LastOwner);
        }
        tx.set_role(change.account_id, user_id, role, change.now).await?;
        let detail = json!({ "role": [before, role] });
        tx.audit_with(change, "member.update", &format!("user:{user_id}"), &detail).await?;
        tx.commit().await?;
        Ok(Changed::Done)
    }

    /// Has somebody be no member any more, on behalf of somebody with the role `by`; anybody may leave. None of their
    /// sessions in this account goes on.
    pub async fn remove_member(&self, change: &Change, by: Role, user_id: UserId) -> Result<Changed> {
        let mut tx = self.begin().await?;
        tx.lock_account(change.account_id).await?;
        let before = match tx.touchable(change.account_id, by, user_id).await? {
            Ok(before) => before,
            Err(refused) => return Ok(refused),
        };
        if before == Role::Owner && tx.owners(change.account_id).await? == 1 {
            return Ok(Changed::LastOwner);
        }
        tx.dismiss(change.account_id, user_id).await?;
        tx.audit(change, "member.delete", &format!("user:{user_id}")).await?;
        tx.commit().await?;
        Ok(Changed::Done)
    }

    /// A new password; every session but the one with `spared` as the hash of its token ends. `change` is noted in the
    /// account it names.
    pub async fn set_password(
        &self,
        change: &Change,
        user_id: UserId,
        password_hash: &str,
        spared: Option<&[u8]>,
    ) -> Result<()> {
        const SQL: &str = "UPDATE users SET password_hash = $2 WHERE id = $1";
        let mut tx = self.begin().await?;
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(user_id).bind(password_hash).execute(&mut **tx).await.map(drop))?;
        tx.close_sessions(user_id, spared).await?;
        tx.audit(change, "user.password", &format!("user:{user_id}")).await?;
        tx.commit().await
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

    /// The other directory does not know somebody as a member any more.
    pub async fn dismiss(&self, account_id: AccountId, user_id: UserId) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.dismiss(account_id, user_id).await?;
        tx.commit().await
    }
}

impl Tx {
    /// # Errors
    /// [`super::StoreError::Conflict`] when the address has a user already.
    pub(super) async fn insert_user(&mut self, email: &str, password_hash: &str, now: Timestamp) -> Result<UserId> {
        const SQL: &str = "INSERT INTO users (email, password_hash, inserted_at) VALUES ($1, $2, $3) RETURNING id";
        Ok(on!(&mut self.0, tx => sqlx::query_scalar(SQL)
            .bind(email).bind(password_hash).bind(now).fetch_one(&mut **tx).await)?)
    }

    pub(super) async fn set_role(
        &mut self,
        account_id: AccountId,
        user_id: UserId,
        role: Role,
        now: Timestamp,
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO memberships (account_id, user_id, role, inserted_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (account_id, user_id) DO UPDATE SET role = excluded.role";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(account_id).bind(user_id).bind(role).bind(now).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    pub(super) async fn role_of(&mut self, account_id: AccountId, user_id: UserId) -> Result<Option<Role>> {
        const SQL: &str = "SELECT role FROM memberships WHERE account_id = $1 AND user_id = $2";
        Ok(on!(&mut self.0, tx => sqlx::query_scalar(SQL)
            .bind(account_id).bind(user_id).fetch_optional(&mut **tx).await)?)
    }

    /// The role of a member somebody with the role `by` may change.
    async fn touchable(
        &mut self,
        account_id: AccountId,
        by: Role,
        user_id: UserId,
    ) -> Result<std::result::Result<Role, Changed>> {
        Ok(match self.role_of(account_id, user_id).await? {
            None => Err(Changed::NotFound),
            Some(role) if role > by => Err(Changed::Above(role)),
            Some(role) => Ok(role),
        })
    }

    async fn owners(&mut self, account_id: AccountId) -> Result<i64> {
        const SQL: &str = "SELECT count(*) FROM memberships WHERE account_id = $1 AND role = 'owner'";
        Ok(on!(&mut self.0, tx => sqlx::query_scalar(SQL).bind(account_id).fetch_one(&mut **tx).await)?)
    }

    async fn dismiss(&mut self, account_id: AccountId, user_id: UserId) -> Result<()> {
        const SESSIONS: &str = "DELETE FROM sessions WHERE account_id = $1 AND user_id = $2";
        const MEMBER: &str = "DELETE FROM memberships WHERE account_id = $1 AND user_id = $2";
        for sql in [SESSIONS, MEMBER] {
            on!(&mut self.0, tx => sqlx::query(sql)
                .bind(account_id).bind(user_id).execute(&mut **tx).await.map(drop))?;
        }
        Ok(())
    }
}
