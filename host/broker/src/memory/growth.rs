//! What guests add to workflows with their outcome.

use umbel_model::{
    JobId, Resolution, UnixMs,
    canvas::{MAX_NODES, Range, node_job, node_of, push_range},
};

use super::{
    canvas::Todo,
    state::{Key, State},
};
use crate::*;

impl State {
    /// Whether what a guest asked for can be stored.
    pub(super) fn has_room(&self, job: &Key, settle: &Settle) -> bool {
        let Some(growth) = &settle.growth else {
            return !matches!(settle.resolution, Resolution::Replace { .. });
        };
        if let Resolution::Replace { workflow } = &settle.resolution
            && !growth.workflows.iter().any(|new| new.head.id == *workflow && new.head.parent == Some(job.1))
        {
            return false;
        }
        let members = growth.members.as_ref();
        let nodes: usize = growth.workflows.iter().map(|new| new.nodes.len()).sum::<usize>()
            + members.map_or(0, |members| members.nodes.len());
        if nodes > MAX_GROWTH as usize || members.is_some_and(|members| !self.may_join(job, members)) {
            return false;
        }
        let mut ids: Vec<JobId> = growth.workflows.iter().map(|new| new.head.id).collect();
        ids.sort_unstable();
        let twice = ids.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || ids.iter().any(|id| self.workflows.contains_key(&(job.0.clone(), *id))) {
            return false;
        }
        let mine = |new: &&NewWorkflow| new.head.parent.is_none();
        let workflows = growth.workflows.iter().filter(mine).count() as u64;
        let templates = growth.workflows.iter().flat_map(|new| &new.head.templates);
        let templates = templates.chain(members.iter().flat_map(|members| &members.templates));
        self.no_room_for(&job.0, workflows, nodes as u64, templates).is_none()
    }

    fn may_join(&self, job: &Key, members: &NewMembers) -> bool {
        let Some(place) = &self.jobs[job].place else { return false };
        let Some(group) = place.group else { return false };
        let workflow = (job.0.clone(), node_of(job.1).0);
        let join = self.joins.get(&(job.0.clone(), node_job(workflow.1, group)));
        let Some(stored) = self.workflows.get(&workflow) else { return false };
        // A group whose rest was cancelled gets no more.
        join.is_some_and(|join| join.status.is_none() && !(join.cancel_rest && join.failed > 0))
            && stored.head.nodes as usize + members.nodes.len() <= MAX_NODES as usize
            && stored.head.templates.len() + members.templates.len() <= MAX_TEMPLATES
    }

    pub(super) fn grow(&mut self, now: UnixMs, job: &Key, growth: &Growth) {
        for new in &growth.workflows {
            let key = (job.0.clone(), new.head.id);
            self.store_head(now, &new.head);
            for (number, node) in (0..).zip(&new.nodes) {
                self.store_node(now, &key, number, node);
            }
            self.begin(now, &key);
        }
        if let Some(members) = &growth.members {
            self.join(now, job, members);
        }
    }

    fn join(&mut self, now: UnixMs, job: &Key, members: &NewMembers) {
        let group = self.jobs[job].place.as_ref().and_then(|place| place.group);
        let group = group.expect("checked by `may_join`");
        let key = (job.0.clone(), node_of(job.1).0);
        let workflow = self.workflows.get_mut(&key).expect("checked by `may_join`");
        let base = workflow.head.nodes;
        workflow.head.nodes += members.nodes.len() as u32;
        let numbers: Vec<u32> =
            members.templates.iter().map(|new| place_of(&mut workflow.head.templates, new)).collect();
        for template in &members.templates {
            self.scheduler.queue_id(&key.0, &template.queue);
        }
        let moved = |range: &Range| Range { first: range.first + base, count: range.count };
        for (number, node) in (0..).zip(&members.nodes) {
            let mut node = node.clone();
            node.after = node.after.map(|after| after + base);
            node.group = Some(node.group.map_or(group, |inner| inner + base));
            node.next = node.next.iter().map(moved).collect();
            match &mut node.work {
                NewWork::Job { template, .. } => *template = numbers[*template as usize],
                NewWork::Join { members, scope, .. } => {
                    *members = members.iter().map(moved).collect();
                    *scope = scope.iter().map(moved).collect();
                }
            }
            if members.ends.iter().any(|ends| ends.contains(number)) {
                node.next.push(Range::one(group));
            }
            self.store_node(now, &key, base + number, &node);
        }
        let join = self.joins.get_mut(&(key.0.clone(), node_job(key.1, group))).expect("checked by `may_join`");
        join.pending += members.ends.iter().map(|ends| ends.count).sum::<u32>();
        members.ends.iter().for_each(|ends| push_range(&mut join.members, moved(ends)));
        if !members.nodes.is_empty() {
            push_range(&mut join.scope, Range { first: base, count: members.nodes.len() as u32 });
        }
        let arrive = |targets: &Range| Todo::Arrive {
            workflow: key.clone(),
            targets: moved(targets),
            raw: Status::Failed,
            adjusted: Status::Ok,
        };
        let items: Vec<Todo> = members.starts.iter().map(arrive).collect();
        self.fresh.extend(items);
    }
}

/// The number of a template that serves the new one.
fn place_of(templates: &mut Vec<NodeTemplate>, new: &NodeTemplate) -> u32 {
    let first = templates.len().saturating_sub(TEMPLATES_COMPARED);
    let found = templates[first..].iter().position(|old| old.serves(new));
    found.map_or_else(
        || {
            templates.push(new.clone());
            templates.len() - 1
        },
        |at| first + at,
    ) as u32
}
