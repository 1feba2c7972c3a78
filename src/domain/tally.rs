//! What completions of a goal, or occurrences of a custom event, add up to: counted hit by hit, and told in an event or kept
//! until their batch is told.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::{PropertyValue, TopPage, TopSource};
use super::time::Timestamp;

/// Completions of one goal, or occurrences of one custom event, within one step.
#[derive(Debug)]
pub struct Tally {
    pub count: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub pages: Ranking,
    pub sources: Ranking,
    /// How often each value of the properties somebody wants to know of occurred.
    properties: BTreeMap<String, HashMap<String, u64>>,
}

impl Tally {
    /// Values of a property that are counted; what visitors make up beyond that is left out.
    const VALUES_COUNTED: usize = 1_000;

    /// Nothing yet, from `at` on.
    pub fn new(at: Timestamp) -> Self {
        Self {
            count: 0,
            first_at: at,
            last_at: at,
            pages: Ranking::default(),
            sources: Ranking::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Counts a value of a property.
    pub fn add_property(&mut self, name: &str, value: &str) {
        let values = self.properties.entry(name.to_owned()).or_default();
        if let Some(count) = values.get_mut(value) {
            *count += 1;
        } else if values.len() < Self::VALUES_COUNTED {
            values.insert(value.to_owned(), 1);
        }
    }

    /// What is told of it, with so many names of each kind at most. Who the visitors were is no part of it.
    pub fn counted(self, names: usize) -> Counted {
        let values = |values| Named::most(values, names.max(Counted::VALUES_TOLD));
        Counted {
            count: self.count,
            first_at: self.first_at,
            last_at: self.last_at,
            pages: self.pages.top(names),
            sources: self.sources.top(names),
            properties: self.properties.into_iter().map(|(name, of)| (name, values(of))).collect(),
        }
    }
}

/// Completions, or occurrences, as they are told; and as they are kept until then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    pub count: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Visitors of each page. Of what was counted at several times they are added up.
    pages: Named,
    sources: Named,
    properties: BTreeMap<String, Named>,
}

impl Counted {
    /// Values of a property that a payload lists.
    const VALUES_TOLD: usize = 10;
    /// Names of each kind that are kept until they are told.
    pub const KEPT: usize = 100;

    /// All of them together; `None` when there are none.
    pub fn together(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next()?;
        let mut pages = whole.pages.to_add_to();
        let mut sources = whole.sources.to_add_to();
        let mut properties: BTreeMap<_, _> =
            std::mem::take(&mut whole.properties).into_iter().map(|(name, of)| (name, of.to_add_to())).collect();
        for part in parts {
            whole.count += part.count;
            whole.first_at = whole.first_at.min(part.first_at);
            whole.last_at = whole.last_at.max(part.last_at);
            part.pages.add_to(&mut pages);
            part.sources.add_to(&mut sources);
            for (name, values) in part.properties {
                values.add_to(properties.entry(name).or_default());
            }
        }
        let most = |names| Named::most(names, Self::KEPT);
        whole.pages = most(pages);
        whole.sources = most(sources);
        whole.properties = properties.into_iter().map(|(name, of)| (name, most(of))).collect();
        Some(whole)
    }

    /// The pages with the most visitors, which are told; they are gone from it afterwards.
    pub fn take_top_pages(&mut self) -> Vec<TopPage> {
        self.pages.take(Ranking::LISTED).map(|(page, visitors)| TopPage { page, visitors }).collect()
    }

    /// The sources likewise.
    pub fn take_top_sources(&mut self) -> Vec<TopSource> {
        self.sources.take(Ranking::LISTED).map(|(source, visitors)| TopSource { source, visitors }).collect()
    }

    /// The values of a property that occurred most often likewise.
    pub fn take_top_values(&mut self, property: &str) -> Vec<PropertyValue> {
        let Some(values) = self.properties.get_mut(property) else { return Vec::new() };
        values.take(Self::VALUES_TOLD).map(|(value, count)| PropertyValue { value, count }).collect()
    }
}

/// Names and how many each has, most first, then by name.
#[derive(Debug, Clone, PartialEq, Default)]
struct Named(Vec<(String, u64)>);

impl Named {
    fn most(names: impl IntoIterator<Item = (String, u64)>, limit: usize) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        names.truncate(limit);
        Self(names)
    }

    /// The first, which are gone from it afterwards.
    fn take(&mut self, limit: usize) -> impl Iterator<Item = (String, u64)> {
        std::mem::take(&mut self.0).into_iter().take(limit)
    }

    fn to_add_to(&self) -> HashMap<String, u64> {
        self.0.iter().cloned().collect()
    }

    fn add_to(self, whole: &mut HashMap<String, u64>) {
        for (name, count) in self.0 {
            *whole.entry(name).or_default() += count;
        }
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, count)| (name, count)))
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = HashMap::<String, u64>::deserialize(deserializer)?;
        Ok(Self::most(names, usize::MAX))
    }
}

/// How many distinct visitors each name had.
#[derive(Debug, Default)]
pub struct Ranking {
    /// Name and visitor, each pair once, until there are many: most events tell of one visitor.
    few: Vec<(String, u64)>,
    many: Option<Box<Many>>,
}

/// The same for any number of them.
#[derive(Debug, Default)]
struct Many {
    /// By name, which of the names it is, and how many visitors it had.
    names: HashMap<String, (usize, u64)>,
    /// Of which name, and who. Visitors are hashes, and nobody chooses theirs.
    seen: foldhash::HashSet<(usize, u64)>,
}

impl Ranking {
    /// Names listed in a payload.
    pub const LISTED: usize = 3;
    /// Pairs that are looked through one by one.
    const FEW: usize = 8;

    /// An empty name ("Direct / None") is not ranked.
    pub fn add(&mut self, name: &str, visitor: u64) {
        if name.is_empty() {
            return;
        }
        if let Some(many) = &mut self.many {
            many.add(name, visitor);
        } else if !self.few.iter().any(|(known, who)| *who == visitor && known == name) {
            if self.few.len() < Self::FEW {
                self.few.reserve_exact(1);
                self.few.push((name.to_owned(), visitor));
            } else {
                let mut many = self.take_many();
                many.add(name, visitor);
                self.many = Some(many);
            }
        }
    }

    fn top(mut self, limit: usize) -> Named {
        if let [(_, visitor)] = &mut self.few[..] {
            *visitor = 1;
            return Named(self.few);
        }
        let many = self.take_many();
        Named::most(many.names.into_iter().map(|(name, (_, visitors))| (name, visitors)), limit)
    }

    fn take_many(&mut self) -> Box<Many> {
        let mut many = self.many.take().unwrap_or_default();
        for (name, visitor) in std::mem::take(&mut self.few) {
            many.add(&name, visitor);
        }
        many
    }
}

impl Many {
    fn add(&mut self, name: &str, visitor: u64) {
        if let Some((position, visitors)) = self.names.get_mut(name) {
            *visitors += u64::from(self.seen.insert((*position, visitor)));
        } else {
            let position = self.names.len();
            self.seen.insert((position, visitor));
            self.names.insert(name.to_owned(), (position, 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(rows: &[(&str, u64)]) -> Named {
        Named(rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect())
    }

    #[test]
    fn parts_of_a_batch_are_told_together() {
        let part = |count, at, page: &str| Counted {
            count,
            first_at: Timestamp::from_secs(at),
            last_at: Timestamp::from_secs(at + 5),
            pages: named(&[(page, count)]),
            sources: Named::default(),
            properties: [("plan".to_owned(), named(&[("pro", count)]))].into(),
        };
        let mut whole = Counted::together([part(2, 100, "/a"), part(3, 50, "/b"), part(4, 70, "/a")]).unwrap();
        assert_eq!((whole.count, whole.first_at.secs(), whole.last_at.secs()), (9, 50, 105));
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Counted>(&text).unwrap(), whole);
        assert_eq!(whole.take_top_pages()[0], TopPage { page: "/a".to_owned(), visitors: 6 });
        assert_eq!(whole.take_top_values("plan"), [PropertyValue { value: "pro".to_owned(), count: 9 }]);
        assert_eq!(whole.take_top_values("colour"), []);
        assert_eq!(Counted::together([]), None);
    }

    #[test]
    fn what_was_kept_in_the_order_of_names_is_ranked_when_it_is_read() {
        let kept = r#"{"count":3,"first_at":"2026-02-25T10:00:00Z","last_at":"2026-02-25T10:00:00Z",
            "pages":{"/a":1,"/b":2},"sources":{},"properties":{}}"#;
        let mut counted: Counted = serde_json::from_str(kept).unwrap();
        assert_eq!(counted.take_top_pages()[0], TopPage { page: "/b".to_owned(), visitors: 2 });
    }

    proptest! {
        /// However hits mix, each name has as many visitors as it had, the most first.
        #[test]
        fn visitors_are_counted_once_a_name(hits in prop::collection::vec(("[a-d]?", 0u64..6), 0..60)) {
            let mut ranking = Ranking::default();
            let mut model: BTreeMap<&str, std::collections::BTreeSet<u64>> = BTreeMap::new();
            for (name, visitor) in &hits {
                ranking.add(name, *visitor);
                if !name.is_empty() {
                    model.entry(name).or_default().insert(*visitor);
                }
            }
            let mut expected: Vec<_> = model.iter().map(|(name, of)| ((*name).to_owned(), of.len() as u64)).collect();
            expected.sort_by_key(|(name, visitors)| (std::cmp::Reverse(*visitors), name.clone()));
            expected.truncate(Ranking::LISTED);
            prop_assert_eq!(ranking.top(Ranking::LISTED), Named(expected));
        }
    }
}
