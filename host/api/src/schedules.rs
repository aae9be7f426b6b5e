//! Schedules as the routes read and change them: by the broker's clock, and only as they were read.

use std::sync::Arc;

use umbel_broker::{MAX_FIRES, NewRun, ScheduleChange, ScheduleRecord, ScheduleStep, ScheduleStepped};
use umbel_model::{ScheduleName, TenantId, UnixMs};
use umbel_schedule::{
    Definition, DefinitionError, StoredError,
    firing::{Decision, FireRecord, FiringState},
};

use crate::{
    problem::{Code, Problem, Result, cut},
    state::Api,
    storage_quota,
    task_store::MAX_TRIES,
};

/// A schedule as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) record: ScheduleRecord,
    pub(crate) definition: Result<Arc<Definition>, StoredError>,
}

impl Found {
    /// The definition and the state, of a schedule that can be used.
    pub(crate) fn parts(&self) -> Result<(Arc<Definition>, FiringState)> {
        let definition = match &self.definition {
            Ok(definition) => definition.clone(),
            Err(error) => return Err(unusable(&error.to_string())),
        };
        let state = serde_json::from_str::<FiringState>(&self.record.state).ok().filter(FiringState::is_sound);
        Ok((definition, state.ok_or_else(|| unusable("its state cannot be read"))?))
    }
}

fn unusable(why: &str) -> Problem {
    Problem::record_unreadable(cut(&format!("the schedule cannot be used: {why}; delete it, and set it again")))
}

pub(crate) fn no_schedule(name: &ScheduleName) -> Problem {
    Problem::schedule_not_found(format!("no schedule `{name}`; check the name, or set it (`umbel schedule create`)"))
}

/// What is wrong with a definition.
pub(crate) fn invalid(error: &DefinitionError) -> Problem {
    match &*error.pointer {
        "" => Problem::invalid_schedule(cut(&error.detail)),
        pointer => Problem::at(Code::InvalidSchedule, pointer, &error.detail),
    }
}

/// A schedule of the tenant; none when there is none.
pub(crate) async fn find(api: &Api, tenant: &TenantId, name: &ScheduleName) -> Result<Option<Found>> {
    let Some(record) = api.broker.schedule(tenant, name).await? else { return Ok(None) };
    let text = record.definition.clone();
    let definition = computed(api, tenant, move || Definition::stored(&text).map(Arc::new)).await?;
    Ok(Some(Found { record, definition }))
}

pub(crate) async fn get(api: &Api, tenant: &TenantId, name: &ScheduleName) -> Result<Found> {
    find(api, tenant, name).await?.ok_or_else(|| no_schedule(name))
}

/// Computes with times off the async threads: one after the other of each tenant.
pub(crate) async fn computed<T: Send + 'static>(
    api: &Api,
    tenant: &TenantId,
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let turn = api.checks.acquire(tenant).await?;
    let computed = tokio::task::spawn_blocking(move || {
        // Held here: a caller that goes away does not end the work.
        let _turn = turn;
        compute()
    });
    computed.await.map_err(|error| {
        tracing::error!(%error, "computing times of a schedule failed");
        Problem::see_log()
    })
}

/// The broker's time.
pub(crate) async fn now(api: &Api) -> Result<UnixMs> {
    Ok(api.broker.due_schedules(0).await?.now)
}

/// The step that a decision about a schedule asks for.
pub(crate) fn step_of(record: &ScheduleRecord, definition: Option<String>, decision: &Decision) -> ScheduleStep {
    ScheduleStep {
        tenant: record.tenant.clone(),
        name: record.name.clone(),
        revision: record.revision,
        not_before: 0,
        change: ScheduleChange::Put { definition, state: state_text(&decision.state), look_at: decision.look_at },
        fires: decision.records.iter().map(FireRecord::to_text).collect(),
        start: None,
    }
}

pub(crate) fn state_text(state: &FiringState) -> String {
    serde_json::to_string(state).expect("a state has text keys only")
}

/// The step that leaves a schedule as it is, records an entry and starts a run.
pub(crate) fn run_step(record: &ScheduleRecord, fire: &FireRecord, run: NewRun) -> ScheduleStep {
    let change = ScheduleChange::Put { definition: None, state: record.state.clone(), look_at: record.look_at };
    ScheduleStep {
        tenant: record.tenant.clone(),
        name: record.name.clone(),
        revision: record.revision,
        not_before: 0,
        change,
        fires: vec![fire.to_text()],
        start: Some(run),
    }
}

/// Does a step; none when somebody was faster. A start that the broker refused is an answer (`NotStarted…`), and no error.
pub(crate) async fn stepped(api: &Api, step: ScheduleStep) -> Result<Option<ScheduleStepped>> {
    let answer = api.broker.schedule_steps(std::slice::from_ref(&step)).await?;
    let answer = answer.into_iter().next().ok_or_else(Problem::no_broker_answer)?;
    match answer {
        ScheduleStepped::Stale { .. } | ScheduleStepped::TooEarly { .. } => Ok(None),
        ScheduleStepped::TooMany(max) => Err(Problem::too_many_schedules(format!(
            "a tenant has at most {max} schedules: delete one that is not needed, or let an operator raise the limit"
        ))),
        ScheduleStepped::TooLarge { part, max } => {
            let detail = format!("its {} would have more than {max} bytes: write a shorter one", part.as_str());
            Err(Problem::invalid_schedule(detail))
        }
        ScheduleStepped::StorageFull => Err(storage_quota::of_documents(api, &step.tenant).await),
        done => Ok(Some(done)),
    }
}

/// A schedule as somebody who orders something finds it.
pub(crate) struct Seen {
    pub(crate) definition: Arc<Definition>,
    pub(crate) state: FiringState,
    pub(crate) now: UnixMs,
    /// When a step was tried before: the newest entries of its history. That step may have been done, and its answer lost.
    pub(crate) history: Vec<FireRecord>,
}

/// Changes the state of a schedule as `decide` says, off the async threads; answers what `decide` says besides, and the schedule as
/// it is then. `decide` is asked anew when somebody was faster, or when the answer to a step that was done was lost.
pub(crate) async fn order<T: Send + 'static>(
    api: &Api,
    tenant: &TenantId,
    name: &ScheduleName,
    decide: impl Fn(&Seen) -> Result<(Option<Decision>, T)> + Send + Sync + 'static,
) -> Result<(Found, T)> {
    let decide = Arc::new(decide);
    let mut history = Vec::new();
    for _ in 0..MAX_TRIES {
        let mut found = get(api, tenant, name).await?;
        let (definition, state) = found.parts()?;
        let (decide, seen) = (decide.clone(), Seen { definition, state, now: now(api).await?, history });
        let (decision, answer) = computed(api, tenant, move || decide(&seen)).await??;
        let Some(decision) = decision else { return Ok((found, answer)) };
        let step = step_of(&found.record, None, &decision);
        if stepped(api, step).await?.is_some() {
            found.record.state = state_text(&decision.state);
            found.record.look_at = decision.look_at;
            return Ok((found, answer));
        }
        let fires = api.broker.fires(tenant, name, None, MAX_FIRES as u32).await?;
        history = fires.iter().filter_map(|fire| serde_json::from_str(&fire.text).ok()).collect();
    }
    Err(busy(name))
}

pub(crate) fn busy(name: &ScheduleName) -> Problem {
    Problem::concurrent_change(format!("schedule `{name}`: it fires, or others change it; try again"))
}
