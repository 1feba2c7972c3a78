//! Our own tables in ClickHouse: made when they are not there, and never mistaken for Plausible's.
//!
//! `events_v2` is Plausible's table of that name, column by column, so that the same questions can be asked of both. That
//! it is ours says its comment. Who wants it on another engine, such as a replicated one, makes it before the first start
//! with the columns here and a comment that begins with `Pulsehook`.

use ::clickhouse::Client;
use tokio::sync::OnceCell;

use super::errors::explain;
use super::shape::EVENTS;
use crate::analytics::{AnalyticsError, Result};

/// Begins the comment of a table of ours.
pub const MARK: &str = "Pulsehook";

/// Batches whose tokens are remembered: a repeated one is stored once as long as not so many came in between, of all nodes
/// together.
const CREATE_EVENTS: &str = "
    CREATE TABLE IF NOT EXISTS events_v2
    (
        timestamp DateTime('UTC') CODEC(Delta(4), LZ4),
        name LowCardinality(String),
        site_id UInt64,
        user_id UInt64,
        session_id UInt64,
        hostname String CODEC(ZSTD(3)),
        pathname String CODEC(ZSTD(3)),
        referrer String CODEC(ZSTD(3)),
        referrer_source String CODEC(ZSTD(3)),
        country_code FixedString(2),
        screen_size LowCardinality(String),
        operating_system LowCardinality(String),
        browser LowCardinality(String),
        utm_medium String CODEC(ZSTD(3)),
        utm_source String CODEC(ZSTD(3)),
        utm_campaign String CODEC(ZSTD(3)),
        `meta.key` Array(String) CODEC(ZSTD(3)),
        `meta.value` Array(String) CODEC(ZSTD(3)),
        browser_version LowCardinality(String),
        operating_system_version LowCardinality(String),
        subdivision1_code LowCardinality(String),
        subdivision2_code LowCardinality(String),
        city_geoname_id UInt32,
        utm_content String CODEC(ZSTD(3)),
        utm_term String CODEC(ZSTD(3)),
        revenue_reporting_amount Nullable(Decimal64(3)),
        revenue_reporting_currency FixedString(3),
        revenue_source_amount Nullable(Decimal64(3)),
        revenue_source_currency FixedString(3),
        channel LowCardinality(String),
        click_id_param LowCardinality(String),
        scroll_depth UInt8,
        -- Plausible computes it with a function of its own; nobody asks us for it.
        acquisition_channel LowCardinality(String) MATERIALIZED '',
        engagement_time UInt32,
        source String ALIAS referrer_source,
        device LowCardinality(String) ALIAS screen_size,
        screen LowCardinality(String) ALIAS screen_size,
        os LowCardinality(String) ALIAS operating_system,
        os_version LowCardinality(String) ALIAS operating_system_version,
        country LowCardinality(FixedString(2)) ALIAS country_code,
        region LowCardinality(String) ALIAS subdivision1_code,
        city UInt32 ALIAS city_geoname_id,
        -- Plausible looks them up in a dictionary we do not have.
        country_name String ALIAS '',
        region_name String ALIAS '',
        city_name String ALIAS ''
    )
    ENGINE = MergeTree
    PARTITION BY toYYYYMM(timestamp)
    PRIMARY KEY (site_id, toDate(timestamp), name, user_id)
    ORDER BY (site_id, toDate(timestamp), name, user_id, timestamp)
    SAMPLE BY user_id
    SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000
    COMMENT 'Pulsehook: tracked events, in the shape of Plausible''s events_v2'";

/// The salts of visitor ids. Several nodes may each have made one for the same day; the smallest is the one.
const CREATE_SALTS: &str = "
    CREATE TABLE IF NOT EXISTS pulsehook_salts
    (
        day Date,
        salt String
    )
    ENGINE = MergeTree
    ORDER BY day
    TTL day + INTERVAL 2 DAY
    COMMENT 'Pulsehook: keys of visitor ids, forgotten after two days'";

/// Makes sure, once, that the tables are there.
pub struct Tables {
    client: Client,
    database: String,
    ready: OnceCell<()>,
}

impl Tables {
    /// `client` may write.
    pub fn new(client: Client, database: &str) -> Self {
        Self { client, database: database.to_owned(), ready: OnceCell::new() }
    }

    /// Makes what is missing, and remembers that it is there.
    ///
    /// # Errors
    /// [`AnalyticsError::Refused`] when there is an `events_v2` that is not ours.
    pub async fn ready(&self) -> Result<()> {
        self.ready.get_or_try_init(|| self.make()).await.copied()
    }

    async fn make(&self) -> Result<()> {
        const COMMENT: &str =
            "SELECT comment FROM system.tables WHERE database = {database:String} AND name = {table:String}";
        let found = |table: &'static str| {
            let query = self.client.query(COMMENT).param("database", self.database.as_str()).param("table", table);
            async move { query.fetch_optional::<String>().await.map_err(explain) }
        };
        match found(EVENTS).await? {
            None => self.client.query(CREATE_EVENTS).execute().await.map_err(explain)?,
            Some(comment) if comment.starts_with(MARK) => {}
            Some(_) => {
                return Err(AnalyticsError::Refused(format!(
                    "the table {}.{EVENTS} was not made by Pulsehook, which writes into no other; if it is Plausible's, set \
                     directory to plausible, else name a database of Pulsehook's own in analytics_url",
                    self.database
                )));
            }
        }
        if found("pulsehook_salts").await?.is_none() {
            self.client.query(CREATE_SALTS).execute().await.map_err(explain)?;
        }
        Ok(())
    }
}
