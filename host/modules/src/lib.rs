//! Modules at rest: the uploaded bytes by their digest, and the native code compiled from them; and the large values of
//! jobs.
//!
//! It must not know wasmtime, brokers or HTTP.
//!
//! Invariants:
//! - A blob is found under the SHA-256 of its bytes; it is checked when it is written and whenever it is read.
//! - A value is found under the tenant of who asks, its job and its SHA-256, and is checked as blobs are.
//! - Nothing is half-visible: bytes are written to a temporary name, synced and renamed.
//! - Compiled code leaves the cache only with a MAC by the host's key over (engine, digest, code); whatever does not
//!   have one is deleted, never returned.

mod code_cache;
mod error;
mod host_key;
mod inspector;
mod store;
mod values;

pub use code_cache::{CodeCache, DEFAULT_MAX_CODE_BYTES};
pub use error::Error;
pub use host_key::HostKey;
pub use inspector::{InspectError, Inspector};
pub use store::{DEFAULT_MAX_MODULE_BYTES, ModuleStore, Stored};
pub use values::StoredValue;
