//! The stored record of a task: its description at the digest it points at, the server's policy, and its deploys.

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind};
use umbel_model::{Digest, ParameterText, PolicyPatch, TaskDescription, TaskName, TenantId, UnixMs};

use crate::{Error, Result, RouteTable, TaskFacts};

/// Deploys kept; older ones are forgotten and cannot be rolled back to.
const MAX_DEPLOYS: usize = 50;

/// One deploy: the task was pointed at a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    pub digest: Digest,
    /// By the clock of the server that did it: for people.
    pub at: UnixMs,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
}

/// A task of a tenant, the body of its document. The pointer is the newest deploy that was not rolled back; there always
/// is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskDocument {
    pub task: TaskDescription,
    /// The fields of the policy that the server sets over those of the code.
    #[serde(default, skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// Oldest first.
    pub deploys: Vec<Deploy>,
}

impl TaskDocument {
    /// A task as it is stored, and its version; none when the tenant has no such task.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId, name: &TaskName) -> Result<Option<(Self, u64)>> {
        let Some(document) = broker.document(tenant, DocumentKind::Task, name.as_str()).await? else { return Ok(None) };
        let task = serde_json::from_str(&document.body);
        let task = task.map_err(|error| Error::Corrupt(format!("task `{name}`: {error}")))?;
        Ok(Some((task, document.version)))
    }

    pub fn first(task: TaskDescription, digest: Digest, at: UnixMs) -> Self {
        Self { task, policy: PolicyPatch::default(), deploys: vec![Deploy { digest, at, rolled_back: false }] }
    }

    /// The module that the task points at.
    pub fn digest(&self) -> Option<Digest> {
        self.standing().next().map(|deploy| deploy.digest)
    }

    /// Deploys that were not rolled back, newest first.
    fn standing(&self) -> impl Iterator<Item = &Deploy> {
        self.deploys.iter().rev().filter(|deploy| !deploy.rolled_back)
    }

    /// Where a roll back would go.
    pub fn previous(&self) -> Option<Digest> {
        self.standing().nth(1).map(|deploy| deploy.digest)
    }

    /// Whether it points at that module, or does after some rollbacks.
    pub(crate) fn may_return_to(&self, digest: Digest) -> bool {
        self.standing().any(|deploy| deploy.digest == digest)
    }

    /// Points it at another module, whose description of the task is `task`.
    pub fn deploy(&mut self, task: TaskDescription, digest: Digest, at: UnixMs) {
        self.task = task;
        self.deploys.push(Deploy { digest, at, rolled_back: false });
        let excess = self.deploys.len().saturating_sub(MAX_DEPLOYS);
        self.deploys.drain(..excess);
    }

    /// Back to the deploy before, whose description is `task`.
    pub fn roll_back(&mut self, task: TaskDescription) {
        self.task = task;
        if let Some(current) = self.deploys.iter_mut().rev().find(|deploy| !deploy.rolled_back) {
            current.rolled_back = true;
        }
    }

    /// Its policy before a call: the code's, over it the routes', over them the server's.
    pub fn layered(&self, routes: Option<&RouteTable>) -> PolicyPatch {
        let code = &self.task.policy;
        match routes.map(|routes| routes.patch(&self.task.name)) {
            Some(routed) => code.overlaid(&routed).overlaid(&self.policy),
            None => code.overlaid(&self.policy),
        }
    }

    /// The facts that submissions need, without a checker; none when it points at nothing.
    pub fn facts(self, routes: Option<&RouteTable>) -> Option<TaskFacts> {
        let digest = self.digest()?;
        let policy = self.layered(routes);
        let parameters = self.task.parameters.iter().map(ParameterText::from).collect();
        Some(TaskFacts { name: self.task.name, digest, policy, parameters, checker: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskDescription {
        serde_json::from_str(r#"{"name":"add","parameters":[]}"#).unwrap()
    }

    #[test]
    fn rolling_back_twice_goes_back_two_deploys() {
        let digest = |n: u8| Digest::of(&[n]);
        let mut document = TaskDocument::first(task(), digest(1), 1);
        document.deploy(task(), digest(2), 2);
        document.deploy(task(), digest(3), 3);
        document.roll_back(task());
        assert_eq!((document.digest(), document.previous()), (Some(digest(2)), Some(digest(1))));
        document.roll_back(task());
        assert_eq!((document.digest(), document.previous()), (Some(digest(1)), None));
        document.deploy(task(), digest(4), 4);
        assert_eq!((document.digest(), document.previous()), (Some(digest(4)), Some(digest(1))));
    }

    #[test]
    fn old_deploys_are_forgotten_and_the_pointer_is_not() {
        let mut document = TaskDocument::first(task(), Digest::of(b"0"), 0);
        for n in 1..200_u64 {
            document.deploy(task(), Digest::of(&n.to_be_bytes()), n);
        }
        assert_eq!(document.deploys.len(), MAX_DEPLOYS);
        assert_eq!(document.digest(), Some(Digest::of(&199_u64.to_be_bytes())));
    }
}
