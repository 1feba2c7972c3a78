//! What endpoints that hang do to those that do not: 100 healthy endpoints with a trickle of events each, alone, then beside
//! 1,000 endpoints of other accounts that answer, and then beside 1,000 that accept connections and say nothing. The second
//! tells what the other events cost from what the hanging costs. All three begin with connections that stand.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::World;
use super::arrivals::{Delivered, gather, hit_to_post_ms, millis};
use super::hanging::Hanging;
use super::home::{Account, Home, accounts};
use super::report::{Figure, Kind, Target, percentile};
use super::served::{Launch, Served};
use super::sink::Sink;
use super::stage::{Plan, set_up};
use super::trackers::{Tracked, at_a_rate};

/// Seconds between two hits for a healthy endpoint.
const HEALTHY_EVERY: usize = 1;
/// The same for one of the others: sooner than an attempt that gets no answer is over.
const OTHERS_EVERY: usize = 2;
/// The host of the others that answer.
const ANSWERING_IP: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);
/// Seconds in which each healthy endpoint is sent something before anything is measured.
const WARM_UP: usize = 3;
/// What has not arrived by then is charged with it.
const PATIENCE: Duration = Duration::from_secs(20);

/// p99 of healthy endpoints' first attempts while ten times as many endpoints hang, and ÷ without
#[derive(Debug, clap::Args)]
pub struct Isolation {
    /// Accounts with an endpoint that answers
    #[arg(long, default_value_t = 100, value_parser = super::at_least_one())]
    healthy: usize,
    /// Accounts with an endpoint that hangs
    #[arg(long, default_value_t = 1_000, value_parser = super::at_least_one())]
    hanging: usize,
    /// Each part is measured for so long
    #[arg(long, default_value_t = 15, value_parser = super::at_least_one())]
    seconds: usize,
    /// Events go to the others for so long before the healthy ones are measured beside them
    #[arg(long, default_value_t = 5)]
    lead: usize,
}

impl Isolation {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            let about = format!(
                "hit to first attempt of {} endpoints beside {} that hang; ratio: p99 ÷ without them",
                self.healthy, self.hanging
            );
            let mut figure = Figure::new("isolation", Some(kind), about);
            for _ in world.runs("isolation", Some(kind)) {
                self.once(world, kind, &mut figure).await?;
            }
            figure.target("with_p99_ms", Target::AtMost(2_000.0));
            figure.target("ratio", Target::AtMost(1.5));
            world.show(&figure);
        }
        Ok(())
    }

    async fn once(&self, world: &World, kind: Kind, figure: &mut Figure) -> anyhow::Result<()> {
        let sink = Sink::keeping(&world.clock, Ipv4Addr::LOCALHOST).await?;
        let answering = Sink::at(&world.clock, ANSWERING_IP).await?;
        let hanging = Hanging::start().await?;
        let home = Home::new(world, kind).await?;
        let accounts = accounts(world, &home.database, self.healthy + 2 * self.hanging).await?;
        let authorities_pem = format!("{}{}", sink.authority_pem, answering.authority_pem);
        let served = home.serve(world, &Launch { authorities_pem, unlimited: false, ..Launch::default() }).await?;
        let (well, others) = accounts.split_at(self.healthy);
        let (busy, ill) = others.split_at(self.hanging);
        let well = sites(&served, well, "well", |index| sink.url(0, index)).await?;
        let busy = sites(&served, busy, "busy", |index| answering.url(0, index)).await?;
        let ill = sites(&served, ill, "ill", |index| hanging.url(index)).await?;

        // The first to each endpoint waits for its connection.
        self.waits(world, &sink, &served, &well, WARM_UP).await?;
        let without = self.waits(world, &sink, &served, &well, self.seconds).await?;
        let beside_answering = self.waits_beside(world, &sink, &served, &well, &busy).await?;
        let with = self.waits_beside(world, &sink, &served, &well, &ill).await?;
        for (name, waits) in [("without", &without), ("beside_answering", &beside_answering), ("with", &with)] {
            figure.add(format!("{name}_p50_ms"), percentile(&waits.ms, 50));
            figure.add(format!("{name}_p99_ms"), percentile(&waits.ms, 99));
            figure.add(format!("{name}_record_to_post_p99_ms"), percentile(&waits.since_record_ms, 99));
        }
        let with_p99 = percentile(&with.ms, 99);
        figure.add("ratio", with_p99 / percentile(&without.ms, 99));
        figure.add("ratio_to_answering", with_p99 / percentile(&beside_answering.ms, 99));
        figure.add("missing", (without.missing + beside_answering.missing + with.missing) as f64);
        figure.add("hanging_connections", hanging.accepted() as f64);
        figure.add("peak_mib", served.peak_resident_mib()?);
        // It would wait for the attempts that hang.
        served.kill().await?;
        home.discard().await
    }

    /// The waits of the healthy endpoints while the others have events too.
    async fn waits_beside(
        &self,
        world: &World,
        sink: &Sink,
        served: &Served,
        turns: &[Tracked],
        others: &[Tracked],
    ) -> anyhow::Result<Waits> {
        let per_second = others.len() as f64 / OTHERS_EVERY as f64;
        let total = others.len() * (self.lead + self.seconds) / OTHERS_EVERY;
        let waits = async {
            world.clock.sleep(Duration::from_secs(self.lead as u64)).await;
            self.waits(world, sink, served, turns, self.seconds).await
        };
        let (waits, _) = tokio::try_join!(waits, at_a_rate(world, served.address, others, per_second, total))?;
        Ok(waits)
    }

    /// Those of so many seconds.
    async fn waits(
        &self,
        world: &World,
        sink: &Sink,
        served: &Served,
        turns: &[Tracked],
        seconds: usize,
    ) -> anyhow::Result<Waits> {
        let per_second = self.healthy as f64 / HEALTHY_EVERY as f64;
        let hits = self.healthy * seconds / HEALTHY_EVERY;
        let (delivered, _) = tokio::try_join!(
            gather(world, sink, hits, PATIENCE),
            at_a_rate(world, served.address, turns, per_second, hits),
        )?;
        let mut ms = hit_to_post_ms(&delivered);
        let missing = hits.saturating_sub(ms.len());
        ms.extend(std::iter::repeat_n(millis(PATIENCE), missing));
        Ok(Waits { ms, since_record_ms: delivered.iter().map(Delivered::since_record_ms).collect(), missing })
    }
}

struct Waits {
    /// From each hit to its first attempt.
    ms: Vec<f64>,
    /// From each event's record to the same.
    since_record_ms: Vec<f64>,
    /// Hits whose attempt did not come in time.
    missing: usize,
}

/// A site with a webhook for each account; answers the hits that fire them.
async fn sites(
    served: &Served,
    accounts: &[Account],
    name: &str,
    url: impl Fn(usize) -> String,
) -> anyhow::Result<Vec<Tracked>> {
    let domain = |index: usize| format!("{name}-{index}.example");
    let plan = |(index, account)| Plan::with_signups(account, &domain(index), vec![url(index)]);
    let plans: Vec<_> = accounts.iter().enumerate().map(plan).collect();
    set_up(served, &plans).await?;
    Ok((0..accounts.len()).map(|index| Tracked::signup(&domain(index))).collect())
}
