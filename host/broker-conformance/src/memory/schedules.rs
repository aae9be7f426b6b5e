//! Schedules of the in-memory model.

use std::collections::VecDeque;

use umbel_model::{ScheduleName, TenantId, UnixMs};

use super::{records::Schedule, state::State};
use umbel_broker::{
    rules::schedules::{self, Filling, Room},
    *,
};

impl State {
    pub(super) fn schedule_steps(&mut self, steps: &[ScheduleStep]) -> Vec<ScheduleStepped> {
        steps.iter().map(|step| self.schedule_step(step)).collect()
    }

    fn schedule_step(&mut self, step: &ScheduleStep) -> ScheduleStepped {
        let found = self.schedule(&step.tenant, &step.name);
        let refusal = schedules::too_large(step)
            .or_else(|| schedules::outdated(step, found.as_ref().map_or(0, |record| record.revision), self.now))
            .or_else(|| self.no_room(step, found.as_ref()))
            .or_else(|| self.not_started(step));
        if let Some(refusal) = refusal {
            return refusal;
        }
        let revision = self.schedule_revisions.entry(step.tenant.clone()).or_default();
        *revision += 1;
        let revision = *revision;
        self.notifications.earlier_look |= schedules::is_earlier(wanted_look(step), self.earliest_look());
        let key = (step.tenant.clone(), step.name.clone());
        let ScheduleChange::Put { definition, state, .. } = &step.change else {
            self.schedules.remove(&key);
            return ScheduleStepped::Done { version: 0, revision };
        };
        let now = self.now;
        let schedule = self.schedules.entry(key).or_insert_with(|| made(step, now));
        let record = &mut schedule.record;
        if let Some(definition) = definition {
            record.definition.clone_from(definition);
            record.version += 1;
            record.changed_at = now;
        }
        record.revision = revision;
        record.state.clone_from(state);
        record.look_at = wanted_look(step);
        record.fires += step.fires.len() as u64;
        schedule.history.extend(step.fires.iter().cloned());
        let old = schedule.history.len().saturating_sub(MAX_FIRES);
        schedule.history.drain(..old);
        ScheduleStepped::Done { version: schedule.record.version, revision }
    }

    fn no_room(&self, step: &ScheduleStep, found: Option<&ScheduleRecord>) -> Option<ScheduleStepped> {
        let room = Room { max_schedules: self.limits.max_schedules, max_bytes: self.limits_of(&step.tenant).documents };
        let count = || Ok::<_, std::convert::Infallible>(self.schedules_of(&step.tenant).count() as u64);
        let Ok(refusal) =
            room.refuses(step, found.map(bytes_of), count, || Ok(self.stored_bytes(&step.tenant).documents));
        refusal
    }

    /// Starts what a step starts, or says why it cannot.
    fn not_started(&mut self, step: &ScheduleStep) -> Option<ScheduleStepped> {
        match step.start.as_ref()? {
            NewRun::Job(job) => schedules::not_started(job.id, self.submit_one(job)),
            NewRun::Workflow(id) => schedules::not_started_workflow(*id, self.start_workflow(&step.tenant, *id)),
        }
    }

    pub(super) fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Option<ScheduleRecord> {
        self.schedules.get(&(tenant.clone(), name.clone())).map(|schedule| schedule.record.clone())
    }

    fn schedules_of(&self, tenant: &TenantId) -> impl Iterator<Item = &ScheduleRecord> {
        self.schedules.iter().filter(move |((of, _), _)| of == tenant).map(|(_, schedule)| &schedule.record)
    }

    pub(super) fn schedules(&self, query: &ScheduleQuery) -> SchedulePage {
        let mut filling = Filling::new(query.max.max(1));
        for record in self.schedules_of(&query.tenant) {
            let is_asked = record.name.as_str().starts_with(&query.prefix)
                && query.after.as_ref().is_none_or(|after| record.name > *after);
            if is_asked {
                filling.add(record.clone());
            }
            if filling.is_full() {
                break;
            }
        }
        filling.page()
    }

    pub(super) fn due_schedules(&self, max: u32) -> DueSchedules {
        let records = self.schedules.values().map(|schedule| &schedule.record);
        let mut looks: Vec<_> = records.filter_map(|record| Some((record.look_at?, record))).collect();
        looks.sort_by_key(|(at, record)| (*at, &record.tenant, &record.name));
        let mut filling = Filling::new(max);
        let due = looks.iter().take_while(|(at, _)| *at <= self.now).take_while(|(_, record)| {
            let has_room = !filling.is_full();
            if has_room {
                filling.add((*record).clone());
            }
            has_room
        });
        let taken = due.count();
        let next_look = looks.get(taken).map(|(at, _)| *at);
        DueSchedules { schedules: filling.schedules, now: self.now, next_look }
    }

    pub(super) fn fires(&self, tenant: &TenantId, name: &ScheduleName, before: Option<u64>, max: u32) -> Vec<Fire> {
        let Some(schedule) = self.schedules.get(&(tenant.clone(), name.clone())) else { return Vec::new() };
        let numbered = schedule.history.iter().rev().zip((1..=schedule.record.fires).rev());
        let fires = numbered.map(|(text, number)| Fire { number, text: text.clone() });
        fires.filter(|fire| before.is_none_or(|before| fire.number < before)).take(max as usize).collect()
    }

    fn earliest_look(&self) -> Option<UnixMs> {
        self.schedules.values().filter_map(|schedule| schedule.record.look_at).min()
    }

    pub(super) fn schedule_bytes(&self, tenant: &TenantId) -> u64 {
        self.schedules_of(tenant).map(bytes_of).sum()
    }
}

fn bytes_of(record: &ScheduleRecord) -> u64 {
    schedules::bytes(&record.name, record.definition.len(), record.state.len())
}

fn wanted_look(step: &ScheduleStep) -> Option<UnixMs> {
    match step.change {
        ScheduleChange::Put { look_at, .. } => schedules::look_at(look_at),
        ScheduleChange::Delete => None,
    }
}

/// The schedule that a step makes, before it is put.
fn made(step: &ScheduleStep, now: UnixMs) -> Schedule {
    let record = ScheduleRecord {
        tenant: step.tenant.clone(),
        name: step.name.clone(),
        version: 0,
        revision: 0,
        definition: String::new(),
        state: String::new(),
        look_at: None,
        created_at: now,
        changed_at: now,
        fires: 0,
    };
    Schedule { record, history: VecDeque::new() }
}
