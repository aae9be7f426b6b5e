//! Answers of server-sent events: the loop that all of them share.
//!
//! The store is polled, so a stream costs no connection of its own there. It has a longest life, after which its client
//! comes back by itself with the id of the last event that it has seen.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;

use crate::{
    admission::Permit,
    auth::Caller,
    footprint::Endless,
    problem::{Problem, Result},
    serve::Stopping,
    state::Api,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Between two looks at the store.
pub(crate) const POLL: Duration = Duration::from_millis(500);
/// Something is sent at least so often.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Between two looks at the token: a stream ends soon after that is revoked.
const CHECK_TOKEN: Duration = Duration::from_secs(1);
/// A stream ends after this long.
const MAX_LIFE: Duration = Duration::from_secs(3_600);
/// A stream ends when the store cannot be read for this long.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(60);

/// The result of one look at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// There may be more at once.
    More,
    /// That was all for a while.
    Idle,
    /// The store cannot be read.
    Failed,
    /// Nothing will come any more.
    Over,
}

/// The events of one stream.
pub(crate) trait EventSource: Send + 'static {
    /// Looks at the store once, and pushes an event for each thing that is new.
    fn look(&mut self, events: &mut Events) -> impl Future<Output = Looked> + Send;

    /// A comment, perhaps with an id: sent when there was no event for a while.
    fn heartbeat(&self) -> Bytes;
}

/// Events that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Events(VecDeque<Bytes>);

impl Events {
    pub(crate) fn push<T: Serialize>(&mut self, id: impl std::fmt::Display, name: &str, data: &T) {
        // Texts and numbers into memory; JSON has no line breaks of its own.
        let Ok(data) = serde_json::to_string(data) else { return };
        self.0.push_back(format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into());
    }
}

/// The id of the last event that a client has seen, as `parse` reads it.
pub(crate) fn last_event_id<T>(headers: &HeaderMap, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let seen = value.to_str().ok().and_then(parse);
    let refused = || Problem::invalid_header("Last-Event-ID: pass on the id of an event of this stream");
    seen.map(Some).ok_or_else(refused)
}

/// A permit of all streams and one of the tenant's, held until the stream ends.
pub(crate) fn stream_permit(api: &Api, caller: &Caller) -> Result<Permit> {
    api.streams.try_acquire(&caller.tenant).ok_or_else(|| {
        let max = api.config.max_tenant_streams;
        Problem::too_many_requests(format!("too many streams of events; a tenant has at most {max}: poll instead"))
    })
}

/// The answer that tells what `source` finds until that is over, or the server stops. `greeting` is sent at once.
pub(crate) fn event_stream<S: EventSource>(
    (api, caller): (Arc<Api>, Caller),
    source: S,
    permit: Permit,
    stopping: Option<Extension<Stopping>>,
    greeting: Option<Bytes>,
) -> Response {
    let (events, now) = (Events(greeting.into_iter().collect()), Instant::now());
    let stopping = stopping.map(|Extension(stopping)| stopping);
    let stream = Stream {
        api,
        caller,
        checked: now,
        source,
        events,
        begun: now,
        sent: now,
        heard: now,
        over: false,
        stopping,
        _permit: permit,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that collect answers would keep the events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (StatusCode::OK, headers, Extension(Endless), Body::from_stream(events)).into_response()
}

struct Stream<S> {
    api: Arc<Api>,
    caller: Caller,
    /// When the token was looked at last.
    checked: Instant,
    source: S,
    events: Events,
    begun: Instant,
    /// When something was sent last.
    sent: Instant,
    /// When the store answered last.
    heard: Instant,
    over: bool,
    stopping: Option<Stopping>,
    _permit: Permit,
}

impl<S: EventSource> Stream<S> {
    /// The next event, or a heartbeat; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.checked.elapsed() >= CHECK_TOKEN {
                self.checked = Instant::now();
                // While the broker is away, nothing is known, and nothing is told.
                if self.api.tokens.is_good(&*self.api.broker, &self.caller).await.is_ok_and(|is_good| !is_good) {
                    return None;
                }
            }
            if let Some(event) = self.events.0.pop_front() {
                self.sent = Instant::now();
                return Some(event);
            }
            if self.over || self.begun.elapsed() > MAX_LIFE || self.heard.elapsed() > MAX_SILENCE {
                return None;
            }
            if self.sent.elapsed() >= HEARTBEAT {
                self.sent = Instant::now();
                return Some(self.source.heartbeat());
            }
            let looked = unless_stopped(&mut self.stopping, self.source.look(&mut self.events)).await?;
            if looked != Looked::Failed {
                self.heard = Instant::now();
            }
            self.over = looked == Looked::Over;
            if matches!(looked, Looked::Idle | Looked::Failed) && self.events.0.is_empty() {
                unless_stopped(&mut self.stopping, tokio::time::sleep(POLL)).await?;
            }
        }
    }
}

/// None when the server stops first.
async fn unless_stopped<T>(stopping: &mut Option<Stopping>, work: impl Future<Output = T>) -> Option<T> {
    match stopping {
        None => Some(work.await),
        Some(Stopping(stopping)) => tokio::select! {
            done = work => Some(done),
            _ = stopping.wait_for(|stop| *stop) => None,
        },
    }
}
