//! The model's records of workflows, joins and work items.

use umbel_model::{
    JobId, JobState, OnFailure, TenantId, UnixMs,
    canvas::{Range, When},
};

use crate::{rules::join::JoinProgress, *};

pub(super) type Key = (TenantId, JobId);

/// The place of a job in its workflow.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) template: u32,
    pub(super) when: When,
    pub(super) on_failure: OnFailure,
    pub(super) after: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) next: Vec<Range>,
    pub(super) takes: bool,
}

#[derive(Debug)]
pub(super) struct Join {
    pub(super) when: When,
    pub(super) on_failure: OnFailure,
    pub(super) after: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) next: Vec<Range>,
    pub(super) members: Vec<Range>,
    pub(super) scope: Vec<Range>,
    pub(super) cancel_rest: bool,
    pub(super) progress: JoinProgress,
}

#[derive(Debug)]
pub(super) struct Workflow {
    pub(super) head: WorkflowHead,
    pub(super) staged: bool,
    pub(super) created_at: UnixMs,
    pub(super) deadline_at: Option<UnixMs>,
    /// How it was cancelled.
    pub(super) cancelled: Option<JobState>,
    /// How its end node ended, adjusted.
    pub(super) end: Option<Status>,
    pub(super) finished: Option<(WorkflowState, UnixMs)>,
    pub(super) delete_at: Option<UnixMs>,
    /// The job that it replaced was deleted.
    pub(super) orphaned: bool,
    /// Nodes deleted so far; from the first on nobody finds it any more.
    pub(super) pruned: Option<u32>,
}

impl Workflow {
    /// Not started yet, or half deleted.
    pub(super) fn is_hidden(&self) -> bool {
        self.staged || self.pruned.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        !self.staged && self.finished.is_none() && self.pruned.is_none()
    }
}

/// A work item. What is left of it stays in front.
#[derive(Debug)]
pub(super) enum WorkItem {
    Arrive {
        workflow: Key,
        targets: Range,
        raw: Status,
        adjusted: Status,
    },
    /// The workflow that replaced a job ended.
    Adopt {
        job: Key,
        status: Status,
    },
    Cancel {
        workflow: Key,
        nodes: Range,
        how: JobState,
    },
}
