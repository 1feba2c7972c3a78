//! What the past costs: the same drain with more and more delivered events and their attempts in the database.
//!
//! The past is written by SQL, not through the product, and looks as the product would have left it: ids that begin with
//! their time, twenty days of them, spread over the webhooks, one successful attempt each.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::Connection as _;

use super::World;
use super::database::Database;
use super::drain::{WEBHOOKS, drain, hooks};
use super::home::Home;
use super::postgres;
use super::queue::{self, BODY_BYTES};
use super::report::{Figure, Kind, Target};
use super::sink::Sink;
use crate::domain::time::Timestamp;

/// Rows one statement writes.
const BATCH: i64 = 100_000;
const DAY: Duration = Duration::from_secs(86_400);
const DAY_MS: i64 = 86_400_000;
/// How far the past reaches back; deliveries are kept for longer.
const DAYS: u32 = 20;

/// Drain rate with 10,000, 1,000,000 and (--big) 10,000,000 past events in the database
#[derive(Debug, clap::Args)]
pub struct History {
    /// Deliveries drained
    #[arg(long, default_value_t = 50_000, value_parser = super::at_least_one())]
    count: usize,
    /// Past events, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
    sizes: Vec<i64>,
    /// 10,000,000 too: 20 GB of disk and many minutes
    #[arg(long)]
    big: bool,
}

impl History {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let mut sizes = self.sizes.clone();
        sizes.extend(self.big.then_some(10_000_000));
        for kind in world.databases() {
            let about = format!("{} deliveries drained with so many in the past; ratio: most ÷ least", self.count);
            let mut figure = Figure::new("history", Some(kind), about);
            for _ in world.runs("history", Some(kind)) {
                let mut rates = Vec::with_capacity(sizes.len());
                for size in &sizes {
                    world.progress(&format!("  {size} past events"));
                    let rate = self.once(world, kind, *size).await?;
                    figure.add(format!("with_{size}_per_second"), rate);
                    rates.push(rate);
                }
                if let (Some(least), Some(most)) = (rates.first(), rates.last()) {
                    figure.add("ratio", most / least);
                }
            }
            figure.target("ratio", Target::AtLeast(0.9));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(&self, world: &World, kind: Kind, size: i64) -> anyhow::Result<f64> {
        let sink = Sink::start(&world.clock).await?;
        let home = Home::new(world, kind).await?;
        let hooks = hooks(world, &home, &sink, WEBHOOKS).await?;
        write_past(world, &home.database, size).await?;
        let filled = queue::fill(world, &home.database, &hooks, self.count).await?;
        let drained = drain(world, &home, &sink, self.count, &filled).await?;
        home.discard().await?;
        Ok(drained.per_second)
    }
}

async fn write_past(world: &World, database: &Database, size: i64) -> anyhow::Result<()> {
    let began = world.clock.now() - DAY * DAYS;
    let past = Past { began, step_ms: i64::from(DAYS - 1) * DAY_MS / size.max(1), size };
    let written = match &database.place {
        None => past.write_sqlite(database).await,
        Some(_) => {
            // The days that the product would have made at their time.
            let store = database.store().await?;
            for days in 0..DAYS {
                store.operator_make_days(began + DAY * days).await?;
            }
            store.close().await;
            past.write_postgres(database).await
        }
    };
    written.context("the past could not be written; have the tables changed?")
}

/// `size` events, one every `step_ms` since `began`.
struct Past {
    began: Timestamp,
    step_ms: i64,
    size: i64,
}

/// One attempt for each event, which worked.
const ATTEMPTS: &str = "
    INSERT INTO attempts (event_id, number, account_id, webhook_id, started_at, duration_ms, outcome, response_code, ended)
    SELECT id, 1, account_id, webhook_id, inserted_at, 12, 'success', 200, 'success'
    FROM events
    ORDER BY id";

// An id is 48 bits of time, version and variant, and the number of the event. $1 and $2 are the first number and the one
// after the last, $3 and $4 the moment of number 0 and the step, both in milliseconds, $5 the size of the body.
impl Past {
    /// Numbers of each batch: the first, and the one after the last.
    fn batches(&self) -> impl Iterator<Item = (i64, i64)> {
        let size = self.size;
        std::iter::successors(Some(0), |from| Some(from + BATCH))
            .take_while(move |from| *from < size)
            .map(move |from| (from, size.min(from + BATCH)))
    }

    async fn write_sqlite(&self, database: &Database) -> anyhow::Result<()> {
        const EVENTS: &str = "
            WITH RECURSIVE
                numbers (n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < $2),
                places AS (
                    SELECT triggers.id, webhook_id, account_id, site_id, row_number() OVER (ORDER BY triggers.id) AS place
                    FROM triggers
                )
            INSERT INTO events (id, account_id, site_id, webhook_id, trigger_id, type, moment, format, payload,
                inserted_at)
            SELECT unhex(printf('%012x7000a%015x', $3 + n * $4, n)), account_id, site_id, webhook_id, places.id,
                'goal_completion', 'past:' || n, 'json', CAST(printf('%*s', $5, '{}') AS BLOB), ($3 + n * $4) * 1000
            FROM numbers
            JOIN places ON places.place = 1 + n % (SELECT count(*) FROM triggers)";
        let mut connection = database.open_file().await?;
        for (from, until) in self.batches() {
            let query = sqlx::query(EVENTS).bind(from).bind(until).bind(self.began.millis()).bind(self.step_ms);
            query.bind(BODY_BYTES as i64).execute(&mut connection).await?;
        }
        sqlx::query(ATTEMPTS).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    async fn write_postgres(&self, database: &Database) -> anyhow::Result<()> {
        const EVENTS: &str = "
            WITH places AS (
                SELECT triggers.id, webhook_id, account_id, site_id, row_number() OVER (ORDER BY triggers.id) AS place
                FROM triggers
            )
            INSERT INTO events (id, account_id, site_id, webhook_id, trigger_id, type, moment, format, payload,
                inserted_at)
            SELECT (lpad(to_hex($3 + n * $4), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::uuid, account_id, site_id,
                webhook_id, places.id, 'goal_completion', 'past:' || n, 'json',
                convert_to(lpad('{}', $5::integer), 'UTF8'), ($3 + n * $4) * 1000
            FROM generate_series($1::bigint, $2::bigint - 1) AS n
            JOIN places ON places.place = 1 + n % (SELECT count(*) FROM triggers)";
        let mut connection = postgres::connect(&database.url).await?;
        for (from, until) in self.batches() {
            let query = sqlx::query(EVENTS).bind(from).bind(until).bind(self.began.millis()).bind(self.step_ms);
            query.bind(BODY_BYTES as i64).execute(&mut connection).await?;
        }
        sqlx::query(ATTEMPTS).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}
