//! Write tasks for Umbel in Rust.
//!
//! ```
//! use umbel::prelude::*;
//!
//! /// Adds two numbers.
//! #[task(max_retries = 5, retry_backoff = "1s..1m", time_limit = "10s")]
//! fn add(ctx: &Context, x: i64, #[default(1)] y: i64) -> i64 {
//!     ctx.info(format!("attempt {}", ctx.attempt()));
//!     x + y
//! }
//!
//! umbel::module![add];
//!
//! # fn main() {
//! // The function is still a function: test it natively, with a fake context.
//! assert_eq!(add(&Context::fake(), 2, 3), 5);
//! // Or as a host does, by name and with JSON.
//! assert_eq!(umbel_module::run("add", r#"{"x": 41}"#), Ok("42".to_owned()));
//! # }
//! ```
//!
//! Build it for `wasm32-unknown-unknown` as a `cdylib`, and push the file.
//!
//! Invariants of this crate: it compiles natively (there with a fake host) and for the sandbox; it adds nothing to a
//! run but parsing the arguments and writing the result. In the sandbox it holds nothing of the host's crates; natively,
//! with the feature `testing`, it takes the rules of a job's life from `umbel-model`.

// Compiled for tests too: there it is called by hand.
#[cfg(any(test, all(target_arch = "wasm32", not(target_feature = "atomics"), feature = "allocator")))]
mod arena;
pub mod blob;
pub mod canvas;
pub mod config;
mod context;
mod errors;
pub mod http;
pub mod kv;
pub mod raw;
mod run;
mod schema;
pub mod secret;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;

#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics"), feature = "allocator"))]
#[global_allocator]
static ALLOCATOR: arena::GuestAllocator = arena::GuestAllocator;

pub use blob::Blob;
pub use context::{Context, Fire};
#[cfg(not(target_arch = "wasm32"))]
pub use context::{CustomState, LogLine, ProgressReport};
pub use errors::{Fatal, Ignore, Refused, Reject, Retry, RetryAfter, Snooze, TaskError, TaskErrorText, TaskResult};
pub use log;
pub use raw::Level;
pub use schemars;
pub use serde;
pub use serde_json;

/// Makes a function a task, under the function's name.
///
/// The function stays as it was, and is composed by `add::s(2, 3)` and its neighbours: see [`canvas`]. Its parameters are published by name with a JSON Schema each (types implement
/// `Deserialize` and `JsonSchema`), its doc comment is the task's description. The first parameter may be
/// `ctx: &Context`. `#[default(expression)]` before a parameter makes it optional, as does the type `Option`; a doc
/// comment before it describes it.
///
/// It returns any `Serialize` value, or a `Result`: an error by `?` may be retried, [`Fatal`], [`RetryAfter`],
/// [`Snooze`], [`Reject`] and [`Ignore`] say otherwise.
///
/// Options, all checked when the guest is compiled; what is left out is decided by the server's defaults:
///
/// | option | value |
/// |---|---|
/// | `name` | the task's name, if not the function's |
/// | `queue` | where its jobs wait, such as `"critical"` |
/// | `priority` | 0 to 9, 9 first |
/// | `max_retries` | a number, or `"unlimited"` |
/// | `retry_backoff` | `"1s..10m"` doubles from the first to the last, spread at random; `"5s"` always waits that long; `"off"` retries at once |
/// | `retry_multiplier` | each delay of the backoff is so many times the one before it, 1 to 100; 2 unless set |
/// | `retry_jitter` | `true` or `false`: spread the delay over 0 to itself |
/// | `retry_on`, `dont_retry_on` | kinds of failure, such as `["Timeout", "trap:*"]`: a trap is retried only if it is named |
/// | `retry_fuel_factor` | each retry gets so many times the fuel of the attempt before it |
/// | `throws` | kinds that are expected, and no alarm |
/// | `time_limit`, `soft_time_limit` | durations such as `"30s"`; soft below hard |
/// | `fuel` | about one unit an instruction: a number, or `"10G"` |
/// | `memory` | such as `"64MiB"` |
/// | `acks` | `"late"`: run again when its worker is lost; `"early"`: at most once |
/// | `max_deliveries` | how many lost workers the job may cost |
/// | `on_worker_lost` | `"requeue"`, `"dead"` (fails, to the dead set) or `"fail"` |
/// | `expires` | not started after so long: dropped |
/// | `result_ttl`, `dead_ttl` | how long a result, a failed job is kept |
/// | `ignore_result`, `store_errors_even_if_ignored` | `true` or `false`: whether results and messages of failures are kept |
/// | `rate_limit`, `rate_burst`, `concurrency` | starts such as `"100/m"`, so many at once; jobs that run at the same time |
/// | `limit_key` | an expression over the arguments, such as `"kwargs.customer_id"` |
/// | `key_rate_limit`, `key_rate_burst`, `key_concurrency` | the same limits for each value of `limit_key` |
/// | `unique` | `"first"`, `"latest"` or `"off"`: which of two jobs that are alike stays |
/// | `unique_by`, `unique_for` | what makes them alike, such as `["kwargs.order_id"]`; for how long |
/// | `debounce`, `debounce_max_wait` | starts so long after the last submission, but no later than that after the first |
/// | `permissions` | what the task asks to reach besides its module, such as `["secret api_key", "kv cursors"]` |
pub use umbel_macros::task;

/// Exports tasks: `umbel::module![add, total]`, once in a crate, at its top level.
///
/// What all of them ask to reach stands at the end, and what one of them asks for besides in its `#[task]`. A text that is no
/// permission is a compile error:
///
/// ```
/// # use umbel::prelude::*;
/// #[task(permissions = ["secret api_key"])]
/// fn import() {}
///
/// umbel::module![import, permissions: ["http GET https://api.example.com/v1/", "kv cursors"]];
/// # fn main() {
/// assert_eq!(umbel_module::permissions().len(), 3);
/// # }
/// ```
///
/// Natively it makes a module `umbel_module` with `describe()`, `permissions()`, `run(task, json)` and `run_with(&context,
/// task, json)`, so that tests see the module as a host does.
pub use umbel_macros::module;

/// The names that most tasks need.
pub mod prelude {
    pub use crate::canvas::{Canvas, OnFailure, Settled, Signature, StepError, canvas, chain, chord, group};
    pub use crate::{
        Context, Fatal, Ignore, Reject, Retry, RetryAfter, Snooze, TaskError, TaskResult, schemars::JsonSchema, task,
    };
    pub use serde::{Deserialize, Serialize};
}

/// For the macros' code only.
#[doc(hidden)]
pub mod __private {
    pub use crate::canvas::{Argument, Each, Json, Signature, TakesArguments, partial, step};
    #[cfg(target_arch = "wasm32")]
    pub use crate::run::enter;
    pub use crate::{
        run::{
            IsResult, IsValue, Module, PlainShape, ResultShape, Shape, Task, TaskFailure, arguments, declared, is_new,
            unknown_task,
        },
        schema::{AnyReturns, PlainReturns, ResultReturns, Returns, default_json, parameter},
    };
    pub use serde;
}
