//! C: what the product's own HTTPS client reaches on this machine without a database.
//!
//! Client and receiver are one process, whose threads serve both: more than two processes reach, which wake each other, and so
//! the stricter measure of what the product does. What two reach is shown beside it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use rustls::RootCertStore;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::home::Folder;
use super::queue::BODY_BYTES;
use super::report::Figure;
use super::sink::Sink;
use super::{World, between, trackers};
use crate::cli::output;
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
    #[arg(long, default_value_t = 100_000, value_parser = super::at_least_one())]
    count: usize,
}

/// The client as a process of its own: prints how many requests a second it made
#[derive(Debug, clap::Args)]
pub struct Client {
    /// Where to
    #[arg(long)]
    url: String,
    /// Authorities that vouch for it (PEM)
    #[arg(long, value_name = "FILE")]
    authorities: PathBuf,
    /// Requests
    #[arg(long, value_parser = super::at_least_one())]
    count: usize,
}

impl Ceiling {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let about =
            format!("{} requests over kept HTTPS connections, {IN_FLIGHT} under way, nothing recorded", self.count);
        let mut figure = Figure::new("ceiling", None, about);
        for _ in world.runs("ceiling", None) {
            figure.add("requests_per_second", measure(world, self.count).await?);
            figure.add("from_another_process_per_second", from_another_process(world, self.count).await?);
        }
        world.show(&figure);
        Ok(())
    }
}

impl Client {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        let authorities = std::fs::read(&self.authorities)
            .with_context(|| format!("{} cannot be read", self.authorities.display()))?;
        let roots = trusted_roots(Some(&authorities))
            .with_context(|| format!("{} cannot be used", self.authorities.display()))?;
        output::say(&requests(world, &self.url, roots, self.count).await?.to_string());
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

/// C: requests a second, made and received by this process.
async fn measure(world: &World, count: usize) -> anyhow::Result<f64> {
    let sink = Sink::start(&world.clock).await?;
    requests(world, &sink.url(0, 0), trusted_roots(Some(sink.authority_pem.as_bytes()))?, count).await
}

/// Requests a second of a client beside this process.
async fn from_another_process(world: &World, count: usize) -> anyhow::Result<f64> {
    let sink = Sink::start(&world.clock).await?;
    let folder = Folder::new(world)?;
    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, &sink.authority_pem)?;
    let client = Command::new(&world.executable)
        .args(["bench", "client", "--url", &sink.url(0, 0), "--count", &count.to_string(), "--authorities"])
        .arg(authorities)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("the client cannot be started")?;
    anyhow::ensure!(client.status.success(), "the client ended with {}", client.status);
    let answer = String::from_utf8_lossy(&client.stdout);
    answer.trim().parse().with_context(|| format!("the client answered {answer:?}"))
}

/// Requests a second from here. Connections are opened before time begins.
async fn requests(world: &World, url: &str, roots: RootCertStore, count: usize) -> anyhow::Result<f64> {
    let sender = Arc::new(sender(world, roots)?);
    send(world, &sender, url, IN_FLIGHT * 4).await?;
    let seconds = world.timed(send(world, &sender, url, count)).await?;
    Ok(count as f64 / seconds)
}

fn policy() -> anyhow::Result<AddressPolicy> {
    Ok(AddressPolicy { allow: vec!["127.0.0.0/8".parse()?], ..AddressPolicy::default() })
}

fn sender(world: &World, roots: RootCertStore) -> anyhow::Result<Sender> {
    let connector = EgressConnector::new(policy()?, Resolver::system()?, roots, world.clock.clone());
    Ok(Sender::new(connector, world.clock.clone(), IN_FLIGHT))
}

async fn send(world: &World, sender: &Arc<Sender>, url: &str, count: usize) -> anyhow::Result<()> {
    let url = EndpointUrl::parse(url, &policy()?).map_err(|problem| anyhow::anyhow!("{problem}"))?;
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
