//! The endpoint of every webhook of a run: answers well mostly, and writes down what it saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;
use super::history::{History, Request};
use crate::support::zoo::read_request;

/// How long it thinks about an answer, so that there is always something under way.
const THINKS: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(40));
const FAILS_PERCENT: u32 = 8;
const HANGS_UP_PERCENT: u32 = 6;

/// It ends with the test.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    history: Arc<History>,
    dice: Mutex<Dice>,
    healed: AtomicBool,
}

impl Receiver {
    pub async fn start(history: Arc<History>, dice: Dice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared { history, dice: Mutex::new(dice), healed: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                tokio::spawn(async move { shared.talk(connection).await });
            }
        });
        Self { address, shared }
    }

    /// The address of one webhook.
    pub fn url(&self, hook: usize) -> String {
        format!("http://{}/{hook}", self.address)
    }

    /// From now on everything is answered with 200.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    async fn talk(&self, mut connection: TcpStream) {
        let mut buffered = Vec::new();
        while let Some(arrived) = read_request(&mut connection, &mut buffered).await {
            let path = arrived.head.split(' ').nth(1).unwrap_or_default();
            let request = Request {
                hook: path.trim_start_matches('/').parse().expect("nobody else knows this address"),
                id: arrived.header("webhook-id").unwrap_or_default().to_owned(),
                body: arrived.body.clone(),
                arrived_at: self.history.now(),
                finished_at: None,
                status: None,
            };
            let number = {
                let requests = &mut self.history.log().requests;
                requests.push(request);
                requests.len() - 1
            };
            let (thinks, status) = self.decide();
            self.history.pause(thinks).await;
            self.history.finish(number, status);
            let Some(status) = status else { return };
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn decide(&self) -> (Duration, Option<u16>) {
        let mut dice = self.dice.lock().unwrap();
        let thinks = dice.span(THINKS);
        let (fails, hangs_up) = (dice.happens(FAILS_PERCENT), dice.happens(HANGS_UP_PERCENT));
        let status = match (self.healed.load(Ordering::SeqCst), fails, hangs_up) {
            (false, true, _) => Some(500),
            (false, false, true) => None,
            _ => Some(200),
        };
        (thinks, status)
    }
}
