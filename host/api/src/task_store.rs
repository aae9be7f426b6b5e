//! The stored records of tasks and modules.
//!
//! Written only at the version that was read, so that two writers never undo each other.

use umbel_broker::{DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_compose::{ModuleDocument, TaskDocument, UnknownParameter};
use umbel_model::{Digest, DigestPrefix, ModuleInfo, Policy, TaskDescription, TaskName, TenantId};

use crate::{
    approval_check::must_be_approved,
    problem::{Code, Problem, Result},
    records,
    state::Api,
    storage_quota,
};

/// Attempts to write against others who write the same task.
pub(crate) const MAX_TRIES: usize = 8;

/// A stored task and its version.
pub(crate) async fn get(api: &Api, tenant: &TenantId, name: &TaskName) -> Result<(TaskDocument, u64)> {
    TaskDocument::read(&*api.broker, tenant, name).await?.ok_or_else(|| Problem::no_task(name))
}

pub(crate) fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> Result<T> {
    serde_json::from_str(body).map_err(|error| Problem::unreadable_record("the server's log says more", &error))
}

/// The record of a module of the tenant, deleted or not.
pub(crate) async fn module(api: &Api, tenant: &TenantId, digest: Digest) -> Result<Option<ModuleInfo>> {
    Ok(ModuleDocument::read(&*api.broker, tenant, digest).await?.map(|document| document.info))
}

/// The record of a module that tasks may be pointed at.
pub(crate) async fn live_module(api: &Api, tenant: &TenantId, digest: Digest) -> Result<ModuleInfo> {
    let info = module(api, tenant, digest).await?.ok_or_else(|| Problem::no_module(digest))?;
    if info.deleted_at.is_some() { Err(Problem::deleted_module(digest)) } else { Ok(info) }
}

/// Takes the mark away if the module was deleted while a task was pointed at it: whoever deletes it looks for such tasks after
/// the mark, and whoever points one looks for the mark after that, so one of both sees the other.
async fn keep_module(api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
    for _ in 0..MAX_TRIES {
        match ModuleDocument::read(&*api.broker, tenant, digest).await? {
            Some(module) if module.info.deleted_at.is_some() => {
                if module.mark(&*api.broker, tenant, None).await? {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// The digest of the tenant's one module whose digest begins like this. A whole digest is taken as it is.
pub(crate) async fn resolve(api: &Api, tenant: &TenantId, prefix: &DigestPrefix) -> Result<Digest> {
    if let Some(digest) = prefix.whole() {
        return Ok(digest);
    }
    let text = prefix.to_string();
    // A name sorts behind its own beginning.
    let page = api.broker.documents(tenant, DocumentKind::Module, Some(&text), 2).await?;
    let mut found = page.documents.iter().map(|document| &*document.name).filter(|name| name.starts_with(&text));
    match (found.next(), found.next()) {
        (Some(digest), None) => {
            digest.parse().map_err(|e| Problem::unreadable_record("a module's name is damaged", &e))
        }
        (Some(one), Some(other)) => {
            Err(Problem::ambiguous_digest(format!("{text} begins {one} and {other}; write more of its digits")))
        }
        (None, _) => Err(Problem::no_module(&text)),
    }
}

/// The description of one task in a module that may be deployed: nothing that it asks for waits for approval.
pub(crate) async fn deployable(
    api: &Api,
    tenant: &TenantId,
    digest: Digest,
    name: &TaskName,
) -> Result<TaskDescription> {
    let info = live_module(api, tenant, digest).await?;
    let found = info.tasks.iter().find(|task| task.name == *name).cloned();
    let task = found.ok_or_else(|| Problem::task_not_in_module(format!("{digest} does not describe `{name}`")))?;
    must_be_approved(api, tenant, &info).await?;
    Ok(task)
}

/// Deletes the task at this version; false when it has another one.
pub(crate) async fn delete(api: &Api, tenant: &TenantId, name: &TaskName, version: u64) -> Result<bool> {
    let put = PutDocument {
        tenant: tenant.clone(),
        kind: DocumentKind::Task,
        name: name.to_string(),
        expect: Expect::Version(version),
        body: None,
        held_bytes: 0,
    };
    let deleted = matches!(api.broker.put_document(&put).await?, DocumentPut::Stored(_));
    api.tasks.invalidate(&(tenant.clone(), name.clone())).await;
    Ok(deleted)
}

/// Points the task at a module of the tenant: answers what is stored now.
pub(crate) async fn deploy(
    api: &Api,
    tenant: &TenantId,
    task: &TaskDescription,
    digest: Digest,
) -> Result<(TaskDocument, u64)> {
    let at = crate::time::now_ms();
    for _ in 0..MAX_TRIES {
        let (document, expect) = match TaskDocument::read(&*api.broker, tenant, &task.name).await? {
            Some((document, version)) if document.digest() == Some(digest) => return Ok((document, version)),
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
            return Ok((document, version));
        }
    }
    Err(busy(&task.name))
}

/// The task as it is once it points back at its deploy before, and the module of that.
pub(crate) async fn rolled_back(
    api: &Api,
    tenant: &TenantId,
    mut document: TaskDocument,
) -> Result<(TaskDocument, Digest)> {
    let name = document.task.name.clone();
    let nothing = || Problem::nothing_to_roll_back(format!("`{name}` has no earlier deploy that still stands"));
    let previous = document.previous().ok_or_else(nothing)?;
    let task = deployable(api, tenant, previous, &name).await?;
    document.roll_back(task);
    check_policy(api, &document)?;
    Ok((document, previous))
}

/// Writes at the expected version; none when somebody was faster.
pub(crate) async fn store(
    api: &Api,
    tenant: &TenantId,
    document: &TaskDocument,
    expect: Expect,
) -> Result<Option<u64>> {
    let name = &document.task.name;
    let put = records::write_of(tenant, DocumentKind::Task, name, expect, document);
    let stored = match api.broker.put_document(&put).await? {
        DocumentPut::Stored(version) => Some(version),
        DocumentPut::Conflict(_) => None,
        DocumentPut::Full => {
            return Err(Problem::too_many_documents("the tenant has as many tasks as it may have"));
        }
        DocumentPut::StorageFull => return Err(storage_quota::of_documents(api, tenant).await),
    };
    api.tasks.invalidate(&(tenant.clone(), name.clone())).await;
    if let (Some(_), Some(digest)) = (stored, document.digest()) {
        keep_module(api, tenant, digest).await?;
    }
    Ok(stored)
}

pub(crate) fn busy(name: &TaskName) -> Problem {
    Problem::concurrent_change(format!("`{name}` was changed by others {MAX_TRIES} times; try again"))
}

/// Checks what code and server decide together.
pub(crate) fn check_policy(api: &Api, document: &TaskDocument) -> Result<()> {
    let policy = Policy::resolve(&document.task.policy.overlaid(&document.policy));
    api.config.bounds.check(&policy).map_err(|e| Problem::policy(&e))?;
    let names: Vec<&str> = document.task.parameters.iter().map(|parameter| &*parameter.name).collect();
    match UnknownParameter::in_policy(&policy, &names) {
        Some(UnknownParameter { pointer, detail }) => {
            Err(Problem::of_field(Code::InvalidOption, &format!("policy{pointer}"), detail))
        }
        None => Ok(()),
    }
}
