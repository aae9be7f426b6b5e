//! How a SQLite broker is opened.

use std::path::PathBuf;

use umbel_broker::{Clock, Limits};

/// The durability of an acknowledged operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// It survives a power cut: one `fsync` for each group of operations.
    #[default]
    Full,
    /// It survives the process, not the machine. For tests.
    Off,
}

impl Synchronous {
    pub(crate) fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Off => "OFF",
        }
    }
}

/// Configuration of a `SqliteBroker`.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The database file. Its folder is made if it is missing; `<path>.lock`, `-wal` and `-shm` lie beside it.
    pub path: PathBuf,
    pub clock: Clock,
    pub limits: Limits,
    pub synchronous: Synchronous,
    /// Size of the database file, bytes, beyond which submissions answer `Full`; what was accepted can still run, in
    /// an eighth more (at least 1 MiB). 0: what the disk holds.
    pub max_size_bytes: u64,
}

impl SqliteConfig {
    /// The safe defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            clock: Clock::default(),
            limits: Limits::default(),
            synchronous: Synchronous::default(),
            max_size_bytes: 0,
        }
    }
}
