//! Many sites with goals, a webhook and triggers, written by SQL: the API would be asked hundreds of thousands of times.

use anyhow::Context as _;
use sqlx::Connection as _;

use super::home::Home;
use super::{World, postgres};
use crate::domain::ids::GoalId;
use crate::domain::trigger::Settings;

/// Stands for a goal in the settings of a trigger: each has a goal of its own.
pub const PLACE: GoalId = GoalId(987_654_321);

/// Who is written.
pub struct Customers {
    pub sites: i64,
    /// Of each site, each with a goal.
    pub triggers: i64,
    pub settings: Settings,
    /// Of every webhook.
    pub url: String,
}

impl Customers {
    /// Answers the number of the first site; the others follow it.
    pub async fn write(&self, world: &World, home: &Home) -> anyhow::Result<i64> {
        let settings = serde_json::to_string(&self.settings)?;
        // Of one that names no goal all of it comes first.
        let place = format!("\"{PLACE}\"");
        let of_trigger = match settings.split_once(&place) {
            Some((before, after)) => format!("'{before}\"' || goals.id || '\"{after}'"),
            None => format!("'{settings}'"),
        };
        let kind = self.settings.type_name();
        let now = world.clock.now();
        let on_postgres = home.database.place.is_some();
        let numbers = |most: i64| match on_postgres {
            true => format!("generate_series(1, {most}) AS numbers (n)"),
            false => format!(
                "(WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {most})
                    SELECT n FROM numbers) AS numbers"
            ),
        };
        let (id, trigger_id) = match on_postgres {
            true => ("lpad(to_hex(sites.id), 32, '0')::uuid", "('f' || lpad(to_hex(goals.id), 31, '0'))::uuid"),
            false => ("unhex(printf('%032x', sites.id))", "unhex('f' || printf('%031x', goals.id))"),
        };
        let (account, micros, url) = (home.account.id, now.micros(), &self.url);
        let statements = [
            format!(
                "INSERT INTO sites (account_id, domain, timezone, inserted_at, updated_at)
                SELECT {account}, 'site-' || n || '.example', 'Etc/UTC', {micros}, {micros} FROM {}",
                numbers(self.sites)
            ),
            format!(
                "INSERT INTO goals (account_id, site_id, event_name, scroll_threshold, display_name, custom_props,
                    inserted_at)
                SELECT account_id, sites.id, 'Goal ' || (n - 1), -1, 'Goal ' || (n - 1), '{{}}', {micros}
                FROM sites CROSS JOIN {}",
                numbers(self.triggers)
            ),
            format!(
                "INSERT INTO webhooks (id, account_id, site_id, name, url, format, active, live_since, version,
                    inserted_at, updated_at)
                SELECT {id}, account_id, sites.id, 'Hook', '{url}', 'json', {active}, {micros}, 1, {micros}, {micros}
                FROM sites",
                active = if on_postgres { "true" } else { "1" },
            ),
            format!(
                "INSERT INTO triggers (id, account_id, site_id, webhook_id, type, settings, version, inserted_at, updated_at)
                SELECT {trigger_id}, sites.account_id, sites.id, {id}, '{kind}', {of_trigger}, 1, {micros}, {micros}
                FROM goals JOIN sites ON sites.id = goals.site_id"
            ),
        ];
        world.progress(&format!("  {} sites, {} triggers", self.sites, self.sites * self.triggers));
        let statements = statements.to_vec();
        execute(home, statements).await?;
        home.database.calm_down().await?;
        const FIRST: &str = "SELECT min(id) FROM sites";
        if on_postgres {
            let mut connection = postgres::connect(&home.database.url).await?;
            let first = sqlx::query_scalar(FIRST).fetch_one(&mut connection).await?;
            connection.close().await?;
            return Ok(first);
        }
        let mut connection = home.database.open_file().await?;
        let first = sqlx::query_scalar(FIRST).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(first)
    }
}

/// Executes statements that are written for the database of the run.
pub async fn execute(home: &Home, statements: Vec<String>) -> anyhow::Result<()> {
    if home.database.place.is_some() {
        let mut connection = postgres::connect(&home.database.url).await?;
        for statement in statements {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        return Ok(connection.close().await?);
    }
    let mut connection = home.database.open_file().await.context("the file of the run cannot be opened")?;
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

pub fn goal_name(number: i64) -> String {
    format!("Goal {number}")
}
