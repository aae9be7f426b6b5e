//! How a step ended, as the tasks behind it get it: error callbacks, and the body of a group whose members may fail.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The first argument of an error callback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepError {
    /// The failure's short name; `upstream_failed` when the step did not run because one before it failed.
    pub kind: String,
    /// For people.
    pub message: String,
    /// The number of the step's node in its workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// The job that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Details of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// The jobs that are to blame, when it is not this step itself; not all, if there are very many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedJob>,
}

impl StepError {
    /// The step did not run: one before it failed.
    pub fn is_upstream(&self) -> bool {
        self.kind == "upstream_failed"
    }
}

/// A job that made a step fail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FailedJob {
    pub job_id: String,
    pub node: u32,
    pub task: String,
    pub kind: String,
    pub message: String,
}

/// The result of a member whose failure does not fail the group (`OnFailure::Continue`): take `Vec<Settled<T>>` in the
/// body. Under `OnFailure::Ignore` take `Vec<Option<T>>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Settled<T> {
    Failed { error: Box<StepError> },
    Value(T),
}

impl<T> Settled<T> {
    pub fn into_result(self) -> Result<T, Box<StepError>> {
        match self {
            Self::Failed { error } => Err(error),
            Self::Value(value) => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_values_are_told_apart() {
        let text =
            r#"[1, {"error": {"job_id": "j", "node": 3, "task": "t", "kind": "Declined", "message": "no", "new": 1}}]"#;
        let members: Vec<Settled<u32>> = serde_json::from_str(text).unwrap();
        let [first, second] = <[_; 2]>::try_from(members).unwrap().map(Settled::into_result);
        let error = second.unwrap_err();
        assert_eq!((first, error.kind.as_str(), error.is_upstream()), (Ok(1), "Declined", false));
    }

    #[test]
    fn a_step_that_did_not_run_names_who_is_to_blame() {
        let text = r#"{"node": 4, "kind": "upstream_failed", "message": "1 failed", "count": 1, "failed":
            [{"job_id": "j", "node": 3, "task": "t", "kind": "Declined", "message": "no"}]}"#;
        let error: StepError = serde_json::from_str(text).unwrap();
        assert!(error.is_upstream());
        assert_eq!(error.failed[0].task, "t");
    }
}
