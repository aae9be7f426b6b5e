//! What a guest added while it ran: workflows, and members of its own group. Stored with its outcome or not at all.

use rusqlite::params;
use umbel_broker::{
    Growth, MAX_GROWTH, MAX_TEMPLATES, NewMembers, NewNode, NewWork, NewWorkflow, NodeTemplate, Settle,
    TEMPLATES_COMPARED,
};
use umbel_model::{
    Resolution, TenantId,
    canvas::{MAX_NODES, Range, node_of, push_range},
};

use super::{
    flows::{self, Join},
    head::Head,
    step::Step,
};
use crate::{error::Fault, rows::ranges_blob, workflows::templates_from};

const GROUP: &str = "SELECT gate FROM node WHERE workflow = ? AND number = ?";

/// How many nodes are to be added.
pub(crate) fn nodes_of(growth: &Growth) -> usize {
    let members = growth.members.as_ref().map_or(0, |members| members.nodes.len());
    growth.workflows.iter().map(|new| new.nodes.len()).sum::<usize>() + members
}

/// A range behind the nodes that a workflow had.
fn moved(range: &Range, base: u32) -> Range {
    Range { first: range.first + base, count: range.count }
}

impl Step<'_> {
    /// Whether what a guest asked for can be stored.
    pub(super) fn has_room(&mut self, head: &Head, settle: &Settle) -> Result<bool, Fault> {
        let replaced_by = match settle.resolution {
            Resolution::Replace { workflow } => Some(workflow),
            _ => None,
        };
        let Some(growth) = &settle.growth else { return Ok(replaced_by.is_none()) };
        let replaces = |new: &NewWorkflow, by| new.head.id == by && new.head.parent == Some(head.id);
        if replaced_by.is_some_and(|by| !growth.workflows.iter().any(|new| replaces(new, by))) {
            return Ok(false);
        }
        let members = growth.members.as_ref();
        let nodes = nodes_of(growth);
        if nodes > MAX_GROWTH as usize {
            return Ok(false);
        }
        if let Some(members) = members
            && !self.may_join(head, members)?
        {
            return Ok(false);
        }
        if !self.is_new(&settle.tenant, &growth.workflows)? {
            return Ok(false);
        }
        match self.check_room() {
            Ok(()) => {}
            Err(Fault::NoRoom) => return Ok(false),
            Err(fault) => return Err(fault),
        }
        let workflows = growth.workflows.iter().filter(|new| new.head.parent.is_none()).count() as u64;
        let templates = growth.workflows.iter().flat_map(|new| &new.head.templates);
        let templates = templates.chain(members.iter().flat_map(|members| &members.templates));
        Ok(self.no_room_for(&settle.tenant, workflows, nodes as u64, templates)?.is_none())
    }

    /// Whether none of them is stored, and none comes twice.
    fn is_new(&self, tenant: &TenantId, workflows: &[NewWorkflow]) -> Result<bool, Fault> {
        for (at, new) in workflows.iter().enumerate() {
            let twice = workflows[..at].iter().any(|other| other.head.id == new.head.id);
            if twice || flows::find(self.conn, tenant, new.head.id)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn may_join(&mut self, head: &Head, members: &NewMembers) -> Result<bool, Fault> {
        let Some((rid, group)) = self.group_of(head)? else { return Ok(false) };
        // A group whose rest was cancelled gets no more.
        let refuses = |join: &mut Join| join.status.is_some() || (join.cancel_rest && join.failed > 0);
        if self.flows.join(self.conn, rid, group)?.is_none_or(refuses) {
            return Ok(false);
        }
        let nodes = self.flows.flow(self.conn, rid)?.nodes as usize;
        Ok(nodes + members.nodes.len() <= MAX_NODES as usize
            && self.templates_of(rid)? as usize + members.templates.len() <= MAX_TEMPLATES)
    }

    /// The workflow of a job and the join of its group.
    fn group_of(&self, head: &Head) -> Result<Option<(i64, u32)>, Fault> {
        let Some(rid) = head.workflow else { return Ok(None) };
        let number = node_of(head.id).1;
        let group: Option<u32> = self.conn.prepare_cached(GROUP)?.query_row(params![rid, number], |row| row.get(0))?;
        Ok(group.map(|group| (rid, group)))
    }

    fn templates_of(&self, rid: i64) -> Result<u32, Fault> {
        let sql = "SELECT count(*) FROM template WHERE workflow = ?";
        Ok(self.conn.prepare_cached(sql)?.query_row([rid], |row| row.get(0))?)
    }

    /// Stores and starts what `has_room` agreed to.
    pub(super) fn grow(&mut self, head: &Head, growth: &Growth) -> Result<(), Fault> {
        for new in &growth.workflows {
            let rid = self.store_head(&new.head)?;
            for (number, node) in (0..).zip(&new.nodes) {
                self.store_node(rid, number, node)?;
            }
            self.begin(rid, &new.head.starts)?;
        }
        match &growth.members {
            Some(members) => self.join(head, members),
            None => Ok(()),
        }
    }

    fn join(&mut self, head: &Head, members: &NewMembers) -> Result<(), Fault> {
        let Some((rid, group)) = self.group_of(head)? else { return Ok(()) };
        let tenant = self.scheduler.tenant(head.line).clone();
        let numbers = self.place_templates(&tenant, rid, &members.templates)?;
        self.count_workflows(&tenant, 0, members.nodes.len() as i64)?;
        let flow = self.flows.flow_mut(self.conn, rid)?;
        let base = flow.nodes;
        flow.nodes += members.nodes.len() as u32;
        for (number, node) in (0..).zip(&members.nodes) {
            let mut node = placed(node, base, &numbers, group);
            if members.ends.iter().any(|ends| ends.contains(number)) {
                node.next.push(Range::one(group));
            }
            self.store_node(rid, base + number, &node)?;
        }
        self.widen(rid, group, base, members)?;
        let starts: Vec<Range> = members.starts.iter().map(|range| moved(range, base)).collect();
        self.ready(rid, &starts);
        Ok(())
    }

    /// The numbers of templates that serve the new ones. Those that are stored are not stored again.
    fn place_templates(&mut self, tenant: &TenantId, rid: i64, new: &[NodeTemplate]) -> Result<Vec<u32>, Fault> {
        let mut count = self.templates_of(rid)?;
        let first = count.saturating_sub(TEMPLATES_COMPARED as u32);
        let mut last: Vec<(u32, NodeTemplate)> = (first..).zip(templates_from(self.conn, rid, first)?).collect();
        let mut numbers = Vec::with_capacity(new.len());
        for template in new {
            let compared = &last[last.len().saturating_sub(TEMPLATES_COMPARED)..];
            let number = match compared.iter().find(|(_, old)| old.serves(template)) {
                Some((number, _)) => *number,
                None => {
                    self.store_templates(tenant, rid, count, std::slice::from_ref(template))?;
                    last.push((count, template.clone()));
                    count += 1;
                    count - 1
                }
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// Lets a join wait for new members.
    fn widen(&mut self, rid: i64, group: u32, base: u32, members: &NewMembers) -> Result<(), Fault> {
        let Some(join) = self.flows.join(self.conn, rid, group)? else { return Ok(()) };
        join.pending += members.ends.iter().map(|ends| ends.count).sum::<u32>();
        members.ends.iter().for_each(|range| push_range(&mut join.members, moved(range, base)));
        if !members.nodes.is_empty() {
            push_range(&mut join.scope, Range { first: base, count: members.nodes.len() as u32 });
        }
        let sql = "UPDATE node SET members = ?, scope = ? WHERE workflow = ? AND number = ?";
        let row = params![ranges_blob(&join.members), ranges_blob(&join.scope), rid, group];
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}

/// A new member's node with the numbers that it has in the workflow.
fn placed(node: &NewNode, base: u32, templates: &[u32], group: u32) -> NewNode {
    let mut node = node.clone();
    node.after = node.after.map(|after| after + base);
    node.group = Some(node.group.map_or(group, |inner| inner + base));
    let shift = |ranges: &mut Vec<Range>| ranges.iter_mut().for_each(|range| *range = moved(range, base));
    shift(&mut node.next);
    match &mut node.work {
        NewWork::Job { template, .. } => *template = templates[*template as usize],
        NewWork::Join { members, scope, .. } => {
            shift(members);
            shift(scope);
        }
    }
    node
}

#[cfg(test)]
mod tests {
    #[test]
    fn finding_the_group_of_a_job_costs_what_it_finds() {
        crate::tests::assert_costs_what_it_finds(super::GROUP);
    }
}
