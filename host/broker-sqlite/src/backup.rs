//! A copy of the file while a process uses it: one consistent view, as it was at one moment.

use std::{fs::File, path::Path};

use umbel_broker::{Error, Result};

use crate::{error::Fault, schema};

/// Writes a copy of the broker's file `from` into the new file `to`, and syncs it. The process that has the file goes on.
/// While the copy is made the write-ahead log beside the file grows by what is written meanwhile. Blocks.
///
/// # Errors
/// `Refused` when `to` exists or cannot be made; `Full` when there is no room for it; the errors of
/// [`SqliteBroker::open`](crate::SqliteBroker::open) for `from`.
pub fn backup(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(Error::Refused(format!("{} exists: name a new file", to.display())));
    }
    // A reader that may write may also make the copy; it changes nothing of what it copies.
    let conn = schema::open_reader(from)?;
    conn.pragma_update(None, "query_only", "OFF").map_err(Fault::from)?;
    let name = to.to_str().ok_or_else(|| Error::Refused("the name of the copy must be UTF-8".into()))?;
    conn.execute("VACUUM INTO ?1", [name]).map_err(Fault::from)?;
    // SQLite does not sync the file that it makes this way.
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in [to, folder] {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| Error::Failed(format!("{} cannot be synced: {error}", path.display())))?;
    }
    Ok(())
}
