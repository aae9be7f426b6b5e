//! The body of an answer without the values of the secrets that were sent: asterisks stand where they were, so that its length stays.
//!
//! Only as the bytes come: what a server compressed is not looked into.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use crate::{
    http::{answer_body::AnswerBody, error::HttpError},
    secrets::{AttemptSecrets, mask, mask_fields},
};

/// Bytes that are searched at once.
const GATHERED_BYTES: usize = 64 << 10;

/// What a value may begin at the end of is held back until more is there.
struct Masked {
    inner: AnswerBody,
    secrets: Arc<AttemptSecrets>,
    held: Bytes,
    /// What is there and was not searched: opening the values for each small piece would cost too much.
    gathered: BytesMut,
    /// The last frame: it waits behind what was held back.
    last: Option<Frame<Bytes>>,
    ended: bool,
}

/// An answer's body that is searched while it is read.
pub(crate) fn masked(inner: AnswerBody, secrets: Arc<AttemptSecrets>) -> AnswerBody {
    Masked { inner, secrets, held: Bytes::new(), gathered: BytesMut::new(), last: None, ended: false }.boxed_unsync()
}

impl Masked {
    /// What can be passed on of the bytes that are there.
    fn search(&mut self) -> Bytes {
        let forms = self.secrets.forms();
        let mut all = BytesMut::with_capacity(self.held.len() + self.gathered.len());
        all.extend_from_slice(&self.held);
        all.extend_from_slice(&self.gathered);
        self.gathered.clear();
        mask(&forms, &mut all);
        let begun = forms.iter().map(|forms| forms.begun_at_end(&all)).max().unwrap_or(0);
        self.held = all.split_off(all.len() - begun).freeze();
        all.freeze()
    }
}

impl Body for Masked {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        loop {
            if this.ended {
                if !this.held.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.held)))));
                }
                return Poll::Ready(this.last.take().map(Ok));
            }
            let polled = Pin::new(&mut this.inner).poll_frame(cx);
            let is_pending = polled.is_pending();
            match polled {
                Poll::Pending => {}
                Poll::Ready(None) => this.ended = true,
                Poll::Ready(Some(Err(error))) => {
                    (this.ended, this.held) = (true, Bytes::new());
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.gathered.extend_from_slice(&data),
                    Err(mut frame) => {
                        if let Some(fields) = frame.trailers_mut() {
                            mask_fields(&this.secrets.forms(), fields);
                        }
                        (this.ended, this.last) = (true, Some(frame));
                    }
                },
            }
            let is_due = is_pending || this.ended || this.gathered.len() >= GATHERED_BYTES;
            if is_due && !this.gathered.is_empty() {
                let whole = this.search();
                if !whole.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(whole))));
                }
            }
            if is_pending {
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.ended || self.inner.is_end_stream();
        is_over && self.held.is_empty() && self.gathered.is_empty() && self.last.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = (self.held.len() + self.gathered.len()) as u64;
        let mut hint = self.inner.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(hint.lower() + held);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::secrets::tests::{name, secrets};

    #[tokio::test]
    async fn a_value_is_masked_wherever_the_pieces_of_a_body_end() {
        let attempt = secrets(&[("key", "the value", &[], false, true)], &["secret key reveal"]);
        attempt.reveal(&name("key")).await.unwrap();
        let text = "xthe value, the valu, the value";
        for at in 0..text.len() {
            let pieces = [&text[..at], "", &text[at..]].map(|piece| Ok(Frame::data(Bytes::from(piece.to_owned()))));
            let body = StreamBody::new(futures::stream::iter(pieces)).boxed_unsync();
            let read = masked(body, attempt.clone()).collect().await.unwrap().to_bytes();
            assert_eq!(read, "x*********, the valu, *********", "{at}");
        }
    }
}
