//! Secrets as an attempt uses them: placeholders that stand for them, values that are revealed, and the net that catches values on
//! their way out.
//!
//! A guest gets a random placeholder for a secret. The host puts the value in where a request leaves for one of the secret's hosts.
//! Invariant: a value is opened for one send, one reveal or one search, and kept by nobody; what is kept is sealed.

mod attempt;
mod net;
mod placeholders;
mod substitute;

pub(crate) use attempt::BODY_BYTES;
pub use attempt::{AttemptSecrets, NoSecrets, SecretError, SecretStore};
pub(crate) use net::{mask, mask_fields};
pub use placeholders::{PLACEHOLDER_BYTES, PLACEHOLDER_PREFIX};
pub(crate) use substitute::{Wanted, is_searched};

#[cfg(test)]
pub(crate) use attempt::tests;
