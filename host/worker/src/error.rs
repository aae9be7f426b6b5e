//! The errors of this crate. What goes wrong with one job is an outcome and not an error.

use umbel_model::Digest;

/// A worker or its runtime cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the worker's settings cannot be used: {0}")]
    Config(String),
    #[error("the threads for guests cannot be started: {0}")]
    Threads(#[source] std::io::Error),
}

/// Why a module is not ready to run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Its bytes are not in the store.
    #[error("module {0} is not in the module store")]
    Missing(Digest),
    /// Its bytes are not what they were.
    #[error("module {0} is damaged in the module store; push it again to repair it")]
    Corrupted(Digest),
    /// The same bytes would be refused again.
    #[error("module {0} was refused ({1}): {2}")]
    Refused(Digest, String, String),
    /// It may work another time.
    #[error("module {0} cannot be prepared now: {1}")]
    Unavailable(Digest, String),
    /// It failed so often in a row that its jobs should not wait for it any longer.
    #[error("module {0} could not be prepared {MAX_FAILURES} times in a row: {1}")]
    GivenUp(Digest, String),
}

/// Times in a row that a module is compiled in vain before its jobs hear of it.
pub(crate) const MAX_FAILURES: u32 = 5;
