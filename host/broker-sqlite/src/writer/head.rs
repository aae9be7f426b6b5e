//! The part of a job that changes, and the statements that read and write it.

use rusqlite::{CachedStatement, Connection, Params, Row, params};
use umbel_broker::{
    BrokerOptions, NewJob, NodeTemplate,
    scheduler::{QueueId, Scheduler, ready_score},
};
use umbel_model::{
    JobId, JobState, TaskName, TenantId, Token, UnixMs, WorkflowId,
    canvas::{Range, When},
};

use super::stored_scheduler::known;
use crate::{
    error::Fault,
    rows::{self, int, number, phase, small, state, state_number, time},
};

/// A job's row but for what only readers want.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) rid: i64,
    pub(super) id: JobId,
    pub(super) line: QueueId,
    pub(super) priority: u8,
    pub(super) max_deliveries: u32,
    pub(super) result_ttl_ms: u64,
    pub(super) dead_ttl_ms: u64,
    pub(super) expires_at: Option<UnixMs>,
    pub(super) state: JobState,
    /// When it is to be looked at: due or expiring, its lease over, to be deleted.
    pub(super) at: Option<UnixMs>,
    pub(super) score: u64,
    pub(super) retries: u32,
    pub(super) deliveries: u32,
    pub(super) fence: u64,
    pub(super) cancel_requested: bool,
    /// It was cancelled while it ran and is left to end.
    pub(super) let_end: bool,
    pub(super) dead: bool,
    pub(super) due_at: Option<UnixMs>,
    pub(super) started_at: Option<UnixMs>,
    pub(super) finished_at: Option<UnixMs>,
    pub(super) worker: Option<String>,
    pub(super) token: Option<String>,
    pub(super) records: u64,
    pub(super) log_lines: u64,
    /// The row of the workflow whose node it is.
    pub(super) workflow: Option<i64>,
    /// The workflow that replaced it.
    pub(super) child: Option<WorkflowId>,
    /// It is queued in the sub-queue of its task and key, or counts as running there. Stored as `lane`.
    pub(super) in_sub_queue: bool,
    /// Which broker options it has: `ON_LOST`, `LIMITS`, `UNIQUE`.
    pub(super) has: u8,
    /// Its broker options, once they were looked at.
    pub(super) broker_options: Option<Box<BrokerOptions>>,
    /// Its task, once that was looked at.
    pub(super) task: Option<TaskName>,
    /// Its state as it is stored.
    pub(super) was: JobState,
}

/// A node on which something is to be done.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) number: u32,
    pub(super) when: When,
    pub(super) template: u32,
    /// None: it is a join.
    pub(super) head: Option<Head>,
}

/// The columns of a head, in the order of `decode`.
macro_rules! select_head {
    ($rest:literal) => {
        concat!(
            "SELECT job.rid, job.id, line, priority, max_deliveries, result_ttl_ms, dead_ttl_ms, expires_at, state, \
             job.at, score, retries, deliveries, fence, cancel_requested, dead, due_at, started_at, finished_at, \
             worker, token, records, log_lines, job.workflow, job.child, job.lane, job.knobs",
            $rest
        )
    };
}

const BY_ID: &str = select_head!(" FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?");
const READY: &str =
    select_head!(", spec.text FROM job CROSS JOIN spec ON spec.rid = job.rid WHERE job.rid = ? AND state = 1");
const BY_TIME: &str =
    select_head!(" FROM job INDEXED BY job_at WHERE phase = ? AND at <= ? ORDER BY at, tenant, id LIMIT ?");
const TARGETS: &str = select_head!(
    ", node.number, node.error_callback, node.template FROM node LEFT JOIN job ON job.rid = node.rid
     WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number"
);
/// The first column after those of a head.
const REST: usize = 27;

fn decode(queues: usize, row: &Row<'_>) -> Result<Head, Fault> {
    let state = state(row, 8)?;
    Ok(Head {
        rid: row.get(0)?,
        id: rows::id(row, 1)?,
        line: known(queues, number(row, 2)?)?,
        priority: row.get(3)?,
        max_deliveries: small(row, 4)?,
        result_ttl_ms: number(row, 5)?,
        dead_ttl_ms: number(row, 6)?,
        expires_at: time(row, 7)?,
        state,
        at: time(row, 9)?,
        score: number(row, 10)?,
        retries: small(row, 11)?,
        deliveries: small(row, 12)?,
        fence: number(row, 13)?,
        cancel_requested: row.get(14)?,
        let_end: row.get::<_, i64>(14)? == 2,
        dead: row.get(15)?,
        due_at: time(row, 16)?,
        started_at: time(row, 17)?,
        finished_at: time(row, 18)?,
        worker: row.get(19)?,
        token: row.get(20)?,
        records: number(row, 21)?,
        log_lines: number(row, 22)?,
        workflow: row.get(23)?,
        child: rows::id_or_none(row, 24)?,
        in_sub_queue: row.get::<_, Option<i64>>(25)?.is_some(),
        has: row.get(26)?,
        broker_options: None,
        task: None,
        was: state,
    })
}

pub(super) fn one<T>(
    mut statement: CachedStatement<'_>,
    params: impl Params,
    decode: impl FnOnce(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    statement.query(params)?.next()?.map(decode).transpose()
}

/// The job of a tenant with this id.
pub(super) fn by_id(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    tenant: &TenantId,
    id: JobId,
) -> Result<Option<Head>, Fault> {
    one(conn.prepare_cached(BY_ID)?, params![tenant.as_str(), id.to_bytes()], |row| decode(scheduler.len(), row))
}

/// A queued job, and the text of its spec; none when either is missing.
pub(super) fn ready(conn: &Connection, queues: usize, rid: i64) -> Result<Option<(Head, String)>, Fault> {
    one(conn.prepare_cached(READY)?, [rid], |row| Ok((decode(queues, row)?, row.get(REST)?)))
}

/// At most `max` jobs of a phase that are to be looked at until `until`, by that time, tenant and id.
pub(super) fn by_time(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    phase: i64,
    until: UnixMs,
    max: u32,
) -> Result<Vec<Head>, Fault> {
    let mut statement = conn.prepare_cached(BY_TIME)?;
    let mut rows = statement.query(params![phase, int(until), max])?;
    let mut heads = Vec::new();
    while let Some(row) = rows.next()? {
        heads.push(decode(scheduler.len(), row)?);
    }
    Ok(heads)
}

/// The nodes of a range that are there, in order.
pub(super) fn targets(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    workflow: i64,
    nodes: Range,
) -> Result<Vec<Target>, Fault> {
    let mut statement = conn.prepare_cached(TARGETS)?;
    let end = i64::from(nodes.first) + i64::from(nodes.count.max(1));
    let mut rows = statement.query(params![workflow, nodes.first, end])?;
    let mut targets = Vec::new();
    while let Some(row) = rows.next()? {
        let is_job = row.get::<_, Option<i64>>(0)?.is_some();
        targets.push(Target {
            number: small(row, REST)?,
            when: rows::when(row, REST + 1)?,
            template: row.get::<_, Option<u32>>(REST + 2)?.unwrap_or(0),
            head: is_job.then(|| decode(scheduler.len(), row)).transpose()?,
        });
    }
    Ok(targets)
}

impl Head {
    /// A job as it was submitted, not yet anywhere. `insert` gives it its `rid`.
    pub(super) fn new(now: UnixMs, line: QueueId, new: &NewJob) -> Self {
        let within = (new.expires_ms > 0).then(|| now.saturating_add(new.expires_ms));
        Self {
            result_ttl_ms: new.result_ttl_ms,
            dead_ttl_ms: new.dead_ttl_ms,
            expires_at: within.into_iter().chain(new.expires_at).min(),
            task: new.broker_options.is_some().then(|| new.task.clone()),
            ..Self::blank(new.id, line, new.priority, new.max_deliveries, JobState::Queued)
        }
        .with_broker_options(new.broker_options.as_deref())
    }

    /// The job of a workflow's node, waiting. It is deleted with its workflow.
    pub(super) fn of_node(id: JobId, line: QueueId, template: &NodeTemplate, workflow: i64) -> Self {
        let head = Self::blank(id, line, template.priority, template.max_deliveries, JobState::Waiting);
        // Its end must find room in a full file: the score keeps it until then.
        Self { workflow: Some(workflow), score: ready_score(0, 0), ..head }
    }

    fn blank(id: JobId, line: QueueId, priority: u8, max_deliveries: u32, state: JobState) -> Self {
        Self {
            rid: 0,
            id,
            line,
            priority,
            max_deliveries,
            result_ttl_ms: 0,
            dead_ttl_ms: 0,
            expires_at: None,
            state,
            at: None,
            score: 0,
            retries: 0,
            deliveries: 0,
            fence: 0,
            cancel_requested: false,
            let_end: false,
            dead: false,
            due_at: None,
            started_at: None,
            finished_at: None,
            worker: None,
            token: None,
            records: 0,
            log_lines: 0,
            workflow: None,
            child: None,
            in_sub_queue: false,
            has: 0,
            broker_options: None,
            task: None,
            was: state,
        }
    }

    /// Writes all that may have changed. `Step::save` counts it, too.
    pub(super) fn save(&self, conn: &Connection) -> Result<(), Fault> {
        let sql = "UPDATE job SET state = ?, phase = ?, at = ?, score = ?, retries = ?, deliveries = ?, fence = ?,
            cancel_requested = ?, dead = ?, due_at = ?, started_at = ?, finished_at = ?, worker = ?, token = ?,
            records = ?, log_lines = ?, expires_at = ?, child = ?, lane = ? WHERE rid = ?";
        conn.prepare_cached(sql)?.execute(params![
            state_number(self.state),
            phase(self.state),
            self.at.map(int),
            int(self.score),
            self.retries,
            self.deliveries,
            int(self.fence),
            i64::from(self.cancel_requested) + i64::from(self.cancel_requested && self.let_end),
            self.dead,
            self.due_at.map(int),
            self.started_at.map(int),
            self.finished_at.map(int),
            self.worker,
            self.token,
            int(self.records),
            int(self.log_lines),
            self.expires_at.map(int),
            self.child.map(|child| child.to_bytes()),
            self.in_sub_queue.then_some(1),
            self.rid,
        ])?;
        Ok(())
    }

    pub(super) fn has_token(&self, token: &Token) -> bool {
        self.token.as_deref() == Some(token.as_str())
    }

    pub(super) fn held_by(&self, token: &Token) -> bool {
        self.state == JobState::Running && self.has_token(token)
    }

    pub(super) fn expired(&self, now: UnixMs) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Deletes the job and all that belongs to it.
    pub(super) fn delete(&self, conn: &Connection) -> Result<(), Fault> {
        for sql in [
            "DELETE FROM job WHERE rid = ?",
            "DELETE FROM spec WHERE rid = ?",
            "DELETE FROM outcome WHERE rid = ?",
            "DELETE FROM progress WHERE rid = ?",
            "DELETE FROM history WHERE rid = ?",
        ] {
            self.delete_from(conn, sql)?;
        }
        if self.log_lines > 0 {
            self.delete_from(conn, "DELETE FROM log WHERE rid = ?")?;
        }
        if self.has > 0 {
            self.delete_from(conn, "DELETE FROM knobs WHERE rid = ?")?;
        }
        Ok(())
    }

    pub(super) fn delete_from(&self, conn: &Connection, sql: &str) -> Result<(), Fault> {
        conn.prepare_cached(sql)?.execute([self.rid])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_costs_more_because_more_jobs_are_stored() {
        for sql in [BY_ID, READY, BY_TIME, TARGETS] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
