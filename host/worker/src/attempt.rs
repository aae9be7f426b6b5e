//! Runs one delivery: reads what was asked, gets the module ready, calls the guest, and decides what follows.
//!
//! The hot path of a worker: no log line above debug unless a job failed, no clone that a settle does not need.
//! Invariant: a delivery that was started is finished, whatever panics meanwhile.

use std::{
    borrow::Cow,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use futures::FutureExt as _;
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{Broker, DeliveredNode, Growth, Input, Settle};
use umbel_model::{
    AttemptRecord, Digest, Failure, Outcome, Policy, PolicyPatch, Resolution, UnixMs, Usage, WorkerId, WorkflowId,
    decide,
};
use umbel_sandbox::{AttemptInfo, Call, Place, Stop};

use crate::{
    Runtime,
    active::Active,
    asked::{self, Asked, Calls, Templates, Unasked},
    error::PrepareError,
    growth::Grower,
};

/// How long a job is put aside when this worker cannot run it now but a later or another one may, milliseconds.
pub(crate) const PARK_MS: u64 = 30_000;

/// The end of one delivery on this worker.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) active: Arc<Active>,
    pub(crate) settle: Settle,
    /// On its slot, microseconds. None if no guest ran.
    pub(crate) took_us: Option<u64>,
}

impl Finished {
    /// The end of a delivery whose growth the broker had no room for: an error, retried as its policy says.
    pub(crate) fn refused(active: Arc<Active>, refused: &Settle) -> Self {
        #[derive(Deserialize)]
        struct Policed {
            #[serde(default)]
            policy: PolicyPatch,
        }
        let patch = serde_json::from_str::<Policed>(&active.delivery.spec).map(|spec| spec.policy).unwrap_or_default();
        let message = "there is no room for the jobs that the task wants to add: a queue, or the list of workflows, is \
                       full, or its group is over";
        let failure = Failure::new("host_limit:canvas_room", message);
        let outcome = Outcome::Error { failure: failure.clone(), retry_after_ms: None };
        let record = refused.record.clone().map(|record| AttemptRecord {
            outcome: "error".into(),
            failure: Some(failure),
            ..record
        });
        let resolution = decide(outcome, &Policy::resolve(&patch), active.delivery.retries, random_u64());
        // What the guest said was not taken either.
        let (progress, logs) = (refused.progress.clone(), refused.logs.clone());
        let settle = Settle { progress, logs, ..settle(&active, resolution, record) };
        Self { active, settle, took_us: None }
    }

    /// Gives a delivery back that nobody started.
    pub(crate) fn released(active: Arc<Active>) -> Self {
        let settle = settle(&active, Resolution::Release, None);
        Self { active, settle, took_us: None }
    }
}

/// Runs deliveries on the thread that polls it.
pub(crate) struct Attempts {
    broker: Arc<dyn Broker>,
    grower: Arc<Grower>,
    templates: Templates,
    runtime: Runtime,
    worker: WorkerId,
    /// Where modules are fetched and compiled: never on the guests' threads.
    background: tokio::runtime::Handle,
}

/// What became of an attempt, before the policy says what follows.
struct Ended {
    outcome: Outcome,
    usage: Usage,
    policy: Policy,
    ran: bool,
    /// What its guest asked of canvas, ready to be stored with its outcome.
    growth: Option<Box<Growth>>,
    replaced_by: Option<WorkflowId>,
}

impl Ended {
    fn unrun(outcome: Outcome) -> Self {
        Self {
            outcome,
            usage: Usage::default(),
            policy: Policy::default(),
            ran: false,
            growth: None,
            replaced_by: None,
        }
    }
}

impl Attempts {
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        runtime: Runtime,
        worker: WorkerId,
        background: tokio::runtime::Handle,
    ) -> Self {
        let grower = Arc::new(Grower::new(broker.clone(), runtime.bounds().clone()));
        Self { broker, grower, templates: Templates::default(), runtime, worker, background }
    }

    /// Runs a delivery to its end and says what the broker should do with the job. A panic fails the job: its delivery
    /// would otherwise be held for ever, and a second attempt may panic again.
    pub(crate) async fn run_caught(&self, active: Arc<Active>) -> Finished {
        let run = self.run(active.clone());
        caught(active, &self.worker, run).await
    }

    async fn run(&self, active: Arc<Active>) -> Finished {
        let begun = Instant::now();
        active.start(unix_ms());
        // Stopped while it waited: nothing needs to start.
        let ended = match active.stop.stopped() {
            Some(stop) => Ended::unrun(stopped(stop)),
            None => self.attempt(&active).await,
        };
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ran = ended.ran;
        let settle = self.settle(&active, ended);
        Finished { active, settle, took_us: ran.then_some(took_us) }
    }

    async fn attempt(&self, active: &Arc<Active>) -> Ended {
        let delivery = &active.delivery;
        let template;
        let asked = match &delivery.node {
            None => asked::read_job(delivery),
            Some(node) => match (self.templates.parsed(&delivery.spec), self.input(active, node).await) {
                (Ok(parsed), Ok(input)) => {
                    template = parsed;
                    asked::read_node(&template, node, input.as_deref())
                }
                (Err(unasked), _) | (_, Err(unasked)) => Err(unasked),
            },
        };
        match asked {
            Ok(asked) => self.call(active, asked).await,
            Err(Unasked::Newer(version)) => newer(active, version),
            Err(Unasked::Ended(outcome)) => Ended::unrun(outcome),
        }
    }

    /// What goes in front of a node's arguments.
    async fn input(&self, active: &Arc<Active>, node: &DeliveredNode) -> Result<Option<String>, Unasked> {
        match &node.input {
            Input::Nothing => return Ok(None),
            Input::Value(value) => return Ok(Some(value.clone())),
            Input::Result(_) | Input::Error(_) => {}
        }
        let (broker, reader) = (self.broker.clone(), active.clone());
        let read = async move { asked::read_input(&*broker, &reader.delivery).await };
        match self.in_background(active, read).await {
            Ok(read) => read,
            Err(outcome) => Err(Unasked::Ended(outcome)),
        }
    }

    /// Runs what waits for other machines where it does not hold up guests, until the attempt is stopped.
    async fn in_background<T: Send + 'static>(
        &self,
        active: &Active,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Outcome> {
        let task = AbortOnDropHandle::new(self.background.spawn(work));
        tokio::select! {
            biased;
            done = task => match done {
                Ok(done) => Ok(done),
                Err(error) if error.is_panic() => Err(Outcome::Fatal(host_panic())),
                Err(_) => Err(Outcome::Released),
            },
            stop = active.stop.wait() => Err(stopped(stop)),
        }
    }

    async fn call(&self, active: &Arc<Active>, asked: Asked<'_>) -> Ended {
        let delivery = &active.delivery;
        let policy = Policy::resolve(&asked.policy);
        let prepared = match self.runtime.cached(&asked.digest).await {
            Some(prepared) => Ok(prepared),
            None => self.prepare(active, asked.digest).await,
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return Ended { policy, ..Ended::unrun(outcome) },
        };
        let info = AttemptInfo {
            job_id: delivery.id.to_string(),
            queue: delivery.queue.as_str().to_owned(),
            attempt: active.attempt(),
            max_retries: (!policy.retries_unlimited).then_some(policy.max_retries),
            delivery: delivery.delivery,
            fence: delivery.fence,
            traceparent: asked.traceparent.as_deref().map(str::to_owned),
            place: delivery.node.as_ref().map(|node| Place {
                workflow_id: node.workflow.to_string(),
                node: node.node,
                in_group: node.group.is_some(),
            }),
        };
        let call = |arguments: Box<str>| Call {
            task: asked.task.as_ref().into(),
            arguments,
            fuel: policy.fuel,
            memory_bytes: policy.memory_bytes,
            time_limit_ms: policy.time_limit_ms,
            soft_time_limit_ms: policy.soft_time_limit_ms,
            info,
        };
        let sandbox = self.runtime.sandbox();
        let attempt = match asked.calls {
            Calls::One(arguments) => sandbox.run(&prepared, call(arguments), active.clone(), &active.stop).await,
            Calls::Each(items) => {
                sandbox.run_each(&prepared, call("{}".into()), items, active.clone(), &active.stop).await
            }
        };
        tracing::debug!(
            tenant = %delivery.tenant, job = %delivery.id, attempt = active.attempt(), worker = %self.worker,
            task = ?asked.task, request_id = ?asked.request_id, traceparent = ?asked.traceparent, outcome = name(&attempt.outcome),
            duration_us = attempt.usage.duration_us, fuel = attempt.usage.fuel, "attempt ended"
        );
        let ended = Ended { usage: attempt.usage, policy, ran: true, ..Ended::unrun(attempt.outcome) };
        self.grown(active, ended).await
    }

    /// Adds what the guest asked of canvas, if it ended well.
    async fn grown(&self, active: &Arc<Active>, ended: Ended) -> Ended {
        let wishes = active.take_wishes();
        if wishes.is_empty() || !matches!(ended.outcome, Outcome::Value(_) | Outcome::Ignore) {
            return ended;
        }
        let (grower, asker) = (self.grower.clone(), active.clone());
        let template = active.delivery.node.as_ref().and_then(|_| self.templates.parsed(&active.delivery.spec).ok());
        let grow = async move { grower.grow(&asker.delivery, template.as_deref(), wishes).await };
        match self.in_background(active, grow).await {
            Ok(Ok((growth, replaced_by))) => Ended { growth: Some(Box::new(growth)), replaced_by, ..ended },
            Ok(Err(outcome)) | Err(outcome) => Ended { outcome, ..ended },
        }
    }

    async fn prepare(&self, active: &Arc<Active>, digest: Digest) -> Result<umbel_sandbox::Prepared, Outcome> {
        let runtime = self.runtime.clone();
        let preparing = self.background.spawn(async move { runtime.prepared(digest).await });
        let error = tokio::select! {
            biased;
            prepared = preparing => match prepared {
                Ok(Ok(prepared)) => return Ok(prepared),
                Ok(Err(error)) => error,
                Err(error) if error.is_panic() => return Err(Outcome::Fatal(host_panic())),
                Err(_) => PrepareError::Unavailable(digest, "the preparation was stopped".into()),
            },
            // The preparation goes on: other jobs of the module wait for it.
            stop = active.stop.wait() => return Err(stopped(stop)),
        };
        Err(self.unprepared(active, &error))
    }

    fn unprepared(&self, active: &Active, error: &PrepareError) -> Outcome {
        let (tenant, job, worker) = (&active.delivery.tenant, &active.delivery.id, &self.worker);
        let kind = match error {
            PrepareError::Refused(..) => return Outcome::Fatal(Failure::new("module_refused", error.to_string())),
            PrepareError::Unavailable(..) => {
                tracing::error!(%tenant, %job, %worker, %error, retry_in_ms = PARK_MS, "job put aside");
                return Outcome::Snooze { delay_ms: PARK_MS };
            }
            PrepareError::Missing(_) => "module_missing",
            PrepareError::Corrupted(_) => "corrupted_blob",
        };
        // It may be pushed again, but not for ever: under the job's policy it ends in the dead set, where it is seen.
        tracing::error!(%tenant, %job, %worker, %error, "the module of a job cannot be read");
        Outcome::Error { failure: Failure::new(kind, error.to_string()), retry_after_ms: Some(PARK_MS) }
    }

    fn settle(&self, active: &Active, ended: Ended) -> Settle {
        let Ended { outcome, usage, policy, growth, replaced_by, .. } = ended;
        if let Outcome::Released = outcome {
            return settle(active, Resolution::Release, None);
        }
        let failure = match &outcome {
            Outcome::Error { failure, .. } | Outcome::Fatal(failure) | Outcome::Trap(failure) => Some(failure.clone()),
            Outcome::Reject { reason } => Some(Failure::new("rejected", reason.as_str())),
            _ => None,
        };
        let record = AttemptRecord {
            attempt: active.attempt(),
            delivery: active.delivery.delivery,
            worker: self.worker.clone(),
            ended_at: unix_ms(),
            outcome: replaced_by.map_or(name(&outcome), |_| "replaced").to_owned(),
            failure,
            usage,
        };
        let random = if matches!(outcome, Outcome::Error { .. }) { random_u64() } else { 0 };
        let resolution = match replaced_by {
            Some(workflow) => Resolution::Replace { workflow },
            None => decide(outcome, &policy, active.delivery.retries, random),
        };
        if let Resolution::Fail { failure } = &resolution {
            log_failed(active, &self.worker, failure);
        }
        Settle { growth, ..settle(active, resolution, Some(record)) }
    }
}

/// For operators: what failed and where, and nothing that a guest may have put a secret into.
fn log_failed(active: &Active, worker: &WorkerId, failure: &Failure) {
    #[derive(Deserialize)]
    struct Task<'a> {
        #[serde(borrow)]
        task: Cow<'a, str>,
    }
    let delivery = &active.delivery;
    let task = serde_json::from_str::<Task<'_>>(&delivery.spec).ok().map(|spec| spec.task);
    tracing::warn!(
        tenant = %delivery.tenant, job = %delivery.id, queue = %delivery.queue, attempt = active.attempt(), %worker,
        task = ?task.unwrap_or_default(), kind = ?failure.kind, "job failed"
    );
}

async fn caught(active: Arc<Active>, worker: &WorkerId, run: impl Future<Output = Finished>) -> Finished {
    // What a panic leaves half done is the job's own and is dropped with the future.
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(finished) => finished,
        Err(_) => panicked(active, worker),
    }
}

/// The end of a delivery whose attempt panicked.
fn panicked(active: Arc<Active>, worker: &WorkerId) -> Finished {
    let delivery = &active.delivery;
    tracing::error!(tenant = %delivery.tenant, job = %delivery.id, %worker, "the host panicked while it ran a job");
    let failure = host_panic();
    log_failed(&active, worker, &failure);
    let record = AttemptRecord {
        attempt: active.attempt(),
        delivery: delivery.delivery,
        worker: worker.clone(),
        ended_at: unix_ms(),
        outcome: "fatal".to_owned(),
        failure: Some(failure.clone()),
        usage: Usage::default(),
    };
    let settle = settle(&active, Resolution::Fail { failure }, Some(record));
    Finished { active, settle, took_us: None }
}

/// Without the panic's words, which are for the worker's log and not for a tenant.
fn host_panic() -> Failure {
    Failure::new("host_panic", "umbel panicked while it ran this attempt; the worker's log says where")
}

fn stopped(stop: Stop) -> Outcome {
    match stop {
        Stop::Cancel => Outcome::Revoked,
        Stop::Release => Outcome::Released,
    }
}

fn settle(active: &Active, resolution: Resolution, record: Option<AttemptRecord>) -> Settle {
    Settle {
        tenant: active.delivery.tenant.clone(),
        id: active.delivery.id,
        token: active.delivery.token.clone(),
        resolution,
        record,
        progress: None,
        logs: Vec::new(),
        growth: None,
    }
}

fn newer(active: &Active, version: u64) -> Ended {
    let delivery = &active.delivery;
    tracing::warn!(
        tenant = %delivery.tenant, job = %delivery.id, version, retry_in_ms = PARK_MS,
        "job put aside: a newer version of umbel submitted it; update this worker"
    );
    Ended::unrun(Outcome::Snooze { delay_ms: PARK_MS })
}

/// The outcome's name in a job's history.
fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Value(_) => "succeeded",
        Outcome::Error { .. } => "error",
        Outcome::Fatal(_) => "fatal",
        Outcome::Snooze { .. } => "snoozed",
        Outcome::Reject { .. } => "rejected",
        Outcome::Ignore => "ignored",
        Outcome::Trap(_) => "trap",
        Outcome::Revoked => "revoked",
        Outcome::Released => "released",
    }
}

/// This machine's clock: for people only, it decides nothing.
pub(crate) fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Uniform. Falls back to the clock when the system has no randomness, which only makes jitter worse.
pub(crate) fn random_u64() -> u64 {
    getrandom::u64().unwrap_or_else(|_| unix_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[cfg(test)]
mod tests {
    use umbel_broker::Delivery;
    use umbel_model::{JobId, QueueName, TenantId, Token};

    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_job_and_leaves_the_slot() {
        let delivery = Delivery {
            tenant: TenantId::new("t1").unwrap(),
            id: JobId::from_parts(1, 1),
            queue: QueueName::default(),
            token: Token::new("ab").unwrap(),
            fence: 1,
            spec: "not even a record".into(),
            retries: 2,
            delivery: 1,
            node: None,
        };
        let active = Arc::new(Active::new(1, delivery, Arc::default(), Arc::default()));
        let worker = WorkerId::new("w").unwrap();
        let finished = caught(active, &worker, async { panic!("as the test wants") }).await;
        let Resolution::Fail { failure } = finished.settle.resolution else { panic!("{:?}", finished.settle) };
        assert_eq!(failure.kind, "host_panic");
        assert!(!failure.message.contains("as the test wants"));
        let record = finished.settle.record.unwrap();
        assert_eq!((record.attempt, record.outcome.as_str(), record.failure), (3, "fatal", Some(failure)));
    }
}
