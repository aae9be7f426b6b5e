//! The state and its transitions. Each method is one atomic step; this file is what "correct" means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umbel_model::{
    AttemptRecord, Failure, JobId, JobRecord, JobState, QueueName, Resolution, TenantId, Token, UnixMs, WorkerId,
    job::MAX_HISTORY,
};

use super::canvas::{Gate, Place, Todo, Workflow};
use crate::{CLAIM_SCAN, Limits, MAX_READY_QUEUES, PAGE_SCAN, types::*};

pub(super) type Key = (TenantId, JobId);
pub(super) type Line = (TenantId, QueueName);

/// Orders ready jobs: priority 9 first, then the order of arrival.
fn ready_score(priority: u8, seq: u64) -> u64 {
    (u64::from(9 - priority.min(9)) << 48) | seq
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    /// Of a workflow's node.
    pub(super) place: Option<Place>,
    max_deliveries: u32,
    result_ttl_ms: u64,
    dead_ttl_ms: u64,
    /// Place in the line while queued, kept while running so that the first lost delivery does not lose it.
    score: u64,
    /// Of the current delivery; kept after its settle so that a repeated one is recognised, cleared by the reaper.
    token: Option<Token>,
    lease_until: UnixMs,
    /// When it is to be looked at: due, or expiring.
    look_at: Option<UnixMs>,
    delete_at: Option<UnixMs>,
    logs: Vec<LogLine>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    running: u64,
    pub(super) delayed: u64,
    paused: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) jobs: BTreeMap<Key, Job>,
    pub(super) gates: BTreeMap<Key, Gate>,
    pub(super) workflows: BTreeMap<Key, Workflow>,
    pub(super) todo: VecDeque<Todo>,
    /// Work items that the step under way added.
    pub(super) fresh: VecDeque<Todo>,
    pub(super) ready: BTreeMap<Line, BTreeSet<(u64, JobId)>>,
    /// Tenants with ready jobs in unpaused queues, by virtual start time.
    fair: BTreeMap<QueueName, BTreeMap<TenantId, u64>>,
    pub(super) queues: BTreeMap<Line, Counts>,
    pub(super) dead: BTreeSet<Key>,
    pub(super) idempotency: BTreeMap<(TenantId, String), (JobId, String, UnixMs)>,
    pub(super) workers: BTreeMap<WorkerId, (UnixMs, WorkerInfo)>,
    pub(super) documents: BTreeMap<(TenantId, DocumentKind, String), Document>,
    seq: u64,
    /// Queues that got ready jobs, and jobs that ended, in the step under way.
    pub(super) ready_in: BTreeSet<QueueName>,
    pub(super) ended: Vec<JobId>,
    /// Running jobs to stop.
    pub(super) to_stop: Vec<JobId>,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: BTreeMap::new(),
            gates: BTreeMap::new(),
            workflows: BTreeMap::new(),
            todo: VecDeque::new(),
            fresh: VecDeque::new(),
            ready: BTreeMap::new(),
            fair: BTreeMap::new(),
            queues: BTreeMap::new(),
            dead: BTreeSet::new(),
            idempotency: BTreeMap::new(),
            workers: BTreeMap::new(),
            documents: BTreeMap::new(),
            seq: 0,
            ready_in: BTreeSet::new(),
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
        let dead = new.redrive_of.map(|old| (new.tenant.clone(), old));
        if dead.as_ref().is_some_and(|old| !self.dead.contains(old)) {
            return Submitted::NotDead;
        }
        let line = (new.tenant.clone(), new.queue.clone());
        if let Some(refusal) = self.no_room(&line) {
            return refusal;
        }
        if let Some(old) = dead {
            self.dead.remove(&old);
        }
        if let Some(idempotency) = &new.idempotency {
            let entry = (new.id, idempotency.body.clone(), now + idempotency.ttl_ms);
            self.idempotency.insert((new.tenant.clone(), idempotency.key.clone()), entry);
        }
        self.queues.entry(line).or_default();
        self.jobs.insert(key.clone(), Job::new(now, new));
        self.start(now, &key, new.start);
        Submitted::Created
    }

    pub(super) fn start(&mut self, now: UnixMs, key: &Key, start: Start) {
        let due = match start {
            Start::Now => now,
            Start::After(ms) => now + ms,
            Start::At(at) => at,
        };
        if due > now {
            self.delay(key, JobState::Scheduled, due);
        } else {
            self.enqueue(key, None);
        }
    }

    fn known_submission(&self, now: UnixMs, new: &NewJob) -> Option<Submitted> {
        let idempotency = new.idempotency.as_ref()?;
        let (id, body, expires) = self.idempotency.get(&(new.tenant.clone(), idempotency.key.clone()))?;
        if *expires <= now {
            return None;
        }
        Some(if *body == idempotency.body { Submitted::Existing(*id) } else { Submitted::Conflict(*id) })
    }

    fn no_room(&self, line: &Line) -> Option<Submitted> {
        let Some(counts) = self.queues.get(line) else {
            let queues = self.queues.keys().filter(|(tenant, _)| *tenant == line.0).count() as u64;
            return (queues >= self.limits.max_queues).then_some(Submitted::TooManyQueues);
        };
        let queued = self.ready.get(line).map_or(0, |r| r.len() as u64);
        (queued + counts.delayed >= self.limits.max_backlog).then_some(Submitted::QueueFull)
    }

    // ---- where a job waits

    fn enqueue(&mut self, key: &Key, score: Option<u64>) {
        self.seq += 1;
        let seq = self.seq;
        let job = self.job_mut(key);
        job.score = score.unwrap_or_else(|| ready_score(job.record.priority, seq));
        job.record.state = JobState::Queued;
        job.record.due_at = None;
        job.look_at = job.record.expires_at;
        let (score, queue) = (job.score, job.record.queue.clone());
        let line = (key.0.clone(), queue);
        self.ready.entry(line.clone()).or_default().insert((score, key.1));
        self.activate(&line);
        self.ready_in.insert(line.1);
    }

    fn delay(&mut self, key: &Key, state: JobState, due: UnixMs) {
        let job = self.job_mut(key);
        job.record.state = state;
        job.record.due_at = Some(due);
        job.look_at = Some(job.record.expires_at.map_or(due, |expires| expires.min(due)));
        let line = (key.0.clone(), job.record.queue.clone());
        self.queues.entry(line).or_default().delayed += 1;
    }

    /// A tenant that comes (back) to a queue is served after the one that was served least: level with it, one that comes
    /// back after each of its jobs would always be first.
    fn activate(&mut self, line: &Line) {
        let paused = self.queues.get(line).is_some_and(|c| c.paused);
        let ready = self.ready.get(line).is_some_and(|r| !r.is_empty());
        let fair = self.fair.entry(line.1.clone()).or_default();
        if ready && !paused && !fair.contains_key(&line.0) {
            let tag = fair.values().min().map_or(0, |least| least + 1);
            fair.insert(line.0.clone(), tag);
        }
    }

    fn leave_ready(&mut self, key: &Key) {
        let job = &self.jobs[key];
        let line = (key.0.clone(), job.record.queue.clone());
        let score = job.score;
        let Some(ready) = self.ready.get_mut(&line) else { return };
        ready.remove(&(score, key.1));
        if ready.is_empty() {
            self.ready.remove(&line);
            if let Some(fair) = self.fair.get_mut(&line.1) {
                fair.remove(&line.0);
            }
        }
    }

    fn leave_delayed(&mut self, key: &Key) {
        let line = (key.0.clone(), self.jobs[key].record.queue.clone());
        if let Some(counts) = self.queues.get_mut(&line) {
            counts.delayed -= 1;
        }
    }

    /// Takes a job out of whatever it waits in.
    pub(super) fn leave(&mut self, key: &Key) {
        match self.jobs[key].record.state {
            JobState::Queued => self.leave_ready(key),
            JobState::Scheduled | JobState::Retrying => self.leave_delayed(key),
            JobState::Running => {
                let line = (key.0.clone(), self.jobs[key].record.queue.clone());
                if let Some(counts) = self.queues.get_mut(&line) {
                    counts.running -= 1;
                }
            }
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, now: UnixMs, key: &Key, state: JobState) {
        self.end(now, key, state, state == JobState::Failed);
    }

    /// Ends a job; `dead`: into the dead set.
    pub(super) fn end(&mut self, now: UnixMs, key: &Key, state: JobState, dead: bool) {
        let job = self.job_mut(key);
        job.record.state = state;
        job.record.finished_at = Some(now);
        job.record.due_at = None;
        job.look_at = None;
        let keep_ms = if dead { job.result_ttl_ms.max(job.dead_ttl_ms) } else { job.result_ttl_ms };
        // A node is deleted with its workflow.
        job.delete_at = job.place.is_none().then_some(now + keep_ms);
        if dead {
            self.dead.insert(key.clone());
        }
        self.ended.push(key.1);
        self.ended_node(key);
    }

    pub(super) fn job_mut(&mut self, key: &Key) -> &mut Job {
        self.jobs.get_mut(key).expect("keys in the indexes name stored jobs")
    }

    // ---- claim, renew, settle

    pub(super) fn claim(&mut self, now: UnixMs, claim: &Claim) -> Vec<Delivery> {
        self.advance(now);
        self.hand_out(now, claim)
    }

    /// Ends deliveries, does what follows from that, and hands out more.
    pub(super) fn settle_all(
        &mut self,
        now: UnixMs,
        settles: &[Settle],
        then: Option<&Claim>,
    ) -> (Vec<Settled>, Vec<Delivery>) {
        let settled = settles.iter().map(|settle| self.settle(now, settle)).collect();
        self.advance(now);
        (settled, then.map(|claim| self.hand_out(now, claim)).unwrap_or_default())
    }

    fn hand_out(&mut self, now: UnixMs, claim: &Claim) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let mut budget = claim.max + CLAIM_SCAN;
        for queue in &claim.queues {
            while (deliveries.len() as u32) < claim.max && budget > 0 {
                let Some(key) = self.pick(queue) else { break };
                budget -= 1;
                if self.jobs[&key].record.expires_at.is_some_and(|at| at <= now) {
                    self.finish(now, &key, JobState::Expired);
                } else {
                    let index = deliveries.len();
                    deliveries.push(self.deliver(now, &key, claim, index));
                }
            }
        }
        self.put_off();
        // One that expired may have been the last of its workflow.
        self.finish_workflows(now);
        deliveries
    }

    /// Start-time fair queueing: the tenant served least, by name when level; its turn is counted.
    fn pick(&mut self, queue: &QueueName) -> Option<Key> {
        let fair = self.fair.get_mut(queue)?;
        let (_, tenant) = fair.iter().map(|(tenant, tag)| (*tag, tenant.clone())).min()?;
        if let Some(tag) = fair.get_mut(&tenant) {
            *tag += 1;
        }
        let line = (tenant.clone(), queue.clone());
        let (_, id) = *self.ready.get(&line)?.first()?;
        let key = (tenant, id);
        self.leave_ready(&key);
        Some(key)
    }

    fn deliver(&mut self, now: UnixMs, key: &Key, claim: &Claim, index: usize) -> Delivery {
        let job = self.job_mut(key);
        let record = &mut job.record;
        record.state = JobState::Running;
        record.deliveries += 1;
        record.fence = (now * 1_000).max(record.fence + 1);
        record.started_at = Some(now);
        record.worker = Some(claim.worker.clone());
        job.look_at = None;
        job.lease_until = now + claim.lease_ms;
        let token = Token::new(format!("{}-{index}", claim.token_seed)).expect("a token and a number are a token");
        job.token = Some(token.clone());
        let delivery = Delivery {
            tenant: key.0.clone(),
            id: key.1,
            queue: record.queue.clone(),
            token,
            fence: record.fence,
            spec: record.spec.clone(),
            retries: record.retries,
            delivery: record.deliveries,
            node: None,
        };
        let delivery = Delivery { node: self.delivered(key), ..delivery };
        self.queues.entry((key.0.clone(), delivery.queue.clone())).or_default().running += 1;
        delivery
    }

    pub(super) fn renew(&mut self, now: UnixMs, lease_ms: u64, renewal: &Renewal) -> LeaseState {
        let max_lines = self.limits.max_log_lines;
        match self.jobs.get_mut(&(renewal.tenant.clone(), renewal.id)) {
            Some(job) if job.held_by(&renewal.token) => {
                job.lease_until = now + lease_ms;
                if renewal.progress.is_some() {
                    job.record.progress.clone_from(&renewal.progress);
                }
                job.append_logs(max_lines, &renewal.logs);
                if job.record.cancel_requested { LeaseState::Cancel } else { LeaseState::Held }
            }
            _ => LeaseState::Lost,
        }
    }

    fn settle(&mut self, now: UnixMs, settle: &Settle) -> Settled {
        let key = (settle.tenant.clone(), settle.id);
        let max_lines = self.limits.max_log_lines;
        let Some(job) = self.jobs.get(&key) else { return Settled::Lost };
        if !job.held_by(&settle.token) {
            let repeated =
                job.token.as_ref() == Some(&settle.token) && could_have_followed(&settle.resolution, &job.record);
            return if repeated { Settled::AlreadyDone } else { Settled::Lost };
        }
        // What was cancelled does not come back, and adds nothing as it goes.
        let grows = match settle.resolution {
            Resolution::Succeed { .. } => true,
            Resolution::Replace { .. } => !job.record.cancel_requested,
            _ => false,
        };
        if grows {
            if !self.has_room(&key, settle) {
                return Settled::Refused;
            }
            if let Some(growth) = &settle.growth {
                self.grow(now, &key, growth);
            }
        }
        let job = self.job_mut(&key);
        if settle.progress.is_some() {
            job.record.progress.clone_from(&settle.progress);
        }
        job.append_logs(max_lines, &settle.logs);
        if let Some(record) = &settle.record {
            job.remember(record.clone());
        }
        self.leave(&key);
        self.resolve(now, &key, &settle.resolution);
        Settled::Recorded
    }

    fn resolve(&mut self, now: UnixMs, key: &Key, resolution: &Resolution) {
        let job = self.job_mut(key);
        // What was cancelled does not come back.
        let cancelled = job.record.cancel_requested;
        match resolution {
            Resolution::Succeed { result } => {
                job.record.result.clone_from(result);
                job.record.failure = None;
                self.finish(now, key, JobState::Succeeded);
            }
            Resolution::Fail { failure } => {
                job.record.failure = Some(failure.clone());
                self.finish(now, key, JobState::Failed);
            }
            Resolution::Revoke => self.finish(now, key, JobState::Revoked),
            _ if cancelled => self.finish(now, key, JobState::Revoked),
            Resolution::Retry { delay_ms, failure } => {
                job.record.failure = Some(failure.clone());
                job.record.retries += 1;
                job.record.deliveries = 0;
                self.delay(key, JobState::Retrying, now + delay_ms);
            }
            Resolution::Snooze { delay_ms } => {
                job.record.deliveries = 0;
                self.delay(key, JobState::Scheduled, now + delay_ms);
            }
            Resolution::Release => {
                job.record.deliveries -= 1;
                let score = job.score;
                self.enqueue(key, Some(score));
            }
            Resolution::Replace { workflow } => {
                job.record.state = JobState::Waiting;
                job.record.child = Some(*workflow);
            }
        }
    }

    // ---- the passage of time

    pub(super) fn promote(&mut self, now: UnixMs, max: u32) -> Promoted {
        let mut waiting: Vec<(UnixMs, Key)> =
            self.jobs.iter().filter_map(|(key, job)| Some((job.look_at?, key.clone()))).collect();
        waiting.sort();
        let deadline = self.pass_deadlines(now, max);
        let mut promoted = Promoted { moved: 0, expired: 0, next_due: None };
        for (at, key) in waiting {
            if at > now || promoted.moved + promoted.expired == max {
                promoted.next_due = Some(at);
                break;
            }
            self.leave(&key);
            if self.jobs[&key].record.expires_at.is_some_and(|expires| expires <= now) {
                self.finish(now, &key, JobState::Expired);
                promoted.expired += 1;
            } else {
                self.enqueue(&key, None);
                promoted.moved += 1;
            }
        }
        self.advance(now);
        let left = (!self.todo.is_empty()).then_some(now);
        promoted.next_due = [promoted.next_due, deadline, left].into_iter().flatten().min();
        promoted
    }

    pub(super) fn reap(&mut self, now: UnixMs, max: u32) -> Reaped {
        let running = self.jobs.iter().filter(|(_, job)| job.record.state == JobState::Running);
        let mut lost: Vec<(UnixMs, Key)> = running.map(|(key, job)| (job.lease_until, key.clone())).collect();
        lost.retain(|(until, _)| *until <= now);
        lost.sort();
        lost.truncate(max as usize);
        let mut reaped = Reaped { requeued: 0, buried: 0, revoked: 0 };
        for (_, key) in lost {
            self.leave(&key);
            let job = self.job_mut(&key);
            job.token = None;
            job.remember(AttemptRecord {
                attempt: job.record.retries + 1,
                delivery: job.record.deliveries,
                worker: job.record.worker.clone().expect("a running job has a worker"),
                ended_at: now,
                outcome: "lost".into(),
                failure: None,
                usage: umbel_model::Usage::default(),
            });
            if job.record.cancel_requested {
                self.finish(now, &key, JobState::Revoked);
                reaped.revoked += 1;
            } else if job.record.deliveries >= job.max_deliveries {
                let message = max_deliveries_message(job.record.deliveries);
                job.record.failure = Some(Failure::new("max_deliveries", message));
                self.finish(now, &key, JobState::Failed);
                reaped.buried += 1;
            } else {
                // Lost again, it goes to the end: it must not meet the same others in front of the line for ever.
                let score = (job.record.deliveries < 2).then_some(job.score);
                self.enqueue(&key, score);
                reaped.requeued += 1;
            }
        }
        self.advance(now);
        reaped
    }

    pub(super) fn prune(&mut self, now: UnixMs, max: u32) -> u32 {
        self.idempotency.retain(|_, (_, _, expires)| *expires > now);
        let jobs = self.jobs.iter().filter_map(|(key, job)| Some((job.delete_at?, key.clone())));
        let workflows = self.workflows.iter().filter_map(|(key, w)| Some((w.delete_at?, key.clone())));
        let mut due: Vec<(UnixMs, Key)> = jobs.chain(workflows).collect();
        due.retain(|(at, _)| *at <= now);
        due.sort();
        let mut count = 0;
        for (_, key) in &due {
            if count == max {
                break;
            }
            if self.workflows.contains_key(key) {
                count += self.prune_workflow(now, key, max - count);
                continue;
            }
            self.dead.remove(key);
            if let Some(child) = self.jobs.remove(key).and_then(|job| job.record.child) {
                self.orphan(now, &key.0, child);
            }
            count += 1;
        }
        count
    }

    // ---- readers and wishes

    pub(super) fn job(&self, tenant: &TenantId, id: JobId) -> Option<JobRecord> {
        self.jobs.get(&(tenant.clone(), id)).map(|job| job.record.clone())
    }

    pub(super) fn page(&self, query: &JobQuery) -> JobPage {
        let mut page = JobPage { jobs: Vec::new(), next: None };
        let mine = self.jobs.iter().rev().filter(|((tenant, id), _)| {
            *tenant == query.tenant && (!query.dead || self.dead.contains(&(tenant.clone(), *id)))
        });
        // Nodes are listed by their workflow.
        let mine = mine.filter(|(_, job)| query.dead || job.place.is_none());
        let rest = mine.filter(|((_, id), _)| query.before.is_none_or(|before| *id < before));
        for (scanned, ((_, id), job)) in (1..).zip(rest) {
            let record = &job.record;
            if query.state.is_none_or(|s| s == record.state)
                && query.task.as_ref().is_none_or(|t| *t == record.task)
                && query.queue.as_ref().is_none_or(|q| *q == record.queue)
            {
                page.jobs.push(record.clone());
            }
            if page.jobs.len() as u32 == query.max || scanned == PAGE_SCAN {
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

    pub(super) fn cancel(&mut self, now: UnixMs, tenant: &TenantId, id: JobId) -> Cancelled {
        let key = (tenant.clone(), id);
        if self.is_hidden(&key) {
            return Cancelled::NotFound;
        }
        let Some(job) = self.jobs.get_mut(&key) else { return Cancelled::NotFound };
        match job.record.state {
            state if state.is_terminal() => Cancelled::AlreadyEnded(state),
            JobState::Running => {
                job.record.cancel_requested = true;
                Cancelled::Requested
            }
            _ => {
                job.record.cancel_requested = true;
                let child = job.record.child;
                self.leave(&key);
                self.finish(now, &key, JobState::Revoked);
                if let Some(child) = child {
                    self.give_up(&(tenant.clone(), child), JobState::Revoked);
                }
                self.advance(now);
                Cancelled::Revoked
            }
        }
    }

    pub(super) fn run_now(&mut self, now: UnixMs, tenant: &TenantId, id: JobId) -> RunNow {
        let key = (tenant.clone(), id);
        let Some(job) = self.jobs.get(&key) else { return RunNow::NotFound };
        match job.record.state {
            JobState::Scheduled | JobState::Retrying => {
                // One that has expired is left to the promoter.
                if job.record.expires_at.is_none_or(|at| at > now) {
                    self.leave(&key);
                    self.enqueue(&key, None);
                }
                RunNow::Queued
            }
            state => RunNow::NotWaiting(state),
        }
    }

    pub(super) fn queues(&self, tenant: &TenantId) -> Vec<QueueStats> {
        let mine = self.queues.iter().filter(|((t, _), _)| t == tenant);
        mine.map(|(line, counts)| QueueStats {
            name: line.1.clone(),
            queued: self.ready.get(line).map_or(0, |r| r.len() as u64),
            running: counts.running,
            delayed: counts.delayed,
            paused: counts.paused,
        })
        .collect()
    }

    pub(super) fn ready_queues(&self) -> Vec<QueueName> {
        let ready = self.fair.iter().filter(|(_, tenants)| !tenants.is_empty());
        ready.map(|(queue, _)| queue.clone()).take(MAX_READY_QUEUES as usize).collect()
    }

    pub(super) fn set_paused(&mut self, tenant: &TenantId, queue: &QueueName, paused: bool) -> bool {
        let line = (tenant.clone(), queue.clone());
        let Some(counts) = self.queues.get_mut(&line) else { return false };
        counts.paused = paused;
        if paused {
            if let Some(fair) = self.fair.get_mut(queue) {
                fair.remove(tenant);
            }
        } else {
            self.activate(&line);
            if self.ready.contains_key(&line) {
                self.ready_in.insert(line.1);
            }
        }
        true
    }
}

/// Why the reaper buried a job.
pub fn max_deliveries_message(deliveries: u32) -> String {
    format!("its worker was lost in each of {deliveries} deliveries")
}

/// Whether a job that is in `state` now can be there because of this resolution.
fn could_have_followed(resolution: &Resolution, record: &JobRecord) -> bool {
    let state = record.state;
    match resolution {
        Resolution::Replace { workflow } => record.child == Some(*workflow) || state == JobState::Revoked,
        Resolution::Succeed { .. } => state == JobState::Succeeded,
        Resolution::Fail { .. } => state == JobState::Failed,
        Resolution::Revoke => state == JobState::Revoked,
        Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Waiting)
        }
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
                created_at: now,
                due_at: None,
                expires_at: (new.expires_ms > 0).then_some(now + new.expires_ms),
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

    fn held_by(&self, token: &Token) -> bool {
        self.record.state == JobState::Running && self.token.as_ref() == Some(token)
    }

    fn append_logs(&mut self, max_lines: u64, lines: &[LogLine]) {
        let room = (max_lines as usize).saturating_sub(self.logs.len());
        self.logs.extend(lines.iter().take(room).cloned());
    }

    /// The first attempt and the newest ones are kept.
    fn remember(&mut self, record: AttemptRecord) {
        let history = &mut self.record.history;
        if history.len() == MAX_HISTORY {
            history.remove(1);
        }
        history.push(record);
    }
}
