//! What guests may reach beside computing: everything that leaves an attempt passes here, is allowed by its grants and counted
//! by its meter. Knows neither wasmtime nor brokers: the sandbox calls it, and the worker gives it what it needs.

pub mod blob;
mod config;
mod grants;
pub mod http;
pub mod kv;
mod meter;
mod reach;
pub mod secrets;

pub use blob::{BlobAccess, BlobError, BlobWriter};
pub use config::{Config, ConfigValues, FixedConfig};
pub use grants::{Denied, Effective, FixedGrants, Grants, Layer, NoGrants, Refusal, Unavailable};
pub use kv::{KeyValue, KvError};
pub use meter::{Meter, Metered};
pub use reach::Reach;
pub use secrets::{AttemptSecrets, NoSecrets, SecretError, SecretStore};
