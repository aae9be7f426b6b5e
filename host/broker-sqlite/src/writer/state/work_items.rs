//! The work items of workflows.
//!
//! What the operation under way adds is done first, and waits in memory. Then comes the list of all, first in first out:
//! its front lies in the table `todo`, what the operations of a group left waits behind it in memory and is stored when
//! the group is committed. Most items are done before that, and cost no statement. Where there is nothing to do, looking
//! is free.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension, Row, params};
use umbel_broker::Status;
use umbel_model::{JobId, JobState, TenantId, canvas::Range};

use crate::{
    error::Fault,
    rows::{self, int, state_number, status_number},
};

/// A work item. Workflows are named by their rows.
#[derive(Debug, Clone)]
pub(in crate::writer) enum Item {
    /// These nodes' source ended.
    Arrive { workflow: i64, targets: Range, raw: Status, adjusted: Status },
    /// These nodes are to end in this state.
    Cancel { workflow: i64, nodes: Range, how: JobState },
    /// The workflow that replaced a job ended.
    Adopt { tenant: TenantId, job: JobId, status: Status },
}

const ARRIVE: i64 = 0;
const CANCEL: i64 = 1;
const ADOPT: i64 = 2;

/// Where an item was taken from.
#[derive(Debug, Clone, Copy)]
pub(in crate::writer) enum Origin {
    /// The operation under way added it.
    Own,
    Stored(i64),
    /// The list, where nothing is stored.
    Late,
}

#[derive(Debug, Default)]
pub(in crate::writer) struct WorkItems {
    /// Items in the table.
    stored: u64,
    /// The same before the group under way.
    stored_before: u64,
    /// Behind those in the table.
    late: VecDeque<Item>,
    /// Of the operation under way.
    own: VecDeque<Item>,
}

pub(in crate::writer) const FRONT: &str =
    "SELECT seq, kind, workflow, first, count, raw, adjusted, how, tenant, job FROM todo ORDER BY seq LIMIT 1";

impl WorkItems {
    pub(in crate::writer) fn load(conn: &Connection) -> Result<Self, Fault> {
        let stored: i64 = conn.query_row("SELECT count(*) FROM todo", [], |row| row.get(0))?;
        let stored = stored.unsigned_abs();
        Ok(Self { stored, stored_before: stored, ..Self::default() })
    }

    pub(in crate::writer) fn is_empty(&self) -> bool {
        self.stored == 0 && self.late.is_empty() && self.own.is_empty()
    }

    pub(in crate::writer) fn push(&mut self, item: Item) {
        self.own.push_back(item);
    }

    /// Whether the operation under way has added what is not done.
    pub(in crate::writer) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// The first item that the operation under way added. What is left of it must be `put_back`.
    pub(in crate::writer) fn take_own(&mut self) -> Option<Item> {
        self.own.pop_front()
    }

    /// The item in front of the list. What is left of it must be `put_back`.
    pub(in crate::writer) fn take(&mut self, conn: &Connection) -> Result<Option<(Origin, Item)>, Fault> {
        if self.stored == 0 {
            return Ok(self.late.pop_front().map(|item| (Origin::Late, item)));
        }
        let mut statement = conn.prepare_cached(FRONT)?;
        let mut rows = statement.query([])?;
        let row = rows.next()?.ok_or_else(|| Fault::stored("work items", "fewer than were counted"))?;
        Ok(Some((Origin::Stored(row.get(0)?), decode(row)?)))
    }

    /// Keeps the rest of an item in front, or strikes it off when it is done.
    pub(in crate::writer) fn put_back(
        &mut self,
        conn: &Connection,
        origin: Origin,
        rest: Option<Item>,
    ) -> Result<(), Fault> {
        match (origin, rest) {
            (Origin::Own | Origin::Late, None) => {}
            (Origin::Own, Some(rest)) => self.own.push_front(rest),
            (Origin::Late, Some(rest)) => self.late.push_front(rest),
            (Origin::Stored(seq), None) => {
                conn.prepare_cached("DELETE FROM todo WHERE seq = ?")?.execute([seq])?;
                self.stored -= 1;
            }
            (Origin::Stored(seq), Some(Item::Arrive { targets: left, .. } | Item::Cancel { nodes: left, .. })) => {
                let sql = "UPDATE todo SET first = ?, count = ? WHERE seq = ?";
                conn.prepare_cached(sql)?.execute(params![left.first, left.count, seq])?;
            }
            // It is done at once or not at all.
            (Origin::Stored(_), Some(Item::Adopt { .. })) => {}
        }
        Ok(())
    }

    /// Strikes off what is stored of workflows that are gone.
    pub(in crate::writer) fn strike_gone(&mut self, conn: &Connection) -> Result<(), Fault> {
        let sql = "DELETE FROM todo WHERE kind IN (0, 1)
            AND NOT EXISTS (SELECT 1 FROM workflow WHERE workflow.rid = todo.workflow)";
        self.stored = self.stored.saturating_sub(conn.execute(sql, [])? as u64);
        Ok(())
    }

    /// Leaves to others what the operation under way has added and not done: at the end of the list.
    pub(in crate::writer) fn put_off(&mut self) {
        self.late.append(&mut self.own);
    }

    /// Stores what was added and not done.
    pub(in crate::writer) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.put_off();
        if self.late.is_empty() {
            return Ok(());
        }
        // Behind all that is there.
        let last = "SELECT seq FROM todo ORDER BY seq DESC LIMIT 1";
        let mut seq = conn.prepare_cached(last)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0);
        while let Some(item) = self.late.pop_front() {
            seq += 1;
            insert(conn, seq, &item)?;
            self.stored += 1;
        }
        Ok(())
    }

    /// The group was committed.
    pub(in crate::writer) fn keep(&mut self) {
        self.stored_before = self.stored;
    }

    /// The group was rolled back.
    pub(in crate::writer) fn undo(&mut self) {
        self.late.clear();
        self.own.clear();
        self.stored = self.stored_before;
    }
}

fn insert(conn: &Connection, seq: i64, item: &Item) -> Result<(), Fault> {
    let range_sql = "INSERT INTO todo (seq, kind, workflow, first, count, raw, adjusted, how)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    match item {
        Item::Arrive { workflow, targets, raw, adjusted } => {
            let (raw, adjusted) = (status_number(*raw), status_number(*adjusted));
            let row = params![seq, ARRIVE, workflow, targets.first, targets.count, raw, adjusted, None::<i64>];
            conn.prepare_cached(range_sql)?.execute(row)?;
        }
        Item::Cancel { workflow, nodes, how } => {
            let none = None::<i64>;
            let row = params![seq, CANCEL, workflow, nodes.first, nodes.count, none, none, state_number(*how)];
            conn.prepare_cached(range_sql)?.execute(row)?;
        }
        Item::Adopt { tenant, job, status } => {
            let sql = "INSERT INTO todo (seq, kind, adjusted, tenant, job) VALUES (?, ?, ?, ?, ?)";
            let row = params![seq, ADOPT, status_number(*status), tenant.as_str(), job.to_bytes()];
            conn.prepare_cached(sql)?.execute(row)?;
        }
    }
    Ok(())
}

fn decode(row: &Row<'_>) -> Result<Item, Fault> {
    let range = || Ok::<_, Fault>(Range { first: row.get(3)?, count: row.get(4)? });
    match row.get(1)? {
        ARRIVE => {
            let (raw, adjusted) = (rows::status(row, 5)?, rows::status(row, 6)?);
            Ok(Item::Arrive { workflow: row.get(2)?, targets: range()?, raw, adjusted })
        }
        CANCEL => Ok(Item::Cancel { workflow: row.get(2)?, nodes: range()?, how: rows::state(row, 7)? }),
        ADOPT => Ok(Item::Adopt { tenant: rows::name(row, 8)?, job: rows::id(row, 9)?, status: rows::status(row, 6)? }),
        other => Err(Fault::stored("kind of a work item", int(i64::unsigned_abs(other)))),
    }
}
