//! Bodies that keep something until they are written: a permit, a place.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Bytes that are given to a connection at once. An answer of no more is not worth a guard: the connection has it at once, and
/// keeps little more of a larger one.
pub(crate) const PIECE_BYTES: usize = 16 << 10;

/// A body that is given away in pieces, and drops `guard` when its reader has taken the last one or has gone.
pub(crate) fn in_pieces<G: Send + Unpin + 'static>(whole: Body, guard: G) -> Body {
    Body::new(Pieces { whole, rest: Bytes::new(), _guard: guard })
}

struct Pieces<G> {
    whole: Body,
    rest: Bytes,
    _guard: G,
}

impl<G: Unpin> HttpBody for Pieces<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.whole).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(bytes);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.whole.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.whole.size_hint().exact() {
            Some(bytes) => SizeHint::with_exact(bytes + self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn the_guard_lives_until_the_last_piece_is_taken() {
        let guard = Arc::new(());
        let body = in_pieces(Body::from(vec![7; 2 * PIECE_BYTES + 1]), guard.clone());
        assert_eq!(body.size_hint().exact(), Some(2 * PIECE_BYTES as u64 + 1));
        let mut pieces = body.into_data_stream();
        for bytes in [PIECE_BYTES, PIECE_BYTES, 1] {
            assert_eq!(Arc::strong_count(&guard), 2);
            assert_eq!(pieces.next().await.unwrap().unwrap().len(), bytes);
        }
        assert!(pieces.next().await.is_none());
        drop(pieces);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
