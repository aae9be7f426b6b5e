//! How values of the model are spelled in columns, and how statements are run. Knows no table and no rule.

use rusqlite::{
    Connection, Row, params_from_iter,
    types::{ToSqlOutput, Value, ValueRef},
};
use serde_json::value::RawValue;
use umbel_broker::{BrokerOptions, Control, LogLine, Scope, Status, WorkerInfo, WorkerOrder, WorkflowState};
use umbel_broker::{
    rules::{history, join::JoinProgress},
    scheduler::QueueId,
};
use umbel_model::{
    AttemptRecord, BucketName, Digest, Failure, JobId, JobState, KvKey, OnFailure, Progress, QueueName, ScheduleName,
    TaskName, TenantId, WorkerId,
    canvas::{Range, When},
};

use crate::error::Fault;

/// A value that a column may have.
pub(crate) trait Column: Sized {
    fn read(value: ValueRef<'_>) -> Result<Self, Fault>;
}

/// A value that can be written to a column.
pub(crate) trait Stored {
    fn write(&self) -> ToSqlOutput<'_>;
}

/// Reads one column of a row.
pub(crate) fn get<T: Column>(row: &Row<'_>, column: usize) -> Result<T, Fault> {
    T::read(row.get_ref(column)?)
}

/// Reads the first column of a row.
pub(crate) fn first<T: Column>(row: &Row<'_>) -> Result<T, Fault> {
    get(row, 0)
}

/// The columns of a row from a number on.
pub(crate) struct Columns<'a, 'r>(pub(crate) &'a Row<'r>, pub(crate) usize);

impl Columns<'_, '_> {
    /// Reads the next one.
    pub(crate) fn value<T: Column>(&mut self) -> Result<T, Fault> {
        self.1 += 1;
        get(self.0, self.1 - 1)
    }
}

/// Reads a struct from a row: its fields are the columns in this order, from a number on. Behind the `;` come the fields
/// that are no columns. `read!(row, 3 => Used { until_us, burst; interval_us: 0 })` reads the columns 3 and 4.
macro_rules! read {
    ($row:expr $(, $from:expr)? => $Type:ident { $($field:ident),* $(; $($other:ident: $value:expr),*)? }) => {{
        let mut columns = $crate::rows::Columns($row, 0 $(+ $from)?);
        $Type { $($field: columns.value()?,)* $($($other: $value,)*)? }
    }};
}

/// Inserts a row: columns and their values, as in `insert!(conn, "INSERT INTO log" { rid: head.rid, line: text })`.
macro_rules! insert {
    ($conn:expr, $into:literal { $column:tt: $value:expr $(, $columns:tt: $values:expr)* }) => {
        $crate::rows::run(
            $conn,
            concat!(
                $into, " (", $crate::rows::column!($column), $(", ", $crate::rows::column!($columns),)* ") VALUES (?",
                $($crate::rows::insert!(@value $columns),)* ")"
            ),
            &[&$value $(, &$values)*],
        )
    };
    (@value $column:tt) => { ", ?" };
}

/// Updates the rows that a condition picks: columns and their new values, the condition and its values, as in
/// `update!(conn, "job" { at: until, dead: false } "rid = ?", head.rid)`.
macro_rules! update {
    ($conn:expr, $table:literal { $column:tt: $value:expr $(, $columns:tt: $values:expr)* } $when:literal, $($is:expr),+) => {
        $crate::rows::run(
            $conn,
            concat!(
                "UPDATE ", $table, " SET ", $crate::rows::column!($column), " = ?",
                $(", ", $crate::rows::column!($columns), " = ?",)* " WHERE ", $when
            ),
            &[&$value $(, &$values)* $(, &$is)+],
        )
    };
}

/// The name of a column. One whose word is used nowhere else is a literal.
macro_rules! column {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:literal) => {
        $name
    };
}

pub(crate) use {column, insert, read, update};

/// All rows of a statement, decoded.
pub(crate) fn all<T>(
    conn: &Connection,
    sql: &str,
    values: &[&dyn Stored],
    decode: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut found = Vec::new();
    each(conn, sql, values, |row| {
        found.push(decode(row)?);
        Ok(true)
    })?;
    Ok(found)
}

/// The first row of a statement, decoded.
pub(crate) fn one<T>(
    conn: &Connection,
    sql: &str,
    values: &[&dyn Stored],
    decode: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    conn.prepare_cached(sql)?.query(written(values))?.next()?.map(decode).transpose()
}

/// Looks at the rows of a statement while `look` says so.
pub(crate) fn each(
    conn: &Connection,
    sql: &str,
    values: &[&dyn Stored],
    mut look: impl FnMut(&Row<'_>) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(written(values))?;
    while let Some(row) = rows.next()?
        && look(row)?
    {}
    Ok(())
}

/// Runs a statement that changes rows.
pub(crate) fn run(conn: &Connection, sql: &str, values: &[&dyn Stored]) -> Result<(), Fault> {
    changed(conn, sql, values).map(drop)
}

/// Runs a statement that changes rows; how many.
pub(crate) fn changed(conn: &Connection, sql: &str, values: &[&dyn Stored]) -> Result<u64, Fault> {
    Ok(conn.prepare_cached(sql)?.execute(written(values))? as u64)
}

fn written<'a>(values: &'a [&dyn Stored]) -> impl rusqlite::Params + use<'a> {
    params_from_iter(values.iter().map(|value| value.write()))
}

/// A number as SQLite holds it. What does not fit (a time beyond the sun's) is the largest that does.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The row of a tenant queue.
pub(crate) fn queue_row(id: QueueId) -> i64 {
    int(id as u64 + 1)
}

/// The number of a tenant queue as it was read from a job (`line - 1`), if there are so many queues.
pub(crate) fn known_queue(queues: usize, id: QueueId) -> Result<QueueId, Fault> {
    if id < queues { Ok(id) } else { Err(Fault::stored("line of a job", id + 1)) }
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

/// Integers.
macro_rules! integers {
    ($($Type:ident)*) => {$(
        impl Column for $Type {
            fn read(value: ValueRef<'_>) -> Result<Self, Fault> {
                let number = value.as_i64().map_err(|error| Fault::stored("number", error))?;
                Self::try_from(number).map_err(|_| Fault::stored("number", number))
            }
        }

        impl Stored for $Type {
            fn write(&self) -> ToSqlOutput<'_> {
                i64::try_from(*self).unwrap_or(i64::MAX).into()
            }
        }
    )*};
}

integers!(i64 u64 u32 u8 usize);

/// Enums by number.
macro_rules! numbered {
    ($($Type:ident $what:literal { $($variant:ident = $number:literal),* })*) => {$(
        impl Numbered for $Type {
            fn number(self) -> i64 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }
        }

        impl Column for $Type {
            fn read(value: ValueRef<'_>) -> Result<Self, Fault> {
                match i64::read(value)? {
                    $($number => Ok(Self::$variant),)*
                    other => Err(Fault::stored($what, other)),
                }
            }
        }

        impl Stored for $Type {
            fn write(&self) -> ToSqlOutput<'_> {
                self.number().into()
            }
        }
    )*};
}

/// The number of an enum's value.
pub(crate) trait Numbered {
    fn number(self) -> i64;
}

// `schema.sql` relies on 1 for queued.
numbered! {
    JobState "state of a job" {
        Scheduled = 0, Queued = 1, Running = 2, Retrying = 3, Succeeded = 4, Failed = 5, Revoked = 6, Expired = 7,
        Waiting = 8, Skipped = 9
    }
    WorkflowState "state of a workflow" { Running = 0, Succeeded = 1, Failed = 2, Revoked = 3, Expired = 4 }
    Status "status" { Ok = 0, Failed = 1, Skipped = 2 }
    When "callback" { Success = 0, Failure = 1, Link = 2 }
    OnFailure "policy of a node" { Fail = 0, Continue = 1, Ignore = 2 }
}

/// Texts that keep the rule of their type.
macro_rules! names {
    ($($Type:ident)*) => {$(
        impl Column for $Type {
            fn read(value: ValueRef<'_>) -> Result<Self, Fault> {
                text(value)?.parse().map_err(|error| Fault::stored("name", error))
            }
        }

        impl Stored for $Type {
            fn write(&self) -> ToSqlOutput<'_> {
                self.as_str().into()
            }
        }
    )*};
}

names!(TenantId QueueName TaskName WorkerId BucketName KvKey ScheduleName);

/// Values that are kept as JSON.
macro_rules! json {
    ($($Type:ident $what:literal),*) => {$(
        impl Column for $Type {
            fn read(value: ValueRef<'_>) -> Result<Self, Fault> {
                serde_json::from_str(text(value)?).map_err(|error| Fault::stored($what, error))
            }
        }
    )*};
}

json!(
    Progress "progress", Failure "failure", LogLine "log line", BrokerOptions "knobs",
    Control "control", WorkerInfo "worker", WorkerOrder "order to a worker"
);

/// Other types: what is read of a column, and what is written to one.
macro_rules! columns {
    (read { $($Read:ty: |$value:ident| $read:expr;)* } write { $($Write:ty: |$own:ident| $written:expr;)* }) => {
        $(impl Column for $Read {
            fn read($value: ValueRef<'_>) -> Result<Self, Fault> {
                $read
            }
        })*

        $(impl Stored for $Write {
            fn write(&self) -> ToSqlOutput<'_> {
                let $own = self;
                $written.into()
            }
        })*
    };
}

columns! {
    read {
        bool: |value| Ok(i64::read(value)? != 0);
        String: |value| text(value).map(str::to_owned);
        Vec<u8>: |value| Ok(value.as_blob().map_err(|error| Fault::stored("bytes", error))?.to_owned());
        Box<RawValue>: |value| RawValue::from_string(String::read(value)?).map_err(|error| Fault::stored("result", error));
        AttemptRecord: |value| history::read_row(text(value)?).map_err(|error| Fault::stored("history", error));
        JobId: |value| {
            let bytes = value.as_blob().ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(Self::from_bytes).ok_or_else(|| Fault::stored("id", "it has not 16 bytes"))
        };
        Digest: |value| {
            let bytes = value.as_blob().ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(Self::from_bytes).ok_or_else(|| Fault::stored("digest", "it has not 32 bytes"))
        };
        Vec<Range>: |value| {
            let numbers = numbers(value)?;
            if !numbers.len().is_multiple_of(2) {
                return Err(Fault::stored("ranges", "half a range"));
            }
            Ok(numbers.chunks_exact(2).map(|pair| Range { first: pair[0], count: pair[1] }).collect())
        };
        JobCounts: |value| {
            numbers(value)?.try_into().map_err(|_| Fault::stored("counts of a workflow", "not one for each state"))
        };
    }
    write {
        bool: |is| *is;
        str: |text| text;
        String: |text| text.as_str();
        Vec<u8>: |bytes| bytes.as_slice();
        JobId: |id| id.to_bytes().to_vec();
        Digest: |digest| digest.to_bytes().to_vec();
        Vec<Range>: |ranges| blob(ranges.iter().flat_map(|range| [range.first, range.count]));
        JobCounts: |counts| counts_blob(counts);
    }
}

impl<T: Column> Column for Option<T> {
    fn read(value: ValueRef<'_>) -> Result<Self, Fault> {
        if value == ValueRef::Null { Ok(None) } else { T::read(value).map(Some) }
    }
}

impl<T: Stored> Stored for Option<T> {
    fn write(&self) -> ToSqlOutput<'_> {
        self.as_ref().map_or(ToSqlOutput::Owned(Value::Null), T::write)
    }
}

impl<T: Stored + ?Sized> Stored for &T {
    fn write(&self) -> ToSqlOutput<'_> {
        (**self).write()
    }
}

/// Counts by state, in the order of `JobState::ALL`.
pub(crate) type JobCounts = [u32; JobState::ALL.len()];

pub(crate) fn counts_blob(counts: &JobCounts) -> Vec<u8> {
    blob(counts.iter().copied())
}

fn blob(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    numbers.flat_map(u32::to_le_bytes).collect()
}

fn text(value: ValueRef<'_>) -> Result<&str, Fault> {
    value.as_str().map_err(|error| Fault::stored("text", error))
}

fn numbers(value: ValueRef<'_>) -> Result<Vec<u32>, Fault> {
    let bytes = value.as_blob().map_err(|error| Fault::stored("numbers", error))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Fault::stored("numbers", "part of a number"));
    }
    Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// The progress of a join: `pending`, `failed`, `skipped`, `status`, from a column on.
pub(crate) fn progress(row: &Row<'_>, from: usize) -> Result<JoinProgress, Fault> {
    Ok(read!(row, from => JoinProgress { pending, failed, skipped, status }))
}

/// The scope of a control or rate: its kind and name.
pub(crate) fn scope(row: &Row<'_>, column: usize) -> Result<Scope, Fault> {
    Ok(match get(row, column)? {
        0_i64 => Scope::Tenant,
        1 => Scope::Queue(get(row, column + 1)?),
        2 => Scope::Task(get(row, column + 1)?),
        other => return Err(Fault::stored("kind of a control", other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_in_the_order_in_which_they_are_listed() {
        for (at, state) in JobState::ALL.into_iter().enumerate() {
            assert_eq!(state.number(), at as i64);
            assert_eq!(phase(state) == ENDED, state.is_terminal());
        }
        for (at, state) in WorkflowState::ALL.into_iter().enumerate() {
            assert_eq!(state.number(), at as i64);
        }
    }
}
