//! Sums of usage: what the group under way adds is gathered here, and written once for each tenant, hour and task.

use std::collections::HashMap;

use rusqlite::Connection;
use umbel_broker::{UsageSum, rules::usage::row_of};
use umbel_model::{TaskName, TenantId};

use crate::{
    error::Fault,
    rows::{Stored, changed, first, one, run},
};

/// The largest number is `MAX_USAGE_SUM`.
const ADD: &str = "UPDATE usage SET succeeded = min(succeeded + ?, 9007199254740991), duration_us = min(duration_us + ?, 9007199254740991), fuel =
    min(fuel + ?, 9007199254740991), cpu_us = min(cpu_us + ?, 9007199254740991), memory_kib_ms = min(memory_kib_ms
    + ?, 9007199254740991), failed = min(failed + ?, 9007199254740991), retried = min(retried + ?,
    9007199254740991), other = min(other + ?, 9007199254740991), lost = min(lost + ?, 9007199254740991),
    http_requests = min(http_requests + ?, 9007199254740991), http_bytes_out = min(http_bytes_out + ?,
    9007199254740991), http_bytes_in = min(http_bytes_in + ?, 9007199254740991), kv_operations = min(kv_operations
    + ?, 9007199254740991), blob_bytes_read = min(blob_bytes_read + ?, 9007199254740991), blob_bytes_written =
    min(blob_bytes_written + ?, 9007199254740991)
    WHERE tenant = ? AND hour = ? AND task = ?";
const INSERT: &str = "INSERT INTO usage (succeeded, duration_us, fuel, cpu_us, memory_kib_ms, failed, retried, other, lost, http_requests,
    http_bytes_out, http_bytes_in, kv_operations, blob_bytes_read, blob_bytes_written, tenant, hour, task)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const COUNT: &str = "SELECT count(*) FROM usage WHERE tenant = ? AND hour = ? AND task > ''";

type Key = (TenantId, u64, TaskName);

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct UsageSums {
    /// In the order in which they came: the first tasks of an hour get the rows.
    added: Vec<(Key, UsageSum)>,
    known: HashMap<Key, usize>,
}

impl UsageSums {
    pub(crate) fn add(&mut self, tenant: &TenantId, hour: u64, task: TaskName, more: &UsageSum) {
        let key = (tenant.clone(), hour, task);
        if let Some(at) = self.known.get(&key) {
            self.added[*at].1.add(more);
            return;
        }
        let mut sum = UsageSum::default();
        sum.add(more);
        self.known.insert(key.clone(), self.added.len());
        self.added.push((key, sum));
    }

    /// Writes what the group added.
    pub(crate) fn write(&mut self, conn: &Connection, max_rows: u64) -> Result<(), Fault> {
        // Rows of tasks by tenant and hour, where a task had none.
        let mut rows: HashMap<(TenantId, u64), u64> = HashMap::new();
        for ((tenant, hour, task), sum) in std::mem::take(&mut self.added) {
            if add(conn, &tenant, hour, task.as_str(), &sum)? {
                continue;
            }
            let count = match rows.get(&(tenant.clone(), hour)) {
                Some(count) => *count,
                None => one(conn, COUNT, &[&tenant, &hour], first::<u64>)?.unwrap_or(0),
            };
            let row = row_of(task.as_str(), false, count, max_rows);
            rows.insert((tenant.clone(), hour), count + u64::from(!row.is_empty()));
            if !row.is_empty() || !add(conn, &tenant, hour, row, &sum)? {
                run(conn, INSERT, &values(&sum.numbers(), &tenant, &hour, &row))?;
            }
        }
        self.known.clear();
        Ok(())
    }

    /// The group was committed, or rolled back.
    pub(crate) fn forget(&mut self) {
        self.added.clear();
        self.known.clear();
    }
}

/// Adds to a row; whether there is one.
fn add(conn: &Connection, tenant: &TenantId, hour: u64, row: &str, sum: &UsageSum) -> Result<bool, Fault> {
    Ok(changed(conn, ADD, &values(&sum.numbers(), tenant, &hour, &row))? > 0)
}

fn values<'a>(numbers: &'a [u64], tenant: &'a TenantId, hour: &'a u64, row: &'a dyn Stored) -> Vec<&'a dyn Stored> {
    let numbers = numbers.iter().map(|number| number as &dyn Stored);
    numbers.chain([tenant as &dyn Stored, hour, row]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_usage_costs_no_more_because_more_is_stored() {
        for sql in [ADD, COUNT] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
        assert!(ADD.contains(&umbel_broker::MAX_USAGE_SUM.to_string()));
    }
}
