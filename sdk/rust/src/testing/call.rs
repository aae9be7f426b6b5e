//! From a signature to a job: options, the policy's layers and the arguments, by the host's own rules.

use serde_json::{Map, Value, value::RawValue};
use umbel_model::{
    BindError, JsonError, Policy, PolicyPatch, bind_text,
    canvas::{Each, Signature},
    plain,
};

use super::{App, Registered, time};
use crate::Refused;

/// A call whose policy is decided.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) task: String,
    pub(super) arguments: Arguments,
    pub(super) policy: Policy,
    pub(super) start: Start,
    /// Milliseconds since 1970.
    pub(super) expires_at: Option<u64>,
}

/// JSON objects by parameter name.
#[derive(Debug, Clone)]
pub(super) enum Arguments {
    One(String),
    /// One after the other: the items of a `map` or `starmap`.
    Each(Vec<String>),
}

/// When a job may start.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    After(u64),
    At(u64),
}

impl Start {
    pub(super) fn at(self, now: u64) -> u64 {
        match self {
            Self::After(ms) => now.saturating_add(ms),
            Self::At(at) => at.max(now),
        }
    }
}

impl App {
    /// The call of `signature`, with `input` in front of its arguments.
    pub(super) fn call(&self, signature: &Signature, input: Option<Box<RawValue>>) -> Result<Call, Refused> {
        let mut call = self.call_without_arguments(signature)?;
        let task = self.registered(&call.task)?;
        let mut args: Vec<&RawValue> = input.iter().map(|value| &**value).collect();
        args.extend(signature.args.iter().map(|value| &**value));
        let bound = |more: &[&RawValue]| {
            let kwargs = signature.kwargs.iter().map(|(name, value)| (name.as_str(), &**value));
            bind_text(&task.parameters, args.iter().chain(more).copied(), kwargs).map_err(|e| misfit(&call.task, &e))
        };
        call.arguments = match &signature.each {
            None => Arguments::One(bound(&[])?),
            Some(Each::Map(items)) => {
                Arguments::Each(items.iter().map(|item| bound(&[item])).collect::<Result<_, _>>()?)
            }
            Some(Each::Starmap(items)) => {
                let each = |item: &Vec<Box<RawValue>>| bound(&item.iter().map(|value| &**value).collect::<Vec<_>>());
                Arguments::Each(items.iter().map(each).collect::<Result<_, _>>()?)
            }
        };
        Ok(call)
    }

    /// The same while its input is not known.
    pub(super) fn call_without_arguments(&self, signature: &Signature) -> Result<Call, Refused> {
        let name = signature.task.as_str();
        let task = self.registered(name)?;
        let options = signature.options.as_ref().map_or(Ok(Map::new()), |json| serde_json::from_str(json.get()));
        let mut options = options.map_err(|e| invalid(plain(&e.to_string())))?;
        let start = match (options.remove("countdown_ms"), options.remove("eta")) {
            (None, None) => Start::After(0),
            (Some(ms), None) => Start::After(ms.as_u64().ok_or_else(|| invalid("countdown_ms is a whole number"))?),
            (None, Some(at)) => Start::At(time_of("eta", &at)?),
            (Some(_), Some(_)) => return Err(invalid("set countdown_ms or eta, not both")),
        };
        let expires_at = options.remove("expires_at").map(|at| time_of("expires_at", &at)).transpose()?;
        // What people and filters see makes no difference to a run.
        for other in ["tags", "headers"] {
            options.remove(other);
        }
        let over = patch(options)?;
        let server = self.server.get(name).cloned().unwrap_or_default();
        let mut policy = Policy::resolve(&task.policy.overlaid(&server).overlaid(&over));
        self.bounds.check(&policy).map_err(|e| invalid(e.to_string()))?;
        policy.retry_backoff.jitter &= self.jitter;
        Ok(Call { task: name.to_owned(), arguments: Arguments::Each(Vec::new()), policy, start, expires_at })
    }

    pub(super) fn registered(&self, task: &str) -> Result<&Registered, Refused> {
        self.tasks.get(task).ok_or_else(|| {
            let known: Vec<&str> = self.tasks.keys().map(String::as_str).collect();
            let known = known.join(", ");
            Refused::new("unknown_task", format!("this app has no task {task:?}; it has: {known}"))
        })
    }
}

/// Options that are fields of a policy.
pub(super) fn patch(options: Map<String, Value>) -> Result<PolicyPatch, Refused> {
    let options = Value::Object(options);
    if let Some(JsonError { pointer, detail }) = JsonError::of_value::<PolicyPatch>(&options) {
        return Err(invalid(format!("{pointer}: {detail}")));
    }
    serde_json::from_value(options).map_err(|e| invalid(plain(&e.to_string())))
}

pub(super) fn invalid(problem: impl Into<String>) -> Refused {
    Refused::new("invalid_option", problem)
}

fn misfit(task: &str, errors: &[BindError]) -> Refused {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Refused::new("invalid_arguments", format!("{task}: {}", errors.join("; ")))
}

fn time_of(field: &str, value: &Value) -> Result<u64, Refused> {
    let read = value.as_str().and_then(time::unix_ms);
    read.ok_or_else(|| invalid(format!("{field}: write a time as RFC 3339, such as 2026-01-01T00:00:00Z")))
}
