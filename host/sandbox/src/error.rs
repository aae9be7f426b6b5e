//! The errors of this crate. A failure of a guest is an outcome and not an error.

use serde::{Deserialize, Serialize};
use umbel_model::named_enum;

/// The sandbox itself cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the sandbox cannot start: {0}")]
    Engine(String),
    #[error("the sandbox cannot start its clock thread: {0}")]
    Ticker(#[source] std::io::Error),
    /// Not the output of this engine, or more than a slot holds.
    #[error("the compiled module cannot be loaded: {0}")]
    Load(String),
}

named_enum! {
    /// Why a module was not compiled.
    #[non_exhaustive]
    pub enum CompileCode {
        /// The bytes are something else.
        NotWasm = "not_wasm",
        /// WebAssembly, but truncated, malformed or of a proposal that is off.
        InvalidModule = "invalid_module",
        /// It does not export the guest interface.
        NoContract = "no_contract",
        /// It imports something that nobody provides; the message names it.
        UnknownImport = "unknown_import",
        ModuleTooLarge = "module_too_large",
        /// It is beyond a limit that keeps compiling cheap; the message names the limit.
        ModuleTooComplex = "module_too_complex",
        /// It takes more time than a module of its size may, or the machine is too busy.
        CompileTimeout = "compile_timeout",
        /// It takes more memory than a module of its size may, or the machine has none left.
        CompileMemory = "compile_memory",
        /// The compiler crashed on it, or could not be started.
        CompileFailed = "compile_failed",
    }
}

/// A module that was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    pub code: CompileCode,
    /// The problem and how to solve it, for the person who uploaded the module.
    pub message: String,
    /// The same bytes may compile another time: the machine was the cause and not the module.
    pub is_transient: bool,
}

impl CompileError {
    pub(crate) fn new(code: CompileCode, message: impl Into<String>) -> Self {
        // Names inside messages come from the module: keep them short and free of control characters.
        let message = crate::attempt::text::clean(&message.into(), 2_048);
        Self { code, message, is_transient: false }
    }

    pub(crate) fn transient(code: CompileCode, message: impl Into<String>) -> Self {
        Self { is_transient: true, ..Self::new(code, message) }
    }
}

/// Why a module's description is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// `describe` did not return: it trapped, spun or allocated too much. `kind` is the outcome's.
    #[error("describe() failed with {kind}: {message}")]
    Failed { kind: String, message: String },
    /// It returned something that cannot be used.
    #[error("describe() returned something invalid: {0}")]
    Invalid(String),
    /// It declares something that is no permission, or none that it may declare; the message says what to write.
    #[error("{0}")]
    Permission(String),
}

impl DescribeError {
    /// `describe_failed`, `describe_invalid` or `invalid_permission`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "describe_failed",
            Self::Invalid(_) => "describe_invalid",
            Self::Permission(_) => "invalid_permission",
        }
    }
}
