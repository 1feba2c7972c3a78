//! All goals of one site, arranged so that a hit is held against every one of them at once.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use regex::{RegexSet, RegexSetBuilder};

use super::goal::{Goal, GoalKind, pattern};
use super::hit::{ENGAGEMENT, Hit, PAGEVIEW};
use super::ids::GoalId;

/// The goals of one site. Of a million of them each hit needs a few, so what it needs lies close together.
#[derive(Debug, Default)]
pub struct GoalIndex {
    /// In the order of their ids.
    goals: Box<[Goal]>,
    events: ByText,
    /// Apart, since many sites have none.
    paths: Option<Box<Paths>>,
}

#[derive(Debug)]
struct Paths {
    pages: PathIndex,
    scrolls: PathIndex,
}

#[derive(Debug)]
struct PathIndex {
    exact: ByText,
    /// Even an empty set takes tens of kilobytes, and most sites have none.
    patterns: Option<RegexSet>,
    /// The goals those are of.
    by_pattern: Box<[u32]>,
}

/// Goals, as positions, by a hash of their name or path, in its order. Who makes two of his names have one hash makes his own
/// site slower.
#[derive(Debug, Default)]
struct ByText(Box<[(u64, u32)]>);

impl GoalIndex {
    pub fn new(mut goals: Vec<Goal>) -> Self {
        goals.sort_by_key(|goal| goal.id);
        let (mut events, mut pages, mut scrolls) = (Vec::new(), Vec::new(), Vec::new());
        for (position, goal) in (0..).zip(&goals) {
            let of_kind = match &goal.kind {
                GoalKind::Event { .. } => &mut events,
                GoalKind::Page { .. } => &mut pages,
                GoalKind::Scroll { .. } => &mut scrolls,
            };
            of_kind.push((goal.kind.text(), position));
        }
        let has_paths = !pages.is_empty() || !scrolls.is_empty();
        let paths =
            has_paths.then(|| Box::new(Paths { pages: PathIndex::new(&pages), scrolls: PathIndex::new(&scrolls) }));
        let events = ByText::new(events);
        Self { goals: goals.into(), events, paths }
    }

    /// The index of these goals, which is this one where they are still the same: to arrange the patterns of a site takes
    /// up to milliseconds, and most sites are as they were when something somewhere changes.
    pub fn renewed(self, mut goals: Vec<Goal>) -> Self {
        goals.sort_by_key(|goal| goal.id);
        if *self.goals == *goals { self } else { Self::new(goals) }
    }

    /// All of them, in the order of their ids.
    pub fn goals(&self) -> &[Goal] {
        &self.goals
    }

    pub fn goal(&self, id: GoalId) -> Option<&Goal> {
        let position = self.goals.binary_search_by_key(&id, |goal| goal.id).ok()?;
        Some(&self.goals[position])
    }

    /// The goals this hit completes.
    pub fn matches<'a>(&'a self, hit: &Hit) -> impl Iterator<Item = &'a Goal> {
        // A goal may be named like a system event, so its name is always looked for.
        let by_name = self.exactly(&self.events, &hit.name);
        let (paths, depth) = match (&self.paths, hit.name.as_str()) {
            (Some(paths), PAGEVIEW) => (Some(&paths.pages), 0),
            // 255 is how Plausible stores "not reported"; it is never deep enough.
            (Some(paths), ENGAGEMENT) => {
                let depth = hit.scroll_depth.filter(|depth| *depth <= 100);
                (depth.map(|_| &paths.scrolls), depth.unwrap_or(0))
            }
            _ => (None, 0),
        };
        let by_path = paths.into_iter().flat_map(|paths| {
            let path = &hit.page.pathname;
            let like = paths.patterns.iter().flat_map(|patterns| patterns.matches(path));
            let like = like.map(|pattern| &self.goals[paths.by_pattern[pattern] as usize]);
            self.exactly(&paths.exact, path).chain(like)
        });
        let is_deep_enough = move |goal: &&Goal| match goal.kind {
            GoalKind::Scroll { threshold, .. } => threshold <= depth,
            GoalKind::Page { .. } | GoalKind::Event { .. } => true,
        };
        by_name.chain(by_path.filter(is_deep_enough)).filter(|goal| goal.props_hold(hit))
    }

    fn exactly<'a>(&'a self, among: &'a ByText, text: &str) -> impl Iterator<Item = &'a Goal> {
        among.at(text).map(|position| &self.goals[position as usize]).filter(move |goal| goal.kind.text() == text)
    }
}

impl PathIndex {
    fn new(goals: &[(&str, u32)]) -> Self {
        let (like, exact): (Vec<_>, Vec<_>) = goals.iter().copied().partition(|(path, _)| path.contains('*'));
        let patterns: Vec<_> = like.iter().map(|(path, _)| pattern(path)).collect();
        let set = || RegexSetBuilder::new(&patterns).dot_matches_new_line(true).size_limit(256 * 1_024 * 1_024).build();
        // A thousand paths of two thousand characters fit; should they not one day, no path matches.
        let patterns = if patterns.is_empty() { None } else { set().ok() };
        let by_pattern = like.into_iter().map(|(_, position)| position).collect();
        Self { exact: ByText::new(exact), patterns, by_pattern }
    }
}

impl ByText {
    fn new(goals: Vec<(&str, u32)>) -> Self {
        let mut by_hash: Vec<_> = goals.into_iter().map(|(text, position)| (Self::hash(text), position)).collect();
        by_hash.sort_unstable();
        Self(by_hash.into())
    }

    /// The goals that may have this text; others may have its hash.
    fn at(&self, text: &str) -> impl Iterator<Item = u32> {
        let hash = if self.0.is_empty() { 0 } else { Self::hash(text) };
        let first = self.0.partition_point(|(of, _)| *of < hash);
        self.0[first..].iter().take_while(move |(of, _)| *of == hash).map(|(_, position)| *position)
    }

    fn hash(text: &str) -> u64 {
        FixedState::default().hash_one(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hit::Page;
    use super::super::ids::SiteId;
    use super::super::time::Timestamp;
    use super::*;

    fn goal(id: i64, kind: GoalKind) -> Goal {
        Goal {
            id: GoalId(id),
            site_id: SiteId(1),
            display_name: id.to_string(),
            kind,
            custom_props: Vec::new(),
            currency: None,
            inserted_at: Timestamp::EPOCH,
        }
    }

    fn matched(index: &GoalIndex, hit: &Hit) -> Vec<GoalId> {
        index.matches(hit).map(|goal| goal.id).collect()
    }

    fn page(path: &str) -> GoalKind {
        GoalKind::Page { path: path.to_owned() }
    }

    fn hit(name: &str, pathname: &str) -> Hit {
        let page = Page { hostname: "example.com".into(), pathname: pathname.into() };
        Hit { page, ..Hit::new(SiteId(1), Timestamp::EPOCH, 1, name) }
    }

    fn count(goals: &[Goal], hit: &Hit) -> usize {
        GoalIndex::new(goals.to_vec()).matches(hit).count()
    }

    /// The counts of Plausible's own test of path patterns.
    #[test]
    fn paths_match_as_in_plausibles_own_test() {
        #[derive(serde::Deserialize)]
        struct Case {
            paths: Vec<String>,
            visited: Vec<(String, usize)>,
        }
        let case = include_str!("../../tests/fixtures/plausible/page_paths.json");
        let case: Case = serde_json::from_str(case).unwrap();
        for (pattern, expected) in case.visited {
            let goals = [goal(1, page(&pattern))];
            let matched: usize = case.paths.iter().map(|path| count(&goals, &hit(PAGEVIEW, path))).sum();
            assert_eq!(matched, expected, "{pattern}");
        }
    }

    #[test]
    fn stars_and_bars() {
        for (pattern, path, expected) in [
            ("/blog", "/blog", true),
            ("/blog", "/blog/", false),
            ("/blog*", "/blog", true),
            ("/blog*", "/blogger", true),
            ("/blog*", "/blog/a/b", true),
            ("/blog/*", "/blog/", true),
            ("/blog/*", "/blog", false),
            ("/blog/**", "/blog/a/b", true),
            ("/Blog", "/blog", false),
            ("/a.c*", "/abc", false),
            ("/a*", "/a\nb", true),
            ("/a|b", "/a|b", true),
            ("/a|b", "/a", false),
            ("/a|b*", "/blog", true),
            ("/a|b*", "/about", true),
            ("/(x)[y]+?*", "/(x)[y]+?z", true),
        ] {
            assert_eq!(count(&[goal(1, page(pattern))], &hit(PAGEVIEW, path)) == 1, expected, "{pattern} and {path}");
        }
    }

    #[test]
    fn only_the_right_kind_of_hit_counts() {
        let goals = [
            goal(1, GoalKind::Event { name: "Signup".into() }),
            goal(2, page("/")),
            goal(3, GoalKind::Scroll { path: "/".into(), threshold: 50 }),
        ];
        let index = GoalIndex::new(goals.to_vec());
        assert_eq!(index.goal(GoalId(2)), Some(&goals[1]));
        assert_eq!(index.goal(GoalId(4)), None);
        assert_eq!(matched(&index, &hit("Signup", "/")), [GoalId(1)]);
        assert_eq!(matched(&index, &hit("signup", "/")), []);
        assert_eq!(matched(&index, &hit(PAGEVIEW, "/")), [GoalId(2)]);
        for (depth, expected) in [(None, 0), (Some(49), 0), (Some(50), 1), (Some(100), 1), (Some(255), 0)] {
            let engagement = Hit { scroll_depth: depth, ..hit(ENGAGEMENT, "/") };
            assert_eq!(matched(&index, &engagement).len(), expected, "{depth:?}");
        }
    }

    #[test]
    fn goals_of_one_name_are_completed_together() {
        let event = |id, name: &str| goal(id, GoalKind::Event { name: name.into() });
        let index = GoalIndex::new(vec![event(3, " Signup"), event(1, "Signup"), event(2, "Signup "), event(4, "Buy")]);
        assert_eq!(matched(&index, &hit("Signup", "/")), [GoalId(1), GoalId(2), GoalId(3)]);
        assert_eq!(index.goals().iter().map(|goal| goal.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_still_the_same_is_not_arranged_again() {
        let goals = [goal(2, page("/b*")), goal(1, page("/a*"))];
        let index = GoalIndex::new(goals.to_vec());
        let place = index.goals().as_ptr();
        let index = index.renewed(goals.to_vec());
        assert_eq!(index.goals().as_ptr(), place);
        for (changed, expected) in [
            (vec![goal(1, page("/b*")), goal(2, page("/b*"))], 2),
            (vec![goal(1, page("/b*"))], 1),
            (vec![goal(1, page("/a*"))], 0),
            (vec![], 0),
            (goals.to_vec(), 1),
        ] {
            let renewed = GoalIndex::new(goals.to_vec()).renewed(changed.clone());
            assert_eq!(renewed.matches(&hit(PAGEVIEW, "/b1")).count(), expected, "{changed:?}");
        }
    }

    #[test]
    fn every_property_must_hold() {
        let wanting = |pairs: &[(&str, &str)]| {
            let custom_props = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            [Goal { custom_props, ..goal(1, GoalKind::Event { name: "Buy".into() }) }]
        };
        let props = vec![("plan".into(), "pro".into()), ("plan".into(), "free".into()), ("term".into(), "year".into())];
        let bought = Hit { props, ..hit("Buy", "/") };
        assert_eq!(count(&wanting(&[("plan", "pro")]), &bought), 1);
        assert_eq!(count(&wanting(&[("plan", "pro"), ("term", "year")]), &bought), 1);
        assert_eq!(count(&wanting(&[("plan", "free")]), &bought), 0, "the first value counts");
        assert_eq!(count(&wanting(&[("plan", "p*")]), &bought), 0, "no wildcards in values");
        assert_eq!(count(&wanting(&[("coupon", "x")]), &bought), 0);
    }

    proptest! {
        /// Matching against all goals at once is matching against each of them.
        #[test]
        fn the_index_agrees_with_one_goal_at_a_time(
            patterns in prop::collection::vec("/[ab]{0,2}[*]{0,2}/?[ab|]{0,2}[*]?", 0..12),
            thresholds in prop::collection::vec(prop::option::of(0u8..=100), 12),
            path in "/[ab]{0,3}/?[ab]{0,2}",
            depth in prop::option::of(0u8..=255),
            engaged in any::<bool>(),
        ) {
            let goals: Vec<_> = patterns
                .iter()
                .zip(thresholds)
                .enumerate()
                .map(|(id, (path, threshold))| {
                    let path = path.clone();
                    goal(id as i64, match threshold {
                        Some(threshold) => GoalKind::Scroll { path, threshold },
                        None => GoalKind::Page { path },
                    })
                })
                .collect();
            let hit = Hit { scroll_depth: depth, ..hit(if engaged { ENGAGEMENT } else { PAGEVIEW }, &path) };
            let mut matched = matched(&GoalIndex::new(goals.clone()), &hit);
            matched.sort();
            let path_fits = |pattern: &str| if pattern.contains('*') {
                regex::RegexBuilder::new(&super::pattern(pattern)).dot_matches_new_line(true).build().unwrap().is_match(&path)
            } else {
                pattern == path
            };
            let expected: Vec<_> = goals
                .iter()
                .filter(|goal| match &goal.kind {
                    GoalKind::Page { path } => !engaged && path_fits(path),
                    GoalKind::Scroll { path, threshold } => {
                        engaged && path_fits(path) && depth.is_some_and(|depth| (*threshold..=100).contains(&depth))
                    }
                    GoalKind::Event { .. } => false,
                })
                .map(|goal| goal.id)
                .collect();
            prop_assert_eq!(matched, expected);
        }
    }
}
