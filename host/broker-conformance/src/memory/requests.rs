//! Reading the model's jobs and queues, and what users ask of a job.

use std::collections::BTreeMap;

use umbel_model::{JobId, JobRecord, JobState, QueueName, TenantId};

use super::state::State;
use umbel_broker::{rules::lease, *};

impl State {
    pub(super) fn job(&self, tenant: &TenantId, id: JobId) -> Option<JobRecord> {
        self.jobs.get(&(tenant.clone(), id)).map(|job| job.record.clone())
    }

    pub(super) fn jobs(&self, query: &JobQuery) -> JobPage {
        let mut page = JobPage { jobs: Vec::new(), next: None };
        let mine = self.jobs.iter().rev().filter(|((tenant, id), _)| {
            *tenant == query.tenant && (!query.dead || self.dead.contains(&(tenant.clone(), *id)))
        });
        // Nodes are listed by their workflow.
        let mine = mine.filter(|(_, job)| query.dead || job.place.is_none());
        let rest = mine.filter(|((_, id), _)| query.before.is_none_or(|before| *id < before));
        let rest = rest.filter(|(_, job)| Label::are_in(&query.labels, &job.record.spec));
        let mut bytes = 0;
        for (scanned, ((_, id), job)) in (1..).zip(rest) {
            let record = &job.record;
            if query.state.is_none_or(|s| s == record.state)
                && query.task.as_ref().is_none_or(|t| *t == record.task)
                && query.queue.as_ref().is_none_or(|q| *q == record.queue)
                && query.worker.as_ref().is_none_or(|w| Some(w) == record.worker.as_ref())
            {
                let summary = JobRecord { result: None, history: Vec::new(), ..record.clone() };
                bytes += text_bytes(&summary);
                page.jobs.push(summary);
            }
            if page.jobs.len() as u32 == query.max || scanned == PAGE_SCAN || bytes >= PAGE_BYTES {
                page.next = Some(*id);
                break;
            }
        }
        page
    }

    pub(super) fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Vec<LogLine> {
        let Some(job) = self.jobs.get(&(tenant.clone(), id)) else { return Vec::new() };
        job.logs.iter().skip(from as usize).take(max as usize).cloned().collect()
    }

    pub(super) fn act(&mut self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Vec<JobActed> {
        let act = |id: &JobId| match action {
            JobAction::Cancel { terminate } => JobActed::Cancelled(self.cancel(tenant, *id, terminate)),
            JobAction::CancelWaiting => JobActed::Cancelled(self.cancel_waiting(tenant, *id)),
            JobAction::RunNow => JobActed::RunNow(self.run_now(tenant, *id)),
            JobAction::Forget => JobActed::Forgot(self.forget(tenant, *id)),
        };
        let acted: Vec<JobActed> = ids.iter().map(act).collect();
        if acted.contains(&JobActed::Cancelled(Cancelled::Revoked)) {
            self.advance();
        }
        acted
    }

    fn cancel(&mut self, tenant: &TenantId, id: JobId, terminate: bool) -> Cancelled {
        let key = (tenant.clone(), id);
        if self.is_hidden(&key) {
            return Cancelled::NotFound;
        }
        let Some(job) = self.jobs.get_mut(&key) else { return Cancelled::NotFound };
        match job.record.state {
            state if state.is_terminal() => Cancelled::AlreadyEnded(state),
            JobState::Running if !terminate => {
                let record = &mut job.record;
                record.let_end = lease::is_let_end(terminate, record.cancel_requested, record.let_end);
                record.cancel_requested = true;
                Cancelled::Requested
            }
            state => {
                self.cancel_job(&key, JobState::Revoked);
                if state == JobState::Running { Cancelled::Requested } else { Cancelled::Revoked }
            }
        }
    }

    fn cancel_waiting(&mut self, tenant: &TenantId, id: JobId) -> Cancelled {
        let state = self.jobs.get(&(tenant.clone(), id)).map(|job| job.record.state);
        if state == Some(JobState::Running) { Cancelled::Runs } else { self.cancel(tenant, id, true) }
    }

    fn run_now(&mut self, tenant: &TenantId, id: JobId) -> RunNow {
        let key = (tenant.clone(), id);
        let Some(job) = self.jobs.get(&key) else { return RunNow::NotFound };
        match job.record.state {
            JobState::Scheduled | JobState::Retrying => {
                // One that has expired is left to the promoter.
                if job.record.expires_at.is_none_or(|at| at > self.now) {
                    self.leave(&key);
                    self.enqueue(&key, None);
                }
                RunNow::Queued
            }
            state => RunNow::NotWaiting(state),
        }
    }

    pub(super) fn queues(&self, tenant: &TenantId) -> Vec<QueueStats> {
        let stats = |id| {
            let counts = self.scheduler.counts(id);
            QueueStats {
                name: self.scheduler.queue(id).clone(),
                queued: counts.ready,
                running: counts.running,
                delayed: counts.delayed,
                dead: counts.dead,
                paused: counts.paused,
            }
        };
        self.scheduler.of_tenant(tenant).into_iter().filter(|id| self.scheduler.is_known(*id)).map(stats).collect()
    }

    pub(super) fn oldest_ready(&self, tenant: &TenantId) -> Vec<(QueueName, u64)> {
        let mut first = BTreeMap::new();
        for ((_, _), job) in
            self.jobs.iter().filter(|((of, _), job)| of == tenant && job.record.state == JobState::Queued)
        {
            let (record, sub_queue) = (&job.record, job.sub_queue.is_some());
            let known = first.entry((&record.queue, sub_queue, record.priority)).or_insert((job.score, job.ready_at));
            *known = (*known).min((job.score, job.ready_at));
        }
        let mut ages = BTreeMap::new();
        for ((queue, ..), (_, ready_at)) in first {
            let age = ages.entry(queue.clone()).or_insert(0);
            *age = self.now.saturating_sub(ready_at).max(*age);
        }
        ages.into_iter().collect()
    }

    pub(super) fn delete_queue(&mut self, tenant: &TenantId, queue: &QueueName) -> QueueDeleted {
        self.scheduler.delete_queue(tenant, queue)
    }

    pub(super) fn controls(&self, tenant: &TenantId) -> Vec<(Scope, Control)> {
        self.scheduler.controls.of_tenant(tenant)
    }

    pub(super) fn set_control(&mut self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> ControlSet {
        self.scheduler.set_control(tenant, scope, patch, &self.limits)
    }

    pub(super) fn ready_queues(&self) -> Vec<QueueName> {
        self.scheduler.ready_queues().into_iter().take(MAX_READY_QUEUES as usize).collect()
    }
}
