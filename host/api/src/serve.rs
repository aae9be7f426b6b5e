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
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use umbel_tls::ServerCertificate;

use crate::{
    connections::{Busy, Connection, ConnectionLimits, Connections},
    guarded_body::{PIECE_BYTES, in_pieces},
    handshake::encrypted,
    write_timeout::{WriteLimits, WriteTimeout},
};

/// Connections at once. Of those on which no valid token came yet, there are fewer, and few of one address.
const CONNECTIONS: ConnectionLimits = ConnectionLimits { all: 4_096, strangers: 1_024, strangers_of_an_address: 256 };
/// Longest time for a request's head, and for an idle connection to say something.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// What a client may take of a server.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: ConnectionLimits,
    writes: WriteLimits,
    handshake: Duration,
}

const LIMITS: Limits = Limits { connections: CONNECTIONS, writes: WRITES, handshake: HANDSHAKE_TIMEOUT };

/// Tells a handler that the server is about to stop: answers without an end stop then.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

/// Serves until `shutdown` ends, then lets requests under way end, for 10 s at most. With a certificate it speaks TLS only; each
/// new connection gets the certificate as it is then.
///
/// # Errors
/// The listener failed in a way that does not pass.
pub async fn serve(
    listener: TcpListener,
    certificate: Option<Arc<ServerCertificate>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_with(listener, certificate, router, shutdown, LIMITS).await
}

async fn serve_with(
    listener: TcpListener,
    certificate: Option<Arc<ServerCertificate>>,
    router: Router,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()> {
    let (connections, mut all_ended) = Connections::new(limits.connections);
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => match connections.admit(address.ip()) {
                    Some(open) => {
                        let serving = Serving { router: router.clone(), stopping: stopping.clone(), open: Arc::new(open) };
                        tokio::spawn(serving.connection(stream, certificate.clone(), limits));
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

/// What serves one connection.
struct Serving {
    router: Router,
    stopping: watch::Receiver<bool>,
    open: Arc<Connection>,
}

impl Serving {
    async fn connection(mut self, stream: TcpStream, certificate: Option<Arc<ServerCertificate>>, limits: Limits) {
        // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms an answer.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let Some(certificate) = certificate else { return self.http(WriteTimeout::new(stream, limits.writes)).await };
        // The guard that `wait_for` answers with must not live on.
        let stopped = async { self.stopping.wait_for(|stop| *stop).await.is_ok() };
        let encrypted = tokio::select! {
            encrypted = encrypted(stream, &certificate, limits.writes, limits.handshake) => encrypted,
            // Nothing was asked yet.
            _ = stopped => return,
            () = self.open.must_close() => return,
        };
        match encrypted {
            Ok(Some(stream)) => self.http(stream).await,
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a handshake failed"),
        }
    }

    async fn http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (router, stop) = (TowerToHyperService::new(self.router), Stopping(self.stopping.clone()));
        let open = self.open;
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
            .serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        let stopped = async { self.stopping.wait_for(|stop| *stop).await.is_ok() };
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
mod tests;
