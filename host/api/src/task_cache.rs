//! A task as submissions see it: what its pointer means now, ready to be used many times.

use std::sync::Arc;

use umbel_compose::{RouteKind, RouteTable, Routes, TaskDocument};
use umbel_model::{Digest, Parameter, PolicyPatch, TaskName, TenantId};

use crate::{
    problem::{Code, Problem},
    schemas::Schemas,
    state::Api,
    task_store,
};

/// A snapshot of a task. May be a second old on other servers than the one that deployed.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) name: TaskName,
    pub(crate) digest: Digest,
    pub(crate) parameters: Vec<Parameter>,
    /// Each parameter's name and default as JSON text.
    pub(crate) slots: Vec<Slot>,
    pub(crate) schemas: Arc<Schemas>,
    /// Code, over it the routes, over them the server's policy.
    pub(crate) policy: PolicyPatch,
}

/// A parameter as text.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name_json: String,
    pub(crate) default_json: Option<String>,
}

/// The task as it is deployed now.
pub(crate) async fn deployed(api: &Api, tenant: &TenantId, name: &TaskName) -> Result<Arc<Deployed>, Problem> {
    let key = (tenant.clone(), name.clone());
    if let Some(found) = api.deployed.get(&key).await {
        return Ok(found);
    }
    let (document, _) = task_store::get(api, tenant, name).await?;
    let routes = routes(api, tenant).await?;
    let loaded = Arc::new(loaded(api, document, &routes).await?);
    api.deployed.insert(key, loaded.clone()).await;
    Ok(loaded)
}

/// The tenant's routes. May be a second old on other servers than the one that set them.
pub(crate) async fn routes(api: &Api, tenant: &TenantId) -> Result<Arc<RouteTable>, Problem> {
    if let Some(found) = api.routes.get(tenant).await {
        return Ok(found);
    }
    // Once, however many ask: compiling expressions is work.
    let table = api.routes.try_get_with(tenant.clone(), async {
        let (routes, _) = Routes::read(&*api.broker, tenant).await?;
        let (_, table) = compiled(routes).await?;
        let table = table.map_err(|(at, why)| {
            tracing::error!(at, why, "a stored route cannot be used");
            Problem::new(Code::RecordUnreadable, "a stored route cannot be used; set the routes again")
        })?;
        Ok::<_, Problem>(Arc::new(table))
    });
    table.await.map_err(|problem: Arc<Problem>| (*problem).clone())
}

/// Routes made ready on a thread that may be busy for a while, and the routes back.
pub(crate) async fn compiled(routes: Routes) -> Result<(Routes, Result<RouteTable, (usize, String)>), Problem> {
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
        Problem::new(Code::Internal, "the routes cannot be compiled")
    })
}

async fn loaded(api: &Api, document: TaskDocument, routes: &RouteTable) -> Result<Deployed, Problem> {
    let digest = document.digest().ok_or_else(|| Problem::new(Code::RecordUnreadable, "the task points at nothing"))?;
    let schemas = api.schemas.get(digest, &document.task).await?;
    let policy = document.layered(Some(routes));
    let parameters = document.task.parameters;
    let slots = parameters.iter().map(|parameter| Slot {
        name_json: serde_json::Value::from(parameter.name.as_str()).to_string(),
        default_json: parameter.default.as_ref().map(ToString::to_string),
    });
    Ok(Deployed { name: document.task.name, digest, slots: slots.collect(), parameters, schemas, policy })
}
