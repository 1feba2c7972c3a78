//! Where the time of an attempt went, as the API tells it, for endpoints that take theirs in one phase or another.

use std::net::SocketAddr;
use std::time::Duration;

use pulsehook::clock::{Clock, ManualClock};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::sending::{assert_outcome, first_attempt, first_attempt_after, first_attempt_while, nobody_listens};
use crate::support::app::{SITE, START, Setup, TestApp, names, resolver, text};
use crate::support::on_both;
use crate::support::zoo::{Behaviour, Certificate, Endpoint, read_request};

const PER_ADDRESS_BUDGET: Duration = Duration::from_secs(2);
const HEAD_START: Duration = Duration::from_millis(250);
const TLS_BUDGET: Duration = Duration::from_secs(5);
const BODY_BUDGET: Duration = Duration::from_secs(3);
const ATTEMPT_BUDGET: Duration = Duration::from_secs(15);

/// So odd that no other duty waits for the moments that follow from it.
const LOOK_UP: Duration = ms(7);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Each in its order; `null` for what was not gone through.
fn phases(delivery: &Value) -> Value {
    let attempt = &delivery["attempts"][0];
    let phases = &attempt["phases"];
    let names = ["dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"];
    assert_eq!(phases.as_object().map(serde_json::Map::len), Some(names.len()), "{delivery}");
    let spans = names.map(|name| phases[name].clone());
    let sum: i64 = spans.iter().filter_map(Value::as_i64).sum();
    assert_eq!(json!(sum), attempt["duration_ms"], "{attempt}");
    json!(spans)
}

/// Returns once the client has begun its handshake, and so has its connection.
async fn hello(connection: &TcpStream) {
    assert_eq!(connection.peek(&mut [0]).await.expect("it can be read from"), 1);
}

async fn dialled(app: &TestApp, address: SocketAddr) {
    while !app.dialled().contains(&address) {
        tokio::task::yield_now().await;
    }
}

/// An address whose queue of connections is full: nobody answers there, as behind a firewall. What fills it is returned.
async fn full(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Some(Ok(connection)) = Clock::system().within(ms(300), connect(address)).await {
        waiting.push(connection);
    }
    assert!(!waiting.is_empty());
    (listener, waiting)
}

#[expect(clippy::disallowed_methods, reason = "it fills a queue of ours")]
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}

on_both!({
    async fn each_phase_has_the_time_it_took(database: Database) {
        let certificate = Certificate::signed_for(&["slow.example"]);
        let clock = ManualClock::at(START.parse().unwrap());
        let names = clock.clone();
        let resolver = resolver(move |_| {
            names.advance(ms(100));
            vec!["127.0.0.1".parse().unwrap()]
        });
        let setup = Setup { resolver: Some(resolver), ..Setup::trusting(&certificate) };
        let app = TestApp::start_at(database, setup, clock).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://slow.example:{}/hook", listener.local_addr().unwrap().port());
        let endpoint = async {
            let (connection, _) = listener.accept().await.unwrap();
            hello(&connection).await;
            app.advance(ms(300));
            let mut stream = certificate.acceptor().accept(connection).await.unwrap();
            read_request(&mut stream, &mut Vec::new()).await.unwrap();
            app.advance(ms(2_000));
            let reads = app.clock.another_waits(BODY_BUDGET);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
            reads.await;
            app.advance(ms(50));
            stream.write_all(b"late").await.unwrap();
        };
        let delivery = first_attempt_while(&app, &url, endpoint).await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(phases(&delivery), json!([100, 0, 300, 2_000, 50]));
        assert_eq!(delivery["response_body"], "late");
        app.stop().await;
    }

    async fn a_kept_connection_has_none_of_its_own(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::status(200)]).await;
        assert_eq!(phases(&first_attempt(&app, &endpoint.url()).await), json!([0, 0, null, 0, 0]));
        assert_eq!(phases(&first_attempt(&app, &endpoint.url()).await), json!([null, null, null, 0, 0]));
        app.stop().await;
    }

    /// One that becomes free sooner than the one that is being opened: what that took is not this request's.
    async fn a_connection_that_became_free_is_a_kept_one(database: Database) {
        let certificate = Certificate::signed_for(&["127.0.0.1"]);
        let app = TestApp::start_with(database, Setup::trusting(&certificate)).await;
        app.site().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/hook", listener.local_addr().unwrap());
        let webhook = app.webhook(&url, json!([{"type": "goal_completion"}])).await;
        let path = format!("/api/sites/{SITE}/webhooks/{}", text(&webhook["id"]));
        for _ in 0..2 {
            app.post(&format!("{path}/test"), json!({})).await.expect(202);
        }
        let endpoint = async {
            let (connection, _) = listener.accept().await.unwrap();
            let mut stream = certificate.acceptor().accept(connection).await.unwrap();
            let mut buffered = Vec::new();
            let first = read_request(&mut stream, &mut buffered).await.unwrap();
            // Another one is opened meanwhile, and gets no further than this.
            let (opening, _) = listener.accept().await.unwrap();
            hello(&opening).await;
            app.advance(ms(700));
            const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(ANSWER).await.unwrap();
            let second = read_request(&mut stream, &mut buffered).await.unwrap();
            app.advance(ms(20));
            stream.write_all(ANSWER).await.unwrap();
            [first, second].map(|arrived| arrived.header("webhook-id").unwrap().to_owned())
        };
        let ((), ids) = tokio::join!(app.drain(), endpoint);
        for (id, expected) in ids.iter().zip([json!([0, 0, 0, 700, 0]), json!([null, null, null, 720, 0])]) {
            let delivery = app.get(&format!("{path}/deliveries/{id}")).await.expect(200)["delivery"].clone();
            assert_outcome(&delivery, "success", "");
            assert_eq!(phases(&delivery), expected);
        }
        app.stop().await;
    }

    async fn the_phase_that_failed_is_the_last_one(database: Database) {
        let resolver = names([("inside.example", &["10.0.0.1"])]);
        let app = TestApp::start_with(database, Setup { resolver: Some(resolver), ..Setup::default() }).await;
        for (name, outcome) in [("nowhere.example", "dns_nxdomain"), ("inside.example", "forbidden_address")] {
            let delivery = first_attempt(&app, &format!("https://{name}/hook")).await;
            assert_outcome(&delivery, outcome, "");
            assert_eq!(phases(&delivery), json!([0, null, null, null, null]), "{name}");
        }
        let delivery = first_attempt(&app, &nobody_listens().await).await;
        assert_outcome(&delivery, "connect_refused", "");
        assert_eq!(phases(&delivery), json!([0, 0, null, null, null]));

        let endpoint = Endpoint::http([Behaviour::Close]).await;
        let delivery = first_attempt(&app, &endpoint.url()).await;
        assert_outcome(&delivery, "closed_early", "");
        assert_eq!(phases(&delivery), json!([0, 0, null, 0, null]));
        app.stop().await;
    }

    async fn a_connection_that_does_not_come_has_all_the_time(database: Database) {
        let clock = ManualClock::at(START.parse().unwrap());
        let hands = clock.clone();
        let resolver = resolver(move |_| {
            hands.advance(LOOK_UP);
            vec!["127.0.0.1".parse().unwrap()]
        });
        let app = TestApp::start_at(database, Setup { resolver: Some(resolver), ..Setup::default() }, clock).await;
        let (listener, _waiting) = full("127.0.0.1:0".parse().unwrap()).await;
        let port = listener.local_addr().unwrap().port();
        let time = async {
            dialled(&app, listener.local_addr().unwrap()).await;
            app.advance(PER_ADDRESS_BUDGET);
        };
        let delivery = first_attempt_while(&app, &format!("http://full.example:{port}/hook"), time).await;
        assert_outcome(&delivery, "connect_timeout", "could not be opened in time");
        assert_eq!(phases(&delivery), json!([7, 2_000, null, null, null]));
        app.stop().await;
    }

    async fn a_handshake_that_does_not_end_has_all_the_time(database: Database) {
        let app = TestApp::start(database).await;
        let silent = Endpoint::http([Behaviour::HangAtHello]).await;
        let time = async {
            silent.wait_for(1).await;
            app.advance(TLS_BUDGET);
        };
        let delivery = first_attempt_while(&app, &silent.url().replace("http:", "https:"), time).await;
        assert_outcome(&delivery, "tls_timeout", "");
        assert_eq!(phases(&delivery), json!([0, 0, 5_000, null, null]));
        app.stop().await;
    }

    async fn an_answer_that_does_not_come_has_all_the_time(database: Database) {
        let app = TestApp::start(database).await;
        let endpoint = Endpoint::http([Behaviour::HangAfterReading]).await;
        let delivery = first_attempt_after(&app, &endpoint, ATTEMPT_BUDGET).await;
        assert_outcome(&delivery, "timeout", "");
        assert_eq!(phases(&delivery), json!([0, 0, null, 15_000, null]));
        app.stop().await;
    }

    async fn a_body_that_does_not_end_has_the_time_it_was_read(database: Database) {
        let app = TestApp::start(database).await;
        let dripping = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nthe beginning".to_vec();
        let endpoint = Endpoint::http([Behaviour::AnswerAndHang(dripping)]).await;
        let delivery = first_attempt_after(&app, &endpoint, BODY_BUDGET).await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(phases(&delivery), json!([0, 0, null, 0, 3_000]));
        app.stop().await;
    }

    /// Of several addresses the one that answered counts, and the head start of those that did not.
    async fn a_connection_takes_until_one_of_the_addresses_answers(database: Database) {
        let (asked, mut waits) = mpsc::unbounded_channel();
        let clock = ManualClock::at(START.parse().unwrap());
        let hands = clock.clone();
        let resolver = resolver(move |_| {
            hands.advance(LOOK_UP);
            asked.send(hands.another_waits(HEAD_START)).unwrap();
            ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap()).into()
        });
        let app = TestApp::start_at(database, Setup { resolver: Some(resolver), ..Setup::default() }, clock).await;
        let (firewalled, _waiting) = full("127.0.0.1:0".parse().unwrap()).await;
        let port = firewalled.local_addr().unwrap().port();
        let good = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let endpoint = async {
            waits.recv().await.unwrap().await;
            dialled(&app, firewalled.local_addr().unwrap()).await;
            app.advance(HEAD_START);
            let (mut connection, _) = good.accept().await.unwrap();
            read_request(&mut connection, &mut Vec::new()).await.unwrap();
            connection.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
        };
        let delivery = first_attempt_while(&app, &format!("http://two.example:{port}/hook"), endpoint).await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(phases(&delivery), json!([7, 250, null, 0, 0]));
        app.stop().await;
    }

    async fn what_went_over_no_network_has_none(database: Database) {
        let app = TestApp::start(database).await;
        let delivery = first_attempt(&app, "inbox:").await;
        assert_outcome(&delivery, "success", "");
        assert_eq!(delivery["attempts"][0]["phases"], Value::Null);
        app.stop().await;
    }
});
