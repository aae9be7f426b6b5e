//! The work items of workflows.
//!
//! What the operation under way adds is done first, and waits in memory. Then comes the list of all, first in first out:
//! its front lies in the table `todo`, what the operations of a group left waits behind it in memory and is stored when
//! the group is committed. Most items are done before that, and cost no statement. Where there is nothing to do, looking
//! is free.

use std::collections::VecDeque;

use rusqlite::{Connection, Row};
use umbel_broker::rules::work_items::WorkItem;
use umbel_model::canvas::Range;

use crate::{
    error::Fault,
    rows::{changed, first, get, insert, one, run, update},
};

/// A work item. Workflows are named by their rows.
pub(crate) type Item = WorkItem<i64>;

const ARRIVE: i64 = 0;
const CANCEL: i64 = 1;
const ADOPT: i64 = 2;

/// Where an item was taken from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// The operation under way added it.
    Own,
    Stored(i64),
    /// The list, where nothing is stored.
    Late,
}

#[derive(Debug, Default)]
pub(crate) struct WorkItems {
    /// Items in the table.
    stored: u64,
    /// The same before the group under way.
    stored_before: u64,
    /// Behind those in the table.
    late: VecDeque<Item>,
    /// Of the operation under way.
    own: VecDeque<Item>,
}

pub(crate) const FRONT: &str =
    "SELECT seq, kind, workflow, first, count, raw, adjusted, how, tenant, job FROM todo ORDER BY seq LIMIT 1";

impl WorkItems {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let stored = one(conn, "SELECT count(*) FROM todo", &[], first)?.unwrap_or(0);
        Ok(Self { stored, stored_before: stored, ..Self::default() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stored == 0 && self.late.is_empty() && self.own.is_empty()
    }

    pub(crate) fn push(&mut self, item: Item) {
        self.own.push_back(item);
    }

    /// Whether the operation under way has added what is not done.
    pub(crate) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// The first item that the operation under way added. What is left of it must be `put_back`.
    pub(crate) fn take_own(&mut self) -> Option<Item> {
        self.own.pop_front()
    }

    /// The item in front of the list. What is left of it must be `put_back`.
    pub(crate) fn take(&mut self, conn: &Connection) -> Result<Option<(Origin, Item)>, Fault> {
        if self.stored == 0 {
            return Ok(self.late.pop_front().map(|item| (Origin::Late, item)));
        }
        let front = one(conn, FRONT, &[], |row| Ok((Origin::Stored(get(row, 0)?), decode(row)?)))?;
        front.map(Some).ok_or_else(|| Fault::stored("work items", "fewer than were counted"))
    }

    /// Keeps the rest of an item in front, or strikes it off when it is done.
    pub(crate) fn put_back(&mut self, conn: &Connection, origin: Origin, rest: Option<Item>) -> Result<(), Fault> {
        match (origin, rest) {
            (Origin::Own | Origin::Late, None) => {}
            (Origin::Own, Some(rest)) => self.own.push_front(rest),
            (Origin::Late, Some(rest)) => self.late.push_front(rest),
            (Origin::Stored(seq), None) => {
                run(conn, "DELETE FROM todo WHERE seq = ?", &[&seq])?;
                self.stored -= 1;
            }
            (Origin::Stored(seq), Some(Item::Arrive { nodes, .. } | Item::Cancel { nodes, .. })) => {
                update!(conn, "todo" { first: nodes.first, count: nodes.count } "seq = ?", seq)?;
            }
            // It is done at once or not at all.
            (Origin::Stored(_), Some(Item::Adopt { .. })) => {}
        }
        Ok(())
    }

    /// Strikes off what is stored of workflows that are gone.
    pub(crate) fn strike_gone(&mut self, conn: &Connection) -> Result<(), Fault> {
        let sql = "DELETE FROM todo WHERE kind IN (0, 1)
            AND NOT EXISTS (SELECT 1 FROM workflow WHERE workflow.rid = todo.workflow)";
        self.stored = self.stored.saturating_sub(changed(conn, sql, &[])?);
        Ok(())
    }

    /// Leaves to others what the operation under way has added and not done: at the end of the list.
    pub(crate) fn put_off(&mut self) {
        self.late.append(&mut self.own);
    }

    /// Stores what was added and not done.
    pub(crate) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.put_off();
        if self.late.is_empty() {
            return Ok(());
        }
        // Behind all that is there.
        let mut seq = one(conn, "SELECT seq FROM todo ORDER BY seq DESC LIMIT 1", &[], first)?.unwrap_or(0);
        while let Some(item) = self.late.pop_front() {
            seq += 1;
            store(conn, seq, &item)?;
            self.stored += 1;
        }
        Ok(())
    }

    /// The group was committed.
    pub(crate) fn keep(&mut self) {
        self.stored_before = self.stored;
    }

    /// The group was rolled back.
    pub(crate) fn undo(&mut self) {
        self.late.clear();
        self.own.clear();
        self.stored = self.stored_before;
    }
}

fn store(conn: &Connection, seq: i64, item: &Item) -> Result<(), Fault> {
    match item {
        Item::Arrive { workflow, nodes, raw, adjusted } => insert!(conn, "INSERT INTO todo" {
            seq: seq, kind: ARRIVE, workflow: workflow, first: nodes.first, count: nodes.count, raw: raw,
            adjusted: adjusted
        }),
        Item::Cancel { workflow, nodes, how } => insert!(conn, "INSERT INTO todo" {
            seq: seq, kind: CANCEL, workflow: workflow, first: nodes.first, count: nodes.count, how: how
        }),
        Item::Adopt { tenant, job, status } => insert!(conn, "INSERT INTO todo" {
            seq: seq, kind: ADOPT, adjusted: status, tenant: tenant, job: job
        }),
    }
}

fn decode(row: &Row<'_>) -> Result<Item, Fault> {
    let workflow = || get(row, 2);
    let nodes = || Ok::<_, Fault>(Range { first: get(row, 3)?, count: get(row, 4)? });
    Ok(match get(row, 1)? {
        ARRIVE => Item::Arrive { workflow: workflow()?, nodes: nodes()?, raw: get(row, 5)?, adjusted: get(row, 6)? },
        CANCEL => Item::Cancel { workflow: workflow()?, nodes: nodes()?, how: get(row, 7)? },
        ADOPT => Item::Adopt { tenant: get(row, 8)?, job: get(row, 9)?, status: get(row, 6)? },
        other => return Err(Fault::stored("kind of a work item", other)),
    })
}
