//! Orders to a schedule: pause, go on, leave a time out, backfill.

use std::sync::OnceLock;

use serde::Deserialize;
use umbel_model::{ScheduleName, TenantId, UnixMs};
use umbel_schedule::{
    Time, Timing,
    firing::{self, Backfill, FireRecord, MAX_BACKFILLS, Verdict},
};
use utoipa::ToSchema;

use super::shown;
use crate::{
    body::ok,
    etag::tagged,
    extract::{BackfillParam, Context, Json, OptionalJson},
    problem::{Code, Problem, Result},
    schedules::{Seen, busy, computed, get, now, order},
    state::Api,
    time::Timestamp,
    views::{BackfillPlan, Schedule, SkippedSchedule},
};

/// Characters of a reason.
const MAX_REASON: usize = 400;
/// Times of one backfill.
const MAX_TIMES: usize = 10_000;
/// Times that are looked for in one turn, and turns for one backfill.
const PIECE: usize = 250;
const MAX_PIECES: usize = 200;
/// The shortest pause between two of them, milliseconds.
const MIN_PACE_MS: u64 = 100;
/// The longest pause between two of them, milliseconds: a day.
const MAX_PACE_MS: u64 = 86_400_000;

/// Why a schedule is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PauseBody {
    /// For people: at most 400 characters.
    reason: Option<String>,
}

/// Pauses a schedule: nothing fires until it goes on. What it has started goes on.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules",
    request_body = Option<PauseBody>, responses((status = 200, body = Schedule))
)]
pub(crate) async fn pause(
    Context { api, caller, id: name, .. }: Context<ScheduleName>,
    OptionalJson(body): OptionalJson<PauseBody>,
) -> Result {
    let is_fine = |text: &String| text.chars().count() <= MAX_REASON && !text.chars().any(char::is_control);
    if body.reason.as_ref().is_some_and(|reason| !is_fine(reason)) {
        let detail = format!("write at most {MAX_REASON} characters, none of them a control character");
        return Err(Problem::of_field(Code::InvalidBody, "reason", detail));
    }
    let (tenant, of) = (caller.tenant.clone(), name.clone());
    let ordered = order(&api, &caller.tenant, &name, move |Seen { definition, state, now, .. }| {
        let is_so = state.paused.as_ref().is_some_and(|pause| pause.reason == body.reason);
        let times = definition.times(&tenant, &of);
        let decision = || firing::pause(&times, &definition.policy, state, body.reason.clone(), *now);
        Ok(((!is_so).then(decision), !is_so))
    });
    let (found, changes) = ordered.await?;
    if changes {
        tracing::info!(schedule = %name, "schedule paused");
    }
    tagged(&shown(&found), found.record.version)
}

/// Goes on after a pause. Times that passed meanwhile are dropped, or due if the schedule keeps missed ones.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules",
    responses((status = 200, body = Schedule))
)]
pub(crate) async fn resume(Context { api, caller, id: name, .. }: Context<ScheduleName>) -> Result {
    let (tenant, of) = (caller.tenant.clone(), name.clone());
    let ordered = order(&api, &caller.tenant, &name, move |Seen { definition, state, now, .. }| {
        let times = definition.times(&tenant, &of);
        let decision = || firing::resume(&times, &definition.policy, state, *now);
        Ok((state.paused.is_some().then(decision), state.paused.is_some()))
    });
    let (found, changes) = ordered.await?;
    if changes {
        tracing::info!(schedule = %name, "schedule resumed");
    }
    tagged(&shown(&found), found.record.version)
}

/// Leaves the next time out.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/skip", tag = "schedules", responses((status = 200, body = SkippedSchedule))
)]
pub(crate) async fn skip(Context { api, caller, id: name, .. }: Context<ScheduleName>) -> Result {
    let (tenant, of) = (caller.tenant.clone(), name.clone());
    let wanted = OnceLock::new();
    let ordered = order(&api, &caller.tenant, &name, move |Seen { definition, state, now, .. }| {
        // The one that was next when the order came is gone: no other one is left out in its place.
        if let Some(wanted) = wanted.get()
            && state.next != Some(*wanted)
        {
            return Ok((None, *wanted));
        }
        let times = definition.times(&tenant, &of);
        let skipped = state.next.zip(firing::skip_next(&times, &definition.policy, state, *now));
        let (next, decision) =
            skipped.ok_or_else(|| Problem::nothing_to_skip("it never fires again; give it other times to go on"))?;
        Ok((Some(decision), *wanted.get_or_init(|| next)))
    });
    let (found, skipped) = ordered.await?;
    tracing::info!(schedule = %name, "the next time of a schedule was left out");
    let version = found.record.version;
    tagged(&SkippedSchedule { schedule: shown(&found), skipped_at: Timestamp(skipped) }, version)
}

/// Which times of the past to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackfillBody {
    /// Not before it, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    from: Time,
    /// Up to it, RFC 3339; not after now.
    #[schema(value_type = String, format = DateTime)]
    to: Time,
    /// Between two of them, milliseconds: from 100 to a day; a second when not given.
    pace_ms: Option<u64>,
    /// Only say which.
    #[serde(default)]
    dry_run: bool,
}

/// Starts the times of a range of the past, one after the other, beside those that come.
///
/// At most 10,000 times, and 4 backfills of a schedule at a time. They pay no regard to `overlap`, and do not count for `max_runs`.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/backfill", tag = "schedules", request_body = BackfillBody,
    responses((status = 200, body = BackfillPlan))
)]
pub(crate) async fn backfill(
    Context { api, caller, id: name, .. }: Context<ScheduleName>,
    Json(body): Json<BackfillBody>,
) -> Result {
    let BackfillBody { from: Time(from), to: Time(to), pace_ms, dry_run } = body;
    let pace_ms = pace_ms.unwrap_or(1_000);
    let invalid = |field: &str, detail: String| Err(Problem::of_field(Code::InvalidBody, field, detail));
    if !(MIN_PACE_MS..=MAX_PACE_MS).contains(&pace_ms) {
        return invalid("pace_ms", format!("from {MIN_PACE_MS} to {MAX_PACE_MS}, a day"));
    }
    if from > to {
        return invalid("to", "it is before `from`: swap them".to_owned());
    }
    if to > now(&api).await? {
        return invalid(
            "to",
            "it is in the future, whose times start by themselves: write a time that has passed".to_owned(),
        );
    }
    let found = get(&api, &caller.tenant, &name).await?;
    let (definition, _) = found.parts()?;
    let timing = definition.timing.clone();
    let times = listed(&api, &caller.tenant, &timing, from, to.saturating_add(1)).await?;
    let Some((first, last)) = times.first().copied().zip(times.last().copied()) else {
        return invalid("to", "the schedule has no time between `from` and `to`".to_owned());
    };
    if dry_run {
        return ok(&BackfillPlan::new(None, times));
    }
    let id = api.ids.job_id()?.to_string();
    let backfill = Backfill { id: id.clone(), next: first, to: last, pace_ms, at: 0, started: 0, tries: 0 };
    let (tenant, of) = (caller.tenant.clone(), name.clone());
    let ordered = order(&api, &caller.tenant, &name, move |Seen { definition, state, now, history }| {
        let is_ours = |id: &str| id == backfill.id;
        let was_ours = || history.iter().any(|record| record.backfill.as_deref().is_some_and(is_ours));
        if state.backfills.iter().any(|backfill| is_ours(&backfill.id)) || was_ours() {
            return Ok((None, ()));
        }
        // The times that were listed are those of the definition that was read.
        if definition.timing != timing {
            return Err(busy(&of));
        }
        let times = definition.times(&tenant, &of);
        let backfill = Backfill { at: *now, ..backfill.clone() };
        let full = || {
            Problem::too_many_backfills(format!(
                "a schedule has at most {MAX_BACKFILLS} at a time: wait until one is done, or abort one \
                 (`umbel schedule backfill-abort`)"
            ))
        };
        let decision = firing::add_backfill(&times, &definition.policy, state, backfill, *now);
        Ok((Some(decision.ok_or_else(full)?), ()))
    });
    ordered.await?;
    tracing::info!(schedule = %name, backfill = id, count = times.len(), "a schedule is backfilled");
    ok(&BackfillPlan::new(Some(id), times))
}

/// The times of a backfill, in pieces that each take a turn of their own: others who compute come between.
async fn listed(api: &Api, tenant: &TenantId, timing: &Timing, from: UnixMs, to: UnixMs) -> Result<Vec<UnixMs>> {
    let refused = |detail: String| Err(Problem::of_field(Code::InvalidBody, "to", detail));
    let (mut times, mut from) = (Vec::new(), from);
    for _ in 0..MAX_PIECES {
        let timing = timing.clone();
        let piece = computed(api, tenant, move || timing.times(from, to, PIECE)).await?;
        times.extend(piece.times);
        if times.len() > MAX_TIMES {
            return refused(format!("there are more than {MAX_TIMES} times between both: take several shorter ranges"));
        }
        match piece.rest {
            Some(rest) => from = rest,
            None => return Ok(times),
        }
    }
    refused("there are so few times between both that they are not found soon: take several shorter ranges".to_owned())
}

/// Ends a backfill: what it has started goes on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}/backfills/{id}", tag = "schedules", responses((status = 200, body = Schedule))
)]
pub(crate) async fn abort_backfill(Context { api, caller, id: (name, id), .. }: Context<BackfillParam>) -> Result {
    let (tenant, of) = (caller.tenant.clone(), name.clone());
    let ordered = order(&api, &caller.tenant, &name, move |Seen { definition, state, now, history }| {
        let was_aborted =
            |record: &FireRecord| record.verdict == Verdict::Skipped && record.backfill.as_deref() == Some(&*id);
        if history.iter().any(was_aborted) {
            return Ok((None, ()));
        }
        let times = definition.times(&tenant, &of);
        let decision = firing::abort_backfill(&times, &definition.policy, state, &id, *now);
        let gone = || Problem::backfill_not_found("no such backfill: check its id, or it has started all its times");
        Ok((Some(decision.ok_or_else(gone)?), ()))
    });
    let (found, ()) = ordered.await?;
    tracing::info!(schedule = %name, "a backfill was aborted");
    tagged(&shown(&found), found.record.version)
}
