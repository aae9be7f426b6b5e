//! Workflows: submission in steps, cancelling, reading.

use async_trait::async_trait;
use redis::Value;
use umbel_broker::{
    ADVANCE, Error, Limits, MAX_NODES_A_CALL, MAX_TEMPLATES, NewNode, NodePage, NodeValue, NodeWork, PAGE_SCAN, Result,
    Results, STAGED_TTL_MS, WorkflowCancelled, WorkflowForgot, WorkflowHead, WorkflowPage, WorkflowQuery,
    WorkflowRecord, WorkflowState, WorkflowSubmitted, Workflows,
};
use umbel_model::{TenantId, WorkflowId, canvas::node_job};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    blobs::digest,
    bytes::{corrupt, some},
    connection::Repeat,
    decode::job_value,
    jobs::or_nothing,
    keys::member,
    nodes::{self, new_node, new_template, new_workflow, workflow_code, workflow_state},
    unknown_code,
};

/// Records that one command reads: each may hold a result of a megabyte, and Redis puts the whole reply together.
const TEXTS_A_REPLY: usize = 64;

#[async_trait]
impl Workflows for RedisBroker {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        if head.templates.len() > MAX_TEMPLATES {
            return Err(Error::Failed(format!("a workflow has at most {MAX_TEMPLATES} templates")));
        }
        let mut args = self.workflow_limits();
        args.extend([STAGED_TTL_MS.to_string().into_bytes(), new_workflow(head)?]);
        args.extend(head.templates.iter().map(new_template));
        self.submission("stage_workflow", args).await
    }

    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        if nodes.len() > MAX_NODES_A_CALL as usize {
            return Err(Error::Failed(format!("at most {MAX_NODES_A_CALL} nodes are stored in one call")));
        }
        let mut args = args([&member(tenant, id), &first]);
        for node in nodes {
            args.push(new_node(node)?);
        }
        self.submission("stage_nodes", args).await
    }

    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        self.submission("start_workflow", args([&member(tenant, id)])).await
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        let code: i64 = self.typed("cancel_workflow", args([&member(tenant, id)]), Repeat::Safe).await?;
        let Ok(code) = u8::try_from(code) else { return Ok(WorkflowCancelled::NotFound) };
        Ok(match workflow_state(code)? {
            WorkflowState::Running => WorkflowCancelled::Requested,
            state => WorkflowCancelled::AlreadyEnded(state),
        })
    }

    async fn forget_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowForgot> {
        let args = args([&member(tenant, id), &ADVANCE]);
        let code: i64 = self.typed("forget_workflow", args, Repeat::OnlyUnsent).await?;
        Ok(match code {
            -2 => WorkflowForgot::Replaces,
            -1 => WorkflowForgot::NotFound,
            code if code == workflow_code(WorkflowState::Running) as i64 => WorkflowForgot::NotEnded,
            _ => WorkflowForgot::Forgotten,
        })
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        let mut answer = self.answer("workflow", args([&member(tenant, id)]), Repeat::Safe).await?;
        if answer.done() {
            return Ok(None);
        }
        let (bytes, spec) = (answer.bytes()?, answer.text()?);
        let mut record = nodes::workflow(tenant, id, &bytes, spec)?;
        record.templates = answer.rest(|answer| nodes::template(&answer.bytes()?))?;
        Ok(Some(record))
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        let (before, state) = (or_nothing(query.before.as_ref()), query.state.map(workflow_code));
        let args = args([&query.tenant, &before, &query.max, &PAGE_SCAN, &or_nothing(state.as_ref())]);
        let mut answer = self.answer("workflows", args, Repeat::Safe).await?;
        let next = some(&answer.text()?).map(str::parse).transpose().map_err(corrupt)?;
        let workflows = answer.rest(|answer| {
            let (id, bytes, spec) = (answer.parsed()?, answer.bytes()?, answer.text()?);
            nodes::workflow(&query.tenant, id, &bytes, spec)
        })?;
        Ok(WorkflowPage { workflows, next })
    }

    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        let end = first.saturating_add(max.min(MAX_NODES_A_CALL));
        let with_results = u8::from(results == Results::Included);
        let args = args([&member(tenant, id), &first, &end, &with_results]);
        let mut answer = self.answer("nodes", args, Repeat::Safe).await?;
        let next = answer.number()? as u32;
        Ok(NodePage { nodes: answer.rest(Answer::node)?, next })
    }

    /// Without a function: what is read is much, and does not change once it has ended.
    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
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
}

impl RedisBroker {
    /// What `new_workflows.limit` reads.
    pub(crate) fn workflow_limits(&self) -> Vec<Vec<u8>> {
        let Limits { max_backlog, max_queues, max_workflows, max_nodes, .. } = self.limits;
        args([&max_backlog, &max_queues, &format_args!("{max_workflows},{max_nodes}")])
    }

    async fn submission(&self, function: &str, args: Vec<Vec<u8>>) -> Result<WorkflowSubmitted> {
        workflow_submitted(&self.typed::<String>(function, args, Repeat::Safe).await?)
    }

    async fn texts(&self, keys: impl Iterator<Item = String>) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<String> = keys.collect();
        let mut texts = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TEXTS_A_REPLY) {
            let value: Value = self.command(&redis::cmd("MGET").arg(keys).to_owned()).await?;
            texts.extend(Answer::new(value)?.rest(Answer::maybe_bytes)?);
        }
        Ok(texts)
    }
}

/// The answer to a step of a submission: a letter, and an id or a digest.
pub(crate) fn workflow_submitted(answer: &str) -> Result<WorkflowSubmitted> {
    let id = answer.get(1..).unwrap_or_default();
    Ok(match answer.bytes().next() {
        Some(b'C') => WorkflowSubmitted::Created,
        Some(b'E') => WorkflowSubmitted::Existing(id.parse().map_err(corrupt)?),
        Some(b'X') => WorkflowSubmitted::Conflict(id.parse().map_err(corrupt)?),
        Some(b'F') => WorkflowSubmitted::QueueFull,
        Some(b'B') => WorkflowSubmitted::StorageFull,
        Some(b'Q') => WorkflowSubmitted::TooManyQueues,
        Some(b'W') => WorkflowSubmitted::TooManyWorkflows,
        Some(b'M') => WorkflowSubmitted::MissingBlob(digest(id)?),
        Some(b'U') => WorkflowSubmitted::Unknown,
        _ => return Err(unknown_code()),
    })
}
