//! The queues of all tenants as the writer knows them: counts, what closes them, and who is next.
//!
//! The table `line` holds the same, written once for a group of operations. What a group changed can be undone, so that
//! memory never runs ahead of what was committed. Holds no jobs and no lanes: it grows with tenants and queues only.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, params};
use umbel_model::{QueueName, TenantId, UnixMs};

use super::counts::{Counts, LOAD, Park, decode, save, save_many};
use crate::{
    error::Fault,
    rows::{int, name, number},
};

/// Lines that are written by one statement: more of them than that cost less together.
const MANY: usize = 8;

#[derive(Debug)]
struct Line {
    tenant: TenantId,
    queue: QueueName,
    counts: Counts,
    /// Its counts of before are in `Lines::before`.
    changed: bool,
}

/// What of a line's counts the sets of lines know.
#[derive(Debug, Clone, Copy)]
struct Marks {
    tag: Option<u64>,
    parked: Option<Park>,
    dead: u64,
}

impl Marks {
    fn of(counts: &Counts) -> Self {
        Self { tag: counts.tag, parked: counts.parked, dead: counts.dead }
    }
}

/// A line's place in `Lines`, and its row's id less one.
pub(super) type LineId = usize;

#[derive(Debug, Default)]
pub(super) struct Lines {
    all: Vec<Line>,
    by_name: HashMap<TenantId, HashMap<QueueName, LineId>>,
    /// Tenants with something to hand out, least served first, by name when level.
    fair: HashMap<QueueName, BTreeSet<(u64, TenantId, LineId)>>,
    /// Lines that are parked by a rate, in the order in which they are opened.
    by_time: BTreeSet<(UnixMs, TenantId, QueueName, LineId)>,
    /// Lines that are parked by their tenant's cap.
    tenant_full: HashMap<TenantId, BTreeSet<LineId>>,
    /// Jobs in the dead set, by tenant.
    dead: HashMap<TenantId, u64>,
    /// What the group under way changed, as it was.
    before: Vec<(LineId, Counts)>,
    /// Lines that were there before the group under way.
    settled: usize,
    /// In the middle of the group it was written: what it undid since must be written, too.
    written: bool,
    seq: u64,
    seq_before: u64,
    /// The time of the step under way.
    pub(super) now: UnixMs,
}

impl Lines {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        let seq: i64 = conn.query_row("SELECT seq FROM meta", [], |row| row.get(0))?;
        let seq = seq.unsigned_abs();
        let mut lines = Self { seq, seq_before: seq, ..Self::default() };
        let mut statement = conn.prepare(LOAD)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if number(row, 0)? != lines.all.len() as u64 + 1 {
                return Err(Fault::stored("line", "a row is missing"));
            }
            let id = lines.add(name(row, 1)?, name(row, 2)?);
            lines.put(id, decode(row)?);
        }
        lines.settled = lines.all.len();
        Ok(lines)
    }

    pub(super) fn find(&self, tenant: &TenantId, queue: &QueueName) -> Option<LineId> {
        self.find_any(tenant, queue).filter(|id| self.all[*id].counts.used_at.is_some())
    }

    /// Also one that is forgotten.
    pub(super) fn find_any(&self, tenant: &TenantId, queue: &QueueName) -> Option<LineId> {
        self.by_name.get(tenant)?.get(queue).copied()
    }

    pub(super) fn queues_of(&self, tenant: &TenantId) -> u64 {
        let mine = self.by_name.get(tenant).into_iter().flat_map(HashMap::values);
        mine.filter(|id| self.all[**id].counts.used_at.is_some()).count() as u64
    }

    /// When the file is opened: the lines of a tenant that is paused are closed already.
    pub(super) fn know_paused(&mut self, tenant: &TenantId) {
        for id in self.of_tenant(tenant) {
            self.all[id].counts.tenant_paused = true;
        }
    }

    pub(super) fn create(
        &mut self,
        conn: &Connection,
        tenant: &TenantId,
        queue: &QueueName,
        tenant_paused: bool,
    ) -> Result<LineId, Fault> {
        let now = self.now;
        if let Some(forgotten) = self.find_any(tenant, queue) {
            self.change(forgotten, |counts| counts.used_at = Some(now));
            return Ok(forgotten);
        }
        let id = self.all.len();
        let sql = "INSERT INTO line (id, tenant, queue, ready, running, delayed, paused, used_at)
            VALUES (?, ?, ?, 0, 0, 0, 0, ?)";
        conn.prepare_cached(sql)?.execute(params![row_id(id), tenant.as_str(), queue.as_str(), int(now)])?;
        let id = self.add(tenant.clone(), queue.clone());
        let counts = &mut self.all[id].counts;
        (counts.tenant_paused, counts.used_at) = (tenant_paused, Some(now));
        Ok(id)
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

    pub(super) fn counts(&self, id: LineId) -> &Counts {
        &self.all[id].counts
    }

    /// All lines.
    pub(super) fn ids(&self) -> std::ops::Range<LineId> {
        0..self.all.len()
    }

    /// The lines of a tenant.
    pub(super) fn of_tenant(&self, tenant: &TenantId) -> Vec<LineId> {
        self.by_name.get(tenant).into_iter().flat_map(HashMap::values).copied().collect()
    }

    /// Those that are parked by their tenant's cap.
    pub(super) fn parked_with_tenant(&self, tenant: &TenantId) -> Vec<LineId> {
        self.tenant_full.get(tenant).into_iter().flatten().copied().collect()
    }

    /// At most `max` of those that are parked by a rate, in the order in which they are opened.
    pub(super) fn parked_by_time(&self, max: usize) -> Vec<(UnixMs, LineId)> {
        self.by_time.iter().take(max).map(|(at, _, _, id)| (*at, *id)).collect()
    }

    pub(super) fn running_of(&self, tenant: &TenantId) -> u64 {
        let mine = self.by_name.get(tenant).into_iter().flat_map(HashMap::values);
        mine.map(|id| self.all[*id].counts.running).sum()
    }

    pub(super) fn dead_of(&self, tenant: &TenantId) -> u64 {
        self.dead.get(tenant).copied().unwrap_or(0)
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Changes a line, and lets it take or lose its place among those served. True if that opened it.
    pub(super) fn change(&mut self, id: LineId, change: impl FnOnce(&mut Counts)) -> bool {
        let line = &mut self.all[id];
        if !line.changed {
            line.changed = true;
            self.before.push((id, line.counts.clone()));
        }
        let (old, held) = (Marks::of(&line.counts), line.counts.held());
        change(&mut line.counts);
        line.counts.settle();
        if line.counts.held().iter().zip(held).any(|(after, before)| *after > before) {
            line.counts.used_at = Some(self.now);
        }
        let (tag, serves) = (line.counts.tag, line.counts.serves());
        self.all[id].counts.tag = match (old.tag, serves) {
            // It may have counted a turn.
            (Some(_), true) => tag,
            // A tenant that comes (back) to a queue is served after the one that was served least: level with it, one
            // that comes back after each of its jobs would always be first.
            (None, true) => Some(self.next_tag(id)),
            (_, false) => None,
        };
        let opened = old.tag.is_none() && self.all[id].counts.tag.is_some();
        self.note(id, old);
        opened
    }

    fn next_tag(&self, id: LineId) -> u64 {
        self.fair.get(&self.all[id].queue).and_then(|fair| fair.first()).map_or(0, |(least, _, _)| least + 1)
    }

    fn put(&mut self, id: LineId, counts: Counts) {
        let old = Marks::of(&std::mem::replace(&mut self.all[id].counts, counts));
        self.note(id, old);
    }

    /// Lets the sets of lines follow what changed of one.
    fn note(&mut self, id: LineId, old: Marks) {
        let line = &self.all[id];
        let new = Marks::of(&line.counts);
        if old.tag != new.tag {
            if !self.fair.contains_key(&line.queue) {
                self.fair.insert(line.queue.clone(), BTreeSet::new());
            }
            if let Some(fair) = self.fair.get_mut(&line.queue) {
                if let Some(tag) = old.tag {
                    fair.remove(&(tag, line.tenant.clone(), id));
                }
                if let Some(tag) = new.tag {
                    fair.insert((tag, line.tenant.clone(), id));
                }
            }
        }
        if old.dead != new.dead {
            let dead = self.dead.entry(line.tenant.clone()).or_default();
            *dead = (*dead + new.dead).saturating_sub(old.dead);
        }
        if old.parked != new.parked {
            self.put_parked(id, old.parked, false);
            self.put_parked(id, new.parked, true);
        }
    }

    fn put_parked(&mut self, id: LineId, why: Option<Park>, is: bool) {
        let Line { tenant, queue, .. } = &self.all[id];
        match why {
            Some(Park::Until(at)) => {
                let entry = (at, tenant.clone(), queue.clone(), id);
                if is {
                    self.by_time.insert(entry)
                } else {
                    self.by_time.remove(&entry)
                };
            }
            Some(Park::TenantFull) if is => {
                self.tenant_full.entry(tenant.clone()).or_default().insert(id);
            }
            Some(Park::TenantFull) => {
                if let Some(full) = self.tenant_full.get_mut(tenant) {
                    full.remove(&id);
                    if full.is_empty() {
                        self.tenant_full.remove(tenant);
                    }
                }
            }
            Some(Park::QueueFull) | None => {}
        }
    }

    /// Start-time fair queueing: the line of the tenant served least that was not passed over.
    pub(super) fn next(&self, queue: &QueueName, passed: &[LineId]) -> Option<LineId> {
        self.fair.get(queue)?.iter().map(|(_, _, id)| *id).find(|id| !passed.contains(id))
    }

    /// Counts the turn of a line that hands something out.
    pub(super) fn count_turn(&mut self, id: LineId) {
        self.change(id, |counts| counts.tag = counts.tag.map(|tag| tag + 1));
    }

    /// For reads in the middle of a group.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.written |= !self.before.is_empty();
        self.flush(conn)
    }

    /// Writes what the group changed.
    pub(super) fn flush(&self, conn: &Connection) -> Result<(), Fault> {
        let changed = |(id, before): &&(LineId, Counts)| self.written || self.all[*id].counts != *before;
        if self.before.len() > MANY {
            let changed = self.before.iter().filter(changed);
            save_many(conn, changed.map(|(id, _)| (*id, &self.all[*id].counts)))?;
        } else {
            for (id, before) in self.before.iter().filter(changed) {
                save(conn, *id, &self.all[*id].counts, before, self.written)?;
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
        self.written = false;
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
        self.written = false;
        self.seq = self.seq_before;
    }
}

pub(super) fn row_id(id: LineId) -> i64 {
    int(id as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tenant: &str, queue: &str) -> (TenantId, QueueName) {
        (TenantId::new(tenant).unwrap(), QueueName::new(queue).unwrap())
    }

    fn pick(lines: &mut Lines, queue: &QueueName) -> Option<LineId> {
        let next = lines.next(queue, &[])?;
        lines.count_turn(next);
        Some(next)
    }

    #[test]
    fn a_group_that_is_undone_leaves_no_trace() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut lines = Lines::load(&conn).unwrap();
        let ((a, q), (b, _)) = (names("a", "q"), names("b", "q"));
        let first = lines.create(&conn, &a, &q, false).unwrap();
        lines.change(first, |c| c.ready = 3);
        lines.keep();
        let before = lines.counts(first).clone();

        let second = lines.create(&conn, &b, &q, false).unwrap();
        lines.change(second, |c| c.ready = 1);
        lines.next_seq();
        for next in [first, first, second] {
            assert_eq!(pick(&mut lines, &q), Some(next));
        }
        lines.change(first, |c| c.ready = 0);
        lines.undo();

        assert_eq!(*lines.counts(first), before);
        assert_eq!((lines.find(&b, &q), lines.queues_of(&b), lines.seq), (None, 0, 0));
        assert_eq!(lines.fair[&q].len(), 1);
        assert_eq!(pick(&mut lines, &q), Some(first));
    }

    #[test]
    fn turns_survive_a_restart() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut lines = Lines::load(&conn).unwrap();
        let q = names("a", "q").1;
        for tenant in ["a", "b"] {
            let id = lines.create(&conn, &names(tenant, "q").0, &q, false).unwrap();
            lines.change(id, |c| c.ready = 9);
        }
        let first = pick(&mut lines, &q);
        assert_eq!(pick(&mut lines, &q), first);
        lines.flush(&conn).unwrap();
        let mut again = Lines::load(&conn).unwrap();
        assert_ne!(pick(&mut again, &q), first);
    }
}
