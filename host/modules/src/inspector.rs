//! Inspection of an upload, as the API needs it. Implemented where modules are compiled; the API never sees a compiler.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use umbel_model::{ModuleInfo, TenantId};

/// Why an upload is refused.
///
/// Codes: `not_wasm`, `invalid_module`, `no_contract`, `unknown_import`, `module_too_large`, `module_too_complex`,
/// `compile_timeout`, `compile_memory`, `compile_failed`, `describe_failed`, `describe_invalid`, `invalid_permission`, and those of
/// [`crate::Error::code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct InspectError {
    pub code: String,
    /// For the person who uploaded it: the problem, where it is, and how to solve it.
    pub message: String,
    /// True when the same bytes may pass another time; the refusal must not be remembered.
    pub transient: bool,
}

/// Inspects a module: compiles it, runs its `describe`, and checks the tasks that it returns.
#[async_trait]
pub trait Inspector: Send + Sync + std::fmt::Debug {
    /// Takes seconds for a large module, and is bounded in time and memory. Tenants take turns.
    async fn inspect(&self, tenant: &TenantId, module: Bytes) -> Result<ModuleInfo, InspectError>;
}
