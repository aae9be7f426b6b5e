//! Opening connections: the settings they need, and the schema with its version.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tracing::warn;
use umbel_broker::{Error, Result};

use crate::{config::SqliteConfig, error::Fault, rows::RUNS, storage};

/// What each version adds to the one before; the first makes version 1 of an empty file. Never changed once released:
/// files of an older version are brought up to date by the rest of them. A file of a newer version is refused.
const STEPS: [&str; 13] = [
    include_str!("schema.sql"),
    include_str!("canvas.sql"),
    include_str!("limits.sql"),
    include_str!("rates.sql"),
    include_str!("scheduler.sql"),
    include_str!("queues.sql"),
    include_str!("links.sql"),
    include_str!("labels.sql"),
    storage::STEP,
    include_str!("kv.sql"),
    include_str!("usage.sql"),
    include_str!("blobs.sql"),
    include_str!("schedules.sql"),
];
const VERSION: i64 = STEPS.len() as i64;
/// Marks the file as ours: "UMBL".
const APPLICATION_ID: i64 = 0x554d_424c;
/// How long SQLite waits for a lock that a checkpoint or a foreign reader holds.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept by a connection: all that this crate has.
const STATEMENTS: usize = 256;
const WRITER_CACHE_KIB: u32 = 16 << 10;
const READER_CACHE_KIB: u32 = 2 << 10;

/// Pages beyond the limit at least, so that a full database can still finish what it holds.
const RESERVE_PAGES: u64 = 256;

/// The connection that writes, and the pages it may fill with submissions (none: any number).
pub(crate) fn open_writer(config: &SqliteConfig) -> Result<(Connection, Option<u64>)> {
    let conn = open(&config.path, OpenFlags::SQLITE_OPEN_CREATE)?;
    let found = version(&conn)?;
    if found == 0 {
        pragma(&conn, "auto_vacuum", "INCREMENTAL")?;
    }
    let mode = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).map_err(Fault::from)?;
    if mode != "wal" {
        return Err(Error::Refused(format!(
            "the file system of {} cannot share memory (journal mode {mode}): use a local disk",
            config.path.display()
        )));
    }
    // Before the first write: the schema must be as durable as what follows.
    pragma(&conn, "synchronous", config.synchronous.pragma())?;
    settle_in(&conn, WRITER_CACHE_KIB)?;
    // The writer checkpoints when it has answered, not in the middle of a commit.
    pragma(&conn, "wal_autocheckpoint", "0")?;
    migrate(&conn, found)?;
    let max_pages = limit_size(&conn, config.max_size_bytes)?;
    Ok((conn, max_pages))
}

const END_LEASES: &str = "UPDATE job INDEXED BY job_at SET at = 0 WHERE phase = ? AND at > 0";

/// Lets the reaper take back every job that runs: no other process has the file, so their workers died with the one
/// that had it before. Also after the machine's clock was set back, when their leases would seem long.
pub(crate) fn end_leases(conn: &Connection) {
    if let Err(error) = conn.execute(END_LEASES, [RUNS]) {
        // On a full disk, say. The leases end by themselves.
        warn!(%error, "the jobs of the process before are taken back only when their leases end");
    }
}

/// Pages beyond a limit of so many.
pub(crate) fn reserve(pages: u64) -> u64 {
    (pages / 8).max(RESERVE_PAGES)
}

/// Whether a file has reached its limit and so many pages more.
pub(crate) fn fills(conn: &Connection, max_pages: Option<u64>, more: u64) -> Result<bool, Fault> {
    let Some(max) = max_pages else { return Ok(false) };
    let number = |sql| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, u32>(0));
    let (all, free) = (number("PRAGMA page_count")?, number("PRAGMA freelist_count")?);
    Ok(u64::from(all.saturating_sub(free)) >= max.saturating_add(more))
}

fn limit_size(conn: &Connection, max_size_bytes: u64) -> Result<Option<u64>> {
    if max_size_bytes == 0 {
        return Ok(None);
    }
    let page_bytes: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(Fault::from)?;
    let pages = max_size_bytes / u64::from(page_bytes.max(1));
    let hard = pages.saturating_add(reserve(pages)).min(u32::MAX.into());
    pragma(conn, "max_page_count", &hard.to_string())?;
    Ok(Some(pages))
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let conn = open(path, OpenFlags::empty())?;
    settle_in(&conn, READER_CACHE_KIB)?;
    pragma(&conn, "query_only", "ON")?;
    Ok(conn)
}

/// A database that lives as long as its connection.
pub(crate) fn open_in_memory() -> Result<Connection> {
    let conn = Connection::open_in_memory().map_err(Fault::from)?;
    settle_in(&conn, WRITER_CACHE_KIB)?;
    migrate(&conn, 0)?;
    Ok(conn)
}

fn open(path: &Path, more: OpenFlags) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(path, flags).map_err(Fault::from)?;
    conn.busy_timeout(BUSY).map_err(Fault::from)?;
    Ok(conn)
}

fn settle_in(conn: &Connection, cache_kib: u32) -> Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise each new value of a parameter has the statement planned again, which takes longer than running it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(Fault::from)?;
    pragma(conn, "cache_size", &format!("-{cache_kib}"))?;
    // No temporary files: the data folder may be the only place that can be written.
    pragma(conn, "temp_store", "MEMORY")?;
    pragma(conn, "trusted_schema", "OFF")
}

fn pragma(conn: &Connection, name: &str, value: &str) -> Result<()> {
    Ok(conn.pragma_update(None, name, value).map_err(Fault::from)?)
}

/// The schema of the file, 0 of an empty one; refuses one that this version cannot serve.
fn version(conn: &Connection) -> Result<usize> {
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(Fault::from);
    let version = number("PRAGMA user_version")?;
    let (application, tables) = (number("PRAGMA application_id")?, number("SELECT count(*) FROM sqlite_schema")?);
    match version {
        0 if tables == 0 => Ok(0),
        _ if application != APPLICATION_ID => {
            Err(Error::Refused("the file is a SQLite database of another program: choose another path".into()))
        }
        1..=VERSION => Ok(version.unsigned_abs() as usize),
        newer if newer > VERSION => Err(Error::Refused(format!(
            "the data folder was written by a newer Umbel (schema {newer}; this one knows {VERSION}): \
             use that version, or another folder"
        ))),
        other => Err(Error::Refused(format!("schema {other} is not one that this Umbel can migrate"))),
    }
}

/// Brings a file of this version up to date, all or nothing.
fn migrate(conn: &Connection, found: usize) -> Result<()> {
    let missing = STEPS.get(found..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "BEGIN IMMEDIATE; {} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;",
        missing.concat()
    );
    conn.execute_batch(&sql).map_err(|error| {
        if !conn.is_autocommit() {
            // Nothing of it stays; the first error is the one to tell.
            let _ = conn.execute_batch("ROLLBACK");
        }
        Fault::from(error).into()
    })
}

/// For tests: a file as an older version left it, with these rows put in after each version's step.
#[cfg(test)]
pub(crate) fn create_old(path: &Path, rows: &[&str]) {
    let version = rows.len();
    let steps: String = STEPS.iter().zip(rows).flat_map(|(step, rows)| [*step, *rows]).collect();
    let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};");
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!("PRAGMA journal_mode = WAL; BEGIN; {steps} {marks} COMMIT;")).unwrap();
}
