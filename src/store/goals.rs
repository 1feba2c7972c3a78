//! Goals of the `own` directory, in Plausible's shape.

use sqlx::FromRow;

use super::audit::Change;
use super::{Result, Store, on};
use crate::domain::goal::{Goal, GoalKind};
use crate::domain::ids::{AccountId, GoalId, SiteId};
use crate::domain::time::Timestamp;

/// In `goals.scroll_threshold`: the goal is not about scrolling.
const NO_SCROLL: i32 = -1;

/// A goal that does not exist yet.
#[derive(Debug, Clone, PartialEq)]
pub struct GoalDraft {
    pub site_id: SiteId,
    pub display_name: String,
    pub kind: GoalKind,
    pub custom_props: Vec<(String, String)>,
    pub currency: Option<String>,
}

#[derive(FromRow)]
pub(super) struct GoalRow {
    pub id: GoalId,
    pub site_id: SiteId,
    pub event_name: Option<String>,
    pub page_path: Option<String>,
    pub scroll_threshold: i32,
    pub display_name: String,
    pub custom_props: String,
    pub currency: Option<String>,
    pub inserted_at: Timestamp,
}

impl From<GoalRow> for Goal {
    fn from(row: GoalRow) -> Self {
        let kind = match (row.event_name, row.page_path) {
            (Some(name), _) => GoalKind::Event { name },
            (None, path) => {
                let path = path.unwrap_or_default();
                match u8::try_from(row.scroll_threshold) {
                    Ok(threshold) => GoalKind::Scroll { path, threshold },
                    Err(_) => GoalKind::Page { path },
                }
            }
        };
        let props: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&row.custom_props).unwrap_or_default();
        Self {
            id: row.id,
            site_id: row.site_id,
            display_name: row.display_name,
            kind,
            custom_props: props
                .into_iter()
                .map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            currency: row.currency,
            inserted_at: row.inserted_at,
        }
    }
}

/// `event_name`, `page_path` and `scroll_threshold`.
pub(super) fn columns_of(kind: &GoalKind) -> (Option<&str>, Option<&str>, i32) {
    match kind {
        GoalKind::Event { name } => (Some(name), None, NO_SCROLL),
        GoalKind::Page { path } => (None, Some(path), NO_SCROLL),
        GoalKind::Scroll { path, threshold } => (None, Some(path), i32::from(*threshold)),
    }
}

/// `custom_props`. Sorted, so that the same pairs in another order are the same goal.
pub(super) fn props_text(pairs: &[(String, String)]) -> String {
    let mut pairs = pairs.to_vec();
    pairs.sort();
    let props: serde_json::Map<String, serde_json::Value> =
        pairs.into_iter().map(|(key, value)| (key, value.into())).collect();
    serde_json::Value::Object(props).to_string()
}

impl Store {
    /// # Errors
    /// [`super::StoreError::Conflict`] when the site has such a goal, or one of that name.
    pub async fn create_goal(&self, change: &Change, draft: &GoalDraft) -> Result<Goal> {
        const SQL: &str = "
            INSERT INTO goals (account_id, site_id, event_name, page_path, scroll_threshold, display_name,
                custom_props, currency, inserted_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            RETURNING id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency,
                inserted_at";
        let (event_name, page_path, scroll_threshold) = columns_of(&draft.kind);
        let mut tx = self.begin().await?;
        let row: GoalRow = on!(&mut tx.0, tx => sqlx::query_as(SQL)
            .bind(change.account_id)
            .bind(draft.site_id)
            .bind(event_name)
            .bind(page_path)
            .bind(scroll_threshold)
            .bind(&draft.display_name)
            .bind(props_text(&draft.custom_props))
            .bind(&draft.currency)
            .bind(change.now)
            .fetch_one(&mut **tx)
            .await)?;
        tx.audit(change, "goal.create", &row.id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(row.into())
    }

    pub async fn goals(&self, account_id: AccountId, site_id: SiteId) -> Result<Vec<Goal>> {
        const SQL: &str = "
            SELECT id, site_id, event_name, page_path, scroll_threshold, display_name, custom_props, currency,
                inserted_at
            FROM goals
            WHERE account_id = $1 AND site_id = $2
            ORDER BY id";
        let rows: Vec<GoalRow> =
            on!(self.reader(), pool => sqlx::query_as(SQL).bind(account_id).bind(site_id).fetch_all(pool).await)?;
        Ok(rows.into_iter().map(Goal::from).collect())
    }

    /// Whether there was such a goal.
    pub async fn delete_goal(&self, change: &Change, site_id: SiteId, id: GoalId) -> Result<bool> {
        const SQL: &str = "DELETE FROM goals WHERE account_id = $1 AND site_id = $2 AND id = $3";
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx.0, tx => sqlx::query(SQL)
            .bind(change.account_id).bind(site_id).bind(id)
            .execute(&mut **tx).await.map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Ok(false);
        }
        tx.audit(change, "goal.delete", &id.to_string()).await?;
        tx.touch_catalog().await?;
        tx.commit().await?;
        Ok(true)
    }
}
