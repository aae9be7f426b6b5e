//! Outgoing HTTP: one `send` is the whole network policy.

mod addresses;
mod answer_body;
mod attempt;
mod client;
mod config;
mod connect;
mod error;
mod failures;
mod headers;
mod masked_body;
mod own;
mod pace;
mod pool;
mod request_body;
mod resolve;
mod target;
mod tls;
mod traffic;

pub use addresses::{Range, Refused, check as check_address};
pub use answer_body::AnswerBody;
pub use attempt::{AttemptHttp, Sent, Timeouts};
pub use client::HttpClient;
pub use config::{AttemptLimits, HttpConfig, PoolLimits, TenantLimits, TimeLimits};
pub use error::HttpError;
pub use headers::FORBIDDEN_HEADERS;
pub use own::OwnAddresses;
pub use request_body::GuestBody;
pub use tls::check_ca_file;
