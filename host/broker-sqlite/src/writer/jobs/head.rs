//! The part of a job that changes, and the statements that read and write it.

use rusqlite::{Connection, Row};
use umbel_broker::{
    BrokerOptions, NewJob, NodeTemplate,
    scheduler::{QueueId, Scheduler, ready_score},
};
use umbel_model::{
    JobId, JobState, TaskName, TenantId, Token, UnixMs, WorkerId, WorkflowId,
    canvas::{Range, When},
};

use crate::{
    error::Fault,
    rows::{self, all, get, one, phase, read, run, update},
};

/// In `Head::has`: it has labels.
pub(crate) const LABELS: u8 = 8;
/// It refers to blobs.
pub(crate) const BLOBS: u8 = 16;
const DELETE_LABELS: &str = "DELETE FROM label INDEXED BY label_job WHERE rid = ?";

/// A job's row but for what only readers want.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) rid: i64,
    pub(crate) id: JobId,
    pub(crate) queue_id: QueueId,
    pub(crate) priority: u8,
    pub(crate) max_deliveries: u32,
    pub(crate) result_ttl_ms: u64,
    pub(crate) dead_ttl_ms: u64,
    pub(crate) expires_at: Option<UnixMs>,
    pub(crate) state: JobState,
    /// When it is to be looked at: due or expiring, its lease over, to be deleted.
    pub(crate) at: Option<UnixMs>,
    pub(crate) score: u64,
    pub(crate) retries: u32,
    pub(crate) deliveries: u32,
    pub(crate) fence: u64,
    pub(crate) cancel_requested: bool,
    /// It was cancelled while it ran and is left to end.
    pub(crate) let_end: bool,
    pub(crate) dead: bool,
    /// Of a job that is queued: since when it is, if that is not since its submission. Of others that are not delayed it means
    /// nothing.
    pub(crate) due_at: Option<UnixMs>,
    pub(crate) started_at: Option<UnixMs>,
    pub(crate) finished_at: Option<UnixMs>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) token: Option<String>,
    pub(crate) records: u64,
    pub(crate) log_lines: u64,
    /// What it takes with all that belongs to it, and the part of that which is its log.
    pub(crate) bytes: u64,
    pub(crate) log_bytes: u64,
    /// The row of the workflow whose node it is.
    pub(crate) workflow: Option<i64>,
    /// The workflow that replaced it.
    pub(crate) child: Option<WorkflowId>,
    /// It is queued in the sub-queue of its task and key, or counts as running there. Stored as `lane`.
    pub(crate) in_sub_queue: bool,
    /// Which broker options it has, and whether it has labels or blobs: `ON_LOST`, `LIMITS`, `UNIQUE`, `LABELS`,
    /// `BLOBS`.
    pub(crate) has: u8,
    /// Its broker options, once they were looked at.
    pub(crate) broker_options: Option<Box<BrokerOptions>>,
    /// Its task, once that was looked at.
    pub(crate) task: Option<TaskName>,
    /// Its state as it is stored.
    pub(crate) was: JobState,
    /// `bytes` and `log_bytes` as its tenant has them.
    pub(crate) counted: (u64, u64),
}

/// A node on which something is to be done.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) number: u32,
    pub(crate) when: When,
    pub(crate) template: u32,
    /// None: it is a join.
    pub(crate) head: Option<Head>,
}

/// The columns of a head, in the order of `decode`.
macro_rules! select_head {
    ($rest:literal) => {
        concat!(
            "SELECT job.rid, job.id, line - 1, priority, max_deliveries, result_ttl_ms, dead_ttl_ms, expires_at, state, \
             job.at, score, retries, deliveries, fence, cancel_requested, cancel_requested = 2, dead, due_at, started_at, \
             finished_at, worker, token, records, log_lines, job.bytes, log_bytes, job.workflow, job.child, \
             job.lane IS NOT NULL, job.knobs",
            $rest
        )
    };
}

/// With its task behind it.
const BY_ID: &str = select_head!(", job.task FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?");
const READY: &str =
    select_head!(", spec.text FROM job CROSS JOIN spec ON spec.rid = job.rid WHERE job.rid = ? AND state = 1");
const BY_TIME: &str =
    select_head!(" FROM job INDEXED BY job_at WHERE phase = ? AND at <= ? ORDER BY at, tenant, id LIMIT ?");
const TARGETS: &str = select_head!(
    ", node.number, node.error_callback, coalesce(node.template, 0) FROM node LEFT JOIN job ON job.rid = node.rid
     WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number"
);
/// The first column after those of a head.
const REST: usize = 30;

fn decode(queues: usize, row: &Row<'_>) -> Result<Head, Fault> {
    let mut head = read!(row => Head {
        rid, id, queue_id, priority, max_deliveries, result_ttl_ms, dead_ttl_ms, expires_at, state, at, score, retries,
        deliveries, fence, cancel_requested, let_end, dead, due_at, started_at, finished_at, worker, token, records,
        log_lines, bytes, log_bytes, workflow, child, in_sub_queue, has;
        broker_options: None, task: None, was: JobState::Queued, counted: (0, 0)
    });
    head.was = head.state;
    head.counted = (head.bytes, head.log_bytes);
    rows::known_queue(queues, head.queue_id)?;
    Ok(head)
}

/// The job of a tenant with this id.
pub(crate) fn by_id(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    tenant: &TenantId,
    id: JobId,
) -> Result<Option<Head>, Fault> {
    one(conn, BY_ID, &[tenant, &id], |row| {
        let head = decode(scheduler.queue_count(), row)?;
        Ok(Head { task: get(row, REST)?, ..head })
    })
}

/// A queued job, and the text of its spec; none when either is missing.
pub(crate) fn ready(conn: &Connection, queues: usize, rid: i64) -> Result<Option<(Head, String)>, Fault> {
    one(conn, READY, &[&rid], |row| Ok((decode(queues, row)?, get(row, REST)?)))
}

/// At most `max` jobs of a phase that are to be looked at until `until`, by that time, tenant and id.
pub(crate) fn by_time(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    phase: i64,
    until: UnixMs,
    max: u32,
) -> Result<Vec<Head>, Fault> {
    all(conn, BY_TIME, &[&phase, &until, &max], |row| decode(scheduler.queue_count(), row))
}

/// The nodes of a range that are there, in order.
pub(crate) fn targets(
    conn: &Connection,
    scheduler: &Scheduler<i64>,
    workflow: i64,
    nodes: Range,
) -> Result<Vec<Target>, Fault> {
    let end = i64::from(nodes.first) + i64::from(nodes.count.max(1));
    all(conn, TARGETS, &[&workflow, &nodes.first, &end], |row| {
        let is_job = get::<Option<i64>>(row, 0)?.is_some();
        let head = is_job.then(|| decode(scheduler.queue_count(), row)).transpose()?;
        Ok(read!(row, REST => Target { number, when, template; head: head }))
    })
}

impl Head {
    /// A job as it was submitted, not yet anywhere. `insert` gives it its `rid`.
    pub(crate) fn new(now: UnixMs, queue_id: QueueId, new: &NewJob) -> Self {
        Self {
            result_ttl_ms: new.result_ttl_ms,
            dead_ttl_ms: new.dead_ttl_ms,
            expires_at: new.expiry(now),
            task: new.broker_options.is_some().then(|| new.task.clone()),
            has: if new.labels.is_empty() { 0 } else { LABELS } | if new.blobs.is_empty() { 0 } else { BLOBS },
            ..Self::blank(new.id, queue_id, new.priority, new.max_deliveries, JobState::Queued)
        }
        .with_broker_options(new.broker_options.as_deref())
    }

    /// The job of a workflow's node, waiting. It is deleted with its workflow.
    pub(crate) fn of_node(id: JobId, queue_id: QueueId, template: &NodeTemplate, workflow: i64) -> Self {
        let head = Self::blank(id, queue_id, template.priority, template.max_deliveries, JobState::Waiting);
        // Its end must find room in a full file: the score and the time keep it until then.
        Self { workflow: Some(workflow), score: ready_score(0, 0), due_at: Some(UnixMs::from(u32::MAX) << 8), ..head }
    }

    fn blank(id: JobId, queue_id: QueueId, priority: u8, max_deliveries: u32, state: JobState) -> Self {
        Self {
            rid: 0,
            id,
            queue_id,
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
            bytes: 0,
            log_bytes: 0,
            workflow: None,
            child: None,
            in_sub_queue: false,
            has: 0,
            broker_options: None,
            task: None,
            was: state,
            counted: (0, 0),
        }
    }

    /// Writes all that may have changed. `Step::save` counts it, too.
    pub(crate) fn save(&self, conn: &Connection) -> Result<(), Fault> {
        let cancel_requested = i64::from(self.cancel_requested) + i64::from(self.cancel_requested && self.let_end);
        update!(conn, "job" {
            state: self.state, phase: phase(self.state), at: self.at, score: self.score, retries: self.retries,
            deliveries: self.deliveries, fence: self.fence, cancel_requested: cancel_requested, dead: self.dead,
            due_at: self.due_at, started_at: self.started_at, finished_at: self.finished_at, worker: self.worker,
            token: self.token, records: self.records, log_lines: self.log_lines, bytes: self.bytes, log_bytes: self.log_bytes,
            expires_at: self.expires_at,
            child: self.child, "lane": self.in_sub_queue.then_some(1_i64)
        } "rid = ?", self.rid)
    }

    pub(crate) fn has_token(&self, token: &Token) -> bool {
        self.token.as_deref() == Some(token.as_str())
    }

    pub(crate) fn held_by(&self, token: &Token) -> bool {
        self.state == JobState::Running && self.has_token(token)
    }

    pub(crate) fn expired(&self, now: UnixMs) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Deletes the job and all that belongs to it.
    pub(crate) fn delete(&self, conn: &Connection) -> Result<(), Fault> {
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
        if self.has_broker_options() {
            self.delete_from(conn, "DELETE FROM knobs WHERE rid = ?")?;
        }
        if self.has & LABELS > 0 {
            self.delete_from(conn, DELETE_LABELS)?;
        }
        Ok(())
    }

    pub(crate) fn delete_from(&self, conn: &Connection, sql: &str) -> Result<(), Fault> {
        run(conn, sql, &[&self.rid])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_costs_more_because_more_jobs_are_stored() {
        for sql in [BY_ID, READY, BY_TIME, TARGETS, DELETE_LABELS] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
