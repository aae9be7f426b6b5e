//! Usage: what the attempts of a tenant took, summed by task and hour. It is the base of quotas and bills.
//!
//! Sums change in the step that records an outcome, once for each attempt: a settle that comes again adds nothing, and neither
//! does a delivery that is handed back. What a lost worker used is not known; its deliveries are counted.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{TaskName, TenantId, UnixMs, Usage};

use crate::Result;

/// One hour, milliseconds. Hours are those of UTC.
pub const HOUR_MS: u64 = 3_600_000;
/// Sums end here instead of beginning anew: every store, and every reader of JSON, has such numbers exactly.
pub const MAX_USAGE_SUM: u64 = (1 << 53) - 1;

/// Keeps sums of usage by hour.
#[async_trait]
pub trait UsageSums: Send + Sync + fmt::Debug + 'static {
    /// Sums of a tenant. Rows that are kept no longer are not there, whether they are deleted or not.
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage>;
}

/// Which sums to read.
#[derive(Debug, Clone)]
pub struct UsageQuery {
    pub tenant: TenantId,
    /// Whole hours that begin at or after this one, since the epoch.
    pub from_hour: u64,
    /// And before this one.
    pub to_hour: u64,
    /// Only this task. None: all, with those that have no row of their own.
    pub task: Option<TaskName>,
    pub by: UsageBy,
    /// Only what comes behind it.
    pub after: Option<UsageKey>,
    /// At least 1.
    pub max: u32,
}

umbel_model::named_enum! {
    /// What one sum is for.
    pub enum UsageBy {
        /// For each hour, in their order.
        Hour = "hour",
        /// For each task, by name; first those that have no row of their own.
        Task = "task",
        /// One for all.
        Total = "total",
    }
}

/// What a sum is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageKey {
    /// The time at which it began.
    Hour(UnixMs),
    /// None: tasks of hours in which others had as many rows as there may be.
    Task(Option<TaskName>),
    Total,
}

/// A page of sums in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsagePage {
    /// Without those that are all zero.
    pub sums: Vec<(UsageKey, UsageSum)>,
    pub has_more: bool,
}

/// What attempts took together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts after which their job had failed.
    pub failed: u64,
    /// Attempts after which their job was to be retried.
    pub retried: u64,
    /// All others: snoozed, revoked, replaced.
    pub other: u64,
    /// Deliveries whose worker was lost: no attempts, and what they used is not known.
    pub lost: u64,
    /// Without `memory_bytes`, which is a peak: 0.
    pub usage: Usage,
}

/// How many numbers a sum has.
pub const USAGE_NUMBERS: usize = 15;

impl UsageSum {
    /// Its numbers in the order in which they are stored. A later release may add to them at the end.
    pub fn numbers(&self) -> [u64; USAGE_NUMBERS] {
        let Usage { fuel, duration_us, cpu_us, memory_kib_ms, http_requests, http_bytes_out, http_bytes_in, .. } =
            self.usage;
        let Usage { kv_operations, blob_bytes_read, blob_bytes_written, .. } = self.usage;
        [
            self.succeeded,
            duration_us,
            fuel,
            cpu_us,
            memory_kib_ms,
            self.failed,
            self.retried,
            self.other,
            self.lost,
            http_requests,
            http_bytes_out,
            http_bytes_in,
            kv_operations,
            blob_bytes_read,
            blob_bytes_written,
        ]
    }

    pub fn from_numbers(numbers: [u64; USAGE_NUMBERS]) -> Self {
        let [
            succeeded,
            duration_us,
            fuel,
            cpu_us,
            memory_kib_ms,
            failed,
            retried,
            other,
            lost,
            http_requests,
            http_bytes_out,
            http_bytes_in,
            kv_operations,
            blob_bytes_read,
            blob_bytes_written,
        ] = numbers;
        let usage = Usage {
            fuel,
            memory_bytes: 0,
            duration_us,
            cpu_us,
            memory_kib_ms,
            http_requests,
            http_bytes_out,
            http_bytes_in,
            kv_operations,
            blob_bytes_read,
            blob_bytes_written,
        };
        Self { succeeded, failed, retried, other, lost, usage }
    }

    /// Adds another sum to it; no number exceeds [`MAX_USAGE_SUM`].
    pub fn add(&mut self, other: &Self) {
        let (mut sum, more) = (self.numbers(), other.numbers());
        for (number, more) in sum.iter_mut().zip(more) {
            *number = number.saturating_add(more).min(MAX_USAGE_SUM);
        }
        *self = Self::from_numbers(sum);
    }

    /// All attempts.
    pub fn attempts(&self) -> u64 {
        self.succeeded.saturating_add(self.failed).saturating_add(self.retried).saturating_add(self.other)
    }
}
