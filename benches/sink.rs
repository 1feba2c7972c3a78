//! The cheapest HTTPS endpoint there can be: it reads requests, counts them, and says 200.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// It ends with the process.
pub struct Sink {
    address: SocketAddr,
    pub authority_pem: String,
    count: watch::Sender<usize>,
}

impl Sink {
    pub async fn start() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = watch::channel(0).0;
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(take_all(connection, tls.clone(), counted.clone()));
            }
        });
        Self { address, authority_pem: authority.pem(), count }
    }

    pub fn url(&self) -> String {
        format!("https://{}/hook", self.address)
    }

    /// Returns once so many requests have arrived.
    pub async fn wait_for(&self, count: usize) {
        let _ = self.count.subscribe().wait_for(|arrived| *arrived >= count).await;
    }
}

async fn take_all(connection: TcpStream, tls: TlsAcceptor, count: watch::Sender<usize>) {
    connection.set_nodelay(true).unwrap();
    let Ok(mut stream) = tls.accept(connection).await else { return };
    let mut buffered = Vec::with_capacity(4_096);
    while stream.read_buf(&mut buffered).await.is_ok_and(|read| read > 0) {
        while let Some(end) = end_of_request(&buffered) {
            buffered.drain(..end);
            count.send_modify(|count| *count += 1);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

fn end_of_request(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim();
    let end = head + 4 + length.parse::<usize>().ok()?;
    (bytes.len() >= end).then_some(end)
}
