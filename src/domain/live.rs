//! Who is there now: distinct visitors of the last five minutes, of the five before, and of the window that is open, for
//! each watched site, kept in memory and fed hit by hit. A look costs what changed, not what is stored.

use std::collections::{HashMap, HashSet, VecDeque};

use super::baseline::{WINDOW, window_start};
use super::time::Timestamp;

/// How far back hits matter: two windows.
pub const SPAN: std::time::Duration = std::time::Duration::from_secs(2 * WINDOW.as_secs());

/// The last ten minutes of one site.
#[derive(Debug, Default)]
pub struct LiveWindow {
    current: Half,
    previous: Half,
    /// The start of the window that is open, and who was seen in it.
    open: (Timestamp, HashSet<u64>),
}

/// Visits in the order they came, and how often each visitor is among them.
#[derive(Debug, Default)]
struct Half {
    visits: VecDeque<(i64, u64)>,
    times: HashMap<u64, u32>,
}

impl LiveWindow {
    /// Adds a visit. Times are cut to whole seconds, as Plausible cuts them.
    pub fn add(&mut self, at: Timestamp, visitor: u64) {
        let visit = (at.secs(), visitor);
        // A burst of one visitor within a second says nothing new.
        if self.current.visits.back() != Some(&visit) {
            self.current.push(visit);
        }
        self.open_at(window_start(at));
        if self.open.0 == window_start(at) {
            self.open.1.insert(visitor);
        }
    }

    /// Forgets who was seen in the window before, when there is a new one.
    fn open_at(&mut self, start: Timestamp) {
        if start > self.open.0 {
            self.open = (start, HashSet::new());
        }
    }

    /// Forgets what has become too old. A visit counts from its second until five minutes later, that second included.
    pub fn advance(&mut self, now: Timestamp) {
        let window = i64::try_from(WINDOW.as_secs()).unwrap_or(i64::MAX);
        let current_from = now.secs() - window;
        while let Some(visit) = self.current.pop_before(current_from) {
            self.previous.push(visit);
        }
        while self.previous.pop_before(current_from - window).is_some() {}
        self.open_at(window_start(now));
    }

    pub fn current(&self) -> u32 {
        self.current.visitors()
    }

    pub fn previous(&self) -> u32 {
        self.previous.visitors()
    }

    /// In the window that is open, so far.
    pub fn open(&self) -> u32 {
        u32::try_from(self.open.1.len()).unwrap_or(u32::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.current.visits.is_empty() && self.previous.visits.is_empty()
    }
}

impl Half {
    fn push(&mut self, visit: (i64, u64)) {
        *self.times.entry(visit.1).or_default() += 1;
        self.visits.push_back(visit);
    }

    fn pop_before(&mut self, second: i64) -> Option<(i64, u64)> {
        let visit = *self.visits.front().filter(|(at, _)| *at < second)?;
        self.visits.pop_front();
        if let Some(times) = self.times.get_mut(&visit.1) {
            *times -= 1;
            if *times == 0 {
                self.times.remove(&visit.1);
            }
        }
        Some(visit)
    }

    fn visitors(&self) -> u32 {
        u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_visitor_is_current_for_five_minutes_to_the_second() {
        let mut window = LiveWindow::default();
        window.add(Timestamp::from_secs(1_000), 7);
        for (second, expected) in [(1_000, (1, 0)), (1_300, (1, 0)), (1_301, (0, 1)), (1_600, (0, 1)), (1_601, (0, 0))]
        {
            window.advance(Timestamp::from_secs(second));
            assert_eq!((window.current(), window.previous()), expected, "at {second}");
        }
        assert!(window.is_empty());
    }

    proptest! {
        /// The window agrees with counting from scratch.
        #[test]
        fn agrees_with_a_count(mut visits in prop::collection::vec((0i64..1_500, 0u64..20), 0..200)) {
            visits.sort_unstable();
            let mut window = LiveWindow::default();
            for (index, (at, visitor)) in visits.iter().enumerate() {
                window.add(Timestamp::from_secs(*at), *visitor);
                window.advance(Timestamp::from_secs(*at));
                let distinct = |from: i64, to: i64| {
                    let inside = visits[..=index].iter().filter(|(second, _)| (from..to).contains(second));
                    let visitors: HashSet<_> = inside.map(|(_, visitor)| visitor).collect();
                    u32::try_from(visitors.len()).unwrap()
                };
                prop_assert_eq!(window.current(), distinct(at - 300, at + 1));
                prop_assert_eq!(window.previous(), distinct(at - 600, at - 300));
                prop_assert_eq!(window.open(), distinct(at - at.rem_euclid(300), at + 1));
            }
        }
    }
}
