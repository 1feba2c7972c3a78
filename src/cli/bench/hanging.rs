//! Endpoints that accept connections and never say a word, not even TLS's.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

/// One listener for all of them: it answers on the whole of 127.0.0.0/8, so that each webhook can have a host of its own.
/// It ends with the process.
pub struct Hanging {
    port: u16,
    accepted: Arc<AtomicU64>,
}

impl Hanging {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let port = listener.local_addr()?.port();
        let accepted = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                if let Ok((connection, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(hold(connection));
                }
            }
        });
        Ok(Self { port, accepted })
    }

    /// Address of the endpoint of this number, on a host of its own.
    pub fn url(&self, index: usize) -> String {
        let [_, _, high, low] = u32::try_from(index + 1).unwrap_or(u32::MAX).to_be_bytes();
        format!("https://127.1.{high}.{low}:{}/{index}", self.port)
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Until the other side has had enough.
async fn hold(mut connection: TcpStream) {
    let mut heard = [0; 1_024];
    while connection.read(&mut heard).await.is_ok_and(|read| read > 0) {}
}
