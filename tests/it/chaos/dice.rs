//! Chance of a run: every choice follows from its seed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

/// One stream of choices. Whoever chooses has one of their own, so that what others do in between changes nothing.
pub struct Dice(ChaCha20Rng);

/// Who chooses.
#[derive(Debug, Clone, Copy)]
pub enum Chooser {
    Killer,
    Pauser,
    Restarter,
    Cutter,
    Receiver,
    Tester,
    Resender,
    Visitor(u8),
}

impl Dice {
    pub fn new(seed: u64, chooser: Chooser) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        rng.set_stream(match chooser {
            Chooser::Killer => 1,
            Chooser::Pauser => 2,
            Chooser::Restarter => 3,
            Chooser::Cutter => 4,
            Chooser::Receiver => 5,
            Chooser::Tester => 6,
            Chooser::Resender => 7,
            Chooser::Visitor(number) => 100 + u64::from(number),
        });
        Self(rng)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// From `shortest` to `longest`.
    pub fn span(&mut self, (shortest, longest): (Duration, Duration)) -> Duration {
        shortest + (longest - shortest).mul_f64(self.0.random_range(0.0..=1.0))
    }

    pub fn happens(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }
}

#[test]
fn the_seed_fixes_every_choice_and_choosers_do_not_share() {
    let choices = |seed, chooser| {
        let mut dice = Dice::new(seed, chooser);
        (0..20).map(|_| dice.below(1_000)).collect::<Vec<_>>()
    };
    assert_eq!(choices(7, Chooser::Killer), choices(7, Chooser::Killer));
    assert_ne!(choices(7, Chooser::Killer), choices(8, Chooser::Killer));
    assert_ne!(choices(7, Chooser::Visitor(0)), choices(7, Chooser::Visitor(1)));
}
