//! A way to a server that can be shut: whoever comes then is turned away, and whoever is inside is thrown out.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An open door. It is gone when this is dropped.
pub struct Door {
    pub address: SocketAddr,
    open: watch::Sender<bool>,
    _keeper: JoinSet<()>,
}

impl Door {
    /// In front of whoever listens at `behind`, a host with its port.
    pub async fn before(behind: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        let mut keeper = JoinSet::new();
        keeper.spawn(async move {
            // Aborted with the task that owns them.
            let mut guests = JoinSet::new();
            while let Ok((outside, _)) = listener.accept().await {
                while guests.try_join_next().is_some() {}
                if *is_open.borrow() {
                    guests.spawn(pass(outside, behind.clone(), is_open.clone()));
                }
            }
        });
        Ok(Self { address, open, _keeper: keeper })
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

/// Passes on what is said, until one side has enough or the door is shut.
#[expect(clippy::disallowed_methods, reason = "to the operator's own ClickHouse, whose address nobody else chose")]
async fn pass(mut outside: TcpStream, behind: String, mut is_open: watch::Receiver<bool>) {
    let Ok(mut inside) = TcpStream::connect(behind).await else { return };
    tokio::select! {
        // Either way both connections end here, which is all there is to say to both sides.
        _ = copy_bidirectional(&mut outside, &mut inside) => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}
