//! A million deliveries waiting: how soon the first one leaves after a start, what memory it takes, whether the pace holds, and
//! whether to read a delivery goes on taking as long.

use super::World;
use super::home::{Account, Home, accounts};
use super::queue;
use super::report::{Figure, Kind, Target};
use super::served::{Launch, Served};
use super::sink::Sink;
use super::stage::{Plan, set_up};

/// Accounts the webhooks belong to.
const ACCOUNTS: usize = 10;
const TENTHS: usize = 10;
const HALF: usize = TENTHS / 2;

/// Start to first delivery, peak memory, pace and time to read a delivery with 1,000,000 deliveries pending over 1,000 webhooks
#[derive(Debug, clap::Args)]
pub struct Backlog {
    /// Deliveries in the queue
    #[arg(long, default_value_t = 1_000_000, value_parser = super::at_least_one())]
    count: usize,
    /// Webhooks they are for
    #[arg(long, default_value_t = 1_000, value_parser = super::at_least_one())]
    webhooks: usize,
    /// Of which so many are delivered
    #[arg(long, default_value_t = 100_000, value_parser = super::at_least_one())]
    deliver: usize,
}

/// What became of a tenth of the deliveries.
struct Tenth {
    /// Until they had arrived.
    seconds: f64,
    /// Up to then.
    claimed: Claimed,
}

/// What the server has read of the queue since it started.
struct Claimed {
    deliveries: f64,
    seconds: f64,
}

impl Claimed {
    async fn by(served: &Served) -> anyhow::Result<Self> {
        let metrics = served.metrics().await?;
        let deliveries = metrics.value("pulsehook_claimed_total")?;
        Ok(Self { deliveries, seconds: metrics.value("pulsehook_claim_seconds_sum")? })
    }

    /// What a delivery took that was read between this moment and another; nothing if none was.
    fn micros_until(&self, end: &Self) -> Option<f64> {
        let deliveries = end.deliveries - self.deliveries;
        (deliveries > 0.0).then(|| (end.seconds - self.seconds) * 1e6 / deliveries)
    }
}

impl Backlog {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            let about = format!(
                "{} deliveries pending over {} webhooks of {ACCOUNTS} accounts, the first {} of them delivered",
                self.count, self.webhooks, self.deliver
            );
            let mut figure = Figure::new("backlog", Some(kind), about);
            for _ in world.runs("backlog", Some(kind)) {
                self.once(world, kind, &mut figure).await?;
            }
            figure.target("first_delivery_seconds", Target::AtMost(5.0));
            figure.target("peak_mib", Target::AtMost(256.0));
            figure.target("last_tenth_over_second", Target::AtLeast(0.9));
            figure.target("claim_late_over_early", Target::AtMost(1.1));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(&self, world: &World, kind: Kind, figure: &mut Figure) -> anyhow::Result<()> {
        let sink = Sink::start(&world.clock).await?;
        let launch = Launch { authorities_pem: sink.authority_pem.clone(), unlimited: true, ..Launch::default() };
        let home = Home::new(world, kind).await?;
        let accounts = accounts(world, &home.database, ACCOUNTS).await?;
        let served = home.serve(world, &launch).await?;
        let hooks = set_up(&served, &self.plans(&accounts, &sink)).await?.concat();
        served.stop().await?;
        queue::fill(world, &home.database, &hooks, self.count).await?;

        let began = world.clock.monotonic();
        let served = Served::spawn(world, &home.database.url, home.folder.path(), &launch)?;
        sink.wait_for(1).await?;
        figure.add("first_delivery_seconds", (world.clock.monotonic() - began).as_secs_f64());
        let tenths = self.tenths(world, &sink, &served).await?;
        figure.add("peak_mib", served.peak_resident_mib()?);
        let rate = |seconds: f64| self.deliver as f64 / TENTHS as f64 / seconds;
        let seconds: f64 = tenths.iter().map(|tenth| tenth.seconds).sum();
        figure.add("deliveries_per_second", self.deliver as f64 / seconds);
        // The first has the start in it.
        let (second, last) = (rate(tenths[1].seconds), rate(tenths[TENTHS - 1].seconds));
        figure.add("second_tenth_per_second", second);
        figure.add("last_tenth_per_second", last);
        figure.add("last_tenth_over_second", last / second);
        let claim_us = |from: usize, to: usize| tenths[from].claimed.micros_until(&tenths[to].claimed);
        // Where few are delivered, all of them may have been read by then.
        if let (Some(early), Some(late)) = (claim_us(0, HALF - 1), claim_us(HALF - 1, TENTHS - 1)) {
            figure.add("claim_us_early", early);
            figure.add("claim_us_late", late);
            figure.add("claim_late_over_early", late / early);
        }
        served.stop().await?;
        home.discard().await
    }

    /// Each tenth of what is delivered.
    async fn tenths(&self, world: &World, sink: &Sink, served: &Served) -> anyhow::Result<Vec<Tenth>> {
        let mut tenths = Vec::with_capacity(TENTHS);
        let mut mark = world.clock.monotonic();
        for number in 1..=TENTHS {
            sink.wait_for((self.deliver * number / TENTHS) as u64).await?;
            let now = world.clock.monotonic();
            tenths.push(Tenth { seconds: (now - mark).as_secs_f64(), claimed: Claimed::by(served).await? });
            mark = now;
        }
        Ok(tenths)
    }

    /// A site an account, the webhooks spread over them.
    fn plans(&self, accounts: &[Account], sink: &Sink) -> Vec<Plan> {
        let of = |account: usize| (account..self.webhooks).step_by(ACCOUNTS).map(|index| sink.url(0, index)).collect();
        let plan = |(number, account)| Plan::silent(account, &format!("site-{number}.example"), of(number));
        accounts.iter().enumerate().map(plan).collect()
    }
}
