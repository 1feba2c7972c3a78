//! Accounts, sites and goals that come from another directory, under its own ids. What has to change is decided by
//! [`Changes::between`]; here it happens, all at once.

use std::collections::HashMap;

use sqlx::FromRow;
use uuid::Uuid;

use super::audit::Change;
use super::facts::SETUP_TOKEN;
use super::goals::{GoalRow, columns_of, props_text};
use super::shards::{Lease, shard_of};
use super::{Backend, Result, Store, StoreError, Tx, on};
use crate::domain::access::Who;
use crate::domain::goal::Goal;
use crate::domain::ids::{AccountId, NodeId, SiteId, WebhookId};
use crate::domain::mirror::{AccountHere, Changes, Known, Owner, SiteHere, SiteThere};
use crate::domain::time::Timestamp;

/// Which directory this database belongs to; `own` when it does not say.
pub const DIRECTORY: &str = "directory";

/// The account behind something the other directory told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Holder {
    pub account_id: AccountId,
    pub active: bool,
}

#[derive(FromRow)]
struct AccountRow {
    id: AccountId,
    external_id: String,
    name: String,
    status: String,
}

#[derive(FromRow)]
struct SiteRow {
    id: SiteId,
    account_id: AccountId,
    domain: String,
    timezone: String,
}

impl Store {
    /// Everything that came from another directory.
    pub async fn mirrored(&self) -> Result<Known> {
        const ACCOUNTS: &str = "SELECT id, external_id, name, status FROM accounts WHERE external_id IS NOT NULL";
        const SITES: &str = "SELECT id, account_id, domain, timezone FROM sites ORDER BY id";
        const GOALS: &str = "
            SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency,
                inserted_at
            FROM goals
            ORDER BY id";
        let accounts: Vec<AccountRow> = on!(self.reader(), pool => sqlx::query_as(ACCOUNTS).fetch_all(pool).await)?;
        let sites: Vec<SiteRow> = on!(self.reader(), pool => sqlx::query_as(SITES).fetch_all(pool).await)?;
        let goals: Vec<GoalRow> = on!(self.reader(), pool => sqlx::query_as(GOALS).fetch_all(pool).await)?;
        Ok(Known {
            accounts: accounts.into_iter().map(AccountHere::from).collect(),
            sites: sites.into_iter().map(SiteHere::from).collect(),
            goals: goals.into_iter().map(Goal::from).collect(),
        })
    }

    /// Makes the changes, all of them or none, if `node` still holds the lease under which they were found. Answers the
    /// webhooks that were deleted, suspended or resumed with their shards. `id` makes keys of audit rows.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another node works for the shard by now.
    pub async fn mirror(
        &self,
        node: NodeId,
        lease: Lease,
        changes: &Changes,
        now: Timestamp,
        mut id: impl FnMut() -> Uuid,
    ) -> Result<Vec<(WebhookId, i32)>> {
        let mut tx = self.begin().await?;
        let mut by_plausible = |account_id| Change::without_request(account_id, Who::Plausible, now, id());
        let mut touched = Vec::new();
        for site in &changes.forgotten_sites {
            touched.extend(tx.forget_site(site, now).await?);
            tx.audit(&by_plausible(site.account_id), "site.delete", &site.domain).await?;
        }
        for id in &changes.forgotten_accounts {
            tx.forget_account(*id).await?;
        }
        for goal in &changes.forgotten_goals {
            tx.forget_goal(goal).await?;
        }
        touched.extend(tx.change_accounts(&changes.accounts, now).await?);
        for (account, _) in changes.accounts.iter().filter(|(_, turned)| *turned) {
            let action = if account.suspended { "account.suspend" } else { "account.resume" };
            tx.audit(&by_plausible(account.id), action, &account.name).await?;
        }
        let mut accounts = tx.external_accounts().await?;
        for owner in &changes.new_accounts {
            let id = tx.insert_account(owner, now).await?;
            accounts.insert(owner.external_id.clone(), id);
        }
        tx.change_sites(&changes.sites, now).await?;
        for site in &changes.new_sites {
            let owner = site.owner.as_ref().and_then(|owner| accounts.get(owner));
            tx.insert_site(*owner.ok_or(StoreError::Dangling)?, site).await?;
        }
        for goal in &changes.new_goals {
            tx.insert_goal(goal).await?;
        }
        tx.touch_catalog().await?;
        // Last: until the commit nobody can renew this lease, and a first look may bring a hundred thousand goals.
        tx.still_hold(node, lease).await?;
        tx.commit().await?;
        Ok(touched)
    }

    /// The account of this name in the other directory.
    pub async fn operator_account_there(&self, external_id: &str) -> Result<Option<Holder>> {
        const SQL: &str = "
            SELECT id AS account_id, status = 'active' AS active FROM accounts WHERE external_id = $1";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(external_id).fetch_optional(pool).await)?)
    }

    /// The account of this name. Nobody is made.
    pub async fn operator_account_named(&self, name: &str) -> Result<Option<AccountId>> {
        const SQL: &str = "SELECT id FROM accounts WHERE name = $1";
        Ok(on!(self.reader(), pool => sqlx::query_scalar(SQL).bind(name).fetch_optional(pool).await)?)
    }

    /// Whose site this is.
    pub async fn operator_holder_of(&self, site_id: SiteId) -> Result<Option<Holder>> {
        const SQL: &str = "
            SELECT accounts.id AS account_id, accounts.status = 'active' AS active
            FROM sites
            JOIN accounts ON accounts.id = sites.account_id
            WHERE sites.id = $1";
        Ok(on!(self.reader(), pool => sqlx::query_as(SQL).bind(site_id).fetch_optional(pool).await)?)
    }

    /// Has the database belong to this directory from now on. `false`: it belongs to another one that has accounts here.
    pub async fn settle_directory(&self, directory: &str) -> Result<bool> {
        const ACCOUNTS: &str = "SELECT count(*) FROM (SELECT 1 AS one FROM accounts LIMIT 1) AS some_account";
        let before = self.fact(DIRECTORY).await?;
        if before.as_deref().unwrap_or("own") == directory {
            return Ok(true);
        }
        let accounts: i64 = on!(self.reader(), pool => sqlx::query_scalar(ACCOUNTS).fetch_one(pool).await)?;
        if accounts > 0 {
            return Ok(false);
        }
        self.set_fact(DIRECTORY, directory).await?;
        // A link that was printed before opens nothing any more.
        self.set_fact(SETUP_TOKEN, "").await?;
        Ok(true)
    }
}

impl Tx {
    /// Whether the lease is still that of `node`; nobody else gets it before this transaction ends.
    async fn still_hold(&mut self, node: NodeId, lease: Lease) -> Result<()> {
        const LEASE_POSTGRES: &str = "
            SELECT 1 FROM shards WHERE shard = $1 AND epoch = $2 AND node_id = $3 FOR SHARE";
        match &mut self.0 {
            Backend::Sqlite(_) => self.hold(node, &[lease]).await,
            Backend::Postgres(tx) => {
                let held = sqlx::query(LEASE_POSTGRES)
                    .bind(lease.shard)
                    .bind(lease.epoch)
                    .bind(node)
                    .fetch_optional(&mut **tx)
                    .await?;
                held.map(drop).ok_or(StoreError::LeaseLost)
            }
        }
    }

    /// As [`Store::delete_site`] does. Answers its webhooks.
    async fn forget_site(&mut self, site: &SiteHere, now: Timestamp) -> Result<Vec<(WebhookId, i32)>> {
        const WEBHOOKS: &str = "DELETE FROM webhooks WHERE account_id = $1 AND site_id = $2 RETURNING id";
        const SITE: &str = "DELETE FROM sites WHERE account_id = $1 AND id = $2";
        let shard = shard_of(site.id);
        let webhooks: Vec<WebhookId> = on!(&mut self.0, tx => sqlx::query_scalar(WEBHOOKS)
            .bind(site.account_id).bind(site.id).fetch_all(&mut **tx).await)?;
        for webhook in &webhooks {
            self.forget_deliveries(*webhook, shard, now).await?;
        }
        on!(&mut self.0, tx => sqlx::query(SITE)
            .bind(site.account_id).bind(site.id).execute(&mut **tx).await.map(drop))?;
        Ok(webhooks.into_iter().map(|webhook| (webhook, shard)).collect())
    }

    async fn forget_account(&mut self, id: AccountId) -> Result<()> {
        const SQL: &str = "DELETE FROM accounts WHERE id = $1";
        on!(&mut self.0, tx => sqlx::query(SQL).bind(id).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    async fn forget_goal(&mut self, goal: &Goal) -> Result<()> {
        const SQL: &str = "DELETE FROM goals WHERE site_id = $1 AND id = $2";
        on!(&mut self.0, tx => sqlx::query(SQL)
            .bind(goal.site_id).bind(goal.id).execute(&mut **tx).await.map(drop))?;
        Ok(())
    }

    /// Answers the webhooks of those that were suspended or resumed.
    async fn change_accounts(
        &mut self,
        accounts: &[(AccountHere, bool)],
        now: Timestamp,
    ) -> Result<Vec<(WebhookId, i32)>> {
        // Two may have swapped their names: first nobody has any of them.
        const MAKE_WAY: &str = "UPDATE accounts SET name = '//' || id WHERE id = $1";
        const ACCOUNT: &str = "UPDATE accounts SET external_id = $2, name = $3, status = $4 WHERE id = $1";
        const WEBHOOKS: &str = "SELECT id, site_id FROM webhooks WHERE account_id = $1";
        // What happened meanwhile is not made up for.
        const LIVE: &str = "UPDATE webhooks SET live_since = $2 WHERE account_id = $1";
        for (account, _) in accounts {
            on!(&mut self.0, tx => sqlx::query(MAKE_WAY).bind(account.id).execute(&mut **tx).await.map(drop))?;
        }
        let mut touched = Vec::new();
        for (account, turned) in accounts {
            on!(&mut self.0, tx => sqlx::query(ACCOUNT)
                .bind(account.id)
                .bind(&account.external_id)
                .bind(&account.name)
                .bind(status(account.suspended))
                .execute(&mut **tx)
                .await
                .map(drop))?;
            if !turned {
                continue;
            }
            if !account.suspended {
                on!(&mut self.0, tx => sqlx::query(LIVE)
                    .bind(account.id).bind(now).execute(&mut **tx).await.map(drop))?;
            }
            let webhooks: Vec<(WebhookId, SiteId)> = on!(&mut self.0, tx => sqlx::query_as(WEBHOOKS)
                .bind(account.id).fetch_all(&mut **tx).await)?;
            touched.extend(webhooks.into_iter().map(|(webhook, site)| (webhook, shard_of(site))));
        }
        Ok(touched)
    }

    async fn external_accounts(&mut self) -> Result<HashMap<String, AccountId>> {
        const SQL: &str = "SELECT external_id, id FROM accounts WHERE external_id IS NOT NULL";
        let rows: Vec<(String, AccountId)> = on!(&mut self.0, tx => sqlx::query_as(SQL).fetch_all(&mut **tx).await)?;
        Ok(rows.into_iter().collect())
    }

    async fn insert_account(&mut self, owner: &Owner, now: Timestamp) -> Result<AccountId> {
        const SQL: &str = "
            INSERT INTO accounts (external_id, name, status, inserted_at) VALUES ($1, $2, $3, $4) RETURNING id";
        Ok(on!(&mut self.0, tx => sqlx::query_scalar(SQL)
            .bind(&owner.external_id)
            .bind(&owner.name)
            .bind(status(owner.suspended))
            .bind(now)
            .fetch_one(&mut **tx)
            .await)?)
    }

    async fn change_sites(&mut self, sites: &[SiteHere], now: Timestamp) -> Result<()> {
        // As with names of accounts.
        const MAKE_WAY: &str = "UPDATE sites SET domain = '//' || id WHERE account_id = $1 AND id = $2";
        const SITE: &str = "
            UPDATE sites SET domain = $3, timezone = $4, updated_at = $5 WHERE account_id = $1 AND id = $2";
        for site in sites {
            on!(&mut self.0, tx => sqlx::query(MAKE_WAY)
                .bind(site.account_id).bind(site.id).execute(&mut **tx).await.map(drop))?;
        }
        for site in sites {
            on!(&mut self.0, tx => sqlx::query(SITE)
                .bind(site.account_id)
                .bind(site.id)
                .bind(&site.domain)
                .bind(&site.timezone)
                .bind(now)
                .execute(&mut **tx)
                .await
                .map(drop))?;
        }
        Ok(())
    }

    async fn insert_site(&mut self, account_id: AccountId, site: &SiteThere) -> Result<()> {
        const SITE_SQLITE: &str = "
            INSERT INTO sites (id, account_id, domain, timezone, inserted_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $5)";
        // The id is the other directory's, and never one of the table's own.
        const SITE_POSTGRES: &str = "
            INSERT INTO sites (id, account_id, domain, timezone, inserted_at, updated_at)
            OVERRIDING SYSTEM VALUE
            VALUES ($1, $2, $3, $4, $5, $5)";
        macro_rules! insert {
            ($sql:ident, $tx:ident) => {
                sqlx::query($sql)
                    .bind(site.id)
                    .bind(account_id)
                    .bind(&site.domain)
                    .bind(&site.timezone)
                    .bind(site.inserted_at)
                    .execute(&mut **$tx)
                    .await
                    .map(drop)
            };
        }
        match &mut self.0 {
            Backend::Sqlite(tx) => insert!(SITE_SQLITE, tx)?,
            Backend::Postgres(tx) => insert!(SITE_POSTGRES, tx)?,
        }
        Ok(())
    }

    async fn insert_goal(&mut self, goal: &Goal) -> Result<()> {
        const GOAL_SQLITE: &str = "
            INSERT INTO goals (id, account_id, site_id, event_name, page_path, scroll_threshold, display_name,
                custom_props, currency, inserted_at)
            SELECT $1, account_id, id, $3, $4, $5, $6, $7, $8, $9
            FROM sites
            WHERE id = $2";
        const GOAL_POSTGRES: &str = "
            INSERT INTO goals (id, account_id, site_id, event_name, page_path, scroll_threshold, display_name,
                custom_props, currency, inserted_at)
            OVERRIDING SYSTEM VALUE
            SELECT $1, account_id, id, $3, $4, $5, $6, $7, $8, $9
            FROM sites
            WHERE id = $2";
        let (event_name, page_path, scroll_threshold) = columns_of(&goal.kind);
        let props = props_text(&goal.custom_props);
        macro_rules! insert {
            ($sql:ident, $tx:ident) => {
                sqlx::query($sql)
                    .bind(goal.id)
                    .bind(goal.site_id)
                    .bind(event_name)
                    .bind(page_path)
                    .bind(scroll_threshold)
                    .bind(&goal.display_name)
                    .bind(&props)
                    .bind(&goal.currency)
                    .bind(goal.inserted_at)
                    .execute(&mut **$tx)
                    .await
                    .map(drop)
            };
        }
        match &mut self.0 {
            Backend::Sqlite(tx) => insert!(GOAL_SQLITE, tx)?,
            Backend::Postgres(tx) => insert!(GOAL_POSTGRES, tx)?,
        }
        Ok(())
    }
}

fn status(suspended: bool) -> &'static str {
    if suspended { "suspended" } else { "active" }
}

impl From<AccountRow> for AccountHere {
    fn from(row: AccountRow) -> Self {
        Self { id: row.id, external_id: row.external_id, name: row.name, suspended: row.status != "active" }
    }
}

impl From<SiteRow> for SiteHere {
    fn from(row: SiteRow) -> Self {
        Self { id: row.id, account_id: row.account_id, domain: row.domain, timezone: row.timezone }
    }
}
