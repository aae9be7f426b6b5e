//! Errors of a call: the server's problems with their codes, and failures before an answer.

use serde::Deserialize;
use umbel_model::JobId;
use umbel_tls::Refusal;

use crate::canvas::CanvasError;

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's address cannot be used.
    #[error("the server's address {0:?} cannot be used: it must start with http:// or https://")]
    Address(String),
    /// The authorities that are to be trusted cannot be read.
    #[error("the server's certificate could not be checked: {0}")]
    Authorities(String),
    /// The server's certificate was refused, or it speaks no TLS. Nothing was sent.
    #[error("{url}: {refusal}; {}", refusal.help("`ClientOptions::ca_file`"))]
    Tls { url: String, refusal: Refusal },
    /// The request cannot be written: a token or a key with characters that no header takes, a value that is not JSON.
    #[error("the request cannot be written: {0}")]
    Request(String),
    /// No connection, or one that broke, or no answer in time. `cause` is the innermost reason.
    #[error("{url} does not answer{}{cause}", if cause.is_empty() { "" } else { ": " })]
    Unreachable { url: String, cause: String },
    /// The server refused, and said why.
    #[error(transparent)]
    Problem(Box<Problem>),
    /// A refusal without a problem: something between here and the server, or no Umbel at all.
    #[error("the server answered with status {status}")]
    Status { status: u16 },
    /// An answer that cannot be read.
    #[error("the server's answer cannot be read; is it an umbel of another version?")]
    BadAnswer,
    /// An answer of more bytes than `MAX_ANSWER_BYTES`.
    #[error("the server's answer has more than {0} bytes")]
    AnswerTooLarge(usize),
    /// The bytes of a blob that arrived are not those of its digest.
    #[error("the bytes that arrived are not those of the blob {0}")]
    DamagedBlob(String),
    /// The canvas or the call cannot be built.
    #[error(transparent)]
    Canvas(#[from] CanvasError),
    /// It is not over after the wait. It goes on: wait again, or cancel it.
    #[error("{id} is {state} after the wait")]
    WaitTimeout { id: JobId, state: &'static str },
    /// It succeeded, but its result is too large for an answer (`Client::result` reads that of a job by itself), or was
    /// deleted: `too_large`, `gone`.
    #[error("the result of {id} is not in the answer: {why}")]
    ResultOmitted { id: JobId, why: String },
    /// It ended without a result.
    #[error("{id} {state}: {message}")]
    NotSucceeded { id: JobId, state: &'static str, kind: String, message: String },
}

/// A failure as the server tells it (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, Default, Deserialize, thiserror::Error)]
#[error("{}", self.message())]
pub struct Problem {
    #[serde(default)]
    pub status: u16,
    /// Stable; docs/errors.md explains each.
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: String,
    /// True when the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// The places in the request that are wrong.
    #[serde(default)]
    pub errors: Vec<FieldError>,
    #[serde(default)]
    pub request_id: String,
}

/// One place in the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FieldError {
    /// JSON pointer into the request's body.
    pub pointer: String,
    pub detail: String,
}

impl Problem {
    /// Title and detail in one line.
    pub fn message(&self) -> String {
        match (self.title.is_empty(), self.detail.is_empty()) {
            (true, _) => self.detail.clone(),
            (false, true) => self.title.clone(),
            (false, false) => format!("{}: {}", self.title, self.detail),
        }
    }
}

impl Error {
    /// The stable code of the server's problem.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// The HTTP status, when there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            Self::Status { status } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same call may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => problem.retryable && matches!(problem.status, 502..=504),
            Self::Status { status } => matches!(status, 502..=504),
            _ => false,
        }
    }

    /// Whether the server refused the call, before it did anything, because the tenant has too many under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.code() == Some("too_many_requests")
    }

    /// The failure in an answer with this status.
    pub(crate) fn of_answer(status: u16, body: &str) -> Self {
        match serde_json::from_str::<Problem>(body) {
            Ok(problem) if !(problem.code.is_empty() && problem.title.is_empty()) => {
                // The line of the answer is what counts, whatever the body says of it.
                Self::Problem(Box::new(Problem { status, ..problem }))
            }
            _ => Self::Status { status },
        }
    }

    pub(crate) fn of_transport(url: &str, error: &reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::Request(innermost(error).unwrap_or_else(|| error.to_string()));
        }
        if let Some(refusal) = Refusal::of(error).filter(Refusal::is_final) {
            return Self::Tls { url: url.to_owned(), refusal };
        }
        let cause = if error.is_timeout() { Some("no answer in time".to_owned()) } else { innermost(error) };
        Self::Unreachable { url: url.to_owned(), cause: cause.unwrap_or_default() }
    }
}

fn innermost(error: &reqwest::Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    let mut last = None;
    while let Some(cause) = source {
        last = Some(cause.to_string());
        source = cause.source();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_code_its_places_and_the_status_of_the_answer() {
        let body = r#"{"type":"urn:x","title":"The arguments do not fit the task","status":422,"detail":"/args/0: x",
            "code":"invalid_arguments","retryable":false,"errors":[{"pointer":"/args/0","detail":"not a number"}]}"#;
        let Error::Problem(problem) = Error::of_answer(422, body) else { panic!("a problem") };
        assert_eq!((problem.code.as_str(), problem.status), ("invalid_arguments", 422));
        assert_eq!(problem.errors, [FieldError { pointer: "/args/0".into(), detail: "not a number".into() }]);
        assert_eq!(problem.to_string(), "The arguments do not fit the task: /args/0: x");
    }

    #[test]
    fn an_answer_of_somebody_else_is_a_status_only() {
        for body in ["<html>", "{}", "[]", ""] {
            assert!(matches!(Error::of_answer(502, body), Error::Status { status: 502 }), "{body}");
        }
        assert!(Error::of_answer(502, "").is_transient() && !Error::of_answer(404, "").is_transient());
    }
}
