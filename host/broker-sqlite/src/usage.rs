//! Reads sums of usage.

use umbel_broker::{
    UsagePage, UsageQuery, UsageSum,
    rules::usage::{Gathering, hours},
};

use crate::{
    error::Fault,
    reads::View,
    rows::{Columns, each, get},
};

const ROWS: &str = "SELECT hour, task, succeeded, duration_us, fuel, cpu_us, memory_kib_ms, failed, retried, other, lost, http_requests,
    http_bytes_out, http_bytes_in, kv_operations, blob_bytes_read, blob_bytes_written
    FROM usage WHERE tenant = ? AND hour >= ? AND hour < ? ORDER BY hour, task";

impl View<'_> {
    pub(crate) fn usage(&self, query: &UsageQuery) -> Result<UsagePage, Fault> {
        let hours = hours(query, self.now, self.usage_retention_ms);
        let mut gathering = Gathering::new(query);
        each(self.conn, ROWS, &[&query.tenant, &hours.start, &hours.end], |row| {
            let (hour, task) = (get::<u64>(row, 0)?, get::<String>(row, 1)?);
            let (mut columns, mut numbers) = (Columns(row, 2), [0; umbel_broker::USAGE_NUMBERS]);
            for number in &mut numbers {
                *number = columns.value()?;
            }
            Ok(gathering.add(hour, &task, &UsageSum::from_numbers(numbers)))
        })?;
        Ok(gathering.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_usage_costs_what_it_finds() {
        crate::tests::assert_costs_what_it_finds(ROWS);
    }
}
