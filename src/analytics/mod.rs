//! Where traffic facts come from: tracked events are understood here, attributed to a visitor, stored, and read again.
//!
//! There are two stores behind [`Analytics`]: a file of our own ([`sqlite`]), whose rows come in an order of arrival, and
//! ClickHouse ([`clickhouse`]), Plausible's or ours, whose rows have neither order nor name. Nothing personal is stored:
//! addresses and user agents go into a daily keyed hash and are forgotten. This room does not know webhooks, accounts or
//! HTTP. Start with [`recorder`].

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::domain::backtest::Heard;
use crate::domain::baseline::WindowCount;
use crate::domain::filter::Filter;
use crate::domain::habit::Quarters;
use crate::domain::hit::Hit;
use crate::domain::ids::SiteId;
use crate::domain::time::Timestamp;

pub mod access_log;
pub mod bots;
pub mod clickhouse;
pub mod event_body;
pub mod recorder;
pub mod sessions;
pub mod sources;
pub mod sqlite;
pub mod user_agent;
pub mod visitor;
pub mod visitors_now;

/// By what visitors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    Source,
    Page,
    /// Its two letters.
    Country,
}

#[derive(Debug, thiserror::Error)]
pub enum AnalyticsError {
    /// More hits come in than can be written.
    #[error("too many events are waiting to be written")]
    Busy,
    #[error("the analytics database is not available: {0}")]
    Unavailable(String),
    /// The same, because too much is asked of it at once.
    #[error("the analytics database is not available: {0}")]
    Crowded(String),
    #[error("{0}")]
    Refused(String),
    /// The database is there, and nothing is in it.
    #[error("{0}")]
    NoTable(String),
}

impl From<sqlx::Error> for AnalyticsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

pub type Result<T, E = AnalyticsError> = std::result::Result<T, E>;

/// How recent the traffic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Of the newest hit of the last day.
    pub newest_at: Option<Timestamp>,
    pub hits_last_hour: u64,
}

/// Hits that are alike, within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike {
    /// Where the window begins.
    pub start: Timestamp,
    pub count: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// What a site had in a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Distinct visitor ids. They change every day: who comes back on another day counts again, as in Plausible.
    pub visitors: u64,
    pub pageviews: u64,
}

/// The width of a window in microseconds, never none.
fn micros(width: Duration) -> i64 {
    i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1)
}

/// Every window of `width` microseconds of the span that begins in it and has ended, with what was counted in it.
fn windows(from: Timestamp, until: Timestamp, width: i64, mut visitors: impl FnMut(i64) -> u64) -> Vec<WindowCount> {
    let slots = from.micros() / width..until.micros().div_euclid(width);
    let window = |slot| WindowCount {
        start: Timestamp::from_micros(slot * width),
        visitors: u32::try_from(visitors(slot)).unwrap_or(u32::MAX),
    };
    slots.map(window).collect()
}

/// A store of hits, as far as both kinds can be asked the same. Cheap to clone.
#[derive(Clone)]
pub enum Analytics {
    Embedded(sqlite::Embedded),
    ClickHouse(clickhouse::ClickHouse),
}

/// Calls the same method of whichever store it is.
macro_rules! either {
    ($analytics:expr, $store:ident => $call:expr) => {
        match $analytics {
            Self::Embedded($store) => $call.await,
            Self::ClickHouse($store) => $call.await,
        }
    };
}

impl Analytics {
    /// Whether what happens is asked for again and again, instead of followed as it is taken in.
    pub fn is_asked(&self) -> bool {
        matches!(self, Self::ClickHouse(_))
    }

    /// Stores hits as they happen. Returns once they are safe.
    ///
    /// # Errors
    /// [`AnalyticsError::Busy`] at once when too many wait already. Nothing was stored then.
    pub async fn record(&self, hits: Vec<Hit>) -> Result<()> {
        either!(self, store => store.record(hits))
    }

    /// Stores history brought from elsewhere: it counts for what is usual and fires nothing.
    pub async fn import(&self, hits: Vec<Hit>) -> Result<()> {
        either!(self, store => store.import(hits))
    }

    /// Distinct visitors of each window of `width` from `from` (aligned) until `until`, windows without any included.
    pub async fn window_counts(
        &self,
        site_id: SiteId,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<WindowCount>> {
        either!(self, store => store.window_counts(site_id, from, until, width))
    }

    /// When each site that was heard of since `since` was last heard of, whatever its visitors did.
    ///
    /// # Errors
    /// There was no answer. It is never to be taken for silence; the same goes for everything below.
    pub async fn last_hits(&self, since: Timestamp) -> Result<HashMap<SiteId, Timestamp>> {
        either!(self, store => store.last_hits(since))
    }

    /// Shows `each` of the sites with what it had in each quarter hour of the span: distinct visitors. Sites nobody visited
    /// may be left out.
    pub async fn quarters(
        &self,
        sites: &[SiteId],
        from: Timestamp,
        until: Timestamp,
        each: impl FnMut(SiteId, &[WindowCount]),
    ) -> Result<()> {
        either!(self, store => store.quarters(sites, from, until, each))
    }

    /// The same of all sites together.
    pub async fn quarters_of_all(&self, from: Timestamp, until: Timestamp) -> Result<Quarters> {
        either!(self, store => store.quarters_of_all(from, until))
    }

    /// Shows `each` what happened on these sites, under these names of each, where the filter lets it through; alike hits of a
    /// window of `width` together, in no order. The hit says no more than what goals ask for. The same one is lent again and again
    /// with other contents.
    pub async fn alike(
        &self,
        asked: &[(SiteId, Vec<&str>)],
        filter: Option<&Filter>,
        span: Range<Timestamp>,
        width: Duration,
        each: impl FnMut(&Hit, Alike),
    ) -> Result<()> {
        either!(self, store => store.alike(asked, filter, span, width, each))
    }

    /// When the site was heard of, whatever its visitors did, in each window of `width` in which it was. In their order.
    pub async fn heard(&self, site_id: SiteId, span: Range<Timestamp>, width: Duration) -> Result<Vec<Heard>> {
        either!(self, store => store.heard(site_id, span, width))
    }

    /// Pageviews of each window of `width` that had any, by its start. In their order.
    pub async fn pageviews(
        &self,
        site_id: SiteId,
        span: Range<Timestamp>,
        width: Duration,
    ) -> Result<Vec<(Timestamp, u64)>> {
        either!(self, store => store.pageviews(site_id, span, width))
    }

    /// How many visitors were seen in each window of `width` for the first time since the last of the moments in `anew`, the
    /// first of which is the beginning. By the start of the window, in their order.
    pub async fn new_visitors(
        &self,
        site_id: SiteId,
        anew: &[Timestamp],
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<(Timestamp, u64)>> {
        either!(self, store => store.new_visitors(site_id, anew, until, width))
    }

    pub async fn totals(&self, site_id: SiteId, from: Timestamp, until: Timestamp) -> Result<Totals> {
        either!(self, store => store.totals(site_id, from, until))
    }

    /// The same of the visits a filter lets through.
    pub async fn window_counts_of(
        &self,
        site_id: SiteId,
        filter: Option<&Filter>,
        from: Timestamp,
        until: Timestamp,
        width: Duration,
    ) -> Result<Vec<WindowCount>> {
        match filter {
            None => self.window_counts(site_id, from, until, width).await,
            Some(filter) => either!(self, store => store.window_counts_of(site_id, filter, from, until, width)),
        }
    }

    /// The names with the most distinct visitors in `from..until` among the visits a filter lets through, ties in the order of
    /// the names. Visits without a source, or of a country that is not known, have an empty name.
    pub async fn top(
        &self,
        site_id: SiteId,
        filter: Option<&Filter>,
        from: Timestamp,
        until: Timestamp,
        dimension: Dimension,
        limit: usize,
    ) -> Result<Vec<(String, u64)>> {
        either!(self, store => store.top(site_id, filter, from, until, dimension, limit))
    }

    pub async fn first_hit_at(&self, site_id: SiteId) -> Result<Option<Timestamp>> {
        either!(self, store => store.first_hit_at(site_id))
    }

    /// The salts of the last days, newest first.
    pub async fn salts(&self) -> Result<Vec<(i64, Vec<u8>)>> {
        either!(self, store => store.salts())
    }

    /// Keeps `salt` for `day` unless there is one, and forgets what is older than the day before.
    pub async fn keep_salt(&self, day: i64, salt: &[u8]) -> Result<()> {
        either!(self, store => store.keep_salt(day, salt))
    }

    /// Forgets a site.
    pub async fn delete_site(&self, site_id: SiteId) -> Result<()> {
        either!(self, store => store.delete_site(site_id))
    }

    /// Forgets what happened before `before`.
    pub async fn prune(&self, before: Timestamp) -> Result<()> {
        either!(self, store => store.prune(before))
    }

    /// How recent the traffic of all sites is.
    pub async fn freshness(&self, now: Timestamp) -> Result<Freshness> {
        either!(self, store => store.freshness(now))
    }

    /// # Errors
    /// The store does not answer.
    pub async fn ping(&self) -> Result<()> {
        either!(self, store => store.ping())
    }

    pub async fn close(&self) {
        either!(self, store => store.close());
    }
}
