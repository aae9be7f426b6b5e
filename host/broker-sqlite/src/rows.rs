//! How values of the model are spelled in columns. Knows no table and no rule.

use rusqlite::{Connection, Row, ToSql};
use serde::de::DeserializeOwned;
use umbel_broker::{Scope, Status, WorkflowState, scheduler::QueueId};
use umbel_model::{
    InvalidName, JobId, JobState, OnFailure, UnixMs,
    canvas::{Range, When},
};

use crate::error::Fault;

/// A number as SQLite holds it. What does not fit (a time beyond the sun's) is the largest that does.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::stored(what, error))
}

/// All rows of a statement, decoded.
pub(crate) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
    decode: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(decode(row)?);
    }
    Ok(found)
}

/// The row of a tenant queue.
pub(crate) fn queue_row(id: QueueId) -> i64 {
    int(id as u64 + 1)
}

/// The number of a tenant queue out of a job's row, of so many.
pub(crate) fn queue_id(queues: usize, row: u64) -> Result<QueueId, Fault> {
    let id = usize::try_from(row).ok().and_then(|row| row.checked_sub(1)).filter(|id| *id < queues);
    id.ok_or_else(|| Fault::stored("line of a job", row))
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
        JobState::Waiting => 8,
        JobState::Skipped => 9,
    }
}

/// The phase of a state, as `schema.sql` says.
pub(crate) fn phase(state: JobState) -> i64 {
    match state {
        JobState::Scheduled | JobState::Queued | JobState::Retrying | JobState::Waiting => WAITS,
        JobState::Running => RUNS,
        JobState::Succeeded | JobState::Failed | JobState::Revoked | JobState::Expired | JobState::Skipped => ENDED,
    }
}

pub(crate) const WAITS: i64 = 0;
pub(crate) const RUNS: i64 = 1;
pub(crate) const ENDED: i64 = 2;

fn known_state(number: i64) -> Result<JobState, Fault> {
    let found = JobState::ALL.into_iter().find(|state| state_number(*state) == number);
    found.ok_or_else(|| Fault::stored("state of a job", number))
}

pub(crate) fn state(row: &Row<'_>, column: usize) -> Result<JobState, Fault> {
    known_state(row.get(column)?)
}

pub(crate) fn state_or_none(row: &Row<'_>, column: usize) -> Result<Option<JobState>, Fault> {
    row.get::<_, Option<i64>>(column)?.map(known_state).transpose()
}

pub(crate) fn workflow_state_number(state: WorkflowState) -> i64 {
    match state {
        WorkflowState::Running => 0,
        WorkflowState::Succeeded => 1,
        WorkflowState::Failed => 2,
        WorkflowState::Revoked => 3,
        WorkflowState::Expired => 4,
    }
}

pub(crate) fn workflow_state(row: &Row<'_>, column: usize) -> Result<WorkflowState, Fault> {
    let number: i64 = row.get(column)?;
    let found = WorkflowState::ALL.into_iter().find(|state| workflow_state_number(*state) == number);
    found.ok_or_else(|| Fault::stored("state of a workflow", number))
}

pub(crate) fn status_number(status: Status) -> i64 {
    match status {
        Status::Ok => 0,
        Status::Failed => 1,
        Status::Skipped => 2,
    }
}

pub(crate) fn status_or_none(row: &Row<'_>, column: usize) -> Result<Option<Status>, Fault> {
    match row.get::<_, Option<i64>>(column)? {
        None => Ok(None),
        Some(0) => Ok(Some(Status::Ok)),
        Some(1) => Ok(Some(Status::Failed)),
        Some(2) => Ok(Some(Status::Skipped)),
        Some(other) => Err(Fault::stored("status", other)),
    }
}

pub(crate) fn status(row: &Row<'_>, column: usize) -> Result<Status, Fault> {
    status_or_none(row, column)?.ok_or_else(|| Fault::stored("status", "is missing"))
}

pub(crate) fn when(row: &Row<'_>, column: usize) -> Result<When, Fault> {
    Ok(if row.get(column)? { When::Failure } else { When::Success })
}

pub(crate) fn on_failure_number(on_failure: OnFailure) -> i64 {
    match on_failure {
        OnFailure::Fail => 0,
        OnFailure::Continue => 1,
        OnFailure::Ignore => 2,
    }
}

pub(crate) fn on_failure(row: &Row<'_>, column: usize) -> Result<OnFailure, Fault> {
    match row.get::<_, i64>(column)? {
        0 => Ok(OnFailure::Fail),
        1 => Ok(OnFailure::Continue),
        2 => Ok(OnFailure::Ignore),
        other => Err(Fault::stored("policy of a node", other)),
    }
}

pub(crate) fn ranges_blob(ranges: &[Range]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.first, range.count]).flat_map(u32::to_le_bytes).collect()
}

pub(crate) fn ranges(row: &Row<'_>, column: usize) -> Result<Vec<Range>, Fault> {
    let numbers = numbers(row, column)?;
    if !numbers.len().is_multiple_of(2) {
        return Err(Fault::stored("ranges", "half a range"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Range { first: pair[0], count: pair[1] }).collect())
}

/// Counts by state, in the order of `JobState::ALL`.
pub(crate) type JobCounts = [u32; JobState::ALL.len()];

pub(crate) fn counts_blob(counts: &JobCounts) -> Vec<u8> {
    counts.iter().copied().flat_map(u32::to_le_bytes).collect()
}

pub(crate) fn counts(row: &Row<'_>, column: usize) -> Result<JobCounts, Fault> {
    numbers(row, column)?.try_into().map_err(|_| Fault::stored("counts of a workflow", "not one for each state"))
}

fn numbers(row: &Row<'_>, column: usize) -> Result<Vec<u32>, Fault> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|error| Fault::stored("numbers", error))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Fault::stored("numbers", "part of a number"));
    }
    Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// The scope of a control or rate: its kind and name.
pub(crate) fn scope(row: &Row<'_>, column: usize) -> Result<Scope, Fault> {
    Ok(match row.get::<_, i64>(column)? {
        0 => Scope::Tenant,
        1 => Scope::Queue(name(row, column + 1)?),
        2 => Scope::Task(name(row, column + 1)?),
        other => return Err(Fault::stored("kind of a control", other)),
    })
}

pub(crate) fn id(row: &Row<'_>, column: usize) -> Result<JobId, Fault> {
    Ok(JobId::from_bytes(row.get(column)?))
}

pub(crate) fn id_or_none(row: &Row<'_>, column: usize) -> Result<Option<JobId>, Fault> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(JobId::from_bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_in_the_order_in_which_they_are_listed() {
        for (at, state) in JobState::ALL.into_iter().enumerate() {
            assert_eq!(state_number(state), at as i64);
            assert_eq!(phase(state) == ENDED, state.is_terminal());
        }
        for (at, state) in WorkflowState::ALL.into_iter().enumerate() {
            assert_eq!(workflow_state_number(state), at as i64);
        }
    }
}
