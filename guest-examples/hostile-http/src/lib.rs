//! Everything that a guest can do wrong with HTTP. Each task does one thing, and the host must bound it.

#![cfg_attr(not(target_arch = "wasm32"), allow(unused))]

use umbel::prelude::*;

/// What a number of requests ended with.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Counts {
    pub answered: u32,
    pub denied: u32,
    pub limited: u32,
    pub other: u32,
}

#[cfg(target_arch = "wasm32")]
mod guest {
    use umbel::http::raw::{
        outgoing_handler::handle,
        streams::StreamError,
        types::{
            ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingRequest, Scheme,
            http_error_code,
        },
    };

    use super::Counts;

    pub fn request(method: Method, authority: &str) -> OutgoingRequest {
        let request = OutgoingRequest::new(Fields::new());
        let _ = request.set_method(&method);
        let _ = request.set_scheme(Some(&Scheme::Http));
        let _ = request.set_authority(Some(authority));
        request
    }

    pub fn begin(authority: &str) -> Result<FutureIncomingResponse, ErrorCode> {
        handle(request(Method::Get, authority), None)
    }

    pub fn answer(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
        loop {
            match future.get() {
                None => future.subscribe().block(),
                Some(answer) => return answer.unwrap_or(Err(ErrorCode::LoopDetected)),
            }
        }
    }

    impl Counts {
        pub fn count<T>(&mut self, answer: &Result<T, ErrorCode>) {
            match answer {
                Ok(_) => self.answered += 1,
                Err(ErrorCode::HttpRequestDenied) => self.denied += 1,
                Err(ErrorCode::InternalError(_) | ErrorCode::ConnectionLimitReached) => self.limited += 1,
                Err(_) => self.other += 1,
            }
        }
    }

    pub fn name<T>(answer: Result<T, ErrorCode>) -> String {
        match answer {
            Ok(_) => "answered".to_owned(),
            Err(code) => format!("{code:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
        }
    }

    /// Begins requests and drops them at once.
    pub fn flood(authority: &str, requests: u32) -> Counts {
        let mut counts = Counts::default();
        for _ in 0..requests {
            counts.count(&begin(authority));
        }
        counts
    }

    /// Asks one after the other, waits for the head, and drops the body unread.
    pub fn drop_bodies(authority: &str, requests: u32) -> Counts {
        let mut counts = Counts::default();
        for _ in 0..requests {
            counts.count(&begin(authority).and_then(|future| answer(&future)));
        }
        counts
    }

    /// Begins requests and keeps all handles to the end.
    pub fn hold(authority: &str, requests: u32) -> Counts {
        let mut counts = Counts::default();
        let mut held = Vec::new();
        for _ in 0..requests {
            let begun = begin(authority);
            counts.count(&begun);
            held.extend(begun);
        }
        std::mem::forget(held);
        counts
    }

    /// Writes a body until nobody takes it, and says what the request ended with.
    pub fn upload(authority: &str) -> String {
        let request = request(Method::Post, authority);
        let Ok(body) = request.body() else { return "no body".to_owned() };
        let future = match handle(request, None) {
            Ok(future) => future,
            Err(code) => return name::<()>(Err(code)),
        };
        let stream = body.write();
        while let Ok(stream) = &stream {
            if stream.blocking_write_and_flush(&[b'x'; 4096]).is_err() {
                break;
            }
        }
        drop(stream);
        let ended = name(answer(&future));
        drop(body);
        ended
    }

    /// Writes the beginning of a body and returns.
    pub fn unfinished(authority: &str) {
        let request = request(Method::Post, authority);
        let Ok(body) = request.body() else { return };
        let future = handle(request, None);
        if let Ok(stream) = body.write() {
            let _ = stream.blocking_write_and_flush(b"half");
            // Until it is sent.
            let _ = stream.blocking_write_and_flush(b"and");
            let _ = stream.blocking_write_and_flush(b"more");
        }
        std::mem::forget((future, body));
    }

    /// Reads a body to its end, and says what ended it and how many bytes there were.
    pub fn read(authority: &str) -> (String, u64) {
        let response = match begin(authority).and_then(|future| answer(&future)) {
            Ok(response) => response,
            Err(code) => return (name::<()>(Err(code)), 0),
        };
        let Ok(body) = response.consume() else { return ("no body".to_owned(), 0) };
        let Ok(stream) = body.stream() else { return ("no stream".to_owned(), 0) };
        let mut bytes = 0;
        loop {
            match stream.blocking_read(u64::MAX) {
                Ok(part) => bytes += part.len() as u64,
                Err(StreamError::Closed) => return ("closed".to_owned(), bytes),
                Err(StreamError::LastOperationFailed(error)) => {
                    let code = http_error_code(&error);
                    return (code.map_or("unnamed".to_owned(), |code| name::<()>(Err(code))), bytes);
                }
            }
        }
    }

    /// Makes header fields for ever.
    pub fn hoard_fields() {
        let mut held = Vec::new();
        loop {
            let fields = Fields::new();
            for n in 0..8 {
                let _ = fields.append(&format!("x-{n}"), &[b'y'; 4096]);
            }
            held.push(fields);
        }
    }

    /// Puts more and more into one.
    pub fn grow_fields() {
        let fields = Fields::new();
        loop {
            let _ = fields.append("x", &[b'y'; 4096]);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod guest {
    use super::Counts;

    pub fn flood(_: &str, _: u32) -> Counts {
        Counts::default()
    }
    pub fn drop_bodies(_: &str, _: u32) -> Counts {
        Counts::default()
    }
    pub fn hold(_: &str, _: u32) -> Counts {
        Counts::default()
    }
    pub fn upload(_: &str) -> String {
        String::new()
    }
    pub fn unfinished(_: &str) {}
    pub fn read(_: &str) -> (String, u64) {
        (String::new(), 0)
    }
    pub fn hoard_fields() {}
    pub fn grow_fields() {}
}

/// Begins requests and drops them at once.
#[task(time_limit = "20s")]
fn flood(authority: String, #[default(10_000)] requests: u32) -> Counts {
    guest::flood(&authority, requests)
}

/// Drops bodies unread.
#[task(time_limit = "20s")]
fn drop_bodies(authority: String, #[default(100)] requests: u32) -> Counts {
    guest::drop_bodies(&authority, requests)
}

/// Holds requests to the end.
#[task(time_limit = "20s")]
fn hold(authority: String, #[default(10_000)] requests: u32) -> Counts {
    guest::hold(&authority, requests)
}

/// Uploads without end.
#[task(time_limit = "20s")]
fn upload(authority: String) -> String {
    guest::upload(&authority)
}

/// Returns in the middle of a body.
#[task(time_limit = "20s")]
fn unfinished(authority: String) {
    guest::unfinished(&authority);
}

/// Reads without end.
#[task(time_limit = "20s")]
fn read(authority: String) -> (String, u64) {
    guest::read(&authority)
}

/// Holds header fields.
#[task(time_limit = "20s")]
fn hoard_fields() {
    guest::hoard_fields();
}

/// Makes one `fields` larger and larger.
#[task(time_limit = "20s")]
fn grow_fields() {
    guest::grow_fields();
}

umbel::module![flood, drop_bodies, hold, upload, unfinished, read, hoard_fields, grow_fields];
