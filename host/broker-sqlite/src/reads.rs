//! Reading: jobs, pages, logs, queues, workers, documents.

use rusqlite::{Connection, Row};
use umbel_broker::{
    Control, Document, DocumentKind, DocumentPage, Event, EventPage, JobPage, JobQuery, Label, LogLine,
    MAX_READY_QUEUES, PAGE_BYTES, PAGE_SCAN, QueueStats, Scope, StorageLimits, StoredBytes, UPSTREAM_FAILED,
    UPSTREAM_FAILED_MESSAGE, WORKER_TTL_MS, WorkerInfo, scheduler::ready_score, text_bytes,
};
use umbel_model::{
    Failure, JobId, JobRecord, JobState, NodeRef, QueueName, TenantId, UnixMs, WorkflowId,
    canvas::{node_job, node_of},
};

use crate::{
    error::Fault,
    rows::{self, Stored, all, each, first, get, int, one, read},
    templates,
    writer::UNLABELLED,
};

/// The failure of a job. One that failed without an outcome of its own failed with what it waited for: many may, and in a
/// full file.
pub(crate) fn failure(state: JobState, own: Option<Failure>, no_outcome: bool) -> Option<Failure> {
    if state == JobState::Failed && no_outcome { Some(upstream_failed()) } else { own }
}

/// The failure of a job that did not run because what it waits for failed.
pub(crate) fn upstream_failed() -> Failure {
    Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE)
}

fn rid(conn: &Connection, tenant: &TenantId, id: JobId) -> Result<Option<i64>, Fault> {
    one(conn, "SELECT rid FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?", &[tenant, &id], first)
}

/// What is committed, at a time.
pub(crate) struct View<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: UnixMs,
    pub(crate) usage_retention_ms: u64,
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
            cancel_requested, cancel_requested = 2, created_at, due_at, expires_at, started_at, finished_at, worker,
            progress.progress, ",
            $outcome,
            ", child, job.workflow, records, outcome.rid IS NULL
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
    let sql = if parts == Parts::Summary { SUMMARY } else { RECORD };
    let decode = |row: &Row<'_>| {
        let record = read!(row => JobRecord {
            id, tenant, task, queue, priority, state, spec, retries, deliveries, fence, cancel_requested, let_end,
            created_at, due_at, expires_at, started_at, finished_at, worker, progress, result, failure, child;
            history: Vec::new(), node: None
        });
        Ok((record, get(row, 22)?, get::<u64>(row, 23)?, get(row, 24)?))
    };
    let found = one(conn, sql, &[&rid], decode)?;
    let (mut record, workflow, attempts, no_outcome): (_, Option<i64>, _, _) =
        found.ok_or_else(|| Fault::stored("job", "its spec is missing"))?;
    record.failure = failure(record.state, record.failure, no_outcome);
    record.due_at = record.due_at.filter(|_| matches!(record.state, JobState::Scheduled | JobState::Retrying));
    if let Some(workflow_rid) = workflow {
        let (workflow, number) = node_of(record.id);
        let spec = templates::template_spec(conn, workflow_rid, number)?;
        let arguments = std::mem::replace(&mut record.spec, spec);
        record.node = Some(NodeRef { workflow, number, arguments });
    }
    if attempts > 0 && parts == Parts::All {
        record.history = all(conn, "SELECT record FROM history WHERE rid = ? ORDER BY n", &[&rid], first)?;
    }
    Ok(record)
}

/// Of the page so far.
#[derive(Default)]
struct Size {
    scanned: u32,
    bytes: usize,
}

macro_rules! select_page {
    ($index:literal, $also:literal) => {
        select_page!($index, "", "", $also)
    };
    ($index:literal, $join:literal, $fits:literal, $also:literal) => {
        concat!(
            "SELECT job.rid, job.id, job.workflow IS NOT NULL, (?4 IS NULL OR task = ?4)
            AND (?5 IS NULL OR line.queue = ?5) AND (?6 IS NULL OR worker IS ?6) AND (?7 IS NULL OR state = ?7)",
            $fits,
            " FROM job INDEXED BY ",
            $index,
            " CROSS JOIN line ON line.id = job.line ",
            $join,
            " WHERE job.tenant = ?1 AND job.id < ?2 ",
            $also,
            " ORDER BY job.id DESC LIMIT ?3"
        )
    };
}

const PAGE: &str = select_page!("job_id", "");
/// With a label, and perhaps another one.
const PAGE_BY_LABEL: &str = "SELECT job.rid, job.id, 0, (?4 IS NULL OR task = ?4) AND (?5 IS NULL OR line.queue = ?5)
    AND (?6 IS NULL OR worker IS ?6) AND (?7 IS NULL OR state = ?7) AND (?9 IS NULL OR EXISTS
    (SELECT 1 FROM label AS other WHERE other.tenant = ?1 AND other.hash = ?9 AND other.id = label.id))
    FROM label CROSS JOIN job ON job.rid = label.rid CROSS JOIN line ON line.id = job.line
    WHERE label.tenant = ?1 AND label.hash = ?8 AND label.id < ?2 ORDER BY label.id DESC LIMIT ?3";
const JOBS_WITH: &str = "SELECT 1 FROM label WHERE tenant = ? AND hash = ? LIMIT ?";
/// With texts that the spec contains.
const PAGE_BY_SPEC: &str = select_page!(
    "job_id",
    "LEFT JOIN spec ON spec.rid = job.rid",
    " AND coalesce(instr(spec.text, ?8), 0) AND (?9 IS NULL OR instr(spec.text, ?9))",
    ""
);
const DEAD_PAGE: &str = select_page!("job_dead", "AND job.dead = 1");

/// Seventeen bytes, above every id, or the id before which a page begins.
pub(crate) fn page_before(id: Option<JobId>) -> Vec<u8> {
    id.map_or(vec![0xff; 17], |id| id.to_bytes().to_vec())
}

/// How many jobs have a label; as many as a page looks at stands for more.
fn jobs_with(conn: &Connection, tenant: &TenantId, hash: &Option<String>) -> Result<usize, Fault> {
    Ok(all(conn, JOBS_WITH, &[tenant, hash, &PAGE_SCAN], |_| Ok(()))?.len())
}

/// Adds to a page until it is complete or meets a node; then the workflow that is in the way.
fn part_of_page(
    conn: &Connection,
    query: &JobQuery,
    before: &Vec<u8>,
    page: &mut JobPage,
    size: &mut Size,
) -> Result<Option<WorkflowId>, Fault> {
    let mut in_the_way = None;
    let JobQuery { tenant, task, queue, worker, state, labels, .. } = query;
    let is_scanned = !labels.is_empty() && one(conn, UNLABELLED, &[], first::<i64>)?.is_some();
    let of = |label: &Label| if is_scanned { label.text() } else { label.hash() };
    let (mut text, mut another) = (labels.first().map(of), labels.get(1).map(of));
    if !is_scanned && another.is_some() && jobs_with(conn, tenant, &another)? < jobs_with(conn, tenant, &text)? {
        std::mem::swap(&mut text, &mut another);
    }
    let wanted: [&dyn Stored; 9] = [tenant, before, &PAGE_SCAN, task, queue, worker, state, &text, &another];
    let (sql, wanted) = match (query.dead, &text) {
        (true, _) => (DEAD_PAGE, &wanted[..7]),
        (false, None) => (PAGE, &wanted[..7]),
        (false, Some(_)) if is_scanned => (PAGE_BY_SPEC, &wanted[..]),
        (false, Some(_)) => (PAGE_BY_LABEL, &wanted[..]),
    };
    each(conn, sql, wanted, |row| {
        let (id, is_node): (JobId, bool) = (get(row, 1)?, get(row, 2)?);
        if is_node && !query.dead {
            in_the_way = Some(node_of(id).0);
            return Ok(false);
        }
        size.scanned += 1;
        if get(row, 3)? {
            let record = record(conn, get(row, 0)?, Parts::Summary)?;
            if Label::are_in(labels, &record.spec) {
                size.bytes += text_bytes(&record);
                page.jobs.push(record);
            }
        }
        let full = page.jobs.len() as u64 == u64::from(query.max) || size.bytes >= PAGE_BYTES;
        if full || size.scanned == PAGE_SCAN {
            page.next = Some(id);
        }
        Ok(page.next.is_none())
    })?;
    Ok(in_the_way)
}

impl View<'_> {
    pub(crate) fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>, Fault> {
        rid(self.conn, tenant, id)?.map(|rid| record(self.conn, rid, Parts::All)).transpose()
    }

    pub(crate) fn jobs(&self, query: &JobQuery) -> Result<JobPage, Fault> {
        let mut page = JobPage { jobs: Vec::new(), next: None };
        let mut before = page_before(query.before);
        let (mut size, mut skipped) = (Size::default(), 0);
        // Nodes are listed by their workflow: the rest of its nodes is jumped over, however many there are.
        while let Some(workflow) = part_of_page(self.conn, query, &before, &mut page, &mut size)? {
            skipped += 1;
            let first = node_job(workflow, 0);
            if skipped == PAGE_SCAN {
                page.next = Some(first);
                break;
            }
            before = page_before(Some(first));
        }
        Ok(page)
    }

    pub(crate) fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>, Fault> {
        let Some(rid) = rid(self.conn, tenant, id)? else { return Ok(Vec::new()) };
        let sql = "SELECT line FROM log WHERE rid = ? AND n >= ? ORDER BY n LIMIT ?";
        all(self.conn, sql, &[&rid, &from, &max], first)
    }

    pub(crate) fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>, Fault> {
        let sql = "SELECT queue, ready, running, delayed, dead, paused FROM line
            WHERE tenant = ? AND used_at IS NOT NULL ORDER BY queue";
        all(self.conn, sql, &[tenant], |row| {
            Ok(read!(row => QueueStats { name, queued, running, delayed, dead, paused }))
        })
    }

    pub(crate) fn oldest_ready(&self, tenant: &TenantId) -> Result<Vec<(QueueName, u64)>, Fault> {
        let sql = "SELECT id, queue FROM line WHERE tenant = ? AND used_at IS NOT NULL AND ready > 0 ORDER BY queue";
        let lines: Vec<(i64, QueueName)> = all(self.conn, sql, &[tenant], |row| Ok((get(row, 0)?, get(row, 1)?)))?;
        let mut ages = Vec::new();
        for (line, queue) in lines {
            let mut oldest = None;
            for (sub_queue, priority) in [None, Some(1_i64)].into_iter().flat_map(|of| (0..10).map(move |p| (of, p))) {
                let (from, to) = (ready_score(priority, 0), ready_score(priority, 0) + (1 << 48));
                let first = one(self.conn, FIRST_READY, &[&line, &sub_queue, &from, &to], first::<UnixMs>)?;
                oldest = oldest.into_iter().chain(first).min();
            }
            ages.extend(oldest.map(|since| (queue, self.now.saturating_sub(since))));
        }
        Ok(ages)
    }

    pub(crate) fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>, Fault> {
        let sql = "SELECT kind, name, text FROM control WHERE tenant = ? ORDER BY kind, name";
        all(self.conn, sql, &[tenant], |row| Ok((rows::scope(row, 0)?, get(row, 2)?)))
    }

    pub(crate) fn stored_bytes(&self, tenant: &TenantId) -> Result<StoredBytes, Fault> {
        let sql = "SELECT jobs, logs, documents, modules, kv, blobs FROM stored WHERE tenant = ?";
        let found = one(self.conn, sql, &[tenant], |row| {
            Ok(read!(row => StoredBytes { jobs, logs, documents, modules, kv, blobs }))
        })?;
        Ok(found.unwrap_or_default())
    }

    pub(crate) fn storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits, Fault> {
        let sql = "SELECT jobs, documents, kv, blobs FROM storage_limit WHERE tenant = ?";
        let found =
            one(self.conn, sql, &[tenant], |row| Ok(read!(row => StorageLimits { jobs, documents, kv, blobs })))?;
        Ok(found.unwrap_or_default())
    }

    /// A tenant queue has a virtual finish time (`tag`) while it has something to hand out.
    pub(crate) fn ready_queues(&self) -> Result<Vec<QueueName>, Fault> {
        let sql = "SELECT DISTINCT queue FROM line WHERE tag IS NOT NULL ORDER BY queue LIMIT ?";
        all(self.conn, sql, &[&MAX_READY_QUEUES], first)
    }

    pub(crate) fn workers(&self) -> Result<Vec<WorkerInfo>, Fault> {
        let sql = "SELECT info FROM worker WHERE seen_at > ? ORDER BY id";
        all(self.conn, sql, &[&(int(self.now) - int(WORKER_TTL_MS))], first)
    }

    pub(crate) fn document(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        name: &str,
    ) -> Result<Option<Document>, Fault> {
        let sql = "SELECT name, version, body FROM document WHERE tenant = ? AND kind = ? AND name = ?";
        one(self.conn, sql, &[tenant, &kind.as_str(), &name], decode_document)
    }

    pub(crate) fn document_tenants(&self, kind: DocumentKind) -> Result<Vec<TenantId>, Fault> {
        all(self.conn, "SELECT DISTINCT tenant FROM document WHERE kind = ? ORDER BY tenant", &[&kind.as_str()], first)
    }

    pub(crate) fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<DocumentPage, Fault> {
        let sql = "SELECT name, version, body FROM document WHERE tenant = ?1 AND kind = ?2 AND name > ?3
            ORDER BY name LIMIT ?4";
        let first = "SELECT name, version, body FROM document WHERE tenant = ?1 AND kind = ?2 ORDER BY name LIMIT ?3";
        let (mut documents, mut bytes) = (Vec::new(), 0);
        let look = |row: &Row<'_>| {
            let document = decode_document(row)?;
            bytes += document.body.len();
            documents.push(document);
            Ok(bytes < PAGE_BYTES)
        };
        match after {
            Some(after) => each(self.conn, sql, &[tenant, &kind.as_str(), &after, &max], look)?,
            None => each(self.conn, first, &[tenant, &kind.as_str(), &max], look)?,
        }
        Ok(DocumentPage::new(documents, max))
    }

    pub(crate) fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage, Fault> {
        let sql = "SELECT last FROM followed WHERE tenant = ? AND until > ?";
        let Some(last) = one(self.conn, sql, &[tenant, &self.now], first::<u64>)? else {
            return Ok(EventPage { missed: after > 0, ..EventPage::default() });
        };
        let oldest = one(self.conn, FIRST_EVENT, &[tenant], first)?.unwrap_or(last + 1);
        let events = all(self.conn, EVENTS, &[tenant, &after, &max], |row| {
            Ok(read!(row => Event { number, at, job, task, state }))
        })?;
        Ok(EventPage { events, missed: after.saturating_add(1) < oldest || after > last, last })
    }

    /// Reads something that every database has.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        self.conn.prepare_cached("SELECT seq FROM meta")?.query_row([], |row| row.get::<_, i64>(0))?;
        Ok(())
    }
}

fn decode_document(row: &Row<'_>) -> Result<Document, Fault> {
    Ok(read!(row => Document { name, version, body }))
}

/// The first job of a priority, in a tenant queue or its sub-queues.
const FIRST_READY: &str = "SELECT coalesce(due_at, created_at) FROM job INDEXED BY job_ready
    WHERE line = ? AND lane IS ? AND state = 1 AND score >= ? AND score < ? ORDER BY score LIMIT 1";
const FIRST_EVENT: &str = "SELECT number FROM event WHERE tenant = ? ORDER BY number LIMIT 1";
const EVENTS: &str =
    "SELECT number, at, job, task, state FROM event WHERE tenant = ? AND number > ? ORDER BY number LIMIT ?";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_costs_more_because_more_jobs_are_stored() {
        for sql in
            [RECORD, SUMMARY, PAGE, PAGE_BY_SPEC, PAGE_BY_LABEL, JOBS_WITH, FIRST_READY, DEAD_PAGE, FIRST_EVENT, EVENTS]
        {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
