//! A new job made of a failed one: the same task and arguments, the module and the policy as the caller says.

use serde_json::value::RawValue;
use umbel_broker::{Label, NewJob};
use umbel_model::{
    Binding, BlobReferences, Digest, JobId, JobRecord, JobSpec, LargeValue, Policy, PolicyBounds, PolicyError,
    PolicyPatch, RawObject, TaskName, WorkflowId, job::SPEC_VERSION, outcome::truncated,
};

use crate::{
    TaskFacts,
    broker_options::BrokerOptionsRule,
    job::{new_job, spec_text},
};

/// Why a job is not repeated.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Its workflow is what can be done again.
    #[error("it is a node of workflow {0}; POST /v1/workflows/{0}/resume does it again")]
    Node(WorkflowId),
    #[error("what is stored of job {0} cannot be read")]
    Unreadable(JobId),
    /// With the current digest.
    #[error("there is no task `{0}` any more")]
    TaskGone(TaskName),
    /// With the current digest: the task takes others now.
    #[error("its arguments do not fit the module that is deployed now: {0}")]
    Arguments(String),
    /// Without the current digest.
    #[error(
        "its module {0} was deleted; `--current` (`\"digest\": \"current\"`) runs the one that its task points at now"
    )]
    ModuleGone(Digest),
    #[error("{0}")]
    Policy(PolicyError),
    /// Its large arguments are gone.
    #[error("{0}")]
    Lost(String),
    /// Its large arguments cannot be read now.
    #[error("{0}")]
    Unavailable(String),
}

/// The repetition of one job. It is no rival of jobs like it: uniqueness is for submissions.
#[derive(Debug)]
pub struct Redrive<'a> {
    record: &'a JobRecord,
    /// Laid over the job's policy.
    over: &'a PolicyPatch,
    spec: JobSpec,
}

impl<'a> Redrive<'a> {
    /// # Errors
    /// The job is a node, cannot be read, or its policy under `over` breaks a bound.
    pub fn new(
        record: &'a JobRecord,
        over: &'a PolicyPatch,
        bounds: &PolicyBounds,
        request_id: &str,
    ) -> Result<Self, Refusal> {
        if let Some(node) = &record.node {
            return Err(Refusal::Node(node.workflow));
        }
        let mut spec = record.parsed_spec().map_err(|error| unreadable(record, &error))?;
        spec.redrive_of = Some(record.id);
        spec.body = None;
        spec.stamps.request_id = Some(request_id.to_owned());
        spec.policy = spec.policy.overlaid(over);
        // Without a change it was fine when it was submitted, whatever the operator allows now.
        if *over != PolicyPatch::default() {
            bounds.check(&Policy::resolve(&spec.policy)).map_err(Refusal::Policy)?;
        }
        Ok(Self { record, over, spec })
    }

    /// The module that it runs unless it is repinned.
    pub fn digest(&self) -> Digest {
        self.spec.digest
    }

    /// Where its arguments are stored if they are large.
    pub fn stored_arguments(&self) -> Option<&LargeValue> {
        self.spec.stored_arguments.as_ref()
    }

    /// Pins the module that is deployed now. `large` is the text of large arguments.
    ///
    /// # Errors
    /// The task does not take the arguments.
    pub fn repin(&mut self, task: &TaskFacts, large: Option<&str>) -> Result<(), Refusal> {
        self.spec.digest = task.digest;
        let text = large.unwrap_or(self.spec.arguments.get());
        let given: RawObject<'_> = serde_json::from_str(text).map_err(|error| unreadable(self.record, &error))?;
        let binding = Binding::new(&task.parameters, [], given.iter()).map_err(|errors| {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            Refusal::Arguments(truncated(first, 512))
        })?;
        if binding.given().count() == task.parameters.len() {
            return Ok(());
        }
        if large.is_some() {
            let detail = "they are large, and it has parameters that they do not have; submit it again";
            return Err(Refusal::Arguments(detail.into()));
        }
        // The values stay as they were written; new parameters get their defaults.
        let bound = RawValue::from_string(binding.to_json());
        self.spec.arguments = bound.map_err(|error| unreadable(self.record, &error))?;
        Ok(())
    }

    /// The job `id` to store. `large` is the text of large arguments, and `stored` where the new job has its own copy.
    ///
    /// # Errors
    /// The arguments cannot be read.
    pub fn finish(mut self, id: JobId, large: Option<&str>, stored: Option<LargeValue>) -> Result<NewJob, Refusal> {
        let Self { record, over, .. } = self;
        let policy = Policy::resolve(&self.spec.policy);
        let rule = BrokerOptionsRule::without_uniqueness(&policy, &record.task);
        let broker_options = match &rule {
            BrokerOptionsRule::Same(broker_options) => broker_options.clone(),
            BrokerOptionsRule::ByArguments(_) => {
                let text = large.unwrap_or(self.spec.arguments.get());
                // `args[0]` counts parameters in the order in which they were bound, which is that of the text.
                let given: RawObject<'_> = serde_json::from_str(text).map_err(|error| unreadable(record, &error))?;
                let (names, values): (Vec<&str>, Vec<&RawValue>) = given.iter().unzip();
                rule.of_call(&record.task, names, |at| Some(values[at].get()))
            }
        };
        let text = large.unwrap_or(self.spec.arguments.get());
        let blobs = BlobReferences::of_text(text).unwrap_or_default();
        self.spec.v = if stored.is_some() { SPEC_VERSION } else { self.spec.policy.spec_version() };
        self.spec.stored_arguments = stored;
        Ok(NewJob {
            queue: over.queue.clone().unwrap_or_else(|| record.queue.clone()),
            priority: over.priority.unwrap_or(record.priority),
            broker_options,
            redrive_of: Some(record.id),
            labels: Label::all_of(&self.spec.stamps),
            blobs,
            ..new_job(id, record.tenant.clone(), record.task.clone(), &policy, spec_text(&self.spec))
        })
    }
}

fn unreadable(record: &JobRecord, error: &serde_json::Error) -> Refusal {
    tracing::error!(job = %record.id, %error, "a stored job cannot be read");
    Refusal::Unreadable(record.id)
}
