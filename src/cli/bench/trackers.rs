//! Traffic, as trackers send it: as fast as it is answered, or at a steady rate whatever the answers do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinSet;

use super::World;

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";
/// Visitors the traffic comes from.
const VISITORS: usize = 5_000;

pub type Http = Client<HttpConnector, Full<Bytes>>;

/// An event a tracker posts.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// `pageview`, or the name of an event.
    pub name: &'static str,
    pub site: String,
    pub page: String,
}

impl Tracked {
    pub fn pageview(site: &str) -> Self {
        Self { name: "pageview", site: site.to_owned(), page: "/pricing".to_owned() }
    }

    pub fn signup(site: &str) -> Self {
        Self { name: "Signup", ..Self::pageview(site) }
    }
}

pub fn http() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Posts one event.
///
/// # Errors
/// It was not answered 202.
pub async fn track(http: &Http, server: SocketAddr, tracked: &Tracked, visitor: usize) -> anyhow::Result<()> {
    let url = format!("https://{}{}", tracked.site, tracked.page);
    let body = json!({"n": tracked.name, "u": url, "d": tracked.site, "r": "https://news.ycombinator.com/"});
    let visitor = visitor % VISITORS;
    let request = Request::post(format!("http://{server}/api/event"))
        .header("user-agent", BROWSER)
        .header("content-type", "text/plain")
        .header("x-forwarded-for", format!("10.{}.{}.{}", visitor >> 16 & 255, visitor >> 8 & 255, visitor & 255))
        .body(Full::from(body.to_string()))?;
    let response = http.request(request).await?;
    anyhow::ensure!(response.status() == StatusCode::ACCEPTED, "an event was answered {}", response.status());
    response.into_body().collect().await?;
    Ok(())
}

/// Posts an event so many times over so many connections, each as soon as the one before is answered.
pub async fn flood(
    http: &Http,
    server: SocketAddr,
    tracked: &Tracked,
    count: usize,
    connections: usize,
) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (http, next, tracked) = (http.clone(), Arc::clone(&next), tracked.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                track(&http, server, &tracked, number).await?;
            }
        });
    }
    all(tasks).await.map(drop)
}

/// Posts these events in turn at a steady rate, `total` altogether, and says how many milliseconds each answer took.
pub async fn at_a_rate(
    world: &World,
    server: SocketAddr,
    turns: &[Tracked],
    per_second: f64,
    total: usize,
) -> anyhow::Result<Vec<f64>> {
    let http = http();
    let began = world.clock.now();
    let mut tasks = JoinSet::new();
    for (number, tracked) in turns.iter().cycle().take(total).enumerate() {
        world.clock.sleep_until(began + Duration::from_secs_f64(number as f64 / per_second)).await;
        let (http, clock, tracked) = (http.clone(), world.clock.clone(), tracked.clone());
        tasks.spawn(async move {
            let began = clock.monotonic();
            track(&http, server, &tracked, number).await?;
            Ok((clock.monotonic() - began).as_secs_f64() * 1e3)
        });
    }
    all(tasks).await
}

/// The results of all tasks, in the order they ended, or the first failure.
pub async fn all<T: 'static>(mut tasks: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        results.push(done??);
    }
    Ok(results)
}
