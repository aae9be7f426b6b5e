//! The state, submission, and where a job waits. Each method is one atomic step: these files are what "correct" means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umbel_model::{
    AttemptRecord, JobId, JobRecord, JobState, QueueName, TenantId, Token, UnixMs, WorkerId, job::MAX_HISTORY,
    rate::Used,
};

use super::records::{Join, Key, Place, WorkItem, Workflow};
use crate::{
    rules::{
        retention, room,
        uniqueness::{self, Holder},
    },
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

#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    /// Of a workflow's node.
    pub(super) place: Option<Place>,
    pub(super) broker_options: Option<Box<BrokerOptions>>,
    /// The sub-queue in which it is queued, or counts as running.
    pub(super) sub_queue: Option<SubQueueName>,
    pub(super) max_deliveries: u32,
    pub(super) result_ttl_ms: u64,
    pub(super) dead_ttl_ms: u64,
    /// Place in the queue while queued, kept while running so that the first lost delivery does not lose it.
    pub(super) score: u64,
    /// Of the current delivery; kept after its settle so that a repeated one is recognised, cleared by the reaper.
    pub(super) token: Option<Token>,
    pub(super) lease_until: UnixMs,
    /// When it is to be looked at: due, or expiring.
    pub(super) look_at: Option<UnixMs>,
    pub(super) delete_at: Option<UnixMs>,
    pub(super) logs: Vec<LogLine>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) jobs: BTreeMap<Key, Job>,
    pub(super) joins: BTreeMap<Key, Join>,
    pub(super) workflows: BTreeMap<Key, Workflow>,
    pub(super) work_items: VecDeque<WorkItem>,
    /// Work items that the step under way added.
    pub(super) queued_items: VecDeque<WorkItem>,
    pub(super) scheduler: Scheduler<JobId>,
    /// The used parts of rates.
    pub(super) rates: BTreeMap<LimitName, Used>,
    /// Who holds a unique key.
    pub(super) unique: BTreeMap<(TenantId, String), Holder>,
    pub(super) dead: BTreeSet<Key>,
    pub(super) idempotency: BTreeMap<(TenantId, String), (JobId, String, UnixMs)>,
    pub(super) workers: BTreeMap<WorkerId, (UnixMs, WorkerInfo, Option<WorkerOrder>)>,
    pub(super) documents: BTreeMap<(TenantId, DocumentKind, String), Document>,
    /// The process that holds the lease of a background service, and until when.
    pub(super) services: BTreeMap<String, (String, UnixMs)>,
    /// The time of the step under way.
    pub(super) now: UnixMs,
    pub(super) followed: BTreeMap<TenantId, Following>,
    /// The highest number that an event had.
    pub(super) last_event: u64,
    /// Jobs that ended in the step under way.
    pub(super) ended: Vec<JobId>,
    /// Running jobs to stop.
    pub(super) to_stop: Vec<JobId>,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: BTreeMap::new(),
            joins: BTreeMap::new(),
            workflows: BTreeMap::new(),
            work_items: VecDeque::new(),
            queued_items: VecDeque::new(),
            scheduler: Scheduler::default(),
            rates: BTreeMap::new(),
            unique: BTreeMap::new(),
            dead: BTreeSet::new(),
            idempotency: BTreeMap::new(),
            workers: BTreeMap::new(),
            documents: BTreeMap::new(),
            services: BTreeMap::new(),
            now: 0,
            followed: BTreeMap::new(),
            last_event: 0,
            ended: Vec::new(),
            to_stop: Vec::new(),
        }
    }

    // ---- submit

    pub(super) fn submit(&mut self, now: UnixMs, new: &NewJob) -> Submitted {
        let key = (new.tenant.clone(), new.id);
        if self.jobs.contains_key(&key) {
            return Submitted::Existing(new.id);
        }
        if let Some(answer) = self.known_submission(now, new) {
            return answer;
        }
        if let Some(holder) = self.find_duplicate(now, new) {
            self.keep_idempotency(now, new, holder);
            return Submitted::Duplicate(holder);
        }
        let dead = new.redrive_of.map(|old| (new.tenant.clone(), old));
        if dead.as_ref().is_some_and(|old| !self.dead.contains(old)) {
            return Submitted::NotDead;
        }
        if let Some(refusal) = self.no_room(&new.tenant, &new.queue) {
            return refusal;
        }
        if let Some(old) = dead {
            self.leave_dead(&old);
        }
        self.keep_idempotency(now, new, new.id);
        self.scheduler.queue_id(&new.tenant, &new.queue);
        let (start, place) = self.supersede(now, new);
        self.jobs.insert(key.clone(), Job::new(now, new));
        self.start_at(now, &key, start, place);
        self.advance(now);
        Submitted::Created
    }

    fn keep_idempotency(&mut self, now: UnixMs, new: &NewJob, id: JobId) {
        if let Some(idempotency) = &new.idempotency {
            let entry = (id, idempotency.body.clone(), now + idempotency.ttl_ms);
            self.idempotency.insert((new.tenant.clone(), idempotency.key.clone()), entry);
        }
    }

    pub(super) fn start(&mut self, now: UnixMs, key: &Key, start: Start) {
        self.start_at(now, key, start, None);
    }

    /// As `start`; `place` in the queue, if it starts now.
    fn start_at(&mut self, now: UnixMs, key: &Key, start: Start, place: Option<u64>) {
        let due = uniqueness::due(start, now);
        if due > now {
            self.delay(key, JobState::Scheduled, due);
        } else {
            self.enqueue(key, place);
        }
    }

    fn known_submission(&self, now: UnixMs, new: &NewJob) -> Option<Submitted> {
        let idempotency = new.idempotency.as_ref()?;
        let (id, body, expires) = self.idempotency.get(&(new.tenant.clone(), idempotency.key.clone()))?;
        if *expires <= now {
            return None;
        }
        Some(uniqueness::repeated_job(*id, *body == idempotency.body))
    }

    fn no_room(&self, tenant: &TenantId, queue: &QueueName) -> Option<Submitted> {
        let counts = self.scheduler.find(tenant, queue).map(|id| self.scheduler.counts(id));
        room::for_job(&self.limits, self.scheduler.queues_of(tenant), counts.map(|of| of.ready + of.delayed))
    }

    // ---- where a job waits

    /// The number of a job's tenant queue.
    pub(super) fn queue_of(&self, key: &Key) -> QueueId {
        let id = self.scheduler.find_any(&key.0, &self.jobs[key].record.queue);
        id.expect("a job's tenant queue was made with it")
    }

    pub(super) fn enqueue(&mut self, key: &Key, score: Option<u64>) {
        let id = self.queue_of(key);
        let behind = self.scheduler.next_score(self.jobs[key].record.priority);
        let job = self.job_mut(key);
        job.score = score.unwrap_or(behind);
        job.record.state = JobState::Queued;
        job.record.due_at = None;
        job.look_at = job.record.expires_at;
        let limits = job.broker_options.as_ref().and_then(|broker_options| broker_options.limits.as_ref());
        job.sub_queue = limits
            .map(|limits| SubQueueName { task: job.record.task.clone(), key: limits.key.clone().unwrap_or_default() });
        let (entry, sub_queue) = ((job.score, key.1), job.sub_queue.clone());
        self.scheduler.insert(id, sub_queue.as_ref(), entry);
        self.record_event(key);
    }

    pub(super) fn delay(&mut self, key: &Key, state: JobState, due: UnixMs) {
        let id = self.queue_of(key);
        let job = self.job_mut(key);
        job.record.state = state;
        job.record.due_at = Some(due);
        job.look_at = Some(job.record.expires_at.map_or(due, |expires| expires.min(due)));
        self.scheduler.change(id, |counts| counts.delayed += 1);
        self.record_event(key);
    }

    /// Takes a job out of whatever it waits in.
    pub(super) fn leave(&mut self, key: &Key) {
        let id = self.queue_of(key);
        let job = self.job_mut(key);
        let (state, sub_queue, entry) = (job.record.state, job.sub_queue.take(), (job.score, key.1));
        match state {
            JobState::Queued => self.scheduler.remove(id, sub_queue.as_ref(), entry),
            JobState::Scheduled | JobState::Retrying => {
                self.scheduler.change(id, |counts| counts.delayed -= 1);
            }
            JobState::Running => self.scheduler.release_capacity(id, sub_queue.as_ref()),
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, now: UnixMs, key: &Key, state: JobState) {
        self.end(now, key, state, state == JobState::Failed);
    }

    /// Ends a job; `dead`: into the dead set, if it may get there.
    pub(super) fn end(&mut self, now: UnixMs, key: &Key, state: JobState, dead: bool) {
        let job = self.job_mut(key);
        let dead = dead && retention::may_be_dead(job.dead_ttl_ms, job.place.is_some());
        job.record.state = state;
        job.record.finished_at = Some(now);
        job.record.due_at = None;
        job.look_at = None;
        let until = self.release_key(key).unwrap_or(0);
        let job = self.job_mut(key);
        // A node is deleted with its workflow.
        let delete_at = retention::delete_job_at(now, dead, job.result_ttl_ms, job.dead_ttl_ms, until);
        job.delete_at = job.place.is_none().then_some(delete_at);
        if dead {
            self.bury(key);
        }
        self.ended.push(key.1);
        self.record_event(key);
        self.ended_node(key);
    }

    pub(super) fn job_mut(&mut self, key: &Key) -> &mut Job {
        self.jobs.get_mut(key).expect("keys in the indexes name stored jobs")
    }
}

impl Job {
    pub(super) fn new(now: UnixMs, new: &NewJob) -> Self {
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
                expires_at: [(new.expires_ms > 0).then_some(now + new.expires_ms), new.expires_at]
                    .into_iter()
                    .flatten()
                    .min(),
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
            place: None,
            broker_options: new.broker_options.clone(),
            sub_queue: None,
            max_deliveries: new.max_deliveries,
            result_ttl_ms: new.result_ttl_ms,
            dead_ttl_ms: new.dead_ttl_ms,
            score: 0,
            token: None,
            lease_until: 0,
            look_at: None,
            delete_at: None,
            logs: Vec::new(),
        }
    }

    pub(super) fn held_by(&self, token: &Token) -> bool {
        self.record.state == JobState::Running && self.token.as_ref() == Some(token)
    }

    pub(super) fn append_logs(&mut self, max_lines: u64, lines: &[LogLine]) {
        let room = (max_lines as usize).saturating_sub(self.logs.len());
        self.logs.extend(lines.iter().take(room).cloned());
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
