//! What the writer knows of one line, and its columns in the table `line`.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use umbel_model::UnixMs;

use super::lines::{LineId, row_id};
use crate::{
    error::Fault,
    rows::{int, number, time},
};

/// Why a line is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Park {
    QueueFull,
    TenantFull,
    Until(UnixMs),
}

/// How many jobs of a line are where, and what opens and closes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Queued: plain and in lanes.
    pub(super) ready: u64,
    /// Queued in lanes.
    pub(super) laned: u64,
    pub(super) running: u64,
    /// Scheduled or retrying.
    pub(super) delayed: u64,
    /// In the dead set.
    pub(super) dead: u64,
    pub(super) lanes: u64,
    pub(super) open_lanes: u64,
    /// Of its lanes and its plain jobs. Both are 0 while it has no lanes.
    pub(super) clock: u64,
    pub(super) plain_tag: u64,
    /// The queue is.
    pub(super) paused: bool,
    /// Not stored: the tenant's control is.
    pub(super) tenant_paused: bool,
    pub(super) parked: Option<Park>,
    /// The worker of the last delivery.
    pub(super) holder: Option<Arc<str>>,
    /// Virtual start time; none while nothing can be handed out.
    pub(super) tag: Option<u64>,
    /// When a job came into it last, or it was seen in use; none: it is forgotten.
    pub(super) used_at: Option<UnixMs>,
}

impl Counts {
    pub(super) fn plain(&self) -> u64 {
        self.ready.saturating_sub(self.laned)
    }

    /// Jobs that wait in it or are dead.
    pub(super) fn held(&self) -> [u64; 3] {
        [self.ready, self.delayed, self.dead]
    }

    /// Forgets what ends with the last lane and the last job.
    pub(super) fn settle(&mut self) {
        if self.lanes == 0 {
            (self.clock, self.plain_tag) = (0, 0);
            if self.ready == 0 {
                self.parked = None;
            }
        }
    }

    pub(super) fn serves(&self) -> bool {
        let has = self.ready > self.laned || self.open_lanes > 0;
        has && !self.paused && !self.tenant_paused && self.parked.is_none()
    }
}

/// Id, tenant and queue, and what `decode` reads.
pub(super) const LOAD: &str =
    "SELECT id, tenant, queue, ready, running, delayed, paused, tag, dead, laned, lanes, open_lanes, clock,
    plain_tag, park, park_until, holder, used_at FROM line ORDER BY id";

pub(super) fn decode(row: &Row<'_>) -> Result<Counts, Fault> {
    let parked = match (row.get::<_, Option<i64>>(14)?, time(row, 15)?) {
        (None, _) => None,
        (Some(1), _) => Some(Park::QueueFull),
        (Some(2), _) => Some(Park::TenantFull),
        (Some(3), Some(at)) => Some(Park::Until(at)),
        (Some(other), _) => return Err(Fault::stored("park of a line", other)),
    };
    Ok(Counts {
        ready: number(row, 3)?,
        running: number(row, 4)?,
        delayed: number(row, 5)?,
        paused: row.get(6)?,
        tag: time(row, 7)?,
        dead: number(row, 8)?,
        laned: number(row, 9)?,
        lanes: number(row, 10)?,
        open_lanes: number(row, 11)?,
        clock: number(row, 12)?,
        plain_tag: number(row, 13)?,
        tenant_paused: false,
        parked,
        holder: row.get::<_, Option<String>>(16)?.map(Arc::from),
        used_at: time(row, 17)?,
    })
}

const SAVE_MANY: &str = "UPDATE line SET ready = of ->> 1, running = of ->> 2, delayed = of ->> 3, paused = of ->> 4,
    tag = of ->> 5, dead = of ->> 6, holder = of ->> 7, laned = of ->> 8, lanes = of ->> 9, open_lanes = of ->> 10,
    clock = of ->> 11, plain_tag = of ->> 12, park = of ->> 13, park_until = of ->> 14, used_at = of ->> 15
    FROM (SELECT value AS of FROM json_each(?)) AS changed WHERE line.id = changed.of ->> 0";

/// Writes all of many lines at once, such as those that were parked by one cap.
pub(super) fn save_many<'a>(conn: &Connection, lines: impl Iterator<Item = (LineId, &'a Counts)>) -> Result<(), Fault> {
    let row = |(id, now): (LineId, &Counts)| {
        let (park, until) = park_columns(now);
        let counts = (int(now.ready), int(now.running), int(now.delayed), i64::from(now.paused));
        let of_lanes = (int(now.laned), int(now.lanes), int(now.open_lanes), int(now.clock), int(now.plain_tag));
        serde_json::json!([
            row_id(id),
            counts.0,
            counts.1,
            counts.2,
            counts.3,
            now.tag.map(int),
            int(now.dead),
            now.holder.as_deref(),
            of_lanes.0,
            of_lanes.1,
            of_lanes.2,
            of_lanes.3,
            of_lanes.4,
            park,
            until,
            now.used_at.map(int)
        ])
    };
    let rows: Vec<serde_json::Value> = lines.map(row).collect();
    conn.prepare_cached(SAVE_MANY)?.execute([serde_json::to_string(&rows)?])?;
    Ok(())
}

fn park_columns(of: &Counts) -> (Option<i64>, Option<i64>) {
    match of.parked {
        None => (None, None),
        Some(Park::QueueFull) => (Some(1), None),
        Some(Park::TenantFull) => (Some(2), None),
        Some(Park::Until(at)) => (Some(3), Some(int(at))),
    }
}

/// Writes what changed; `all`: or may have.
pub(super) fn save(conn: &Connection, id: LineId, now: &Counts, before: &Counts, all: bool) -> Result<(), Fault> {
    let sql =
        "UPDATE line SET ready = ?, running = ?, delayed = ?, paused = ?, tag = ?, dead = ?, holder = ?, used_at = ?
        WHERE id = ?";
    let (ready, running, delayed) = (int(now.ready), int(now.running), int(now.delayed));
    let (tag, dead, holder, used_at) = (now.tag.map(int), int(now.dead), now.holder.as_deref(), now.used_at.map(int));
    let row = params![ready, running, delayed, now.paused, tag, dead, holder, used_at, row_id(id)];
    conn.prepare_cached(sql)?.execute(row)?;
    let of_lanes = |c: &Counts| (c.laned, c.lanes, c.open_lanes, c.clock, c.plain_tag, c.parked);
    if !all && of_lanes(now) == of_lanes(before) {
        return Ok(());
    }
    let (park, until) = park_columns(now);
    let sql = "UPDATE line SET laned = ?, lanes = ?, open_lanes = ?, clock = ?, plain_tag = ?, park = ?, park_until = ?
        WHERE id = ?";
    let (lanes, open_lanes) = (int(now.lanes), int(now.open_lanes));
    let row = params![int(now.laned), lanes, open_lanes, int(now.clock), int(now.plain_tag), park, until, row_id(id)];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn writing_many_lines_costs_what_it_writes() {
        let plan = crate::tests::plan(super::SAVE_MANY);
        assert!(plan.contains("SEARCH line USING INTEGER PRIMARY KEY"), "{plan}");
    }
}
