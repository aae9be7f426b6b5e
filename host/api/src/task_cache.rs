//! Tasks and routes as submissions see them: what they mean now, ready to be used many times.

use std::sync::Arc;

use umbel_compose::{RouteKind, RouteTable, Routes, TaskDocument, TaskFacts, ValueChecker, pinned_task};
use umbel_model::{Digest, TaskName, TenantId};

use crate::{
    problem::{Problem, Result},
    schemas::SchemaChecker,
    state::Api,
    task_store,
};

/// The task as it is deployed now.
/// May be a second old on other servers than the one that deployed.
pub(crate) async fn task(api: &Api, tenant: &TenantId, name: &TaskName) -> Result<Arc<TaskFacts>> {
    let key = (tenant.clone(), name.clone());
    if let Some(found) = api.tasks.get(&key).await {
        return Ok(found);
    }
    let (document, _) = task_store::get(api, tenant, name).await?;
    let facts = checked_facts(api, tenant, document).await?;
    api.tasks.insert(key, facts.clone()).await;
    Ok(facts)
}

/// The task as a module describes it, whatever is deployed; none when there is no such module, or it does not describe it.
pub(crate) async fn pinned(
    api: &Api,
    tenant: &TenantId,
    name: &TaskName,
    digest: Digest,
) -> Result<Option<Arc<TaskFacts>>> {
    match pinned_task(&*api.broker, tenant, name, digest).await? {
        Some(document) => checked_facts(api, tenant, document).await.map(Some),
        None => Ok(None),
    }
}

async fn checked_facts(api: &Api, tenant: &TenantId, document: TaskDocument) -> Result<Arc<TaskFacts>> {
    let routes = routes(api, tenant).await?;
    let digest = document.digest().ok_or_else(|| Problem::record_unreadable("the task points at nothing"))?;
    let schemas = api.schemas.get(tenant, digest, &document.task).await?;
    let facts = document.facts(Some(&routes)).ok_or_else(Problem::see_log)?;
    let checker: Arc<dyn ValueChecker> =
        Arc::new(SchemaChecker { tenant: tenant.clone(), schemas, turns: api.checks.clone() });
    Ok(Arc::new(TaskFacts { checker: Some(checker), ..facts }))
}

/// The tenant's routes. May be a second old on other servers than the one that set them.
pub(crate) async fn routes(api: &Api, tenant: &TenantId) -> Result<Arc<RouteTable>> {
    if let Some(found) = api.routes.get(tenant).await {
        return Ok(found);
    }
    // Once, however many ask: compiling expressions is work.
    let table = api.routes.try_get_with(tenant.clone(), async {
        let (routes, _) = Routes::read(&*api.broker, tenant).await?;
        let (_, table) = compiled(routes).await?;
        let table = table.map_err(|(at, why)| {
            tracing::error!(at, why, "a stored route cannot be used");
            Problem::record_unreadable("a stored route cannot be used; set the routes again")
        })?;
        Ok::<_, Problem>(Arc::new(table))
    });
    table.await.map_err(|problem: Arc<Problem>| (*problem).clone())
}

/// Routes made ready on a thread that may be busy for a while, and the routes back.
pub(crate) async fn compiled(routes: Routes) -> Result<(Routes, Result<RouteTable, (usize, String)>)> {
    if routes.routes.iter().all(|route| route.kind != RouteKind::Regex) {
        let table = routes.compile();
        return Ok((routes, table));
    }
    let work = tokio::task::spawn_blocking(move || {
        let table = routes.compile();
        (routes, table)
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "compiling routes failed");
        Problem::internal("the routes cannot be compiled")
    })
}
