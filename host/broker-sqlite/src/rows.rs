//! How values of the model are spelled in columns. Knows no statement and no rule.

use rusqlite::Row;
use umbel_model::{InvalidName, JobId, JobState, UnixMs};

use crate::error::Fault;

/// A number as SQLite holds it. What does not fit (a time beyond the sun's) is the largest that does.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The number of a state; `schema.sql` relies on 1 for queued.
pub(crate) fn state_number(state: JobState) -> i64 {
    match state {
        JobState::Scheduled => 0,
        JobState::Queued => 1,
        JobState::Running => 2,
        JobState::Retrying => 3,
        JobState::Succeeded => 4,
        JobState::Failed => 5,
        JobState::Revoked => 6,
        JobState::Expired => 7,
    }
}

/// The phase of a state, as `schema.sql` says.
pub(crate) fn phase(state: JobState) -> i64 {
    match state {
        JobState::Scheduled | JobState::Queued | JobState::Retrying => WAITS,
        JobState::Running => RUNS,
        _ => ENDED,
    }
}

pub(crate) const WAITS: i64 = 0;
pub(crate) const RUNS: i64 = 1;
pub(crate) const ENDED: i64 = 2;

pub(crate) fn state(row: &Row<'_>, column: usize) -> Result<JobState, Fault> {
    let number: i64 = row.get(column)?;
    let found = JobState::ALL.into_iter().find(|state| state_number(*state) == number);
    found.ok_or_else(|| Fault::stored("state of a job", number))
}

pub(crate) fn id(row: &Row<'_>, column: usize) -> Result<JobId, Fault> {
    Ok(JobId::from_bytes(row.get(column)?))
}

pub(crate) fn number(row: &Row<'_>, column: usize) -> Result<u64, Fault> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| Fault::stored("number", number))
}

pub(crate) fn small(row: &Row<'_>, column: usize) -> Result<u32, Fault> {
    Ok(row.get(column)?)
}

pub(crate) fn time(row: &Row<'_>, column: usize) -> Result<Option<UnixMs>, Fault> {
    let time: Option<i64> = row.get(column)?;
    time.map(|t| u64::try_from(t).map_err(|_| Fault::stored("time", t))).transpose()
}

/// A text that keeps the rule of its type.
pub(crate) fn name<T: std::str::FromStr<Err = InvalidName>>(row: &Row<'_>, column: usize) -> Result<T, Fault> {
    let text = row.get_ref(column)?.as_str().map_err(|error| Fault::stored("name", error))?;
    text.parse().map_err(|error| Fault::stored("name", error))
}
