//! Workflows and members that guests add with their outcome.

use umbel_model::canvas::{MAX_NODES, node_job, node_of};

use super::{records::Key, state::State};
use umbel_broker::{
    rules::{capacity, growth, storage, work_items::WorkItem},
    *,
};

impl State {
    /// Whether what a guest asked for can be stored.
    pub(super) fn has_room(&self, job: &Key, settle: &Settle) -> bool {
        if !growth::is_sound(job.1, settle) {
            return false;
        }
        let Some(growth) = &settle.growth else { return true };
        let known = |new: &NewWorkflow| self.workflows.contains_key(&(job.0.clone(), new.head.id));
        if growth.workflows.iter().any(known) || growth.members.as_ref().is_some_and(|new| !self.may_join(job, new)) {
            return false;
        }
        let (wanted, templates) = capacity::wanted(growth);
        self.refused(&job.0, wanted, templates).is_none() && self.fits(&job.0, storage::growth(growth))
    }

    /// The join of the group that a job is in.
    fn group_of(&self, job: &Key) -> Option<u32> {
        self.jobs[job].place.as_ref()?.node.group
    }

    fn may_join(&self, job: &Key, members: &NewMembers) -> bool {
        let Some(group) = self.group_of(job) else { return false };
        let workflow = (job.0.clone(), node_of(job.1).0);
        let join = self.joins.get(&(job.0.clone(), node_job(workflow.1, group)));
        let Some(stored) = self.workflows.get(&workflow) else { return false };
        join.is_some_and(|join| join.progress.takes_members(join.cancel_rest))
            && stored.head.nodes as usize + members.nodes.len() <= MAX_NODES as usize
            && stored.head.templates.len() + members.templates.len() <= MAX_TEMPLATES
    }

    pub(super) fn grow(&mut self, job: &Key, growth: &Growth) {
        for new in &growth.workflows {
            let key = (job.0.clone(), new.head.id);
            self.store_head(&new.head);
            for (number, node) in (0..).zip(&new.nodes) {
                self.store_node(&key, number, node);
            }
            self.begin(&key);
        }
        if let Some(members) = &growth.members {
            self.join(job, members);
        }
    }

    fn join(&mut self, job: &Key, members: &NewMembers) {
        let group = self.group_of(job).expect("checked by `may_join`");
        let key = (job.0.clone(), node_of(job.1).0);
        let workflow = self.workflows.get_mut(&key).expect("checked by `may_join`");
        let base = workflow.head.nodes;
        workflow.head.nodes += members.nodes.len() as u32;
        let numbers: Vec<u32> =
            members.templates.iter().map(|new| place_of(&mut workflow.head.templates, new)).collect();
        for template in &members.templates {
            self.scheduler.queue_id(&key.0, &template.queue);
        }
        for (number, node) in (0..).zip(&members.nodes) {
            let node = growth::placed(members, number, node, base, &numbers, group);
            self.store_node(&key, base + number, &node);
        }
        let join = self.joins.get_mut(&(key.0.clone(), node_job(key.1, group))).expect("checked by `may_join`");
        growth::widen(&mut join.progress, &mut join.members, &mut join.scope, members, base);
        let starts = members.starts.iter().map(|nodes| growth::moved(nodes, base));
        self.queued_items.extend(starts.map(|nodes| WorkItem::start(key.clone(), nodes)));
    }
}

/// The number of a template that serves the new one.
fn place_of(templates: &mut Vec<NodeTemplate>, new: &NodeTemplate) -> u32 {
    growth::template_for(0, templates, new).unwrap_or_else(|| {
        templates.push(new.clone());
        templates.len() as u32 - 1
    })
}
