//! What the HTTP library failed with, in our words.

use std::{error::Error, io};

use crate::http::error::HttpError;

/// Before the head of the answer was there. `of_request` is what the body of the request ended with.
pub(crate) fn of_request(error: &hyper::Error, of_request: Option<HttpError>) -> HttpError {
    if let Some(error) = of_request {
        return error;
    }
    if error.is_parse_too_large() {
        return HttpError::ResponseHead;
    }
    if error.is_parse() {
        return HttpError::Protocol(HttpError::text(error));
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_cut(error) {
        return HttpError::Closed;
    }
    other(error)
}

/// In the body of the answer.
pub(crate) fn of_body(error: &hyper::Error) -> HttpError {
    if error.is_parse_too_large() {
        return HttpError::ResponseHead;
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_cut(error) {
        return HttpError::Incomplete;
    }
    other(error)
}

fn other(error: &hyper::Error) -> HttpError {
    let cause = causes(error).last();
    HttpError::Protocol(cause.map_or_else(|| HttpError::text(error), HttpError::text))
}

/// Whether the connection broke.
fn is_cut(error: &hyper::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
            )
        })
    })
}

fn causes<'e>(error: &'e hyper::Error) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}
