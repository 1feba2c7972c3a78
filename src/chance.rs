//! Where randomness comes from: one seeded generator, passed along, so that a test can repeat a run.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use uuid::Uuid;

use crate::domain::time::Timestamp;

/// The random part of a version 7 UUID that lies behind its variant bits.
const TAIL: u128 = (1 << 62) - 1;

/// A cryptographic generator behind a short lock. Cheap to clone; clones share the sequence.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<State>>);

struct State {
    rng: ChaCha20Rng,
    /// The UUID made last.
    last: u128,
}

impl Chance {
    /// Seeded by the operating system.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for randomness")]
    pub fn from_system() -> Self {
        Self::from_rng(ChaCha20Rng::from_rng(&mut rand::rng()))
    }

    /// The same seed gives the same sequence: for tests and the simulator.
    pub fn seeded(seed: u64) -> Self {
        Self::from_rng(ChaCha20Rng::seed_from_u64(seed))
    }

    fn from_rng(rng: ChaCha20Rng) -> Self {
        Self(Arc::new(Mutex::new(State { rng, last: 0 })))
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.lock().bytes()
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        let bits = u64::from_le_bytes(self.bytes()) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }

    /// A version 7 UUID of `now`: unguessable, and those made here sort in the order they were made, also within a
    /// millisecond (RFC 9562, section 6.2, method 2).
    pub fn uuid_v7(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        let mut state = self.lock();
        let fresh = uuid::Builder::from_unix_timestamp_millis(millis, &state.bytes()).into_uuid().as_u128();
        let step = 1 + u128::from(u32::from_le_bytes(state.bytes()));
        let same_millisecond = fresh >> 80 == state.last >> 80;
        // The tail has room for billions of steps; in the one case in a billion that it has not, order is lost, nothing
        // else.
        let next = if same_millisecond && fresh <= state.last && state.last & TAIL <= TAIL - step {
            state.last + step
        } else {
            fresh
        };
        state.last = next;
        Uuid::from_u128(next)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_sort_in_the_order_they_were_made() {
        let chance = Chance::seeded(7);
        for millis in 0..50 {
            let now = Timestamp::from_micros(millis * 1_000);
            let made: Vec<_> = (0..100).map(|_| chance.uuid_v7(now)).collect();
            assert!(made.is_sorted() && made.iter().all(|uuid| uuid.get_version_num() == 7), "{made:?}");
            assert_eq!(made[99].get_timestamp().unwrap().to_unix().1, u32::try_from(millis).unwrap() * 1_000_000);
        }
    }
}
