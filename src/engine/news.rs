//! What was read from ClickHouse in one step: which rows are new, and what they complete.
//!
//! A row is known by a hash of what is in it, and by its second. How many rows like it were reported is remembered
//! ([`View`]); the rows beyond that are news.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::apart::side_by_side;
use super::catalog::{Catalog, CompletionTrigger, WatchedSite};
use super::completions::{Completions, Found};
use crate::analytics::clickhouse::HitRow;
use crate::domain::hit::Hit;
use crate::domain::time::Timestamp;
use crate::store::shards::Lease;

/// Rows that are kept until they are counted.
const COUNTED_AT_ONCE: usize = 8_192;
/// And bytes of their texts: visitors choose some of those.
const TEXT_AT_ONCE: usize = 4 * 1_024 * 1_024;
/// So many of them are counted on two threads: what they are held against lies all over the memory.
const COUNTED_APART: usize = 500;

/// What is known of a shard.
pub struct View {
    pub lease: Lease,
    /// Everything before was looked at.
    pub looked_until: Timestamp,
    pub reported: Reports,
}

/// How many rows like one were reported of its second. There may be millions of them, and the rows of one look are of few
/// seconds: what they are held against lies close together.
#[derive(Debug, Default)]
pub struct Reports(foldhash::HashMap<i64, foldhash::HashMap<i64, i32>>);

/// Rows of a shard like this one, of this second: how many there are.
pub type Counts = foldhash::HashMap<(i32, i64, i64), i32>;

/// What was read in a step, each site's in one of two halves.
pub struct News<'a> {
    known: Known<'a>,
    waiting: Waiting,
    counted: [Counted<'a>; 2],
}

/// Rows that were not counted yet. Their memory is used again with the next look.
#[derive(Default)]
pub struct Waiting {
    halves: [HalfWaiting; 2],
    text_bytes: usize,
}

#[derive(Default)]
struct HalfWaiting {
    /// The first `used` of these, that is.
    hits: Vec<Hit>,
    used: usize,
}

/// What rows are held against.
#[derive(Clone, Copy)]
struct Known<'a> {
    catalog: &'a Catalog,
    views: &'a foldhash::HashMap<i32, View>,
}

#[derive(Default)]
struct Counted<'a> {
    /// Their rows have one name together, the same for the same rows in whatever order they come.
    completions: Completions<'a, u64>,
    counts: Counts,
}

impl Reports {
    pub fn of(&self, secs: i64, identity: i64) -> i32 {
        self.0.get(&secs).and_then(|of_second| of_second.get(&identity)).copied().unwrap_or(0)
    }

    pub fn set(&mut self, secs: i64, identity: i64, count: i32) {
        self.0.entry(secs).or_default().insert(identity, count);
    }

    /// Forgets what was before this second.
    pub fn forget_before(&mut self, secs: i64) {
        self.0.retain(|at, _| *at >= secs);
    }
}

impl<'a> News<'a> {
    pub fn new(catalog: &'a Catalog, views: &'a foldhash::HashMap<i32, View>, waiting: Waiting) -> Self {
        Self { known: Known { catalog, views }, waiting, counted: Default::default() }
    }

    /// Adds a row that was read.
    pub fn take_in(&mut self, row: &HitRow<'_>) {
        self.waiting.add(row);
        if self.waiting.len() >= COUNTED_AT_ONCE || self.waiting.text_bytes >= TEXT_AT_ONCE {
            self.count();
        }
    }

    /// What the rows completed that were not reported, how many there are of each, and memory for the next.
    pub fn into_parts(mut self) -> (Vec<Found<'a, u64>>, Vec<Counts>, Waiting) {
        self.count();
        let (mut found, mut counts) = (Vec::new(), Vec::new());
        for counted in self.counted {
            found.extend(counted.completions.into_vec());
            counts.push(counted.counts);
        }
        (found, counts, self.waiting)
    }

    fn count(&mut self) {
        let [even, odd] = &self.waiting.halves;
        let [of_even, of_odd] = &mut self.counted;
        let known = self.known;
        if self.waiting.len() < COUNTED_APART {
            of_even.add(even.hits(), known);
            of_odd.add(odd.hits(), known);
        } else {
            side_by_side(|| of_even.add(even.hits(), known), || of_odd.add(odd.hits(), known));
        }
        self.waiting.clear();
    }
}

impl Waiting {
    fn len(&self) -> usize {
        self.halves.iter().map(|half| half.used).sum()
    }

    fn add(&mut self, row: &HitRow<'_>) {
        let half = &mut self.halves[usize::from(row.site_id().0 % 2 != 0)];
        if half.used == half.hits.len() {
            half.hits.push(Hit::new(row.site_id(), Timestamp::EPOCH, 0, ""));
        }
        row.write_to(&mut half.hits[half.used]);
        half.used += 1;
        self.text_bytes += row.text_bytes();
    }

    fn clear(&mut self) {
        // What was large is not kept: it may not come again.
        if self.text_bytes >= TEXT_AT_ONCE {
            *self = Self::default();
        }
        for half in &mut self.halves {
            half.used = 0;
        }
        self.text_bytes = 0;
    }
}

impl HalfWaiting {
    fn hits(&self) -> &[Hit] {
        &self.hits[..self.used]
    }
}

impl<'a> Counted<'a> {
    /// Counts hits, and the completions of those of which more like them are there than were reported.
    fn add(&mut self, hits: &[Hit], known: Known<'a>) {
        // Most of them are new and complete something. To grow step by step would move all of it again and again.
        self.counts.reserve(hits.len());
        self.completions.reserve(hits.len());
        for hit in hits {
            let Some(site) = known.catalog.sites.get(&hit.site_id) else { continue };
            let Some(view) = known.views.get(&site.shard) else { continue };
            let identity = identity(hit);
            self.add_as(site, view, hit, identity, |trigger| trigger.filter.is_none());
            if site.has_filters {
                self.add_as(site, view, hit, placed(identity, hit), |trigger| trigger.filter.is_some());
            }
        }
    }

    /// Counts a hit under a name that says everything of it that these triggers ask for.
    fn add_as(
        &mut self,
        site: &'a WatchedSite,
        view: &View,
        hit: &Hit,
        identity: i64,
        among: impl Fn(&CompletionTrigger) -> bool,
    ) {
        let secs = hit.at.secs();
        let key = (site.shard, secs, identity);
        // Most rows were reported with a look before this one, and nobody need be asked who wants them.
        let reported = view.reported.of(secs, identity);
        if reported > 0 {
            let count = self.counts.entry(key).or_insert(0);
            if *count < reported {
                *count += 1;
                return;
            }
        }
        let wanted = site.wanted(hit, Timestamp::floor_to_second, among);
        if wanted.is_empty() {
            return;
        }
        let count = self.counts.entry(key).or_insert(0);
        *count += 1;
        let name = name(secs, identity, *count);
        for wanted in wanted {
            let rows = self.completions.count(wanted, hit, 0);
            *rows = rows.wrapping_add(name);
        }
    }
}

/// What a row is known by, beside its second. It is stored, so it must not change with versions of anything.
fn identity(hit: &Hit) -> i64 {
    let mut hasher = SipHasher13::new();
    let mut text = |text: &str| {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    };
    text(&hit.name);
    text(&hit.page.pathname);
    for (key, value) in &hit.props {
        text(key);
        text(value);
    }
    for number in [hit.site_id.0.cast_unsigned(), hit.visitor, hit.session] {
        hasher.write(&number.to_le_bytes());
    }
    // Only engagement has one; older tables have none, and rows of other kinds must not change their name with an upgrade.
    if let Some(depth) = hit.scroll_depth {
        hasher.write(&[depth]);
    }
    hasher.finish().cast_signed()
}

/// What a row is known by where it matters whence and on which host it was, too. Rows have their own count under this name,
/// so that a filter that comes and goes changes nothing of what is remembered without it.
fn placed(identity: i64, hit: &Hit) -> i64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&identity.to_le_bytes());
    for text in [&hit.page.hostname, &hit.origin.source, &hit.country] {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
    hasher.finish().cast_signed()
}

/// A number for the `count`th row like this.
fn name(secs: i64, identity: i64, count: i32) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&secs.to_le_bytes());
    hasher.write(&identity.to_le_bytes());
    hasher.write(&count.to_le_bytes());
    hasher.finish()
}
