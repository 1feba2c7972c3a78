//! Everything that is watched, read in one go: sites, goals, and the triggers of live webhooks.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;
use sqlx::FromRow;

use super::goals::GoalRow;
use super::sites::Site;
use super::triggers::TriggerRow;
use super::{Result, Store, on};
use crate::domain::goal::Goal;
use crate::domain::ids::{SiteId, TriggerId, WebhookId};
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

#[derive(FromRow)]
struct LiveRow {
    id: WebhookId,
    format: Format,
    live_since: Timestamp,
}

impl Store {
    /// Triggers of paused or disabled webhooks and of suspended accounts are left out, and with them the sites and
    /// goals nobody watches.
    pub async fn watched(&self) -> Result<Watched> {
        self.read_watched(|_| true).await
    }

    /// The same of the triggers that are `wanted`; what cannot be read is nobody's then. The others are not kept while it
    /// is read.
    pub async fn watched_of(&self, wanted: impl Fn(&Trigger) -> bool) -> Result<Watched> {
        Ok(Watched { unreadable: Vec::new(), ..self.read_watched(wanted).await? })
    }

    async fn read_watched(&self, wanted: impl Fn(&Trigger) -> bool) -> Result<Watched> {
        const LIVE: &str = "
            SELECT webhooks.id, webhooks.format, webhooks.live_since
            FROM webhooks
            JOIN accounts ON accounts.id = webhooks.account_id
            WHERE webhooks.active AND webhooks.disabled_at IS NULL AND accounts.status = 'active'";
        const TRIGGERS: &str = "
            SELECT id, account_id, site_id, webhook_id, settings, version, inserted_at, updated_at
            FROM triggers
            ORDER BY id";
        const SITES: &str = "
            SELECT id, account_id, domain, timezone, inserted_at, updated_at
            FROM sites
            WHERE id IN (SELECT site_id FROM triggers)";
        const GOALS: &str = "
            SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency,
                inserted_at
            FROM goals
            WHERE site_id IN (SELECT site_id FROM triggers)
            ORDER BY id";
        // Read first: a change in between shows as a newer version, and everything is read again.
        let version = self.catalog_version().await?;
        let live: Vec<LiveRow> = on!(self.reader(), pool => sqlx::query_as(LIVE).fetch_all(pool).await)?;
        let live: std::collections::HashMap<_, _> = live.into_iter().map(|row| (row.id, row)).collect();
        let (mut triggers, mut unreadable) = (Vec::new(), Vec::new());
        // One by one: all of their texts at once would take more memory than what is made of them.
        let mut rows = on!(self.reader(), pool => sqlx::query_as::<_, TriggerRow>(TRIGGERS).fetch(pool));
        while let Some(row) = rows.try_next().await? {
            let id = row.id;
            let trigger = match row.parse() {
                Ok(trigger) => trigger,
                // One row that cannot be read is no reason to notice nothing for anybody.
                Err(error) => {
                    unreadable.push((id, error.to_string()));
                    continue;
                }
            };
            if let Some(webhook) = live.get(&trigger.webhook_id).filter(|_| wanted(&trigger)) {
                let since = trigger.inserted_at.max(webhook.live_since);
                triggers.push(WatchedTrigger { trigger, format: webhook.format, since });
            }
        }
        drop(rows);
        let of: HashSet<SiteId> = triggers.iter().map(|watched| watched.trigger.site_id).collect();
        let mut sites: Vec<Site> = on!(self.reader(), pool => sqlx::query_as(SITES).fetch_all(pool).await)?;
        sites.retain(|site| of.contains(&site.id));
        let goals: Vec<GoalRow> = on!(self.reader(), pool => sqlx::query_as(GOALS).fetch_all(pool).await)?;
        let goals = goals.into_iter().filter(|goal| of.contains(&goal.site_id)).map(Goal::from).collect();
        Ok(Watched { version, sites, goals, triggers, unreadable })
    }
}
