//! Why a secret or a key cannot be used. No text has a part of a value or a key.

/// Why a secret or a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given cannot be stored: says why and what to give.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}: a master key is 32 random bytes as 64 hex digits or as base64, one on each line")]
    InvalidMasterKey(String),
    #[error("this process has no master key: start it with --master-key-file FILE, or with UMBEL_MASTER_KEY")]
    NoMasterKeys,
    /// Names the master key that is missing.
    #[error("no given master key is {0}, which is needed to open it")]
    NoMasterKey(String),
    #[error("{0} was changed by somebody else than the service, or is damaged")]
    Damaged(&'static str),
    #[error("there are no random bytes: {0}")]
    Random(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
