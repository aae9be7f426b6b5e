//! Faults inside, and the errors that callers of the broker get for them.

use rusqlite::ffi::ErrorCode;
use umbel_broker::Error;

/// A failure of one step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Fault {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// The file has reached the size that was set for it.
    #[error("the database has reached its size limit: raise it, or wait until retention deletes finished jobs")]
    NoRoom,
    /// A stored value breaks a rule of the model.
    #[error("{what}: {why}")]
    Stored { what: &'static str, why: String },
    /// A given value cannot be written as JSON.
    #[error("cannot be stored as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

impl Fault {
    pub(crate) fn stored(what: &'static str, why: impl ToString) -> Self {
        Self::Stored { what, why: why.to_string() }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => of_sqlite(&error),
            Fault::Stored { .. } => Self::Corrupt(fault.to_string()),
            Fault::NoRoom => Self::Full(fault.to_string()),
            Fault::Unwritable(_) => Self::Failed(fault.to_string()),
        }
    }
}

fn of_sqlite(error: &rusqlite::Error) -> Error {
    let Some(code) = error.sqlite_error_code() else {
        return match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Error::Corrupt(error.to_string()),
            _ => Error::Failed(error.to_string()),
        };
    };
    match code {
        ErrorCode::DiskFull => Error::Full(format!(
            "no room for the database file ({error}): free space on its disk, or raise its size limit; \
             nothing acknowledged was lost"
        )),
        ErrorCode::OutOfMemory => Error::Full(format!("no memory: {error}")),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            Error::Refused(format!("the data folder cannot be written ({error}): give this user the right to write it"))
        }
        ErrorCode::CannotOpen => Error::Refused(format!(
            "the database file cannot be opened ({error}): check the data folder and its rights"
        )),
        ErrorCode::DatabaseCorrupt => {
            Error::Corrupt(format!("the database file is damaged ({error}): restore it from a backup"))
        }
        ErrorCode::NotADatabase => Error::Corrupt(format!("the file is not an Umbel database ({error})")),
        ErrorCode::SystemIoFailure => Error::Unavailable(format!("the disk failed: {error}")),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Error::Unavailable(format!("another program holds the database file: {error}"))
        }
        _ => Error::Failed(error.to_string()),
    }
}
