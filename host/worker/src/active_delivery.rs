//! One delivery that this worker holds, and the progress, log lines and workflow requests of its guest.
//!
//! Invariant: a report is in exactly one place: here, or in the renewal or settle that carries it to the broker.

use std::sync::{
    Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;
use umbel_broker::{Delivery, LogLine};
use umbel_model::{Policy, PolicyPatch, Progress, UnixMs};
use umbel_sandbox::{Host, Refused, StopHandle};

use crate::blobs::AttemptBlobs;
use crate::workflow_requests::{NodeRates, Requester, WorkflowRequests};

/// Wakes the poll loop without waking it for every job.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    /// The local queue fell to its low-water mark.
    pub(crate) refill: Notify,
    /// A guest reported progress or a log line.
    pub(crate) report: Notify,
    /// `report` was notified and its reports are not taken yet: no need to notify again.
    reported: AtomicBool,
}

impl Wakers {
    fn report(&self) {
        if !self.reported.swap(true, Ordering::AcqRel) {
            self.report.notify_one();
        }
    }

    /// From now on the next report notifies again. Call it before the reports are taken.
    pub(crate) fn rearm(&self) {
        self.reported.store(false, Ordering::Release);
    }
}

/// Progress and log lines of a guest that the broker does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) progress: Option<Progress>,
    pub(crate) logs: Vec<LogLine>,
}

impl Reports {
    pub(crate) fn is_empty(&self) -> bool {
        self.progress.is_none() && self.logs.is_empty()
    }
}

/// A delivery between its claim and its settle.
#[derive(Debug)]
pub(crate) struct ActiveDelivery {
    /// Names the delivery inside this worker: the same job may be delivered again while its lost guest still ends.
    pub(crate) seq: u64,
    pub(crate) delivery: Delivery,
    pub(crate) stop: StopHandle,
    /// When its attempt began, by this machine's clock: log lines are dated from there.
    started_at: OnceLock<UnixMs>,
    reports: Mutex<Reports>,
    task: OnceLock<(Box<str>, Policy)>,
    wakers: Arc<Wakers>,
    rates: Arc<NodeRates>,
    requests: Mutex<WorkflowRequests>,
    /// Those that its guest wrote and that were published, or may be. They are concluded when nobody has the delivery any more.
    blobs: OnceLock<Arc<AttemptBlobs>>,
    /// A settle of it was sent, and the broker did not say what became of it.
    in_doubt: AtomicBool,
}

impl ActiveDelivery {
    pub(crate) fn new(seq: u64, delivery: Delivery, wakers: Arc<Wakers>, rates: Arc<NodeRates>) -> Self {
        Self {
            seq,
            delivery,
            stop: StopHandle::new(),
            started_at: OnceLock::new(),
            reports: Mutex::default(),
            task: OnceLock::new(),
            wakers,
            rates,
            requests: Mutex::default(),
            blobs: OnceLock::new(),
            in_doubt: AtomicBool::new(false),
        }
    }

    /// Keeps the blobs that its guest wrote and that its success makes. Before they are published, so that none is forgotten.
    pub(crate) fn keep_blobs(&self, blobs: Arc<AttemptBlobs>) {
        let _ = self.blobs.set(blobs);
    }

    /// Its settle is sent: until it is answered, the broker may take it at any time.
    pub(crate) fn settle_sent(&self) {
        self.in_doubt.store(true, Ordering::Release);
    }

    /// The broker answered its settle, be it with a failure.
    pub(crate) fn settle_answered(&self) {
        self.in_doubt.store(false, Ordering::Release);
    }

    /// 1 for the first run.
    pub(crate) fn attempt(&self) -> u32 {
        self.delivery.retries.saturating_add(1)
    }

    pub(crate) fn start(&self, now: UnixMs) {
        let _ = self.started_at.set(now);
    }

    /// When its attempt began, if it did.
    pub(crate) fn started_at(&self) -> Option<UnixMs> {
        self.started_at.get().copied()
    }

    /// Keeps the name of its task and resolves its policy, both as the job's record has them.
    pub(crate) fn set_task(&self, task: &str, policy: &PolicyPatch) {
        self.task.get_or_init(|| (task.into(), Policy::resolve(policy)));
    }

    /// The name of its task; empty while the record was not read.
    pub(crate) fn task(&self) -> &str {
        self.task.get().map_or("", |(task, _)| task)
    }

    /// The policy of its task; the default while the record was not read.
    pub(crate) fn policy(&self) -> &Policy {
        static DEFAULT: LazyLock<Policy> = LazyLock::new(Policy::default);
        self.task.get().map_or(&DEFAULT, |(_, policy)| policy)
    }

    /// Whether the value of its task is stored. That of a workflow's node is, though its policy says that readers do not get it:
    /// it is for the nodes that take it.
    pub(crate) fn keeps_result(&self) -> bool {
        self.delivery.node.is_some() || !self.policy().ignore_result
    }

    pub(crate) fn has_reports(&self) -> bool {
        !self.reports().is_empty()
    }

    /// Takes the reports, which must be sent to the broker or put back with `put_back`.
    pub(crate) fn take_reports(&self) -> Reports {
        std::mem::take(&mut *self.reports())
    }

    /// The workflows, members and replacement that its guest requested.
    pub(crate) fn take_workflow_requests(&self) -> WorkflowRequests {
        std::mem::take(&mut *self.requests())
    }

    fn requests(&self) -> MutexGuard<'_, WorkflowRequests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requester(&self) -> Requester<'_> {
        Requester { tenant: &self.delivery.tenant, node: self.delivery.node.as_deref(), rates: &self.rates }
    }

    /// Puts back reports that could not be sent, in front of newer ones.
    pub(crate) fn put_back(&self, unsent: Reports) {
        let mut reports = self.reports();
        if reports.progress.is_none() {
            reports.progress = unsent.progress;
        }
        let newer = std::mem::replace(&mut reports.logs, unsent.logs);
        reports.logs.extend(newer);
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, change: impl FnOnce(&mut Reports)) {
        change(&mut self.reports());
        self.wakers.report();
    }
}

impl Drop for ActiveDelivery {
    /// The only end that all deliveries have: settled, refused, lost or given up.
    fn drop(&mut self) {
        let Some(blobs) = self.blobs.take() else { return };
        // The worker ended before an answer, and the records may still come: what has none is swept later.
        if !*self.in_doubt.get_mut() {
            blobs.concluded();
        }
    }
}

impl Host for ActiveDelivery {
    fn log(&self, line: umbel_sandbox::LogLine) {
        let elapsed = u64::try_from(line.elapsed.as_millis()).unwrap_or(u64::MAX);
        let line = LogLine {
            at: self.started_at().unwrap_or(0).saturating_add(elapsed),
            attempt: self.attempt(),
            level: line.level.as_str().to_owned(),
            context: line.context,
            message: line.message,
        };
        self.report(|reports| reports.logs.push(line));
    }

    fn progress(&self, progress: Progress) {
        self.report(|reports| reports.progress = Some(progress));
    }

    fn submit(&self, canvas: &str) -> Result<String, Refused> {
        self.requests().submit(&self.requester(), canvas).map(|id| id.to_string())
    }

    fn replace(&self, canvas: &str) -> Result<(), Refused> {
        self.requests().replace(&self.requester(), canvas)
    }

    fn add_to_group(&self, members: &str) -> Result<(), Refused> {
        self.requests().add_to_group(&self.requester(), members)
    }
}

#[cfg(test)]
impl ActiveDelivery {
    /// A delivery of a job that had two retries.
    pub(crate) fn for_test(seq: u64, spec: &str) -> Arc<Self> {
        use umbel_model::{JobId, QueueName, TenantId, Token};

        let delivery = Delivery {
            tenant: TenantId::new("t1").expect("a name"),
            id: JobId::from_parts(1, seq.into()),
            queue: QueueName::default(),
            token: Token::new("ab").expect("a token"),
            fence: 1,
            spec: spec.into(),
            retries: 2,
            delivery: 1,
            node: None,
        };
        Arc::new(Self::new(seq, delivery, Arc::default(), Arc::default()))
    }
}
