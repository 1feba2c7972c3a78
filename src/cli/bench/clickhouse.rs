//! The ClickHouse the figures run on: a fresh database in it, and what its driver does without us.

use anyhow::Context as _;
use clickhouse::{Client, Row};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;
use serde_json::Value;

use super::World;
use super::trackers::http;
use crate::analytics::clickhouse::{Address, ClickHouse};
use crate::domain::hit::Hit;

/// A server in which databases may be made.
#[derive(Debug, Clone)]
pub struct Server(String);

/// A database of one figure.
pub struct Database {
    pub url: String,
    pub address: Address,
    client: Client,
}

/// A row as somebody would write it who has the driver and nothing else.
#[derive(Row, Serialize)]
struct Plain<'a> {
    timestamp: u32,
    name: &'a str,
    site_id: u64,
    user_id: u64,
    session_id: u64,
    hostname: &'a str,
    pathname: &'a str,
    referrer: &'a str,
    referrer_source: &'a str,
    screen_size: &'a str,
    operating_system: &'a str,
    browser: &'a str,
    utm_medium: &'a str,
    utm_source: &'a str,
    utm_campaign: &'a str,
    utm_content: &'a str,
    utm_term: &'a str,
    #[serde(rename = "meta.key")]
    keys: Vec<&'a str>,
    #[serde(rename = "meta.value")]
    values: Vec<&'a str>,
    scroll_depth: u8,
    engagement_time: u32,
}

impl Server {
    /// # Errors
    /// The address is not one of ClickHouse.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let base = url.trim_end_matches('/');
        let address: Result<Address, _> = format!("{base}/default").parse();
        address.context("--clickhouse must be an address such as clickhouse://127.0.0.1:8123")?;
        Ok(Self(base.to_owned()))
    }

    /// Makes a database with our tables.
    pub async fn create_database(&self, world: &World) -> anyhow::Result<Database> {
        let name = format!("pulsehook_bench_{}", hex::encode(world.chance.bytes::<6>()));
        let sql = format!("CREATE DATABASE {name}");
        let there = client(&format!("{}/default", self.0).parse()?);
        there.query(&sql).execute().await.context("no database can be made in --clickhouse")?;
        let url = format!("{}/{name}", self.0);
        let address: Address = url.parse()?;
        ClickHouse::make_tables(&address, &world.clock).await?;
        Ok(Database { client: client(&address), url, address })
    }
}

impl Database {
    pub async fn rows(&self) -> anyhow::Result<u64> {
        Ok(self.client.query("SELECT count() FROM events_v2").fetch_one().await?)
    }

    /// Different pages in it.
    pub async fn pages(&self) -> anyhow::Result<u64> {
        Ok(self.client.query("SELECT uniqExact(pathname) FROM events_v2").fetch_one().await?)
    }

    /// The server's host and port.
    pub fn authority(&self) -> &str {
        self.address.url.split_once("//").map_or("", |(_, authority)| authority)
    }

    /// Inserts hits as fast as the driver can: all in one statement, with nothing in between.
    pub async fn insert_alone(&self, hits: &[Hit]) -> anyhow::Result<()> {
        // Without asking for all columns: the others have their defaults.
        let client = self.client.clone().with_validation(false).with_setting("async_insert", "0");
        let mut insert = client.insert::<Plain<'_>>("events_v2").await?;
        for hit in hits {
            insert.write(&Plain::of(hit)).await?;
        }
        Ok(insert.end().await?)
    }

    /// Milliseconds the server has taken so far for the statements of every look, by its own account; `None` where it
    /// keeps none that we know how to read.
    pub async fn own_time_of_looks(&self) -> anyhow::Result<Option<f64>> {
        let address = format!("{}/queries?database={}", self.address.url, self.address.database);
        let answer = http().request(Request::get(address).body(Full::default())?).await?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        let Ok(log) = serde_json::from_slice::<Value>(&answer.into_body().collect().await?.to_bytes()) else {
            return Ok(None);
        };
        let Some(queries) = log["queries"].as_array() else { return Ok(None) };
        let is_look = |query: &&Value| {
            let id = query["query_id"].as_str().unwrap_or_default();
            ["-digests-", "-hits-", "-visitors-"].iter().any(|purpose| id.contains(purpose))
        };
        Ok(Some(queries.iter().filter(is_look).filter_map(|query| query["elapsed_ms"].as_f64()).sum()))
    }

    pub async fn discard(self) -> anyhow::Result<()> {
        let sql = format!("DROP DATABASE {}", self.address.database);
        self.client.query(&sql).execute().await.context("a database could not be dropped")
    }
}

impl<'a> Plain<'a> {
    fn of(hit: &'a Hit) -> Self {
        Self {
            timestamp: u32::try_from(hit.at.secs()).unwrap_or(0),
            name: &hit.name,
            site_id: hit.site_id.0.cast_unsigned(),
            user_id: hit.visitor,
            session_id: hit.session,
            hostname: &hit.page.hostname,
            pathname: &hit.page.pathname,
            referrer: &hit.origin.referrer,
            referrer_source: &hit.origin.source,
            screen_size: &hit.device.screen_size,
            operating_system: &hit.device.operating_system,
            browser: &hit.device.browser,
            utm_medium: &hit.origin.utm_medium,
            utm_source: &hit.origin.utm_source,
            utm_campaign: &hit.origin.utm_campaign,
            utm_content: &hit.origin.utm_content,
            utm_term: &hit.origin.utm_term,
            keys: hit.props.iter().map(|(key, _)| key.as_str()).collect(),
            values: hit.props.iter().map(|(_, value)| value.as_str()).collect(),
            scroll_depth: 0,
            engagement_time: 0,
        }
    }
}

fn client(address: &Address) -> Client {
    let mut client = Client::default().with_url(&address.url).with_database(&address.database);
    if let Some(user) = &address.user {
        client = client.with_user(user);
    }
    if let Some(password) = &address.password {
        client = client.with_password(password);
    }
    client
}
