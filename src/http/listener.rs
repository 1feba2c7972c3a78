//! Connections: taken, given so much time, and let go.
//!
//! A client that sends its head a byte at a time, or does not take its answer, is cut off: it must not keep a connection that
//! somebody else could use. Nor are more held than there is room for, or more of one address than its part: whoever comes
//! then is told so and let go.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use metrics::{counter, gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tower::Service as _;
use tracing::{debug, warn};

/// Longest a head may take to arrive, from the end of the answer before it: so long a connection is kept for later, too.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// Longest a client may take none of its answer.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a head, and fields in it.
const HEAD_BYTES: usize = 64 * 1_024;
const HEAD_FIELDS: usize = 100;
/// How long nobody is let in when there was no room, such as for another open file.
const PAUSE: Duration = Duration::from_millis(50);
/// Who is told that there is no room has to ask within this time, so many at once; others are cut off without a word.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
const REFUSED_AT_ONCE: usize = 64;

/// How many connections are held at once.
#[derive(Debug, Clone)]
pub struct Room {
    pub connections: usize,
    /// Of one address, or of one network of 64 bits with IPv6.
    pub per_address: usize,
    /// Whoever speaks for others may have as many as there is room for.
    pub proxies: Vec<IpNet>,
}

/// Who is answered by what.
pub struct Routers {
    pub everybody: Router,
    /// Whoever comes when there is no room.
    pub no_room: Router,
    /// Whoever has his part already.
    pub no_more: Router,
}

/// Answers on `listener` until `stop`, then lets every connection finish its answer.
pub async fn serve(listener: TcpListener, room: Room, routers: Routers, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let doors = Doors::of(room);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => match doors.enter(peer.ip()) {
                Entry::Held(place) => answer(stream, peer, routers.everybody.clone(), place, &graceful),
                Entry::NoRoom(place) => answer(stream, peer, routers.no_room.clone(), place, &graceful),
                Entry::NoMore(place) => answer(stream, peer, routers.no_more.clone(), place, &graceful),
                Entry::Shut => drop(stream),
            },
            Err(error) => {
                warn!(%error, "A connection could not be taken: {error}");
                pause().await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn answer(stream: TcpStream, peer: SocketAddr, router: Router, place: Place, graceful: &GracefulShutdown) {
    // Small answers go out at once; failing to ask for it costs only time.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKES_WITHIN));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let answered: Result<_, Infallible> = router.call(request).await;
            answered
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if place.is_refused { REFUSED_WITHIN } else { HEAD_WITHIN })
        .keep_alive(!place.is_refused)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = connection.await {
            debug!(%error, "A connection ended early: {error}");
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "it waits for the machine, whatever time it is for the service")]
async fn pause() {
    tokio::time::sleep(PAUSE).await;
}

/// Counts who is in.
struct Doors {
    room: Room,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    held: usize,
    refused: usize,
    /// Of those that are counted one by one.
    of: HashMap<IpAddr, usize>,
    /// Since there was room the last time it was said that there is none.
    told: bool,
}

/// What becomes of somebody who comes.
enum Entry {
    Held(Place),
    NoRoom(Place),
    NoMore(Place),
    Shut,
}

/// A connection that is counted. Dropped, it is not any more.
struct Place {
    doors: Arc<Doors>,
    whose: Option<IpAddr>,
    is_refused: bool,
}

impl Doors {
    fn of(room: Room) -> Arc<Self> {
        Arc::new(Self { room, inside: Mutex::default() })
    }

    fn enter(self: &Arc<Self>, peer: IpAddr) -> Entry {
        let peer = peer.to_canonical();
        let whose = (!self.room.proxies.iter().any(|network| network.contains(&peer))).then(|| home_of(peer));
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |whose, is_refused| Place { doors: Arc::clone(self), whose, is_refused };
        let has_part =
            whose.is_some_and(|whose| inside.of.get(&whose).is_some_and(|has| *has >= self.room.per_address));
        let is_full = inside.held >= self.room.connections;
        if !is_full && !has_part {
            inside.held += 1;
            inside.told = false;
            if let Some(whose) = whose {
                *inside.of.entry(whose).or_default() += 1;
            }
            gauge!("pulsehook_connections").increment(1);
            return Entry::Held(place(whose, false));
        }
        counter!("pulsehook_connections_refused_total", "reason" => if is_full { "room" } else { "address" })
            .increment(1);
        if is_full && !inside.told {
            inside.told = true;
            warn!(
                "{} connections are open, as many as there may be; others are refused (max_connections)",
                inside.held
            );
        }
        if inside.refused >= REFUSED_AT_ONCE {
            return Entry::Shut;
        }
        inside.refused += 1;
        if is_full { Entry::NoRoom(place(None, true)) } else { Entry::NoMore(place(None, true)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.doors.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_refused {
            inside.refused -= 1;
            return;
        }
        inside.held -= 1;
        gauge!("pulsehook_connections").decrement(1);
        if let Some(whose) = self.whose
            && let Some(has) = inside.of.get_mut(&whose)
        {
            *has -= 1;
            if *has == 0 {
                inside.of.remove(&whose);
            }
        }
    }
}

/// Whoever has one address of these has all of them.
fn home_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(connections: usize, per_address: usize) -> Arc<Doors> {
        Doors::of(Room { connections, per_address, proxies: vec!["10.0.0.0/8".parse().unwrap()] })
    }

    fn enter(doors: &Arc<Doors>, peer: &str) -> Entry {
        doors.enter(peer.parse().unwrap())
    }

    #[test]
    fn everybody_has_his_part_and_proxies_have_what_there_is() {
        let doors = doors(8, 2);
        let mut held = Vec::new();
        for (peer, enters) in [
            ("203.0.113.1", true),
            ("203.0.113.1", true),
            ("203.0.113.1", false),
            ("::ffff:203.0.113.1", false),
            ("203.0.113.2", true),
            ("2001:db8::1", true),
            ("2001:db8::ffff:2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::1", true),
            ("10.0.0.1", true),
            ("10.0.0.1", true),
        ] {
            match enter(&doors, peer) {
                Entry::Held(place) => held.push(place),
                Entry::NoMore(_) => assert!(!enters, "{peer}"),
                Entry::NoRoom(_) | Entry::Shut => panic!("{peer}"),
            }
        }
        assert_eq!(held.len(), 8);
        assert!(matches!(enter(&doors, "10.0.0.1"), Entry::NoRoom(_)));
        assert!(matches!(enter(&doors, "203.0.113.1"), Entry::NoRoom(_)));
        held.remove(0);
        let again = enter(&doors, "203.0.113.1");
        assert!(matches!(again, Entry::Held(_)));
        assert!(matches!(enter(&doors, "203.0.113.9"), Entry::NoRoom(_)));
        drop((again, held));
        let inside = doors.inside.lock().unwrap();
        assert_eq!((inside.held, inside.refused, inside.of.len()), (0, 0, 0));
    }

    #[test]
    fn not_even_refusals_take_up_everything() {
        let doors = doors(0, 1);
        let mut refused: Vec<_> = (0..REFUSED_AT_ONCE).map(|_| enter(&doors, "203.0.113.1")).collect();
        assert!(refused.iter().all(|entry| matches!(entry, Entry::NoRoom(_))));
        assert!(matches!(enter(&doors, "203.0.113.1"), Entry::Shut));
        refused.pop();
        assert!(matches!(enter(&doors, "203.0.113.1"), Entry::NoRoom(_)));
    }
}
