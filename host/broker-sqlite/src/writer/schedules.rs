//! Steps of schedules.

use umbel_broker::{
    MAX_FIRES, NewRun, ScheduleChange, ScheduleStep, ScheduleStepped,
    rules::schedules::{self, Room},
};
use umbel_model::UnixMs;

use crate::writer::step::Step;
use crate::{
    error::Fault,
    rows::{first, insert, one, read, run, update},
};

const FIND: &str = "SELECT schedule.rid, version, revision, fires, octet_length(text), octet_length(state)
    FROM schedule INDEXED BY schedule_name
    CROSS JOIN schedule_definition AS definition ON definition.rid = schedule.rid WHERE tenant = ? AND name = ?";
const COUNT: &str = "SELECT count(*) FROM schedule INDEXED BY schedule_name WHERE tenant = ?";
const EARLIEST: &str =
    "SELECT look_at FROM schedule INDEXED BY schedule_look WHERE look_at IS NOT NULL ORDER BY look_at LIMIT 1";
const NEXT_REVISION: &str = "INSERT INTO schedule_revision (tenant, last) VALUES (?, 1)
    ON CONFLICT (tenant) DO UPDATE SET last = last + 1 RETURNING last";
const FORGET_FIRES: &str = "DELETE FROM schedule_fire WHERE rid = ? AND number <= ?";

/// What a step needs to know of a schedule that is stored.
struct Stored {
    rid: i64,
    version: u64,
    revision: u64,
    fires: u64,
    definition_bytes: usize,
    state_bytes: usize,
}

impl Stored {
    fn bytes(&self, step: &ScheduleStep) -> u64 {
        schedules::bytes(&step.name, self.definition_bytes, self.state_bytes)
    }
}

impl Step<'_> {
    pub(crate) fn schedule_steps(&mut self, steps: &[ScheduleStep]) -> Result<Vec<ScheduleStepped>, Fault> {
        steps.iter().map(|step| self.schedule_step(step)).collect()
    }

    fn schedule_step(&mut self, step: &ScheduleStep) -> Result<ScheduleStepped, Fault> {
        let stored = one(self.conn, FIND, &[&step.tenant, &step.name], |row| {
            Ok(read!(row => Stored { rid, version, revision, fires, definition_bytes, state_bytes }))
        })?;
        let revision = stored.as_ref().map_or(0, |stored| stored.revision);
        let outdated = || schedules::outdated(step, revision, self.now);
        if let Some(refusal) = schedules::too_large(step).or_else(outdated) {
            return Ok(refusal);
        }
        let refusal = match self.no_room_for_schedule(step, stored.as_ref())? {
            None => self.start_run(step)?,
            full => full,
        };
        if let Some(refusal) = refusal {
            return Ok(refusal);
        }
        let revision = one(self.conn, NEXT_REVISION, &[&step.tenant], first::<u64>)?
            .ok_or_else(|| Fault::stored("revision of a schedule", "none was given"))?;
        let version = match &step.change {
            ScheduleChange::Put { definition, state, look_at } => {
                let look_at = schedules::look_at(*look_at);
                let earliest = one(self.conn, EARLIEST, &[], first)?;
                self.notifications.earlier_look |= schedules::is_earlier(look_at, earliest);
                self.put_schedule(step, stored, revision, (definition.as_deref(), state, look_at))?
            }
            ScheduleChange::Delete => {
                self.delete_schedule(step, stored)?;
                0
            }
        };
        Ok(ScheduleStepped::Done { version, revision })
    }

    fn no_room_for_schedule(
        &self,
        step: &ScheduleStep,
        stored: Option<&Stored>,
    ) -> Result<Option<ScheduleStepped>, Fault> {
        if matches!(step.change, ScheduleChange::Put { definition: Some(_), .. }) {
            self.check_room()?;
        }
        let max_bytes = self.storage_limits(&step.tenant).documents;
        let room = Room { max_schedules: self.limits.max_schedules, max_bytes };
        let count = || Ok(one(self.conn, COUNT, &[&step.tenant], first::<u64>)?.unwrap_or(0));
        let old = stored.map(|stored| stored.bytes(step));
        room.refuses(step, old, count, || Ok(self.stored.of(&step.tenant).documents))
    }

    /// Starts what a step starts, or says why it cannot.
    fn start_run(&mut self, step: &ScheduleStep) -> Result<Option<ScheduleStepped>, Fault> {
        Ok(match &step.start {
            None => None,
            Some(NewRun::Job(job)) => {
                let answers = self.submit(std::slice::from_ref(&**job))?;
                answers.first().and_then(|answer| schedules::not_started(job.id, *answer))
            }
            Some(NewRun::Workflow(id)) => schedules::not_started_workflow(*id, self.start_workflow(&step.tenant, *id)?),
        })
    }

    /// Stores a schedule; its version.
    fn put_schedule(
        &mut self,
        step: &ScheduleStep,
        stored: Option<Stored>,
        revision: u64,
        (definition, state, look_at): (Option<&str>, &str, Option<UnixMs>),
    ) -> Result<u64, Fault> {
        let (now, old_bytes) = (self.now, stored.as_ref().map_or(0, |stored| stored.bytes(step)));
        let before = stored.as_ref().map_or(0, |stored| stored.fires);
        let fires = before + step.fires.len() as u64;
        let version = stored.as_ref().map_or(0, |stored| stored.version) + u64::from(definition.is_some());
        let rid = match &stored {
            Some(Stored { rid, .. }) => {
                update!(self.conn, "schedule" {
                    version: version, revision: revision, look_at: look_at, fires: fires, state: state
                } "rid = ?", rid)?;
                *rid
            }
            None => {
                insert!(self.conn, "INSERT INTO schedule" {
                    tenant: step.tenant, name: step.name, version: version, revision: revision, look_at: look_at,
                    created_at: now, changed_at: now, fires: fires, state: state
                })?;
                self.conn.last_insert_rowid()
            }
        };
        if let Some(text) = definition {
            update!(self.conn, "schedule" { changed_at: now } "rid = ?", rid)?;
            insert!(self.conn, "INSERT OR REPLACE INTO schedule_definition" { rid: rid, text: text })?;
        }
        for (number, text) in (before + 1..).zip(&step.fires) {
            insert!(self.conn, "INSERT INTO schedule_fire" { rid: rid, number: number, text: text })?;
        }
        if !step.fires.is_empty() {
            run(self.conn, FORGET_FIRES, &[&rid, &fires.saturating_sub(MAX_FIRES as u64)])?;
        }
        let definition_bytes = definition.map_or(stored.map_or(0, |stored| stored.definition_bytes), str::len);
        let bytes = schedules::bytes(&step.name, definition_bytes, state.len());
        self.stored.change(&step.tenant, |all| all.documents = (all.documents + bytes).saturating_sub(old_bytes));
        Ok(version)
    }

    fn delete_schedule(&mut self, step: &ScheduleStep, stored: Option<Stored>) -> Result<(), Fault> {
        let Some(stored) = stored else { return Ok(()) };
        for sql in [
            "DELETE FROM schedule WHERE rid = ?",
            "DELETE FROM schedule_definition WHERE rid = ?",
            "DELETE FROM schedule_fire WHERE rid = ?",
        ] {
            run(self.conn, sql, &[&stored.rid])?;
        }
        let bytes = stored.bytes(step);
        self.stored.change(&step.tenant, |all| all.documents = all.documents.saturating_sub(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_of_a_schedule_costs_more_because_more_are_stored() {
        for sql in [FIND, COUNT, FORGET_FIRES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
        // It reads the first entry.
        let plan = crate::tests::plan(EARLIEST);
        assert!(plan.contains("schedule_look") && !plan.contains("TEMP B-TREE"), "{plan}");
    }
}
