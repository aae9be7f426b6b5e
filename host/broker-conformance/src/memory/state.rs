//! The state, submission, and where a job waits. Each method is one atomic step: these files are what "correct" means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umbel_model::{BucketName, Digest, JobId, JobState, KvKey, ScheduleName, TenantId, UnixMs, WorkerId, rate::Used};

use super::records::{Job, Join, Key, Schedule, Workflow};
use umbel_broker::{
    in_process::Notifications,
    rules::{capacity, dead_set, lease::Reaping, retention, storage, uniqueness::Holder, work_items::WorkItem},
    scheduler::{LimitName, QueueId, Scheduler, SubQueueName},
    *,
};

/// Somebody follows a tenant.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) until: UnixMs,
    /// The number of the last event.
    pub(super) last: u64,
    pub(super) kept: VecDeque<Event>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) jobs: BTreeMap<Key, Job>,
    pub(super) joins: BTreeMap<Key, Join>,
    pub(super) workflows: BTreeMap<Key, Workflow>,
    pub(super) work_items: VecDeque<WorkItem<Key>>,
    /// Work items that the step under way added.
    pub(super) queued_items: VecDeque<WorkItem<Key>>,
    pub(super) scheduler: Scheduler<JobId>,
    /// The used parts of rates.
    pub(super) rates: BTreeMap<LimitName, Used>,
    /// Who holds a unique key.
    pub(super) unique: BTreeMap<(TenantId, String), Holder>,
    pub(super) dead: BTreeSet<Key>,
    pub(super) idempotency: BTreeMap<(TenantId, String), (JobId, String, UnixMs)>,
    pub(super) workers: BTreeMap<WorkerId, (UnixMs, WorkerInfo, Option<WorkerOrder>)>,
    pub(super) documents: BTreeMap<(TenantId, DocumentKind, String), Document>,
    /// What operators let tenants store.
    pub(super) storage_limits: BTreeMap<TenantId, StorageLimits>,
    /// The bytes that documents stand for.
    pub(super) held_bytes: BTreeMap<(TenantId, DocumentKind, String), u64>,
    pub(super) kv: BTreeMap<(TenantId, BucketName, KvKey), KvEntry>,
    /// The last version of an entry of a tenant.
    pub(super) kv_versions: BTreeMap<TenantId, u64>,
    /// By tenant, hour and task; the task is empty of those that have no row of their own.
    pub(super) usage: BTreeMap<(TenantId, u64, String), UsageSum>,
    pub(super) blobs: BTreeMap<(TenantId, Digest), BlobRecord>,
    pub(super) schedules: BTreeMap<(TenantId, ScheduleName), Schedule>,
    /// The last revision of a schedule of a tenant.
    pub(super) schedule_revisions: BTreeMap<TenantId, u64>,
    /// The process that holds the lease of a background service, and until when.
    pub(super) services: BTreeMap<String, (String, UnixMs)>,
    pub(super) reaping: Reaping,
    /// The time of the step under way.
    pub(super) now: UnixMs,
    pub(super) followed: BTreeMap<TenantId, Following>,
    /// The highest number that an event had.
    pub(super) last_event: u64,
    /// Of the step under way.
    pub(super) notifications: Notifications,
}

impl State {
    // ---- submit

    pub(super) fn submit(&mut self, jobs: &[NewJob]) -> Vec<Submitted> {
        jobs.iter().map(|new| self.submit_one(new)).collect()
    }

    pub(super) fn submit_one(&mut self, new: &NewJob) -> Submitted {
        let key = (new.tenant.clone(), new.id);
        if self.jobs.contains_key(&key) {
            return Submitted::Existing(new.id);
        }
        if let Some((id, same)) = self.known_key(&new.tenant, new.idempotency.as_ref()) {
            return if same { Submitted::Existing(id) } else { Submitted::Conflict(id) };
        }
        if let Some(holder) = self.find_duplicate(new) {
            self.keep_key(&new.tenant, new.idempotency.as_ref(), holder);
            return Submitted::Duplicate(holder);
        }
        let dead = new.redrive_of.map(|old| (new.tenant.clone(), old));
        if dead.as_ref().is_some_and(|old| !self.dead.contains(old)) {
            return Submitted::NotDead;
        }
        if let Some(refusal) = capacity::for_job(&self.limits, &self.scheduler, &new.tenant, &new.queue) {
            return refusal;
        }
        if !self.fits(&new.tenant, storage::spec(&new.spec)) {
            return Submitted::StorageFull;
        }
        if let Some(missing) = self.missing_blob(&new.tenant, &new.blobs) {
            return Submitted::MissingBlob(missing);
        }
        if let Some(old) = dead {
            self.leave_dead(&old);
        }
        self.keep_key(&new.tenant, new.idempotency.as_ref(), new.id);
        self.scheduler.queue_id(&new.tenant, &new.queue);
        let (start, place) = self.supersede(new);
        self.jobs.insert(key.clone(), Job::new(self.now, new.clone()));
        self.refer(&key, &new.blobs);
        self.start(&key, start, place);
        self.advance();
        Submitted::Created
    }

    /// The job or workflow that was submitted with this key, and whether its body was the same.
    pub(super) fn known_key(&self, tenant: &TenantId, asked: Option<&Idempotency>) -> Option<(JobId, bool)> {
        let asked = asked?;
        let (id, body, expires) = self.idempotency.get(&(tenant.clone(), asked.key.clone()))?;
        (*expires > self.now).then(|| (*id, *body == asked.body))
    }

    pub(super) fn keep_key(&mut self, tenant: &TenantId, asked: Option<&Idempotency>, id: JobId) {
        if let Some(asked) = asked {
            let entry = (id, asked.body.clone(), self.now + asked.ttl_ms);
            self.idempotency.insert((tenant.clone(), asked.key.clone()), entry);
        }
    }

    /// Queues a job when it starts; `place` in the queue, if that is now.
    pub(super) fn start(&mut self, key: &Key, start: Start, place: Option<u64>) {
        let due = start.due(self.now);
        if due > self.now {
            self.delay(key, JobState::Scheduled, due);
        } else {
            self.enqueue(key, place);
        }
    }

    // ---- where a job waits

    /// The number of a job's tenant queue.
    pub(super) fn queue_of(&self, key: &Key) -> QueueId {
        let id = self.scheduler.find_any(&key.0, &self.jobs[key].record.queue);
        id.expect("a job's tenant queue was made with it")
    }

    pub(super) fn enqueue(&mut self, key: &Key, score: Option<u64>) {
        let id = self.queue_of(key);
        let (behind, now) = (self.scheduler.next_score(self.jobs[key].record.priority), self.now);
        let job = self.job_mut(key);
        job.score = score.unwrap_or(behind);
        job.record.state = JobState::Queued;
        job.record.due_at = None;
        job.ready_at = now;
        job.look_at = job.record.expires_at;
        let task = job.record.task.clone();
        job.sub_queue = job.options().limits.map(|of| SubQueueName { task, key: of.key.unwrap_or_default() });
        let (entry, sub_queue) = ((job.score, key.1), job.sub_queue.clone());
        self.scheduler.insert(id, sub_queue.as_ref(), entry);
        self.record_event(key);
    }

    pub(super) fn delay(&mut self, key: &Key, state: JobState, due: UnixMs) {
        let id = self.queue_of(key);
        let job = self.job_mut(key);
        job.record.due_at = Some(due);
        job.look_at = Some(job.record.expires_at.map_or(due, |expires| expires.min(due)));
        self.scheduler.change(id, |counts| counts.delayed += 1);
        self.set_state(key, state);
    }

    /// Takes a job out of whatever it waits in.
    pub(super) fn leave(&mut self, key: &Key) {
        let id = self.queue_of(key);
        let job = self.job_mut(key);
        let (state, sub_queue, entry) = (job.record.state, job.sub_queue.take(), (job.score, key.1));
        self.scheduler.leave(id, state, sub_queue.as_ref(), entry);
    }

    pub(super) fn finish(&mut self, key: &Key, state: JobState) {
        self.end(key, state, state == JobState::Failed);
    }

    /// Ends a job; `dead`: into the dead set, if it may get there.
    pub(super) fn end(&mut self, key: &Key, state: JobState, dead: bool) {
        let now = self.now;
        let until = self.release_key(key);
        let job = self.job_mut(key);
        let dead = dead && dead_set::may_be_dead(job.new.dead_ttl_ms, job.place.is_some());
        job.record.finished_at = Some(now);
        job.record.due_at = None;
        job.look_at = None;
        // A node is deleted with its workflow.
        let delete_at = retention::delete_job_at(now, dead, job.new.result_ttl_ms, job.new.dead_ttl_ms, until);
        job.delete_at = job.place.is_none().then_some(delete_at);
        if dead {
            self.bury(key);
        }
        self.notifications.ended.push(key.1);
        self.set_state(key, state);
        self.ended_node(key);
    }

    pub(super) fn job_mut(&mut self, key: &Key) -> &mut Job {
        self.jobs.get_mut(key).expect("keys in the indexes name stored jobs")
    }
}
