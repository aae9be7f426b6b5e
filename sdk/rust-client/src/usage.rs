//! Usage: what the attempts of a tenant took, summed by hour or task.

use std::time::Duration;

use serde::Deserialize;

use crate::{client::Client, error::Error};

/// What one sum is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UsageBy {
    #[default]
    Hour,
    Task,
    Total,
}

/// Which sums to read.
#[derive(Debug, Clone, Default)]
pub struct UsageFilter {
    pub by: UsageBy,
    pub task: Option<String>,
    /// RFC 3339; the whole hour that it is in counts.
    pub from: Option<String>,
    /// RFC 3339; none: now.
    pub to: Option<String>,
    /// Instead of `from`: so long before `to`. None of both: 24 hours.
    pub since: Option<Duration>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Sums of a page, from 1 to 200; 50 when not given.
    pub limit: Option<u32>,
}

/// A page of sums.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct UsagePage {
    pub items: Vec<UsageSum>,
    /// Pass it on for the next page; none at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// What attempts used together. No number exceeds 2^53 - 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct UsageSum {
    /// When the hour began, RFC 3339; of sums by hour.
    pub hour: Option<String>,
    /// Of sums by task. Empty: tasks of hours in which others had as many sums as there may be.
    pub task: Option<String>,
    pub attempts: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub retried: u64,
    pub other: u64,
    /// Deliveries whose worker was lost; what they used is not known.
    pub lost: u64,
    pub fuel: u64,
    /// The time of threads.
    pub cpu_us: u64,
    pub duration_us: u64,
    /// Memory × time, KiB·ms.
    pub memory_kib_ms: u64,
    pub http_requests: u64,
    pub http_bytes_out: u64,
    pub http_bytes_in: u64,
    pub kv_operations: u64,
    pub blob_bytes_read: u64,
    pub blob_bytes_written: u64,
}

impl Client {
    /// What the tenant's attempts used. Sums are kept for 14 days, unless the server says another time.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<UsagePage, Error> {
        let by = match filter.by {
            UsageBy::Hour => "hour",
            UsageBy::Task => "task",
            UsageBy::Total => "total",
        };
        let mut request = self.get("/v1/usage").query("by", by);
        let texts = [
            ("task", filter.task.clone()),
            ("from", filter.from.clone()),
            ("to", filter.to.clone()),
            ("since", filter.since.map(|since| format!("{}ms", since.as_millis()))),
            ("cursor", filter.cursor.clone()),
            ("limit", filter.limit.map(|limit| limit.to_string())),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                request = request.query(name, text);
            }
        }
        request.answer().await
    }
}
