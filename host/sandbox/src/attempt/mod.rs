//! One attempt: its store, its limits, what it may ask of the host, and how it ends.

pub(crate) mod each;
pub(crate) mod growth;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod limiter;
pub(crate) mod linker;
pub(crate) mod log;
pub(crate) mod outcome;
pub(crate) mod run;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod text;
pub(crate) mod wasi;
