//! Secrets of tenants: what is stored of them, how they are sealed and opened, and memory that forgets them.
//!
//! A secret is sealed with a data key of its tenant (AES-256-GCM), which is stored wrapped by a master key of the operator. What is
//! authenticated beside the value says whose it is, its name and version, and where it may go: nobody who can only write to the
//! store can move a secret to another tenant or name, or widen where it goes. Knows no broker, no HTTP and no wasmtime.

mod aead;
mod allocator;
mod data_key;
mod error;
mod master_key;
mod record;
mod target;
mod value;

pub use allocator::{ZeroingAllocator, hold_secrets};
pub use data_key::{DataKey, DataKeyRecord};
pub use error::{Error, Result};
pub use master_key::{MasterKey, MasterKeys};
pub use record::{MAX_HOSTS, Sealed, SecretRecord, Terms};
pub use target::SecretHost;
pub use value::{MAX_REVEALED_BYTES, MAX_SENT_BYTES, MIN_BYTES, SecretValue};
