//! One attempt: its store, its limits, the calls to the host that it may make, and how it ends.

pub(crate) mod blob_bounds;
pub(crate) mod blob_calls;
pub(crate) mod call;
pub(crate) mod config_calls;
mod frames;
pub(crate) mod fuel;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod http_calls;
pub(crate) mod json;
pub(crate) mod kv_bounds;
pub(crate) mod kv_calls;
pub(crate) mod limiter;
pub(crate) mod linker;
pub(crate) mod log;
pub(crate) mod map;
pub(crate) mod outcome;
pub(crate) mod run;
pub(crate) mod sockets;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod text;
pub(crate) mod wasi;
pub(crate) mod wasi_calls;
pub(crate) mod wasi_keyvalue;
pub(crate) mod workflow_calls;
