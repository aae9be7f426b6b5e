//! What the API needs to know of an upload. Implemented where modules are compiled; the API never sees a compiler.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use umbel_model::ModuleInfo;

/// Why an upload is refused.
///
/// Codes: `not_wasm`, `invalid_module`, `no_contract`, `unknown_import`, `module_too_large`, `module_too_complex`,
/// `compile_timeout`, `compile_memory`, `compile_failed`, `describe_failed`, `describe_invalid`, and those of
/// [`crate::Error::code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct InspectError {
    pub code: String,
    /// For the person who uploaded it: what was wrong, where, and what to do.
    pub message: String,
    /// True when the same bytes may pass another time; the refusal must not be remembered.
    pub transient: bool,
}

/// Looks into a module: compiles it, asks it for its tasks, and checks what it says.
#[async_trait]
pub trait Inspector: Send + Sync + std::fmt::Debug {
    /// Takes seconds for a large module, and is bounded in time and memory.
    async fn inspect(&self, module: Bytes) -> Result<ModuleInfo, InspectError>;
}
