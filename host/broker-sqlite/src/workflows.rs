//! Reading workflows: records, pages, nodes and their values.

use rusqlite::{Connection, Row, ToSql, params};
use serde_json::value::RawValue;
use umbel_broker::{
    MAX_NODES_A_CALL, NodePage, NodeRecord, NodeValue, NodeWork, PAGE_BYTES, PAGE_SCAN, Results, WorkflowPage,
    WorkflowQuery, WorkflowRecord, text_bytes,
};
use umbel_model::{TenantId, WorkflowId};

use crate::{
    error::Fault,
    reads::{Parts, failure, record},
    rows::{self, all, id_or_none, name, number, ranges, small, time},
    templates::templates_from,
};

/// The columns of a record, in the order of `decode`.
macro_rules! select_workflow {
    ($rest:literal) => {
        concat!(
            "SELECT workflow.rid, id, tenant, text, state, cancelled IS NOT NULL, nodes, end_node, jobs, created_at, \
             deadline_ms, finished_at, keep_ms, parent, depth, staged OR pruned IS NOT NULL",
            $rest
        )
    };
}

const WORKFLOW: &str = select_workflow!(
    " FROM workflow INDEXED BY workflow_id CROSS JOIN workflow_spec ON workflow_spec.rid = workflow.rid
     WHERE tenant = ? AND id = ?"
);
const PAGE: &str = select_workflow!(
    " FROM workflow INDEXED BY workflow_list CROSS JOIN workflow_spec ON workflow_spec.rid = workflow.rid
     WHERE tenant = ? AND id < ? AND parent IS NULL AND pruned IS NULL ORDER BY id DESC LIMIT ?"
);

/// A record without its templates, its row, and whether nobody is to see it.
fn decode(row: &Row<'_>) -> Result<(i64, WorkflowRecord, bool), Fault> {
    let created_at = number(row, 9)?;
    let deadline_ms = number(row, 10)?;
    let record = WorkflowRecord {
        id: rows::id(row, 1)?,
        tenant: name(row, 2)?,
        spec: row.get(3)?,
        templates: Vec::new(),
        state: rows::workflow_state(row, 4)?,
        cancel_requested: row.get(5)?,
        nodes: small(row, 6)?,
        end: small(row, 7)?,
        jobs: rows::counts(row, 8)?,
        created_at,
        deadline_at: (deadline_ms > 0).then(|| created_at.saturating_add(deadline_ms)),
        finished_at: time(row, 11)?,
        keep_ms: number(row, 12)?,
        parent: id_or_none(row, 13)?,
        depth: small(row, 14)?,
    };
    Ok((row.get(0)?, record, row.get(15)?))
}

pub(crate) fn workflow(conn: &Connection, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>, Fault> {
    let found = all(conn, WORKFLOW, &[&tenant.as_str(), &id.to_bytes()], decode)?.pop();
    let Some((rid, mut record, false)) = found else { return Ok(None) };
    record.templates = templates_from(conn, rid, 0)?;
    Ok(Some(record))
}

pub(crate) fn page(conn: &Connection, query: &WorkflowQuery) -> Result<WorkflowPage, Fault> {
    // Seventeen bytes: above every id.
    let before = query.before.map_or(vec![0xff; 17], |id| id.to_bytes().to_vec());
    let mut statement = conn.prepare_cached(PAGE)?;
    let mut rows = statement.query(params![query.tenant.as_str(), before, PAGE_SCAN])?;
    let mut page = WorkflowPage { workflows: Vec::new(), next: None };
    let mut scanned = 0;
    while let Some(row) = rows.next()? {
        let (_, record, hidden) = decode(row)?;
        let id = record.id;
        scanned += 1;
        if !hidden && query.state.is_none_or(|state| state == record.state) {
            page.workflows.push(record);
        }
        if page.workflows.len() as u64 == u64::from(query.max) || scanned == PAGE_SCAN {
            page.next = Some(id);
            break;
        }
    }
    Ok(page)
}

const ROW: &str = "SELECT rid FROM workflow INDEXED BY workflow_id WHERE tenant = ? AND id = ?";
const NODES: &str =
    "SELECT node.number, error_callback, on_failure, source, node.gate, next, node.rid, template, takes,
    members, scope, cancel_rest, pending, failed, skipped, status
    FROM node LEFT JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number";

/// The row of a workflow, and the numbers that one call looks at.
fn span(
    conn: &Connection,
    tenant: &TenantId,
    id: WorkflowId,
    first: u32,
    max: u32,
) -> Result<(Option<i64>, u32), Fault> {
    let rid = all(conn, ROW, &[&tenant.as_str(), &id.to_bytes()], |row| Ok(row.get(0)?))?.pop();
    Ok((rid, first.saturating_add(max.min(MAX_NODES_A_CALL))))
}

pub(crate) fn nodes(
    conn: &Connection,
    tenant: &TenantId,
    id: WorkflowId,
    first: u32,
    max: u32,
    results: Results,
) -> Result<NodePage, Fault> {
    let (rid, end) = span(conn, tenant, id, first, max)?;
    let mut page = NodePage { nodes: Vec::new(), next: end };
    let Some(rid) = rid else { return Ok(page) };
    let parts = if results == Results::Included { Parts::WithoutHistory } else { Parts::Summary };
    let mut statement = conn.prepare_cached(NODES)?;
    let mut rows = statement.query(params![rid, first, end])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let node = decode_node(conn, row, parts)?;
        if let NodeWork::Job { record, .. } = &node.work {
            bytes += text_bytes(record);
        }
        page.nodes.push(node);
        if bytes >= PAGE_BYTES {
            page.next = small(row, 0)? + 1;
            break;
        }
    }
    Ok(page)
}

fn decode_node(conn: &Connection, row: &Row<'_>, parts: Parts) -> Result<NodeRecord, Fault> {
    let work = match row.get::<_, Option<i64>>(6)? {
        Some(rid) => {
            let record = Box::new(record(conn, rid, parts)?);
            NodeWork::Job { record, template: small(row, 7)?, takes: row.get(8)? }
        }
        None => NodeWork::Join {
            members: ranges(row, 9)?,
            scope: ranges(row, 10)?,
            cancel_rest: row.get(11)?,
            pending: small(row, 12)?,
            failed: small(row, 13)?,
            skipped: small(row, 14)?,
            status: rows::status_or_none(row, 15)?,
        },
    };
    Ok(NodeRecord {
        number: small(row, 0)?,
        when: rows::when(row, 1)?,
        on_failure: rows::on_failure(row, 2)?,
        after: row.get(3)?,
        group: row.get(4)?,
        next: ranges(row, 5)?,
        work,
    })
}

const VALUES: &str =
    "SELECT node.number, node.rid IS NULL, source, members, on_failure, task, job.state, outcome.result,
    outcome.failure, child, gate.status, outcome.rid IS NULL
    FROM node LEFT JOIN job ON job.rid = node.rid LEFT JOIN outcome ON outcome.rid = node.rid
    LEFT JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number";

pub(crate) fn values(
    conn: &Connection,
    tenant: &TenantId,
    id: WorkflowId,
    first: u32,
    max: u32,
) -> Result<Vec<NodeValue>, Fault> {
    let (rid, end) = span(conn, tenant, id, first, max)?;
    let mut values: Vec<NodeValue> = (first..end).map(|_| NodeValue::Missing).collect();
    let Some(rid) = rid else { return Ok(values) };
    let params: [&dyn ToSql; 3] = [&rid, &first, &end];
    for (number, value) in all(conn, VALUES, &params, |row| Ok((small(row, 0)?, decode_value(row)?)))? {
        if let Some(place) = values.get_mut((number - first) as usize) {
            *place = value;
        }
    }
    Ok(values)
}

fn decode_value(row: &Row<'_>) -> Result<NodeValue, Fault> {
    let (after, on_failure) = (row.get(2)?, rows::on_failure(row, 4)?);
    if row.get(1)? {
        let (members, status) = (ranges(row, 3)?, rows::status_or_none(row, 10)?);
        return Ok(NodeValue::Join { on_failure, after, members, status });
    }
    let text = |column| row.get::<_, Option<String>>(column);
    Ok(NodeValue::Job {
        task: name(row, 5)?,
        state: rows::state(row, 6)?,
        on_failure,
        after,
        result: text(7)?.map(|r| RawValue::from_string(r).map_err(|e| Fault::stored("result", e))).transpose()?,
        failure: failure(rows::state(row, 6)?, text(8)?, row.get(11)?)?,
        child: id_or_none(row, 9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_of_a_workflow_costs_more_because_more_are_stored() {
        for sql in [WORKFLOW, PAGE, ROW, NODES, VALUES] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
