//! What is stored of a task: its description at the digest it points at, the server's policy, and its deploys.
//!
//! Written only at the version that was read, so that two writers never undo each other.

use serde::{Deserialize, Serialize};
use umbel_broker::{DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_model::{Digest, ModuleInfo, Policy, PolicyPatch, TaskDescription, TaskName, TenantId, UnixMs};

use crate::{
    problem::{Code, Problem},
    state::Api,
};

/// Deploys kept; older ones are forgotten and cannot be rolled back to.
const MAX_DEPLOYS: usize = 50;
/// Attempts to write against others who write the same task.
pub(crate) const MAX_TRIES: usize = 8;

/// One move of the pointer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deploy {
    pub(crate) digest: Digest,
    /// By the clock of the server that did it: for people.
    pub(crate) at: UnixMs,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rolled_back: bool,
}

/// A task of a tenant. The pointer is the newest deploy that was not rolled back; there always is one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskDocument {
    pub(crate) task: TaskDescription,
    /// What the server sets over the code's policy.
    #[serde(default, skip_serializing_if = "PolicyPatch::is_empty")]
    pub(crate) policy: PolicyPatch,
    /// Oldest first.
    pub(crate) deploys: Vec<Deploy>,
}

impl TaskDocument {
    fn first(task: TaskDescription, digest: Digest, at: UnixMs) -> Self {
        Self { task, policy: PolicyPatch::default(), deploys: vec![Deploy { digest, at, rolled_back: false }] }
    }

    pub(crate) fn digest(&self) -> Option<Digest> {
        self.standing().next().map(|deploy| deploy.digest)
    }

    /// Deploys that were not rolled back, newest first.
    fn standing(&self) -> impl Iterator<Item = &Deploy> {
        self.deploys.iter().rev().filter(|deploy| !deploy.rolled_back)
    }

    /// Where a roll back would go.
    pub(crate) fn previous(&self) -> Option<Digest> {
        self.standing().nth(1).map(|deploy| deploy.digest)
    }

    fn deploy(&mut self, task: TaskDescription, digest: Digest, at: UnixMs) {
        self.task = task;
        self.deploys.push(Deploy { digest, at, rolled_back: false });
        let excess = self.deploys.len().saturating_sub(MAX_DEPLOYS);
        self.deploys.drain(..excess);
    }

    /// Back to the deploy before, whose description is `task`.
    pub(crate) fn roll_back(&mut self, task: TaskDescription) {
        self.task = task;
        if let Some(current) = self.deploys.iter_mut().rev().find(|deploy| !deploy.rolled_back) {
            current.rolled_back = true;
        }
    }
}

/// A stored task and its version; none when there is no such task.
pub(crate) async fn find(
    api: &Api,
    tenant: &TenantId,
    name: &TaskName,
) -> Result<Option<(TaskDocument, u64)>, Problem> {
    let Some(document) = api.broker.document(tenant, DocumentKind::Task, name.as_str()).await? else {
        return Ok(None);
    };
    Ok(Some((parsed(&document.body)?, document.version)))
}

/// As `find`, but an unknown task is a problem.
pub(crate) async fn get(api: &Api, tenant: &TenantId, name: &TaskName) -> Result<(TaskDocument, u64), Problem> {
    find(api, tenant, name).await?.ok_or_else(|| unknown(name))
}

pub(crate) fn unknown(name: &TaskName) -> Problem {
    Problem::new(Code::TaskNotFound, format!("no task `{name}`; push a module that describes it, or check the name"))
}

pub(crate) fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> Result<T, Problem> {
    serde_json::from_str(body).map_err(|error| {
        tracing::error!(%error, "a stored document cannot be read");
        Problem::new(Code::RecordUnreadable, "the server's log says more")
    })
}

/// What is known of a module of the tenant.
pub(crate) async fn module(api: &Api, tenant: &TenantId, digest: Digest) -> Result<Option<ModuleInfo>, Problem> {
    let document = api.broker.document(tenant, DocumentKind::Module, &digest.to_string()).await?;
    document.map(|document| parsed(&document.body)).transpose()
}

/// The description of one task in a module.
pub(crate) async fn described(
    api: &Api,
    tenant: &TenantId,
    digest: Digest,
    name: &TaskName,
) -> Result<TaskDescription, Problem> {
    let info = module(api, tenant, digest).await?;
    let info = info.ok_or_else(|| Problem::new(Code::ModuleNotFound, format!("no module {digest}; push it first")))?;
    let found = info.tasks.into_iter().find(|task| task.name == *name);
    found.ok_or_else(|| Problem::new(Code::TaskNotInModule, format!("{digest} does not describe `{name}`")))
}

/// Points the task at a module of the tenant: answers what is stored now, and whether anything changed.
pub(crate) async fn deploy(
    api: &Api,
    tenant: &TenantId,
    task: &TaskDescription,
    digest: Digest,
) -> Result<(TaskDocument, u64, bool), Problem> {
    let at = crate::mint::now_ms();
    for _ in 0..MAX_TRIES {
        let (document, expect) = match find(api, tenant, &task.name).await? {
            Some((document, version)) if document.digest() == Some(digest) => return Ok((document, version, false)),
            Some((mut document, version)) => {
                document.deploy(task.clone(), digest, at);
                (document, Expect::Version(version))
            }
            None => (TaskDocument::first(task.clone(), digest, at), Expect::Absent),
        };
        // The server's policy may not fit what the new code sets: say so now, not at each submission.
        check_policy(api, &document)?;
        if let Some(version) = store(api, tenant, &document, expect).await? {
            tracing::info!(task = %task.name, %digest, version, "task deployed");
            return Ok((document, version, true));
        }
    }
    Err(busy(&task.name))
}

/// Writes at the expected version; none when somebody was faster.
pub(crate) async fn store(
    api: &Api,
    tenant: &TenantId,
    document: &TaskDocument,
    expect: Expect,
) -> Result<Option<u64>, Problem> {
    let name = &document.task.name;
    let put = PutDocument {
        tenant: tenant.clone(),
        kind: DocumentKind::Task,
        name: name.to_string(),
        expect,
        body: Some(serde_json::to_string(document).expect("a task document has text keys only")),
    };
    let stored = match api.broker.put_document(&put).await? {
        DocumentPut::Stored(version) => Some(version),
        DocumentPut::Conflict(_) => None,
        DocumentPut::Full => {
            return Err(Problem::new(Code::TooManyDocuments, "the tenant has as many tasks as it may have"));
        }
    };
    api.deployed.invalidate(&(tenant.clone(), name.clone())).await;
    Ok(stored)
}

pub(crate) fn busy(name: &TaskName) -> Problem {
    Problem::new(Code::ConcurrentChange, format!("`{name}` was changed by others {MAX_TRIES} times; try again"))
}

/// Checks what code and server decide together.
pub(crate) fn check_policy(api: &Api, document: &TaskDocument) -> Result<(), Problem> {
    let policy = Policy::resolve(&document.task.policy.overlaid(&document.policy));
    api.config.bounds.check(&policy).map_err(|e| invalid_policy(&e))
}

pub(crate) fn invalid_policy(error: &umbel_model::PolicyError) -> Problem {
    let pointer = format!("/policy/{}", error.field.replace('.', "/"));
    Problem::new(Code::InvalidPolicy, error.to_string())
        .errors(vec![crate::problem::FieldError { pointer, detail: error.problem.clone() }])
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
