//! Connects to addresses that were checked, and to no others.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, runtime::Handle, time::Instant};
use umbel_model::permission::Scheme;

use crate::http::{config::AttemptLimits, error::HttpError, request_body::RequestBody, target::Target, tls::Tls};

/// Bytes that one HTTP/1.1 connection reads ahead.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Bytes that a server may send ahead over HTTP/2, for one request and for a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// A connection that can send requests.
pub(crate) enum Connection {
    /// One request after the other.
    Http1(http1::SendRequest<RequestBody>),
    /// Many at once.
    Http2(http2::SendRequest<RequestBody>),
}

/// An open connection and whom it leads to.
pub(crate) struct Open {
    pub(crate) connection: Connection,
    pub(crate) peer: SocketAddr,
    pub(crate) born: Instant,
}

/// A request that was not sent, with what sending it failed with.
pub(crate) struct Unsent {
    pub(crate) error: hyper::Error,
    /// There if not a byte of it was sent.
    pub(crate) request: Option<Request<RequestBody>>,
}

impl Connection {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Waits until the request before is over; false if the connection is closed.
    pub(crate) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<http::Response<Incoming>, Box<Unsent>> {
        let sent = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let request = error.take_message();
            Box::new(Unsent { error: error.into_error(), request })
        })
    }
}

/// Connects to one of `addresses`, all of which were checked, and makes the handshakes. The connection itself runs as a
/// task of `runtime` until it is dropped.
pub(crate) async fn connect(
    target: &Target,
    addresses: &[IpAddr],
    tls: &Tls,
    limits: &AttemptLimits,
    until: Instant,
    runtime: &Handle,
) -> Result<Open, HttpError> {
    let (stream, peer) = first_that_answers(addresses, target.port, until).await?;
    let connection = match target.scheme {
        Scheme::Http => http1(stream, limits, runtime).await?,
        Scheme::Https => {
            let stream = tls.handshake(&target.host, stream).await?;
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2(stream, limits, runtime).await?
            } else {
                http1(stream, limits, runtime).await?
            }
        }
    };
    Ok(Open { connection, peer, born: Instant::now() })
}

/// Tries one address after the other, and gives each a part of the time, so that one that is silent does not take all of
/// it.
async fn first_that_answers(
    addresses: &[IpAddr],
    port: u16,
    until: Instant,
) -> Result<(TcpStream, SocketAddr), HttpError> {
    let mut failed = HttpError::Unreachable("it has no address".to_owned());
    for (at, address) in addresses.iter().enumerate() {
        let address = SocketAddr::new(address.to_canonical(), port);
        let left = until.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX).min(3);
        match tokio::time::timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Heads and small bodies go out at once.
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                failed = HttpError::ConnectionRefused;
            }
            Ok(Err(error)) => failed = HttpError::Unreachable(HttpError::text(error)),
            Err(_) => failed = HttpError::Unreachable("it does not answer".to_owned()),
        }
    }
    Err(failed)
}

/// The transport of a connection.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Stream for T {}

async fn http1(stream: impl Stream, limits: &AttemptLimits, runtime: &Handle) -> Result<Connection, HttpError> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_BYTES.max(limits.head_bytes))
        .max_header_size(limits.head_bytes)
        .max_headers(limits.fields)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| HttpError::Protocol(HttpError::text(e)))?;
    runtime.spawn(async move {
        // What went wrong is told to the request.
        let _ = connection.await;
    });
    Ok(Connection::Http1(sender))
}

async fn http2(stream: impl Stream, limits: &AttemptLimits, runtime: &Handle) -> Result<Connection, HttpError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(READ_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| HttpError::Protocol(HttpError::text(e)))?;
    runtime.spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection::Http2(sender))
}
