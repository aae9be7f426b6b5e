//! An action on many jobs as it is stored.

use serde::{Deserialize, Serialize};
use umbel_compose::Digests;
use umbel_model::{JobId, JobState, PolicyPatch, UnixMs, WorkflowId, named_enum};

use crate::Filter;

/// Attempts to write against others who write the same action.
pub(crate) const MAX_TRIES: usize = 16;
/// Older than any submission under way, milliseconds.
pub(crate) const ORPHAN_MS: u64 = 600_000;

named_enum! {
    /// The action on each job.
    pub enum Action {
        Cancel = "cancel",
        Redrive = "redrive",
        Forget = "forget",
        RunNow = "run_now",
    }
}

impl Action {
    /// Whether there is anything to do for a job in this state.
    pub fn applies(self, state: JobState) -> bool {
        match self {
            Self::Cancel => !state.is_terminal(),
            Self::Redrive => state == JobState::Failed,
            Self::Forget => state.is_terminal(),
            Self::RunNow => matches!(state, JobState::Scheduled | JobState::Retrying),
        }
    }
}

named_enum! {
    /// Where an action stands.
    pub enum State {
        Running = "running",
        /// It was done for each job that was found.
        Done = "done",
        /// Somebody stopped it; what it did stays done.
        Aborted = "aborted",
        /// `Bulk::error` says why. What it did stays done.
        Failed = "failed",
    }
}

/// How far it has looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Position {
    #[default]
    Start,
    /// Of the named ids or the workflow's nodes, the next number.
    At(u32),
    /// Of all jobs, those older than this one are left.
    Before(JobId),
    End,
}

/// How far the nodes of running workflows were looked at: first those of what replaced jobs of their own, then the listed ones,
/// newest workflow first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InWorkflows {
    /// How far jobs that were replaced were looked for.
    #[serde(default)]
    pub(crate) replaced: Position,
    /// Workflows that replaced something, each with its next node: the last one is looked at first. A process of an older
    /// release passes them by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inside: Vec<(WorkflowId, u32)>,
    /// Those older than this one are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<WorkflowId>,
    /// In the middle of this one: its next node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<(WorkflowId, u32)>,
}

/// An action on many jobs, the body of its document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bulk {
    pub id: JobId,
    pub action: Action,
    pub filter: Filter,
    /// Only counts the jobs.
    #[serde(default)]
    pub dry_run: bool,
    /// Of a cancel: false lets what runs end.
    #[serde(default = "yes")]
    pub terminate: bool,
    /// Of a redrive: which modules.
    #[serde(default)]
    pub digest: Digests,
    /// Of a redrive: laid over each job's policy.
    #[serde(default, skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    pub state: State,
    /// Jobs found so far.
    #[serde(default)]
    pub matched: u64,
    #[serde(default)]
    pub done: u64,
    /// Found, and then in no state in which it could be done; or nodes of workflows.
    #[serde(default)]
    pub skipped: u64,
    /// It could not be done.
    #[serde(default)]
    pub failed: u64,
    /// By the clock of whoever made it, as `finished_at`: for people.
    pub created_at: UnixMs,
    #[serde(default)]
    pub finished_at: Option<UnixMs>,
    /// Why the action, or the last job that it failed for, failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Hashes of the submission's idempotency key and of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<(String, String)>,
    #[serde(default)]
    pub(crate) position: Position,
    /// All other jobs were looked at, and now nodes are. A process of an older release finds no more jobs then, and ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_workflows: Option<InWorkflows>,
    /// Counts pages, so that the counts of one are added once.
    #[serde(default)]
    pub(crate) page: u64,
    /// The page that is acted on now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) doing: Vec<JobId>,
    /// Since when, by the clock of whoever does.
    #[serde(default)]
    pub(crate) doing_since: UnixMs,
}

fn yes() -> bool {
    true
}

impl Bulk {
    /// A new action that has done nothing yet.
    pub fn new(id: JobId, action: Action, filter: Filter, now: UnixMs) -> Self {
        Self {
            id,
            action,
            filter,
            dry_run: false,
            terminate: true,
            digest: Digests::Pinned,
            policy: PolicyPatch::default(),
            state: State::Running,
            matched: 0,
            done: 0,
            skipped: 0,
            failed: 0,
            created_at: now,
            finished_at: None,
            error: None,
            key: None,
            position: Position::Start,
            in_workflows: None,
            page: 0,
            doing: Vec::new(),
            doing_since: 0,
        }
    }

    /// Whether it acts on nodes of workflows, too, when its filter names neither jobs nor a workflow. Those that ended go
    /// with their workflow.
    pub(crate) fn looks_at_nodes(&self) -> bool {
        matches!(self.action, Action::Cancel | Action::RunNow) && self.filter.dead != Some(true)
    }

    pub fn is_over(&self) -> bool {
        self.state != State::Running
    }
}
