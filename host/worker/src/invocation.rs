//! The invocation of a delivery: read from a job's record, or composed for a workflow's node from its template, its own
//! arguments and the result of its source.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_broker::{Broker, DeliveredNode, Delivery, Input, LargeValues, NodeAt, ValueError, error_of, value_of};
use umbel_model::{
    BindError, Digest, Failure, LargeValue, NodeArguments, NodeSpec, Outcome, PolicyPatch, ScheduleStamp, bind_text,
    job::SPEC_VERSION,
};

use crate::active_delivery::ActiveDelivery;

/// The delay of a job that this worker cannot run now but a later or another one may, milliseconds.
pub(crate) const SNOOZE_MS: u64 = 30_000;

/// The results that a node takes, bytes together. They are copied into the guest's memory, which is limited too.
pub(crate) const MAX_INPUT_BYTES: usize = 16 << 20;
/// Problems that one failure lists.
const MAX_PROBLEMS: usize = 8;

/// The arguments of one call, or of several calls one after the other.
#[derive(Debug)]
pub(crate) enum Calls {
    /// A JSON object by parameter name.
    One(Box<str>),
    Map(Vec<Box<str>>),
}

/// Everything that is needed to call a task.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    pub(crate) task: Cow<'a, str>,
    pub(crate) digest: Digest,
    pub(crate) traceparent: Option<Cow<'a, str>>,
    pub(crate) request_id: Option<Cow<'a, str>>,
    pub(crate) schedule: Option<Cow<'a, ScheduleStamp>>,
    pub(crate) calls: Calls,
    /// Large arguments, which must be read from there: `calls` does not have them.
    pub(crate) stored: Option<LargeValue>,
}

/// A job's record, borrowed.
#[derive(Debug, Deserialize)]
struct Spec<'a> {
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
    #[serde(default)]
    schedule: Option<ScheduleStamp>,
    #[serde(default)]
    stored_arguments: Option<LargeValue>,
}

/// The part of a record that every version has.
#[derive(Debug, Deserialize)]
struct Version {
    v: u64,
}

/// The end of a job that cannot be run.
fn fatal(kind: &str, message: impl Into<String>) -> Outcome {
    Outcome::Fatal(Failure::new(kind, message))
}

/// Parses the record of a delivery. A newer worker can read the record of a newer Umbel; any other that cannot be read
/// fails its job.
fn read_spec<'a, T: Deserialize<'a>>(delivery: &'a Delivery, version: fn(&T) -> u8) -> Result<T, Outcome> {
    let spec = serde_json::from_str::<T>(&delivery.spec);
    let version = match &spec {
        Ok(spec) => version(spec).into(),
        Err(_) => serde_json::from_str(&delivery.spec).map_or(0, |Version { v }| v),
    };
    if version > u64::from(SPEC_VERSION) {
        tracing::warn!(
            tenant = %delivery.tenant, job = %delivery.id, version, retry_in_ms = SNOOZE_MS,
            "job snoozed: a newer version of umbel submitted it; update this worker"
        );
        return Err(Outcome::Snooze { delay_ms: SNOOZE_MS });
    }
    spec.map_err(|error| fatal("bad_spec", format!("the job's record cannot be read: {error}")))
}

/// Reads a job that is not a workflow's node.
pub(crate) fn read_job(active: &ActiveDelivery) -> Result<Invocation<'_>, Outcome> {
    let spec: Spec<'_> = read_spec(&active.delivery, |spec: &Spec<'_>| spec.v)?;
    active.set_task(&spec.task, &spec.policy);
    Ok(Invocation {
        task: spec.task,
        digest: spec.digest,
        traceparent: spec.traceparent,
        request_id: spec.request_id,
        schedule: spec.schedule.map(Cow::Owned),
        calls: Calls::One(spec.arguments.get().into()),
        stored: spec.stored_arguments,
    })
}

/// Parsed templates: the members of a group share one.
#[derive(Debug, Default)]
pub(crate) struct Templates(Mutex<Option<(String, Arc<NodeSpec>)>>);

impl Templates {
    /// The template of a node.
    pub(crate) fn parsed(&self, delivery: &Delivery) -> Result<Arc<NodeSpec>, Outcome> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, spec)) = &*last
            && *known == delivery.spec
        {
            return Ok(spec.clone());
        }
        let spec = Arc::new(read_spec(delivery, |spec: &NodeSpec| spec.v)?);
        *last = Some((delivery.spec.clone(), spec.clone()));
        Ok(spec)
    }
}

/// Reads a workflow's node; `input` is the first argument, in front of its own ones.
pub(crate) fn read_node<'a>(
    active: &ActiveDelivery,
    spec: &'a NodeSpec,
    node: &DeliveredNode,
    input: Option<&str>,
) -> Result<Invocation<'a>, Outcome> {
    active.set_task(spec.task.as_str(), &spec.policy);
    let own: NodeArguments = serde_json::from_str(&node.arguments)
        .map_err(|e| fatal("bad_spec", format!("the node's arguments cannot be read: {e}")))?;
    let input: Option<&RawValue> = input
        .map(serde_json::from_str)
        .transpose()
        .map_err(|e| fatal("bad_spec", format!("the result that it takes cannot be read: {e}")))?;
    let bind = |more: &[Box<RawValue>]| -> Result<Box<str>, Outcome> {
        let args = input.into_iter().chain(own.args.iter().map(|arg| &**arg)).chain(more.iter().map(|arg| &**arg));
        let kwargs = own.kwargs.iter().map(|(name, value)| (name.as_str(), &**value));
        bind_text(&spec.parameters, args, kwargs).map(String::into_boxed_str).map_err(|e| misfit(&spec.task, &e))
    };
    let calls = match (&own.map, &own.starmap) {
        (Some(items), _) => Calls::Map(each(items.iter().map(|item| bind(std::slice::from_ref(item))))?),
        (_, Some(items)) => Calls::Map(each(items.iter().map(|item| bind(item)))?),
        _ => Calls::One(bind(&[])?),
    };
    Ok(Invocation {
        task: Cow::Borrowed(spec.task.as_str()),
        digest: spec.digest,
        traceparent: spec.stamps.traceparent.as_deref().map(Cow::Borrowed),
        request_id: spec.stamps.request_id.as_deref().map(Cow::Borrowed),
        schedule: spec.stamps.schedule.as_ref().map(Cow::Borrowed),
        calls,
        stored: None,
    })
}

/// The calls of a map. Each repeats the common arguments, so together they may be far larger than the submission.
fn each(calls: impl Iterator<Item = Result<Box<str>, Outcome>>) -> Result<Vec<Box<str>>, Outcome> {
    let (mut made, mut bytes) = (Vec::new(), 0);
    for call in calls {
        let call = call?;
        bytes += call.len();
        if bytes > MAX_INPUT_BYTES {
            let message = format!("the arguments of its calls are larger than {MAX_INPUT_BYTES} bytes together");
            return Err(fatal("host_limit:input", message));
        }
        made.push(call);
    }
    Ok(made)
}

fn misfit(task: &umbel_model::TaskName, errors: &[BindError]) -> Outcome {
    let problems: Vec<String> = errors.iter().take(MAX_PROBLEMS).map(ToString::to_string).collect();
    fatal("invalid_arguments", format!("`{task}` cannot be called with these: {}", problems.join("; ")))
}

/// Reads the result or error of its source that a node takes as input.
pub(crate) async fn read_input(
    broker: &dyn Broker,
    large: &dyn LargeValues,
    delivery: &Delivery,
) -> Result<Option<String>, Outcome> {
    let Some(node) = &delivery.node else { return Ok(None) };
    let at = |number| NodeAt { broker, large, tenant: &delivery.tenant, workflow: node.workflow, node: number };
    let read = match &node.input {
        Input::Nothing => return Ok(None),
        Input::Value(text) => match LargeValue::from_reference(text) {
            None => return Ok(Some(text.clone())),
            Some(stored) if stored.bytes > MAX_INPUT_BYTES as u64 => Err(ValueError::TooLarge(MAX_INPUT_BYTES)),
            Some(stored) => large.read(&delivery.tenant, &stored).await,
        },
        Input::Result(number) => value_of(at(*number), MAX_INPUT_BYTES).await,
        Input::Error(number) => error_of(at(*number)).await,
    };
    read.map(Some).map_err(|error| unread(delivery, error))
}

/// The end of a job that needs a value that cannot be read.
pub(crate) fn unread(delivery: &Delivery, error: ValueError) -> Outcome {
    let (tenant, job) = (&delivery.tenant, &delivery.id);
    match error {
        // Back to the queue, at no cost: the broker is gone for the settle too, or another worker has better luck.
        ValueError::Broker(error) if error.is_transient() => {
            tracing::warn!(%tenant, %job, %error, "input not read; job given back");
            Outcome::Released
        }
        ValueError::Unavailable(_) => {
            tracing::error!(%tenant, %job, %error, retry_in_ms = SNOOZE_MS, "job snoozed");
            Outcome::Snooze { delay_ms: SNOOZE_MS }
        }
        ValueError::Lost(_) => {
            tracing::error!(%tenant, %job, %error, "a value that a job needs is lost");
            fatal("value_lost", error.to_string())
        }
        ValueError::TooLarge(_) => fatal("host_limit:input", error.to_string()),
        other => fatal("bad_spec", format!("the result that it takes cannot be read: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::{JobId, ParameterText, TaskName};

    use super::*;

    fn spec(parameters: &[&str]) -> NodeSpec {
        let parameter = |name: &&str| ParameterText { name: (*name).to_owned(), default: None };
        NodeSpec {
            v: SPEC_VERSION,
            task: TaskName::new("add").unwrap(),
            digest: Digest::of(b"x"),
            parameters: parameters.iter().map(parameter).collect(),
            policy: PolicyPatch::default(),
            stamps: Default::default(),
            keep_ms: None,
        }
    }

    fn node(arguments: &str) -> DeliveredNode {
        DeliveredNode {
            workflow: JobId::from_parts(1, 0),
            node: 0,
            group: None,
            depth: 0,
            arguments: arguments.into(),
            input: Input::Nothing,
        }
    }

    fn calls(parameters: &[&str], arguments: &str, input: Option<&str>) -> Result<Vec<String>, String> {
        let spec = spec(parameters);
        let active = ActiveDelivery::for_test(1, "{}");
        match read_node(&active, &spec, &node(arguments), input) {
            Ok(Invocation { calls: Calls::One(one), .. }) => Ok(vec![one.into()]),
            Ok(Invocation { calls: Calls::Map(each), .. }) => Ok(each.into_iter().map(Into::into).collect()),
            Err(Outcome::Fatal(failure)) => Err(failure.kind),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_input_goes_in_front_of_the_arguments() {
        assert_eq!(
            calls(&["x", "y"], r#"{"args":[2]}"#, Some("12345678901234567890")),
            Ok(vec![r#"{"x":12345678901234567890,"y":2}"#.into()])
        );
        assert_eq!(calls(&["x", "y"], r#"{"kwargs":{"y":2}}"#, Some("[1]")), Ok(vec![r#"{"x":[1],"y":2}"#.into()]));
    }

    #[test]
    fn a_map_calls_once_for_each_item_and_a_starmap_with_each_list() {
        assert_eq!(calls(&["x"], r#"{"map":[1,2]}"#, None), Ok(vec![r#"{"x":1}"#.into(), r#"{"x":2}"#.into()]));
        assert_eq!(
            calls(&["x", "y"], r#"{"starmap":[[1,2],[3,4]]}"#, None),
            Ok(vec![r#"{"x":1,"y":2}"#.into(), r#"{"x":3,"y":4}"#.into()])
        );
        assert_eq!(calls(&["x"], r#"{"map":[]}"#, None), Ok(vec![]));
    }

    #[test]
    fn what_the_calls_of_a_map_have_in_common_is_limited_in_all() {
        let large = format!(r#"{{"args":["{}"],"map":[{}]}}"#, "x".repeat(100_000), vec!["1"; 1_000].join(","));
        assert_eq!(calls(&["x", "y"], &large, None), Err("host_limit:input".into()));
    }

    #[test]
    fn arguments_that_do_not_fit_are_named() {
        assert_eq!(calls(&["x"], r#"{"args":[2]}"#, Some("1")), Err("invalid_arguments".into()));
        assert_eq!(calls(&["x"], "not json", None), Err("bad_spec".into()));
    }
}
