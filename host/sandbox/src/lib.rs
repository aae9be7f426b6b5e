//! The sandbox: compiles modules in a child process, and runs each attempt in a fresh instance under limits.
//!
//! The only crate that names wasmtime. It knows nothing of brokers, HTTP, folders or digests.
//!
//! Invariants:
//! - One `Store` per attempt, dropped after it; nothing of a guest survives its attempt.
//! - Native code is loaded only from a [`VerifiedCode`], which whoever checked its MAC made.
//! - Untrusted bytes are parsed and compiled only in the compiler child, under memory and time limits.
//! - Every way in which a guest can go wrong ends in a named [`umbel_model::Outcome`], never in a panic.

mod attempt;
mod bindings;
mod compile;
mod config;
mod describe;
mod engine;
mod error;
mod prepared;

pub use attempt::{
    host::{Discard, Host, LogLevel, LogLine, Refused},
    run::{Attempt, AttemptInfo, Call, Place},
    stop::{Stop, StopHandle},
    text::deceives,
};
pub use compile::{
    child::compile_child_main,
    gate::GateLimits,
    parent::{CompileLimits, Compiled, Compiler, CompilerCommand},
};
pub use config::{DescribeLimits, GrowthLimits, LogLimits, SandboxConfig};
pub use engine::Sandbox;
pub use error::{CompileCode, CompileError, DescribeError, Error};
pub use prepared::{Prepared, VerifiedCode};
