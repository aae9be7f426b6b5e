//! Why a request failed, or the body of its answer ended early.

use std::time::Duration;

use crate::{
    grants::{Denied, Refusal},
    http::addresses::Refused,
    secrets::SecretError,
};

/// A request that failed. Texts of servers in it are bounded, and anything may be in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    #[error("{0}")]
    Denied(Denied),
    #[error("what this attempt is allowed cannot be looked up now; try again")]
    GrantsUnavailable,
    /// A placeholder stands where its secret must not go.
    #[error("{0}")]
    Secret(String),
    #[error("{0}")]
    SecretUnavailable(String),
    #[error("{host} has an address that may not be reached: {refused}{}", advice(.refused))]
    AddressRefused { host: String, refused: Refused },
    #[error("{host} is an address of this service itself")]
    OwnAddress { host: String },
    #[error("the URL cannot be used: {0}")]
    InvalidUrl(String),
    #[error("the method {0} is not allowed")]
    Method(&'static str),
    #[error("the URL is longer than {0} bytes")]
    UrlTooLong(usize),
    #[error("the head of the request is larger than {max} bytes or {fields} fields")]
    RequestHead { max: usize, fields: usize },
    #[error("the attempt has made {0} requests, which is its limit")]
    TooManyRequests(u64),
    #[error("the requests of this attempt have {0} bytes, which is its limit")]
    BytesOut(u64),
    #[error("the answers to this attempt have {0} bytes, which is its limit")]
    BytesIn(u64),
    #[error("the tenant's limit of {0} in a minute is reached")]
    TenantLimit(&'static str),
    #[error("looking up the name took longer than {0:?}")]
    ResolveTimeout(Duration),
    #[error("there is no such name")]
    NoSuchName,
    #[error("the name cannot be looked up: {0}")]
    Resolve(String),
    #[error("the server refused the connection")]
    ConnectionRefused,
    #[error("connecting, with the handshake of TLS, took longer than {0:?}")]
    ConnectTimeout(Duration),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the server is not trusted: {0}")]
    Certificate(String),
    #[error("the handshake of TLS failed: {0}")]
    Tls(String),
    #[error("the server did not begin its answer within {0:?}")]
    FirstByteTimeout(Duration),
    #[error("the server sends the body of its answer slower than {least_rate} bytes a second, or paused for too long")]
    TooSlow { least_rate: u64 },
    #[error("the head of the answer is larger than the limit")]
    ResponseHead,
    #[error("the connection ended before the answer was complete")]
    Incomplete,
    #[error("the connection was closed before the answer began")]
    Closed,
    #[error("the server does not speak HTTP as it should: {0}")]
    Protocol(String),
    #[error("the guest did not finish the body of its request")]
    Aborted,
    #[error("this process is stopping")]
    Stopping,
    #[error("the certificates of authorities cannot be read: {0}")]
    Authorities(String),
}

fn advice(refused: &Refused) -> String {
    match refused {
        Refused::NotPublic(range) => {
            format!("; an operator can allow such addresses by `network {}` or a part of it", range.network)
        }
        Refused::Metadata => String::new(),
    }
}

impl HttpError {
    /// Texts of other programs, cut.
    pub(crate) fn text(error: impl std::fmt::Display) -> String {
        error.to_string().chars().take(256).collect()
    }
}

impl From<SecretError> for HttpError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Refused(Refusal::Unavailable(_)) => Self::GrantsUnavailable,
            SecretError::Unavailable(text) => Self::SecretUnavailable(text),
            other => Self::Secret(other.to_string()),
        }
    }
}
