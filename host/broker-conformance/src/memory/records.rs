//! The model's records of jobs, workflows, joins and schedules.

use std::collections::{BTreeSet, VecDeque};

use umbel_model::{
    AttemptRecord, Digest, JobId, JobRecord, JobState, TenantId, Token, UnixMs, canvas::Range, job::MAX_HISTORY,
};

use umbel_broker::{rules::join::JoinProgress, scheduler::SubQueueName, *};

pub(super) type Key = (TenantId, JobId);

#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    /// As it was submitted.
    pub(super) new: NewJob,
    /// Of a workflow's node.
    pub(super) place: Option<Place>,
    /// The sub-queue in which it is queued, or counts as running.
    pub(super) sub_queue: Option<SubQueueName>,
    /// Place in the queue while queued, kept while running so that the first lost delivery does not lose it.
    pub(super) score: u64,
    /// Since when it is queued, if it is.
    pub(super) ready_at: UnixMs,
    /// Of the current delivery; kept after its settle so that a repeated one is recognised, cleared by the reaper.
    pub(super) token: Option<Token>,
    pub(super) lease_until: UnixMs,
    /// When it is to be looked at: due, or expiring.
    pub(super) look_at: Option<UnixMs>,
    pub(super) delete_at: Option<UnixMs>,
    pub(super) logs: Vec<LogLine>,
    /// The blobs to which it refers.
    pub(super) blobs: BTreeSet<Digest>,
}

impl Job {
    pub(super) fn new(now: UnixMs, new: NewJob) -> Self {
        Self {
            record: JobRecord {
                id: new.id,
                tenant: new.tenant.clone(),
                task: new.task.clone(),
                queue: new.queue.clone(),
                priority: new.priority,
                state: JobState::Queued,
                spec: new.spec.clone(),
                retries: 0,
                deliveries: 0,
                fence: 0,
                cancel_requested: false,
                let_end: false,
                created_at: now,
                due_at: None,
                expires_at: new.expiry(now),
                started_at: None,
                finished_at: None,
                worker: None,
                progress: None,
                result: None,
                failure: None,
                history: Vec::new(),
                node: None,
                child: None,
            },
            new,
            place: None,
            sub_queue: None,
            score: 0,
            ready_at: now,
            token: None,
            lease_until: 0,
            look_at: None,
            delete_at: None,
            logs: Vec::new(),
            blobs: BTreeSet::new(),
        }
    }

    /// Its broker options; the default if it has none.
    pub(super) fn options(&self) -> BrokerOptions {
        self.new.broker_options.as_deref().cloned().unwrap_or_default()
    }

    pub(super) fn held_by(&self, token: &Token) -> bool {
        self.record.state == JobState::Running && self.token.as_ref() == Some(token)
    }

    /// The first attempt and the newest ones are kept.
    pub(super) fn remember(&mut self, record: AttemptRecord) {
        let history = &mut self.record.history;
        if history.len() == MAX_HISTORY {
            history.remove(1);
        }
        history.push(record);
    }
}

/// The place of a job in its workflow.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) node: NewNode,
    pub(super) template: u32,
    pub(super) takes: bool,
}

#[derive(Debug)]
pub(super) struct Join {
    pub(super) node: NewNode,
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
        !self.is_hidden() && self.finished.is_none()
    }
}

/// A schedule with the part of its history that is kept, oldest first.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) record: ScheduleRecord,
    pub(super) history: VecDeque<String>,
}
