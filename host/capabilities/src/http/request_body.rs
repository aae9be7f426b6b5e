//! The body of a request on its way from a guest to a server: counted, bounded, and never lost half-way without a word.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::Instant};

use crate::http::{error::HttpError, traffic::Traffic};

/// A body that a guest writes. It ends with an error if the guest did not finish it.
pub type GuestBody = UnsyncBoxBody<Bytes, HttpError>;

/// Of a body that no server wants any more, so many bytes are taken from the guest, which then reads the answer; after that
/// its stream is closed.
const DRAINED_BYTES: usize = 1 << 20;

/// What both directions of one request share.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) traffic: Arc<Traffic>,
    runtime: Handle,
    began: Instant,
    /// When the server last took something of the body, milliseconds after `began`.
    progress_ms: AtomicU64,
    waits_for_guest: AtomicBool,
    /// What the body ended with: HTTP/2 does not tell.
    failed: Mutex<Option<HttpError>>,
}

/// The right to have one request open, of the attempt and of its tenant.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(crate) _attempt: OwnedSemaphorePermit,
    pub(crate) _tenant: OwnedSemaphorePermit,
}

impl Exchange {
    pub(crate) fn new(traffic: Arc<Traffic>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            traffic,
            runtime,
            began: Instant::now(),
            progress_ms: AtomicU64::new(0),
            waits_for_guest: AtomicBool::new(false),
            failed: Mutex::default(),
        })
    }

    /// When the server last took something of the request, or now if it is the guest that is waited for.
    pub(crate) fn progress(&self) -> Instant {
        if self.waits_for_guest.load(Ordering::Relaxed) {
            return Instant::now();
        }
        self.began + Duration::from_millis(self.progress_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn note_progress(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress_ms.store(ms, Ordering::Relaxed);
    }

    /// What the body ended with, if it ended early.
    pub(crate) fn failed(&self) -> Option<HttpError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: &HttpError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}

/// What is sent. Dropped before its end, it goes on taking what the guest writes for a while: a guest that is in the middle
/// of its body must come to see why the request failed.
pub(crate) struct RequestBody {
    inner: Option<GuestBody>,
    exchange: Arc<Exchange>,
    permits: Option<Arc<Permits>>,
    /// Bytes of the body that were counted when they were read ahead.
    counted: usize,
}

/// A body that was read ahead of its request.
pub(crate) struct ReadAhead {
    pub(crate) bytes: Vec<u8>,
    /// There is nothing behind the bytes but trailers.
    pub(crate) whole: bool,
    trailers: Option<Frame<Bytes>>,
}

impl RequestBody {
    pub(crate) fn new(inner: GuestBody, exchange: Arc<Exchange>) -> Self {
        Self { inner: Some(inner), exchange, permits: None, counted: 0 }
    }

    /// Reads the body up to its end, or until it has more than `max` bytes. What was read is sent by `put_before`.
    pub(crate) async fn read_ahead(&mut self, max: usize) -> Result<ReadAhead, HttpError> {
        let mut ahead = ReadAhead { bytes: Vec::new(), whole: true, trailers: None };
        while ahead.bytes.len() <= max {
            match self.frame().await.transpose()?.map(Frame::into_data) {
                None => return Ok(ahead),
                Some(Ok(data)) => ahead.bytes.extend_from_slice(&data),
                Some(Err(trailers)) => {
                    ahead.trailers = Some(trailers);
                    return Ok(ahead);
                }
            }
        }
        Ok(ReadAhead { whole: false, ..ahead })
    }

    /// Sends `bytes` before what was not read yet: they are counted already.
    pub(crate) fn put_before(&mut self, bytes: Bytes, ahead: ReadAhead) {
        let last = ahead.trailers;
        self.counted = bytes.len() + last.as_ref().map_or(0, trailer_bytes);
        let rest = if ahead.whole { None } else { self.inner.take() };
        self.inner = Some(Joined { first: Some(Frame::data(bytes)), last, rest }.boxed_unsync());
    }

    /// Keeps the permits as long as the body is sent.
    pub(crate) fn hold(&mut self, permits: Arc<Permits>) {
        self.permits = Some(permits);
    }

    fn end(&mut self) {
        self.inner = None;
        self.permits = None;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        this.exchange.waits_for_guest.store(polled.is_pending(), Ordering::Relaxed);
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        this.exchange.note_progress();
        let frame = match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or_else(|| trailer_bytes(&frame), Bytes::len);
                let new = bytes.saturating_sub(this.counted);
                this.counted = this.counted.saturating_sub(bytes);
                this.exchange.traffic.sent(new).map(|()| frame)
            }
            Some(Err(error)) => Err(error),
            None => {
                this.end();
                return Poll::Ready(None);
            }
        };
        if let Err(error) = &frame {
            this.exchange.fail(error);
            this.end();
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// One or two frames, and a body behind them.
struct Joined {
    first: Option<Frame<Bytes>>,
    last: Option<Frame<Bytes>>,
    rest: Option<GuestBody>,
}

impl Body for Joined {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Some(frame) = self.first.take().or_else(|| self.last.take()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.rest.as_mut().map_or(Poll::Ready(None), |rest| Pin::new(rest).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.last.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(first + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(first + upper);
        }
        hint
    }
}

pub(crate) fn trailer_bytes(frame: &Frame<Bytes>) -> usize {
    frame.trailers_ref().map_or(0, |fields| fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum())
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take().filter(|inner| !inner.is_end_stream()) {
            self.exchange.runtime.spawn(drain(inner, self.exchange.traffic.clone()));
        }
    }
}

/// Ends at the latest when the guest's side of the body is dropped, with its attempt.
async fn drain(mut body: GuestBody, traffic: Arc<Traffic>) {
    let mut taken = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        taken += bytes;
        if taken > DRAINED_BYTES || traffic.sent(bytes).is_err() {
            return;
        }
    }
}
