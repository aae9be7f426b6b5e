//! The templates of workflows: what their nodes have in common.

use rusqlite::{Connection, Row};
use umbel_broker::{NodeTemplate, Start};

use crate::{
    error::Fault,
    rows::{all, name, number, small, time},
};

/// The columns of a template, in the order of `writer::flows::TEMPLATE`.
pub(crate) fn decode_template(row: &Row<'_>) -> Result<NodeTemplate, Fault> {
    let start = match (time(row, 3)?, time(row, 4)?) {
        (Some(ms), _) => Start::After(ms),
        (None, Some(at)) => Start::At(at),
        (None, None) => Start::Now,
    };
    Ok(NodeTemplate {
        task: name(row, 0)?,
        queue: name(row, 1)?,
        priority: row.get(2)?,
        start,
        expires_ms: number(row, 5)?,
        max_deliveries: small(row, 6)?,
        nodes: small(row, 7)?,
        spec: row.get(8)?,
    })
}

const TEMPLATES: &str =
    "SELECT task, queue, priority, start_after_ms, start_at, expires_ms, max_deliveries, nodes, spec
    FROM template WHERE workflow = ? AND n >= ? ORDER BY n";
/// The templates of a workflow from number `first` on.
pub(crate) fn templates_from(conn: &Connection, workflow: i64, first: u32) -> Result<Vec<NodeTemplate>, Fault> {
    all(conn, TEMPLATES, &[&workflow, &first], decode_template)
}

const TEMPLATE_SPEC: &str = "SELECT spec FROM node CROSS JOIN template
    ON template.workflow = node.workflow AND template.n = node.template WHERE node.workflow = ? AND node.number = ?";

/// The spec that a node has in common with others.
pub(crate) fn template_spec(conn: &Connection, workflow: i64, number: u32) -> Result<String, Fault> {
    let found = all(conn, TEMPLATE_SPEC, &[&workflow, &number], |row| Ok(row.get(0)?))?.pop();
    found.ok_or_else(|| Fault::stored("job of a workflow", "its template is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_of_a_template_costs_more_because_more_are_stored() {
        for sql in [TEMPLATES, TEMPLATE_SPEC] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
