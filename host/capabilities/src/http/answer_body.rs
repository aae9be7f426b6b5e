//! The body of an answer on its way from a server to a guest: counted, bounded, and with a least rate.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::http::{
    connect::Open,
    error::HttpError,
    failures,
    pace::Pace,
    pool::{Key, Pool},
    request_body::{Permits, trailer_bytes},
    traffic::Traffic,
};

/// The body of an answer as a guest reads it.
pub type AnswerBody = UnsyncBoxBody<Bytes, HttpError>;

/// Where a connection goes when its answer was read.
pub(crate) struct Back {
    pub(crate) pool: Arc<Pool>,
    pub(crate) key: Key,
    pub(crate) open: Open,
}

pub(crate) struct Answer {
    /// None: it failed, and the connection is given up.
    inner: Option<Incoming>,
    traffic: Arc<Traffic>,
    pace: Pace,
    least_rate: u64,
    /// Both until the end of the body.
    permits: Option<Arc<Permits>>,
    back: Option<Back>,
    ended: bool,
}

impl Answer {
    pub(crate) fn new(
        inner: Incoming,
        traffic: Arc<Traffic>,
        pace: Pace,
        least_rate: u64,
        permits: Arc<Permits>,
        back: Option<Back>,
    ) -> Self {
        let mut new =
            Self { inner: Some(inner), traffic, pace, least_rate, permits: Some(permits), back, ended: false };
        new.end_if_over();
        new
    }

    fn end_if_over(&mut self) {
        if self.inner.as_ref().is_none_or(Body::is_end_stream) {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.permits = None;
        if let Some(Back { pool, key, open }) = self.back.take() {
            pool.put(key, open);
        }
    }

    fn fail(&mut self, error: HttpError) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        (self.ended, self.inner, self.permits, self.back) = (true, None, None, None);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let Some(inner) = this.inner.as_mut().filter(|_| !this.ended) else { return Poll::Ready(None) };
        let too_slow = HttpError::TooSlow { least_rate: this.least_rate };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Pending => match this.pace.poll_too_slow(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => this.fail(too_slow),
            },
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => this.fail(failures::of_body(&error)),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or_else(|| trailer_bytes(&frame), Bytes::len);
                if let Err(error) = this.traffic.received(bytes) {
                    return this.fail(error);
                }
                if !this.pace.received(bytes) {
                    return this.fail(too_slow);
                }
                this.end_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
