//! Expressions of a policy that begin with a parameter which the task does not have.

use umbel_model::{Expression, Policy, outcome::truncated};

/// Parameters that a refusal names.
const MAX_NAMED: usize = 16;

/// An expression of a policy that begins with a parameter which the task does not have: it would find `null` in every job,
/// and all jobs of the task would be alike. What lies below a parameter may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownParameter {
    /// The expression's place in the policy, as a JSON pointer: `/unique_by/0`.
    pub pointer: String,
    /// Names the parameters that there are.
    pub detail: String,
}

impl UnknownParameter {
    /// The first of a whole policy, for a task with these parameters.
    pub fn in_policy(policy: &Policy, parameters: &[&str]) -> Option<Self> {
        Self::in_node(policy, parameters).or_else(|| {
            let place = |at| format!("/unique_by/{at}");
            policy.unique_by.iter().enumerate().find_map(|(at, text)| Self::of(|| place(at), text, parameters))
        })
    }

    /// The first of those that a job is counted by: what makes jobs alike matters only if it is unique.
    pub(crate) fn in_job(policy: &Policy, parameters: &[&str]) -> Option<Self> {
        if policy.is_unique() { Self::in_policy(policy, parameters) } else { Self::in_node(policy, parameters) }
    }

    /// The first of those that a node is counted by: nodes are not unique, whatever their task is.
    pub(crate) fn in_node(policy: &Policy, parameters: &[&str]) -> Option<Self> {
        if policy.limit_key.is_empty() {
            return None;
        }
        Self::of(|| "/limit_key".to_owned(), &policy.limit_key, parameters)
    }

    fn of(pointer: impl FnOnce() -> String, text: &str, parameters: &[&str]) -> Option<Self> {
        if Expression::parse(text).is_ok_and(|path| path.parameter(parameters.iter().copied()).is_some()) {
            return None;
        }
        let known: Vec<String> = parameters.iter().take(MAX_NAMED).map(|name| format!("`{name}`")).collect();
        let known = match parameters.len() {
            0 => "it has none".to_owned(),
            count if count > MAX_NAMED => format!("it has {} and more", known.join(", ")),
            _ => format!("it has {}", known.join(", ")),
        };
        let detail = truncated(format!("`{text}` names no parameter of the task: {known}"), 1_024);
        Some(Self { pointer: pointer(), detail })
    }
}
