//! The queues of all tenants as the writer knows them: counts, pauses, and who is next.
//!
//! The table `line` holds the same, written once for a group of operations. What a group changed can be undone, so that
//! memory never runs ahead of what was committed. Holds no jobs: it grows with tenants and queues only.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, params};
use umbel_model::{QueueName, TenantId};

use crate::{
    error::Fault,
    rows::{int, name, number, time},
};

/// How many jobs of a line are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ready: u64,
    pub(super) running: u64,
    /// Scheduled or retrying.
    pub(super) delayed: u64,
    pub(super) paused: bool,
    /// Virtual start time; none while the line is empty or paused.
    tag: Option<u64>,
}

#[derive(Debug)]
struct Line {
    tenant: TenantId,
    queue: QueueName,
    counts: Counts,
    /// Its counts of before are in `Lines::before`.
    changed: bool,
}

/// A line's place in `Lines`, and its row's id less one.
pub(super) type LineId = usize;

#[derive(Debug, Default)]
pub(super) struct Lines {
    all: Vec<Line>,
    by_name: HashMap<TenantId, HashMap<QueueName, LineId>>,
    /// Tenants with something to hand out, least served first, by name when level.
    fair: HashMap<QueueName, BTreeSet<(u64, TenantId, LineId)>>,
    /// What the group under way changed, as it was.
    before: Vec<(LineId, Counts)>,
    /// Lines that were there before the group under way.
    settled: usize,
    seq: u64,
    seq_before: u64,
}

impl Lines {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        let seq: i64 = conn.query_row("SELECT seq FROM meta", [], |row| row.get(0))?;
        let seq = seq.unsigned_abs();
        let mut lines = Self { seq, seq_before: seq, ..Self::default() };
        let mut statement =
            conn.prepare("SELECT id, tenant, queue, ready, running, delayed, paused, tag FROM line ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if number(row, 0)? != lines.all.len() as u64 + 1 {
                return Err(Fault::stored("line", "a row is missing"));
            }
            let counts = Counts {
                ready: number(row, 3)?,
                running: number(row, 4)?,
                delayed: number(row, 5)?,
                paused: row.get(6)?,
                tag: time(row, 7)?,
            };
            let id = lines.add(name(row, 1)?, name(row, 2)?);
            lines.put(id, counts);
        }
        lines.settled = lines.all.len();
        Ok(lines)
    }

    pub(super) fn find(&self, tenant: &TenantId, queue: &QueueName) -> Option<LineId> {
        self.by_name.get(tenant)?.get(queue).copied()
    }

    pub(super) fn queues_of(&self, tenant: &TenantId) -> u64 {
        self.by_name.get(tenant).map_or(0, |queues| queues.len() as u64)
    }

    pub(super) fn create(&mut self, conn: &Connection, tenant: &TenantId, queue: &QueueName) -> Result<LineId, Fault> {
        let id = self.all.len();
        let sql = "INSERT INTO line (id, tenant, queue, ready, running, delayed, paused) VALUES (?, ?, ?, 0, 0, 0, 0)";
        conn.prepare_cached(sql)?.execute(params![row_id(id), tenant.as_str(), queue.as_str()])?;
        Ok(self.add(tenant.clone(), queue.clone()))
    }

    fn add(&mut self, tenant: TenantId, queue: QueueName) -> LineId {
        let id = self.all.len();
        self.by_name.entry(tenant.clone()).or_default().insert(queue.clone(), id);
        self.all.push(Line { tenant, queue, counts: Counts::default(), changed: false });
        id
    }

    /// Checks a number out of a job's row.
    pub(super) fn known(&self, row: u64) -> Result<LineId, Fault> {
        let id = usize::try_from(row).ok().and_then(|row| row.checked_sub(1)).filter(|id| *id < self.all.len());
        id.ok_or_else(|| Fault::stored("line of a job", row))
    }

    pub(super) fn tenant(&self, id: LineId) -> &TenantId {
        &self.all[id].tenant
    }

    pub(super) fn queue(&self, id: LineId) -> &QueueName {
        &self.all[id].queue
    }

    pub(super) fn counts(&self, id: LineId) -> Counts {
        self.all[id].counts
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Changes a line, and lets it take or lose its place among those served.
    pub(super) fn change(&mut self, id: LineId, change: impl FnOnce(&mut Counts)) {
        let line = &mut self.all[id];
        if !line.changed {
            line.changed = true;
            self.before.push((id, line.counts));
        }
        let mut counts = line.counts;
        change(&mut counts);
        let serves = counts.ready > 0 && !counts.paused;
        counts.tag = match counts.tag {
            Some(tag) => serves.then_some(tag),
            // A tenant that comes (back) to a queue is served after the one that was served least: level with it, one
            // that comes back after each of its jobs would always be first.
            None => serves.then(|| self.next_tag(id)),
        };
        self.put(id, counts);
    }

    fn next_tag(&self, id: LineId) -> u64 {
        self.fair.get(&self.all[id].queue).and_then(|fair| fair.first()).map_or(0, |(least, _, _)| least + 1)
    }

    fn put(&mut self, id: LineId, counts: Counts) {
        let line = &mut self.all[id];
        let old = std::mem::replace(&mut line.counts, counts);
        if old.tag == counts.tag {
            return;
        }
        if !self.fair.contains_key(&line.queue) {
            self.fair.insert(line.queue.clone(), BTreeSet::new());
        }
        let Some(fair) = self.fair.get_mut(&line.queue) else { return };
        if let Some(tag) = old.tag {
            fair.remove(&(tag, line.tenant.clone(), id));
        }
        if let Some(tag) = counts.tag {
            fair.insert((tag, line.tenant.clone(), id));
        }
    }

    /// Start-time fair queueing: the line of the tenant served least, whose turn is counted.
    pub(super) fn pick(&mut self, queue: &QueueName) -> Option<LineId> {
        let (_, _, id) = *self.fair.get(queue)?.first()?;
        self.change(id, |counts| counts.tag = counts.tag.map(|tag| tag + 1));
        Some(id)
    }

    /// Writes what the group changed.
    pub(super) fn flush(&self, conn: &Connection) -> Result<(), Fault> {
        let sql = "UPDATE line SET ready = ?, running = ?, delayed = ?, paused = ?, tag = ? WHERE id = ?";
        for (id, before) in &self.before {
            let now = self.all[*id].counts;
            if now != *before {
                let (ready, running, delayed) = (int(now.ready), int(now.running), int(now.delayed));
                let row = params![ready, running, delayed, now.paused, now.tag.map(int), row_id(*id)];
                conn.prepare_cached(sql)?.execute(row)?;
            }
        }
        if self.seq != self.seq_before {
            conn.prepare_cached("UPDATE meta SET seq = ?")?.execute([int(self.seq)])?;
        }
        Ok(())
    }

    /// The group was committed.
    pub(super) fn keep(&mut self) {
        for (id, _) in self.before.drain(..) {
            self.all[id].changed = false;
        }
        self.settled = self.all.len();
        self.seq_before = self.seq;
    }

    /// The group was rolled back: all is as it was before it.
    pub(super) fn undo(&mut self) {
        for (id, counts) in std::mem::take(&mut self.before) {
            self.put(id, counts);
            self.all[id].changed = false;
        }
        for line in self.all.drain(self.settled..) {
            if let Some(queues) = self.by_name.get_mut(&line.tenant) {
                queues.remove(&line.queue);
                if queues.is_empty() {
                    self.by_name.remove(&line.tenant);
                }
            }
        }
        self.seq = self.seq_before;
    }
}

fn row_id(id: LineId) -> i64 {
    int(id as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tenant: &str, queue: &str) -> (TenantId, QueueName) {
        (TenantId::new(tenant).unwrap(), QueueName::new(queue).unwrap())
    }

    #[test]
    fn a_group_that_is_undone_leaves_no_trace() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut lines = Lines::load(&conn).unwrap();
        let ((a, q), (b, _)) = (names("a", "q"), names("b", "q"));
        let first = lines.create(&conn, &a, &q).unwrap();
        lines.change(first, |c| c.ready = 3);
        lines.keep();
        let before = lines.counts(first);

        let second = lines.create(&conn, &b, &q).unwrap();
        lines.change(second, |c| c.ready = 1);
        lines.next_seq();
        for next in [first, first, second] {
            assert_eq!(lines.pick(&q), Some(next));
        }
        lines.change(first, |c| c.ready = 0);
        lines.undo();

        assert_eq!(lines.counts(first), before);
        assert_eq!((lines.find(&b, &q), lines.queues_of(&b), lines.seq), (None, 0, 0));
        assert_eq!(lines.fair[&q].len(), 1);
        assert_eq!(lines.pick(&q), Some(first));
    }

    #[test]
    fn turns_survive_a_restart() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut lines = Lines::load(&conn).unwrap();
        let q = names("a", "q").1;
        for tenant in ["a", "b"] {
            let id = lines.create(&conn, &names(tenant, "q").0, &q).unwrap();
            lines.change(id, |c| c.ready = 9);
        }
        let first = lines.pick(&q);
        assert_eq!(lines.pick(&q), first);
        lines.flush(&conn).unwrap();
        let mut again = Lines::load(&conn).unwrap();
        assert_ne!(again.pick(&q), first);
    }
}
