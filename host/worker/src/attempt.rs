//! Runs one delivery: reads what was asked, gets the module ready, calls the guest, and decides what follows.
//!
//! The hot path of a worker: no log line above debug, no clone that a settle does not need.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_broker::Settle;
use umbel_model::{
    AttemptRecord, Digest, Failure, Outcome, Policy, PolicyPatch, Resolution, UnixMs, Usage, WorkerId, decide,
    job::SPEC_VERSION,
};
use umbel_sandbox::{AttemptInfo, Call, Stop};

use crate::{Runtime, active::Active, error::PrepareError};

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
    /// Gives a delivery back that nobody started.
    pub(crate) fn released(active: Arc<Active>) -> Self {
        let settle = settle(&active, Resolution::Release, None);
        Self { active, settle, took_us: None }
    }
}

/// What was asked, borrowed from the record.
#[derive(Debug, Deserialize)]
struct Asked<'a> {
    v: u8,
    #[serde(borrow)]
    task: Cow<'a, str>,
    digest: Digest,
    #[serde(borrow)]
    arguments: &'a RawValue,
    #[serde(default)]
    policy: PolicyPatch,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
}

/// The part of a record that every version has.
#[derive(Debug, Deserialize)]
struct Version {
    v: u64,
}

/// Runs deliveries on the thread that polls it.
pub(crate) struct Attempts {
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
}

impl Ended {
    fn unrun(outcome: Outcome) -> Self {
        Self { outcome, usage: Usage::default(), policy: Policy::default(), ran: false }
    }
}

impl Attempts {
    pub(crate) fn new(runtime: Runtime, worker: WorkerId, background: tokio::runtime::Handle) -> Self {
        Self { runtime, worker, background }
    }

    /// Runs a delivery to its end and says what the broker should do with the job.
    pub(crate) async fn run(&self, active: Arc<Active>) -> Finished {
        let begun = Instant::now();
        active.start(unix_ms());
        // Stopped while it waited: nothing needs to start.
        let ended = match active.stop.stopped() {
            Some(Stop::Cancel) => Ended::unrun(Outcome::Revoked),
            Some(Stop::Release) => Ended::unrun(Outcome::Released),
            None => self.attempt(&active).await,
        };
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ran = ended.ran;
        let settle = self.settle(&active, ended);
        Finished { active, settle, took_us: ran.then_some(took_us) }
    }

    async fn attempt(&self, active: &Arc<Active>) -> Ended {
        let delivery = &active.delivery;
        let asked: Asked<'_> = match serde_json::from_str(&delivery.spec) {
            Ok(asked) => asked,
            Err(error) => return unreadable(active, &error),
        };
        if asked.v > SPEC_VERSION {
            return newer(active, asked.v.into());
        }
        let prepared = match self.runtime.cached(&asked.digest).await {
            Some(prepared) => Ok(prepared),
            None => self.prepare(active, asked.digest).await,
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return Ended::unrun(outcome),
        };
        let policy = Policy::resolve(&asked.policy);
        let info = AttemptInfo {
            job_id: delivery.id.to_string(),
            queue: delivery.queue.as_str().to_owned(),
            attempt: active.attempt(),
            max_retries: (!policy.retries_unlimited).then_some(policy.max_retries),
            delivery: delivery.delivery,
            fence: delivery.fence,
            traceparent: asked.traceparent.as_deref().map(str::to_owned),
        };
        let call = Call {
            task: asked.task.as_ref().into(),
            arguments: asked.arguments.get().into(),
            fuel: policy.fuel,
            memory_bytes: policy.memory_bytes,
            time_limit_ms: policy.time_limit_ms,
            soft_time_limit_ms: policy.soft_time_limit_ms,
            info,
        };
        let attempt = self.runtime.sandbox().run(&prepared, call, active.clone(), &active.stop).await;
        tracing::debug!(
            tenant = %delivery.tenant, job = %delivery.id, attempt = active.attempt(), worker = %self.worker,
            task = ?asked.task, request_id = ?asked.request_id, traceparent = ?asked.traceparent, outcome = name(&attempt.outcome),
            duration_us = attempt.usage.duration_us, fuel = attempt.usage.fuel, "attempt ended"
        );
        Ended { outcome: attempt.outcome, usage: attempt.usage, policy, ran: true }
    }

    async fn prepare(&self, active: &Arc<Active>, digest: Digest) -> Result<umbel_sandbox::Prepared, Outcome> {
        let runtime = self.runtime.clone();
        let preparing = self.background.spawn(async move { runtime.prepared(digest).await });
        let error = match preparing.await {
            Ok(Ok(prepared)) => return Ok(prepared),
            Ok(Err(error)) => error,
            Err(_) => PrepareError::Unavailable(digest, "the preparation was stopped".into()),
        };
        let delivery = &active.delivery;
        let (tenant, job) = (&delivery.tenant, &delivery.id);
        if let PrepareError::Refused(..) = &error {
            tracing::warn!(%tenant, %job, worker = %self.worker, %error, "job failed: its module is refused");
            return Err(Outcome::Fatal(Failure::new("module_refused", error.to_string())));
        }
        tracing::error!(%tenant, %job, worker = %self.worker, %error, retry_in_ms = PARK_MS, "job put aside");
        Err(Outcome::Snooze { delay_ms: PARK_MS })
    }

    fn settle(&self, active: &Active, ended: Ended) -> Settle {
        let Ended { outcome, usage, policy, .. } = ended;
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
            outcome: name(&outcome).to_owned(),
            failure,
            usage,
        };
        let random = if matches!(outcome, Outcome::Error { .. }) { random_u64() } else { 0 };
        settle(active, decide(outcome, &policy, active.delivery.retries, random), Some(record))
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
    }
}

/// A record that a newer Umbel wrote is for a newer worker; any other that cannot be read fails its job.
fn unreadable(active: &Active, error: &serde_json::Error) -> Ended {
    match serde_json::from_str::<Version>(&active.delivery.spec) {
        Ok(Version { v }) if v > u64::from(SPEC_VERSION) => newer(active, v),
        _ => {
            let delivery = &active.delivery;
            tracing::error!(tenant = %delivery.tenant, job = %delivery.id, %error, "a job's record cannot be read");
            Ended::unrun(Outcome::Fatal(Failure::new("bad_spec", format!("the job's record cannot be read: {error}"))))
        }
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
