//! The times of schedules: those that come, and what became of those that were.

use serde::Deserialize;
use umbel_broker::MAX_FIRES;
use umbel_model::{ScheduleName, UnixMs};
use umbel_schedule::{MAX_PREVIEW, Time, Timing, TimingSpec, When};
use utoipa::{IntoParams, ToSchema};

use crate::{
    body::ok,
    extract::{Context, Json, Query},
    paging::{cursor, limit_of, parse_cursor},
    problem::{Code, Problem, Result},
    schedules::{computed, get, no_schedule, now},
    views::{NextTimes, ScheduleFire, ScheduleFires, ScheduleWhen},
};

/// The last part of the path of the preview: no schedule has this name.
pub(super) const PREVIEW: &str = "preview";
/// Times of an answer when the caller does not say.
const DEFAULT_COUNT: usize = 10;

fn count_of(count: Option<usize>) -> Option<usize> {
    Some(count.unwrap_or(DEFAULT_COUNT)).filter(|count| (1..=MAX_PREVIEW).contains(count))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct NextQuery {
    /// From 1 to 1,000; 10 when not given.
    count: Option<usize>,
    /// Only times after it, RFC 3339; those that are still to come when not given.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
}

/// The next times of a schedule, with what the zone does to them.
#[utoipa::path(
    get, path = "/v1/schedules/{name}/next", tag = "schedules", params(NextQuery), responses((status = 200, body = NextTimes))
)]
pub(crate) async fn next(
    Context { api, caller, id: name, .. }: Context<ScheduleName>,
    Query(query): Query<NextQuery>,
) -> Result {
    let count =
        count_of(query.count).ok_or_else(|| Problem::invalid_query(format!("count: from 1 to {MAX_PREVIEW}")))?;
    let from = query.from.map(|text| text.parse::<Time>());
    let from = from.transpose().map_err(|detail| Problem::invalid_query(format!("from: {detail}")))?;
    let found = get(&api, &caller.tenant, &name).await?;
    let (definition, _) = found.parts()?;
    let record = found.record;
    let times = computed(&api, &caller.tenant, move || match from {
        None => super::next_of(&record, &definition, count),
        Some(Time(from)) => NextTimes::of(&definition, &record, definition.timing.preview(from, count)),
    });
    ok(&times.await?)
}

/// A timing to look at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewBody {
    #[schema(value_type = ScheduleWhen)]
    when: When,
    /// A name of the IANA zone database; `UTC` when not given.
    zone: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    starts_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_at: Option<Time>,
    /// Only times after it, RFC 3339; now when not given.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Time>,
    /// From 1 to 1,000; 10 when not given.
    count: Option<usize>,
}

/// The next times of a timing. Nothing is stored.
#[utoipa::path(
    post, path = "/v1/schedules/preview", tag = "schedules", request_body = PreviewBody,
    responses((status = 200, body = NextTimes))
)]
pub(crate) async fn preview(Context { api, caller, .. }: Context, Json(body): Json<PreviewBody>) -> Result {
    let count = count_of(body.count)
        .ok_or_else(|| Problem::of_field(Code::InvalidBody, "count", format!("from 1 to {MAX_PREVIEW}")))?;
    let from: UnixMs = match body.from {
        Some(Time(from)) => from,
        None => now(&api).await?,
    };
    let spec = TimingSpec { when: body.when, zone: body.zone, starts_at: body.starts_at, ends_at: body.ends_at };
    let times = computed(&api, &caller.tenant, move || {
        Timing::new(spec).map(|timing| NextTimes::of_timing(&timing, timing.preview(from, count)))
    });
    let times = times.await?.map_err(|error| match &*error.pointer {
        "" => Problem::invalid_schedule(error.detail),
        pointer => Problem::at(Code::InvalidSchedule, pointer, &error.detail),
    })?;
    ok(&times)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FiresQuery {
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What became of the times of a schedule, newest first. The last 100 entries are kept.
#[utoipa::path(
    get, path = "/v1/schedules/{name}/fires", tag = "schedules", params(FiresQuery),
    responses((status = 200, body = ScheduleFires))
)]
pub(crate) async fn fires(
    Context { api, caller, id: name, .. }: Context<ScheduleName>,
    Query(query): Query<FiresQuery>,
) -> Result {
    let max = limit_of(query.limit)?.min(MAX_FIRES as u32);
    let before = parse_cursor(query.cursor.as_deref(), |text| text.parse::<u64>().ok())?;
    let found = api.broker.fires(&caller.tenant, &name, before, max).await?;
    if found.is_empty() && api.broker.schedule(&caller.tenant, &name).await?.is_none() {
        return Err(no_schedule(&name));
    }
    let is_full = found.len() >= max as usize;
    let last = found.last().map(|fire| fire.number).filter(|number| is_full && *number > 1);
    let items = found.iter().filter_map(ScheduleFire::of).collect();
    ok(&ScheduleFires { items, next_cursor: last.map(|number| cursor(&number.to_string())) })
}
