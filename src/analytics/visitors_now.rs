//! How many visitors are on a few sites now, asked again and again by those who watch them.
//!
//! Of our own file only what came in since the last look is read, mostly from memory; a site that is new is counted once.
//! ClickHouse is asked one question for all of them.

use std::collections::HashMap;

use super::clickhouse::Sites;
use super::sqlite::{Embedded, HitSeq};
use super::{Analytics, Result};
use crate::domain::ids::SiteId;
use crate::domain::live::{LiveWindow, SPAN};
use crate::domain::time::Timestamp;

/// Hits read at once.
const BATCH: usize = 5_000;

/// What is known between two looks. All of it can be read again.
#[derive(Default)]
pub struct VisitorsNow {
    live: HashMap<SiteId, LiveWindow>,
    /// The last hit read.
    cursor: HitSeq,
}

impl VisitorsNow {
    /// Distinct visitors of the last five minutes, of each of these sites.
    ///
    /// # Errors
    /// Nobody can tell. It is never to be taken for nobody being there.
    pub async fn look(
        &mut self,
        analytics: &Analytics,
        sites: &[SiteId],
        now: Timestamp,
    ) -> Result<HashMap<SiteId, u32>> {
        if sites.is_empty() {
            *self = Self::default();
            return Ok(HashMap::new());
        }
        match analytics {
            Analytics::Embedded(embedded) => {
                let counted = self.follow(embedded, sites, now).await;
                if counted.is_err() {
                    // What was read in part would be read twice.
                    *self = Self::default();
                }
                counted
            }
            Analytics::ClickHouse(clickhouse) => {
                let seen = clickhouse.visitors(Sites(sites), now).await?;
                Ok(sites.iter().map(|site| (*site, seen.get(site).map_or(0, |seen| seen.current))).collect())
            }
        }
    }

    async fn follow(&mut self, embedded: &Embedded, sites: &[SiteId], now: Timestamp) -> Result<HashMap<SiteId, u32>> {
        self.live.retain(|site, _| sites.contains(site));
        if self.live.is_empty() {
            self.cursor = embedded.last_seq().await?;
        }
        loop {
            let hits = embedded.hits_after(self.cursor, BATCH).await?;
            for (seq, hit) in &hits {
                self.cursor = *seq;
                if hit.counts_as_visit()
                    && let Some(live) = self.live.get_mut(&hit.site_id)
                {
                    live.add(hit.at, hit.visitor);
                }
            }
            if hits.len() < BATCH {
                break;
            }
        }
        for site in sites {
            if !self.live.contains_key(site) {
                let mut live = LiveWindow::default();
                for (at, visitor) in embedded.visits_of(*site, now - SPAN, self.cursor).await? {
                    live.add(at, visitor);
                }
                self.live.insert(*site, live);
            }
        }
        let current = |(site, live): (&SiteId, &mut LiveWindow)| {
            live.advance(now);
            (*site, live.current())
        };
        Ok(self.live.iter_mut().map(current).collect())
    }
}
