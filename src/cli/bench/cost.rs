//! What deliveries cost: everything that is read when they begin and when they are over.

use anyhow::Context as _;

use super::postgres::{Meter, Reading};
use super::report::Figure;
use super::served::Served;
use super::{World, usage};

/// What was used until a moment; only differences mean something.
pub struct Moment {
    pub seconds: f64,
    app_cpu: f64,
    own_cpu: f64,
    postgres: Option<Reading>,
}

/// Microseconds of CPU a delivery.
pub struct Cpu {
    app: f64,
    /// Of this process, which plays the endpoint and does little else meanwhile.
    sink: f64,
    /// Of the PostgreSQL server and all its processes.
    postgres: Option<f64>,
}

impl Moment {
    pub async fn now(world: &World, served: &Served, meter: Option<&mut Meter>) -> anyhow::Result<Self> {
        let seconds = world.clock.monotonic().as_secs_f64();
        let app_cpu = served.cpu_seconds()?;
        let own_cpu = usage::cpu_seconds(std::process::id()).context("this process's CPU time cannot be read")?;
        let postgres = match meter {
            Some(meter) => Some(meter.read().await?),
            None => None,
        };
        Ok(Self { seconds, app_cpu, own_cpu, postgres })
    }

    /// `each`: a delivery's share of all that was used.
    pub fn cpu_until(&self, end: &Self, each: f64) -> Cpu {
        let micros = |from: f64, to: f64| (to - from) * 1e6 * each;
        let of_postgres = |moment: &Self| moment.postgres.and_then(|reading| reading.cpu_seconds);
        Cpu {
            app: micros(self.app_cpu, end.app_cpu),
            sink: micros(self.own_cpu, end.own_cpu),
            postgres: of_postgres(self).zip(of_postgres(end)).map(|(from, to)| micros(from, to)),
        }
    }

    /// Bytes of PostgreSQL's log.
    pub fn wal_until(&self, end: &Self, each: f64) -> Option<f64> {
        let (from, to) = self.postgres.zip(end.postgres)?;
        Some((to.wal_bytes - from.wal_bytes) * each)
    }
}

impl Cpu {
    pub fn add_to(&self, figure: &mut Figure) {
        figure.add("app_cpu_us", self.app);
        if let Some(cpu) = self.postgres {
            figure.add("postgres_cpu_us", cpu);
        }
        figure.add("sink_cpu_us", self.sink);
    }
}
