//! Reading workflows: records, pages, nodes and their values.

use rusqlite::{Connection, Row};
use umbel_broker::{
    MAX_NODES_A_CALL, NodePage, NodeRecord, NodeValue, NodeWork, PAGE_BYTES, PAGE_SCAN, Results, WorkflowPage,
    WorkflowQuery, WorkflowRecord, rules::join::JoinProgress, text_bytes,
};
use umbel_model::{TenantId, WorkflowId};

use crate::{
    error::Fault,
    reads::{Parts, View, failure, page_before, record},
    rows::{all, each, first, get, one, progress, read},
    templates::templates_from,
};

/// The columns of a record, in the order of `decode`.
macro_rules! select_workflow {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, text, state, cancelled IS NOT NULL, nodes, end_node, jobs, created_at, \
             finished_at, keep_ms, parent, depth, deadline_ms, workflow.rid, staged OR pruned IS NOT NULL",
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
fn decode(row: &Row<'_>) -> Result<(WorkflowRecord, i64, bool), Fault> {
    let mut record = read!(row => WorkflowRecord {
        id, tenant, spec, state, cancel_requested, nodes, end, jobs, created_at, finished_at, keep_ms, parent, depth;
        templates: Vec::new(), deadline_at: None
    });
    let deadline_ms: u64 = get(row, 13)?;
    record.deadline_at = (deadline_ms > 0).then(|| record.created_at.saturating_add(deadline_ms));
    Ok((record, get(row, 14)?, get(row, 15)?))
}

const ROW: &str = "SELECT rid FROM workflow INDEXED BY workflow_id WHERE tenant = ? AND id = ?";
const NODES: &str =
    "SELECT node.number, error_callback, on_failure, source, node.gate, next, node.rid, template, takes,
    members, scope, cancel_rest, pending, failed, skipped, status
    FROM node LEFT JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number";

/// The row of a workflow, and the first number behind those that one call looks at.
fn span(view: &View<'_>, tenant: &TenantId, id: WorkflowId, from: u32, max: u32) -> Result<(Option<i64>, u32), Fault> {
    Ok((one(view.conn, ROW, &[tenant, &id], first)?, from.saturating_add(max.min(MAX_NODES_A_CALL))))
}

impl View<'_> {
    pub(crate) fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>, Fault> {
        let found = one(self.conn, WORKFLOW, &[tenant, &id], decode)?;
        let Some((mut record, rid, false)) = found else { return Ok(None) };
        record.templates = templates_from(self.conn, rid, 0)?;
        Ok(Some(record))
    }

    pub(crate) fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage, Fault> {
        let mut page = WorkflowPage { workflows: Vec::new(), next: None };
        let mut scanned = 0;
        each(self.conn, PAGE, &[&query.tenant, &page_before(query.before), &PAGE_SCAN], |row| {
            let (record, _, hidden) = decode(row)?;
            let id = record.id;
            scanned += 1;
            if !hidden && query.state.is_none_or(|state| state == record.state) {
                page.workflows.push(record);
            }
            if page.workflows.len() as u64 == u64::from(query.max) || scanned == PAGE_SCAN {
                page.next = Some(id);
            }
            Ok(page.next.is_none())
        })?;
        Ok(page)
    }

    pub(crate) fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage, Fault> {
        let (rid, end) = span(self, tenant, id, first, max)?;
        let mut page = NodePage { nodes: Vec::new(), next: end };
        let Some(rid) = rid else { return Ok(page) };
        let parts = if results == Results::Included { Parts::WithoutHistory } else { Parts::Summary };
        let mut bytes = 0;
        each(self.conn, NODES, &[&rid, &first, &end], |row| {
            let node = decode_node(self.conn, row, parts)?;
            if let NodeWork::Job { record, .. } = &node.work {
                bytes += text_bytes(record);
            }
            if bytes >= PAGE_BYTES {
                page.next = node.number + 1;
            }
            page.nodes.push(node);
            Ok(bytes < PAGE_BYTES)
        })?;
        Ok(page)
    }

    pub(crate) fn values(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
    ) -> Result<Vec<NodeValue>, Fault> {
        let (rid, end) = span(self, tenant, id, first, max)?;
        let mut values: Vec<NodeValue> = (first..end).map(|_| NodeValue::Missing).collect();
        let Some(rid) = rid else { return Ok(values) };
        let decode = |row: &Row<'_>| Ok((get::<u32>(row, 0)?, decode_value(row)?));
        for (number, value) in all(self.conn, VALUES, &[&rid, &first, &end], decode)? {
            if let Some(place) = values.get_mut((number - first) as usize) {
                *place = value;
            }
        }
        Ok(values)
    }
}

fn decode_node(conn: &Connection, row: &Row<'_>, parts: Parts) -> Result<NodeRecord, Fault> {
    let work = match get(row, 6)? {
        Some(rid) => {
            let record = Box::new(record(conn, rid, parts)?);
            NodeWork::Job { record, template: get(row, 7)?, takes: get(row, 8)? }
        }
        None => {
            let JoinProgress { pending, failed, skipped, status } = progress(row, 12)?;
            let (members, scope, cancel_rest) = (get(row, 9)?, get(row, 10)?, get(row, 11)?);
            NodeWork::Join { members, scope, cancel_rest, pending, failed, skipped, status }
        }
    };
    Ok(read!(row => NodeRecord { number, when, on_failure, after, group, next; work: work }))
}

const VALUES: &str =
    "SELECT node.number, node.rid IS NULL, source, members, on_failure, task, job.state, outcome.result,
    outcome.failure, child, gate.status, outcome.rid IS NULL
    FROM node LEFT JOIN job ON job.rid = node.rid LEFT JOIN outcome ON outcome.rid = node.rid
    LEFT JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number >= ? AND node.number < ? ORDER BY node.number";

fn decode_value(row: &Row<'_>) -> Result<NodeValue, Fault> {
    let (after, on_failure) = (get(row, 2)?, get(row, 4)?);
    if get(row, 1)? {
        return Ok(NodeValue::Join { on_failure, after, members: get(row, 3)?, status: get(row, 10)? });
    }
    let (task, state, result, child) = (get(row, 5)?, get(row, 6)?, get(row, 7)?, get(row, 9)?);
    let failure = failure(state, get(row, 8)?, get(row, 11)?);
    Ok(NodeValue::Job { task, state, on_failure, after, result, failure, child })
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
