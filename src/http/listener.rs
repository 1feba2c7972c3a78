//! Connections: taken, given so much time, and let go.
//!
//! A client that sends its head a byte at a time, or does not take its answer, is cut off: it must not keep a connection that
//! somebody else could use.

use std::convert::Infallible;
use std::net::SocketAddr;
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

/// Answers on `listener` until `stop`, then lets every connection finish its answer.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => answer(stream, peer, router.clone(), &graceful),
            Err(error) => {
                warn!(%error, "A connection could not be taken: {error}");
                pause().await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn answer(stream: TcpStream, peer: SocketAddr, router: Router, graceful: &GracefulShutdown) {
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
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "A connection ended early: {error}");
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "it waits for the machine, whatever time it is for the service")]
async fn pause() {
    tokio::time::sleep(PAUSE).await;
}
