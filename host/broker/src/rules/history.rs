//! How an attempt is stored in its job's history, and what it takes there.
//!
//! An attempt is a list, and `more`: the rest of its usage, as text. They are apart because releases before usage was metered read
//! lists of this very length and nothing else: on Redis `more` stands where they do not look, so that they show such an attempt
//! without it. SQLite, which has one process, stores it as the last entry of the list.

use serde::Serialize;
use umbel_model::{AttemptRecord, Failure, UnixMs, Usage, WorkerId};

/// What an attempt takes in a history beyond its texts, bytes: their lengths.
const LENGTHS_BYTES: u64 = 5;

/// The fields of a list.
type List = (u32, u32, WorkerId, UnixMs, String, u64, u64, u64, Option<Failure>);
/// The same of SQLite, with `more`.
type LongList = (u32, u32, WorkerId, UnixMs, String, u64, u64, u64, Option<Failure>, String);

/// An attempt as a list: half of the object's size, and there is one in every job that has ended.
pub fn as_list(of: &AttemptRecord) -> impl Serialize {
    let Usage { fuel, memory_bytes, duration_us, .. } = of.usage;
    (of.attempt, of.delivery, &of.worker, of.ended_at, &of.outcome, fuel, memory_bytes, duration_us, &of.failure)
}

/// The rest of an attempt's usage: numbers with commas between them, without the zeros at the end. At most 167 bytes.
pub fn more(usage: &Usage) -> String {
    let numbers = numbers(usage);
    let used = numbers.iter().rposition(|number| *number > 0).map_or(0, |last| last + 1);
    numbers[..used].iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// A later release may add to them at the end.
fn numbers(usage: &Usage) -> [u64; 8] {
    let Usage { cpu_us, memory_kib_ms, http_requests, http_bytes_out, http_bytes_in, kv_operations, .. } = *usage;
    let (read, written) = (usage.blob_bytes_read, usage.blob_bytes_written);
    [cpu_us, memory_kib_ms, http_requests, http_bytes_out, http_bytes_in, kv_operations, read, written]
}

/// An attempt as it was stored.
///
/// # Errors
/// When the list is not one.
pub fn read(list: &[u8], more: &str) -> serde_json::Result<AttemptRecord> {
    let (attempt, delivery, worker, ended_at, outcome, fuel, memory_bytes, duration_us, failure): List =
        serde_json::from_slice(list)?;
    let usage = with_more(Usage { fuel, memory_bytes, duration_us, ..Usage::default() }, more);
    Ok(AttemptRecord { attempt, delivery, worker, ended_at, outcome, failure, usage })
}

fn with_more(usage: Usage, more: &str) -> Usage {
    let mut numbers = more.split(',').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    Usage {
        cpu_us: next(),
        memory_kib_ms: next(),
        http_requests: next(),
        http_bytes_out: next(),
        http_bytes_in: next(),
        kv_operations: next(),
        blob_bytes_read: next(),
        blob_bytes_written: next(),
        ..usage
    }
}

/// An attempt as SQLite stores it.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn row(of: &AttemptRecord) -> serde_json::Result<String> {
    let (mut text, more) = (serde_json::to_string(&as_list(of))?, more(&of.usage));
    if !more.is_empty() {
        text.pop();
        // Digits and commas need no escapes.
        text.push_str(&format!(",\"{more}\"]"));
    }
    Ok(text)
}

/// The same, read; releases before usage was metered stored objects.
///
/// # Errors
/// When it is neither.
pub fn read_row(text: &str) -> serde_json::Result<AttemptRecord> {
    if text.starts_with('{') {
        return serde_json::from_str(text);
    }
    if let Ok(record) = read(text.as_bytes(), "") {
        return Ok(record);
    }
    let (attempt, delivery, worker, ended_at, outcome, fuel, memory_bytes, duration_us, failure, more): LongList =
        serde_json::from_str(text)?;
    let usage = with_more(Usage { fuel, memory_bytes, duration_us, ..Usage::default() }, &more);
    Ok(AttemptRecord { attempt, delivery, worker, ended_at, outcome, failure, usage })
}

/// The bytes of an attempt in a history.
pub fn bytes(attempt: &AttemptRecord) -> u64 {
    let list = serde_json::to_string(&as_list(attempt)).map_or(0, |text| text.len());
    (list + more(&attempt.usage).len()) as u64 + LENGTHS_BYTES
}

/// The same of one as SQLite stores it: an object was counted without a length of `more`.
pub fn row_bytes(text: &str) -> u64 {
    let is_object = text.starts_with('{');
    read_row(text).map_or(0, |attempt| bytes(&attempt) - u64::from(is_object))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(usage: Usage, failure: Option<Failure>) -> AttemptRecord {
        let (worker, outcome) = (WorkerId::new("w").unwrap(), "error".into());
        AttemptRecord { attempt: 2, delivery: 1, worker, ended_at: 7, outcome, failure, usage }
    }

    fn used() -> Usage {
        Usage { fuel: 5, memory_bytes: 6, duration_us: 7, cpu_us: 4, kv_operations: 3, ..Usage::default() }
    }

    #[test]
    fn an_attempt_is_read_as_it_was_stored_with_and_without_more() {
        for usage in [Usage::default(), used(), Usage { blob_bytes_written: u64::MAX, ..used() }] {
            for failure in [None, Some(Failure::new("k", "a \"text\" [,]"))] {
                let attempt = attempt(usage, failure);
                let list = serde_json::to_vec(&as_list(&attempt)).unwrap();
                assert_eq!(read(&list, &more(&usage)).unwrap(), attempt);
                assert_eq!(read_row(&row(&attempt).unwrap()).unwrap(), attempt);
                assert_eq!(row_bytes(&row(&attempt).unwrap()), bytes(&attempt));
                let object = serde_json::to_string(&attempt).unwrap();
                assert_eq!(read_row(&object).unwrap(), attempt);
                assert_eq!(row_bytes(&object), bytes(&attempt) - 1);
            }
        }
        assert!(read_row("[1]").is_err() && read_row("{}").is_err());
    }

    #[test]
    fn a_plain_attempt_takes_a_few_bytes_more() {
        let usage = Usage { cpu_us: 20, memory_kib_ms: 43, ..Usage::default() };
        assert_eq!(more(&usage), "20,43");
        assert_eq!(more(&Usage::default()), "");
        assert_eq!(more(&Usage { cpu_us: 20, kv_operations: 1, ..Usage::default() }), "20,0,0,0,0,1");
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        let list = serde_json::to_vec(&as_list(&attempt(used(), None))).unwrap();
        assert_eq!(read(&list, "4,0,0,0,0,3,0,0,99").unwrap().usage, used());
    }
}
