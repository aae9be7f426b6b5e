//! Reading: jobs, pages, logs, queues, workers, documents.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;
use umbel_broker::{
    Control, Document, DocumentKind, Event, EventPage, JobPage, JobQuery, LogLine, MAX_READY_QUEUES, PAGE_BYTES,
    PAGE_SCAN, QueueStats, Scope, UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE, WORKER_TTL_MS, WorkerInfo, text_bytes,
};
use umbel_model::{
    Failure, JobId, JobRecord, JobState, NodeRef, QueueName, TenantId, UnixMs, WorkflowId,
    canvas::{node_job, node_of},
};

use crate::{
    error::Fault,
    rows::{self, all, int, json, name, number, small, state, time},
    templates,
};

/// A job that failed without an outcome of its own failed with what it waited for: many may, and in a full file.
pub(crate) fn failure(state: JobState, text: Option<String>, no_outcome: bool) -> Result<Option<Failure>, Fault> {
    if state == JobState::Failed && no_outcome {
        return Ok(Some(Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE)));
    }
    text.map(|text| json("failure", &text)).transpose()
}

fn rid(conn: &Connection, tenant: &TenantId, id: JobId) -> Result<Option<i64>, Fault> {
    let sql = "SELECT rid FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?";
    let params = params![tenant.as_str(), id.to_bytes()];
    Ok(conn.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?)
}

pub(crate) fn job(conn: &Connection, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>, Fault> {
    rid(conn, tenant, id)?.map(|rid| record(conn, rid, Parts::All)).transpose()
}

/// The parts of a job that are read besides its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    All,
    WithoutHistory,
    /// Without history and result.
    Summary,
}

macro_rules! select_record {
    ($outcome:literal) => {
        concat!(
            "SELECT job.id, job.tenant, task, line.queue, priority, state, spec.text, retries, deliveries, fence,
            cancel_requested, created_at, due_at, expires_at, started_at, finished_at, worker, progress.progress, ",
            $outcome,
            ", records, job.workflow, child, outcome.rid IS NULL
            FROM job CROSS JOIN line ON line.id = job.line CROSS JOIN spec ON spec.rid = job.rid
            LEFT JOIN progress ON progress.rid = job.rid LEFT JOIN outcome ON outcome.rid = job.rid
            WHERE job.rid = ?"
        )
    };
}

const RECORD: &str = select_record!("outcome.result, outcome.failure");
/// A job with a result has no failure; SQLite would look for it behind all pages of the result.
const SUMMARY: &str = select_record!("NULL, CASE WHEN outcome.result IS NULL THEN outcome.failure END");

pub(crate) fn record(conn: &Connection, rid: i64, parts: Parts) -> Result<JobRecord, Fault> {
    let mut statement = conn.prepare_cached(if parts == Parts::Summary { SUMMARY } else { RECORD })?;
    let mut rows = statement.query([rid])?;
    let row = rows.next()?.ok_or_else(|| Fault::stored("job", "its spec is missing"))?;
    let text = |column| row.get::<_, Option<String>>(column);
    let mut record = JobRecord {
        id: rows::id(row, 0)?,
        tenant: name(row, 1)?,
        task: name(row, 2)?,
        queue: name(row, 3)?,
        priority: row.get(4)?,
        state: state(row, 5)?,
        spec: row.get(6)?,
        retries: small(row, 7)?,
        deliveries: small(row, 8)?,
        fence: number(row, 9)?,
        cancel_requested: row.get(10)?,
        let_end: row.get::<_, i64>(10)? == 2,
        created_at: number(row, 11)?,
        due_at: time(row, 12)?,
        expires_at: time(row, 13)?,
        started_at: time(row, 14)?,
        finished_at: time(row, 15)?,
        worker: text(16)?.map(|w| w.parse().map_err(|error| Fault::stored("worker", error))).transpose()?,
        progress: text(17)?.map(|p| json("progress", &p)).transpose()?,
        result: text(18)?.map(|r| RawValue::from_string(r).map_err(|e| Fault::stored("result", e))).transpose()?,
        failure: failure(state(row, 5)?, text(19)?, row.get(23)?)?,
        history: Vec::new(),
        node: None,
        child: rows::id_or_none(row, 22)?,
    };
    if let Some(rid) = row.get::<_, Option<i64>>(21)? {
        let (workflow, number) = node_of(record.id);
        let spec = templates::template_spec(conn, rid, number)?;
        let arguments = std::mem::replace(&mut record.spec, spec);
        record.node = Some(NodeRef { workflow, number, arguments });
    }
    if number(row, 20)? > 0 && parts == Parts::All {
        record.history = all(conn, "SELECT record FROM history WHERE rid = ? ORDER BY n", &[&rid], |row| {
            json("history", row.get_ref(0)?.as_str().map_err(|e| Fault::stored("history", e))?)
        })?;
    }
    Ok(record)
}

/// The part of a job that the filters of a listing look at.
struct Entry {
    rid: i64,
    id: JobId,
    state: JobState,
    fits: bool,
    is_node: bool,
}

/// Of the page so far.
#[derive(Default)]
struct Size {
    scanned: u32,
    bytes: usize,
}

const PAGE: &str = "SELECT job.rid, job.id, state, (?4 IS NULL OR task = ?4) AND (?5 IS NULL OR line.queue = ?5)
    AND (?6 IS NULL OR worker IS ?6),
    job.workflow IS NOT NULL
    FROM job INDEXED BY job_id CROSS JOIN line ON line.id = job.line
    WHERE job.tenant = ?1 AND job.id < ?2 ORDER BY job.id DESC LIMIT ?3";
const DEAD_PAGE: &str = "SELECT job.rid, job.id, state, (?4 IS NULL OR task = ?4) AND (?5 IS NULL OR line.queue = ?5)
    AND (?6 IS NULL OR worker IS ?6),
    job.workflow IS NOT NULL
    FROM job INDEXED BY job_dead CROSS JOIN line ON line.id = job.line
    WHERE job.tenant = ?1 AND job.id < ?2 AND job.dead = 1 ORDER BY job.id DESC LIMIT ?3";

pub(crate) fn page(conn: &Connection, query: &JobQuery) -> Result<JobPage, Fault> {
    let mut page = JobPage { jobs: Vec::new(), next: None };
    // Seventeen bytes: above every id.
    let mut before = query.before.map_or(vec![0xff; 17], |id| id.to_bytes().to_vec());
    let (mut size, mut skipped) = (Size::default(), 0);
    // Nodes are listed by their workflow: the rest of its nodes is jumped over, however many there are.
    while let Some(workflow) = part_of_page(conn, query, &before, &mut page, &mut size)? {
        skipped += 1;
        let first = node_job(workflow, 0);
        if skipped == PAGE_SCAN {
            page.next = Some(first);
            break;
        }
        before = first.to_bytes().to_vec();
    }
    Ok(page)
}

/// Adds to a page until it is complete or meets a node; then the workflow that is in the way.
fn part_of_page(
    conn: &Connection,
    query: &JobQuery,
    before: &[u8],
    page: &mut JobPage,
    size: &mut Size,
) -> Result<Option<WorkflowId>, Fault> {
    let sql = if query.dead { DEAD_PAGE } else { PAGE };
    let (task, queue) = (query.task.as_ref().map(|t| t.as_str()), query.queue.as_ref().map(|q| q.as_str()));
    let worker = query.worker.as_ref().map(|worker| worker.as_str());
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![query.tenant.as_str(), before, PAGE_SCAN, task, queue, worker])?;
    while let Some(row) = rows.next()? {
        let (id, state) = (rows::id(row, 1)?, state(row, 2)?);
        let entry = Entry { rid: row.get(0)?, id, state, fits: row.get(3)?, is_node: row.get(4)? };
        if entry.is_node && !query.dead {
            return Ok(Some(node_of(entry.id).0));
        }
        size.scanned += 1;
        if entry.fits && query.state.is_none_or(|wanted| wanted == entry.state) {
            let record = record(conn, entry.rid, Parts::Summary)?;
            size.bytes += text_bytes(&record);
            page.jobs.push(record);
        }
        let full = page.jobs.len() as u64 == u64::from(query.max) || size.bytes >= PAGE_BYTES;
        if full || size.scanned == PAGE_SCAN {
            page.next = Some(entry.id);
            break;
        }
    }
    Ok(None)
}

pub(crate) fn logs(
    conn: &Connection,
    tenant: &TenantId,
    id: JobId,
    from: u64,
    max: u32,
) -> Result<Vec<LogLine>, Fault> {
    let Some(rid) = rid(conn, tenant, id)? else { return Ok(Vec::new()) };
    let sql = "SELECT line FROM log WHERE rid = ? AND n >= ? ORDER BY n LIMIT ?";
    all(conn, sql, &[&rid, &int(from), &max], |row| {
        json("log line", row.get_ref(0)?.as_str().map_err(|e| Fault::stored("log line", e))?)
    })
}

pub(crate) fn queues(conn: &Connection, tenant: &TenantId) -> Result<Vec<QueueStats>, Fault> {
    let sql = "SELECT queue, ready, running, delayed, paused, dead FROM line
        WHERE tenant = ? AND used_at IS NOT NULL ORDER BY queue";
    all(conn, sql, &[&tenant.as_str()], |row| {
        Ok(QueueStats {
            name: name(row, 0)?,
            queued: number(row, 1)?,
            running: number(row, 2)?,
            delayed: number(row, 3)?,
            paused: row.get(4)?,
            dead: number(row, 5)?,
        })
    })
}

pub(crate) fn controls(conn: &Connection, tenant: &TenantId) -> Result<Vec<(Scope, Control)>, Fault> {
    let sql = "SELECT kind, name, text FROM control WHERE tenant = ? ORDER BY kind, name";
    all(conn, sql, &[&tenant.as_str()], |row| {
        let text = row.get_ref(2)?.as_str().map_err(|error| Fault::stored("control", error))?;
        Ok((rows::scope(row, 0)?, json("control", text)?))
    })
}

/// A tenant queue has a virtual finish time (`tag`) while it has something to hand out.
pub(crate) fn ready_queues(conn: &Connection) -> Result<Vec<QueueName>, Fault> {
    let sql = "SELECT DISTINCT queue FROM line WHERE tag IS NOT NULL ORDER BY queue LIMIT ?";
    all(conn, sql, &[&MAX_READY_QUEUES], |row| name(row, 0))
}

pub(crate) fn workers(conn: &Connection, now: UnixMs) -> Result<Vec<WorkerInfo>, Fault> {
    let sql = "SELECT info FROM worker WHERE seen_at > ? ORDER BY id";
    let oldest = i64::try_from(now).unwrap_or(i64::MAX) - int(WORKER_TTL_MS);
    all(conn, sql, &[&oldest], |row| json("worker", row.get_ref(0)?.as_str().map_err(|e| Fault::stored("worker", e))?))
}

fn decode_document(row: &Row<'_>) -> Result<Document, Fault> {
    Ok(Document { name: row.get(0)?, version: number(row, 1)?, body: row.get(2)? })
}

pub(crate) fn document(
    conn: &Connection,
    tenant: &TenantId,
    kind: DocumentKind,
    name: &str,
) -> Result<Option<Document>, Fault> {
    let sql = "SELECT name, version, body FROM document WHERE tenant = ? AND kind = ? AND name = ?";
    Ok(all(conn, sql, &[&tenant.as_str(), &kind.as_str(), &name], decode_document)?.pop())
}

pub(crate) fn documents(
    conn: &Connection,
    tenant: &TenantId,
    kind: DocumentKind,
    after: Option<&str>,
    max: u32,
) -> Result<Vec<Document>, Fault> {
    let sql = "SELECT name, version, body FROM document WHERE tenant = ?1 AND kind = ?2 AND name > ?3
        ORDER BY name LIMIT ?4";
    let first = "SELECT name, version, body FROM document WHERE tenant = ?1 AND kind = ?2 ORDER BY name LIMIT ?3";
    match after {
        Some(after) => all(conn, sql, &[&tenant.as_str(), &kind.as_str(), &after, &max], decode_document),
        None => all(conn, first, &[&tenant.as_str(), &kind.as_str(), &max], decode_document),
    }
}

const FIRST_EVENT: &str = "SELECT number FROM event WHERE tenant = ? ORDER BY number LIMIT 1";
const EVENTS: &str =
    "SELECT number, at, job, task, state FROM event WHERE tenant = ? AND number > ? ORDER BY number LIMIT ?";

pub(crate) fn events(
    conn: &Connection,
    now: UnixMs,
    tenant: &TenantId,
    after: u64,
    max: u32,
) -> Result<EventPage, Fault> {
    let sql = "SELECT last FROM followed WHERE tenant = ? AND until > ?";
    let Some(last) = all(conn, sql, &[&tenant.as_str(), &int(now)], |row| number(row, 0))?.pop() else {
        return Ok(EventPage { missed: after > 0, ..EventPage::default() });
    };
    let first = all(conn, FIRST_EVENT, &[&tenant.as_str()], |row| number(row, 0))?.pop().unwrap_or(last + 1);
    let events = all(conn, EVENTS, &[&tenant.as_str(), &int(after), &max], |row| {
        let (job, task, state) = (rows::id(row, 2)?, name(row, 3)?, state(row, 4)?);
        Ok(Event { number: number(row, 0)?, at: number(row, 1)?, job, task, state })
    })?;
    Ok(EventPage { events, missed: after.saturating_add(1) < first || after > last, last })
}

/// Reads something that every database has.
pub(crate) fn check(conn: &Connection) -> Result<(), Fault> {
    conn.prepare_cached("SELECT seq FROM meta")?.query_row([], |row| row.get::<_, i64>(0))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_costs_more_because_more_jobs_are_stored() {
        for sql in [RECORD, SUMMARY, PAGE, DEAD_PAGE, FIRST_EVENT, EVENTS] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
