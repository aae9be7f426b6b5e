//! What a broker must know of the policy of many jobs: decided once where their arguments make no difference.

use serde_json::Value;
use umbel_broker::BrokerOptions;
use umbel_model::{Expression, NodeArguments, NodeSpec, Parameter, Policy, TaskName, Uniqueness, outcome::truncated};

/// How the broker options of the jobs of one task under one policy are made.
#[derive(Debug, Clone)]
pub enum BrokerOptionRule {
    /// All have these.
    Same(Option<Box<BrokerOptions>>),
    /// They count by the arguments.
    Each(Box<Policy>),
}

impl BrokerOptionRule {
    /// Of jobs under a policy that was checked.
    pub fn new(policy: &Policy, task: &TaskName) -> Self {
        let is_unique = policy.unique != Uniqueness::Off || policy.debounce_ms > 0;
        if is_unique || !policy.limit_key.is_empty() {
            return Self::Each(Box::new(policy.clone()));
        }
        Self::Same(BrokerOptions::of(policy, task, &[], |_| None))
    }

    /// Of the nodes of a workflow: they are no rivals of jobs like them.
    pub(crate) fn of_nodes(policy: &Policy, task: &TaskName) -> Self {
        Self::new(&Policy { unique: Uniqueness::Off, debounce_ms: 0, ..policy.clone() }, task)
    }

    /// The broker options of one call. `argument` gives the bound value of a parameter; it is asked only if it matters.
    pub fn broker_options<'a>(
        &self,
        task: &TaskName,
        parameters: &[&'a str],
        argument: impl FnMut(&'a str) -> Option<Value>,
    ) -> Option<Box<BrokerOptions>> {
        match self {
            Self::Same(broker_options) => broker_options.clone(),
            Self::Each(policy) => BrokerOptions::of(policy, task, parameters, argument),
        }
    }
}

/// An expression of a policy that begins with a parameter which the task does not have: it would find `null` in every job,
/// and all jobs of the task would be alike. What lies below a parameter may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// Its place in the policy, as a JSON pointer: `/unique_by/0`.
    pub pointer: String,
    /// Names the parameters that there are.
    pub detail: String,
}

impl Misplaced {
    /// The first of a whole policy.
    pub fn in_policy(policy: &Policy, parameters: &[Parameter]) -> Option<Self> {
        Self::in_node(policy, parameters).or_else(|| {
            let place = |at| format!("/unique_by/{at}");
            policy.unique_by.iter().enumerate().find_map(|(at, text)| Self::of(|| place(at), text, parameters))
        })
    }

    /// The first of those that a job is counted by: what makes jobs alike matters only if it is unique.
    pub fn in_job(policy: &Policy, parameters: &[Parameter]) -> Option<Self> {
        let is_unique = policy.unique != Uniqueness::Off || policy.debounce_ms > 0;
        if is_unique { Self::in_policy(policy, parameters) } else { Self::in_node(policy, parameters) }
    }

    /// The first of those that a node is counted by: nodes are not unique, whatever their task is.
    pub(crate) fn in_node(policy: &Policy, parameters: &[Parameter]) -> Option<Self> {
        if policy.limit_key.is_empty() {
            return None;
        }
        Self::of(|| "/limit_key".to_owned(), &policy.limit_key, parameters)
    }

    fn of(pointer: impl FnOnce() -> String, text: &str, parameters: &[Parameter]) -> Option<Self> {
        if Expression::parse(text).is_ok_and(|path| is_there(&path, parameters)) {
            return None;
        }
        let known: Vec<String> =
            parameters.iter().take(MAX_NAMED).map(|parameter| format!("`{}`", parameter.name)).collect();
        let known = match parameters.len() {
            0 => "it has none".to_owned(),
            count if count > MAX_NAMED => format!("it has {} and more", known.join(", ")),
            _ => format!("it has {}", known.join(", ")),
        };
        let detail = truncated(format!("`{text}` names no parameter of the task: {known}"), 1_024);
        Some(Self { pointer: pointer(), detail })
    }
}

fn is_there(path: &Expression, parameters: &[Parameter]) -> bool {
    path.parameter(parameters.iter().map(|parameter| parameter.name.as_str())).is_some()
}

/// Parameters that a refusal names.
const MAX_NAMED: usize = 16;

/// How the broker options of a template's nodes are made.
#[derive(Debug)]
pub(crate) struct NodeBrokerOptions {
    rule: BrokerOptionRule,
    task: TaskName,
    /// Names and defaults.
    parameters: Vec<(String, Option<Value>)>,
}

impl NodeBrokerOptions {
    pub(crate) fn new(spec: &NodeSpec) -> Self {
        let rule = BrokerOptionRule::of_nodes(&Policy::resolve(&spec.policy), &spec.task);
        let parameters = match rule {
            BrokerOptionRule::Same(_) => Vec::new(),
            BrokerOptionRule::Each(_) => {
                let default = |text: &serde_json::value::RawValue| serde_json::from_str(text.get()).ok();
                spec.parameters.iter().map(|p| (p.name.clone(), p.default.as_deref().and_then(default))).collect()
            }
        };
        Self { rule, task: spec.task.clone(), parameters }
    }

    /// Of one node whose `NodeArguments` are this text.
    pub(crate) fn of_text(&self, text: &str, takes: bool) -> serde_json::Result<Option<Box<BrokerOptions>>> {
        match &self.rule {
            BrokerOptionRule::Same(broker_options) => Ok(broker_options.clone()),
            BrokerOptionRule::Each(_) => Ok(self.of(&serde_json::from_str(text)?, takes)),
        }
    }

    /// Of one node: what it will be called with as far as it is known now. The result that it takes (`takes`) and the items
    /// of a map are not: they count as `null`.
    pub(crate) fn of(&self, call: &NodeArguments, takes: bool) -> Option<Box<BrokerOptions>> {
        if let BrokerOptionRule::Same(broker_options) = &self.rule {
            return broker_options.clone();
        }
        let names: Vec<&str> = self.parameters.iter().map(|(name, _)| name.as_str()).collect();
        let first = usize::from(takes);
        let own = first + call.args.len();
        let is_each = call.map.is_some() || call.starmap.is_some();
        self.rule.broker_options(&self.task, &names, |name| {
            let at = names.iter().position(|known| *known == name)?;
            let given = match at {
                at if at < first => return None,
                at if at < own => call.args.get(at - first),
                _ => call.kwargs.get(name),
            };
            match given {
                Some(value) => serde_json::from_str(value.get()).ok(),
                None if is_each => None,
                None => self.parameters[at].1.clone(),
            }
        })
    }
}
