//! Workflows and members of its own group that a guest added while it ran. Stored with its outcome or not at all.

use umbel_broker::{
    Growth, MAX_TEMPLATES, NewMembers, NodeTemplate, Settle, TEMPLATES_COMPARED,
    rules::{
        capacity,
        growth::{self, moved, placed, template_for},
        storage,
    },
};
use umbel_model::{
    TenantId,
    canvas::{MAX_NODES, Range, node_of},
};

use crate::writer::{
    jobs::head::Head,
    state::workflow_state::Join,
    state::workflow_state::{self},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{first, one, run, update},
    templates::templates_from,
};

const GROUP: &str = "SELECT gate FROM node WHERE workflow = ? AND number = ?";

impl Step<'_> {
    /// Whether what a guest asked for can be stored.
    pub(crate) fn has_room(&mut self, head: &Head, settle: &Settle) -> Result<bool, Fault> {
        if !growth::is_sound(head.id, settle) {
            return Ok(false);
        }
        let Some(growth) = &settle.growth else { return Ok(true) };
        if let Some(members) = &growth.members
            && !self.may_join(head, members)?
        {
            return Ok(false);
        }
        for new in &growth.workflows {
            if workflow_state::find(self.conn, &settle.tenant, new.head.id)?.is_some() {
                return Ok(false);
            }
        }
        match self.check_room() {
            Ok(()) => {}
            Err(Fault::NoRoom) => return Ok(false),
            Err(fault) => return Err(fault),
        }
        if !self.fits(&settle.tenant, storage::growth(growth)) {
            return Ok(false);
        }
        let (wanted, templates) = capacity::wanted(growth);
        Ok(self.refused(&settle.tenant, wanted, templates)?.is_none())
    }

    fn may_join(&mut self, head: &Head, members: &NewMembers) -> Result<bool, Fault> {
        let Some((rid, group)) = self.group_of(head)? else { return Ok(false) };
        let refuses = |join: &mut Join| !join.progress.takes_members(join.cancel_rest);
        if self.workflows.join(self.conn, rid, group)?.is_none_or(refuses) {
            return Ok(false);
        }
        let nodes = self.workflows.flow(self.conn, rid)?.nodes as usize;
        Ok(nodes + members.nodes.len() <= MAX_NODES as usize
            && self.templates_of(rid)? as usize + members.templates.len() <= MAX_TEMPLATES)
    }

    /// The workflow of a job and the join of its group.
    fn group_of(&self, head: &Head) -> Result<Option<(i64, u32)>, Fault> {
        let Some(rid) = head.workflow else { return Ok(None) };
        let number = node_of(head.id).1;
        let group: Option<Option<u32>> = one(self.conn, GROUP, &[&rid, &number], first)?;
        Ok(group.flatten().map(|group| (rid, group)))
    }

    fn templates_of(&self, rid: i64) -> Result<u32, Fault> {
        Ok(one(self.conn, "SELECT count(*) FROM template WHERE workflow = ?", &[&rid], first)?.unwrap_or(0))
    }

    /// Stores and starts what `has_room` agreed to.
    pub(crate) fn grow(&mut self, head: &Head, growth: &Growth) -> Result<(), Fault> {
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
        let tenant = self.scheduler.tenant(head.queue_id).clone();
        let numbers = self.place_templates(&tenant, rid, &members.templates)?;
        self.count_workflows(&tenant, 0, members.nodes.len() as i64)?;
        let flow = self.workflows.flow_mut(self.conn, rid)?;
        let base = flow.nodes;
        flow.nodes += members.nodes.len() as u32;
        for (number, node) in (0..).zip(&members.nodes) {
            let node = placed(members, number, node, base, &numbers, group);
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
        let mut last = templates_from(self.conn, rid, first)?;
        let mut numbers = Vec::with_capacity(new.len());
        for template in new {
            numbers.push(match template_for(first, &last, template) {
                Some(number) => number,
                None => {
                    self.store_templates(tenant, rid, count, std::slice::from_ref(template))?;
                    let bytes = storage::template(template);
                    run(self.conn, "UPDATE workflow SET bytes = bytes + ? WHERE rid = ?", &[&bytes, &rid])?;
                    self.stored.change(tenant, |stored| stored.jobs += bytes);
                    last.push(template.clone());
                    count += 1;
                    count - 1
                }
            });
        }
        Ok(numbers)
    }

    /// Lets a join wait for new members.
    fn widen(&mut self, rid: i64, group: u32, base: u32, members: &NewMembers) -> Result<(), Fault> {
        let Some(join) = self.workflows.join(self.conn, rid, group)? else { return Ok(()) };
        growth::widen(&mut join.progress, &mut join.members, &mut join.scope, members, base);
        let (members, scope) = (&join.members, &join.scope);
        update!(self.conn, "node" { members: members, scope: scope } "workflow = ? AND number = ?", rid, group)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn finding_the_group_of_a_job_costs_what_it_finds() {
        crate::tests::assert_costs_what_it_finds(super::GROUP);
    }
}
