//! How long deliveries took, from what they say themselves.

use std::time::Duration;

use serde::Deserialize;

use super::World;
use super::sink::{Arrival, Sink};
use crate::domain::time::Timestamp;

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A delivery that arrived, and what its payload says of the time before.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub event_id: String,
    pub at: Timestamp,
    /// When the event was made, just before the transaction that records it began.
    recorded_at: Timestamp,
    /// When the first hit that it counts came in.
    first_hit_at: Option<Timestamp>,
    /// Hits it counts.
    count: u64,
}

#[derive(Deserialize)]
struct Payload {
    event_id: String,
    timestamp: Timestamp,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default = "one")]
    count: u64,
    window_start: Option<Timestamp>,
}

fn one() -> u64 {
    1
}

impl Delivered {
    fn read(arrival: &Arrival) -> anyhow::Result<Self> {
        let payload: Payload = serde_json::from_slice(&arrival.body)?;
        Ok(Self {
            event_id: payload.event_id,
            at: arrival.at,
            recorded_at: payload.timestamp,
            first_hit_at: payload.data.window_start,
            count: payload.data.count,
        })
    }

    /// When the event was made.
    pub fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// From the event's record, its commit included, to the arrival.
    pub fn since_record_ms(&self) -> f64 {
        millis(self.at.since(self.recorded_at))
    }

    /// When the first hit that it counts came in.
    pub fn first_hit_at(&self) -> Option<Timestamp> {
        self.first_hit_at
    }

    /// How many hits it counts.
    pub fn hits(&self) -> u64 {
        self.count
    }

    /// From each hit to the arrival. Hits that share an event are all charged with the wait of the first.
    fn since_hits_ms(&self) -> impl Iterator<Item = f64> {
        let wait = millis(self.at.since(self.first_hit_at.unwrap_or(self.recorded_at)));
        std::iter::repeat_n(wait, usize::try_from(self.count).unwrap_or(usize::MAX))
    }
}

/// From hit to arrival in milliseconds, for every hit.
pub fn hit_to_post_ms(delivered: &[Delivered]) -> Vec<f64> {
    delivered.iter().flat_map(Delivered::since_hits_ms).collect()
}

/// Gathers what arrives until so many hits are accounted for, or nothing has come for `patience`.
pub async fn gather(world: &World, sink: &Sink, hits: usize, patience: Duration) -> anyhow::Result<Vec<Delivered>> {
    let (mut delivered, mut counted) = (Vec::new(), 0);
    let mut last = world.clock.monotonic();
    while counted < hits as u64 && world.clock.monotonic() - last < patience {
        world.clock.sleep(BETWEEN_LOOKS).await;
        for arrival in sink.take() {
            let one = Delivered::read(&arrival)?;
            counted += one.count;
            delivered.push(one);
            last = world.clock.monotonic();
        }
    }
    Ok(delivered)
}

pub fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
