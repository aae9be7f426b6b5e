//! Which jobs and workflows that are not over use some modules.
//!
//! All jobs of the tenant are looked through, whatever their state: one that changes its state meanwhile is met all the same.
//! A workflow that runs keeps the modules of all its templates, and so do those that replace its nodes.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use umbel_broker::{
    Broker, JobQuery, MAX_NODES_A_CALL, NodeWork, Result, Results, ScheduleQuery, WorkflowQuery, WorkflowRecord,
    WorkflowState,
};
use umbel_model::{Digest, JobId, JobRecord, JobState, TenantId, WorkflowId};

/// Jobs and workflows of one page.
const PAGE: u32 = 500;
/// The pause between two pages: the broker has better things to do.
const PAGE_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of a digest's text.
const DIGEST_BYTES: usize = 71;

/// What keeps a module: looked at first the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    Job(JobId),
    Workflow(WorkflowId),
}

impl Keeper {
    /// Whether it still uses the module.
    pub(crate) async fn keeps(self, broker: &dyn Broker, tenant: &TenantId, digest: Digest) -> Result<bool> {
        Ok(match self {
            Self::Job(id) => {
                let job = broker.job(tenant, id).await?;
                job.is_some_and(|job| !job.state.is_terminal() && digests(&job.spec).any(|of| of == digest))
            }
            Self::Workflow(id) => {
                let workflow = broker.workflow(tenant, id).await?;
                workflow.is_some_and(|workflow| is_running(&workflow) && uses(&workflow).any(|of| of == digest))
            }
        })
    }
}

/// The digests in a text, wherever they stand.
fn digests(text: &str) -> impl Iterator<Item = Digest> {
    text.match_indices("sha256:").filter_map(|(at, _)| text.get(at..at + DIGEST_BYTES)?.parse().ok())
}

fn is_running(workflow: &WorkflowRecord) -> bool {
    workflow.state == WorkflowState::Running
}

fn uses(workflow: &WorkflowRecord) -> impl Iterator<Item = Digest> {
    workflow.templates.iter().flat_map(|template| digests(&template.spec))
}

/// The modules that schedules of the tenant pin. Every digest in a definition counts: one too many keeps a module.
pub(crate) async fn pinned(broker: &dyn Broker, tenant: &TenantId) -> Result<HashSet<Digest>> {
    let mut query = ScheduleQuery { tenant: tenant.clone(), prefix: String::new(), after: None, max: PAGE };
    let mut pinned = HashSet::new();
    loop {
        let page = broker.schedules(&query).await?;
        pinned.extend(page.schedules.iter().flat_map(|schedule| digests(&schedule.definition)));
        query.after = page.next;
        if query.after.is_none() {
            return Ok(pinned);
        }
        tokio::time::sleep(PAGE_PAUSE).await;
    }
}

/// What keeps the modules of one tenant.
pub(crate) struct Search<'a> {
    broker: &'a dyn Broker,
    tenant: &'a TenantId,
    /// Those of which nothing is known yet.
    left: HashSet<Digest>,
    found: HashMap<Digest, Keeper>,
    /// Workflows that are to be looked at, with those that replace jobs.
    workflows: Vec<WorkflowId>,
}

impl<'a> Search<'a> {
    /// A keeper of each of these modules that has one.
    pub(crate) async fn run(
        broker: &'a dyn Broker,
        tenant: &'a TenantId,
        modules: Vec<Digest>,
    ) -> Result<HashMap<Digest, Keeper>> {
        let left = modules.into_iter().collect();
        let mut search = Self { broker, tenant, left, found: HashMap::new(), workflows: Vec::new() };
        search.jobs().await?;
        search.running_workflows().await?;
        while let Some(id) = search.workflows.pop().filter(|_| !search.left.is_empty()) {
            let Some(workflow) = broker.workflow(tenant, id).await?.filter(is_running) else { continue };
            search.note(uses(&workflow), Keeper::Workflow(id));
            search.replaced_nodes(&workflow).await?;
        }
        Ok(search.found)
    }

    fn note(&mut self, digests: impl Iterator<Item = Digest>, keeper: Keeper) {
        for digest in digests {
            if self.left.remove(&digest) {
                self.found.insert(digest, keeper);
            }
        }
    }

    async fn jobs(&mut self) -> Result<()> {
        let mut query = JobQuery {
            tenant: self.tenant.clone(),
            dead: false,
            state: None,
            task: None,
            queue: None,
            worker: None,
            labels: Vec::new(),
            before: None,
            max: PAGE,
        };
        while !self.left.is_empty() {
            let page = self.broker.jobs(&query).await?;
            let is_open = |job: &&JobRecord| !job.state.is_terminal();
            for job in page.jobs.iter().filter(is_open) {
                self.note(digests(&job.spec), Keeper::Job(job.id));
                self.workflows.extend(job.child);
            }
            query.before = page.next;
            if query.before.is_none() {
                break;
            }
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        Ok(())
    }

    async fn running_workflows(&mut self) -> Result<()> {
        let (tenant, state) = (self.tenant.clone(), Some(WorkflowState::Running));
        let mut query = WorkflowQuery { tenant, state, before: None, max: PAGE };
        while !self.left.is_empty() {
            let page = self.broker.workflows(&query).await?;
            self.workflows.extend(page.workflows.iter().map(|workflow| workflow.id));
            query.before = page.next;
            if query.before.is_none() {
                break;
            }
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        Ok(())
    }

    /// Notes the workflows that replace nodes of this one. A node that is replaced waits.
    async fn replaced_nodes(&mut self, workflow: &WorkflowRecord) -> Result<()> {
        let waits = |(state, jobs): (&JobState, u32)| *state == JobState::Waiting && jobs > 0;
        if self.left.is_empty() || !JobState::ALL.iter().zip(workflow.jobs).any(waits) {
            return Ok(());
        }
        let mut first = 0;
        while first < workflow.nodes {
            let page = self.broker.nodes(self.tenant, workflow.id, first, MAX_NODES_A_CALL, Results::Omitted).await?;
            first = page.next.max(first + 1);
            self.workflows.extend(page.nodes.iter().filter_map(|node| match &node.work {
                NodeWork::Job { record, .. } if !record.state.is_terminal() => record.child,
                _ => None,
            }));
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_wherever_they_stand() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = format!(r#"{{"digest":"{a}","x":"sha256:12","é":["{b}é"]}}sha256:"#);
        assert_eq!(digests(&text).collect::<Vec<_>>(), [a, b]);
    }
}
