//! One process to a database file. The lock is the operating system's: it goes when the process does, however it dies.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use umbel_broker::{Error, Result};

/// Makes the folder if it is missing, and locks the file for as long as the answer lives.
pub(crate) fn acquire(path: &Path) -> Result<File> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| unusable(folder, &error))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(beside(path));
    let file = file.map_err(|error| unusable(folder, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Refused(format!(
            "the data folder {} is in use by another process: stop that one, or choose another folder",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(folder, &error)),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    name.into()
}

fn unusable(folder: &Path, error: &io::Error) -> Error {
    let text = format!("the data folder {} cannot be used: {error}", folder.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full(text),
        _ => Error::Refused(format!("{text}; choose another folder, or give this user the right to write it")),
    }
}
