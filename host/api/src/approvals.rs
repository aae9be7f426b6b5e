//! Approvals: a module that asks for permissions is deployed only after somebody with the right `grant` approved them.
//!
//! The approval belongs to the digest. A module that asks for no more than a version of it that its tasks point at now was
//! approved for inherits that approval, which is written down as such. A push never approves by itself.

use umbel_broker::DocumentPut;
use umbel_compose::{Approval, Granted, WaitingPush};
use umbel_model::{Digest, ModuleInfo, Permission, TenantId};

use crate::{
    auth::Caller,
    deployment::{Plan, TaskChange},
    problem::{Problem, Result},
    state::Api,
    task_store::{self, MAX_TRIES},
    time::now_ms,
};

/// The name under which `umbel dev` approves.
const DEV: &str = "umbel dev";

/// What a push means for the approval of its module.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// It asks for nothing.
    NotNeeded,
    Approved(Granted),
    /// It is approved by this push, because a version that is deployed is approved for as much, or in `umbel dev`.
    Granted(Granted),
    /// For these.
    Waits(Vec<Permission>),
}

/// Decides about a module that is pushed.
pub(crate) async fn at_push(
    api: &Api,
    caller: &Caller,
    info: &ModuleInfo,
    plan: &Plan,
    take_over: bool,
) -> Result<Decision> {
    let Some(asked) = info.permissions.as_ref().filter(|_| info.needs_approval()) else {
        return Ok(Decision::NotNeeded);
    };
    let (approval, _) = Approval::read(&*api.broker, &caller.tenant, info.digest).await?;
    let missing = approval.missing(info);
    if let (Some(granted), true) = (approval.granted, missing.is_empty()) {
        return Ok(Decision::Approved(granted));
    }
    let granted = |by: String, inherited_from| Granted { permissions: asked.clone(), at: now_ms(), by, inherited_from };
    for digest in plan.predecessors(take_over) {
        let (earlier, _) = Approval::read(&*api.broker, &caller.tenant, digest).await?;
        if let Some(of_earlier) = &earlier.granted
            && earlier.missing(info).is_empty()
        {
            return Ok(Decision::Granted(granted(of_earlier.by.clone(), Some(digest))));
        }
    }
    match api.config.approve_pushes {
        true => Ok(Decision::Granted(granted(DEV.into(), None))),
        false => Ok(Decision::Waits(missing)),
    }
}

/// Writes down what was decided about a pushed module; `deploy`: its tasks are to be deployed once it is approved.
pub(crate) async fn remember(
    api: &Api,
    tenant: &TenantId,
    info: &ModuleInfo,
    decision: &Decision,
    deploy: Option<WaitingPush>,
) -> Result<()> {
    if matches!(decision, Decision::NotNeeded | Decision::Approved(_)) {
        return Ok(());
    }
    for _ in 0..MAX_TRIES {
        let (old, version) = Approval::read(&*api.broker, tenant, info.digest).await?;
        let new = match decision {
            Decision::Granted(granted) => Approval { granted: Some(granted.clone()), waiting: None },
            // Somebody approved it since it was looked up: the push would have deployed it.
            _ if old.granted.is_some() && old.missing(info).is_empty() => return Err(busy(info.digest)),
            _ => Approval { granted: old.granted.clone(), waiting: deploy.clone().or_else(|| old.waiting.clone()) },
        };
        if new == old || written(api, tenant, info.digest, &new, version).await? {
            return Ok(());
        }
    }
    Err(busy(info.digest))
}

/// Approves a module, and deploys what a push of it left for that. Done again after an interruption it goes on.
pub(crate) async fn approve(
    api: &Api,
    caller: &Caller,
    digest: Digest,
) -> Result<(ModuleInfo, Approval, Vec<TaskChange>)> {
    let tenant = &caller.tenant;
    for _ in 0..MAX_TRIES {
        let info = task_store::live_module(api, tenant, digest).await?;
        let (old, version) = Approval::read(&*api.broker, tenant, digest).await?;
        let is_approved = old.missing(&info).is_empty();
        let plan = match &old.waiting {
            None => None,
            Some(waiting) => {
                let mut plan = Plan::read(api, tenant, &info).await?;
                plan.check(waiting.take_over)?;
                plan.check_policies(api);
                Some((plan, waiting.take_over))
            }
        };
        let granted = match (&old.granted, info.permissions.clone()) {
            (Some(granted), _) if is_approved => Some(granted.clone()),
            (_, Some(permissions)) if info.needs_approval() => {
                Some(Granted { permissions, at: now_ms(), by: caller.name.to_string(), inherited_from: None })
            }
            _ => None,
        };
        let approval = Approval { granted, waiting: old.waiting.clone() };
        if approval != old {
            if !written(api, tenant, digest, &approval, version).await? {
                continue;
            }
            tracing::info!(%digest, "module approved");
        }
        let Some((plan, take_over)) = plan else { return Ok((info, approval, Vec::new())) };
        let changes = plan.carry_out(api, tenant, &info, take_over).await?;
        let approval = waits_no_more(api, tenant, digest).await?;
        return Ok((info, approval, changes));
    }
    Err(busy(digest))
}

/// What waited is deployed.
async fn waits_no_more(api: &Api, tenant: &TenantId, digest: Digest) -> Result<Approval> {
    for _ in 0..MAX_TRIES {
        let (old, version) = Approval::read(&*api.broker, tenant, digest).await?;
        let new = Approval { waiting: None, ..old.clone() };
        if new == old || written(api, tenant, digest, &new, version).await? {
            return Ok(new);
        }
    }
    Err(busy(digest))
}

/// Takes an approval back, and forgets a push that waits for one. Holds at the next host call, at most a second later.
pub(crate) async fn revoke(api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
    task_store::module(api, tenant, digest).await?.ok_or_else(|| Problem::no_module(digest))?;
    Approval::forget(&*api.broker, tenant, digest).await?;
    tracing::info!(%digest, "the approval of a module was revoked");
    Ok(())
}

async fn written(api: &Api, tenant: &TenantId, digest: Digest, new: &Approval, version: u64) -> Result<bool> {
    match new.write(&*api.broker, tenant, digest, version).await? {
        DocumentPut::Stored(_) => Ok(true),
        DocumentPut::Conflict(_) => Ok(false),
        DocumentPut::Full | DocumentPut::StorageFull => {
            let detail = "the tenant has as many approved modules as it may have; `umbel module delete` deletes some";
            Err(Problem::too_many_documents(detail))
        }
    }
}

fn busy(digest: Digest) -> Problem {
    Problem::concurrent_change(format!("the approval of {digest} was changed by others meanwhile; try again"))
}
