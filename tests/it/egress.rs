//! The connector by itself, spoken to by a server of our own.

use std::net::SocketAddr;

use futures_util::FutureExt as _;
use pulsehook::clock::Clock;
use pulsehook::domain::address::AddressPolicy;
use pulsehook::engine::egress::{EgressConnector, Stream, trusted_roots};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::unconstrained;
use tokio_rustls::server::TlsStream;
use tower::Service as _;

use crate::support::app::resolver;
use crate::support::in_time;
use crate::support::zoo::Certificate;

/// Both ends of an encrypted connection.
async fn connected() -> (Stream, TlsStream<TcpStream>) {
    let certificate = Certificate::signed_for(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let acceptor = certificate.acceptor();
    let theirs = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.unwrap() });
    let policy = AddressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..AddressPolicy::default() };
    let roots = trusted_roots(Some(certificate.authority_pem.as_bytes())).unwrap();
    let mut connector = EgressConnector::new(policy, resolver(|_| Vec::new()), roots, Clock::system());
    let ours = connector.call(format!("https://{address}/").parse().unwrap()).await.unwrap().into_inner();
    (ours, theirs.await.unwrap())
}

/// Takes `count` bytes, or whatever comes before the other end is closed properly.
async fn take(from: &mut (impl AsyncRead + Unpin), count: usize) -> usize {
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 16];
    while taken < count {
        match from.read(&mut buffer).await.unwrap() {
            0 => break,
            more => taken += more,
        }
    }
    taken
}

#[tokio::test]
async fn what_was_flushed_has_gone_out_and_the_end_is_said() {
    in_time(async {
        let (mut ours, mut theirs) = connected().await;
        // Until neither the network nor the encryption takes any more.
        let chunk = vec![7; 1 << 16];
        let mut written = 0;
        while let Some(more) = unconstrained(ours.write(&chunk)).now_or_never() {
            written += more.unwrap();
        }
        let taking = tokio::spawn(async move { (take(&mut theirs, written).await, theirs) });
        ours.flush().await.unwrap();
        let (taken, mut theirs) = taking.await.unwrap();
        assert_eq!(taken, written);
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "a connection that was only cut would be an error");
    })
    .await;
}
