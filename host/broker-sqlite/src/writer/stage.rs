//! Submission of workflows: the head, the nodes, the start.

use rusqlite::{OptionalExtension, params};
use umbel_broker::{
    BrokerOptions, Idempotency, Kept, NewNode, NewWork, NodeTemplate, STAGED_TTL_MS, Start, Status, WorkflowHead,
    WorkflowState, WorkflowSubmitted,
};
use umbel_model::{
    QueueName, TenantId, WorkflowId,
    canvas::{Range, When, node_job},
};

use super::{
    advance::adjusted_end,
    flows,
    head::{self, Head},
    inserts::Fixed,
    step::Step,
    todo::Item,
};
use crate::{
    error::Fault,
    rows::{self, JobCounts, int, number, on_failure_number, ranges_blob, status_number},
};

/// A node's row but for its place.
struct NodeRow<'a> {
    rid: Option<i64>,
    template: Option<u32>,
    takes: bool,
    members: Option<&'a [Range]>,
    scope: Option<&'a [Range]>,
    cancel_rest: Option<bool>,
}

impl Step<'_> {
    pub(crate) fn stage_workflow(&mut self, head: &WorkflowHead) -> Result<WorkflowSubmitted, Fault> {
        let found = flows::find(self.conn, &head.tenant, head.id)?;
        if let Some(rid) = found {
            let flow = self.flows.flow(self.conn, rid)?;
            if flow.pruned.is_some() {
                return Ok(WorkflowSubmitted::Unknown);
            }
            if !flow.staged {
                return Ok(WorkflowSubmitted::Existing(head.id));
            }
        }
        if let Some(answer) = self.known_workflow(&head.tenant, head.idempotency.as_ref())? {
            return Ok(answer);
        }
        if found.is_some() {
            return Ok(WorkflowSubmitted::Created);
        }
        self.check_room()?;
        if let Some(refusal) =
            self.no_room_for(&head.tenant, u64::from(head.parent.is_none()), head.nodes.into(), &head.templates)?
        {
            return Ok(refusal);
        }
        self.store_head(head)?;
        Ok(WorkflowSubmitted::Created)
    }

    fn known_workflow(
        &self,
        tenant: &TenantId,
        idempotency: Option<&Idempotency>,
    ) -> Result<Option<WorkflowSubmitted>, Fault> {
        let Some(idempotency) = idempotency else { return Ok(None) };
        let known = self.known_key(tenant, idempotency)?;
        Ok(known.map(|(id, same)| if same { WorkflowSubmitted::Existing(id) } else { WorkflowSubmitted::Conflict(id) }))
    }

    /// Why so many workflows with these templates cannot be added.
    pub(super) fn no_room_for<'a>(
        &self,
        tenant: &TenantId,
        workflows: u64,
        nodes: u64,
        templates: impl IntoIterator<Item = &'a NodeTemplate>,
    ) -> Result<Option<WorkflowSubmitted>, Fault> {
        let (held, stored) = self.workflows_held(tenant)?;
        let too_many = workflows > 0 && held + workflows > self.limits.max_workflows;
        if too_many || stored + nodes > self.limits.max_nodes {
            return Ok(Some(WorkflowSubmitted::TooManyWorkflows));
        }
        let mut wanted: Vec<(&QueueName, u64)> = Vec::new();
        for template in templates {
            match wanted.iter_mut().find(|(queue, _)| *queue == &template.queue) {
                Some((_, nodes)) => *nodes += u64::from(template.nodes),
                None => wanted.push((&template.queue, template.nodes.into())),
            }
        }
        let mut queues = self.scheduler.queues_of(tenant);
        for (queue, nodes) in wanted {
            let backlog = match self.scheduler.find(tenant, queue) {
                Some(line) => {
                    let counts = self.scheduler.counts(line);
                    counts.ready + counts.delayed
                }
                None => {
                    queues += 1;
                    if queues > self.limits.max_queues {
                        return Ok(Some(WorkflowSubmitted::TooManyQueues));
                    }
                    0
                }
            };
            if backlog + nodes > self.limits.max_backlog {
                return Ok(Some(WorkflowSubmitted::QueueFull));
            }
        }
        Ok(None)
    }

    /// Workflows that replace no job, and the nodes of all.
    fn workflows_held(&self, tenant: &TenantId) -> Result<(u64, u64), Fault> {
        let mut statement = self.conn.prepare_cached("SELECT held, nodes FROM workflow_count WHERE tenant = ?")?;
        let held = statement.query_row([tenant.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        Ok(held.optional()?.map_or((0, 0), |(held, nodes)| (held.unsigned_abs(), nodes.unsigned_abs())))
    }

    /// Counts workflows (that replace no job) and nodes.
    pub(super) fn count_workflows(&self, tenant: &TenantId, held: i64, nodes: i64) -> Result<(), Fault> {
        let sql = "INSERT INTO workflow_count (tenant, held, nodes) VALUES (?, ?, ?)
            ON CONFLICT (tenant) DO UPDATE SET held = held + excluded.held, nodes = nodes + excluded.nodes";
        self.conn.prepare_cached(sql)?.execute(params![tenant.as_str(), held, nodes])?;
        Ok(())
    }

    /// Stores a workflow without its nodes, staged; its row.
    pub(super) fn store_head(&mut self, head: &WorkflowHead) -> Result<i64, Fault> {
        let sql = "INSERT INTO workflow (tenant, id, nodes, end_node, parent, depth, deadline_ms, keep_ms, staged,
            created_at, delete_at, state, orphaned, jobs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, 0, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            head.tenant.as_str(),
            head.id.to_bytes(),
            head.nodes,
            head.end,
            head.parent.map(|parent| parent.to_bytes()),
            head.depth,
            int(head.deadline_ms),
            int(head.keep_ms),
            int(self.now),
            int(self.now.saturating_add(STAGED_TTL_MS)),
            rows::workflow_state_number(WorkflowState::Running),
            rows::counts_blob(&JobCounts::default()),
        ])?;
        let rid = self.conn.last_insert_rowid();
        let key = head.idempotency.as_ref();
        let sql = "INSERT INTO workflow_spec (rid, text, starts, key, body, ttl_ms) VALUES (?, ?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            rid,
            head.spec,
            ranges_blob(&head.starts),
            key.map(|key| key.key.as_str()),
            key.map(|key| key.body.as_str()),
            key.map(|key| int(key.ttl_ms)),
        ])?;
        self.store_templates(&head.tenant, rid, 0, &head.templates)?;
        self.count_workflows(&head.tenant, head.parent.is_none().into(), head.nodes.into())?;
        Ok(rid)
    }

    /// Stores templates from number `first` on, and makes the queues that they need.
    pub(super) fn store_templates(
        &mut self,
        tenant: &TenantId,
        workflow: i64,
        first: u32,
        templates: &[NodeTemplate],
    ) -> Result<(), Fault> {
        let sql = "INSERT INTO template (workflow, n, task, queue, priority, start_after_ms, start_at, expires_ms,
            max_deliveries, nodes, spec) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        for (n, template) in (first..).zip(templates) {
            self.queue_id(tenant, &template.queue)?;
            let (after, at) = match template.start {
                Start::Now => (None, None),
                Start::After(ms) => (Some(int(ms)), None),
                Start::At(at) => (None, Some(int(at))),
            };
            self.conn.prepare_cached(sql)?.execute(params![
                workflow,
                n,
                template.task.as_str(),
                template.queue.as_str(),
                template.priority,
                after,
                at,
                int(template.expires_ms),
                template.max_deliveries,
                template.nodes,
                template.spec,
            ])?;
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
        let Some(rid) = flows::find(self.conn, tenant, id)? else { return Ok(Err(WorkflowSubmitted::Unknown)) };
        let flow = self.flows.flow(self.conn, rid)?;
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
        self.flows.drop_joins(rid);
        for mut head in stored.into_iter().filter_map(|target| target.head) {
            self.leave(&mut head)?;
            self.flows.count(self.conn, rid, Some(head.state), None)?;
            head.delete(self.conn)?;
        }
        self.delete_graph(rid, nodes)
    }

    /// Stores a node of a workflow whose head is stored, in a place that is free.
    pub(super) fn store_node(&mut self, rid: i64, number: u32, new: &NewNode) -> Result<(), Fault> {
        match &new.work {
            NewWork::Job { template, arguments, takes, kept, broker_options } => {
                let job =
                    self.store_job(rid, number, *template, arguments, (kept.as_ref(), broker_options.as_deref()))?;
                if let Some(kept) = kept {
                    let status = adjusted_end(kept.state, new.on_failure);
                    self.keep_end(rid, number, Some(status))?;
                }
                let (job, template) = (Some(job), Some(*template));
                let row = NodeRow { rid: job, template, takes: *takes, members: None, scope: None, cancel_rest: None };
                self.insert_node(rid, number, new, &row)
            }
            NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept } => {
                let status = kept.then_some(Status::Ok);
                self.keep_end(rid, number, status)?;
                let (members, scope) = (Some(&members[..]), Some(&scope[..]));
                let row = NodeRow {
                    rid: None,
                    template: None,
                    takes: false,
                    members,
                    scope,
                    cancel_rest: Some(*cancel_rest),
                };
                self.insert_node(rid, number, new, &row)?;
                let sql =
                    "INSERT INTO gate (workflow, number, pending, failed, skipped, status) VALUES (?, ?, ?, ?, ?, ?)";
                let row = params![rid, number, pending, failed, skipped, status.map(status_number)];
                self.conn.prepare_cached(sql)?.execute(row)?;
                Ok(())
            }
        }
    }

    /// How the end of a workflow had ended in the one that it resumes.
    fn keep_end(&mut self, rid: i64, number: u32, status: Option<Status>) -> Result<(), Fault> {
        if self.flows.flow(self.conn, rid)?.end == number {
            self.flows.flow_mut(self.conn, rid)?.end_status = status;
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
        (kept, broker_options): (Option<&Kept>, Option<&BrokerOptions>),
    ) -> Result<i64, Fault> {
        let template = self.flows.template(self.conn, self.scheduler, rid, template)?;
        let id = node_job(self.flows.flow(self.conn, rid)?.id, number);
        let mut head = Head::of_node(id, template.line, &template.of, rid).with_broker_options(broker_options);
        if let Some(kept) = kept {
            head.state = kept.state;
            head.finished_at = Some(self.now);
        }
        let tenant = self.scheduler.tenant(template.line);
        head.insert(self.conn, self.now, &Fixed { tenant, task: &template.of.task, text: arguments })?;
        self.flows.count(self.conn, rid, None, Some(head.state))?;
        if let Some(kept) = kept {
            head.keep_outcome(self.conn, kept.result.as_deref(), kept.failure.as_ref())?;
        }
        Ok(head.rid)
    }

    fn insert_node(&self, rid: i64, number: u32, new: &NewNode, row: &NodeRow<'_>) -> Result<(), Fault> {
        let sql =
            "INSERT INTO node (workflow, number, rid, template, error_callback, on_failure, takes, source, gate, next,
            members, scope, cancel_rest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            rid,
            number,
            row.rid,
            row.template,
            new.when == When::Failure,
            on_failure_number(new.on_failure),
            row.takes,
            new.after,
            new.group,
            ranges_blob(&new.next),
            row.members.map(ranges_blob),
            row.scope.map(ranges_blob),
            row.cancel_rest,
        ])?;
        Ok(())
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
        if let Some(idempotency) = &idempotency {
            self.keep_idempotency(tenant, id, idempotency)?;
        }
        self.begin(rid, &starts)?;
        self.advance()?;
        Ok(WorkflowSubmitted::Created)
    }

    /// Where a staged workflow starts, and its key.
    fn asked(&self, rid: i64) -> Result<(Vec<Range>, Option<Idempotency>), Fault> {
        let sql = "SELECT starts, key, body, ttl_ms FROM workflow_spec WHERE rid = ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut found = statement.query([rid])?;
        let row = found.next()?.ok_or_else(|| Fault::stored("workflow", "its spec is missing"))?;
        let idempotency = match row.get(1)? {
            Some(key) => Some(Idempotency { key, body: row.get(2)?, ttl_ms: number(row, 3)? }),
            None => None,
        };
        Ok((rows::ranges(row, 0)?, idempotency))
    }

    /// From now on it counts: its time runs, and these of its nodes are readied.
    pub(super) fn begin(&mut self, rid: i64, starts: &[Range]) -> Result<(), Fault> {
        let now = self.now;
        let flow = self.flows.flow_mut(self.conn, rid)?;
        flow.staged = false;
        flow.created_at = now;
        flow.delete_at = None;
        flow.deadline_at = (flow.deadline_ms > 0).then(|| now.saturating_add(flow.deadline_ms));
        self.flows.touch(rid);
        self.ready(rid, starts);
        Ok(())
    }

    /// Lists nodes to be readied, whatever they wait for.
    pub(super) fn ready(&mut self, rid: i64, starts: &[Range]) {
        for targets in starts {
            let (raw, adjusted) = (Status::Failed, Status::Ok);
            self.flows.todo.push(Item::Arrive { workflow: rid, targets: *targets, raw, adjusted });
        }
    }
}
