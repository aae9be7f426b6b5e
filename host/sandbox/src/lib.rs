//! The sandbox: compiles modules in a child process, and runs each attempt in a fresh instance under limits.
//!
//! The only crate that names wasmtime. It must not know brokers, HTTP, folders or digests.
//!
//! Invariants:
//! - One `Store` per attempt, dropped after it; nothing of a guest survives its attempt.
//! - Native code is loaded only from a [`VerifiedCode`], which is made by the code that checked its MAC.
//! - Untrusted bytes are parsed and compiled only in the compiler child, under memory and time limits.
//! - Every failure of a guest ends in a named [`umbel_model::Outcome`], never in a panic.

mod attempt;
mod bindings;
mod compile;
mod config;
mod describe;
mod engine;
mod error;
mod prepared;

pub use attempt::{
    call::{Attempt, AttemptInfo, Call},
    host::{Discard, Host, LogLevel, LogLine, Refused},
    stop::{Stop, StopHandle},
    text::deceives,
};
pub use bindings::{Fire, WorkflowNode};
pub use compile::{
    admission::AdmissionLimits,
    child::compile_child_main,
    parent::{CompileLimits, Compiled, Compiler, CompilerCommand},
    turns::Turn,
};
pub use config::{BlobCallLimits, DescribeLimits, KvCallLimits, LogLimits, SandboxConfig, WorkflowCallLimits};
pub use describe::Described;
pub use engine::Sandbox;
pub use error::{CompileCode, CompileError, DescribeError, Error};
pub use prepared::{Prepared, VerifiedCode};
