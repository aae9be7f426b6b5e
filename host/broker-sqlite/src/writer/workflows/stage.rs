//! Submission of workflows: the head, the nodes, the start.

use umbel_broker::{
    BrokerOptions, Idempotency, Kept, NewNode, NewWork, NodeTemplate, STAGED_TTL_MS, Start, Status, WorkflowHead,
    WorkflowState, WorkflowSubmitted,
    rules::{
        blobs,
        capacity::{self, Held},
        join::{adjusted, status_of},
        storage,
        work_items::WorkItem,
    },
};
use umbel_model::{
    Digest, TenantId, WorkflowId,
    canvas::{Range, node_job},
};

use crate::writer::{
    jobs::head::{self, BLOBS, Head},
    jobs::inserts::Fixed,
    state::workflow_state,
    step::Step,
};
use crate::{
    error::Fault,
    rows::{JobCounts, get, insert, one, run},
};

/// The columns of a node that only a job has, or only a join.
#[derive(Default)]
struct NodeRow<'a> {
    rid: Option<i64>,
    template: Option<u32>,
    takes: bool,
    members: Option<&'a Vec<Range>>,
    scope: Option<&'a Vec<Range>>,
    cancel_rest: Option<bool>,
}

impl Step<'_> {
    pub(crate) fn stage_workflow(&mut self, head: &WorkflowHead) -> Result<WorkflowSubmitted, Fault> {
        let is_known = workflow_state::find(self.conn, &head.tenant, head.id)?.is_some();
        if is_known && let Err(answer) = self.staged(&head.tenant, head.id)? {
            return Ok(answer);
        }
        if let Some(answer) = self.known_workflow(&head.tenant, head.idempotency.as_ref())? {
            return Ok(answer);
        }
        if !is_known {
            self.check_room()?;
            if let Some(refusal) = self.refused(&head.tenant, Held::of(head), &head.templates)? {
                return Ok(refusal);
            }
            if !self.fits(&head.tenant, storage::workflow(&head.spec, &head.templates)) {
                return Ok(WorkflowSubmitted::StorageFull);
            }
            self.store_head(head)?;
        }
        Ok(WorkflowSubmitted::Created)
    }

    fn known_workflow(
        &self,
        tenant: &TenantId,
        asked: Option<&Idempotency>,
    ) -> Result<Option<WorkflowSubmitted>, Fault> {
        let answer = |(id, same)| if same { WorkflowSubmitted::Existing(id) } else { WorkflowSubmitted::Conflict(id) };
        Ok(self.known_key(tenant, asked)?.map(answer))
    }

    /// Why so many workflows with these templates cannot be added.
    pub(crate) fn refused<'a>(
        &self,
        tenant: &TenantId,
        new: Held,
        templates: impl IntoIterator<Item = &'a NodeTemplate>,
    ) -> Result<Option<WorkflowSubmitted>, Fault> {
        let sql = "SELECT held, nodes FROM workflow_count WHERE tenant = ?";
        let held = one(self.conn, sql, &[tenant], |row| Ok(Held { workflows: get(row, 0)?, nodes: get(row, 1)? }))?;
        let held = held.unwrap_or_default();
        Ok(capacity::for_workflows(self.limits, self.scheduler, tenant, held, new, templates))
    }

    /// Counts workflows (that replace no job) and nodes.
    pub(crate) fn count_workflows(&self, tenant: &TenantId, held: i64, nodes: i64) -> Result<(), Fault> {
        let sql = "INSERT INTO workflow_count (tenant, held, nodes) VALUES (?, ?, ?)
            ON CONFLICT (tenant) DO UPDATE SET held = held + excluded.held, nodes = nodes + excluded.nodes";
        run(self.conn, sql, &[tenant, &held, &nodes])
    }

    /// Stores a workflow without its nodes, staged; its row.
    pub(crate) fn store_head(&mut self, head: &WorkflowHead) -> Result<i64, Fault> {
        let bytes = storage::workflow(&head.spec, &head.templates);
        insert!(self.conn, "INSERT INTO workflow" {
            tenant: head.tenant, id: head.id, nodes: head.nodes, end_node: head.end, parent: head.parent,
            depth: head.depth, deadline_ms: head.deadline_ms, keep_ms: head.keep_ms, staged: true, created_at: self.now,
            delete_at: self.now.saturating_add(STAGED_TTL_MS), state: WorkflowState::Running, orphaned: false,
            jobs: JobCounts::default(), bytes: bytes
        })?;
        self.stored.change(&head.tenant, |stored| stored.jobs += bytes);
        let rid = self.conn.last_insert_rowid();
        let key = head.idempotency.as_ref();
        insert!(self.conn, "INSERT INTO workflow_spec" {
            rid: rid, text: head.spec, starts: head.starts, key: key.map(|key| &key.key), body: key.map(|key| &key.body),
            ttl_ms: key.map(|key| key.ttl_ms)
        })?;
        self.store_templates(&head.tenant, rid, 0, &head.templates)?;
        self.count_workflows(&head.tenant, head.parent.is_none().into(), head.nodes.into())?;
        Ok(rid)
    }

    /// Stores templates from number `first` on, and makes the queues that they need.
    pub(crate) fn store_templates(
        &mut self,
        tenant: &TenantId,
        workflow: i64,
        first: u32,
        templates: &[NodeTemplate],
    ) -> Result<(), Fault> {
        for (n, template) in (first..).zip(templates) {
            self.queue_id(tenant, &template.queue)?;
            let (after, at) = match template.start {
                Start::Now => (None, None),
                Start::After(ms) => (Some(ms), None),
                Start::At(at) => (None, Some(at)),
            };
            insert!(self.conn, "INSERT INTO template" {
                workflow: workflow, n: n, task: template.task, queue: template.queue, priority: template.priority,
                start_after_ms: after, start_at: at, expires_ms: template.expires_ms,
                max_deliveries: template.max_deliveries, nodes: template.nodes, spec: template.spec
            })?;
        }
        Ok(())
    }

    pub(crate) fn stage_nodes(
        &mut self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted, Fault> {
        let rid = match self.staged(tenant, id)? {
            Ok(rid) => rid,
            Err(answer) => return Ok(answer),
        };
        self.check_room()?;
        if !self.fits(tenant, nodes.iter().map(storage::node).sum()) {
            return Ok(WorkflowSubmitted::StorageFull);
        }
        if let Some(missing) = self.missing_blob(tenant, nodes.iter().flat_map(blobs::of_node))? {
            return Ok(WorkflowSubmitted::MissingBlob(missing));
        }
        let range = Range { first, count: nodes.len() as u32 };
        if !nodes.is_empty() {
            self.unstage_nodes(rid, range)?;
        }
        for (number, node) in (first..).zip(nodes) {
            self.store_node(rid, number, node)?;
        }
        Ok(WorkflowSubmitted::Created)
    }

    /// The row of a staged workflow, or what to answer instead.
    fn staged(&mut self, tenant: &TenantId, id: WorkflowId) -> Result<Result<i64, WorkflowSubmitted>, Fault> {
        let Some(rid) = workflow_state::find(self.conn, tenant, id)? else {
            return Ok(Err(WorkflowSubmitted::Unknown));
        };
        let flow = self.workflows.flow(self.conn, rid)?;
        Ok(match (flow.pruned, flow.staged) {
            (Some(_), _) => Err(WorkflowSubmitted::Unknown),
            (None, false) => Err(WorkflowSubmitted::Existing(id)),
            (None, true) => Ok(rid),
        })
    }

    /// Takes out what an earlier call stored in the place of these nodes.
    fn unstage_nodes(&mut self, rid: i64, nodes: Range) -> Result<(), Fault> {
        let stored = head::targets(self.conn, self.scheduler, rid, nodes)?;
        if stored.is_empty() {
            return Ok(());
        }
        self.workflows.drop_joins(rid);
        for mut head in stored.into_iter().filter_map(|target| target.head) {
            self.leave(&mut head)?;
            self.workflows.count(self.conn, rid, Some(head.state), None)?;
            self.delete_rows(&mut head)?;
        }
        self.delete_graph(rid, nodes)
    }

    /// Stores a node of a workflow whose head is stored, in a place that is free.
    pub(crate) fn store_node(&mut self, rid: i64, number: u32, new: &NewNode) -> Result<(), Fault> {
        match &new.work {
            NewWork::Job { template, arguments, takes, kept, broker_options, blobs } => {
                let job = self.store_job(
                    rid,
                    number,
                    *template,
                    arguments,
                    (kept.as_ref(), broker_options.as_deref(), blobs),
                )?;
                if let Some(kept) = kept {
                    let status = adjusted(status_of(kept.state), new.on_failure);
                    self.keep_end(rid, number, Some(status))?;
                }
                let row = NodeRow { rid: Some(job), template: Some(*template), takes: *takes, ..NodeRow::default() };
                self.insert_node(rid, number, new, &row)
            }
            NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept } => {
                let status = kept.then_some(Status::Ok);
                self.keep_end(rid, number, status)?;
                let (members, scope, cancel_rest) = (Some(members), Some(scope), Some(*cancel_rest));
                self.insert_node(rid, number, new, &NodeRow { members, scope, cancel_rest, ..NodeRow::default() })?;
                insert!(self.conn, "INSERT INTO gate" {
                    workflow: rid, number: number, pending: pending, failed: failed, skipped: skipped, status: status
                })
            }
        }
    }

    /// How the end of a workflow had ended in the one that it resumes.
    fn keep_end(&mut self, rid: i64, number: u32, status: Option<Status>) -> Result<(), Fault> {
        if self.workflows.flow(self.conn, rid)?.end == number {
            self.workflows.flow_mut(self.conn, rid)?.end_status = status;
        }
        Ok(())
    }

    /// Stores the job of a node; its row.
    fn store_job(
        &mut self,
        rid: i64,
        number: u32,
        template: u32,
        arguments: &str,
        (kept, broker_options, blobs): (Option<&Kept>, Option<&BrokerOptions>, &[Digest]),
    ) -> Result<i64, Fault> {
        let template = self.workflows.template(self.conn, self.scheduler, rid, template)?;
        let id = node_job(self.workflows.flow(self.conn, rid)?.id, number);
        let mut head = Head::of_node(id, template.queue_id, &template.of, rid).with_broker_options(broker_options);
        head.has |= if blobs.is_empty() { 0 } else { BLOBS };
        if let Some(kept) = kept {
            head.state = kept.state;
            head.finished_at = Some(self.now);
            head.bytes = kept.result.as_ref().map_or(0, |text| storage::result(text.get()))
                + kept.failure.as_ref().map_or(0, storage::failure);
        }
        let tenant = self.scheduler.tenant(template.queue_id);
        head.insert(self.conn, self.now, &Fixed { tenant, task: &template.of.task, text: arguments })?;
        self.refer(tenant, head.rid, blobs)?;
        self.count_bytes(&mut head);
        self.workflows.count(self.conn, rid, None, Some(head.state))?;
        if let Some(kept) = kept {
            head.keep_outcome(self.conn, kept.result.as_deref(), kept.failure.as_ref())?;
        }
        Ok(head.rid)
    }

    fn insert_node(&self, rid: i64, number: u32, new: &NewNode, row: &NodeRow<'_>) -> Result<(), Fault> {
        insert!(self.conn, "INSERT INTO node" {
            workflow: rid, number: number, rid: row.rid, template: row.template, error_callback: new.when,
            on_failure: new.on_failure, takes: row.takes, source: new.after, "gate": new.group, next: new.next,
            members: row.members, scope: row.scope, cancel_rest: row.cancel_rest
        })
    }

    pub(crate) fn start_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted, Fault> {
        let rid = match self.staged(tenant, id)? {
            Ok(rid) => rid,
            Err(answer) => return Ok(answer),
        };
        let (starts, idempotency) = self.asked(rid)?;
        if let Some(answer) = self.known_workflow(tenant, idempotency.as_ref())? {
            return Ok(answer);
        }
        self.keep_key(tenant, id, idempotency.as_ref())?;
        self.begin(rid, &starts)?;
        self.advance()?;
        Ok(WorkflowSubmitted::Created)
    }

    /// Where a staged workflow starts, and its key.
    fn asked(&self, rid: i64) -> Result<(Vec<Range>, Option<Idempotency>), Fault> {
        let sql = "SELECT starts, key, body, ttl_ms FROM workflow_spec WHERE rid = ?";
        let found = one(self.conn, sql, &[&rid], |row| {
            let idempotency = match get(row, 1)? {
                Some(key) => Some(Idempotency { key, body: get(row, 2)?, ttl_ms: get(row, 3)? }),
                None => None,
            };
            Ok((get(row, 0)?, idempotency))
        })?;
        found.ok_or_else(|| Fault::stored("workflow", "its spec is missing"))
    }

    /// From now on it counts: its time runs, and these of its nodes are readied.
    pub(crate) fn begin(&mut self, rid: i64, starts: &[Range]) -> Result<(), Fault> {
        let now = self.now;
        let flow = self.workflows.flow_mut(self.conn, rid)?;
        flow.staged = false;
        flow.created_at = now;
        flow.delete_at = None;
        flow.deadline_at = (flow.deadline_ms > 0).then(|| now.saturating_add(flow.deadline_ms));
        self.workflows.touch(rid);
        self.ready(rid, starts);
        Ok(())
    }

    /// Lists nodes to be readied, whatever they wait for.
    pub(crate) fn ready(&mut self, rid: i64, starts: &[Range]) {
        for nodes in starts {
            self.workflows.work_items.push(WorkItem::start(rid, *nodes));
        }
    }
}
