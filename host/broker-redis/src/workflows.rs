//! Workflows: submission in steps, cancelling, reading.

use redis::Value;
use umbel_broker::{
    Error, Limits, MAX_NODES_A_CALL, MAX_TEMPLATES, NewNode, NodePage, NodeValue, NodeWork, PAGE_SCAN, Result, Results,
    STAGED_TTL_MS, WorkflowCancelled, WorkflowHead, WorkflowPage, WorkflowQuery, WorkflowRecord, WorkflowState,
    WorkflowSubmitted,
};
use umbel_model::{TenantId, WorkflowId, canvas::node_job};

use crate::{
    RedisBroker,
    answers::Answer,
    bytes::corrupt,
    connection::Repeat,
    decode::job_value,
    keys::member,
    nodes::{self, new_node, new_template, new_workflow, workflow_code, workflow_state},
};

/// Records that one command reads: each may hold a result of a megabyte, and Redis puts the whole reply together.
const TEXTS_A_REPLY: usize = 64;

impl RedisBroker {
    /// What `new_workflows.limit` reads.
    pub(crate) fn workflow_limits(&self) -> Vec<Vec<u8>> {
        let Limits { max_backlog, max_queues, max_workflows, max_nodes, .. } = self.limits;
        let limits = [max_backlog.to_string(), max_queues.to_string(), format!("{max_workflows},{max_nodes}")];
        limits.map(String::into_bytes).into()
    }

    async fn submission(&self, function: &str, args: Vec<Vec<u8>>) -> Result<WorkflowSubmitted> {
        let answer: String = self.typed(function, args, Repeat::Safe).await?;
        let id = answer.get(1..).unwrap_or_default();
        Ok(match answer.bytes().next() {
            Some(b'C') => WorkflowSubmitted::Created,
            Some(b'E') => WorkflowSubmitted::Existing(id.parse().map_err(corrupt)?),
            Some(b'X') => WorkflowSubmitted::Conflict(id.parse().map_err(corrupt)?),
            Some(b'F') => WorkflowSubmitted::QueueFull,
            Some(b'Q') => WorkflowSubmitted::TooManyQueues,
            Some(b'W') => WorkflowSubmitted::TooManyWorkflows,
            Some(b'U') => WorkflowSubmitted::Unknown,
            _ => return Err(Error::Failed("a function answered with a code that is not known".into())),
        })
    }

    pub(crate) async fn stage(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        if head.templates.len() > MAX_TEMPLATES {
            return Err(Error::Failed(format!("a workflow has at most {MAX_TEMPLATES} templates")));
        }
        let mut args = self.workflow_limits();
        args.extend([STAGED_TTL_MS.to_string().into_bytes(), new_workflow(head)?]);
        args.extend(head.templates.iter().map(new_template));
        self.submission("stage_workflow", args).await
    }

    pub(crate) async fn stage_some(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        if nodes.len() > MAX_NODES_A_CALL as usize {
            return Err(Error::Failed(format!("at most {MAX_NODES_A_CALL} nodes are stored in one call")));
        }
        let mut args = vec![member(tenant, id).into_bytes(), first.to_string().into_bytes()];
        for node in nodes {
            args.push(new_node(node)?);
        }
        self.submission("stage_nodes", args).await
    }

    pub(crate) async fn start(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        self.submission("start_workflow", vec![member(tenant, id).into_bytes()]).await
    }

    pub(crate) async fn cancel_all(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        let args = vec![member(tenant, id).into_bytes()];
        let code: i64 = self.typed("cancel_workflow", args, Repeat::Safe).await?;
        let Ok(code) = u8::try_from(code) else { return Ok(WorkflowCancelled::NotFound) };
        Ok(match workflow_state(code)? {
            WorkflowState::Running => WorkflowCancelled::Requested,
            state => WorkflowCancelled::AlreadyEnded(state),
        })
    }

    pub(crate) async fn read_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        let args = vec![member(tenant, id).into_bytes()];
        let mut answer = Answer::new(self.run("workflow", args, Repeat::Safe).await?)?;
        if answer.done() {
            return Ok(None);
        }
        let (bytes, spec) = (answer.bytes()?, answer.text()?);
        let mut record = nodes::workflow(tenant, id, &bytes, spec)?;
        while !answer.done() {
            record.templates.push(nodes::template(&answer.bytes()?)?);
        }
        Ok(Some(record))
    }

    pub(crate) async fn list_workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        let args = [
            query.tenant.to_string(),
            query.before.map(|id| id.to_string()).unwrap_or_default(),
            query.max.to_string(),
            PAGE_SCAN.to_string(),
            query.state.map(|state| workflow_code(state).to_string()).unwrap_or_default(),
        ];
        let args = args.map(String::into_bytes).to_vec();
        let mut answer = Answer::new(self.run("workflows", args, Repeat::Safe).await?)?;
        let next = answer.text()?;
        let next = if next.is_empty() { None } else { Some(next.parse().map_err(corrupt)?) };
        let mut workflows = Vec::new();
        while !answer.done() {
            let id = answer.text()?.parse().map_err(corrupt)?;
            let (bytes, spec) = (answer.bytes()?, answer.text()?);
            workflows.push(nodes::workflow(&query.tenant, id, &bytes, spec)?);
        }
        Ok(WorkflowPage { workflows, next })
    }

    pub(crate) async fn read_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        let end = first.saturating_add(max.min(MAX_NODES_A_CALL));
        let with_results = if results == Results::Included { "1" } else { "0" };
        let args = [member(tenant, id), first.to_string(), end.to_string(), with_results.into()];
        let args = args.map(String::into_bytes).to_vec();
        let mut answer = Answer::new(self.run("nodes", args, Repeat::Safe).await?)?;
        let next = answer.number()? as u32;
        let mut nodes = Vec::new();
        while !answer.done() {
            nodes.push(answer.node()?);
        }
        Ok(NodePage { nodes, next })
    }

    /// Without a function: what is read is much, and does not change once it has ended.
    pub(crate) async fn read_values(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
    ) -> Result<Vec<NodeValue>> {
        let numbers: Vec<u32> = (first..first.saturating_add(max.min(MAX_NODES_A_CALL))).collect();
        let mut values = Vec::with_capacity(numbers.len());
        for bytes in self.texts(numbers.iter().map(|n| self.connection.keys.job(tenant, node_job(id, *n)))).await? {
            values.push(bytes.map(|bytes| job_value(&bytes)).transpose()?);
        }
        // What is no job is a join; whichever it is, it stays.
        let others: Vec<usize> = (0..values.len()).filter(|at| values[*at].is_none()).collect();
        let joins = others.iter().map(|at| self.connection.keys.join(tenant, node_job(id, numbers[*at])));
        for (at, bytes) in others.iter().zip(self.texts(joins).await?) {
            let Some(bytes) = bytes else { continue };
            let join = nodes::join(numbers[*at], &bytes)?;
            if let NodeWork::Join { members, status, .. } = join.work {
                let (on_failure, after) = (join.on_failure, join.after);
                values[*at] = Some(NodeValue::Join { on_failure, after, members, status });
            }
        }
        Ok(values.into_iter().map(|value| value.unwrap_or(NodeValue::Missing)).collect())
    }

    async fn texts(&self, keys: impl Iterator<Item = String>) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<String> = keys.collect();
        let mut texts = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TEXTS_A_REPLY) {
            let value: Value = self.command(&redis::cmd("MGET").arg(keys).to_owned()).await?;
            let mut answer = Answer::new(value)?;
            while !answer.done() {
                texts.push(answer.maybe_bytes()?);
            }
        }
        Ok(texts)
    }
}
