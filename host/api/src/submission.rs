//! From a signature as JSON to a job to store: bound, validated, with its policy decided.
//!
//! Arguments are carried as the text that was sent, never through a number type, so that big integers stay whole; and
//! a batch prepares what its lines have in common once.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use umbel_broker::{BrokerOptions, IDEMPOTENCY_TTL_MS, Idempotency, NewJob, Start};
use umbel_compose::{BrokerOptionRule, FaultKind, Misplaced, Options};
use umbel_model::{
    JobId, JobSpec, Policy, QueueName, TaskName, TenantId, UnixMs,
    binding::{self, pointer_of},
    job::SPEC_VERSION,
    large_value::INLINE_BYTES,
};
use umbel_modules::ModuleStore;

use crate::{
    body::cut,
    problem::{Code, FieldError, Problem},
    schemas::Complaints,
    state::Api,
    task_cache::Deployed,
};

/// A signature, borrowed from the body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signature<'a> {
    #[serde(borrow)]
    pub(crate) task: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) args: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(crate) kwargs: Option<Named<'a>>,
    #[serde(borrow, default)]
    pub(crate) options: Option<&'a RawValue>,
}

/// An object's fields in the order they were sent.
#[derive(Debug, Default)]
pub(crate) struct Named<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of arguments by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(2));
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    fields.push((name, value));
                }
                Ok(Named(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A text that is borrowed when it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads the options of a job.
pub(crate) fn options_of(json: &str) -> Result<Options, Problem> {
    Options::parse(json, crate::id_generator::now_ms()).map_err(|fault| {
        let code = match fault.kind {
            FaultKind::Options => Code::InvalidBody,
            FaultKind::Canvas => Code::InvalidCanvas,
            _ => Code::InvalidOption,
        };
        let detail = format!("{}: {}", fault.pointer, fault.detail);
        Problem::new(code, detail).errors(vec![FieldError { pointer: fault.pointer, detail: fault.detail }])
    })
}

/// The key and body of an idempotent submission as they are stored: hashes only.
pub(crate) fn idempotency(key: &str, body: &[u8]) -> Idempotency {
    let body = hex::encode(Sha256::digest(crate::json_limits::compact(body)));
    Idempotency { key: hex::encode(Sha256::digest(key)), body, ttl_ms: IDEMPOTENCY_TTL_MS }
}

/// Where a submission came from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) tenant: TenantId,
    pub(crate) request_id: String,
    pub(crate) traceparent: Option<String>,
}

/// Everything that jobs of one task with the same options have in common.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) deployed: Arc<Deployed>,
    tenant: TenantId,
    /// The text of the `JobSpec` before and after its arguments.
    before: String,
    after: String,
    queue: QueueName,
    policy: Policy,
    start: Start,
    expires_at: Option<UnixMs>,
    broker_options: BrokerOptionRule,
}

/// The value of each parameter as text; none where its default stands.
type Bound<'a> = Vec<Option<&'a RawValue>>;

impl Template {
    /// Decides the policy: code, routes, server, call.
    pub(crate) fn new(api: &Api, deployed: Arc<Deployed>, options: &Options, origin: &Origin) -> Result<Self, Problem> {
        let patch = deployed.policy.overlaid(&options.policy);
        let policy = Policy::resolve(&patch);
        api.config.bounds.check(&policy).map_err(|e| {
            let pointer = format!("/options/{}", e.field.replace('.', "/"));
            let errors = vec![FieldError { pointer, detail: e.problem.clone() }];
            Problem::new(Code::InvalidPolicy, e.to_string()).errors(errors)
        })?;
        if let Some(Misplaced { pointer, detail }) = Misplaced::in_job(&policy, &deployed.parameters) {
            return Err(Problem::of_field(Code::InvalidOption, &format!("options{pointer}"), detail));
        }
        let spec = JobSpec {
            v: patch.spec_version(),
            task: deployed.name.clone(),
            digest: deployed.digest,
            arguments: no_arguments(),
            policy: patch,
            traceparent: origin.traceparent.clone(),
            request_id: Some(origin.request_id.clone()),
            redrive_of: None,
            tags: options.tags.clone(),
            headers: options.headers.clone(),
            stored_arguments: None,
        };
        let text = serde_json::to_string(&spec).expect("a spec has text keys only");
        let (before, after) = text.split_once(NO_ARGUMENTS).expect("no field before the arguments has quotes in it");
        // The last of a burst starts it; a delay of the call's own wins.
        let debounced = if policy.debounce_ms > 0 { Start::After(policy.debounce_ms) } else { Start::Now };
        Ok(Self {
            tenant: origin.tenant.clone(),
            before: format!(r#"{before}"arguments":"#),
            after: after.to_owned(),
            queue: policy.queue.clone(),
            start: options.start.unwrap_or(debounced),
            expires_at: options.expires_at,
            broker_options: BrokerOptionRule::new(&policy, &deployed.name),
            policy,
            deployed,
        })
    }

    /// The job of one signature. Large arguments are stored now; what is not submitted then is swept away.
    pub(crate) async fn job(
        &self,
        api: &Api,
        signature: &Signature<'_>,
        idempotency: Option<Idempotency>,
    ) -> Result<NewJob, Problem> {
        let id = api.ids.job_id()?;
        let args = signature.args.as_deref().unwrap_or_default();
        let kwargs = signature.kwargs.as_ref().map_or(&[][..], |k| &k.0);
        let Some(bound) = bound(&self.deployed, args, kwargs) else {
            return Err(misfit(&self.deployed, args, kwargs));
        };
        let spec = self.spec(api, &bound, args.len()).await?;
        let large = spec.len() - self.before.len() - self.after.len() > INLINE_BYTES;
        let policy = &self.policy;
        let forgotten = policy.ignore_result && !policy.store_errors_even_if_ignored;
        Ok(NewJob {
            id,
            tenant: self.tenant.clone(),
            task: self.deployed.name.clone(),
            queue: self.queue.clone(),
            priority: policy.priority,
            spec: if large { self.stored_apart(api, id, &spec).await? } else { spec },
            start: self.start,
            expires_ms: policy.expires_ms,
            max_deliveries: policy.max_deliveries,
            result_ttl_ms: policy.result_ttl_ms,
            dead_ttl_ms: if forgotten { 0 } else { policy.dead_ttl_ms },
            expires_at: self.expires_at,
            broker_options: self.broker_options_of(&bound),
            idempotency,
            redrive_of: None,
        })
    }

    /// What the broker must know of the policy. Values are read only if it counts by them.
    fn broker_options_of(&self, bound: &Bound<'_>) -> Option<Box<BrokerOptions>> {
        if let BrokerOptionRule::Same(broker_options) = &self.broker_options {
            return broker_options.clone();
        }
        let parameters = &self.deployed.parameters;
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        self.broker_options.broker_options(&self.deployed.name, &names, |name| {
            let at = names.iter().position(|known| *known == name)?;
            match bound[at] {
                Some(value) => serde_json::from_str(value.get()).ok(),
                None => parameters[at].default.clone(),
            }
        })
    }

    /// The text of a spec whose arguments lie beside the modules.
    async fn stored_apart(&self, api: &Api, id: JobId, spec: &str) -> Result<String, Problem> {
        let arguments = &spec[self.before.len()..spec.len() - self.after.len()];
        let stored = api.store.put_value(&self.tenant, id, arguments).await?;
        let small = format!("{}{{}}{}", self.before, self.after);
        let mut spec: JobSpec = serde_json::from_str(&small).expect("the text of a spec");
        (spec.v, spec.stored_arguments) = (SPEC_VERSION, Some(stored));
        Ok(serde_json::to_string(&spec).expect("a spec has text keys only"))
    }

    async fn spec(&self, api: &Api, bound: &Bound<'_>, given_args: usize) -> Result<String, Problem> {
        let deployed = &*self.deployed;
        let given: usize = bound.iter().flatten().map(|value| value.get().len()).sum();
        let mut spec = String::with_capacity(self.before.len() + self.after.len() + given + 32 * bound.len() + 2);
        spec.push_str(&self.before);
        spec.push('{');
        let mut errors = Vec::new();
        for (at, (value, slot)) in bound.iter().zip(&deployed.slots).enumerate() {
            if at > 0 {
                spec.push(',');
            }
            spec.push_str(&slot.name_json);
            spec.push(':');
            match value {
                Some(value) => {
                    check(api, deployed, at, value, given_args, &mut errors).await?;
                    spec.push_str(value.get());
                }
                // `bound` leaves out only what has a default.
                None => spec.push_str(slot.default_json.as_deref().unwrap_or("null")),
            }
        }
        spec.push('}');
        let size = spec.len() - self.before.len();
        if !errors.is_empty() {
            return Err(unfit(errors));
        }
        if size > api.config.max_arguments_bytes {
            let limit = api.config.max_arguments_bytes;
            return Err(Problem::new(Code::ArgumentsTooLarge, format!("{size} bytes with defaults; at most {limit}")));
        }
        spec.push_str(&self.after);
        Ok(spec)
    }
}

/// How a spec without arguments says so.
const NO_ARGUMENTS: &str = r#""arguments":{}"#;

fn no_arguments() -> Box<RawValue> {
    RawValue::from_string("{}".into()).expect("an empty object is JSON")
}

/// The value of each parameter; none for the whole when the signature does not fit. Agrees with `umbel_model::bind`.
fn bound<'a>(deployed: &Deployed, args: &[&'a RawValue], kwargs: &[(Cow<'_, str>, &'a RawValue)]) -> Option<Bound<'a>> {
    let parameters = &deployed.parameters;
    if args.len() > parameters.len() {
        return None;
    }
    let mut bound: Vec<Option<&RawValue>> = args.iter().map(|value| Some(*value)).collect();
    bound.resize(parameters.len(), None);
    for (name, value) in kwargs {
        let at = parameters.iter().position(|parameter| parameter.name == *name)?;
        if bound[at].replace(value).is_some() {
            return None;
        }
    }
    let complete = bound.iter().zip(parameters).all(|(value, p)| value.is_some() || p.default.is_some());
    complete.then_some(bound)
}

/// Why a signature does not fit, in the words of `umbel_model::bind`, which does not look at values.
fn misfit(deployed: &Deployed, args: &[&RawValue], kwargs: &[(Cow<'_, str>, &RawValue)]) -> Problem {
    let nulls = vec![serde_json::Value::Null; args.len()];
    let mut named = serde_json::Map::new();
    let mut errors = Vec::new();
    for (name, _) in kwargs {
        if named.insert(name.to_string(), serde_json::Value::Null).is_some() {
            let detail = "was given twice by name".to_owned();
            errors.push(FieldError { pointer: format!("/kwargs/{}", escaped(name)), detail });
        }
    }
    let more = binding::bind(&deployed.parameters, nulls, named).err().unwrap_or_default();
    errors.extend(more.into_iter().map(|e| FieldError { pointer: cut(&e.pointer), detail: cut(&e.detail) }));
    errors.truncate(64);
    unfit(errors)
}

fn escaped(token: &str) -> String {
    cut(&token.replace('~', "~0").replace('/', "~1"))
}

fn unfit(errors: Vec<FieldError>) -> Problem {
    let first = errors.first().map(|e| format!("{}: {}", e.pointer, e.detail)).unwrap_or_default();
    Problem::new(Code::InvalidArguments, cut(&first)).errors(errors)
}

async fn check(
    api: &Api,
    deployed: &Deployed,
    at: usize,
    value: &RawValue,
    given_args: usize,
    errors: &mut Vec<FieldError>,
) -> Result<(), Problem> {
    let Err(complaints) = deployed.schemas.check(at, value, &api.checks).await else { return Ok(()) };
    let pointer = pointer_of(&deployed.parameters, &deployed.parameters[at].name, given_args);
    match complaints {
        Complaints::TooComplex => {
            let detail = "the schema needs too many steps for it; send less, or flatten the schema".to_owned();
            Err(Problem::new(Code::ArgumentsTooComplex, format!("{pointer}: {detail}"))
                .errors(vec![FieldError { pointer, detail }]))
        }
        Complaints::Wrong(complaints) => {
            errors.extend(
                complaints
                    .into_iter()
                    .map(|(within, detail)| FieldError { pointer: cut(&format!("{pointer}{within}")), detail }),
            );
            Ok(())
        }
    }
}

/// The name of a task as a body gives it.
pub(crate) fn task_name(text: &str) -> Result<TaskName, Problem> {
    TaskName::new(text).map_err(|e| Problem::new(Code::TaskNotFound, e.to_string()))
}

/// Which job answers a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    New(JobId),
    /// That of an earlier submission with the same idempotency key.
    Replayed(JobId),
    /// One like it, which holds their unique key.
    Duplicate(JobId),
}

impl Outcome {
    pub(crate) fn id(self) -> JobId {
        match self {
            Self::New(id) | Self::Replayed(id) | Self::Duplicate(id) => id,
        }
    }
}

/// Deletes the large arguments of a job that was not stored after all. What cannot be deleted now, the sweeper finds.
pub(crate) async fn drop_unused(store: &ModuleStore, job: &NewJob, answer: umbel_broker::Submitted) {
    use umbel_broker::Submitted as S;
    // One that is there already is this very job, submitted again.
    let is_stored = matches!(answer, S::Created) || answer == S::Existing(job.id);
    // Small arguments may hold this text, too: then there is nothing to delete.
    if is_stored || !job.spec.contains(r#""stored_arguments":"#) {
        return;
    }
    if let Err(error) = store.delete_values(&job.tenant, job.id).await {
        tracing::debug!(job = %job.id, %error, "arguments of a job that was not stored are left to the sweeper");
    }
}

/// What the broker's answer means to the submitter: a new job, or an earlier one.
pub(crate) fn submitted(answer: umbel_broker::Submitted, new: JobId) -> Result<Outcome, Problem> {
    use umbel_broker::Submitted as S;
    match answer {
        S::Created => Ok(Outcome::New(new)),
        S::Existing(id) => Ok(Outcome::Replayed(id)),
        S::Duplicate(id) => Ok(Outcome::Duplicate(id)),
        S::Conflict(id) => Err(Problem::new(
            Code::IdempotencyConflict,
            format!("the key was used for job {id} with another body; use a new key for a new request"),
        )),
        S::QueueFull => Err(Problem::new(Code::QueueFull, "try again when the queue is shorter")),
        S::TooManyQueues => Err(Problem::new(Code::TooManyQueues, "use one of the queues that exist")),
        S::NotDead => Err(Problem::new(
            Code::NotDead,
            "it failed and is not in the dead set: it was redriven before, or its time there is over",
        )),
    }
}

#[cfg(test)]
mod tests;
