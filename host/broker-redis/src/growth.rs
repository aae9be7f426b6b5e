//! What a guest adds with its outcome, as `library/growth.lua` reads it.

use umbel_broker::{
    Error, Growth, MAX_GROWTH, MAX_TEMPLATES, NewMembers, NewNode, NewWork, NodeTemplate, Result, Settle,
};
use umbel_model::Resolution;

use crate::{
    bytes::Packed,
    nodes::{new_node, new_template, new_workflow},
};

/// Of a growth that cannot be stored, whatever the store holds: refused if the lease is held.
const REFUSED: &[u8] = b"refused";

/// The growth of a settle, or nothing.
pub(crate) fn growth(settle: &Settle) -> Result<Vec<u8>> {
    let replaced_by = match &settle.resolution {
        Resolution::Succeed { .. } => None,
        Resolution::Replace { workflow } => Some(*workflow),
        _ => return Ok(Vec::new()),
    };
    let Some(growth) = &settle.growth else {
        return Ok(replaced_by.map(|_| REFUSED.to_vec()).unwrap_or_default());
    };
    let replaces = |id| growth.workflows.iter().any(|new| new.head.id == id && new.head.parent == Some(settle.id));
    // A workflow has a node at least, so that as many nodes are as many workflows.
    let too_many = nodes_of(growth) > MAX_GROWTH as usize || growth.workflows.len() > MAX_GROWTH as usize;
    if replaced_by.is_some_and(|id| !replaces(id)) || too_many {
        return Ok(REFUSED.to_vec());
    }
    let mut packed = Packed::default().u16(growth.workflows.len() as u16);
    for new in &growth.workflows {
        packed = packed.long(&new_workflow(&new.head)?);
        packed = nodes(packed, &new.head.templates, &new.nodes)?;
    }
    match &growth.members {
        None => Ok(packed.u8(0).done()),
        Some(NewMembers { templates, nodes: new, ends, starts }) => {
            let packed = nodes(packed.u8(1), templates, new)?;
            let (ends, starts) = (Packed::default().ranges(ends), Packed::default().ranges(starts));
            Ok(packed.long(&ends.done()).long(&starts.done()).done())
        }
    }
}

fn nodes_of(growth: &Growth) -> usize {
    let members = growth.members.as_ref().map_or(0, |members| members.nodes.len());
    growth.workflows.iter().map(|new| new.nodes.len()).sum::<usize>() + members
}

fn nodes(mut packed: Packed, templates: &[NodeTemplate], nodes: &[NewNode]) -> Result<Packed> {
    if templates.len() > MAX_TEMPLATES {
        return Err(Error::Failed(format!("a workflow has at most {MAX_TEMPLATES} templates")));
    }
    let is_missing =
        |node: &NewNode| matches!(node.work, NewWork::Job { template, .. } if template as usize >= templates.len());
    if nodes.iter().any(is_missing) {
        return Err(Error::Failed("a node has a template that does not exist".into()));
    }
    packed = packed.u16(templates.len() as u16);
    for template in templates {
        packed = packed.long(&new_template(template));
    }
    packed = packed.u32(nodes.len() as u32);
    for node in nodes {
        packed = packed.long(&new_node(node)?);
    }
    Ok(packed)
}
