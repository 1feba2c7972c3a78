//! C: what the product's own HTTPS client reaches on this machine without a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::queue::BODY_BYTES;
use super::report::Figure;
use super::sink::Sink;
use super::{World, between, trackers};
use crate::domain::address::AddressPolicy;
use crate::domain::endpoint_url::EndpointUrl;
use crate::domain::ids::EventId;
use crate::domain::signature::SigningSecret;
use crate::engine::egress::{EgressConnector, Resolver, trusted_roots};
use crate::engine::sender::{Address, Outgoing, Sender};

/// Requests under way at once.
const IN_FLIGHT: usize = 64;

/// C: requests a second of the product's own HTTPS client, 64 under way, 600 bytes each, signed, nothing recorded
#[derive(Debug, clap::Args)]
pub struct Ceiling {
    /// Requests
    #[arg(long, default_value_t = 100_000)]
    count: usize,
}

impl Ceiling {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let about =
            format!("{} requests over kept HTTPS connections, {IN_FLIGHT} under way, nothing recorded", self.count);
        let mut figure = Figure::new("ceiling", None, about);
        for _ in world.runs("ceiling", None) {
            figure.add("requests_per_second", measure(world, self.count).await?);
        }
        world.show(&figure);
        Ok(())
    }
}

/// What `measured` answers, and C as it was [around it](between).
pub async fn around<T>(
    world: &World,
    count: usize,
    measured: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, f64)> {
    between(async || Box::pin(measure(world, count)).await, Box::pin(measured)).await
}

/// Requests a second. Connections are opened before time begins.
async fn measure(world: &World, count: usize) -> anyhow::Result<f64> {
    let sink = Sink::start(&world.clock).await?;
    let sender = Arc::new(sender(world, &sink)?);
    send(world, &sender, &sink, IN_FLIGHT * 4).await?;
    let seconds = world.timed(send(world, &sender, &sink, count)).await?;
    Ok(count as f64 / seconds)
}

fn policy() -> anyhow::Result<AddressPolicy> {
    Ok(AddressPolicy { allow: vec!["127.0.0.0/8".parse()?], ..AddressPolicy::default() })
}

fn sender(world: &World, sink: &Sink) -> anyhow::Result<Sender> {
    let roots = trusted_roots(Some(sink.authority_pem.as_bytes()))?;
    let connector = EgressConnector::new(policy()?, Resolver::system()?, roots, world.clock.clone());
    Ok(Sender::new(connector, world.clock.clone(), IN_FLIGHT))
}

async fn send(world: &World, sender: &Arc<Sender>, sink: &Sink, count: usize) -> anyhow::Result<()> {
    let url = EndpointUrl::parse(&sink.url(0, 0), &policy()?).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let address = Arc::new(Address::new(Ok(url), &[]));
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (sender, clock, next) = (Arc::clone(sender), world.clock.clone(), Arc::clone(&next));
        let (address, secret) = (Arc::clone(&address), SigningSecret::generate(world.chance.bytes()));
        let event_id = EventId(world.chance.uuid_v7(world.clock.now()));
        let body = Bytes::from(vec![b'x'; BODY_BYTES]);
        tasks.spawn(async move {
            let outgoing = Outgoing {
                address: &address,
                secret: Some(&secret),
                previous_secret: None,
                event_id,
                event_type: "goal_completion",
                content_type: "application/json",
                body: &body,
            };
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let outcome = sender.attempt(&outgoing, clock.now()).await.outcome;
                anyhow::ensure!(outcome.is_success(), "a request failed: {outcome:?}");
            }
            Ok(())
        });
    }
    trackers::all(tasks).await.map(drop)
}
