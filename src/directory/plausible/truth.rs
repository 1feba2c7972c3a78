//! Who owns which sites and goals, all of one moment.
//!
//! An account is a team, or, in versions without teams, whoever owns sites. Its id in our tables stays the same when teams
//! come: what was the user's is then the team's that Plausible made for that user.

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::shape::Shape;
use super::{Plausible, Result};
use crate::domain::goal::{Goal, GoalKind};
use crate::domain::ids::{GoalId, SiteId};
use crate::domain::mirror::{Owner, SiteThere, Truth};
use crate::domain::time::Timestamp;

impl Plausible {
    /// Reads all of it. `now` says which day it is: whoever's traffic is taken in until today is suspended today.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn truth(&self, now: Timestamp) -> Result<Truth> {
        let mut tx = self.snapshot().await?;
        let shape = Shape::of(&mut tx).await?;
        let today = now.to_jiff().strftime("%Y-%m-%d").to_string();
        let truth = Truth {
            owners: owners(&mut tx, &shape, &today).await?,
            sites: sites(&mut tx, &shape).await?,
            goals: goals(&mut tx, &shape).await?,
        };
        tx.commit().await?;
        Ok(truth)
    }
}

async fn owners(connection: &mut PgConnection, shape: &Shape, today: &str) -> Result<Vec<Owner>> {
    if shape.has_teams()? { teams(connection, shape, today).await } else { users(connection, shape, today).await }
}

async fn teams(connection: &mut PgConnection, shape: &Shape, today: &str) -> Result<Vec<Owner>> {
    let until = if shape.has("teams", "accept_traffic_until")? { "teams.accept_traffic_until" } else { "NULL::date" };
    let sql = format!(
        "SELECT teams.id, teams.name::text, teams.locked OR coalesce({until} <= ($1::text)::date, false),
            (
                SELECT min(memberships.user_id)
                FROM team_memberships AS memberships
                WHERE memberships.team_id = teams.id AND memberships.role = 'owner' AND memberships.is_autocreated
            )
        FROM teams
        ORDER BY teams.id"
    );
    let rows: Vec<(i64, Option<String>, bool, Option<i64>)> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(today).fetch_all(connection).await?;
    let owner = |(id, name, suspended, user): (i64, Option<String>, bool, Option<i64>)| Owner {
        external_id: team(id),
        formerly: user.map(self::user),
        name: named(name, "Team", id),
        suspended,
    };
    Ok(rows.into_iter().map(owner).collect())
}

/// Billing locks every site of a user at once: one that is locked says it of all.
async fn users(connection: &mut PgConnection, shape: &Shape, today: &str) -> Result<Vec<Owner>> {
    let locked = if shape.has("sites", "locked")? { "sites.locked" } else { "false" };
    let until = if shape.has("users", "accept_traffic_until")? { "users.accept_traffic_until" } else { "NULL::date" };
    let sql = format!(
        "SELECT users.id, users.name::text, bool_or({locked}) OR coalesce(min({until}) <= ($1::text)::date, false)
        FROM users
        JOIN site_memberships AS memberships ON memberships.user_id = users.id AND memberships.role = 'owner'
        JOIN sites ON sites.id = memberships.site_id
        GROUP BY users.id
        ORDER BY users.id"
    );
    let rows: Vec<(i64, Option<String>, bool)> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(today).fetch_all(connection).await?;
    let owner = |(id, name, suspended): (i64, Option<String>, bool)| Owner {
        external_id: user(id),
        formerly: None,
        name: named(name, "User", id),
        suspended,
    };
    Ok(rows.into_iter().map(owner).collect())
}

async fn sites(connection: &mut PgConnection, shape: &Shape) -> Result<Vec<SiteThere>> {
    let has_teams = shape.has_teams()?;
    // A sum over several sites is no site.
    let consolidated = if shape.has("sites", "consolidated")? { "sites.consolidated" } else { "false" };
    let owner = if has_teams {
        "sites.team_id"
    } else {
        "(
            SELECT min(memberships.user_id)
            FROM site_memberships AS memberships
            WHERE memberships.site_id = sites.id AND memberships.role = 'owner'
        )"
    };
    let sql = format!(
        "SELECT sites.id, {owner}, sites.domain::text, sites.timezone::text,
            extract(epoch FROM sites.inserted_at)::bigint
        FROM sites
        WHERE {consolidated} IS NOT TRUE
        ORDER BY sites.id"
    );
    let rows: Vec<(i64, Option<i64>, String, String, i64)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let site = |(id, owner, domain, timezone, inserted_at): (i64, Option<i64>, String, String, i64)| SiteThere {
        id: SiteId(id),
        owner: owner.map(if has_teams { team } else { user }),
        domain,
        timezone,
        inserted_at: Timestamp::from_secs(inserted_at),
    };
    Ok(rows.into_iter().map(site).collect())
}

async fn goals(connection: &mut PgConnection, shape: &Shape) -> Result<Vec<Goal>> {
    let column = |name: &'static str, otherwise: &'static str| -> Result<&'static str> {
        Ok(if shape.has("goals", name)? { name } else { otherwise })
    };
    let sql = format!(
        "SELECT id, site_id, event_name::text, page_path::text, {}::integer, {}::text, {}::text, {}::text,
            extract(epoch FROM inserted_at)::bigint
        FROM goals
        ORDER BY id",
        column("scroll_threshold", "-1")?,
        column("display_name", "NULL")?,
        column("custom_props", "NULL")?,
        column("currency", "NULL")?,
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().filter_map(|row| goal(row).transpose()).collect()
}

/// `None` for one that nothing completes, such as one of no kind, which old versions allowed.
fn goal(row: &sqlx::postgres::PgRow) -> Result<Option<Goal>> {
    let text = |index: usize| -> Result<Option<String>> {
        let text: Option<String> = row.try_get(index)?;
        Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    };
    let threshold: Option<i32> = row.try_get(4)?;
    let kind = match (text(2)?, text(3)?, threshold.and_then(|threshold| u8::try_from(threshold).ok())) {
        (Some(name), _, _) => GoalKind::Event { name },
        // No depth is more than the whole page: it is never reached.
        (None, Some(_), Some(101..)) => return Ok(None),
        (None, Some(path), Some(threshold)) => GoalKind::Scroll { path, threshold },
        (None, Some(path), None) => GoalKind::Page { path },
        (None, None, _) => return Ok(None),
    };
    let display_name = text(5)?.unwrap_or_else(|| match &kind {
        GoalKind::Event { name } => name.clone(),
        GoalKind::Page { path } | GoalKind::Scroll { path, .. } => format!("Visit {path}"),
    });
    let props: Map<String, Value> = match text(6)? {
        Some(text) => serde_json::from_str(&text).unwrap_or_default(),
        None => Map::new(),
    };
    let mut custom_props: Vec<_> = props
        .into_iter()
        .map(|(key, value)| (key, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    custom_props.sort();
    Ok(Some(Goal {
        id: GoalId(row.try_get(0)?),
        site_id: SiteId(row.try_get(1)?),
        display_name,
        kind,
        custom_props,
        currency: text(7)?,
        inserted_at: Timestamp::from_secs(row.try_get(8)?),
    }))
}

/// As a team is called in `accounts.external_id`.
pub fn team(id: i64) -> String {
    format!("team:{id}")
}

/// As a user is called there, in versions without teams.
pub fn user(id: i64) -> String {
    format!("user:{id}")
}

/// Many teams have the same name; with the id no two do.
fn named(name: Option<String>, otherwise: &str, id: i64) -> String {
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    format!("{} ({id})", name.as_deref().unwrap_or(otherwise))
}
