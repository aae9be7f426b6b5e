//! Runs one delivery: reads its invocation, gets the module ready, calls the guest, and completes the outcome.
//!
//! The hot path of a worker: no log line above debug unless a job failed, no clone that a settle does not need.
//! Invariant: a delivery that was started is finished, even if the host panics meanwhile.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt as _;
use serde_json::value::RawValue;
use tokio::{runtime::Handle, task::JoinError};
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{Broker, DeliveredNode, Delivery, Input, KvDelivery, LargeValues as _};
use umbel_capabilities::{AttemptSecrets, Grants, Meter, Reach};
use umbel_model::{
    Acks, BlobReferences, Digest, Failure, LargeValue, Outcome, WorkerId, blob_reference::MAX_REFERENCES,
    large_value::REFERENCE,
};
use umbel_modules::Error as StoreError;
use umbel_sandbox::{AttemptInfo, Call, Fire, WorkflowNode};

use crate::{
    Ready, Runtime,
    active_delivery::ActiveDelivery,
    blobs::AttemptBlobs,
    completion::{Ended, Finished, host_panic, name},
    config_values::ConfigCache,
    error::PrepareError,
    grants::GrantsCache,
    guest_threads::computing,
    invocation::{self, Calls, Invocation, SNOOZE_MS, Templates},
    key_values::KeyValues,
    memory::MemoryBudget,
    operating_system::unix_ms,
    request_composer::RequestComposer,
    secrets::SecretCache,
};

/// The failure of a job that may run only once and whose large result was not stored.
const UNSTORED: &str = "its result is large, and could not be stored; see the worker's log";

/// The same of a blob that it wrote.
const BLOB_UNSTORED: &str = "a blob that it wrote could not be stored; see the worker's log";

/// How long a job stays away while its module is compiled, milliseconds.
const COMPILING_MS: u64 = 1_000;

/// Runs deliveries on the thread that polls it.
pub(crate) struct Attempts {
    broker: Arc<dyn Broker>,
    composer: Arc<RequestComposer>,
    templates: Templates,
    runtime: Runtime,
    grants: Arc<GrantsCache>,
    config: Arc<ConfigCache>,
    secrets: Arc<SecretCache>,
    memory: MemoryBudget,
    worker: WorkerId,
    /// Where modules are fetched and compiled: never on the guests' threads.
    background: Handle,
}

impl Attempts {
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        runtime: Runtime,
        memory: MemoryBudget,
        worker: WorkerId,
        background: Handle,
    ) -> Self {
        let composer = Arc::new(RequestComposer::new(broker.clone(), runtime.bounds().clone()));
        let grants = GrantsCache::new(broker.clone(), background.clone());
        let config = ConfigCache::new(broker.clone(), background.clone());
        let secrets = SecretCache::new(broker.clone(), runtime.master_keys().clone(), background.clone());
        let templates = Templates::default();
        Self { broker, composer, templates, runtime, grants, config, secrets, memory, worker, background }
    }

    /// Runs a delivery to its end. A panic of the host fails the job: its delivery would otherwise be held for ever, and a
    /// second attempt may panic again.
    pub(crate) async fn run_caught(&self, active: Arc<ActiveDelivery>) -> Finished {
        let run = self.run(active.clone());
        caught(active, &self.worker, run).await
    }

    async fn run(&self, active: Arc<ActiveDelivery>) -> Finished {
        let begun = Instant::now();
        active.start(unix_ms());
        // Stopped while it waited for a slot.
        let ended = match active.stop.stopped() {
            Some(stop) => Ended::unrun(stop.outcome()),
            None => self.read_and_call(&active).await.unwrap_or_else(Ended::unrun),
        };
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ran = ended.ran;
        let mut settle = ended.settle(&active, &self.worker);
        // Its id has the time of its submission; that of a node, of its workflow's.
        let age_ms = unix_ms().saturating_sub(active.delivery.id.timestamp_ms());
        settle.resolution = settle.resolution.within_lifetime(age_ms, self.runtime.bounds().max_lifetime_ms);
        Finished { active, settle, took_us: ran.then_some(took_us) }
    }

    async fn read_and_call(&self, active: &Arc<ActiveDelivery>) -> Result<Ended, Outcome> {
        let template;
        let mut invocation = match &active.delivery.node {
            None => invocation::read_job(active)?,
            Some(node) => {
                template = self.templates.parsed(&active.delivery)?;
                let input = self.input(active, node).await?;
                invocation::read_node(active, &template, node, input.as_deref())?
            }
        };
        if let Some(stored) = invocation.stored.take() {
            let (large, reader) = (self.runtime.clone(), active.clone());
            let read = async move { large.read(&reader.delivery.tenant, &stored).await };
            let text = self.in_background(active, read).await?.map_err(|e| invocation::unread(&active.delivery, e))?;
            invocation.calls = Calls::One(text.into());
        }
        self.call(active, invocation).await
    }

    /// The first argument of a node: the result or error of its source.
    async fn input(&self, active: &Arc<ActiveDelivery>, node: &DeliveredNode) -> Result<Option<String>, Outcome> {
        match &node.input {
            Input::Nothing => return Ok(None),
            Input::Value(value) if !value.starts_with(REFERENCE) => return Ok(Some(value.clone())),
            Input::Value(_) | Input::Result(_) | Input::Error(_) => {}
        }
        let (broker, large, reader) = (self.broker.clone(), self.runtime.clone(), active.clone());
        let read = async move { invocation::read_input(&*broker, &large, &reader.delivery).await };
        self.in_background(active, read).await?
    }

    /// Runs `work`, which waits for other machines, away from the guests' threads, until the attempt is stopped.
    async fn in_background<T: Send + 'static>(
        &self,
        active: &ActiveDelivery,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Outcome> {
        until_stopped(active, AbortOnDropHandle::new(self.background.spawn(work))).await
    }

    /// The blobs of the tenant, for one attempt.
    fn blobs(&self, delivery: &Delivery) -> Arc<AttemptBlobs> {
        let (broker, store, tenant) = (self.broker.clone(), self.runtime.store().clone(), delivery.tenant.clone());
        Arc::new(AttemptBlobs::new(broker, store, tenant, self.runtime.max_blob_bytes(), self.background.clone()))
    }

    /// What the guest of a delivery can reach, as far as its grants allow it.
    fn reach(&self, delivery: &Delivery, module: Digest, task: &str, blobs: Arc<AttemptBlobs>) -> Reach {
        let held = KvDelivery { job: delivery.id, token: delivery.token.clone() };
        let (broker, tenant) = (self.broker.clone(), delivery.tenant.clone());
        let kv = Arc::new(KeyValues::new(broker, tenant, Some(held), self.background.clone()));
        let grants: Arc<dyn Grants> = Arc::new(self.grants.of(&delivery.tenant, module, task));
        let config = Arc::new(self.config.of(&delivery.tenant, task));
        let secrets = AttemptSecrets::new(Arc::new(self.secrets.of(&delivery.tenant)), grants.clone());
        let meter = Arc::<Meter>::default();
        let http = self.runtime.http().map(|client| {
            client.attempt(delivery.tenant.clone(), module, grants.clone(), meter.clone(), secrets.clone())
        });
        Reach { grants, meter, http, kv, config, blobs, secrets }
    }

    async fn call(&self, active: &Arc<ActiveDelivery>, invocation: Invocation<'_>) -> Result<Ended, Outcome> {
        let delivery = &active.delivery;
        let policy = active.policy();
        let prepared = match self.runtime.cached(&invocation.digest).await {
            Some(prepared) => prepared,
            None => self.prepare(active, invocation.digest).await?,
        };
        let info = AttemptInfo {
            job_id: delivery.id.to_string(),
            queue: delivery.queue.as_str().to_owned(),
            attempt: active.attempt(),
            max_retries: (!policy.retries_unlimited).then_some(policy.max_retries),
            delivery: delivery.delivery,
            fence: delivery.fence,
            traceparent: invocation.traceparent.as_deref().map(str::to_owned),
            workflow_node: delivery.node.as_ref().map(|node| WorkflowNode {
                workflow_id: node.workflow.to_string(),
                node: node.node,
                in_group: node.group.is_some(),
            }),
            fire: invocation.schedule.as_deref().map(|stamp| Fire {
                schedule: stamp.name.to_string(),
                nominal_ms: stamp.nominal_at,
                fired_ms: stamp.fired_at,
            }),
        };
        let blobs = self.blobs(delivery);
        let call = |arguments: Box<str>| Call {
            task: invocation.task.as_ref().into(),
            arguments,
            fuel: policy.fuel_after(delivery.retries, self.runtime.bounds().max_fuel),
            memory_bytes: policy.memory_bytes,
            time_limit_ms: policy.time_limit_ms,
            soft_time_limit_ms: policy.soft_time_limit_ms,
            info,
            reach: self.reach(delivery, invocation.digest, &invocation.task, blobs.clone()),
        };
        let sandbox = self.runtime.sandbox();
        let _memory = tokio::select! {
            biased;
            granted = self.memory.take(policy.memory_bytes) => granted,
            stop = active.stop.wait() => return Err(stop.outcome()),
        };
        let run = async {
            match invocation.calls {
                Calls::One(arguments) => sandbox.run(&prepared, call(arguments), active.clone(), &active.stop).await,
                Calls::Map(items) => {
                    sandbox.run_map(&prepared, call("{}".into()), items, active.clone(), &active.stop).await
                }
            }
        };
        let (mut attempt, computed) = computing(run).await;
        let cpu_us = u64::try_from(computed.as_micros()).unwrap_or(u64::MAX);
        attempt.usage.cpu_us = cpu_us.min(attempt.usage.duration_us);
        tracing::debug!(
            tenant = %delivery.tenant, job = %delivery.id, attempt = active.attempt(), worker = %self.worker,
            task = ?invocation.task, request_id = ?invocation.request_id, traceparent = ?invocation.traceparent, outcome = name(&attempt.outcome),
            duration_us = attempt.usage.duration_us, fuel = attempt.usage.fuel, "attempt ended"
        );
        let ended = Ended { usage: attempt.usage, ran: attempt.began, ..Ended::unrun(attempt.outcome) };
        let ended = self.with_requests(active, ended).await;
        let ended = self.with_blobs(active, ended, blobs).await;
        match &ended.outcome {
            Outcome::Value(value) if LargeValue::is_needed(value.get()) => Ok(self.store_result(active, ended).await),
            _ => Ok(ended),
        }
    }

    /// Stores a large result in the module store; the outcome then has a reference to it.
    async fn store_result(&self, active: &Arc<ActiveDelivery>, ended: Ended) -> Ended {
        let Outcome::Value(value) = &ended.outcome else { return ended };
        if !active.keeps_result() || ended.replaced_by.is_some() {
            return ended;
        }
        let (large, keeper, text) = (self.runtime.clone(), active.clone(), value.get().to_owned());
        let put = async move { large.store().put_value(&keeper.delivery.tenant, keeper.delivery.id, &text).await };
        let outcome = match self.in_background(active, put).await {
            Ok(Ok(stored)) => match RawValue::from_string(stored.reference()) {
                Ok(reference) => Outcome::Value(reference),
                Err(_) => Outcome::Fatal(host_panic()),
            },
            Ok(Err(error)) => {
                let (tenant, job, worker) = (&active.delivery.tenant, &active.delivery.id, &self.worker);
                tracing::error!(%tenant, %job, %worker, %error, retry_in_ms = SNOOZE_MS, "a large result cannot be stored");
                // The job runs again later at no cost, unless it may run only once.
                match active.policy().acks {
                    Acks::Early => Outcome::Fatal(Failure::new("value_unavailable", UNSTORED)),
                    Acks::Late => Outcome::Snooze { delay_ms: SNOOZE_MS },
                }
            }
            Err(outcome) => outcome,
        };
        // The workflows that it requested are stored with its result or not at all.
        Ended { outcome, ..ended }
    }

    /// Gives the blobs that the guest wrote their names, if its attempt ended well, and names those to which its result refers.
    async fn with_blobs(&self, active: &Arc<ActiveDelivery>, ended: Ended, blobs: Arc<AttemptBlobs>) -> Ended {
        let refers = match &ended.outcome {
            // A result that is not stored refers to nothing.
            Outcome::Value(_) if ended.replaced_by.is_some() || !active.keeps_result() => Some(Vec::new()),
            Outcome::Value(value) => BlobReferences::of_text(value.get()),
            Outcome::Ignore => Some(Vec::new()),
            _ => return ended,
        };
        let Some(refers) = refers else {
            let text = format!("its result refers to more than {MAX_REFERENCES} blobs");
            return Ended { outcome: Outcome::Fatal(Failure::new("host_limit:blobs", text)), growth: None, ..ended };
        };
        let settled = blobs.settled(refers);
        if blobs.is_empty() {
            return Ended { blobs: settled, ..ended };
        }
        active.keep_blobs(blobs.clone());
        match self.published(active, blobs).await {
            Ok(Ok(())) => Ended { blobs: settled, ..ended },
            Ok(Err(error)) => {
                let (tenant, job, worker) = (&active.delivery.tenant, &active.delivery.id, &self.worker);
                tracing::error!(%tenant, %job, %worker, %error, retry_in_ms = SNOOZE_MS, "a blob cannot be stored");
                let outcome = match active.policy().acks {
                    Acks::Early => Outcome::Fatal(Failure::new("blob_unavailable", BLOB_UNSTORED)),
                    Acks::Late => Outcome::Snooze { delay_ms: SNOOZE_MS },
                };
                Ended { outcome, growth: None, replaced_by: None, ..ended }
            }
            Err(outcome) => Ended { outcome, growth: None, replaced_by: None, ..ended },
        }
    }

    /// Publishes blobs, and waits for that until the attempt is stopped. It goes on then, and keeps the delivery until it is done: what
    /// becomes of the blobs is looked at only after the last of them was published.
    async fn published(
        &self,
        active: &Arc<ActiveDelivery>,
        blobs: Arc<AttemptBlobs>,
    ) -> Result<Result<(), StoreError>, Outcome> {
        let keeper = active.clone();
        let publishing = self.background.spawn(async move {
            let done = blobs.publish().await;
            drop(keeper);
            done
        });
        until_stopped(active, publishing).await
    }

    /// Composes the workflows and members that the guest requested, if its attempt ended well.
    async fn with_requests(&self, active: &Arc<ActiveDelivery>, ended: Ended) -> Ended {
        let requests = active.take_workflow_requests();
        if requests.is_empty() || !matches!(ended.outcome, Outcome::Value(_) | Outcome::Ignore) {
            return ended;
        }
        let (composer, asker) = (self.composer.clone(), active.clone());
        let template = active.delivery.node.as_ref().and_then(|_| self.templates.parsed(&active.delivery).ok());
        let compose = async move { composer.compose(&asker.delivery, template.as_deref(), requests).await };
        match self.in_background(active, compose).await {
            Ok(Ok((growth, replaced_by))) => Ended { growth: Some(Box::new(growth)), replaced_by, ..ended },
            // A job that may run only once has run, and its guest did not fail.
            Ok(Err(Outcome::Error { failure, .. })) if active.policy().acks == Acks::Early => {
                Ended { outcome: Outcome::Fatal(failure), ..ended }
            }
            Ok(Err(outcome)) | Err(outcome) => Ended { outcome, ..ended },
        }
    }

    /// Reads the module's code. One that must be compiled first sends its job away: a compilation takes seconds, and
    /// waits for those of others.
    async fn prepare(&self, active: &Arc<ActiveDelivery>, digest: Digest) -> Result<umbel_sandbox::Prepared, Outcome> {
        let (runtime, tenant) = (self.runtime.clone(), active.delivery.tenant.clone());
        let ready = self.in_background(active, async move { runtime.ready(&tenant, digest).await }).await?;
        match ready.map_err(|error| self.unprepared(active, &error))? {
            Ready::Now(prepared) => Ok(prepared),
            Ready::Compiling(_) => Err(Outcome::Snooze { delay_ms: COMPILING_MS }),
        }
    }

    fn unprepared(&self, active: &ActiveDelivery, error: &PrepareError) -> Outcome {
        let (tenant, job, worker) = (&active.delivery.tenant, &active.delivery.id, &self.worker);
        let kind = match error {
            PrepareError::Refused(..) => return Outcome::Fatal(Failure::new("module_refused", error.to_string())),
            PrepareError::Unavailable(..) => {
                tracing::error!(%tenant, %job, %worker, %error, retry_in_ms = SNOOZE_MS, "job snoozed");
                return Outcome::Snooze { delay_ms: SNOOZE_MS };
            }
            PrepareError::Missing(_) => "module_missing",
            PrepareError::Corrupted(_) => "corrupted_blob",
            PrepareError::GivenUp(..) => "module_unavailable",
        };
        // The module may be pushed again; if not, the job ends in the dead set under its policy, where it is seen.
        tracing::error!(%tenant, %job, %worker, %error, "the module of a job cannot be prepared");
        Outcome::Error { failure: Failure::new(kind, error.to_string()), retry_after_ms: Some(SNOOZE_MS) }
    }
}

/// Waits for a task until the attempt is stopped.
async fn until_stopped<T>(
    active: &ActiveDelivery,
    task: impl Future<Output = Result<T, JoinError>>,
) -> Result<T, Outcome> {
    tokio::select! {
        biased;
        done = task => match done {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => Err(Outcome::Fatal(host_panic())),
            Err(_) => Err(Outcome::Released),
        },
        stop = active.stop.wait() => Err(stop.outcome()),
    }
}

async fn caught(active: Arc<ActiveDelivery>, worker: &WorkerId, run: impl Future<Output = Finished>) -> Finished {
    // The state that a panic may leave half changed belongs to this job and is dropped with the future.
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(finished) => finished,
        Err(_) => Finished::panicked(active, worker),
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::Resolution;

    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_job_and_leaves_the_slot() {
        let worker = WorkerId::new("w").unwrap();
        let finished =
            caught(ActiveDelivery::for_test(1, "not even a record"), &worker, async { panic!("as the test wants") })
                .await;
        let Resolution::Fail { failure } = finished.settle.resolution else { panic!("{:?}", finished.settle) };
        assert_eq!(failure.kind, "host_panic");
        assert!(!failure.message.contains("as the test wants"));
    }
}
