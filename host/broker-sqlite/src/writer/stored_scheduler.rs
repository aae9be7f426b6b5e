//! The scheduler and the file: what of it is stored, and how it is read when the file is opened.
//!
//! Stored are the counts of each tenant queue (the table `line`), the controls and the used rates. Sub-queues, blocks and
//! what counts for a limit are made anew from the jobs: a queued or running job with a value in `job.lane` is in the
//! sub-queue of its task and of the key in its options.

use rusqlite::{Connection, Row, params};
use tracing::warn;
use umbel_broker::{
    Control, ControlPatch, ControlSet, JobLimits, QueueDeleted, Scope,
    scheduler::{Counts, Limit, LimitName, QueueId, Scheduler, Store, SubQueueName},
};
use umbel_model::{JobState, QueueName, TaskName, TenantId, UnixMs, rate::Used};

use super::{
    head::{self, Head},
    step::Step,
};
use crate::{
    error::Fault,
    reads::json,
    rows::{self, RUNS, int, name, number, small, time},
};

/// Tenant queues that are written by one statement: more of them than that cost less together.
const MANY: usize = 8;

const LOAD: &str = "SELECT id, tenant, queue, ready, running, delayed, paused, tag, dead, holder, used_at
    FROM line ORDER BY id";
const PLAIN: &str = "SELECT line, score, rid FROM job INDEXED BY job_ready WHERE state = 1 AND lane IS NULL";
const IN_SUB_QUEUES: &str = "SELECT line, score, job.rid, task, coalesce(json_extract(text, '$.limits.key'), '')
    FROM job INDEXED BY job_ready LEFT JOIN knobs ON knobs.rid = job.rid WHERE state = 1 AND lane IS NOT NULL";
const RUNNING: &str = "SELECT line, state, lane, task, coalesce(json_extract(text, '$.limits.key'), '')
    FROM job INDEXED BY job_at LEFT JOIN knobs ON knobs.rid = job.rid WHERE phase = ? AND at IS NOT NULL";
const SAVE: &str = "UPDATE line SET ready = ?, running = ?, delayed = ?, paused = ?, tag = ?, dead = ?, holder = ?,
    used_at = ? WHERE id = ?";
const SAVE_MANY: &str = "UPDATE line SET ready = of ->> 1, running = of ->> 2, delayed = of ->> 3, paused = of ->> 4,
    tag = of ->> 5, dead = of ->> 6, holder = of ->> 7, used_at = of ->> 8
    FROM (SELECT value AS of FROM json_each(?)) AS changed WHERE line.id = changed.of ->> 0";
const USED: &str =
    "SELECT until_us, interval_us, burst FROM rate WHERE tenant = ? AND kind = ? AND name = ? AND key = ?";
const SWEEP_RATES: &str = "DELETE FROM rate WHERE (tenant, kind, name, key) IN
    (SELECT tenant, kind, name, key FROM rate INDEXED BY rate_until WHERE until_us <= ? LIMIT ?)";

/// The row of a tenant queue.
pub(super) fn row_id(id: QueueId) -> i64 {
    int(id as u64 + 1)
}

/// The number of a tenant queue out of a job's row, of so many.
pub(super) fn known(queues: usize, row: u64) -> Result<QueueId, Fault> {
    let id = usize::try_from(row).ok().and_then(|row| row.checked_sub(1)).filter(|id| *id < queues);
    id.ok_or_else(|| Fault::stored("line of a job", row))
}

/// Reads the file.
pub(super) fn load(conn: &Connection) -> Result<Scheduler<i64>, Fault> {
    let mut scheduler = Scheduler::default();
    load_controls(conn, &mut scheduler)?;
    scheduler.restore_seq(conn.query_row("SELECT seq FROM meta", [], |row| row.get::<_, i64>(0))?.unsigned_abs());
    let mut stored = Vec::new();
    each(conn, LOAD, [], |row| {
        let id = scheduler.queue_id(&name(row, 1)?, &name(row, 2)?);
        if number(row, 0)? != stored.len() as u64 + 1 || id != stored.len() {
            return Err(Fault::stored("line", "a row is missing"));
        }
        let counts = decode(row)?;
        scheduler.restore_counts(id, counts.clone());
        stored.push(counts);
        Ok(())
    })?;
    let queues = stored.len();
    each(conn, PLAIN, [], |row| {
        scheduler.restore(known(queues, number(row, 0)?)?, None, Some((number(row, 1)?, row.get(2)?)));
        Ok(())
    })?;
    each(conn, IN_SUB_QUEUES, [], |row| {
        let sub_queue = SubQueueName { task: name(row, 3)?, key: row.get(4)? };
        let job = (number(row, 1)?, row.get(2)?);
        scheduler.restore(known(queues, number(row, 0)?)?, Some(&sub_queue), Some(job));
        Ok(())
    })?;
    each(conn, RUNNING, [RUNS], |row| {
        if rows::state(row, 1)? == JobState::Running {
            let sub_queue = SubQueueName { task: name(row, 3)?, key: row.get(4)? };
            let sub_queue = Some(&sub_queue)
                .filter(|_| matches!(row.get_ref(2), Ok(lane) if lane != rusqlite::types::ValueRef::Null));
            scheduler.restore(known(queues, number(row, 0)?)?, sub_queue, None);
        }
        Ok(())
    })?;
    scheduler.open_all();
    for (id, stored) in stored.iter().enumerate() {
        let counts = scheduler.counts(id);
        if (counts.ready, counts.running) != (stored.ready, stored.running) {
            warn!(queue = %scheduler.queue(id), "a queue counted jobs that are not there: it was counted anew");
        }
        // Readers see by it what can be handed out. Counts that disagree are found by an audit, too.
        if counts.finish != stored.finish {
            save(conn, id, counts)?;
        }
    }
    Ok(scheduler)
}

fn load_controls(conn: &Connection, scheduler: &mut Scheduler<i64>) -> Result<(), Fault> {
    each(conn, "SELECT tenant, kind, name, text FROM control", [], |row| {
        let text = row.get_ref(3)?.as_str().map_err(|error| Fault::stored("control", error))?;
        scheduler.controls.put(&name(row, 0)?, &rows::scope(row, 1)?, json("control", text)?);
        Ok(())
    })
}

fn each(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut take: impl FnMut(&Row<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn decode(row: &Row<'_>) -> Result<Counts, Fault> {
    let (mut counts, holder) = (Counts::default(), row.get::<_, Option<String>>(9)?);
    (counts.ready, counts.running, counts.delayed) = (number(row, 3)?, number(row, 4)?, number(row, 5)?);
    (counts.paused, counts.finish, counts.dead) = (row.get(6)?, time(row, 7)?, number(row, 8)?);
    counts.used_at = time(row, 10)?;
    counts.holder = holder.map(|w| w.parse().map_err(|error| Fault::stored("holder of a line", error))).transpose()?;
    Ok(counts)
}

/// What is stored of counts.
fn counts_row(of: &Counts) -> (i64, i64, i64, bool, Option<i64>, i64, Option<&str>, Option<i64>) {
    let (holder, used_at) = (of.holder.as_ref().map(|holder| holder.as_str()), of.used_at.map(int));
    (int(of.ready), int(of.running), int(of.delayed), of.paused, of.finish.map(int), int(of.dead), holder, used_at)
}

fn save(conn: &Connection, id: QueueId, counts: &Counts) -> Result<(), Fault> {
    let (ready, running, delayed, paused, finish, dead, holder, used_at) = counts_row(counts);
    let row = params![ready, running, delayed, paused, finish, dead, holder, used_at, row_id(id)];
    conn.prepare_cached(SAVE)?.execute(row)?;
    Ok(())
}

/// Writes what the group changed of tenant queues. `all`: what is stored may differ from what was before the group.
pub(super) fn flush(conn: &Connection, scheduler: &Scheduler<i64>, all: bool) -> Result<(), Fault> {
    let changed = |(id, before): &&(QueueId, Counts)| all || counts_row(scheduler.counts(*id)) != counts_row(before);
    let changed = scheduler.changed().iter().filter(changed).map(|(id, _)| *id);
    if scheduler.changed().len() > MANY {
        let row = |id| {
            let (ready, running, delayed, paused, finish, dead, holder, used_at) = counts_row(scheduler.counts(id));
            serde_json::json!([row_id(id), ready, running, delayed, i64::from(paused), finish, dead, holder, used_at])
        };
        let rows: Vec<serde_json::Value> = changed.map(row).collect();
        conn.prepare_cached(SAVE_MANY)?.execute([serde_json::to_string(&rows)?])?;
    } else {
        for id in changed {
            save(conn, id, scheduler.counts(id))?;
        }
    }
    if scheduler.seq() != scheduler.seq_kept() {
        conn.prepare_cached("UPDATE meta SET seq = ?")?.execute([int(scheduler.seq())])?;
    }
    Ok(())
}

/// What a scope is called in tables.
fn column(scope: &Scope) -> (i64, &str) {
    match scope {
        Scope::Tenant => (0, ""),
        Scope::Queue(queue) => (1, queue.as_str()),
        Scope::Task(task) => (2, task.as_str()),
    }
}

/// What a rate is called in the table: as the scope of a control, and 3 for a key.
fn rate_columns(limit: &Limit) -> (i64, &str, &str) {
    match limit {
        Limit::Tenant => (0, "", ""),
        Limit::Queue(queue) => (1, queue.as_str(), ""),
        Limit::Task(task) => (2, task.as_str(), ""),
        Limit::Key(task, key) => (3, task.as_str(), key.as_str()),
    }
}

/// The ready jobs of the file as the scheduler sees them.
pub(super) struct ReadyJobs<'a> {
    pub(super) conn: &'a Connection,
    pub(super) now: UnixMs,
    /// How many tenant queues there are.
    pub(super) queues: usize,
    /// The job that was looked at, and its spec or (of a node) its arguments.
    pub(super) looked: Option<(Head, String)>,
}

impl ReadyJobs<'_> {
    fn head(&mut self) -> Result<&mut Head, Fault> {
        let looked = self.looked.as_mut().map(|(head, _)| head);
        looked.ok_or_else(|| Fault::stored("queued job", "it was not looked at"))
    }
}

impl Store<i64> for ReadyJobs<'_> {
    type Error = Fault;

    fn look(&mut self, _: &TenantId, rid: i64) -> Result<bool, Fault> {
        self.looked = head::ready(self.conn, self.queues, rid)?;
        if self.looked.is_none() {
            warn!(rid, "a queued job or what it is to run is missing: it waits, see what an audit says");
        }
        Ok(self.looked.is_some())
    }

    fn has_expired(&mut self) -> bool {
        self.looked.as_ref().is_some_and(|(head, _)| head.expired(self.now))
    }

    fn task(&mut self) -> Result<TaskName, Fault> {
        let conn = self.conn;
        self.head()?.task(conn)
    }

    fn limits(&mut self) -> Result<JobLimits, Fault> {
        let conn = self.conn;
        let broker_options = self.head()?.broker_options(conn)?;
        Ok(broker_options.and_then(|broker_options| broker_options.limits.clone()).unwrap_or_default())
    }

    fn moved(&mut self) -> Result<(), Fault> {
        let rid = self.head()?.rid;
        self.conn.prepare_cached("UPDATE job SET lane = 1 WHERE rid = ?")?.execute([rid])?;
        Ok(())
    }

    fn used(&mut self, (tenant, limit): &LimitName) -> Result<Option<Used>, Fault> {
        let (kind, name, key) = rate_columns(limit);
        head::one(self.conn.prepare_cached(USED)?, params![tenant.as_str(), kind, name, key], |row| {
            Ok(Used { until_us: number(row, 0)?, interval_us: number(row, 1)?, burst: small(row, 2)? })
        })
    }

    fn set_used(&mut self, (tenant, limit): &LimitName, used: Used) -> Result<(), Fault> {
        let (kind, name, key) = rate_columns(limit);
        let sql = "INSERT OR REPLACE INTO rate (tenant, kind, name, key, until_us, interval_us, burst)
            VALUES (?, ?, ?, ?, ?, ?, ?)";
        let (until_us, interval_us) = (int(used.until_us), int(used.interval_us));
        let row = params![tenant.as_str(), kind, name, key, until_us, interval_us, used.burst];
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}

impl Step<'_> {
    /// The number of a tenant queue, made if there is none.
    pub(super) fn queue_id(&mut self, tenant: &TenantId, queue: &QueueName) -> Result<QueueId, Fault> {
        let is_new = self.scheduler.find_any(tenant, queue).is_none();
        let id = self.scheduler.queue_id(tenant, queue);
        if is_new {
            let sql = "INSERT INTO line (id, tenant, queue, ready, running, delayed, paused, used_at)
                VALUES (?, ?, ?, 0, 0, 0, 0, ?)";
            let row = params![row_id(id), tenant.as_str(), queue.as_str(), int(self.now)];
            self.conn.prepare_cached(sql)?.execute(row)?;
        }
        Ok(id)
    }

    pub(crate) fn delete_queue(&mut self, tenant: &TenantId, queue: &QueueName) -> QueueDeleted {
        self.scheduler.delete_queue(tenant, queue)
    }

    pub(crate) fn set_control(
        &mut self,
        tenant: &TenantId,
        scope: &Scope,
        patch: &ControlPatch,
    ) -> Result<ControlSet, Fault> {
        let answer = self.scheduler.set_control(tenant, scope, patch, self.limits.max_documents);
        let ControlSet::Set(control) = &answer else { return Ok(answer) };
        let (kind, name) = column(scope);
        if *control == Control::default() {
            let sql = "DELETE FROM control WHERE tenant = ? AND kind = ? AND name = ?";
            self.conn.prepare_cached(sql)?.execute(params![tenant.as_str(), kind, name])?;
        } else {
            let sql = "INSERT OR REPLACE INTO control (tenant, kind, name, text) VALUES (?, ?, ?, ?)";
            let text = serde_json::to_string(control)?;
            self.conn.prepare_cached(sql)?.execute(params![tenant.as_str(), kind, name, text])?;
        }
        Ok(answer)
    }

    /// Forgets rates that are not used up any more.
    pub(super) fn sweep_rates(&self, max: u32) -> Result<bool, Fault> {
        let now_us = int(self.now.saturating_mul(1_000));
        let deleted = self.conn.prepare_cached(SWEEP_RATES)?.execute(params![now_us, max])?;
        Ok(deleted as u64 == u64::from(max))
    }

    /// Reads the scheduler from the file again, after its rows were mended.
    pub(super) fn reload_scheduler(&mut self) -> Result<(), Fault> {
        *self.scheduler = load(self.conn)?;
        self.scheduler.now = self.now;
        self.scheduler.ready_in = self.scheduler.ready_queues();
        *self.scheduler_reloaded = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_rate_costs_more_because_there_are_more() {
        for sql in [USED, SWEEP_RATES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }

    #[test]
    fn writing_many_lines_costs_what_it_writes() {
        let plan = crate::tests::plan(SAVE_MANY);
        assert!(plan.contains("SEARCH line USING INTEGER PRIMARY KEY"), "{plan}");
    }
}
