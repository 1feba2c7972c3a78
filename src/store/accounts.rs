//! Accounts: who owns, is isolated, can be suspended and goes as a whole.

use serde_json::json;

use super::audit::Change;
use super::facts::SETUP_TOKEN;
use super::shards::shard_of;
use super::{Result, Store, Tx, on};
use crate::domain::ids::{AccountId, SiteId, UserId, WebhookId};
use crate::domain::time::Timestamp;

/// An account with its first owner, as whoever begins says it.
#[derive(Debug)]
pub struct Founding<'a> {
    pub account: &'a str,
    pub email: &'a str,
    pub password_hash: &'a str,
}

/// An account as the operator sees it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct AccountRow {
    pub id: AccountId,
    pub name: String,
    pub active: bool,
    pub sites: i64,
    pub webhooks: i64,
    pub members: i64,
    pub inserted_at: Timestamp,
}

/// What went with an account, for whoever keeps more of it elsewhere.
#[derive(Debug, Default, PartialEq)]
pub struct Gone {
    pub sites: Vec<SiteId>,
    /// Webhooks with their shards.
    pub webhooks: Vec<(WebhookId, i32)>,
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

    /// Every account, by name.
    pub async fn operator_accounts(&self) -> Result<Vec<AccountRow>> {
        const SQL: &str = "
            SELECT id, name, status = 'active' AS active, inserted_at,
                (SELECT count(*) FROM sites WHERE sites.account_id = accounts.id) AS sites,
                (SELECT count(*) FROM webhooks WHERE webhooks.account_id = accounts.id) AS webhooks,
                (SELECT count(*) FROM memberships WHERE memberships.account_id = accounts.id) AS members
            FROM accounts
            ORDER BY name";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).fetch_all(pool).await)?)
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
    ///
    /// # Errors
    /// [`super::StoreError::Conflict`] when there is such an account or user already.
    pub async fn set_up(
        &self,
        token_hash: &str,
        founding: &Founding<'_>,
        now: Timestamp,
    ) -> Result<Option<(AccountId, UserId)>> {
        let mut tx = self.begin().await?;
        if !tx.take_fact(SETUP_TOKEN, token_hash).await? {
            return Ok(None);
        }
        let founded = tx.found(founding, now).await?;
        tx.commit().await?;
        Ok(Some(founded))
    }

    /// The same for somebody who signs up, where that is open.
    ///
    /// # Errors
    /// As [`Store::set_up`].
    pub async fn found_account(&self, founding: &Founding<'_>, now: Timestamp) -> Result<(AccountId, UserId)> {
        let mut tx = self.begin().await?;
        let founded = tx.found(founding, now).await?;
        tx.commit().await?;
        Ok(founded)
    }

    /// # Errors
    /// [`super::StoreError::Conflict`] when another account has the name.
    pub async fn rename_account(&self, change: &Change, name: &str) -> Result<()> {
        const BEFORE: &str = "SELECT name FROM accounts WHERE id = $1";
        const SQL: &str = "UPDATE accounts SET name = $2 WHERE id = $1";
        let mut tx = self.begin().await?;
        let before: String = on!(&mut tx.0, tx => sqlx::query_scalar(BEFORE)
            .bind(change.account_id).fetch_one(&mut **tx).await)?;
        on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id).bind(name).execute(&mut **tx).await.map(drop))?;
        tx.audit_with(change, "account.update", name, &json!({ "name": [before, name] })).await?;
        tx.commit().await
    }

    /// Stops everything of an account, or has it go on from now: nothing is noticed or sent, and nobody comes in. Answers
    /// its webhooks with their shards, or nothing when it is like that already.
    pub async fn suspend_account(&self, change: &Change, suspended: bool) -> Result<Option<Vec<(WebhookId, i32)>>> {
        const SQL: &str = "UPDATE accounts SET status = $2 WHERE id = $1 AND status <> $2";
        // What happened meanwhile is not made up for.
        const LIVE: &str = "UPDATE webhooks SET live_since = $2 WHERE account_id = $1";
        const WEBHOOKS: &str = "SELECT id, site_id FROM webhooks WHERE account_id = $1";
        let mut tx = self.begin().await?;
        let status = if suspended { "suspended" } else { "active" };
        let turned = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id).bind(status).execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if turned == 0 {
            return Ok(None);
        }
        if !suspended {
            on!(&mut tx.0, tx => sqlx::query(LIVE)
                .bind(change.account_id).bind(change.now).execute(&mut **tx).await.map(drop))?;
        }
        let webhooks: Vec<(WebhookId, SiteId)> = on!(&mut tx.0, tx => sqlx::query_as(WEBHOOKS)
            .bind(change.account_id).fetch_all(&mut **tx).await)?;
        let action = if suspended { "account.suspend" } else { "account.resume" };
        tx.audit(change, action, &change.account_id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(Some(with_shards(webhooks)))
    }

    /// Removes an account with everything in it, its audit log included, and the people who are in no other.
    pub async fn delete_account(&self, account_id: AccountId, now: Timestamp) -> Result<Gone> {
        const MEMBERS: &str = "SELECT user_id FROM memberships WHERE account_id = $1";
        const WEBHOOKS: &str = "DELETE FROM webhooks WHERE account_id = $1 RETURNING id, site_id";
        const SITES: &str = "DELETE FROM sites WHERE account_id = $1 RETURNING id";
        const ACCOUNT: &str = "DELETE FROM accounts WHERE id = $1";
        const USER: &str = "
            DELETE FROM users
            WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM memberships WHERE memberships.user_id = $1)";
        let mut tx = self.begin().await?;
        let members: Vec<UserId> = on!(&mut tx.0, tx => sqlx::query_scalar(MEMBERS)
            .bind(account_id).fetch_all(&mut **tx).await)?;
        let webhooks: Vec<(WebhookId, SiteId)> = on!(&mut tx.0, tx => sqlx::query_as(WEBHOOKS)
            .bind(account_id).fetch_all(&mut **tx).await)?;
        let webhooks = with_shards(webhooks);
        for (webhook, shard) in &webhooks {
            tx.forget_deliveries(*webhook, *shard, now).await?;
        }
        let sites: Vec<SiteId> = on!(&mut tx.0, tx => sqlx::query_scalar(SITES)
            .bind(account_id).fetch_all(&mut **tx).await)?;
        on!(&mut tx.0, tx => sqlx::query(ACCOUNT).bind(account_id).execute(&mut **tx).await.map(drop))?;
        for user in members {
            on!(&mut tx.0, tx => sqlx::query(USER).bind(user).execute(&mut **tx).await.map(drop))?;
        }
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(Gone { sites, webhooks })
    }
}

fn with_shards(webhooks: Vec<(WebhookId, SiteId)>) -> Vec<(WebhookId, i32)> {
    webhooks.into_iter().map(|(webhook, site)| (webhook, shard_of(site))).collect()
}

impl Tx {
    async fn found(&mut self, founding: &Founding<'_>, now: Timestamp) -> Result<(AccountId, UserId)> {
        const ACCOUNT: &str = "INSERT INTO accounts (name, inserted_at) VALUES ($1, $2) RETURNING id";
        let account_id: AccountId = on!(&mut self.0, tx => sqlx::query_scalar(ACCOUNT)
            .bind(founding.account).bind(now).fetch_one(&mut **tx).await)?;
        let user_id = self.insert_user(founding.email, founding.password_hash, now).await?;
        self.set_role(account_id, user_id, crate::domain::access::Role::Owner, now).await?;
        Ok((account_id, user_id))
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
