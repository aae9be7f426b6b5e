//! HTTP requests, as far as the job is allowed to send them.
//!
//! ```
//! use umbel::{http, prelude::*};
//!
//! #[derive(Deserialize)]
//! struct Rate { eur: f64 }
//!
//! /// Asks for today's exchange rate.
//! #[task(time_limit = "30s", max_retries = 5, retry_backoff = "1s..1m")]
//! fn rate(currency: String) -> TaskResult<f64> {
//!     let url = format!("https://rates.example.com/v1/{currency}");
//!     let rate: Rate = http::get(url).header("accept", "application/json").send()?.success()?.json()?;
//!     Ok(rate.eur)
//! }
//! umbel::module![rate];
//!
//! # fn main() {
//! // On native tests there is no network: a fake gives the answers and records the requests.
//! let http = http::Fake::start();
//! http.answer("GET", "https://rates.example.com/v1/usd", http::Answer::json(200, &serde_json::json!({"eur": 0.9})));
//! assert_eq!(rate("usd".into()).unwrap(), 0.9);
//! assert_eq!(http.requests()[0].header("accept"), Some("application/json"));
//!
//! http.answer("GET", "https://rates.example.com/v1/chf", http::Answer::new(429).header("retry-after", "7"));
//! assert!(rate("chf".into()).unwrap_err().is_retryable());
//! # }
//! # use umbel::serde_json;
//! ```
//!
//! By `?` what may be better next time (no connection, a status of 429 or 5xx) is tried again, after `Retry-After` where the
//! server says so; what cannot (a request that is denied, a status of 4xx) fails the job for good. The host does not follow
//! redirects: a 3xx is an answer, and [`Response::header`] has its `location`.

#[cfg(not(target_arch = "wasm32"))]
mod fake;
#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(target_arch = "wasm32")]
pub mod raw;

use std::{fmt, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(not(target_arch = "wasm32"))]
use fake::send;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{Answer, Fake, Recorded};
#[cfg(target_arch = "wasm32")]
use host::send;

use crate::{Fatal, Retry, RetryAfter, TaskError};

/// The largest body of an answer that is read, bytes, unless the request says otherwise.
pub const DEFAULT_MAX_BODY_BYTES: usize = 8 << 20;

/// A request for `url`; nothing is sent before [`Request::send`].
pub fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

/// See [`get`].
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

/// See [`get`].
pub fn put(url: impl Into<String>) -> Request {
    Request::new("PUT", url)
}

/// See [`get`].
pub fn delete(url: impl Into<String>) -> Request {
    Request::new("DELETE", url)
}

/// A request that is not sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a request does nothing before `send`"]
pub struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_body_bytes: usize,
    /// What could not be made of what was given.
    pub(crate) problem: Option<String>,
}

impl Request {
    /// A request with any method but `CONNECT` and `TRACE`.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
            timeout: None,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            problem: None,
        }
    }

    /// One more header. `host`, `connection` and others that are about the connection are the host's.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The header `Authorization: Bearer …`, with a token or with what stands for a secret.
    pub fn bearer(self, token: impl AsRef<str>) -> Self {
        let value = format!("Bearer {}", token.as_ref());
        self.header("authorization", value)
    }

    /// The header `Authorization: Basic …`. The password, or the user, may be what stands for a secret.
    pub fn basic(self, user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        let credentials = format!("{}:{}", user.as_ref(), password.as_ref());
        self.header("authorization", format!("Basic {}", base64(credentials.as_bytes())))
    }

    /// The body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The body as JSON, with its content type.
    pub fn json(self, body: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(body) {
            Ok(json) => self.header("content-type", "application/json").body(json),
            Err(error) => Self { problem: Some(format!("the body cannot be written as JSON: {error}")), ..self },
        }
    }

    /// How long to wait for the connection, and then for the answer to begin, and then for each part of it. The host has
    /// limits of its own, and the job's time limit ends all of it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// An answer with a larger body is an error. It must fit into the task's memory.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Sends the request and reads the answer. Any status is an answer: see [`Response::success`].
    pub fn send(self) -> Result<Response, Error> {
        if let Some(problem) = self.problem {
            return Err(Error::new("http_invalid_request", false, problem));
        }
        send(self)
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Method and URL of the request without the query, for errors.
    pub(crate) of: String,
}

impl Response {
    /// Such as 200.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header's first value, if it is text. The name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// All headers, with names in lower case.
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// The body.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The body.
    pub fn into_bytes(self) -> Vec<u8> {
        self.body
    }

    /// The body as UTF-8 text.
    pub fn text(self) -> Result<String, Error> {
        let Self { body, of, .. } = self;
        String::from_utf8(body)
            .map_err(|_| Error::new("http_bad_answer", true, format!("{of}: the answer is not UTF-8 text")))
    }

    /// The body read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Error::new("http_bad_answer", true, format!("{}: the answer is not as expected: {e}", self.of))
        })
    }

    /// What the server asks to wait: `Retry-After` in seconds. A date is not read.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }

    /// The answer if its status is 2xx. Another one is an error, which is tried again by `?` for 408, 425, 429 and 5xx, after
    /// `Retry-After` if there is one, and is final otherwise.
    pub fn success(self) -> Result<Self, Error> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let may_help = matches!(self.status, 408 | 425 | 429 | 500..=599);
        let mut error =
            Error::new("http_status", may_help, format!("{}: the server answered {}", self.of, self.status));
        (error.status, error.retry_after) = (Some(self.status), self.retry_after());
        Err(error)
    }
}

/// Why a request has no answer, or not the one that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: &'static str,
    message: String,
    may_help: bool,
    status: Option<u16>,
    retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn new(kind: &'static str, may_help: bool, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), may_help, status: None, retry_after: None }
    }

    /// A short stable name, which is the kind of the job's failure: `http_denied` (no permission; the job's log says which
    /// one), `http_status`, `http_timeout`, `http_connection`, `http_tls`, `http_dns`, `http_bad_answer`, `http_limit`,
    /// `http_invalid_request`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the same request may have an answer later.
    pub fn may_be_retried(&self) -> bool {
        self.may_help
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        match (error.may_help, error.retry_after) {
            (false, _) => Fatal::new(error.message).kind(error.kind).into(),
            (true, None) => Retry::new(error.message).kind(error.kind).into(),
            (true, Some(delay)) => RetryAfter::new(delay, error.message).kind(error.kind).into(),
        }
    }
}

/// Base64 with padding: too little to need a library.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let all = group.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at <= group.len() { digit } else { '=' });
        }
    }
    text
}

/// Method and URL for people. The query may have secrets in it.
pub(crate) fn shown(method: &str, url: &str) -> String {
    let url: String = url.split(['?', '#']).next().unwrap_or_default().chars().take(256).collect();
    format!("{method} {url}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Outcome;

    #[test]
    fn credentials_are_written_as_servers_read_them() {
        for (password, text) in [("", "bWU6"), ("p", "bWU6cA=="), ("pw", "bWU6cHc="), ("pw?", "bWU6cHc/")] {
            assert_eq!(get("https://a.test/").basic("me", password).headers[0].1, format!("Basic {text}"));
        }
    }

    fn outcome(answer: Answer) -> Outcome {
        let http = Fake::start();
        http.answer("GET", "https://a.test/", answer);
        let error = get("https://a.test/").send().and_then(Response::success).unwrap_err();
        TaskError::from(error).into_outcome()
    }

    #[test]
    fn statuses_are_final_or_tried_again_and_the_servers_delay_is_kept() {
        assert!(matches!(outcome(Answer::new(404)), Outcome::Fatal(failure) if failure.kind == "http_status"));
        let delay = |answer| match outcome(answer) {
            Outcome::Error(retry) => retry.retry_after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(delay(Answer::new(503)), None);
        assert_eq!(delay(Answer::new(429).header("Retry-After", " 7 ")), Some(7_000));
        assert_eq!(delay(Answer::new(429).header("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")), None);
    }

    #[test]
    fn a_fake_records_what_was_sent_and_denies_what_it_does_not_know() {
        let http = Fake::start();
        http.answer("POST", "https://a.test/x?y=z", Answer::json(201, &[1, 2]));
        let answer = post("https://a.test/x?y=z").header("a", "b").json(&"body").send().unwrap();
        assert_eq!((answer.status(), answer.json::<Vec<u8>>().unwrap()), (201, vec![1, 2]));
        let [sent] = http.requests().try_into().unwrap();
        assert_eq!((sent.method(), sent.url(), sent.header("A")), ("POST", "https://a.test/x?y=z", Some("b")));
        assert_eq!((sent.body(), sent.header("content-type")), (&b"\"body\""[..], Some("application/json")));

        let error = get("https://b.test/?secret").send().unwrap_err();
        assert_eq!((error.kind(), error.may_be_retried()), ("http_denied", false));
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn answers_of_a_fake_come_in_their_order_and_the_last_one_stays() {
        let http = Fake::start();
        http.answer("GET", "https://a.test/", Answer::new(503)).answer(
            "GET",
            "https://a.test/",
            Answer::text(200, "ok"),
        );
        let status = || get("https://a.test/").send().unwrap().status();
        assert_eq!([status(), status(), status()], [503, 200, 200]);
        http.fail("GET", "https://a.test/", "http_timeout");
        let error = get("https://a.test/").send().unwrap_err();
        assert_eq!((error.kind(), error.may_be_retried()), ("http_timeout", true));
    }

    #[test]
    fn a_body_that_is_too_large_is_an_error() {
        let http = Fake::start();
        http.answer("GET", "https://a.test/", Answer::text(200, "12345"));
        let error = get("https://a.test/").max_body_bytes(4).send().unwrap_err();
        assert_eq!(error.kind(), "http_limit");
        assert_eq!(get("https://a.test/").max_body_bytes(5).send().unwrap().text().unwrap(), "12345");
    }
}
