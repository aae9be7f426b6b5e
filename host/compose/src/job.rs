//! From a call and its options to a job to store: bound, checked, with its policy decided.
//!
//! Everything that many jobs have in common is decided once, in a template. Arguments are carried as the text that was sent, never
//! through a number type, so that big integers stay whole.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_broker::{BrokerOptions, Label, NewJob, Start};
use umbel_model::{
    Binding, BlobReferences, Digest, JobId, JobSpec, LargeValue, Policy, RawObject, Stamps, TenantId, UnixMs,
    job::SPEC_VERSION, large_value::INLINE_BYTES,
};

use crate::{
    FaultKind, Options, Result, Rules, SubmissionKey, TaskFacts, UnknownParameter,
    blobs::{check_references, too_many},
    broker_options::BrokerOptionsRule,
    error::{Faults, refused},
};

/// How a spec without arguments is written.
const NO_ARGUMENTS: &str = r#""arguments":{}"#;

/// Everything that jobs of one task with the same options have in common.
#[derive(Debug)]
pub struct JobTemplate {
    task: Arc<TaskFacts>,
    tenant: TenantId,
    /// Without arguments.
    spec: JobSpec,
    /// The text of the spec before and after its arguments.
    before: String,
    after: String,
    policy: Policy,
    start: Start,
    expires_at: Option<UnixMs>,
    broker_options: BrokerOptionsRule,
    max_arguments_bytes: usize,
}

/// A job that is complete but for where its arguments are stored.
#[derive(Debug)]
pub struct JobDraft<'t> {
    template: &'t JobTemplate,
    id: JobId,
    arguments: String,
    broker_options: Option<Box<BrokerOptions>>,
    key: Option<SubmissionKey>,
    blobs: Vec<Digest>,
}

impl JobTemplate {
    /// Decides the policy: code, routes, server, call. Pointers of faults begin with `/options`.
    ///
    /// # Errors
    /// The policy breaks a bound, or counts by a parameter that the task does not have.
    pub fn new(
        task: Arc<TaskFacts>,
        options: &Options,
        tenant: TenantId,
        stamps: Stamps,
        rules: &Rules,
    ) -> Result<Self> {
        let patch = task.policy.overlaid(&options.policy);
        let policy = Policy::resolve(&patch);
        check_policy(&policy, rules, UnknownParameter::in_job(&policy, &task.parameter_names()))?;
        let spec = JobSpec {
            v: patch.spec_version(),
            task: task.name.clone(),
            digest: task.digest,
            arguments: RawValue::from_string("{}".into()).expect("an empty object is JSON"),
            policy: patch,
            stamps,
            redrive_of: None,
            body: None,
            stored_arguments: None,
        };
        let text = spec_text(&spec);
        let (before, after) = text.split_once(NO_ARGUMENTS).expect("no field before the arguments has quotes in it");
        // The last of a burst starts it; a delay of the call's own wins.
        let debounced = if policy.debounce_ms > 0 { Start::After(policy.debounce_ms) } else { Start::Now };
        // So the longest wait does not bound such a delay, either.
        let max_wait_ms = if options.start.is_some() { 0 } else { policy.debounce_max_wait_ms };
        let bounded = Policy { debounce_max_wait_ms: max_wait_ms, ..policy.clone() };
        Ok(Self {
            before: format!(r#"{before}"arguments":"#),
            after: after.to_owned(),
            spec,
            start: options.start.unwrap_or(debounced),
            expires_at: options.expires_at,
            broker_options: BrokerOptionsRule::of_jobs(&bounded, &task.name),
            policy,
            max_arguments_bytes: rules.limits.max_arguments_bytes,
            task,
            tenant,
        })
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The job of one call.
    ///
    /// # Errors
    /// The arguments do not fit the task or its schemas, or are too large.
    pub async fn job(
        &self,
        id: JobId,
        args: &[&RawValue],
        kwargs: &RawObject<'_>,
        key: Option<SubmissionKey>,
    ) -> Result<JobDraft<'_>> {
        let task = &*self.task;
        let mut faults = Faults::default();
        let binding = match Binding::new(&task.parameters, args.iter().copied(), kwargs.iter()) {
            Ok(binding) => binding,
            Err(errors) => {
                errors.into_iter().for_each(|e| faults.add(FaultKind::Arguments, e.pointer, e.detail));
                return Err(faults.into());
            }
        };
        // First: checking values against schemas costs far more than their bytes.
        let given: usize = binding.given().map(|(_, value)| value.get().len()).sum();
        self.check_size(given)?;
        for (at, value) in binding.given() {
            check_references(value.get(), || binding.pointer(at), &mut faults);
            task.check_value(at, value, || binding.pointer(at), &mut faults).await;
        }
        faults.done()?;
        let arguments = binding.to_json();
        self.check_size(arguments.len())?;
        let blobs = BlobReferences::of_text(&arguments).ok_or_else(|| too_many(""))?;
        let names = task.parameters.iter().map(|parameter| parameter.name.as_str());
        let broker_options = self.broker_options.of_call(&task.name, names, |at| binding.argument(at));
        Ok(JobDraft { template: self, id, arguments, broker_options, key, blobs })
    }

    fn check_size(&self, bytes: usize) -> Result<()> {
        let max = self.max_arguments_bytes;
        if bytes <= max {
            return Ok(());
        }
        Err(refused(FaultKind::ArgumentsTooLarge, "", format!("{bytes} bytes; at most {max} with defaults")))
    }
}

impl JobDraft<'_> {
    /// The arguments, if they are too large for the broker's record: they have to be stored beside it.
    pub fn large_arguments(&self) -> Option<&str> {
        (self.arguments.len() > INLINE_BYTES).then_some(&*self.arguments)
    }

    /// The job to store; `stored` says where its large arguments are.
    pub fn finish(self, stored: Option<LargeValue>) -> NewJob {
        let JobTemplate { task, tenant, spec, before, after, policy, start, expires_at, .. } = self.template;
        let mut whole = spec.clone();
        whole.body = self.key.as_ref().map(|key| key.canonical_body.clone());
        let text = match stored {
            None if self.key.is_none() => [before, &*self.arguments, after].concat(),
            None => {
                whole.arguments = RawValue::from_string(self.arguments).expect("bound arguments are JSON");
                spec_text(&whole)
            }
            stored => spec_text(&JobSpec { v: SPEC_VERSION, stored_arguments: stored, ..whole }),
        };
        let labels = Label::all_of(&spec.stamps);
        let job = new_job(self.id, tenant.clone(), task.name.clone(), policy, text);
        // While the key answers with the job, there is a job.
        let promised_ms = self.key.as_ref().map_or(0, |key| key.idempotency.ttl_ms);
        NewJob {
            start: *start,
            expires_at: *expires_at,
            broker_options: self.broker_options,
            result_ttl_ms: job.result_ttl_ms.max(promised_ms),
            idempotency: self.key.map(|key| key.idempotency),
            labels,
            blobs: self.blobs,
            ..job
        }
    }
}

/// A job to start now: what its policy says of it, without broker options.
pub(crate) fn new_job(
    id: JobId,
    tenant: TenantId,
    task: umbel_model::TaskName,
    policy: &Policy,
    spec: String,
) -> NewJob {
    NewJob {
        id,
        tenant,
        task,
        queue: policy.queue.clone(),
        priority: policy.priority,
        spec,
        start: Start::Now,
        expires_ms: policy.expires_ms,
        expires_at: None,
        max_deliveries: policy.max_deliveries,
        result_ttl_ms: policy.result_ttl_ms,
        dead_ttl_ms: if policy.forgets_failures() { 0 } else { policy.dead_ttl_ms },
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

/// The text of a spec of a job, a node or a workflow.
pub(crate) fn spec_text(spec: &impl Serialize) -> String {
    serde_json::to_string(spec).expect("a spec has text keys only")
}

/// Checks the policy that was decided for a call. Pointers begin with `/options`.
pub(crate) fn check_policy(policy: &Policy, rules: &Rules, unknown: Option<UnknownParameter>) -> Result<()> {
    rules.bounds.check(policy).map_err(|e| {
        let pointer = format!("/options/{}", e.field.replace('.', "/"));
        refused(FaultKind::Policy, pointer, e.problem)
    })?;
    let named = unknown.map(|e| refused(FaultKind::Option, format!("/options{}", e.pointer), e.detail));
    named.map_or(Ok(()), Err)
}
