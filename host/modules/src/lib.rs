//! Storage of modules: the uploaded bytes by their digest, and the native code compiled from them. Also of the large values
//! of jobs, and of the blobs of tenants.
//!
//! It must not know wasmtime, brokers or HTTP.
//!
//! Invariants:
//! - A module is found under the SHA-256 of its bytes; it is checked when it is written and whenever it is read.
//! - A value is found under the reader's tenant, its job and its SHA-256, and is checked as modules are.
//! - A blob is found under the reader's tenant and its SHA-256. It is read in parts, so whoever reads all of it checks it.
//! - Nothing is half-visible: bytes are written to a temporary name, synced and renamed.
//! - The cache returns compiled code only with a MAC by the host's key over (engine, digest, code); a file without one is
//!   deleted.

mod aside;
mod blobs;
mod code_cache;
mod error;
mod host_key;
mod inspector;
mod shares;
mod store;
mod values;

pub use aside::Aside;
pub use blobs::{BLOB_PART_BYTES, BLOB_PIECE_BYTES, BlobEntry, BlobUpload, WrittenBlob};
pub use code_cache::{CodeCache, DEFAULT_MAX_CODE_BYTES};
pub use error::Error;
pub use host_key::HostKey;
pub use inspector::{InspectError, Inspector};
pub use shares::gives_way;
pub use store::{DEFAULT_MAX_MODULE_BYTES, ModuleStore, StoredBlob};
pub use values::{VALUE_PIECE_BYTES, ValueEntry};
