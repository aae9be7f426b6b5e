//! Runs a module's `describe` in a sandbox with small limits, and checks the tasks that it returns.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use umbel_capabilities::Reach;
use umbel_model::{
    Declared, JsonError, JsonText, Outcome, Parameter, PolicyBounds, PolicyPatch, TaskDescription, TaskName,
    task::{MAX_PARAMETERS, MAX_SCHEMA_BYTES, MAX_TASKS, check_tasks},
};
use wasmtime::Store;

use crate::{
    attempt::{
        call::AttemptInfo,
        host::Discard,
        log::AttemptLog,
        outcome::{self, Failed, Phase},
        run::{Ended, Limits, StartedAttempt, TIMER_GRACE, bounded},
        state::{Clock, State},
        stop::StopHandle,
        text::clean,
    },
    bindings::{GuestAnswer, GuestDeclared, types},
    engine::Sandbox,
    error::DescribeError,
    prepared::Prepared,
};

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    pub tasks: Vec<TaskDescription>,
    pub permissions: Declared,
}

/// As the guest says it.
type RawDescription = (Vec<types::TaskDescription>, Vec<GuestDeclared>);

/// The longest policy text, bytes.
const MAX_POLICY_BYTES: usize = 16 << 10;

impl Sandbox {
    /// The tasks of a module and the permissions that it declares, checked against the limits of the model and the operator's
    /// `bounds`.
    pub async fn describe(&self, prepared: &Prepared, bounds: &PolicyBounds) -> Result<Described, DescribeError> {
        let (raw, declared) = self.raw_description(prepared).await?;
        let invalid = DescribeError::Invalid;
        if raw.len() > MAX_TASKS {
            return Err(invalid(format!("the module describes {} tasks, more than {MAX_TASKS}", raw.len())));
        }
        let mut trees = Trees { left: self.inner.config.describe.tree_bytes };
        let tasks: Vec<TaskDescription> =
            raw.into_iter().map(|raw| task(raw, &mut trees)).collect::<Result<_, _>>().map_err(invalid)?;
        check_tasks(&tasks, bounds).map_err(|e| invalid(clean(&e.to_string(), 2_048)))?;
        let names: Vec<TaskName> = tasks.iter().map(|task| task.name.clone()).collect();
        let declared = declared.iter().map(|one| (one.task.as_deref(), one.permission.as_str()));
        let permissions =
            Declared::read(declared, &names).map_err(|e| DescribeError::Permission(clean(&e.to_string(), 2_048)))?;
        Ok(Described { tasks, permissions })
    }

    async fn raw_description(&self, prepared: &Prepared) -> Result<RawDescription, DescribeError> {
        let failed =
            |kind: &str, message: &str| DescribeError::Failed { kind: kind.to_owned(), message: message.to_owned() };
        let Ok(_slot) = self.inner.slots.acquire().await else { return Err(failed("closed", "the sandbox is closed")) };
        let limits = self.inner.config.describe;
        let clock = Clock::start(limits.time_ms, 0);
        let log = AttemptLog::new(Arc::new(Discard), Reach::default().secrets, self.inner.config.log, clock.started);
        let started = StartedAttempt { clock, log, stop: StopHandle::new() };
        let store_limits = Limits { fuel: limits.fuel, memory_bytes: limits.memory_bytes, call_bytes: limits.bytes };
        let data = self.attempt_data("".into(), AttemptInfo::default(), Reach::default());
        let mut store = self.store(&store_limits, &started, data);
        let ended = bounded(call_describe(&mut store, prepared), clock.hard + TIMER_GRACE, &started.stop).await;
        let (error, phase) = match ended {
            Ended::Returned(Ok(described)) => return Ok(described),
            Ended::Returned(Err(error)) => error,
            Ended::TimedOut | Ended::Stopped(_) => {
                return Err(failed("deadline", &format!("it took longer than {} ms", limits.time_ms)));
            }
        };
        match outcome::trapped(&error, phase, store.data(), limits.bytes) {
            Outcome::Trap(failure) if failure.kind == "host_limit:result" => {
                Err(DescribeError::Invalid(format!("the description is larger than {} bytes", limits.bytes)))
            }
            Outcome::Trap(failure) if failure.kind == "bad_output" => Err(DescribeError::Invalid(failure.message)),
            Outcome::Trap(failure) => Err(failed(&failure.kind, &failure.message)),
            other => Err(failed("trap", &format!("{other:?}"))),
        }
    }
}

async fn call_describe(store: &mut Store<State>, prepared: &Prepared) -> Result<RawDescription, Failed> {
    let at = |phase| move |error| (error, phase);
    let inner = &prepared.inner;
    let instance = inner.pre.instantiate_async(&mut *store).await.map_err(at(Phase::Instantiate))?;
    let describe = instance
        .get_typed_func::<(), (Vec<types::TaskDescription>,)>(&mut *store, &inner.describe)
        .map_err(at(Phase::Instantiate))?;
    // A wrong type of `run` is found at upload and not by the first job.
    instance.get_typed_func::<(&str, &str), (GuestAnswer,)>(&mut *store, &inner.run).map_err(at(Phase::Instantiate))?;
    let (tasks,) = describe.call_async(&mut *store, ()).await.map_err(at(Phase::Call))?;
    let Some(declare) = &inner.declare else { return Ok((tasks, Vec::new())) };
    let declare =
        instance.get_typed_func::<(), (Vec<GuestDeclared>,)>(&mut *store, declare).map_err(at(Phase::Instantiate))?;
    let (declared,) = declare.call_async(&mut *store, ()).await.map_err(at(Phase::Call))?;
    Ok((tasks, declared))
}

fn task(raw: types::TaskDescription, trees: &mut Trees) -> Result<TaskDescription, String> {
    let types::TaskDescription { name, description, parameters, returns, policy } = raw;
    let name = TaskName::new(&name).map_err(|e| clean(&e.to_string(), 512))?;
    let of = |problem: String| format!("task {name}: {}", clean(&problem, 1_024));
    if parameters.len() > MAX_PARAMETERS {
        return Err(of(format!("it has {} parameters, more than {MAX_PARAMETERS}", parameters.len())));
    }
    let parameters = parameters.into_iter().map(|raw| parameter(raw, trees)).collect::<Result<_, _>>().map_err(of)?;
    let returns = returns.map(|schema| trees.value("the schema of the result", &schema)).transpose().map_err(of)?;
    if policy.len() > MAX_POLICY_BYTES {
        return Err(of(format!("its policy is longer than {MAX_POLICY_BYTES} bytes")));
    }
    // A list would do for a struct whose fields may all be missing.
    object_of::<serde_json::Map<String, Value>>(&policy).map_err(&of)?;
    let policy: PolicyPatch = object_of(&policy).map_err(&of)?;
    // Too long descriptions are refused by `check_tasks`; what stays is cleaned for terminals.
    let description = clean(&description, usize::MAX);
    Ok(TaskDescription { name, description, parameters, returns, policy })
}

fn object_of<T: DeserializeOwned>(policy: &str) -> Result<T, String> {
    serde_json::from_str(policy).map_err(|e| format!("its policy: {}", JsonError::line_of_text::<T>(policy, &e)))
}

fn parameter(raw: types::Parameter, trees: &mut Trees) -> Result<Parameter, String> {
    let name = raw.name;
    let schema = trees.value(&format!("the schema of {name:?}"), &raw.schema)?;
    let default = raw.default.map(|text| trees.value(&format!("the default of {name:?}"), &text)).transpose()?;
    Ok(Parameter { name, schema, default })
}

/// The JSON trees of one description: parsed, a text takes many times its bytes.
struct Trees {
    /// Bytes that they may still take.
    left: usize,
}

/// About the bytes of a value and of an object besides its values, on a 64-bit machine.
const VALUE_BYTES: usize = 64;
const OBJECT_BYTES: usize = 700;
const MANY_VALUES: &str = "with it, the schemas and defaults of the module have too many values; make them smaller";

impl Trees {
    /// JSON of a bounded length and tree, without white space; `serde_json` bounds the depth (128).
    fn value(&mut self, what: &str, text: &str) -> Result<JsonText, String> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(format!("{what} is longer than {MAX_SCHEMA_BYTES} bytes"));
        }
        self.left =
            self.left.checked_sub(tree_bytes(text)).ok_or_else(|| format!("{what} is too large: {MANY_VALUES}"))?;
        let value: Value = serde_json::from_str(text).map_err(|e| format!("{what} is not JSON: {e}"))?;
        Ok(JsonText::from(&value))
    }
}

/// About the bytes of a text's tree, and never much less: what looks like a value within a string counts as one.
fn tree_bytes(text: &str) -> usize {
    let of = |byte: u8| match byte {
        b'{' => OBJECT_BYTES,
        b'[' | b',' => VALUE_BYTES,
        _ => 0,
    };
    text.len() + VALUE_BYTES + text.bytes().map(of).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_a_wrong_shape_is_refused_in_words_for_people() {
        let said = |policy: &str| {
            let (name, description) = ("t".to_owned(), String::new());
            let raw = types::TaskDescription {
                name,
                description,
                parameters: Vec::new(),
                returns: None,
                policy: policy.to_owned(),
            };
            task(raw, &mut Trees { left: 1 << 20 }).unwrap_err()
        };
        assert_eq!(said("[]"), "task t: its policy: write an object; this is a list");
        assert_eq!(
            said(r#"{"retry_backoff":{"max_ms":true}}"#),
            "task t: its policy: /retry_backoff/max_ms: write a whole number, 0 or more; this is true"
        );
        assert!(
            said(r#"{"max_retry":1}"#).contains("/max_retry: there is no `max_retry`, did you mean `max_retries`?")
        );
    }
}
