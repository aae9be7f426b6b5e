//! Sums of usage: see `library/usage.lua`.

use async_trait::async_trait;
use umbel_broker::{Result, USAGE_NUMBERS, UsagePage, UsageQuery, UsageSum, UsageSums, rules::usage::Gathering};

use crate::{
    RedisBroker, args,
    bytes::{Reader, corrupt},
    connection::Repeat,
};

/// Rows of one call of a function, and those of one hour at most: a millisecond or so.
const ROWS: u32 = 1_000;
/// Bytes of each number of a sum.
const NUMBER_BYTES: usize = 7;

#[async_trait]
impl UsageSums for RedisBroker {
    /// In several calls when there are many rows: hours are then as they were when they were read.
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage> {
        let task = query.task.as_ref().map(ToString::to_string).unwrap_or_default();
        let retention_ms = self.limits.usage_retention_ms;
        let (mut gathering, mut from) = (Gathering::new(query), query.from_hour.min(1 << 48));
        loop {
            let arguments = args([&query.tenant, &from, &query.to_hour.min(1 << 48), &task, &ROWS, &retention_ms]);
            let mut answer = self.answer("usage", arguments, Repeat::Safe).await?;
            let next = answer.number()?;
            let mut rows = answer.rest(|answer| {
                let (hour, task) = (u64::try_from(answer.number()?).map_err(corrupt)?, answer.text()?);
                Ok((hour, task, sum(&answer.bytes()?)?))
            })?;
            rows.sort_by(|(hour, task, _), (other_hour, other, _)| (hour, task).cmp(&(other_hour, other)));
            let goes_on = rows.iter().all(|(hour, task, sum)| gathering.add(*hour, task, sum));
            match u64::try_from(next) {
                Ok(next) if goes_on => from = next,
                _ => return Ok(gathering.finish()),
            }
        }
    }
}

/// A sum as it is stored: numbers without the zeros at the end, and perhaps some of a later release behind them.
fn sum(stored: &[u8]) -> Result<UsageSum> {
    let (mut reader, mut numbers) = (Reader(stored), [0; USAGE_NUMBERS]);
    for number in numbers.iter_mut().take(stored.len() / NUMBER_BYTES) {
        *number = reader.number(NUMBER_BYTES)?;
    }
    Ok(UsageSum::from_numbers(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_read_whether_it_is_short_or_a_later_release_added_to_it() {
        let stored = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()[..7].to_vec()).collect::<Vec<_>>();
        let of = |numbers: &[u64]| sum(&stored(numbers)).unwrap();
        assert_eq!(of(&[]), UsageSum::default());
        assert_eq!((of(&[1, 2, 3]).succeeded, of(&[1, 2, 3]).usage.duration_us, of(&[1, 2, 3]).usage.fuel), (1, 2, 3));
        let all: Vec<u64> = (1..=20).collect();
        assert_eq!(of(&all).usage.blob_bytes_written, 15);
    }
}
