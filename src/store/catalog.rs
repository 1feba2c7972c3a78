//! Everything that is watched, read in one go: the triggers of live webhooks, and their sites and goals.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use sqlx::FromRow;

use super::goals::GoalRow;
use super::sites::Site;
use super::triggers::TriggerRow;
use super::{Backend, Result, Store, on};
use crate::domain::goal::Goal;
use crate::domain::ids::TriggerId;
use crate::domain::time::Timestamp;
use crate::domain::trigger::Trigger;
use crate::domain::webhook::Format;

#[derive(Debug, Default)]
pub struct Watched {
    pub version: i64,
    pub sites: Vec<Site>,
    pub goals: Vec<Goal>,
    pub triggers: Vec<WatchedTrigger>,
    /// Triggers whose settings are none of ours, and why: a later version wrote them, or somebody by hand. They rest.
    pub unreadable: Vec<(TriggerId, String)>,
}

/// A trigger and the shape its events take.
#[derive(Debug)]
pub struct WatchedTrigger {
    pub trigger: Trigger,
    pub format: Format,
    /// What happened before is none of its business.
    pub since: Timestamp,
}

/// Which triggers somebody works with. Of hundreds of thousands most count completions, and many readers need none of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    All,
    /// Spikes and drops.
    Changes,
    /// What no single hit shows; and all that tells in batches, or has one waiting. A few others may be among them.
    Unseen,
}

#[derive(FromRow)]
struct WatchedRow {
    #[sqlx(flatten)]
    trigger: TriggerRow,
    format: Format,
    live_since: Timestamp,
}

/// What is read of a trigger that may fire.
macro_rules! watched_sql {
    ($select:literal, $which:literal) => {
        concat!(
            $select,
            ", triggers.account_id, triggers.site_id, webhook_id, settings, triggers.version, triggers.inserted_at,
                triggers.updated_at, format, live_since
            FROM triggers
            JOIN webhooks ON webhooks.id = triggers.webhook_id
            JOIN accounts ON accounts.id = triggers.account_id
            WHERE active AND disabled_at IS NULL AND status = 'active' AND ",
            $which,
            " ORDER BY triggers.id"
        )
    };
}

impl Store {
    /// Triggers of paused or disabled webhooks and of suspended accounts are left out, and with them the sites and goals
    /// nobody watches. Those that cannot be read are named to whoever reads all of them.
    pub async fn watched(&self, selection: Selection) -> Result<Watched> {
        const ALL: &str = watched_sql!("SELECT triggers.id", "true");
        const CHANGES: &str = watched_sql!("SELECT triggers.id", "type IN ('visitor_spike', 'visitor_drop')");
        // `_` stands for a quotation mark.
        const UNSEEN: &str = watched_sql!(
            "SELECT triggers.id",
            "(type IN ('goal_stalled', 'milestone', 'no_data', 'error_condition')
                OR settings LIKE '%_batch_:%' OR triggers.id IN (SELECT trigger_id FROM gathered))"
        );
        // Read first: a change in between shows as a newer version, and everything is read again.
        let version = self.catalog_version().await?;
        let sql = match selection {
            Selection::All => ALL,
            Selection::Changes => CHANGES,
            Selection::Unseen => UNSEEN,
        };
        let mut watched = Watched { version, ..Watched::default() };
        // One by one: all of their texts at once would take more memory than what is made of them.
        let mut rows = on!(self.reader(), pool => sqlx::query_as::<_, WatchedRow>(sql).fetch(pool));
        while let Some(WatchedRow { trigger: row, format, live_since }) = rows.try_next().await? {
            let id = row.id;
            match row.parse() {
                Ok(trigger) => {
                    let since = trigger.inserted_at.max(live_since);
                    watched.triggers.push(WatchedTrigger { trigger, format, since });
                }
                // One row that cannot be read is no reason to notice nothing for anybody.
                Err(error) if selection == Selection::All => watched.unreadable.push((id, error.to_string())),
                Err(_) => {}
            }
        }
        drop(rows);
        let sites: BTreeSet<_> = watched.triggers.iter().map(|watched| watched.trigger.site_id.0).collect();
        let sites: Vec<_> = sites.into_iter().collect();
        watched.sites = self.watched_sites(&sites).await?;
        watched.goals = self.watched_goals(&sites).await?;
        Ok(watched)
    }

    async fn watched_sites(&self, ids: &[i64]) -> Result<Vec<Site>> {
        const SQLITE: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE id IN (SELECT value FROM json_each($1))";
        const POSTGRES: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE id = ANY ($1)";
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(match self.reader() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).bind(list(ids)).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).bind(ids).fetch_all(pool).await?,
        })
    }

    async fn watched_goals(&self, of: &[i64]) -> Result<Vec<Goal>> {
        const SQLITE: &str = "
            SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency, inserted_at
            FROM goals
            WHERE site_id IN (SELECT value FROM json_each($1))
            ORDER BY id";
        const POSTGRES: &str = "
            SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency, inserted_at
            FROM goals
            WHERE site_id = ANY ($1)
            ORDER BY id";
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<GoalRow> = match self.reader() {
            Backend::Sqlite(pool) => sqlx::query_as(SQLITE).bind(list(of)).fetch_all(pool).await?,
            Backend::Postgres(pool) => sqlx::query_as(POSTGRES).bind(of).fetch_all(pool).await?,
        };
        Ok(rows.into_iter().map(Goal::from).collect())
    }
}

/// As SQLite takes it.
fn list(ids: &[i64]) -> String {
    serde_json::to_string(ids).expect("numbers serialise")
}
