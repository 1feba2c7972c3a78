//! The receiver zoo: endpoints that behave, and endpoints that do not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pulsehook::clock::Clock;
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What an endpoint does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers with these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Reads the first bytes of whatever comes and says nothing, ever.
    HangAtHello,
    /// Reads the first bytes of whatever comes, answers with these and closes: a plain server that is spoken TLS to.
    AnswerAtHello(Vec<u8>),
    /// Reads the request and says nothing, ever.
    HangAfterReading,
    /// Sends these bytes, then nothing more; the connection stays open.
    AnswerAndHang(Vec<u8>),
    /// Sends the first, then the second again and again, as fast as it is taken.
    Endless(Vec<u8>, Vec<u8>),
    /// The same, but the second once in the span.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Reads the request and closes the connection.
    Close,
    /// Cuts the connection with a reset.
    Reset,
}

impl Behaviour {
    /// A status with a short body.
    pub fn status(status: u16) -> Self {
        Self::with_headers(status, "")
    }

    /// A status with further header lines, each ending in `\r\n`.
    pub fn with_headers(status: u16, headers: &str) -> Self {
        let body = format!("status {status}");
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
        Self::Answer(text.into_bytes())
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub head: String,
    pub body: Vec<u8>,
}

impl Arrived {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The same with another value of a header.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let keep = |line: &&str| !line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        let mut head: Vec<_> = self.head.lines().filter(keep).map(str::to_owned).collect();
        head.push(format!("{name}: {value}"));
        Self { head: head.join("\r\n"), body: self.body.clone() }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// An endpoint on this machine. It ends with the test.
pub struct Endpoint {
    pub address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    /// The last one stays.
    script: Mutex<VecDeque<Behaviour>>,
    arrived: Mutex<Vec<Arrived>>,
    /// How many requests arrived, hung-up connections included.
    count: watch::Sender<usize>,
    /// How each connection's TLS handshake went.
    handshakes: Mutex<Vec<HandshakeKind>>,
}

impl Endpoint {
    /// Does what the script says, request by request; its last entry is repeated.
    pub async fn http(script: impl IntoIterator<Item = Behaviour>) -> Self {
        Self::start(script, None).await
    }

    /// The same over HTTPS, with this certificate.
    pub async fn https(script: impl IntoIterator<Item = Behaviour>, certificate: &Certificate) -> Self {
        Self::start(script, Some(certificate.acceptor())).await
    }

    async fn start(script: impl IntoIterator<Item = Behaviour>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(script.into_iter().collect()),
            arrived: Mutex::default(),
            count: watch::channel(0).0,
            handshakes: Mutex::default(),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Self { address, scheme, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move { shared.serve(connection, tls).await });
            }
        });
        endpoint
    }

    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    /// Everything that arrived so far.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.shared.arrived.lock().unwrap().clone()
    }

    /// How the TLS handshakes of its connections went.
    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.shared.handshakes.lock().unwrap().clone()
    }

    /// Waits until what has arrived satisfies `enough`.
    pub async fn wait_until(&self, enough: impl Fn(&[Arrived]) -> bool) {
        let mut counted = self.shared.count.subscribe();
        let look = |_: &usize| {
            let arrived = self.shared.arrived.lock().unwrap();
            !arrived.is_empty() && enough(&arrived)
        };
        counted.wait_for(look).await.expect("the endpoint lives as long as the test");
    }

    /// Waits until so many requests have arrived (or connections were left hanging).
    pub async fn wait_for(&self, count: usize) {
        let mut counted = self.shared.count.subscribe();
        counted.wait_for(|arrived| *arrived >= count).await.expect("the endpoint lives as long as the test");
    }
}

impl Shared {
    fn next(&self) -> Behaviour {
        let mut script = self.script.lock().unwrap();
        if script.len() > 1 {
            script.pop_front().unwrap()
        } else {
            script.front().cloned().expect("a script has an entry")
        }
    }

    async fn serve(&self, connection: TcpStream, tls: Option<TlsAcceptor>) {
        match tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(connection).await {
                    self.handshakes.lock().unwrap().extend(stream.get_ref().1.handshake_kind());
                    self.talk(stream, |_| {}).await;
                }
            }
            None => self.talk(connection, |connection| drop(connection.set_zero_linger())).await,
        }
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, make_reset: impl Fn(&S)) {
        let mut buffered = Vec::new();
        loop {
            let first = self.script.lock().unwrap().front().cloned();
            if let Some(Behaviour::HangAtHello | Behaviour::AnswerAtHello(_)) = first {
                let _ = stream.read_buf(&mut buffered).await;
                self.count.send_modify(|count| *count += 1);
                match first {
                    Some(Behaviour::AnswerAtHello(bytes)) => return drop(stream.write_all(&bytes).await),
                    _ => return std::future::pending().await,
                }
            }
            let Some(arrived) = read_request(&mut stream, &mut buffered).await else { return };
            let behaviour = self.next();
            self.arrived.lock().unwrap().push(arrived);
            self.count.send_modify(|count| *count += 1);
            match behaviour {
                Behaviour::Answer(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Behaviour::HangAtHello | Behaviour::AnswerAtHello(_) | Behaviour::HangAfterReading => {
                    return std::future::pending().await;
                }
                Behaviour::AnswerAndHang(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    return std::future::pending().await;
                }
                Behaviour::Endless(head, more) => {
                    let more = more.repeat(16_384_usize.div_ceil(more.len()));
                    let _ = stream.write_all(&head).await;
                    while stream.write_all(&more).await.is_ok() {}
                    return;
                }
                Behaviour::Drip(head, more, every) => {
                    let clock = Clock::system();
                    let _ = stream.write_all(&head).await;
                    while stream.write_all(&more).await.is_ok() {
                        clock.sleep(every).await;
                    }
                    return;
                }
                Behaviour::Close => return,
                Behaviour::Reset => return make_reset(&stream),
            }
        }
    }
}

/// The next request on a connection; `None` when there is none any more.
pub async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffered: &mut Vec<u8>) -> Option<Arrived> {
    loop {
        if let Some(end) = buffered.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffered[..end]).into_owned();
            let arrived = Arrived { head, body: Vec::new() };
            let length: usize = arrived.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            while buffered.len() < end + 4 + length {
                if stream.read_buf(buffered).await.ok()? == 0 {
                    return None;
                }
            }
            let body = buffered[end + 4..end + 4 + length].to_vec();
            buffered.drain(..end + 4 + length);
            return Some(Arrived { body, ..arrived });
        }
        if stream.read_buf(buffered).await.ok()? == 0 {
            return None;
        }
    }
}

/// A certificate for a server of the zoo, and the authority that signed it.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    authority: Arc<rcgen::CertifiedIssuer<'static, rcgen::KeyPair>>,
    pub authority_pem: String,
}

impl Certificate {
    /// For these names, signed by an authority made for it.
    pub fn signed_for(names: &[&str]) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self::signed_by(Arc::new(rcgen::CertifiedIssuer::self_signed(params, key).unwrap()), names, false)
    }

    /// For other names, signed by the same authority.
    pub fn sibling(&self, names: &[&str]) -> Self {
        Self::signed_by(Arc::clone(&self.authority), names, false)
    }

    /// The same, but no longer valid.
    pub fn expired_sibling(&self) -> Self {
        Self::signed_by(Arc::clone(&self.authority), &["127.0.0.1"], true)
    }

    fn signed_by(
        authority: Arc<rcgen::CertifiedIssuer<'static, rcgen::KeyPair>>,
        names: &[&str],
        expired: bool,
    ) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let authority_pem = authority.pem();
        Self { chain: vec![certificate.der().clone()], key: key.serialize_der(), authority, authority_pem }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), PrivateKeyDer::try_from(self.key.clone()).unwrap())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
