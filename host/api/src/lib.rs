//! The HTTP API v1: modules, tasks, jobs, workflows, bulk actions, queues, routes, the dead set, workers.
//!
//! Invariants: every request but `GET /livez` is authenticated before anything else is read; every body, list, wait
//! and the number of requests at once have limits; every failure is an RFC 9457 problem with a stable code that
//! `docs/errors.md` explains; what a caller sent never reaches the log raw. This is the only crate that knows HTTP, and
//! it must not know wasmtime: what it needs of an upload comes through `umbel_modules::Inspector`.

mod admission;
mod approval_check;
mod approvals;
mod auth;
mod blob_range;
mod body;
mod canvas_schema;
mod config;
mod connections;
mod control_layers;
mod controls;
mod deployment;
mod etag;
mod event_stream;
mod extract;
mod footprint;
mod graph_svg;
mod guarded_body;
mod handshake;
mod id_generator;
mod job_detail;
mod json_limits;
mod known_queries;
mod middleware;
mod module_records;
mod module_rollback;
mod openapi;
mod outcome;
mod paging;
mod problem;
mod records;
mod redrive;
mod router;
mod routes;
mod schedules;
mod schemas;
mod serve;
mod state;
mod storage_quota;
mod submission;
mod task_cache;
mod task_source;
mod task_store;
mod time;
mod views;
mod waits_for;
mod workflow_submission;
mod workflow_tree;
mod write_timeout;

pub use auth::{NewToken, TokenInfo, create_token, has_several_tenants, list_tokens, revoke_token};
pub use config::ApiConfig;
pub use problem::{Code, Problem};
pub use router::{openapi, router};
pub use serve::serve;
pub use state::Api;
pub use task_source::task_source;

/// Why an operation outside of a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Broker(#[from] umbel_broker::Error),
    /// A token's name is for people, and has limits.
    #[error("the name of a token must have 1 to 64 bytes and no control characters")]
    TokenName,
    /// No room for another token.
    #[error("the broker holds as many tokens as it can; delete one first")]
    TooManyTokens,
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}
