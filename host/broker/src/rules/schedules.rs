//! Schedules: which steps are refused, what a schedule takes, and when a page ends.
//!
//! A broker first asks `too_large`, then `outdated`, then `no_room`, and then whether what the step starts can be started. The Redis
//! broker keeps this order in `library/schedules.lua`.

use umbel_model::{JobId, ScheduleName, UnixMs, WorkflowId};

use super::storage;
use crate::{
    MAX_FIRE_BYTES, MAX_LOOK_AT, MAX_SCHEDULE_BYTES, MAX_SCHEDULE_STATE_BYTES, MAX_STEP_FIRES, NewRun, PAGE_BYTES,
    PAGE_SCAN, ScheduleChange, SchedulePage, SchedulePart, ScheduleRecord, ScheduleStep, ScheduleStepped, Submitted,
    WorkflowSubmitted,
};

/// The bytes of a schedule: its name and its texts.
pub fn bytes(name: &ScheduleName, definition_bytes: usize, state_bytes: usize) -> u64 {
    (name.as_str().len() + definition_bytes + state_bytes) as u64
}

/// About how many jobs the steps of a call touch.
pub fn jobs_started(steps: &[ScheduleStep]) -> usize {
    let started = |step: &ScheduleStep| match step.start {
        Some(NewRun::Workflow(_)) => crate::ADVANCE as usize,
        _ => 1,
    };
    steps.iter().map(started).sum()
}

/// Why a step cannot be done whatever is stored: something of it is too long.
pub fn too_large(step: &ScheduleStep) -> Option<ScheduleStepped> {
    let (definition, state) = match &step.change {
        ScheduleChange::Put { definition, state, .. } => (definition.as_ref().map_or(0, String::len), state.len()),
        ScheduleChange::Delete => (0, 0),
    };
    let longest_fire = step.fires.iter().map(String::len).max().unwrap_or(0);
    let parts = [
        (SchedulePart::Definition, definition, MAX_SCHEDULE_BYTES),
        (SchedulePart::State, state, MAX_SCHEDULE_STATE_BYTES),
        (SchedulePart::Fires, step.fires.len(), MAX_STEP_FIRES),
        (SchedulePart::Fire, longest_fire, MAX_FIRE_BYTES),
    ];
    let (part, _, max) = parts.into_iter().find(|(_, found, max)| found > max)?;
    Some(ScheduleStepped::TooLarge { part, max: max as u64 })
}

/// Why a step was decided by something else than what is stored, of which this is the revision (0: nothing), or comes too early.
pub fn outdated(step: &ScheduleStep, revision: u64, now: UnixMs) -> Option<ScheduleStepped> {
    let makes = matches!(step.change, ScheduleChange::Put { definition: Some(_), .. });
    if step.revision != revision || (revision == 0 && !makes) {
        return Some(ScheduleStepped::Stale { revision });
    }
    (now < step.not_before).then_some(ScheduleStepped::TooEarly { now })
}

/// What a tenant has of schedules and may have. A limit of 0 bytes is none.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub max_schedules: u64,
    pub max_bytes: u64,
}

impl Room {
    /// Why there is no room for what a step stores, where `old_bytes` are stored of the schedule (none: it is new).
    pub fn refuses<E>(
        self,
        step: &ScheduleStep,
        old_bytes: Option<u64>,
        schedules: impl FnOnce() -> Result<u64, E>,
        used: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Option<ScheduleStepped>, E> {
        let ScheduleChange::Put { definition: Some(definition), state, .. } = &step.change else { return Ok(None) };
        if old_bytes.is_none() && schedules()? >= self.max_schedules {
            return Ok(Some(ScheduleStepped::TooMany(self.max_schedules)));
        }
        let (old, new) = (old_bytes.unwrap_or(0), bytes(&step.name, definition.len(), state.len()));
        let is_full = new > old && self.max_bytes > 0 && !storage::fits(self.max_bytes, used()?, new - old);
        Ok(is_full.then_some(ScheduleStepped::StorageFull))
    }
}

/// Why a step is not done whose job was answered so. One of the very same id that was there counts as started.
pub fn not_started(id: JobId, answer: Submitted) -> Option<ScheduleStepped> {
    match answer {
        Submitted::Created => None,
        Submitted::Existing(found) if found == id => None,
        refusal => Some(ScheduleStepped::NotStarted(refusal)),
    }
}

/// The same of a workflow.
pub fn not_started_workflow(id: WorkflowId, answer: WorkflowSubmitted) -> Option<ScheduleStepped> {
    match answer {
        WorkflowSubmitted::Created => None,
        WorkflowSubmitted::Existing(found) if found == id => None,
        refusal => Some(ScheduleStepped::NotStartedWorkflow(refusal)),
    }
}

/// When somebody looks at a schedule, as it is stored.
pub fn look_at(wanted: Option<UnixMs>) -> Option<UnixMs> {
    wanted.map(|at| at.min(MAX_LOOK_AT))
}

/// Whether somebody who sleeps until the earliest look of all, as it was before a step, is to be told of a new one.
pub fn is_earlier(new: Option<UnixMs>, earliest: Option<UnixMs>) -> bool {
    new.is_some_and(|new| earliest.is_none_or(|earliest| new < earliest))
}

/// Fills a page with schedules in their order.
#[derive(Debug)]
pub struct Filling {
    pub schedules: Vec<ScheduleRecord>,
    max: usize,
    bytes: u64,
}

impl Filling {
    pub fn new(max: u32) -> Self {
        Self { schedules: Vec::new(), max: max.min(PAGE_SCAN) as usize, bytes: 0 }
    }

    /// Whether no other one is added.
    pub fn is_full(&self) -> bool {
        self.schedules.len() >= self.max || self.bytes >= PAGE_BYTES as u64
    }

    pub fn add(&mut self, record: ScheduleRecord) {
        self.bytes += bytes(&record.name, record.definition.len(), record.state.len());
        self.schedules.push(record);
    }

    /// The page of a list.
    pub fn page(self) -> SchedulePage {
        let next = self.schedules.last().filter(|_| self.is_full()).map(|last| last.name.clone());
        SchedulePage { schedules: self.schedules, next }
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::TenantId;

    use super::*;

    fn step(change: ScheduleChange) -> ScheduleStep {
        ScheduleStep {
            tenant: TenantId::new("t").unwrap(),
            name: ScheduleName::new("s").unwrap(),
            revision: 0,
            not_before: 0,
            change,
            fires: Vec::new(),
            start: None,
        }
    }

    fn put(definition: Option<&str>) -> ScheduleChange {
        ScheduleChange::Put { definition: definition.map(str::to_owned), state: "{}".into(), look_at: None }
    }

    #[test]
    fn a_step_is_outdated_by_another_revision_and_without_a_schedule_unless_it_makes_one() {
        let of = |revision, change| ScheduleStep { revision, ..step(change) };
        assert_eq!(outdated(&of(0, put(Some("d"))), 0, 5), None);
        assert_eq!(outdated(&of(3, put(None)), 3, 5), None);
        let stale = |revision| Some(ScheduleStepped::Stale { revision });
        assert_eq!(outdated(&of(0, put(Some("d"))), 3, 5), stale(3));
        assert_eq!(outdated(&of(3, put(None)), 4, 5), stale(4));
        for change in [put(None), ScheduleChange::Delete] {
            assert_eq!(outdated(&of(0, change), 0, 5), stale(0));
        }
    }

    #[test]
    fn a_step_is_too_early_until_its_millisecond() {
        let early = ScheduleStep { not_before: 10, ..step(put(Some("d"))) };
        assert_eq!(outdated(&early, 0, 9), Some(ScheduleStepped::TooEarly { now: 9 }));
        assert_eq!(outdated(&early, 0, 10), None);
    }

    #[test]
    fn only_a_new_definition_needs_room() {
        let room = Room { max_schedules: 2, max_bytes: 10 };
        let refuses = |change, old, schedules, used| {
            room.refuses(&step(change), old, || Ok::<u64, ()>(schedules), || Ok(used)).unwrap()
        };
        assert_eq!(refuses(put(Some("d")), None, 2, 0), Some(ScheduleStepped::TooMany(2)));
        assert_eq!(refuses(put(Some("d")), None, 1, 6), None);
        assert_eq!(refuses(put(Some("d")), None, 1, 7), Some(ScheduleStepped::StorageFull));
        assert_eq!(refuses(put(Some("d")), Some(4), 2, 99), None, "it does not grow");
        assert_eq!(refuses(put(None), Some(0), 2, 99), None);
        assert_eq!(refuses(ScheduleChange::Delete, Some(0), 2, 99), None);
    }
}
