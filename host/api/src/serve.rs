//! The server: accepts connections, gives each its limits, and ends in order.
//!
//! Not `axum::serve`: that one has no time limit for a request's head, so a slow client could hold a connection for
//! ever, and none on the number of connections.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
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
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4_096;
/// Longest time for a request's head, and for an idle connection to say something.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one request.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head, and of a buffer.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long requests under way may go on after `shutdown`.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says in a request that the server is about to end: answers that go on for long end, too.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

/// Serves until `shutdown` ends, then lets requests under way end, for 10 s at most.
///
/// # Errors
/// The listener failed in a way that does not pass.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let place = places.clone().acquire_owned();
        let accepted = async {
            let place = place.await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, place))
        };
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => match accepted {
                Ok((stream, place)) => {
                    tokio::spawn(connection(stream, router.clone(), stopping.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = stop.send(true);
    // All places free: every connection has ended.
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(GRACE, places.acquire_many(all)).await.is_err() {
        tracing::warn!("requests under way were cut off after {} s", GRACE.as_secs());
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms an answer.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let (router, stop) = (TowerToHyperService::new(router), Stopping(stopping.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(stop.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    // The guard that `wait_for` answers with must not live on.
    let stopped = async { stopping.wait_for(|stop| *stop).await.is_ok() };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        _ = stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // A client that goes away is no event.
        tracing::debug!(%error, "a connection broke");
    }
    drop(place);
}
