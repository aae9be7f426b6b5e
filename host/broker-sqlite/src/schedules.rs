//! Reads of schedules.

use rusqlite::Row;
use tracing::error;
use umbel_broker::{
    DueSchedules, Fire, PAGE_SCAN, SchedulePage, ScheduleQuery, ScheduleRecord, rules::schedules::Filling,
};
use umbel_model::{ScheduleName, TenantId};

use crate::{
    error::Fault,
    reads::View,
    rows::{all, each, first, get, one, read},
};

macro_rules! select_schedule {
    ($index:literal, $rest:literal) => {
        concat!(
            "SELECT tenant, name, version, revision, text, state, look_at, created_at, changed_at, fires
            FROM schedule INDEXED BY ",
            $index,
            " CROSS JOIN schedule_definition AS definition ON definition.rid = schedule.rid WHERE ",
            $rest
        )
    };
}

const FIND: &str = select_schedule!("schedule_name", "tenant = ? AND name = ?");
const LIST: &str = select_schedule!("schedule_name", "tenant = ? AND name >= ? ORDER BY name LIMIT ?");
const LIST_AFTER: &str = select_schedule!("schedule_name", "tenant = ? AND name > ? ORDER BY name LIMIT ?");
const DUE: &str = select_schedule!("schedule_look", "look_at <= ? ORDER BY look_at, tenant, name LIMIT ?");
const NEXT_LOOK: &str = "SELECT look_at FROM schedule INDEXED BY schedule_look WHERE look_at IS NOT NULL
    ORDER BY look_at, tenant, name LIMIT 1 OFFSET ?";
const FIRES: &str = "SELECT number, text FROM schedule INDEXED BY schedule_name
    CROSS JOIN schedule_fire ON schedule_fire.rid = schedule.rid
    WHERE tenant = ? AND name = ? AND number < ? ORDER BY number DESC LIMIT ?";

fn record(row: &Row<'_>) -> Result<ScheduleRecord, Fault> {
    Ok(read!(row => ScheduleRecord {
        tenant, name, version, revision, definition, state, look_at, created_at, changed_at, fires
    }))
}

/// What was read of one of several schedules; none, and a line in the log, when it is damaged: it stops none of the others.
fn unless_damaged<T>(row: &Row<'_>, read: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match read {
        Err(error @ Fault::Stored { .. }) => {
            let text = |column| row.get_ref(column).ok().and_then(|value| value.as_bytes().ok());
            let [tenant, name] = [0, 1].map(|column| String::from_utf8_lossy(text(column).unwrap_or_default()));
            error!(?tenant, ?name, error = ?error.to_string(), "a schedule cannot be read and is left out");
            Ok(None)
        }
        read => read.map(Some),
    }
}

impl View<'_> {
    pub(crate) fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Result<Option<ScheduleRecord>, Fault> {
        one(self.conn, FIND, &[tenant, name], record)
    }

    pub(crate) fn schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage, Fault> {
        let ScheduleQuery { tenant, prefix, after, max } = query;
        let after = after.as_ref().map(ScheduleName::as_str).filter(|after| *after >= prefix.as_str());
        let (sql, from) = after.map_or((LIST, prefix.as_str()), |after| (LIST_AFTER, after));
        let mut filling = Filling::new((*max).max(1));
        let (mut passed, mut last) = (0, None);
        each(self.conn, sql, &[tenant, &from, &PAGE_SCAN], |row| {
            passed += 1;
            let Some(name) = unless_damaged(row, get::<ScheduleName>(row, 1))? else { return Ok(true) };
            let is_asked = name.as_str().starts_with(prefix.as_str());
            if is_asked && let Some(record) = unless_damaged(row, record(row))? {
                filling.add(record);
            }
            last = is_asked.then_some(name);
            Ok(is_asked && !filling.is_full())
        })?;
        let page = filling.page();
        // With those that are left out the scan may end before the page is full.
        let next = page.next.or_else(|| last.filter(|_| passed >= PAGE_SCAN));
        Ok(SchedulePage { next, ..page })
    }

    pub(crate) fn due_schedules(&self, max: u32) -> Result<DueSchedules, Fault> {
        let mut filling = Filling::new(max);
        // Those that are left out take no place of others.
        let (scan, mut passed) = (if max == 0 { 0 } else { PAGE_SCAN }, 0_usize);
        each(self.conn, DUE, &[&self.now, &scan], |row| {
            passed += 1;
            if let Some(record) = unless_damaged(row, record(row))? {
                filling.add(record);
            }
            Ok(!filling.is_full())
        })?;
        let schedules = filling.schedules;
        let next_look = one(self.conn, NEXT_LOOK, &[&passed], first)?;
        Ok(DueSchedules { schedules, now: self.now, next_look })
    }

    pub(crate) fn fires(
        &self,
        tenant: &TenantId,
        name: &ScheduleName,
        before: Option<u64>,
        max: u32,
    ) -> Result<Vec<Fire>, Fault> {
        all(self.conn, FIRES, &[tenant, name, &before.unwrap_or(u64::MAX), &max], |row| {
            Ok(read!(row => Fire { number, text }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_of_a_schedule_costs_more_because_more_are_stored() {
        for sql in [FIND, LIST, LIST_AFTER, DUE, FIRES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
        // It begins at the earliest, and passes over those that were read.
        let plan = crate::tests::plan(NEXT_LOOK);
        assert!(plan.contains("schedule_look") && !plan.contains("TEMP B-TREE"), "{plan}");
    }
}
