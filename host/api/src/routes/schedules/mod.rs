//! Schedules: set, shown, listed and deleted. The control service fires them.

pub(crate) mod orders;
pub(crate) mod run;
pub(crate) mod times;

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use serde::Deserialize;
use umbel_broker::{Expect, MAX_SCHEDULE_BYTES, ScheduleChange, ScheduleQuery, ScheduleRecord, ScheduleStep};
use umbel_compose::{NotStored, Scheduled};
use umbel_model::{Digest, ScheduleName, ScheduleStamp, TaskName, UnixMs};
use umbel_schedule::{
    Definition, StoredError,
    firing::{Decision, FiringState, Pause, changed, created},
};
use utoipa::IntoParams;

use crate::{
    auth::Caller,
    body::{Checked, answer, ok, or_drain},
    etag::{self, expected, if_match, tagged},
    extract::{Context, Query},
    json_limits::compact,
    paging::{cursor, limit_of, parse_cursor},
    problem::{Problem, Result},
    schedules::{Found, busy, computed, find, get, invalid, no_schedule, now, step_of, stepped},
    state::Api,
    task_source::ApiTasks,
    task_store::{self, MAX_TRIES},
    views::{NextTimes, Schedule, ScheduleDefinition, Schedules, StoredSchedule},
};

/// Bytes of a name.
const MAX_NAME: usize = 100;
/// Times that the answer to a change shows.
const SHOWN: usize = 5;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only names that begin with it.
    prefix: Option<String>,
    /// `active`, `paused` or `finished`.
    state: Option<String>,
    /// Only those that start this task.
    task: Option<String>,
    /// Only those with this source.
    source: Option<String>,
    /// From 1 to 200; 50 when not given. Large definitions fill a page before its limit.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The schedules of the tenant by name. A page with a filter may be short, or empty, and have more behind it.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", params(ListQuery), responses((status = 200, body = Schedules)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<ListQuery>) -> Result {
    if let Some(state) = query.state.as_deref().filter(|state| !["active", "paused", "finished"].contains(state)) {
        let detail =
            format!("state: {:?} is none of active, paused, finished", state.chars().take(32).collect::<String>());
        return Err(Problem::invalid_query(detail));
    }
    let prefix = query.prefix.clone().unwrap_or_default();
    if prefix.len() > MAX_NAME {
        return Err(Problem::invalid_query(format!("prefix: at most {} bytes", MAX_NAME)));
    }
    let max = limit_of(query.limit)?;
    let after = parse_cursor(query.cursor.as_deref(), |text| text.parse().ok())?;
    let page = api.broker.schedules(&ScheduleQuery { tenant: caller.tenant.clone(), prefix, after, max }).await?;
    let next_cursor = page.next.as_ref().map(|name| cursor(name.as_str()));
    let records = page.schedules;
    let items = computed(&api, &caller.tenant, move || {
        let views = records.iter().map(|record| view(record, &Definition::stored(&record.definition).map(Arc::new)));
        let is_wanted = |schedule: &Schedule| {
            query.state.as_deref().is_none_or(|state| state == schedule.state)
                && query.task.as_deref().is_none_or(|task| Some(task) == schedule.task())
                && query.source.as_deref().is_none_or(|source| Some(source) == schedule.source())
        };
        views.filter(is_wanted).collect()
    });
    ok(&Schedules { items: items.await?, next_cursor })
}

/// A schedule as it is shown.
fn view(record: &ScheduleRecord, definition: &Result<Arc<Definition>, StoredError>) -> Schedule {
    Schedule::new(record, definition.as_deref().map_err(ToString::to_string))
}

fn shown(found: &Found) -> Schedule {
    view(&found.record, &found.definition)
}

/// One schedule; `ETag` is the version of its definition.
#[utoipa::path(get, path = "/v1/schedules/{name}", tag = "schedules", responses((status = 200, body = Schedule)))]
pub(crate) async fn show(Context { api, caller, id: name, .. }: Context<ScheduleName>) -> Result {
    let found = get(&api, &caller.tenant, &name).await?;
    tagged(&shown(&found), found.record.version)
}

/// Deletes a schedule with its history. What it has started goes on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(Context { api, caller, id: name, .. }: Context<ScheduleName>, headers: HeaderMap) -> Result {
    let wanted = if_match(&headers)?;
    for _ in 0..MAX_TRIES {
        let found = api.broker.schedule(&caller.tenant, &name).await?;
        let record = found.ok_or_else(|| no_schedule(&name))?;
        if wanted.is_some_and(|wanted| wanted != record.version) {
            return Err(conflict(record.version));
        }
        let step = ScheduleStep {
            tenant: caller.tenant.clone(),
            name: name.clone(),
            revision: record.revision,
            not_before: 0,
            change: ScheduleChange::Delete,
            fires: Vec::new(),
            start: None,
        };
        if stepped(&api, step).await?.is_some() {
            tracing::info!(schedule = %name, "schedule deleted");
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    Err(busy(&name))
}

fn conflict(found: u64) -> Problem {
    match found {
        0 => Problem::version_conflict("there is no such schedule, or it was deleted"),
        found => {
            let detail = format!("the schedule has version {found}: read it again, and decide anew");
            etag::with(Problem::version_conflict(detail), found)
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// Only check it, and answer what would be stored.
    #[serde(default)]
    dry_run: bool,
}

/// Makes or changes a schedule.
///
/// What it starts is composed once, as a trial: what `POST /v1/jobs` or `POST /v1/workflows` would refuse is refused here, with its
/// place. A change that leaves the times as they are keeps what is pending; one that changes nothing keeps the version.
#[utoipa::path(
    put, path = "/v1/schedules/{name}", tag = "schedules",
    params(
        PutQuery,
        ("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: refuse when there is one"),
    ),
    request_body = ScheduleDefinition,
    responses(
        (status = 201, body = StoredSchedule, description = "It is made; `ETag` is its version"),
        (status = 200, body = StoredSchedule, description = "It is changed, was so already, or is a dry run (its version is then the one that is stored, 0 for none)"),
    )
)]
pub(crate) async fn put(
    Context { api, caller, id: name, .. }: Context<ScheduleName>,
    Query(query): Query<PutQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result {
    let (expect, body) = or_drain(expected(&headers), body).await?;
    let body = Checked::read(&api, &headers, body, MAX_SCHEDULE_BYTES).await?;
    if name.as_str() == times::PREVIEW {
        return Err(Problem::invalid_schedule(format!("`{name}` is the path of the preview: take another name")));
    }
    let text = compact(&body.0);
    let parse = move || Definition::parse(&String::from_utf8_lossy(&text)).map(Arc::new);
    let definition = computed(&api, &caller.tenant, parse).await?.map_err(|error| invalid(&error))?;
    try_out(&api, &caller, &name, &definition).await?;
    let text = definition.to_text();
    for _ in 0..MAX_TRIES {
        let before = find(&api, &caller.tenant, &name).await?;
        check_expected(&expect, before.as_ref())?;
        let planned = plan(&api, &caller, &name, &definition, before.as_ref(), &text).await?;
        let Planned { mut record, decision, is_same } = planned;
        let is_new = before.is_none();
        if !query.dry_run && !is_same {
            let stored = stepped(&api, step_of(&record, Some(text.clone()), &decision)).await?;
            if stored.is_none() {
                continue;
            }
            // As it was stored: times and version are the broker's.
            let stored = api.broker.schedule(&caller.tenant, &name).await?;
            record = stored
                .filter(|stored| stored.definition == text)
                .unwrap_or_else(|| ScheduleRecord { version: record.version + 1, ..record });
            tracing::info!(schedule = %name, version = record.version, is_new, "schedule set");
        }
        let status = if is_new && !query.dry_run { StatusCode::CREATED } else { StatusCode::OK };
        return answered(&api, &caller, status, record, definition).await;
    }
    Err(busy(&name))
}

async fn answered(
    api: &Api,
    caller: &Caller,
    status: StatusCode,
    record: ScheduleRecord,
    definition: Arc<Definition>,
) -> Result {
    let version = record.version;
    let stored = move || {
        let next = next_of(&record, &definition, SHOWN);
        StoredSchedule { schedule: view(&record, &Ok(definition)), next: next.items }
    };
    let mut response = answer(status, &computed(api, &caller.tenant, stored).await?)?;
    etag::put(&mut response, version);
    Ok(response)
}

/// The next times of a schedule, from that about which nothing is decided.
fn next_of(record: &ScheduleRecord, definition: &Definition, count: usize) -> NextTimes {
    let state = serde_json::from_str::<FiringState>(&record.state).unwrap_or_default();
    let (after, count) = state.next.map_or((UnixMs::MAX, 0), |next| (next.saturating_sub(1), count));
    NextTimes::of(definition, record, definition.timing.preview(after, count))
}

fn check_expected(expect: &Expect, before: Option<&Found>) -> Result<()> {
    let version = before.map_or(0, |found| found.record.version);
    match expect {
        Expect::Absent if version > 0 => Err(conflict(version)),
        Expect::Version(wanted) if *wanted != version => Err(conflict(version)),
        _ => Ok(()),
    }
}

struct Planned {
    /// As it would be.
    record: ScheduleRecord,
    decision: Decision,
    /// It is stored so already.
    is_same: bool,
}

async fn plan(
    api: &Api,
    caller: &Caller,
    name: &ScheduleName,
    definition: &Arc<Definition>,
    before: Option<&Found>,
    text: &str,
) -> Result<Planned> {
    if before.is_some_and(|found| found.definition.as_ref().is_err_and(|error| *error == StoredError::Newer)) {
        let detail = "a newer release stored this schedule, and this one cannot read it: change it by a server of that \
                      release, or delete it first";
        return Err(Problem::invalid_schedule(detail));
    }
    let now = now(api).await?;
    let old = before.and_then(|found| found.parts().ok());
    let has_same_times = old.as_ref().is_some_and(|(old, _)| old.timing == definition.timing);
    if !has_same_times {
        let (checked, least) = (definition.clone(), api.config.min_schedule_interval_ms);
        let check = computed(api, &caller.tenant, move || checked.check_new(now, least));
        check.await?.map_err(|error| invalid(&error))?;
    }
    let is_old = old.is_some();
    let key = api.ids.job_id()?.to_string();
    let (definition, tenant, of) = (definition.clone(), caller.tenant.clone(), name.clone());
    let decide = move || {
        let times = definition.times(&tenant, &of);
        match &old {
            Some((old, state)) => {
                let replaced = (!has_same_times).then(|| old.times(&tenant, &of));
                changed(&times, &definition.policy, state, replaced.as_ref(), now)
            }
            // One that was damaged begins anew.
            None => {
                let is_paused = definition.written.paused == Some(true);
                let paused = is_paused.then(|| Pause { since: now, reason: Some("it was made paused".to_owned()) });
                created(&times, &definition.policy, key, paused, now)
            }
        }
    };
    let decision = computed(api, &caller.tenant, decide).await?;
    let is_same = is_old && before.is_some_and(|found| found.record.definition == text);
    let record = match before {
        Some(found) if is_same => found.record.clone(),
        before => ScheduleRecord {
            tenant: caller.tenant.clone(),
            name: name.clone(),
            version: before.map_or(0, |found| found.record.version),
            revision: before.map_or(0, |found| found.record.revision),
            definition: text.to_owned(),
            state: crate::schedules::state_text(&decision.state),
            look_at: decision.look_at,
            created_at: before.map_or(now, |found| found.record.created_at),
            changed_at: now,
            fires: before.map_or(0, |found| found.record.fires),
        },
    };
    Ok(Planned { record, decision, is_same })
}

/// Composes what a schedule starts, and stores nothing.
async fn try_out(api: &Api, caller: &Caller, name: &ScheduleName, definition: &Definition) -> Result<()> {
    if let (Some(digest), Some(task)) = (definition.written.digest, &definition.written.start.task) {
        must_be_deployable(api, caller, task, digest).await?;
    }
    let tasks = ApiTasks::new(api);
    let now = crate::time::now_ms();
    let stamp = ScheduleStamp { name: name.clone(), nominal_at: now, fired_at: now };
    let scheduled = Scheduled {
        tasks: &tasks,
        rules: &api.rules,
        tenant: &caller.tenant,
        definition,
        stamp: &stamp,
        request_id: None,
        traceparent: None,
        job: api.ids.job_id()?,
        workflow: api.ids.workflow_id()?,
        key: None,
        large: &NotStored,
    };
    scheduled.compose().await.map(|_| ()).map_err(|error| tasks.problem(error))
}

/// A pinned module is one to which the task could be deployed.
async fn must_be_deployable(api: &Api, caller: &Caller, task: &str, digest: Digest) -> Result<()> {
    let Ok(task) = TaskName::new(task) else { return Ok(()) };
    let found = task_store::deployable(api, &caller.tenant, digest, &task).await;
    found.map(|_| ()).map_err(|problem| {
        let detail = problem.detail().to_owned();
        problem.with_place("/digest", detail)
    })
}
