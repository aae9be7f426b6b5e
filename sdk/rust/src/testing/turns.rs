//! Whose turn it is, one attempt of it, and what follows: decided by `umbel_model::decide`, as on a worker.

use std::time::Duration;

use umbel_model::{Failure, JobState, Outcome, Policy, Resolution, decide};

use super::{App, Attempt, Job, MAX_ATTEMPTS, START_MS, attempt, call, flow, job};
use crate::Context;

impl App {
    /// Runs what is due until then, at most `MAX_ATTEMPTS`.
    pub(super) fn run_until(&mut self, until: u64) -> usize {
        let mut attempts = 0;
        while attempts < MAX_ATTEMPTS {
            let Some((at, number)) = self.next().filter(|(at, _)| *at <= until) else { break };
            self.now_ms = self.now_ms.max(at);
            let expired = self.jobs[number].lock().expires_at.is_some_and(|at| at <= self.now_ms);
            if expired {
                self.end(number, JobState::Expired);
            } else {
                attempts += 1;
                self.attempt(number);
            }
            self.settle_flows();
        }
        attempts
    }

    /// The job to which something happens next, and when.
    fn next(&self) -> Option<(u64, usize)> {
        let turn = |job: &Job| {
            let record = job.lock();
            record.look_at().map(|at| (at.max(self.now_ms), u8::MAX - record.policy.priority, record.number))
        };
        self.jobs.iter().filter_map(turn).min().map(|(at, _, number)| (at, number))
    }

    fn attempt(&mut self, number: usize) {
        let job = self.jobs[number].clone();
        let (context, arguments, policy) = self.prepare(&job);
        let (task, tried) = (job.task(), job.lock().retries + 1);
        let trap = self.traps.iter().find(|(of, attempt, _)| (*of, *attempt) == (number, tried));
        let outcome = match (trap, self.registered(&task)) {
            (Some((_, _, failure)), _) => Outcome::Trap(failure.clone()),
            (None, Ok(task)) => attempt::run(&task.run, &context, &arguments, policy.time_limit_ms),
            (None, Err(refused)) => Outcome::Fatal(Failure::new(refused.kind, refused.message)),
        };
        let started_ms = self.now_ms;
        let duration = context.slept().min(Duration::from_millis(policy.time_limit_ms));
        self.now_ms = self.now_ms.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let (told, failure) = attempt::told(&outcome);
        let random = self.draw();
        let mut record = job.lock();
        let ended = Attempt {
            number: tried,
            delay: Duration::from_millis(started_ms - record.waits_since),
            started: Duration::from_millis(started_ms - START_MS),
            duration,
            outcome: told,
            failure,
            fuel: policy.fuel_after(record.retries, self.bounds.max_fuel),
            logs: context.logs(),
            progress: context.progress_reports(),
            states: context.states(),
            submitted: context.submitted(),
            replacement: context.replacement(),
            added_to_group: context.added_to_group(),
        };
        record.attempts.push(ended.clone());
        record.waits_since = self.now_ms;
        let resolution = decide(outcome, &policy, record.retries, random);
        drop(record);
        self.resolve(number, resolution, &ended);
    }

    /// The context of the attempt.
    fn prepare(&self, job: &Job) -> (Context, call::Arguments, Policy) {
        let mut record = job.lock();
        record.state = JobState::Running;
        record.fence += 1;
        let policy = record.policy.clone();
        let mut context = Context::fake()
            .with_remaining(Duration::from_millis(policy.time_limit_ms))
            .with_unix_time(self.now())
            .with_workflows_before(self.flows.len())
            .with(|attempt| {
                attempt.job_id = job::id_of(record.number);
                attempt.task.clone_from(&record.task);
                attempt.queue = policy.queue.to_string();
                attempt.attempt = record.retries + 1;
                attempt.max_retries = (!policy.retries_unlimited).then_some(policy.max_retries);
                attempt.fence = record.fence;
            });
        if policy.soft_time_limit_ms > 0 {
            context = context.with_soft_limit(Duration::from_millis(policy.soft_time_limit_ms));
        }
        if let Some((flow, node)) = record.node {
            context = context.with_place(flow::id_of(flow), node, self.flows[flow].in_group(node));
        }
        let arguments = record.arguments.clone().unwrap_or(call::Arguments::Each(Vec::new()));
        (context, arguments, policy)
    }

    fn resolve(&mut self, number: usize, resolution: Resolution, ended: &Attempt) {
        let job = self.jobs[number].clone();
        let wait = |state, delay_ms: u64| {
            let mut record = job.lock();
            record.state = state;
            record.due_at = self.now_ms.saturating_add(delay_ms);
        };
        match resolution {
            Resolution::Succeed { result } => match self.grow(number, ended) {
                Err(refused) => self.fail(number, Failure::new(refused.kind, refused.message)),
                Ok(true) => job.lock().state = JobState::Waiting,
                Ok(false) => {
                    let mut record = job.lock();
                    record.result = result.map(|json| json.get().to_owned());
                    record.failure = None;
                    drop(record);
                    self.end(number, JobState::Succeeded);
                }
            },
            Resolution::Fail { failure } => self.fail(number, failure),
            Resolution::Retry { delay_ms, failure } => {
                wait(JobState::Retrying, delay_ms);
                let mut record = job.lock();
                record.retries += 1;
                record.failure = Some(failure);
            }
            Resolution::Snooze { delay_ms } => wait(JobState::Scheduled, delay_ms),
            // No outcome of a task's own leads here.
            Resolution::Revoke | Resolution::Release | Resolution::Replace { .. } => {
                self.end(number, JobState::Revoked)
            }
        }
    }

    pub(super) fn fail(&mut self, number: usize, failure: Failure) {
        let mut record = self.jobs[number].lock();
        // As on a worker: of what nobody wants to know only the kind is kept.
        let forgotten = record.policy.ignore_result && !record.policy.store_errors_even_if_ignored;
        record.failure = Some(if forgotten { Failure::new(failure.kind, "") } else { failure });
        drop(record);
        self.end(number, JobState::Failed);
    }

    pub(super) fn end(&mut self, number: usize, state: JobState) {
        let node = {
            let mut record = self.jobs[number].lock();
            record.state = state;
            record.node
        };
        if let Some((flow, node)) = node {
            self.node_ended(flow, node, state);
        }
    }

    /// Ends a job that waits, and what it waits for if it was replaced.
    pub(super) fn revoke(&mut self, number: usize) {
        self.end(number, JobState::Revoked);
        let children = self.flows.iter().filter(|flow| flow.replaces(number)).flat_map(flow::Flow::jobs);
        for child in children.collect::<Vec<_>>() {
            if !self.jobs[child].state().is_terminal() {
                self.revoke(child);
            }
        }
    }

    /// The next number of SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
