//! What a ClickHouse looks like: asked once when we connect, because Plausible's tables change with its versions and
//! users differ in what they may set.

use std::collections::HashSet;

use clickhouse::{Client, Row};
use serde::Deserialize;

use super::errors::explain;
use super::tables::MARK;
use crate::analytics::{AnalyticsError, Result};

/// The table hits are in.
pub const EVENTS: &str = "events_v2";

/// Without these nothing can be noticed. They are there since Plausible 2.0.
const NEEDED: [&str; 11] = [
    "timestamp",
    "name",
    "site_id",
    "user_id",
    "session_id",
    "pathname",
    "referrer_source",
    "meta.key",
    "meta.value",
    "hostname",
    "country_code",
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Of the server.
    pub version: String,
    /// Whether engagement says how far a page was scrolled: since Plausible 3.0.
    pub has_scroll_depth: bool,
    pub has_engagement_time: bool,
    /// Whether Pulsehook made the table.
    pub is_ours: bool,
    pub limits: Limits,
}

/// Whether statements may bring limits of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Read-only is something we can ask for.
    AskedFor,
    /// The user is read-only and may set everything else (`readonly = 2`).
    Allowed,
    /// The user may set nothing (`readonly = 1`): its profile has to have the limits.
    TheirsOnly,
}

#[derive(Row, Deserialize)]
struct Column {
    name: String,
}

impl Shape {
    /// What our own tables look like, on a server that has not answered yet.
    pub fn ours() -> Self {
        Self {
            version: "unknown".to_owned(),
            has_scroll_depth: true,
            has_engagement_time: true,
            is_ours: true,
            limits: Limits::AskedFor,
        }
    }

    /// Asks the server.
    ///
    /// # Errors
    /// The server does not answer, or the database has no such table as Plausible makes. The sentence says which.
    pub async fn probe(client: &Client, database: &str) -> Result<Self> {
        const SERVER: &str = "SELECT version(), toString(getSetting('readonly'))";
        const COLUMNS: &str =
            "SELECT name FROM system.columns WHERE database = {database:String} AND table = {table:String}";
        let (version, readonly): (String, String) = client.query(SERVER).fetch_one().await.map_err(explain)?;
        let limits = match readonly.as_str() {
            "0" => Limits::AskedFor,
            "2" => Limits::Allowed,
            _ => Limits::TheirsOnly,
        };
        let columns = client.query(COLUMNS).param("database", database).param("table", EVENTS);
        let columns: Vec<Column> = columns.fetch_all().await.map_err(explain)?;
        let columns: HashSet<_> = columns.into_iter().map(|column| column.name).collect();
        if columns.is_empty() {
            return Err(AnalyticsError::NoTable(format!(
                "the ClickHouse database {database} has no table {EVENTS} that this user may read; is it the one \
                 Plausible keeps its events in (CLICKHOUSE_DATABASE_URL)?"
            )));
        }
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| !columns.contains(*name)).collect();
        if !missing.is_empty() {
            return Err(AnalyticsError::Refused(format!(
                "the table {database}.{EVENTS} has no column {} that this user may read; Plausible 2.0 or later is needed, \
                 and SELECT on the whole table",
                missing.join(", ")
            )));
        }
        const COMMENT: &str =
            "SELECT comment FROM system.tables WHERE database = {database:String} AND name = {table:String}";
        let comment = client.query(COMMENT).param("database", database).param("table", EVENTS);
        let comment: Option<String> = comment.fetch_optional().await.map_err(explain)?;
        Ok(Self {
            is_ours: comment.is_some_and(|comment| comment.starts_with(MARK)),
            version,
            has_scroll_depth: columns.contains("scroll_depth"),
            has_engagement_time: columns.contains("engagement_time"),
            limits,
        })
    }
}
