//! A new job made of a dead one: the same task and arguments, the module and the policy as is wished.

use std::collections::HashMap;

use serde_json::{Map, Value, value::RawValue};
use umbel_broker::{BrokerOptions, DocumentKind, Error, LargeValues as _, NewJob, Start, ValueError};
use umbel_compose::{Digests, TaskDocument, TaskFacts};
use umbel_model::{
    JobId, JobRecord, JobSpec, LargeValue, Policy, PolicyError, PolicyPatch, TaskName, TenantId, Uniqueness,
    WorkflowId, binding::bind, outcome::truncated,
};

use crate::{Carrier, LargeStore, values::value_error};

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
    #[error("{0}")]
    Policy(PolicyError),
    /// Its large arguments are gone.
    #[error("{0}")]
    Lost(String),
    /// Its large arguments cannot be read now.
    #[error("{0}")]
    Unavailable(String),
}

/// Makes new jobs of dead ones.
#[derive(Debug)]
pub struct Repeater<'a> {
    carrier: Carrier<'a>,
    digests: Digests,
    policy: &'a PolicyPatch,
    request_id: &'a str,
    /// Tasks as they are deployed now.
    tasks: HashMap<TaskName, Option<TaskFacts>>,
}

impl<'a> Repeater<'a> {
    /// `policy` is laid over that of each job.
    pub fn new(carrier: Carrier<'a>, digests: Digests, policy: &'a PolicyPatch, request_id: &'a str) -> Self {
        Self { carrier, digests, policy, request_id, tasks: HashMap::new() }
    }

    /// The job `id` that repeats `record`. It is no rival of jobs like it: uniqueness is for submissions.
    pub async fn repetition(&mut self, record: &JobRecord, id: JobId) -> Result<Result<NewJob, Refusal>, Error> {
        match self.made(record, id).await {
            Ok(job) => Ok(Ok(job)),
            Err(Failed::Refused(refusal)) => Ok(Err(refusal)),
            Err(Failed::Broker(error)) => Err(error),
        }
    }

    async fn made(&mut self, record: &JobRecord, id: JobId) -> Result<NewJob, Failed> {
        if let Some(node) = &record.node {
            return Err(Refusal::Node(node.workflow).into());
        }
        let mut spec = record.parsed_spec().map_err(|error| {
            tracing::error!(job = %record.id, %error, "a stored job cannot be read");
            Refusal::Unreadable(record.id)
        })?;
        spec.redrive_of = Some(record.id);
        spec.request_id = Some(self.request_id.to_owned());
        spec.policy = spec.policy.overlaid(self.policy);
        let policy = Policy { unique: Uniqueness::Off, debounce_ms: 0, ..Policy::resolve(&spec.policy) };
        // Without a change it was fine when it was submitted, whatever the operator allows now.
        if !self.policy.is_empty() {
            self.carrier.bounds.check(&Policy::resolve(&spec.policy)).map_err(Refusal::Policy)?;
        }
        if self.digests == Digests::Current {
            self.renew(record, &mut spec).await?;
        }
        let broker_options = self.broker_options(record, &spec, &policy).await?;
        if let Some(stored) = &spec.stored_arguments {
            // Values are deleted with their job: each has its own.
            spec.stored_arguments = Some(self.copied(&record.tenant, stored, id).await?);
        }
        spec.v = if spec.stored_arguments.is_some() { 2 } else { spec.policy.spec_version() };
        Ok(NewJob {
            id,
            tenant: record.tenant.clone(),
            task: record.task.clone(),
            queue: self.policy.queue.clone().unwrap_or_else(|| record.queue.clone()),
            priority: self.policy.priority.unwrap_or(record.priority),
            spec: serde_json::to_string(&spec).expect("a spec has text keys only"),
            start: Start::Now,
            expires_ms: policy.expires_ms,
            expires_at: None,
            max_deliveries: policy.max_deliveries,
            result_ttl_ms: policy.result_ttl_ms,
            dead_ttl_ms: dead_ttl_ms(&policy),
            broker_options,
            idempotency: None,
            redrive_of: Some(record.id),
        })
    }

    /// Pins the module that is deployed now. Its task must take the arguments.
    async fn renew(&mut self, record: &JobRecord, spec: &mut JobSpec) -> Result<(), Failed> {
        let text = match &spec.stored_arguments {
            Some(stored) => self.read(&record.tenant, stored).await?,
            None => spec.arguments.get().to_owned(),
        };
        let unreadable = |_| Refusal::Unreadable(record.id);
        let given: Map<String, Value> = serde_json::from_str(&text).map_err(unreadable)?;
        let facts = self.facts(&record.tenant, &record.task).await?;
        spec.digest = facts.digest;
        let names: Vec<&String> = given.keys().collect();
        let missing = facts.parameters.iter().any(|parameter| !names.contains(&&parameter.name));
        let bound = bind(&facts.parameters, Vec::new(), given.clone()).map_err(|errors| {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            Refusal::Arguments(truncated(first, 512))
        })?;
        if !missing {
            return Ok(());
        }
        if spec.stored_arguments.is_some() {
            let detail = "they are large, and it has parameters that they do not have; submit it again";
            return Err(Refusal::Arguments(detail.into()).into());
        }
        // The values stay as they were written; new parameters get their defaults.
        let mut added: Map<String, Value> = bound;
        added.retain(|name, _| !given.contains_key(name));
        let added = serde_json::to_string(&added).expect("arguments have text keys only");
        let joined = match text.trim().strip_suffix('}') {
            Some(before) if !given.is_empty() => format!("{before},{}", &added[1..]),
            _ => added,
        };
        spec.arguments = RawValue::from_string(joined).map_err(unreadable)?;
        Ok(())
    }

    /// The limits of the new job.
    async fn broker_options(
        &self,
        record: &JobRecord,
        spec: &JobSpec,
        policy: &Policy,
    ) -> Result<Option<Box<BrokerOptions>>, Failed> {
        if policy.limit_key.is_empty() {
            return Ok(BrokerOptions::of(policy, &record.task, &[], |_| None));
        }
        let text = match &spec.stored_arguments {
            Some(stored) => self.read(&record.tenant, stored).await?,
            None => spec.arguments.get().to_owned(),
        };
        // `args[0]` counts parameters in the order in which they were bound, which is that of the text.
        let (names, given) = ordered(&text).map_err(|_| Refusal::Unreadable(record.id))?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(BrokerOptions::of(policy, &record.task, &names, |name| given.get(name).cloned()))
    }

    async fn facts(&mut self, tenant: &TenantId, task: &TaskName) -> Result<TaskFacts, Failed> {
        if !self.tasks.contains_key(task) {
            let document = self.carrier.broker.document(tenant, DocumentKind::Task, task.as_str()).await?;
            let facts = match document {
                None => None,
                Some(document) => serde_json::from_str::<TaskDocument>(&document.body)
                    .map_err(|error| Error::Corrupt(format!("task `{task}`: {error}")))?
                    .facts(None),
            };
            self.tasks.insert(task.clone(), facts);
        }
        let found = self.tasks.get(task).cloned().flatten();
        found.ok_or_else(|| Refusal::TaskGone(task.clone()).into())
    }

    async fn read(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, Failed> {
        let store = self.carrier.store.ok_or_else(no_store)?;
        Ok(LargeStore(store.clone()).read(tenant, stored).await.map_err(refused)?)
    }

    async fn copied(&self, tenant: &TenantId, stored: &LargeValue, to: JobId) -> Result<LargeValue, Failed> {
        let store = self.carrier.store.ok_or_else(no_store)?;
        Ok(store.copy_value(tenant, stored, to).await.map_err(|error| refused(value_error(&error)))?)
    }
}

/// How long a failed job is kept in the dead set; 0 when nothing of its failure is wanted.
fn dead_ttl_ms(policy: &Policy) -> u64 {
    if policy.ignore_result && !policy.store_errors_even_if_ignored { 0 } else { policy.dead_ttl_ms }
}

/// The names of an object in their order, and their values.
fn ordered(text: &str) -> serde_json::Result<(Vec<String>, Map<String, Value>)> {
    struct Names(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Names {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Names;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                    let mut names = Vec::new();
                    while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                        names.push(name);
                    }
                    Ok(Names(names))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    let Names(names) = serde_json::from_str(text)?;
    Ok((names, serde_json::from_str(text)?))
}

enum Failed {
    Broker(Error),
    Refused(Refusal),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Broker(error)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn no_store() -> Refusal {
    Refusal::Unavailable("its arguments are large, and there is no store for them here".into())
}

fn refused(error: ValueError) -> Refusal {
    match error {
        ValueError::Unavailable(why) => Refusal::Unavailable(why),
        other => Refusal::Lost(other.to_string()),
    }
}
