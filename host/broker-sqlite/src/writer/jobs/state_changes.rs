//! Changes of a job's state, with its row, its tenant queue and the notifications: every operation is made of them.
//!
//! They change a `Head` in memory; the operation writes it once when it is done with it.

use umbel_broker::{
    StorageLimits,
    rules::{dead_set, retention, storage},
    scheduler::SubQueueName,
};
use umbel_model::{JobState, TenantId, UnixMs};

use crate::error::Fault;
use crate::writer::{jobs::broker_options::LIMITS, jobs::head::Head, step::Step};

impl Head {
    fn be_queued(&mut self, now: UnixMs) {
        self.state = JobState::Queued;
        // A new one is ready since it was submitted.
        self.due_at = (self.rid > 0).then_some(now);
        self.at = self.expires_at;
        self.in_sub_queue = self.has & LIMITS > 0;
    }

    fn be_delayed(&mut self, state: JobState, due: UnixMs) {
        self.state = state;
        self.due_at = Some(due);
        self.at = Some(self.expires_at.map_or(due, |expires| expires.min(due)));
    }
}

impl Step<'_> {
    /// Gives a job its state, and its place at the end of its tenant queue or, if it had one, there. `arrived` must
    /// follow.
    pub(crate) fn place(&mut self, head: &mut Head, due: UnixMs, score: Option<u64>) {
        if due > self.now {
            head.be_delayed(JobState::Scheduled, due);
        } else {
            head.score = score.unwrap_or_else(|| self.scheduler.next_score(head.priority));
            head.be_queued(self.now);
        }
    }

    /// To the end of its tenant queue.
    pub(crate) fn enqueue(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.place(head, self.now, None);
        self.arrived(head)
    }

    /// To where it was in its tenant queue.
    pub(crate) fn enqueue_at_its_place(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.be_queued(self.now);
        self.arrived(head)
    }

    pub(crate) fn delay(&mut self, head: &mut Head, state: JobState, due: UnixMs) -> Result<(), Fault> {
        head.be_delayed(state, due);
        self.arrived(head)
    }

    /// A job that is stored is queued or delayed.
    pub(crate) fn arrived(&mut self, head: &mut Head) -> Result<(), Fault> {
        if head.state == JobState::Queued {
            let sub_queue = self.sub_queue_of(head)?;
            self.scheduler.insert(head.queue_id, sub_queue.as_ref(), (head.score, head.rid));
        } else {
            self.scheduler.change(head.queue_id, |counts| counts.delayed += 1);
        }
        self.record_event(head)
    }

    /// The sub-queue in which a job is queued, or counts as running.
    fn sub_queue_of(&self, head: &mut Head) -> Result<Option<SubQueueName>, Fault> {
        if !head.in_sub_queue {
            return Ok(None);
        }
        let task = head.task(self.conn)?;
        let limits = head.broker_options(self.conn)?.and_then(|broker_options| broker_options.limits.as_ref());
        Ok(Some(SubQueueName { task, key: limits.and_then(|limits| limits.key.clone()).unwrap_or_default() }))
    }

    /// Out of whatever it waits in.
    pub(crate) fn leave(&mut self, head: &mut Head) -> Result<(), Fault> {
        let (id, sub_queue) = (head.queue_id, self.sub_queue_of(head)?);
        head.in_sub_queue = false;
        self.scheduler.leave(id, head.state, sub_queue.as_ref(), (head.score, head.rid));
        Ok(())
    }

    pub(crate) fn finish(&mut self, head: &mut Head, state: JobState) -> Result<(), Fault> {
        self.end(head, state, state == JobState::Failed)
    }

    /// Ends a job; `dead`: into the dead set, if it may get there. What waits for it is told; `save` must follow.
    pub(crate) fn end(&mut self, head: &mut Head, state: JobState, dead: bool) -> Result<(), Fault> {
        let dead = dead && dead_set::may_be_dead(head.dead_ttl_ms, head.workflow.is_some());
        let until = self.release_key(head)?;
        head.state = state;
        head.finished_at = Some(self.now);
        head.due_at = None;
        // It makes way for the time of the end: the row of a node that waited grows no longer.
        head.score = 0;
        // A node is deleted with its workflow.
        let delete_at = retention::delete_job_at(self.now, dead, head.result_ttl_ms, head.dead_ttl_ms, until);
        head.at = head.workflow.is_none().then_some(delete_at);
        if dead {
            self.bury(head)?;
        }
        self.notifications.ended.push(head.id);
        self.record_event(head)?;
        match head.workflow {
            Some(workflow) => self.ended_node(workflow, head),
            None => Ok(()),
        }
    }

    /// Writes a job, and counts its state in its workflow.
    pub(crate) fn save(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.save(self.conn)?;
        self.count_bytes(head);
        if let Some(workflow) = head.workflow
            && head.state != head.was
        {
            self.workflows.count(self.conn, workflow, Some(head.was), Some(head.state))?;
        }
        head.was = head.state;
        Ok(())
    }

    /// What a tenant may store.
    pub(crate) fn storage_limits(&self, tenant: &TenantId) -> StorageLimits {
        self.stored.limits(tenant, StorageLimits::of(self.limits))
    }

    pub(crate) fn set_storage_limits(&mut self, tenant: &TenantId, limits: StorageLimits) -> Result<(), Fault> {
        self.stored.set_limits(self.conn, tenant, limits)
    }

    /// Whether so many bytes more of a tenant's jobs fit.
    pub(crate) fn fits(&self, tenant: &TenantId, more: u64) -> bool {
        storage::fits(self.storage_limits(tenant).jobs, self.stored.of(tenant).jobs, more)
    }

    /// Counts what a job takes now for its tenant.
    pub(crate) fn count_bytes(&mut self, head: &mut Head) {
        let (bytes, log_bytes) = head.counted;
        if (head.bytes, head.log_bytes) == head.counted {
            return;
        }
        self.stored.change(self.scheduler.tenant(head.queue_id), |stored| {
            stored.jobs = (stored.jobs + head.bytes).saturating_sub(bytes);
            stored.logs = (stored.logs + head.log_bytes).saturating_sub(log_bytes);
        });
        head.counted = (head.bytes, head.log_bytes);
    }

    /// Deletes the rows of a job.
    pub(crate) fn delete_rows(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.release_blobs(head)?;
        head.delete(self.conn)?;
        (head.bytes, head.log_bytes) = (0, 0);
        self.count_bytes(head);
        Ok(())
    }
}
