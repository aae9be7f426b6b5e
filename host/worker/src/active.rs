//! One delivery that this worker holds, and what its guest said while it ran.
//!
//! Invariant: a report is in exactly one place: here, or in the renewal or settle that carries it to the broker.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;
use umbel_broker::{Delivery, LogLine};
use umbel_model::{Progress, UnixMs};
use umbel_sandbox::{Host, Refused, StopHandle};

use crate::workflow_requests::{NodeRates, Requester, WorkflowRequests};

/// Wakes the poll loop without waking it for every job.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    /// The work claimed ahead fell to the low-water mark.
    pub(crate) refill: Notify,
    /// Somebody reported something.
    pub(crate) report: Notify,
    /// Rung and not answered yet: no need to ring again.
    reported: AtomicBool,
}

impl Wakers {
    fn report(&self) {
        if !self.reported.swap(true, Ordering::AcqRel) {
            self.report.notify_one();
        }
    }

    /// From now on a report rings again. Call it before the reports are taken.
    pub(crate) fn answer(&self) {
        self.reported.store(false, Ordering::Release);
    }
}

/// What a guest said and the broker was not told yet.
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
pub(crate) struct Active {
    /// Names the delivery inside this worker: the same job may be delivered again while its lost guest still ends.
    pub(crate) seq: u64,
    pub(crate) delivery: Delivery,
    pub(crate) stop: StopHandle,
    /// When it was handed out, by this machine's clock: log lines are dated from the start of their attempt.
    started_at: Mutex<UnixMs>,
    reports: Mutex<Reports>,
    dirty: AtomicBool,
    wakers: Arc<Wakers>,
    rates: Arc<NodeRates>,
    requests: Mutex<WorkflowRequests>,
}

impl Active {
    pub(crate) fn new(seq: u64, delivery: Delivery, wakers: Arc<Wakers>, rates: Arc<NodeRates>) -> Self {
        Self {
            seq,
            delivery,
            stop: StopHandle::new(),
            started_at: Mutex::new(0),
            reports: Mutex::default(),
            dirty: AtomicBool::new(false),
            wakers,
            rates,
            requests: Mutex::default(),
        }
    }

    /// 1 for the first run.
    pub(crate) fn attempt(&self) -> u32 {
        self.delivery.retries.saturating_add(1)
    }

    pub(crate) fn start(&self, now: UnixMs) {
        *self.started_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// When its attempt began, if it did.
    pub(crate) fn started_at(&self) -> Option<UnixMs> {
        let started_at = *self.started_at.lock().unwrap_or_else(PoisonError::into_inner);
        (started_at > 0).then_some(started_at)
    }

    pub(crate) fn has_reports(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// What the broker was not told yet. It must be told, or given back with `untake`.
    pub(crate) fn take(&self) -> Reports {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Reports::default();
        }
        std::mem::take(&mut *self.reports())
    }

    /// What its guest asked of canvas.
    pub(crate) fn take_workflow_requests(&self) -> WorkflowRequests {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask<T>(
        &self,
        ask: impl FnOnce(&mut WorkflowRequests, &Requester<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let requester =
            Requester { tenant: &self.delivery.tenant, node: self.delivery.node.as_deref(), rates: &self.rates };
        ask(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner), &requester)
    }

    /// Puts back what could not be told, in front of what was said since.
    pub(crate) fn untake(&self, told: Reports) {
        if told.is_empty() {
            return;
        }
        let mut reports = self.reports();
        if reports.progress.is_none() {
            reports.progress = told.progress;
        }
        let since = std::mem::replace(&mut reports.logs, told.logs);
        reports.logs.extend(since);
        self.dirty.store(true, Ordering::Release);
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, change: impl FnOnce(&mut Reports)) {
        let mut reports = self.reports();
        change(&mut reports);
        // Under the lock: `take` either sees the flag or comes before the change.
        self.dirty.store(true, Ordering::Release);
        drop(reports);
        self.wakers.report();
    }
}

impl Host for Active {
    fn log(&self, line: umbel_sandbox::LogLine) {
        let started_at = *self.started_at.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = u64::try_from(line.elapsed.as_millis()).unwrap_or(u64::MAX);
        let line = LogLine {
            at: started_at.saturating_add(elapsed),
            attempt: self.attempt(),
            level: line.level.as_str().to_owned(),
            context: line.context,
            message: line.message,
        };
        self.say(|reports| reports.logs.push(line));
    }

    fn progress(&self, progress: Progress) {
        self.say(|reports| reports.progress = Some(progress));
    }

    fn submit(&self, canvas: &str) -> Result<String, Refused> {
        self.ask(|requests, requester| requests.submit(requester, canvas)).map(|id| id.to_string())
    }

    fn replace(&self, canvas: &str) -> Result<(), Refused> {
        self.ask(|requests, requester| requests.replace(requester, canvas))
    }

    fn add_to_group(&self, members: &str) -> Result<(), Refused> {
        self.ask(|requests, requester| requests.add_to_group(requester, members))
    }
}

#[cfg(test)]
impl Active {
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
