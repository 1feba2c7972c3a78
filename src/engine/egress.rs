//! The guarded connector: the only way to a host somebody else chose.
//!
//! Literals and names are vetted in one place, after resolution: one forbidden record refuses the name, only vetted
//! addresses are dialled, and the peer's address is judged once more when the connection stands. HTTP/1.1, TLS 1.2 or
//! newer, no proxies, and a budget for every phase.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;
use url::Host;

use super::stopwatch;
use crate::clock::Clock;
use crate::domain::address::AddressPolicy;
use crate::domain::endpoint_url::{EndpointUrl, UrlProblem};
use crate::domain::outcome::{Outcome, Stage};
use crate::domain::phases::Phases;
use crate::domain::url_check::{Step, Verdict, judge};

const DNS_BUDGET: Duration = Duration::from_secs(3);
const CONNECT_BUDGET: Duration = Duration::from_secs(5);
const PER_ADDRESS_BUDGET: Duration = Duration::from_secs(2);
/// An address that has not answered by then has the next one tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// What a name led to, or that there is none, is believed no longer than this, whatever its zone says: who corrects a record
/// does not wait for a day, and a policy takes effect soon.
const LONGEST_TTL: Duration = Duration::from_secs(30);
/// Hosts whose TLS sessions are remembered: a new connection to one of them needs no new key exchange with certificates.
const REMEMBERED_HOSTS: usize = 4_096;
const TLS_BUDGET: Duration = Duration::from_secs(5);
/// More than this are not tried, though all of them are judged.
const MOST_ADDRESSES: usize = 16;

/// Opens connections, or says why not.
#[derive(Clone)]
pub struct EgressConnector {
    policy: Arc<AddressPolicy>,
    resolver: Resolver,
    tls: TlsConnector,
    clock: Clock,
    dialled: Option<DialRecorder>,
}

/// Where names are looked up.
#[derive(Clone)]
pub enum Resolver {
    System(Arc<TokioResolver>),
    /// Whatever somebody says, for tests; nothing means that there is no such name.
    Scripted(Answers),
}

/// What a name leads to.
pub type Answers = Arc<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

/// Every address that was dialled: tests assert that none was forbidden.
pub type DialRecorder = Arc<Mutex<Vec<SocketAddr>>>;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", outcome.code())]
pub struct NoConnection {
    /// How far it came.
    pub at: Step,
    pub outcome: Outcome,
}

impl NoConnection {
    /// Failures of a step.
    fn at(step: Step) -> impl Fn(Outcome) -> Self {
        move |outcome| Self { at: step, outcome }
    }

    fn forbidden() -> Self {
        Self { at: Step::Address, outcome: Outcome::ForbiddenAddress }
    }

    /// The address as it is written.
    fn refused(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Refused { problem: UrlProblem::Private | UrlProblem::Host, .. } => Self::forbidden(),
            Verdict::Refused { at, problem } => {
                Self { at, outcome: Outcome::ForbiddenUrl { problem: problem.to_string() } }
            }
            _ => Self { at: Step::Syntax, outcome: Outcome::Internal { what: "an address that was not judged" } },
        }
    }
}

/// A connection, encrypted or not.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Resolver {
    /// As the machine is configured, `/etc/hosts` included.
    ///
    /// # Errors
    /// The machine's resolver configuration cannot be read.
    pub fn system() -> anyhow::Result<Self> {
        Self::of(TokioResolver::builder_tokio().context("the system's resolver configuration cannot be read")?)
    }

    fn of(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> anyhow::Result<Self> {
        let options = builder.options_mut();
        options.timeout = DNS_BUDGET / 2;
        options.attempts = 1;
        options.positive_max_ttl = Some(LONGEST_TTL);
        options.negative_max_ttl = Some(LONGEST_TTL);
        // Names are asked for as they are: a search list could turn one into something of the inside.
        options.ndots = 0;
        options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self::System(Arc::new(builder.build().context("the resolver cannot be started")?)))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Outcome> {
        match self {
            Self::Scripted(answer) => Ok(answer(name)),
            Self::System(resolver) => match resolver.lookup_ip(format!("{name}.")).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(Outcome::DnsNotFound),
                Err(_) => Err(Outcome::DnsFailed),
            },
        }
    }
}

/// The addresses of this machine. None if the system does not say: those that matter most are forbidden anyway.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.into_iter().map(|interface| interface.ip()).collect()
}

/// The authorities endpoints may be certified by: the well-known ones, the machine's own, and those of `extra_pem`.
///
/// # Errors
/// `extra_pem` holds no readable certificate.
pub fn trusted_roots(extra_pem: Option<&[u8]>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = extra_pem {
        let certificates: Vec<_> = rustls::pki_types::CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .context("this is no PEM file of certificates")?;
        anyhow::ensure!(!certificates.is_empty(), "no certificate is in it");
        for certificate in certificates {
            roots.add(certificate).context("a certificate in it cannot be used")?;
        }
    }
    Ok(roots)
}

impl EgressConnector {
    pub fn new(policy: AddressPolicy, resolver: Resolver, roots: RootCertStore, clock: Clock) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring speaks both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_HOSTS);
        let tls = TlsConnector::from(Arc::new(config));
        Self { policy: Arc::new(policy), resolver, tls, clock, dialled: None }
    }

    #[must_use]
    pub fn recording(mut self, dialled: DialRecorder) -> Self {
        self.dialled = Some(dialled);
        self
    }

    /// The same for whoever wants to know how an endpoint is today: what is remembered of earlier handshakes would hide
    /// that its certificate is not valid any more.
    #[must_use]
    pub fn without_memory(mut self) -> Self {
        let mut config = ClientConfig::clone(self.tls.config());
        config.resumption = Resumption::disabled();
        self.tls = TlsConnector::from(Arc::new(config));
        self
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, NoConnection> {
        let began = stopwatch::began().unwrap_or_else(|| self.clock.monotonic());
        let mut phases = Phases::default();
        let mut step = || phases.step(self.clock.monotonic().saturating_sub(began));
        let opened = self.open(&uri, &mut step).await;
        if opened.is_err() {
            step();
        }
        stopwatch::opened(phases);
        opened
    }

    /// Calls `step` when a phase is over, but for one that fails.
    async fn open(&self, uri: &Uri, step: &mut (impl FnMut() + Send)) -> Result<TokioIo<Stream>, NoConnection> {
        // Judged as text once more: what counts is what the one parser makes of it, and it is asked here, where the
        // connection is opened, whoever was asked before.
        let url = judge(&uri.to_string(), &self.policy).map_err(NoConnection::refused)?;
        let host = url.host().ok_or(Outcome::Internal { what: "an address without a host" });
        let host = host.map_err(NoConnection::at(Step::Syntax))?;
        let own = own_addresses();
        let addresses = self.vetted_addresses(&host, &own).await?;
        step();
        let tcp = self.dial(&addresses, url.port()).await.map_err(NoConnection::at(Step::Connection))?;
        self.judge_peer(&tcp, &own)?;
        step();
        // Small requests go out at once; failing to ask for it costs only time.
        let _ = tcp.set_nodelay(true);
        if !url.is_https() {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        }
        let stream = self.encrypt(&url, tcp).await.map_err(NoConnection::at(Step::Certificate))?;
        step();
        Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
    }

    /// What the kernel says is what counts. Whoever is reached from his own address is this machine, under an address that
    /// no interface of it shows.
    fn judge_peer(&self, tcp: &TcpStream, own: &[IpAddr]) -> Result<(), NoConnection> {
        let ends = tcp.peer_addr().and_then(|peer| Ok((peer.ip(), tcp.local_addr()?.ip())));
        let (peer, local) = ends.map_err(|error| NoConnection::at(Step::Connection)(connect_outcome(&error)))?;
        self.judge_ends(peer, local, own)
    }

    fn judge_ends(&self, peer: IpAddr, local: IpAddr, own: &[IpAddr]) -> Result<(), NoConnection> {
        let own = if peer == local { &[peer] } else { own };
        self.policy.judge_beside(peer, own).map_err(|_| NoConnection::forbidden())
    }

    async fn encrypt(&self, url: &EndpointUrl, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Outcome> {
        let inexpressible = Outcome::Internal { what: "a host name TLS cannot express" };
        let name = match url.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).map_err(|_| inexpressible)?,
            Some(Host::Ipv4(address)) => IpAddr::V4(address).into(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).into(),
            None => return Err(inexpressible),
        };
        self.clock
            .within(TLS_BUDGET, self.tls.connect(name, tcp))
            .await
            .ok_or(Outcome::Timeout(Stage::Tls))?
            .map_err(|error| tls_outcome(&error))
    }

    /// All of them or none: a name with one forbidden record is refused.
    async fn vetted_addresses(&self, host: &Host<&str>, own: &[IpAddr]) -> Result<Vec<IpAddr>, NoConnection> {
        let mut addresses = match host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => {
                let found = self.clock.within(DNS_BUDGET, self.resolver.resolve(name)).await;
                found.unwrap_or(Err(Outcome::DnsTimeout)).map_err(NoConnection::at(Step::Dns))?
            }
        };
        if addresses.is_empty() {
            return Err(NoConnection { at: Step::Dns, outcome: Outcome::DnsNotFound });
        }
        if addresses.iter().any(|address| self.policy.judge_beside(*address, own).is_err()) {
            return Err(NoConnection::forbidden());
        }
        alternate(&mut addresses);
        addresses.truncate(MOST_ADDRESSES);
        Ok(addresses)
    }

    /// The first address that answers. Each has a head start before the next one is tried beside it; one that fails has the
    /// next one tried at once.
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Outcome> {
        let race = async {
            let mut last = Outcome::Unreachable;
            let mut waiting = addresses.iter();
            let mut under_way = FuturesUnordered::new();
            loop {
                under_way.extend(waiting.next().map(|address| self.dial_one(SocketAddr::new(*address, port))));
                let head_start = async {
                    match waiting.len() {
                        0 => std::future::pending().await,
                        _ => self.clock.sleep(HEAD_START).await,
                    }
                };
                tokio::select! {
                    biased;
                    answer = under_way.next() => match answer {
                        Some(Ok(stream)) => return Ok(stream),
                        Some(Err(outcome)) => last = outcome,
                        None => return Err(last),
                    },
                    () = head_start => {}
                }
            }
        };
        self.clock.within(CONNECT_BUDGET, race).await.unwrap_or(Err(Outcome::Timeout(Stage::Connect)))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that dials, and only what was vetted")]
    async fn dial_one(&self, address: SocketAddr) -> Result<TcpStream, Outcome> {
        let connected = self.clock.within(PER_ADDRESS_BUDGET, TcpStream::connect(address));
        if let Some(dialled) = &self.dialled {
            dialled.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        }
        match connected.await {
            Some(answer) => answer.map_err(|error| connect_outcome(&error)),
            None => Err(Outcome::Timeout(Stage::Connect)),
        }
    }
}

/// One kind of address after the other, beginning with that of the first: where one kind leads nowhere the other is not kept
/// waiting for all of it.
fn alternate(addresses: &mut Vec<IpAddr>) {
    let first_is_ipv4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (like_first, others): (Vec<_>, Vec<_>) =
        addresses.drain(..).partition(|address| address.is_ipv4() == first_is_ipv4);
    let mut others = others.into_iter();
    for address in like_first {
        addresses.push(address);
        addresses.extend(others.next());
    }
    addresses.extend(others);
}

fn connect_outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::ConnectRefused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Outcome::ConnectionReset,
        io::ErrorKind::TimedOut => Outcome::Timeout(Stage::Connect),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::PermissionDenied => {
            Outcome::Unreachable
        }
        // Out of file descriptors or ports: ours.
        _ => Outcome::Internal { what: "no connection could be opened" },
    }
}

fn tls_outcome(error: &io::Error) -> Outcome {
    use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Outcome::ConnectionReset,
            io::ErrorKind::UnexpectedEof => Outcome::ClosedEarly,
            _ => Outcome::TlsFailed,
        };
    };
    match cause {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Outcome::TlsExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Outcome::TlsWrongName
            }
            _ => Outcome::TlsUntrusted,
        },
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
        | Error::PeerIncompatible(_)
        | Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            Outcome::TlsNoCommonParameters
        }
        _ => Outcome::TlsFailed,
    }
}

impl Service<Uri> for EgressConnector {
    type Response = TokioIo<Stream>;
    type Error = NoConnection;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use rustls::{AlertDescription, CertificateError, PeerIncompatible};
    use tokio::net::TcpListener;

    use super::*;

    /// As strangers find it, except for what `policy` says.
    fn connector(policy: AddressPolicy, answers: &'static [&'static str]) -> EgressConnector {
        let answers = move |_: &str| answers.iter().map(|text| text.parse().unwrap()).collect();
        EgressConnector::new(policy, Resolver::Scripted(Arc::new(answers)), RootCertStore::empty(), Clock::system())
    }

    async fn refusal(policy: AddressPolicy, answers: &'static [&'static str], uri: &str) -> NoConnection {
        let answer = connector(policy, answers).call(uri.parse().unwrap()).await;
        answer.err().unwrap_or_else(|| panic!("{uri} was connected to"))
    }

    #[tokio::test]
    async fn an_address_is_refused_here_whoever_judged_it_before() {
        for uri in ["https://10.0.0.5/", "https://[::1]/", "https://localhost/", "https://2130706433/"] {
            assert_eq!(refusal(AddressPolicy::default(), &["1.1.1.1"], uri).await, NoConnection::forbidden(), "{uri}");
        }
        for (uri, at, problem) in [
            ("https://example.com:22/", Step::Address, UrlProblem::Port(22)),
            ("http://example.com/", Step::Https, UrlProblem::NotHttps),
            ("https://user@example.com/", Step::Syntax, UrlProblem::Credentials),
        ] {
            let outcome = Outcome::ForbiddenUrl { problem: problem.to_string() };
            assert_eq!(
                refusal(AddressPolicy::default(), &["1.1.1.1"], uri).await,
                NoConnection { at, outcome },
                "{uri}"
            );
        }
        let nowhere = NoConnection { at: Step::Dns, outcome: Outcome::DnsNotFound };
        assert_eq!(refusal(AddressPolicy::default(), &[], "https://example.com/").await, nowhere);
        let mixed: &[&str] = &["1.1.1.1", "127.0.0.1"];
        let refused = refusal(AddressPolicy::default(), mixed, "https://example.com/").await;
        assert_eq!(refused, NoConnection::forbidden());
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a connection that was not vetted is what this is about")]
    async fn who_was_reached_is_judged_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(connector(AddressPolicy::default(), &[]).judge_peer(&tcp, &[]), Err(NoConnection::forbidden()));
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        let allowed = connector(AddressPolicy { allow, ..AddressPolicy::default() }, &[]);
        assert_eq!(allowed.judge_peer(&tcp, &[]), Ok(()));
    }

    #[test]
    fn whoever_is_reached_from_his_own_address_is_this_machine() {
        let connector = connector(AddressPolicy::default(), &[]);
        let [public, other, inside] = ["1.1.1.1", "8.8.8.8", "10.0.0.9"].map(|text| text.parse().unwrap());
        assert_eq!(connector.judge_ends(public, inside, &[]), Ok(()));
        assert_eq!(connector.judge_ends(public, other, &[inside]), Ok(()));
        assert_eq!(connector.judge_ends(public, public, &[]), Err(NoConnection::forbidden()));
        assert_eq!(connector.judge_ends(public, inside, &[public]), Err(NoConnection::forbidden()));
        assert_eq!(connector.judge_ends(inside, public, &[]), Err(NoConnection::forbidden()));
    }

    #[test]
    fn the_machine_knows_its_own_addresses() {
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
    }

    /// A name server that answers by the name: with a record, with none, or with a code.
    fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        // It ends with the process: nobody asks it any more.
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut query) {
                let name_bytes = query[12..length].iter().position(|byte| *byte == 0).unwrap();
                let question = &query[12..12 + name_bytes + 5];
                let kind = question[question.len() - 3];
                let (code, record) = match question[1] {
                    b'm' => (3, false),
                    b's' => (2, false),
                    b'h' => (0, kind == 1),
                    _ => (0, false),
                };
                let mut answer = query[..2].to_vec();
                answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(record), 0, 0, 0, 0]);
                answer.extend(question);
                if record {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]);
                }
                socket.send_to(&answer, asker).unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn what_names_lead_to_is_told_apart() {
        let server = name_server();
        let mut udp = ConnectionConfig::udp();
        udp.port = server.port();
        let servers = vec![NameServerConfig::new(server.ip(), true, vec![udp])];
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver =
            Resolver::of(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())).unwrap();
        for (name, found) in [
            ("here.example.com", Ok(vec!["1.2.3.4".parse().unwrap()])),
            ("missing.example.com", Err(Outcome::DnsNotFound)),
            ("empty.example.com", Err(Outcome::DnsNotFound)),
            ("servfail.example.com", Err(Outcome::DnsFailed)),
        ] {
            assert_eq!(resolver.resolve(name).await, found, "{name}");
        }
    }

    #[tokio::test]
    async fn a_second_name_server_is_asked_within_the_budget_and_nothing_is_added_to_a_name() {
        let Resolver::System(resolver) = Resolver::system().unwrap() else { panic!("it is scripted") };
        let options = resolver.options();
        assert_eq!((options.timeout * 2, options.attempts, options.ndots), (DNS_BUDGET, 1, 0));
        assert_eq!((options.positive_max_ttl, options.negative_max_ttl), (Some(LONGEST_TTL), Some(LONGEST_TTL)));
    }

    #[test]
    fn one_kind_of_address_comes_after_the_other() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        for (before, after) in [
            (&["1.0.0.1", "1.0.0.2", "::1", "::2"][..], &["1.0.0.1", "::1", "1.0.0.2", "::2"][..]),
            (&["::1", "1.0.0.1", "1.0.0.2", "1.0.0.3"], &["::1", "1.0.0.1", "1.0.0.2", "1.0.0.3"]),
            (&["::1", "::2", "::3", "1.0.0.1"], &["::1", "1.0.0.1", "::2", "::3"]),
            (&[], &[]),
        ] {
            let mut found = addresses(before);
            alternate(&mut found);
            assert_eq!(found, addresses(after));
        }
    }

    #[test]
    fn what_the_system_says_of_a_connection_has_its_outcome() {
        use io::ErrorKind;
        for (kind, outcome) in [
            (ErrorKind::ConnectionRefused, Outcome::ConnectRefused),
            (ErrorKind::ConnectionReset, Outcome::ConnectionReset),
            (ErrorKind::ConnectionAborted, Outcome::ConnectionReset),
            (ErrorKind::TimedOut, Outcome::Timeout(Stage::Connect)),
            (ErrorKind::NetworkUnreachable, Outcome::Unreachable),
            (ErrorKind::HostUnreachable, Outcome::Unreachable),
            (ErrorKind::PermissionDenied, Outcome::Unreachable),
        ] {
            assert_eq!(connect_outcome(&kind.into()), outcome, "{kind}");
        }
        // EMFILE: it is not the endpoint's fault.
        assert!(matches!(connect_outcome(&io::Error::from_raw_os_error(24)), Outcome::Internal { .. }));
    }

    #[test]
    fn what_is_wrong_with_a_handshake_has_its_outcome() {
        use rustls::Error;
        for (kind, outcome) in [
            (io::ErrorKind::ConnectionReset, Outcome::ConnectionReset),
            (io::ErrorKind::BrokenPipe, Outcome::ConnectionReset),
            (io::ErrorKind::UnexpectedEof, Outcome::ClosedEarly),
            (io::ErrorKind::InvalidData, Outcome::TlsFailed),
        ] {
            assert_eq!(tls_outcome(&kind.into()), outcome, "{kind}");
        }
        for (cause, outcome) in [
            (Error::InvalidCertificate(CertificateError::Expired), Outcome::TlsExpired),
            (Error::InvalidCertificate(CertificateError::NotValidYet), Outcome::TlsExpired),
            (Error::InvalidCertificate(CertificateError::NotValidForName), Outcome::TlsWrongName),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Outcome::TlsUntrusted),
            (Error::InvalidCertificate(CertificateError::Revoked), Outcome::TlsUntrusted),
            (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), Outcome::TlsNoCommonParameters),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon),
                Outcome::TlsNoCommonParameters,
            ),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), Outcome::TlsNoCommonParameters),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), Outcome::TlsNoCommonParameters),
            (Error::AlertReceived(AlertDescription::InternalError), Outcome::TlsFailed),
            (Error::DecryptError, Outcome::TlsFailed),
        ] {
            assert_eq!(tls_outcome(&io::Error::other(cause.clone())), outcome, "{cause}");
        }
    }
}
