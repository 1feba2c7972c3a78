//! An endpoint that costs as little as can be: it reads requests, counts them, and says 200.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::cli::receive::made_up_certificate;
use crate::clock::Clock;
use crate::domain::time::Timestamp;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LENGTH: &[u8] = b"\r\ncontent-length: ";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// The request line begins like this; the number of the group follows.
const GROUP_AT: usize = "POST /".len();
/// Nothing arriving for so long means that nothing will.
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTPS endpoint of this machine. It ends with the process.
pub struct Sink {
    address: SocketAddr,
    pub authority_pem: String,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    /// Requests by the first number in their path.
    groups: Vec<Counter>,
    /// What arrived, where it is kept.
    kept: Option<Mutex<Vec<Arrival>>>,
}

/// Counts, and wakes one who waits for a count. Counting is an addition and a comparison.
#[derive(Default)]
struct Counter {
    arrived: AtomicU64,
    wanted: AtomicU64,
    reached: Notify,
}

/// A request that arrived.
#[derive(Debug)]
pub struct Arrival {
    pub at: Timestamp,
    pub body: Vec<u8>,
}

impl Sink {
    /// Counts all requests together.
    pub async fn start(clock: &Clock) -> anyhow::Result<Self> {
        Self::build(clock, Ipv4Addr::LOCALHOST, 1, false).await
    }

    /// The same on another address of this machine.
    pub async fn at(clock: &Clock, ip: Ipv4Addr) -> anyhow::Result<Self> {
        Self::build(clock, ip, 1, false).await
    }

    /// Counts so many groups of requests apart.
    pub async fn with_groups(clock: &Clock, groups: usize) -> anyhow::Result<Self> {
        Self::build(clock, Ipv4Addr::LOCALHOST, groups, false).await
    }

    /// Keeps bodies and moments until they are taken. `ip` is one of 127.0.0.0/8, all of which are this machine.
    pub async fn keeping(clock: &Clock, ip: Ipv4Addr) -> anyhow::Result<Self> {
        Self::build(clock, ip, 1, true).await
    }

    async fn build(clock: &Clock, ip: Ipv4Addr, groups: usize, keeps: bool) -> anyhow::Result<Self> {
        let (tls, authority_pem) = made_up_certificate(&[&ip.to_string()])?;
        let listener = TcpListener::bind((ip, 0)).await.with_context(|| format!("cannot listen on {ip}"))?;
        let address = listener.local_addr()?;
        let groups = std::iter::repeat_with(Counter::default).take(groups).collect();
        let shared = Arc::new(Shared { clock: clock.clone(), groups, kept: keeps.then(Mutex::default) });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            // A connection that cannot be accepted is the client's loss; the next one may do better.
            loop {
                if let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(take_all(connection, tls.clone(), Arc::clone(&serving)));
                }
            }
        });
        Ok(Self { address, authority_pem, shared })
    }

    /// Address of an endpoint of a group; the last part only tells endpoints apart.
    pub fn url(&self, group: usize, index: usize) -> String {
        format!("https://{}/{group}/{index}", self.address)
    }

    /// Requests that have arrived.
    pub fn arrived(&self) -> u64 {
        self.shared.groups.iter().map(|counter| counter.arrived.load(Ordering::SeqCst)).sum()
    }

    /// Returns once so many requests of the first group have arrived.
    ///
    /// # Errors
    /// Nothing arrived for a minute.
    pub async fn wait_for(&self, count: u64) -> anyhow::Result<()> {
        self.wait_for_group(0, count).await
    }

    /// The same of any group. One waits for a group at a time.
    pub async fn wait_for_group(&self, group: usize, count: u64) -> anyhow::Result<()> {
        let counter = &self.shared.groups[group];
        let mut before = counter.arrived.load(Ordering::SeqCst);
        loop {
            tokio::select! {
                () = counter.reach(count) => return Ok(()),
                () = self.shared.clock.sleep(PATIENCE) => {
                    let now = counter.arrived.load(Ordering::SeqCst);
                    let secs = PATIENCE.as_secs();
                    anyhow::ensure!(now > before, "nothing arrived for {secs} s: {now} of {count} deliveries are there");
                    before = now;
                }
            }
        }
    }

    /// What has arrived since this was last asked.
    pub fn take(&self) -> Vec<Arrival> {
        let Some(kept) = &self.shared.kept else { return Vec::new() };
        std::mem::take(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counter {
    async fn reach(&self, count: u64) {
        self.wanted.store(count, Ordering::SeqCst);
        // A wake-up that comes before the wait is kept, so none is missed.
        while self.arrived.load(Ordering::SeqCst) < count {
            self.reached.notified().await;
        }
    }

    fn arrive(&self) {
        let arrived = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        if arrived == self.wanted.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
}

async fn take_all(connection: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    // Whatever goes wrong with a connection ends that connection.
    let _ = connection.set_nodelay(true);
    let Ok(mut stream) = tls.accept(connection).await else { return };
    let mut buffered = Vec::with_capacity(4_096);
    let mut shape = None;
    while stream.read_buf(&mut buffered).await.is_ok_and(|read| read > 0) {
        while let Some(request) = Extent::find(&buffered, &mut shape) {
            shared.note(&buffered, request);
            if request.end == buffered.len() {
                buffered.clear();
            } else {
                buffered.drain(..request.end);
            }
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn note(&self, buffered: &[u8], request: Extent) {
        if let Some(kept) = &self.kept {
            let arrival = Arrival { at: self.clock.now(), body: buffered[request.body..request.end].to_vec() };
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        }
        let group = if self.groups.len() == 1 { 0 } else { number(&buffered[GROUP_AT..]) };
        if let Some(counter) = self.groups.get(group) {
            counter.arrive();
        }
    }
}

/// Where the body of a request begins and ends in what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    body: usize,
    end: usize,
}

/// Where things are in a head. The heads one client sends to one endpoint are alike, so the last shape is tried first.
#[derive(Debug, Clone, Copy)]
struct Shape {
    length_at: usize,
    head_end: usize,
}

impl Extent {
    /// The first request, if all of it is there.
    fn find(bytes: &[u8], shape: &mut Option<Shape>) -> Option<Self> {
        let found = shape.filter(|shape| shape.fits(bytes)).or_else(|| Shape::of(bytes))?;
        *shape = Some(found);
        let body = found.head_end + HEAD_END.len();
        let end = body + number(&bytes[found.length_at + LENGTH.len()..]);
        (bytes.len() >= end).then_some(Self { body, end })
    }
}

impl Shape {
    fn of(bytes: &[u8]) -> Option<Self> {
        let head_end = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END)?;
        let length_at = bytes[..head_end].windows(LENGTH.len()).position(|window| window == LENGTH)?;
        Some(Self { length_at, head_end })
    }

    /// JSON has no empty line in it, so a head that ends here ends nowhere before.
    fn fits(&self, bytes: &[u8]) -> bool {
        bytes.get(self.head_end..self.head_end + HEAD_END.len()) == Some(HEAD_END)
            && bytes.get(self.length_at..self.length_at + LENGTH.len()) == Some(LENGTH)
    }
}

/// The number these bytes begin with.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(group: usize, body: &str) -> Vec<u8> {
        format!("POST /{group}/7 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nx: y\r\n\r\n{body}", body.len())
            .into_bytes()
    }

    #[test]
    fn requests_are_told_apart_whatever_their_shape() {
        let mut shape = None;
        for (group, body) in [(1, "{}"), (1, "[]"), (12, "a longer body"), (3, "x")] {
            let mut bytes = request(group, body);
            let whole = bytes.len();
            assert!(Extent::find(&bytes[..whole - 1], &mut shape).is_none());
            bytes.extend_from_slice(b"POST /");
            let found = Extent::find(&bytes, &mut shape).unwrap();
            assert_eq!((&bytes[found.body..found.end], found.end), (body.as_bytes(), whole));
            assert_eq!(number(&bytes[GROUP_AT..]), group);
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_count_is_woken_by_it() {
        let counter = Arc::new(Counter::default());
        counter.arrive();
        counter.reach(1).await;
        let arriving = Arc::clone(&counter);
        tokio::spawn(async move { (0..9).for_each(|_| arriving.arrive()) });
        counter.reach(10).await;
    }
}
