//! `umbel usage`.

use super::Context;
use crate::{
    Result,
    args::{UsageBy, UsageOptions},
};

/// What every table shows behind what its lines are for.
macro_rules! columns {
    ($first:literal) => {
        concat!(
            $first,
            "ATTEMPTS, FAILED, RETRIED, LOST, CPU = cpu_us, TOOK = duration_us, FUEL, MEMORY = memory_kib_ms, \
             REQUESTS = http_requests, OUT = http_bytes_out, IN = http_bytes_in, KV = kv_operations, \
             BLOBS READ = blob_bytes_read, WRITTEN = blob_bytes_written"
        )
    };
}

pub async fn run(ctx: &Context, options: &UsageOptions) -> Result {
    let path = match &options.tenant {
        Some(tenant) => format!("/v1/tenants/{tenant}/usage"),
        None => "/v1/usage".to_owned(),
    };
    let (by, columns) = match options.by {
        UsageBy::Hour => ("hour", columns!("HOUR, ")),
        UsageBy::Task => ("task", columns!("TASK, ")),
        UsageBy::Total => ("total", columns!("")),
    };
    let query = [
        ("by", Some(by.to_owned())),
        ("since", Some(options.since.clone())),
        ("task", options.task.as_ref().map(ToString::to_string)),
    ];
    ctx.list(&path, &query, &options.page, columns).await
}
