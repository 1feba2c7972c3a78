//! Everything that is watched, read in one go: sites, goals, and the triggers of live webhooks.

use std::collections::HashSet;

use sqlx::FromRow;

use super::goals::GoalRow;
use super::sites::Site;
use super::triggers::TriggerRow;
use super::{Result, Store, on};
use crate::domain::goal::Goal;
use crate::domain::ids::{TriggerId, WebhookId};
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

impl Watched {
    /// Leaves the triggers that are `wanted`, with their sites and all goals of those. What cannot be read is nobody's then.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(&Trigger) -> bool) -> Self {
        self.triggers.retain(|watched| wanted(&watched.trigger));
        let sites: HashSet<_> = self.triggers.iter().map(|watched| watched.trigger.site_id).collect();
        self.sites.retain(|site| sites.contains(&site.id));
        self.goals.retain(|goal| sites.contains(&goal.site_id));
        self.unreadable.clear();
        self
    }
}

impl Store {
    /// Triggers of paused or disabled webhooks and of suspended accounts are left out, and with them the sites and
    /// goals nobody watches.
    pub async fn watched(&self) -> Result<Watched> {
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
        let rows: Vec<TriggerRow> = on!(self.reader(), pool => sqlx::query_as(TRIGGERS).fetch_all(pool).await)?;
        let (mut triggers, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let id = row.id;
            let trigger = match row.parse() {
                Ok(trigger) => trigger,
                // One row that cannot be read is no reason to notice nothing for anybody.
                Err(error) => {
                    unreadable.push((id, error.to_string()));
                    continue;
                }
            };
            if let Some(webhook) = live.get(&trigger.webhook_id) {
                let since = trigger.inserted_at.max(webhook.live_since);
                triggers.push(WatchedTrigger { trigger, format: webhook.format, since });
            }
        }
        let sites = on!(self.reader(), pool => sqlx::query_as(SITES).fetch_all(pool).await)?;
        let goals: Vec<GoalRow> = on!(self.reader(), pool => sqlx::query_as(GOALS).fetch_all(pool).await)?;
        Ok(Watched { version, sites, goals: goals.into_iter().map(Goal::from).collect(), triggers, unreadable })
    }
}
