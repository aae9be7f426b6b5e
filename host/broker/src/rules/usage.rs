//! Sums of usage: what an attempt adds, in which row, and how rows become a page. The Redis broker adds in `library/usage.lua`.

use std::collections::BTreeMap;

use umbel_model::{AttemptRecord, JobState, TaskName, UnixMs, Usage};

use crate::{HOUR_MS, UsageBy, UsageKey, UsagePage, UsageQuery, UsageSum, rules::settle::Next};

/// The hour of a time, since the epoch.
pub fn hour_of(now: UnixMs) -> u64 {
    now / HOUR_MS
}

/// The first hour that is kept: rows of those before are not there.
pub fn first_kept(now: UnixMs, retention_ms: u64) -> u64 {
    hour_of(now.saturating_sub(retention_ms))
}

/// The hours of a query that can have rows: kept ones that have begun.
pub fn hours(query: &UsageQuery, now: UnixMs, retention_ms: u64) -> std::ops::Range<u64> {
    query.from_hour.max(first_kept(now, retention_ms))..query.to_hour.min(hour_of(now) + 1)
}

/// What an attempt adds that is followed by `next`.
pub fn of_attempt(record: &AttemptRecord, next: Next) -> UsageSum {
    let usage = Usage { memory_bytes: 0, ..record.usage };
    let mut sum = UsageSum { usage, ..UsageSum::default() };
    let count = match next {
        Next::End(JobState::Succeeded) => &mut sum.succeeded,
        Next::End(JobState::Failed) => &mut sum.failed,
        Next::Delay(JobState::Retrying, _) => &mut sum.retried,
        Next::End(_) | Next::Delay(..) | Next::Release | Next::Wait(_) => &mut sum.other,
    };
    *count = 1;
    sum
}

/// What a lost delivery adds.
pub fn of_lost() -> UsageSum {
    UsageSum { lost: 1, ..UsageSum::default() }
}

/// The row to which a task adds, in an hour in which the tenant has so many rows of tasks: its own if it has one or may have one
/// more, otherwise the row without a name.
pub fn row_of(task: &str, has_row: bool, rows: u64, max_rows: u64) -> &str {
    if has_row || rows < max_rows { task } else { "" }
}

/// A page that is filled row by row, by hour and then by name.
#[derive(Debug)]
pub struct Gathering<'q> {
    query: &'q UsageQuery,
    /// One more than are wanted, at most.
    sums: BTreeMap<UsageKey, UsageSum>,
}

impl<'q> Gathering<'q> {
    pub fn new(query: &'q UsageQuery) -> Self {
        Self { query, sums: BTreeMap::new() }
    }

    /// Adds a row; `task` is empty where it has no name. Whether rows behind it may change the page.
    pub fn add(&mut self, hour: u64, task: &str, sum: &UsageSum) -> bool {
        let UsageQuery { task: only, by, after, max, .. } = self.query;
        if only.as_ref().is_some_and(|only| only.as_str() != task) {
            return true;
        }
        let key = match by {
            UsageBy::Hour => UsageKey::Hour(hour.saturating_mul(HOUR_MS)),
            UsageBy::Task => UsageKey::Task(task.parse::<TaskName>().ok()),
            UsageBy::Total => UsageKey::Total,
        };
        if after.as_ref().is_some_and(|after| key <= *after) {
            return true;
        }
        self.sums.entry(key).or_default().add(sum);
        let is_full = self.sums.len() > (*max).max(1) as usize;
        if is_full && *by == UsageBy::Task {
            // Another hour may have a name before the last one.
            while self.sums.len() > (*max).max(1) as usize + 1 {
                self.sums.pop_last();
            }
        }
        !(is_full && *by == UsageBy::Hour)
    }

    pub fn finish(self) -> UsagePage {
        let max = self.query.max.max(1) as usize;
        let has_more = self.sums.len() > max;
        UsagePage { sums: self.sums.into_iter().take(max).collect(), has_more }
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::TenantId;

    use super::*;
    use crate::MAX_USAGE_SUM;

    fn query(by: UsageBy, max: u32) -> UsageQuery {
        let tenant = TenantId::new("t").unwrap();
        UsageQuery { tenant, from_hour: 0, to_hour: 100, task: None, by, after: None, max }
    }

    fn sum(fuel: u64) -> UsageSum {
        UsageSum { succeeded: 1, usage: Usage { fuel, ..Usage::default() }, ..UsageSum::default() }
    }

    /// The keys and the fuel of the pages of a query, and how many pages there were.
    fn pages(mut query: UsageQuery) -> (Vec<(UsageKey, u64)>, u32) {
        let rows = [(5, "", 1), (5, "a", 10), (5, "c", 100), (6, "a", 1_000), (6, "b", 10_000), (8, "c", 100_000)];
        let (mut found, mut count) = (Vec::new(), 0);
        loop {
            let mut gathering = Gathering::new(&query);
            for (hour, task, fuel) in rows {
                if !gathering.add(hour, task, &sum(fuel)) {
                    break;
                }
            }
            let page = gathering.finish();
            found.extend(page.sums.iter().map(|(key, sum)| (key.clone(), sum.usage.fuel)));
            count += 1;
            query.after = page.sums.last().map(|(key, _)| key.clone());
            if !page.has_more {
                return (found, count);
            }
        }
    }

    #[test]
    fn rows_are_summed_by_hour_task_or_all_whatever_the_size_of_a_page() {
        let hour = |hour: u64| UsageKey::Hour(hour * HOUR_MS);
        let task = |name: &str| UsageKey::Task(name.parse().ok());
        let hours = vec![(hour(5), 111), (hour(6), 11_000), (hour(8), 100_000)];
        let tasks = vec![(task(""), 1), (task("a"), 1_010), (task("b"), 10_000), (task("c"), 100_100)];
        for (max, count) in [(1, 3), (2, 2), (3, 1), (100, 1)] {
            assert_eq!(pages(query(UsageBy::Hour, max)), (hours.clone(), count));
        }
        for (max, count) in [(1, 4), (2, 2), (3, 2), (4, 1)] {
            assert_eq!(pages(query(UsageBy::Task, max)), (tasks.clone(), count));
        }
        assert_eq!(pages(query(UsageBy::Total, 1)), (vec![(UsageKey::Total, 111_111)], 1));
        let only = UsageQuery { task: "c".parse().ok(), ..query(UsageBy::Hour, 9) };
        assert_eq!(pages(only), (vec![(hour(5), 100), (hour(8), 100_000)], 1));
    }

    #[test]
    fn a_sum_ends_at_its_largest_number() {
        let mut all = sum(MAX_USAGE_SUM - 1);
        all.add(&sum(1));
        assert_eq!(all.usage.fuel, MAX_USAGE_SUM);
        all.add(&sum(u64::MAX));
        assert_eq!((all.usage.fuel, all.succeeded), (MAX_USAGE_SUM, 3));
        assert_eq!(UsageSum::from_numbers(all.numbers()), all);
    }

    #[test]
    fn a_task_without_room_for_a_row_adds_to_the_one_without_a_name() {
        assert_eq!((row_of("a", false, 2, 3), row_of("a", false, 3, 3), row_of("a", true, 3, 3)), ("a", "", "a"));
    }
}
