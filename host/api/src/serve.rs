//! The server: accepts connections, gives each its limits, and ends in order.
//!
//! Not `axum::serve`: that one has no time limit for a request's head, so a slow client could hold a connection for
//! ever, and none on the number of connections.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::HttpBody as _,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use hyper::{
    Request, Version,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    connections::{Busy, Connection, ConnectionLimits, Connections},
    guarded_body::{PIECE_BYTES, in_pieces},
    write_timeout::{WriteLimits, WriteTimeout},
};

/// Connections at once. Of those on which no valid token came yet, there are fewer, and few of one address.
const CONNECTIONS: ConnectionLimits = ConnectionLimits { all: 4_096, strangers: 1_024, strangers_of_an_address: 256 };
/// Longest time for a request's head, and for an idle connection to say something.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Says `HEAD_TIMEOUT` to clients, which then send no request on a connection that is about to close.
const KEEP_ALIVE: (HeaderName, HeaderValue) =
    (HeaderName::from_static("keep-alive"), HeaderValue::from_static("timeout=10"));
/// Headers of one request.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head, and of a buffer.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How slowly a client may take answers: its connection, and what it holds, is given up then.
const WRITES: WriteLimits = WriteLimits { longest: Duration::from_secs(30), bytes_per_second: 64 << 10 };
/// How long requests under way may go on after `shutdown`.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells a handler that the server is about to stop: answers without an end stop then.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

/// Serves until `shutdown` ends, then lets requests under way end, for 10 s at most.
///
/// # Errors
/// The listener failed in a way that does not pass.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_with(listener, router, shutdown, CONNECTIONS, WRITES).await
}

async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    limits: ConnectionLimits,
    writes: WriteLimits,
) -> io::Result<()> {
    let (connections, mut all_ended) = Connections::new(limits);
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => match connections.admit(address.ip()) {
                    Some(open) => {
                        tokio::spawn(connection(stream, router.clone(), stopping.clone(), Arc::new(open), writes));
                    }
                    None => tracing::debug!(%address, "a connection was closed: there are too many, and none is idle"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, connections));
    let _ = stop.send(true);
    if tokio::time::timeout(GRACE, all_ended.recv()).await.is_err() {
        tracing::warn!("requests under way were cut off after {} s", GRACE.as_secs());
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    open: Arc<Connection>,
    writes: WriteLimits,
) {
    // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms an answer.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let (router, stop) = (TowerToHyperService::new(router), Stopping(stopping.clone()));
    let of_requests = open.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = of_requests.busy();
        let stays_open = stays_open(&request) && !*stop.0.borrow();
        request.extensions_mut().insert(stop.clone());
        request.extensions_mut().insert(of_requests.clone());
        let answer = router.call(request);
        async move { answer.await.map(|response| until_written(kept_alive(response, stays_open), busy)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, writes)), service);
    let mut served = pin!(served);
    // The guard that `wait_for` answers with must not live on.
    let stopped = async { stopping.wait_for(|stop| *stop).await.is_ok() };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        _ = stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = open.must_close() => {
            served.as_mut().graceful_shutdown();
            // One that has not said a whole head yet would stay for as long as it may take for that.
            if open.is_idle() { Ok(()) } else { served.await }
        }
    };
    if let Err(error) = ended {
        // A client that goes away is no event.
        tracing::debug!(%error, "a connection broke");
    }
}

/// Whether the connection is to stay open for further requests.
fn stays_open(request: &Request<Incoming>) -> bool {
    let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    request.version() == Version::HTTP_11 && !request.headers().get_all(header::CONNECTION).iter().any(closes)
}

/// The response, which says how long its connection may be idle.
fn kept_alive(mut response: Response, stays_open: bool) -> Response {
    if stays_open {
        let (name, timeout) = KEEP_ALIVE;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        response.headers_mut().insert(name, timeout);
    }
    response
}

/// The response, with its connection busy until its body is read. A small one is written at once.
fn until_written(response: Response, busy: Busy) -> Response {
    match response.body().size_hint().exact() {
        Some(bytes) if bytes <= PIECE_BYTES as u64 => response,
        _ => response.map(|body| in_pieces(body, busy)),
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::SocketAddr};

    use axum::{body::Body, routing::get};
    use bytes::Bytes;
    use futures::stream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Semaphore,
    };

    use super::*;

    const LONGEST: Duration = Duration::from_millis(500);

    /// Serves one answer at a time: events without an end, which hold a permit until they are dropped.
    async fn endless() -> (SocketAddr, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(1));
        let shared = permits.clone();
        let answer = async move || {
            let permit = shared.acquire_owned().await.unwrap();
            let piece = Bytes::from(format!("data: {}\n\n", "x".repeat(60_000)));
            Body::from_stream(stream::unfold(permit, move |permit| {
                let piece = piece.clone();
                async move { Some((Ok::<_, Infallible>(piece), permit)) }
            }))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(answer));
        let writes = WriteLimits { longest: LONGEST, bytes_per_second: 1 << 20 };
        tokio::spawn(serve_with(listener, router, std::future::pending(), CONNECTIONS, writes));
        (address, permits)
    }

    /// The head of an answer to a request with these headers.
    async fn head(address: SocketAddr, headers: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        String::from_utf8(answer).unwrap()
    }

    async fn asked(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stream
    }

    #[tokio::test]
    async fn a_reader_that_stalls_is_dropped_and_its_permit_is_free() {
        let (address, permits) = endless().await;
        let mut stalled = asked(address).await;
        assert_eq!(permits.available_permits(), 0);
        let free = tokio::time::timeout(Duration::from_secs(30), permits.acquire()).await;
        drop(free.expect("its permit is given back").unwrap());
        // The bytes that were in the system's buffers, and then the end.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stalled.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "its connection is closed");
    }

    #[tokio::test]
    async fn a_slow_reader_that_goes_on_reading_is_kept() {
        let (address, permits) = endless().await;
        let mut slow = asked(address).await;
        let begun = tokio::time::Instant::now();
        let mut piece = vec![0; 4 << 20];
        while begun.elapsed() < LONGEST * 4 {
            assert!(slow.read(&mut piece).await.unwrap() > 0);
        }
        assert_eq!(permits.available_permits(), 0);
    }

    #[tokio::test]
    async fn an_answer_says_how_long_its_connection_may_be_idle() {
        assert_eq!(KEEP_ALIVE.1, format!("timeout={}", HEAD_TIMEOUT.as_secs()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        tokio::spawn(serve_with(listener, router, std::future::pending(), CONNECTIONS, WRITES));
        let stays = head(address, "").await;
        assert!(
            stays.contains("keep-alive: timeout=10\r\n") && stays.contains("connection: keep-alive\r\n"),
            "{stays}"
        );
        let closes = head(address, "connection: close\r\n").await;
        assert!(!closes.contains("keep-alive") && closes.contains("connection: close\r\n"), "{closes}");
    }

    #[tokio::test]
    async fn an_idle_connection_gives_way_to_a_new_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        let limits = ConnectionLimits { all: 10, strangers: 2, strangers_of_an_address: 2 };
        tokio::spawn(serve_with(listener, router, std::future::pending(), limits, WRITES));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut first = asked(address).await;
        let (_second, _third) = (asked(address).await, asked(address).await);
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), first.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection that said nothing for longest is closed");
        // Long before it would have to send the head of a request.
        let ended = tokio::time::timeout(HEAD_TIMEOUT / 2, silent.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "and before it the one that never said anything");
    }
}
