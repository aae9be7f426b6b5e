//! What the attempts of a tenant used, by hour, by task, or in all.

use serde::Deserialize;
use umbel_broker::{HOUR_MS, UsageBy, UsageKey, UsageQuery, UsageSum};
use umbel_model::{TaskName, TenantId, UnixMs, Usage as Used, human};
use utoipa::IntoParams;

use crate::{
    body::ok,
    extract::{Context, Operator, Query},
    paging::{cursor, limit_of, parse_cursor},
    problem::{Problem, Result, cut},
    state::Api,
    time::{Timestamp, now_ms},
    views::views,
};

/// What is read when no time is given.
const DEFAULT_MS: u64 = 24 * HOUR_MS;

views! {
    /// A page of sums.
    Usage from (items: Vec<Sum>, next_cursor: Option<String>, from: UnixMs, to: UnixMs) {
        items: Vec<Sum> = items,
        next_cursor: Option<String> = next_cursor,
        /// The beginning of the first hour that was asked for.
        from: Timestamp = Timestamp(from),
        /// The end of the last one.
        to: Timestamp = Timestamp(to),
    }

    /// What attempts used together. No number exceeds 2^53 - 1; one that would stays there.
    Sum from (key: UsageKey, sum: UsageSum, used: Used) {
        /// When the hour began. Only of sums by hour.
        #[serde(skip_serializing_if = "Option::is_none")]
        hour: Option<Timestamp> = if let UsageKey::Hour(at) = key { Some(Timestamp(at)) } else { None },
        /// Only of sums by task; empty for tasks of hours in which 1,000 others (`--max-usage-tasks`) had a sum before them.
        #[serde(skip_serializing_if = "Option::is_none")]
        task: Option<String> = if let UsageKey::Task(task) = &key {
            Some(task.as_ref().map(ToString::to_string).unwrap_or_default())
        } else {
            None
        },
        /// `succeeded`, `failed`, `retried` and `other` together.
        attempts: u64 = sum.attempts(),
        succeeded: u64 = sum.succeeded,
        /// Their job failed with them.
        failed: u64 = sum.failed,
        /// Their job was to be retried.
        retried: u64 = sum.retried,
        /// Snoozed, revoked or replaced.
        other: u64 = sum.other,
        /// Deliveries whose worker was lost. They are no attempts, and what they used is not known.
        lost: u64 = sum.lost,
        fuel: u64 = used.fuel,
        /// The time of threads.
        cpu_us: u64 = used.cpu_us,
        duration_us: u64 = used.duration_us,
        /// Memory × time, KiB·ms.
        memory_kib_ms: u64 = used.memory_kib_ms,
        http_requests: u64 = used.http_requests,
        http_bytes_out: u64 = used.http_bytes_out,
        http_bytes_in: u64 = used.http_bytes_in,
        kv_operations: u64 = used.kv_operations,
        blob_bytes_read: u64 = used.blob_bytes_read,
        blob_bytes_written: u64 = used.blob_bytes_written,
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SumsQuery {
    /// `hour`, `task` or `total`; `hour` when not given.
    by: Option<String>,
    /// Only this task.
    task: Option<String>,
    /// RFC 3339, such as `2026-11-22T12:00:00Z`: with the whole hour that it is in. 24 hours before `to` when not given.
    from: Option<String>,
    /// RFC 3339: up to the end of the hour that it is in. Now when not given.
    to: Option<String>,
    /// Instead of `from`: so long before `to`, such as `24h`.
    since: Option<String>,
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What the tenant's attempts used, by hour of UTC, by task, or in all. An attempt counts in the hour in which it ended, also in
/// the one that is not over. Sums are kept for 14 days (`--usage-retention`).
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(SumsQuery), responses((status = 200, body = Usage)))]
pub(crate) async fn usage(Context { api, caller, .. }: Context, Query(query): Query<SumsQuery>) -> Result {
    sums(&api, caller.tenant, query).await
}

/// The same of a tenant. For operators.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/usage", tag = "usage", params(SumsQuery), responses((status = 200, body = Usage)))]
pub(crate) async fn usage_any(Operator(cx): Operator<TenantId>, Query(query): Query<SumsQuery>) -> Result {
    sums(&cx.api, cx.id, query).await
}

async fn sums(api: &Api, tenant: TenantId, query: SumsQuery) -> Result {
    let invalid = |field: &str, why: String| Problem::invalid_query(cut(&format!("{field}: {why}")));
    let by = query.by.as_deref().unwrap_or(UsageBy::Hour.as_str());
    let by: UsageBy = by.parse().map_err(|why| invalid("by", why))?;
    let task = query.task.map(|task| task.parse::<TaskName>()).transpose();
    let task = task.map_err(|why| invalid("task", why.to_string()))?;
    let to = query.to.map_or(Ok(now_ms()), |text| time("to", &text))?;
    let from = match (query.from, query.since) {
        (Some(_), Some(_)) => return Err(Problem::invalid_query("give `from` or `since`, not both")),
        (Some(text), None) => time("from", &text)?,
        (None, Some(text)) => to.saturating_sub(human::duration_ms(&text).map_err(|why| invalid("since", why))?),
        (None, None) => to.saturating_sub(DEFAULT_MS),
    };
    if from > to {
        return Err(Problem::invalid_query("from: is behind `to`"));
    }
    let (from_hour, to_hour) = (from / HOUR_MS, to.div_ceil(HOUR_MS).max(from / HOUR_MS + 1));
    let max = limit_of(query.limit)?;
    let after = parse_cursor(query.cursor.as_deref(), |text| position(by, text))?;
    let query = UsageQuery { tenant, from_hour, to_hour, task, by, after, max };
    let page = api.broker.usage(&query).await?;
    let last = if page.has_more { page.sums.last().map(|(key, _)| cursor(&text_of(key))) } else { None };
    let items = page.sums.into_iter().map(|(key, sum)| Sum::new(key, sum, sum.usage)).collect();
    ok(&Usage::new(items, last, from_hour * HOUR_MS, to_hour * HOUR_MS))
}

fn time(field: &str, text: &str) -> Result<UnixMs> {
    let at = text.parse::<jiff::Timestamp>().ok().and_then(|at| UnixMs::try_from(at.as_millisecond()).ok());
    let why = format!("{field}: write a time such as 2026-11-22T12:00:00Z");
    at.ok_or_else(|| Problem::invalid_query(why))
}

fn text_of(key: &UsageKey) -> String {
    match key {
        UsageKey::Hour(at) => at.to_string(),
        UsageKey::Task(task) => task.as_ref().map(ToString::to_string).unwrap_or_default(),
        UsageKey::Total => String::new(),
    }
}

/// The key that a cursor has.
fn position(by: UsageBy, text: &str) -> Option<UsageKey> {
    match by {
        UsageBy::Hour => text.parse().ok().map(UsageKey::Hour),
        UsageBy::Task if text.is_empty() => Some(UsageKey::Task(None)),
        UsageBy::Task => text.parse().ok().map(|task| UsageKey::Task(Some(task))),
        UsageBy::Total => None,
    }
}
