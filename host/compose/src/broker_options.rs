//! The broker options of jobs and nodes: decided once where the arguments make no difference.

use serde_json::value::RawValue;
use umbel_broker::BrokerOptions;
use umbel_model::{NodeArguments, ParameterText, Policy, TaskName, Uniqueness};

use crate::call::Call;

/// How the broker options of the jobs of one task under one policy are made.
#[derive(Debug, Clone)]
pub(crate) enum BrokerOptionsRule {
    /// All have these.
    Same(Option<Box<BrokerOptions>>),
    /// They count by the arguments.
    ByArguments(Box<Policy>),
}

impl BrokerOptionsRule {
    /// Of jobs under a policy that was checked.
    pub(crate) fn of_jobs(policy: &Policy, task: &TaskName) -> Self {
        if policy.is_unique() || !policy.limit_key.is_empty() {
            return Self::ByArguments(Box::new(policy.clone()));
        }
        Self::Same(BrokerOptions::of(policy, task, &[], |_| None))
    }

    /// Of the nodes of a workflow, and of jobs that repeat another: uniqueness is for submissions from outside.
    pub(crate) fn without_uniqueness(policy: &Policy, task: &TaskName) -> Self {
        Self::of_jobs(&Policy { unique: Uniqueness::Off, debounce_ms: 0, ..policy.clone() }, task)
    }

    /// The broker options of one call. `names` are its parameters; `argument` gives the text of the bound value of one by its
    /// number, and is asked only if it matters.
    pub(crate) fn of_call<'a, 't>(
        &self,
        task: &TaskName,
        names: impl IntoIterator<Item = &'a str>,
        mut argument: impl FnMut(usize) -> Option<&'t str>,
    ) -> Option<Box<BrokerOptions>> {
        match self {
            Self::Same(broker_options) => broker_options.clone(),
            Self::ByArguments(policy) => {
                let names: Vec<&str> = names.into_iter().collect();
                let number = |name: &str| names.iter().position(|known| *known == name);
                BrokerOptions::of(policy, task, &names, |name| argument(number(name)?))
            }
        }
    }

    /// The broker options of one node: by what it will be called with as far as that is known now. The result that it takes
    /// (`takes`) and the items of a map are not: they count as `null`.
    pub(crate) fn of_node(
        &self,
        task: &TaskName,
        parameters: &[ParameterText],
        arguments: &NodeArguments,
        takes: bool,
    ) -> Option<Box<BrokerOptions>> {
        let (binding, _) = Call { arguments, takes, pointer: "" }.bind(parameters, 0);
        let has_items = arguments.map.is_some() || arguments.starmap.is_some();
        self.of_call(task, parameters.iter().map(|p| p.name.as_str()), |at| {
            let text = match binding.value(at) {
                Some(value) => *value,
                None if has_items => None,
                None => parameters[at].default.as_deref(),
            };
            text.map(RawValue::get)
        })
    }
}
