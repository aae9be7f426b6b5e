//! One due schedule: what is decided about it, the step that says so, and what follows from the broker's answer.

use std::sync::Arc;

use umbel_broker::{NewRun, ScheduleChange, ScheduleRecord, ScheduleStep, ScheduleStepped};
use umbel_model::{ScheduleStamp, UnixMs};
use umbel_schedule::{
    Definition,
    firing::{Decision, FireRecord, FiringState, Pause, Run, Start, Verdict, could_not_start, decide},
};

use super::runs::{Context, Fire, Ready, refusal, refusal_of_workflow};
use crate::Error;

/// A decision about times that are so long ago walks through many of them, milliseconds.
const LONG_AGO_MS: u64 = 60_000;

/// A due schedule, and how far it is.
#[derive(Debug, Clone)]
pub(super) struct Look {
    record: ScheduleRecord,
    /// What it says, or why it cannot be read.
    definition: Result<Arc<Definition>, String>,
    state: FiringState,
    now: UnixMs,
    /// A start that was refused, and why.
    refused: Option<(Start, String)>,
    plan: Option<Plan>,
}

/// What is to be done.
#[derive(Debug, Clone)]
struct Plan {
    state: FiringState,
    look_at: Option<UnixMs>,
    records: Vec<FireRecord>,
    start: Option<Start>,
    run: Option<NewRun>,
}

/// What follows from an answer.
pub(super) enum Next {
    /// More is to be done now.
    Again(Box<Look>),
    /// It is looked at when it is due again.
    Enough,
}

/// A step that changes nothing of a schedule but when it is looked at: others are in front of it meanwhile.
pub(super) fn aside(record: &ScheduleRecord, now: UnixMs, look_at: UnixMs) -> ScheduleStep {
    // The state as it was read, byte for byte: a newer release may have written it.
    let change = ScheduleChange::Put { definition: None, state: record.state.clone(), look_at: Some(look_at) };
    ScheduleStep {
        tenant: record.tenant.clone(),
        name: record.name.clone(),
        revision: record.revision,
        not_before: now,
        change,
        fires: Vec::new(),
        start: None,
    }
}

fn set_again(error: String) -> String {
    format!("it is damaged, set it again: {error}")
}

impl Look {
    pub(super) fn new(record: ScheduleRecord, definition: Result<Arc<Definition>, String>, now: UnixMs) -> Self {
        let definition = definition.map_err(set_again);
        let mut look = Self { record, definition, state: FiringState::default(), now, refused: None, plan: None };
        match serde_json::from_str::<FiringState>(&look.record.state) {
            Ok(state) if state.is_sound() => look.state = state,
            Ok(FiringState { key, started, .. }) => {
                // Ids of its runs stay those of no other schedule, and `max_runs` goes on to count.
                look.state = FiringState { key, started, ..FiringState::default() };
                look.broken("its state is out of its bounds");
            }
            Err(error) => look.broken(&format!("its state cannot be read: {error}")),
        }
        look
    }

    pub(super) fn record(&self) -> &ScheduleRecord {
        &self.record
    }

    /// The broker's time when it was read.
    pub(super) fn now(&self) -> UnixMs {
        self.now
    }

    /// Whether what it starts may be large.
    pub(super) fn may_start_workflow(&self) -> bool {
        self.definition.as_ref().is_ok_and(|definition| definition.may_start_workflow())
    }

    /// Its state is damaged: when it is resumed, it goes on from then with the state that is stored now.
    fn broken(&mut self, why: &str) {
        if self.definition.is_ok() {
            self.definition = Err(format!("it is damaged, resume it: {why}"));
        }
    }

    /// Decides, and gets ready what is to start. `reads_runs`: whether those that it follows may have ended meanwhile.
    pub(super) async fn plan(&mut self, cx: &Context<'_>, reads_runs: bool) -> Result<(), Error> {
        let definition = match &self.definition {
            Ok(definition) => definition.clone(),
            Err(error) => {
                self.plan_damaged(&error.clone());
                return Ok(());
            }
        };
        if reads_runs {
            for run in self.state.runs.clone() {
                if let Some(end) = cx.end_of(&self.record.tenant, &run).await? {
                    self.state.ended(run.id, end);
                }
            }
        }
        let decision = match self.refused.take() {
            Some((start, error)) => self.not_started(&definition, start, error).await,
            None => {
                let decision = self.decided(&definition).await;
                cx.cancel(&self.record.tenant, &decision.cancel).await?;
                match decision.start.clone() {
                    None => decision,
                    Some(start) => match cx.run(self.fire(&definition, &start)).await? {
                        Ok(ready) => {
                            self.started(&definition, decision, &start, ready);
                            return Ok(());
                        }
                        Err(error) => self.not_started(&definition, start, error).await,
                    },
                }
            }
        };
        self.plan = Some(Plan {
            look_at: decision.look_at,
            state: decision.state,
            records: decision.records,
            start: None,
            run: None,
        });
        Ok(())
    }

    async fn decided(&self, definition: &Arc<Definition>) -> Decision {
        let (definition, state, now) = (definition.clone(), self.state.clone(), self.now);
        let (tenant, name) = (self.record.tenant.clone(), self.record.name.clone());
        self.computed(move || decide(&definition.times(&tenant, &name), &definition.policy, &state, now)).await
    }

    async fn not_started(&self, definition: &Arc<Definition>, start: Start, error: String) -> Decision {
        let (definition, state, now) = (definition.clone(), self.state.clone(), self.now);
        let (tenant, name) = (self.record.tenant.clone(), self.record.name.clone());
        self.computed(move || {
            let times = definition.times(&tenant, &name);
            could_not_start(&times, &definition.policy, &state, &start, &error, now)
        })
        .await
    }

    /// A decision; one that may be long does not hold up the thread.
    async fn computed(&self, decide: impl FnOnce() -> Decision + Send + 'static) -> Decision {
        let is_late = self.state.next.is_some_and(|next| next.saturating_add(LONG_AGO_MS) < self.now);
        if !is_late {
            return decide();
        }
        match tokio::task::spawn_blocking(decide).await {
            Ok(decision) => decision,
            Err(error) => std::panic::panic_any(error.to_string()),
        }
    }

    fn fire<'a>(&'a self, definition: &'a Definition, start: &'a Start) -> Fire<'a> {
        let stamp = ScheduleStamp { name: self.record.name.clone(), nominal_at: start.nominal_at, fired_at: self.now };
        // A workflow is stored before it is started: each try of each definition has one of its own.
        let tries = match &start.backfill {
            None => self.state.retry.as_ref().map_or(0, |retry| retry.tries),
            Some(id) => self.state.backfills.iter().find(|of| of.id == *id).map_or(0, |of| of.tries),
        };
        let workflow_key = format!("{}/{}/{tries}", self.state.key, self.record.version);
        Fire { tenant: &self.record.tenant, definition, start, stamp, key: &self.state.key, workflow_key }
    }

    fn started(&mut self, definition: &Definition, decision: Decision, start: &Start, ready: Ready) {
        let Decision { mut state, mut look_at, mut records, .. } = decision;
        let run = Run { id: ready.id(), is_workflow: ready.is_workflow() };
        let mut record = FireRecord::of(Verdict::Started, self.now, start.nominal_at);
        record.backfill.clone_from(&start.backfill);
        let id = Some(run.id);
        if run.is_workflow {
            record.workflow = id
        } else {
            record.job = id
        }
        records.push(record);
        // Runs of a backfill are beside the others: they hold up none.
        if start.backfill.is_none() && definition.policy.follows_runs() {
            state.follow(run);
            if definition.policy.pause_after_failures > 0 {
                let end = self.now.saturating_add(Decision::FOLLOWED_MS);
                look_at = Some(look_at.map_or(end, |at| at.min(end)));
            }
        }
        self.plan = Some(Plan { state, look_at, records, start: Some(start.clone()), run: Some(ready.into_run()) });
    }

    /// Pauses a schedule about which the server failed to decide.
    pub(super) fn plan_failed(&mut self) {
        self.plan_damaged(&set_again("the server failed to decide about it; its log says more".to_owned()));
    }

    /// Pauses a schedule that cannot be read.
    fn plan_damaged(&mut self, reason: &str) {
        tracing::error!(
            tenant = %self.record.tenant, schedule = %self.record.name, ?reason, "a schedule is paused: it cannot be used"
        );
        let record = FireRecord::new(Verdict::Paused, self.now).because(reason);
        let mut state = self.state.clone();
        if state.key.is_empty() {
            state.key = format!("r{}", self.record.revision);
        }
        state.paused = Some(Pause { since: self.now, reason: record.reason.clone() });
        self.plan = Some(Plan { state, look_at: None, records: vec![record], start: None, run: None });
    }

    /// The step of the plan.
    pub(super) fn take_step(&mut self) -> Option<ScheduleStep> {
        let plan = self.plan.as_mut()?;
        Some(ScheduleStep {
            tenant: self.record.tenant.clone(),
            name: self.record.name.clone(),
            revision: self.record.revision,
            not_before: self.now,
            change: ScheduleChange::Put {
                definition: None,
                state: serde_json::to_string(&plan.state).unwrap_or_default(),
                // One that has more to do stands behind the others that are due.
                look_at: plan.look_at.map(|at| at.max(self.now)),
            },
            fires: plan.records.iter().map(FireRecord::to_text).collect(),
            start: plan.run.take(),
        })
    }

    /// What follows from the answer to the step.
    pub(super) fn answered(mut self, answer: ScheduleStepped) -> Next {
        use ScheduleStepped as S;
        let Some(plan) = self.plan.take() else { return Next::Enough };
        let refused = match answer {
            S::Done { revision, .. } => {
                if let Some(start) = &plan.start {
                    tracing::debug!(
                        tenant = %self.record.tenant, schedule = %self.record.name, nominal_at = start.nominal_at, "fired"
                    );
                }
                if plan.look_at.is_none_or(|at| at > self.now) {
                    return Next::Enough;
                }
                // A workflow is stored in many calls: others have their turn before its next one.
                if self.may_start_workflow() {
                    return Next::Enough;
                }
                (self.record.revision, self.state) = (revision, plan.state);
                return Next::Again(Box::new(self));
            }
            // Somebody else was faster, or the broker's clock went back.
            S::Stale { .. } | S::TooEarly { .. } => return Next::Enough,
            S::NotStarted(why) => refusal(why),
            S::NotStartedWorkflow(why) => refusal_of_workflow(why),
            S::TooLarge { part, max } => {
                if self.definition.is_err() {
                    // Nothing smaller can be stored: it is logged at each look.
                    return Next::Enough;
                }
                self.definition = Err(set_again(format!("its {} would have more than {max} bytes", part.as_str())));
                self.state = FiringState { key: self.state.key.clone(), ..FiringState::default() };
                return Next::Again(Box::new(self));
            }
            S::TooMany(_) | S::StorageFull => return Next::Enough,
        };
        match plan.start {
            Some(start) => {
                self.refused = Some((start, refused));
                Next::Again(Box::new(self))
            }
            None => Next::Enough,
        }
    }
}
