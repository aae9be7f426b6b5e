//! The errors of this crate. Their messages say what to do.

use std::{error::Error as StdError, io, path::Path};

use umbel_model::{Digest, JobId};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the module is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("the upload ended early: {0}")]
    Upload(String),
    #[error("no module {0} is stored")]
    Missing(Digest),
    /// The stored bytes are no longer those of the digest. Storing the module again repairs it.
    #[error("the stored bytes of module {0} are damaged; push the module again to repair it")]
    Corrupted(Digest),
    #[error("a blob has at most {max_bytes} bytes")]
    BlobTooLarge { max_bytes: u64 },
    #[error("there is no blob {0}, or it was deleted")]
    BlobMissing(Digest),
    #[error("a large value of job {job} is not stored any more")]
    ValueMissing { job: JobId },
    #[error("a large value of job {job} is damaged in the store")]
    ValueCorrupted { job: JobId },
    #[error("{path} cannot be written: permission denied; make it writable for this user")]
    PermissionDenied { path: String },
    #[error("{path} is on a read-only file system")]
    ReadOnly { path: String },
    #[error("{path} has no space left; free some or move the data folder")]
    DiskFull { path: String },
    /// The key file exists, but cannot be read or trusted.
    #[error("the host key {path} cannot be used: {problem}")]
    HostKey { path: String, problem: String },
    #[error("{path}: {problem}")]
    Unavailable { path: String, problem: String },
}

impl Error {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "module_too_large",
            Self::Upload(_) => "upload_incomplete",
            Self::Missing(_) => "module_missing",
            Self::Corrupted(_) => "corrupted_blob",
            Self::BlobTooLarge { .. } => "blob_too_large",
            Self::BlobMissing(_) => "blob_not_found",
            Self::ValueMissing { .. } => "value_missing",
            Self::ValueCorrupted { .. } => "value_corrupted",
            Self::PermissionDenied { .. } | Self::ReadOnly { .. } => "storage_read_only",
            Self::DiskFull { .. } => "storage_full",
            Self::HostKey { .. } => "host_key",
            Self::Unavailable { .. } => "storage_unavailable",
        }
    }

    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        let path = path.display().to_string();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Unavailable { path, problem: error.to_string() },
        }
    }

    /// Finds the system's error below one of the object store's.
    pub(crate) fn store(path: &Path, error: &object_store::Error) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(io) = e.downcast_ref::<io::Error>() {
                return Self::io(path, io);
            }
            cause = e.source();
        }
        Self::Unavailable { path: path.display().to_string(), problem: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_errors_that_an_operator_can_fix_are_named() {
        let code = |kind: io::ErrorKind| {
            let below = object_store::Error::Generic { store: "test", source: Box::new(io::Error::from(kind)) };
            Error::store(Path::new("/data"), &below).code()
        };
        assert_eq!(code(io::ErrorKind::StorageFull), "storage_full");
        assert_eq!(code(io::ErrorKind::ReadOnlyFilesystem), "storage_read_only");
        assert_eq!(code(io::ErrorKind::PermissionDenied), "storage_read_only");
        assert_eq!(code(io::ErrorKind::TimedOut), "storage_unavailable");
    }
}
