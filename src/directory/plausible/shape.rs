//! Which version of Plausible's tables this is: what is there, and what of it may be read.
//!
//! Asked of the catalogue with every look, because an upgrade of Plausible may come between two. The catalogue and not the
//! information schema, which hides what may not be read: a right that is missing must not be taken for an old version.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{PlausibleError, Result};

const TABLES: [&str; 8] =
    ["sites", "goals", "users", "teams", "team_memberships", "site_memberships", "plugins_api_tokens", "api_keys"];

/// Columns by table and name, and whether they may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(HashMap<(String, String), bool>);

impl Shape {
    /// # Errors
    /// What every version has is missing or may not be read.
    pub async fn of(connection: &mut PgConnection) -> Result<Self> {
        const SQL: &str = "
            SELECT class.relname::text, attribute.attname::text,
                has_column_privilege(class.oid, attribute.attnum, 'SELECT')
            FROM pg_class AS class
            JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid
            WHERE class.relname = ANY ($1)
                AND class.relkind IN ('r', 'p', 'v')
                AND pg_table_is_visible(class.oid)
                AND attribute.attnum > 0
                AND NOT attribute.attisdropped";
        let tables: Vec<String> = TABLES.iter().map(|table| (*table).to_owned()).collect();
        let rows: Vec<(String, String, bool)> = sqlx::query_as(SQL).bind(tables).fetch_all(connection).await?;
        let shape = Self(rows.into_iter().map(|(table, column, readable)| ((table, column), readable)).collect());
        shape.need("sites", &["id", "domain", "timezone", "inserted_at"])?;
        shape.need("goals", &["id", "site_id", "event_name", "page_path", "inserted_at"])?;
        if shape.has_teams()? {
            shape.need("sites", &["team_id"])?;
            shape.need("teams", &["id", "name"])?;
            shape.need("team_memberships", &["team_id", "user_id", "role", "is_autocreated"])?;
        } else {
            shape.need("users", &["id", "name"])?;
            shape.need("site_memberships", &["site_id", "user_id", "role"])?;
        }
        shape.has_plugin_tokens()?;
        Ok(shape)
    }

    /// Whether sites belong to teams. Old tables and columns stay when they come, so this is the one thing to ask.
    pub fn has_teams(&self) -> Result<bool> {
        self.has("teams", "locked")
    }

    pub fn has_plugin_tokens(&self) -> Result<bool> {
        let there = self.has("plugins_api_tokens", "token_hash")?;
        if there {
            self.need("plugins_api_tokens", &["id", "site_id"])?;
        }
        Ok(there)
    }

    /// # Errors
    /// API keys are not there or may not be read.
    pub fn has_keys(&self) -> Result<()> {
        self.need("api_keys", &["id", "user_id", "key_hash"])?;
        if self.has_teams()? { self.need("api_keys", &["team_id"]) } else { Ok(()) }
    }

    /// # Errors
    /// The column is there and may not be read.
    pub fn has(&self, table: &str, column: &str) -> Result<bool> {
        match self.0.get(&(table.to_owned(), column.to_owned())) {
            None => Ok(false),
            Some(true) => Ok(true),
            Some(false) => Err(PlausibleError::Unusable(format!(
                "the role of plausible_database_url may not read {table}.{column}; run \
                 deploy/plausible/postgres-reader.sql in Plausible's database, again after every upgrade of Plausible"
            ))),
        }
    }

    fn need(&self, table: &str, columns: &[&str]) -> Result<()> {
        for column in columns {
            if !self.has(table, column)? {
                return Err(PlausibleError::Unusable(format!(
                    "plausible_database_url leads to a database without {table}.{column}: it is not Plausible's, or not \
                     of a version from 2.0 on, or the role may not use its schema"
                )));
            }
        }
        Ok(())
    }
}
