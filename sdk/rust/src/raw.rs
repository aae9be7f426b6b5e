//! The contract itself, as generated from `wit/`: for modules that cannot or do not want to use `#[task]`.
//!
//! Implement [`Guest`] for a type and export it:
//!
//! ```ignore
//! umbel::raw::export!(MyModule with_types_in umbel::raw);
//! ```
//!
//! Natively the types work and the imports must not be called: there is no host.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

pub mod declaring;
#[cfg(target_arch = "wasm32")]
mod report;

wit_bindgen::generate!({
    world: "module",
    path: "../../wit",
    generate_all,
    pub_export_macro: true,
    default_bindings_module: "umbel::raw",
    additional_derives: [PartialEq],
});

pub use self::declaring::Declared;
pub use self::exports::umbel::task::guest::Guest;
pub use self::umbel::task::context::Attempt;
pub use self::umbel::task::types::{Failure, Outcome, Parameter, Retryable, TaskDescription};
pub use self::wasi::logging::logging::Level;

/// Sends panics, and records of the `log` (and `tracing`) crates, to the job's log. `module![…]` does it by itself;
/// a module of your own calls it first in `run`.
#[cfg(target_arch = "wasm32")]
pub use report::install as install_reports;
