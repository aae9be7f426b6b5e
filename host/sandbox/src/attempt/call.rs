//! One call of a task: what goes into an attempt, and what comes out of it.

use umbel_capabilities::Reach;
use umbel_model::{Outcome, Usage};

use crate::bindings::{Fire, WorkflowNode};

/// One call of a task.
#[derive(Debug, Clone)]
pub struct Call {
    /// The task's name in its module.
    pub task: Box<str>,
    /// A JSON object by parameter name, bound and validated.
    pub arguments: Box<str>,
    pub fuel: u64,
    /// Linear memory, summed over all memories, bytes.
    pub memory_bytes: u64,
    /// Hard limit, from the moment the attempt has a slot.
    pub time_limit_ms: u64,
    /// 0: none.
    pub soft_time_limit_ms: u64,
    pub info: AttemptInfo,
    /// What the guest can reach outside.
    pub reach: Reach,
}

/// The facts about an attempt that its guest may read.
#[derive(Debug, Clone, Default)]
pub struct AttemptInfo {
    pub job_id: String,
    pub queue: String,
    /// 1 for the first run.
    pub attempt: u32,
    /// None: for ever.
    pub max_retries: Option<u32>,
    pub delivery: u32,
    pub fence: u64,
    pub traceparent: Option<String>,
    /// None: the job was submitted by itself.
    pub workflow_node: Option<WorkflowNode>,
    /// None: no schedule started the job.
    pub fire: Option<Fire>,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub outcome: Outcome,
    pub usage: Usage,
    /// The guest was called: whatever it does may have happened.
    pub began: bool,
    /// Log lines beyond the limits.
    pub log_dropped: u64,
}

impl Attempt {
    /// One that ended before any guest ran.
    pub(crate) fn unrun(outcome: Outcome) -> Self {
        Self { outcome, usage: Usage::default(), began: false, log_dropped: 0 }
    }
}
