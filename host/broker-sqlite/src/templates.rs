//! The templates of workflows: what their nodes have in common.

use rusqlite::{Connection, Row};
use umbel_broker::{NodeTemplate, Start};

use crate::{
    error::Fault,
    rows::{all, first, get, one, read},
};

/// The columns of a template, in the order of `decode_template`.
macro_rules! select_template {
    ($rest:literal) => {
        concat!(
            "SELECT task, queue, priority, expires_ms, max_deliveries, nodes, spec, start_after_ms, start_at FROM template
            WHERE workflow = ? AND ",
            $rest
        )
    };
}

pub(crate) use select_template;

pub(crate) fn decode_template(row: &Row<'_>) -> Result<NodeTemplate, Fault> {
    let start = match (get(row, 7)?, get(row, 8)?) {
        (Some(ms), _) => Start::After(ms),
        (None, Some(at)) => Start::At(at),
        (None, None) => Start::Now,
    };
    Ok(read!(row => NodeTemplate { task, queue, priority, expires_ms, max_deliveries, nodes, spec; start: start }))
}

const TEMPLATES: &str = select_template!("n >= ? ORDER BY n");

/// The templates of a workflow from number `first` on.
pub(crate) fn templates_from(conn: &Connection, workflow: i64, first: u32) -> Result<Vec<NodeTemplate>, Fault> {
    all(conn, TEMPLATES, &[&workflow, &first], decode_template)
}

const TEMPLATE_SPEC: &str = "SELECT spec FROM node CROSS JOIN template
    ON template.workflow = node.workflow AND template.n = node.template WHERE node.workflow = ? AND node.number = ?";

/// The spec that a node has in common with others.
pub(crate) fn template_spec(conn: &Connection, workflow: i64, number: u32) -> Result<String, Fault> {
    let found = one(conn, TEMPLATE_SPEC, &[&workflow, &number], first)?;
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
