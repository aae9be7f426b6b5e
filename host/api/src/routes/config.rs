//! The values that tasks are configured with: those of the tenant, and those of one task.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde::Deserialize;
use umbel_broker::{DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_compose::{ConfigDocument, ConfigLayer};
use umbel_model::{ConfigName, TaskName};
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    etag::{if_match, tagged},
    extract::{Context, Json},
    problem::{Code, Problem, Result, cut},
    records,
    state::Api,
    task_store::MAX_TRIES,
    views::views,
};

views! {
    /// Values that tasks read as `wasi:config`.
    Config from (own: BTreeMap<ConfigName, String>, inherited: BTreeMap<ConfigName, String>) {
        /// Those of this layer.
        values: BTreeMap<String, String> = texts(own),
        /// Of a task: those of the tenant that it sees besides.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        inherited: BTreeMap<String, String> = texts(inherited),
    }
}

fn texts(values: BTreeMap<ConfigName, String>) -> BTreeMap<String, String> {
    values.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// A change of values.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigPatch {
    /// A text sets a value, null takes it away, a value that is not there stays.
    values: BTreeMap<String, Option<String>>,
}

impl ConfigPatch {
    fn read(self) -> Result<Vec<(ConfigName, Option<String>)>> {
        let read = |(name, value): (String, Option<String>)| match ConfigName::new(&name) {
            Ok(name) => Ok((name, value)),
            Err(error) => Err(Problem::of_field(Code::InvalidBody, &field(&name), cut(&error.to_string()))),
        };
        self.values.into_iter().map(read).collect()
    }
}

/// The place of a value in a body.
fn field(name: &str) -> String {
    format!("values/{}", cut(&name.replace('~', "~0").replace('/', "~1")))
}

async fn show(api: &Api, caller: &Caller, layer: ConfigLayer<'_>) -> Result {
    let (own, version) = ConfigDocument::read(&*api.broker, &caller.tenant, layer).await?;
    let inherited = match layer {
        ConfigLayer::Tenant => BTreeMap::new(),
        ConfigLayer::Task(_) => {
            let (mut all, _) = ConfigDocument::read(&*api.broker, &caller.tenant, ConfigLayer::Tenant).await?;
            all.values.retain(|name, _| !own.values.contains_key(name));
            all.values
        }
    };
    tagged(&Config::new(own.values, inherited), version)
}

async fn change(api: &Api, caller: &Caller, layer: ConfigLayer<'_>, headers: &HeaderMap, patch: ConfigPatch) -> Result {
    let (wanted, changes) = (if_match(headers)?, patch.read()?);
    for _ in 0..MAX_TRIES {
        let (mut config, version) = ConfigDocument::read(&*api.broker, &caller.tenant, layer).await?;
        if wanted.is_some_and(|wanted| wanted != version) {
            let detail = format!("the configuration is at version {version}; read it again");
            return Err(Problem::version_conflict(detail));
        }
        for (name, value) in &changes {
            match value {
                Some(value) => config.values.insert(name.clone(), value.clone()),
                None => config.values.remove(name),
            };
        }
        config.check().map_err(|(name, detail)| {
            let place = name.map_or_else(|| "values".to_owned(), |name| field(name.as_str()));
            Problem::of_field(Code::InvalidBody, &place, detail)
        })?;
        let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
        let write = records::write_of(&caller.tenant, DocumentKind::Config, layer.record(), expect, &config);
        // A layer without values has no record.
        let body = write.body.filter(|_| !config.values.is_empty());
        match api.broker.put_document(&PutDocument { body, ..write }).await? {
            DocumentPut::Stored(_) => {
                tracing::info!(tenant = %caller.tenant, layer = layer.record(), values = changes.len(), "configured");
                return show(api, caller, layer).await;
            }
            DocumentPut::Conflict(_) => {}
            DocumentPut::Full | DocumentPut::StorageFull => {
                return Err(Problem::too_many_documents("no more tasks can have values of their own: take some away"));
            }
        }
    }
    Err(Problem::concurrent_change("the configuration: send the change again"))
}

/// The values that each task of the tenant reads.
#[utoipa::path(get, path = "/v1/config", tag = "config", responses((status = 200, body = Config)))]
pub(crate) async fn of_tenant(Context { api, caller, .. }: Context) -> Result {
    show(&api, &caller, ConfigLayer::Tenant).await
}

/// Changes values that each task of the tenant reads. Attempts that start later, or that read their first value later, see them: at
/// most a second later.
#[utoipa::path(
    patch, path = "/v1/config", tag = "config",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 200, body = Config))
)]
pub(crate) async fn patch_tenant(cx: Context, headers: HeaderMap, Json(body): Json<ConfigPatch>) -> Result {
    change(&cx.api, &cx.caller, ConfigLayer::Tenant, &headers, body).await
}

/// The values that one task reads: its own go before those of the tenant.
#[utoipa::path(get, path = "/v1/tasks/{name}/config", tag = "config", responses((status = 200, body = Config)))]
pub(crate) async fn of_task(Context { api, caller, id: name, .. }: Context<TaskName>) -> Result {
    show(&api, &caller, ConfigLayer::Task(&name)).await
}

/// Changes values of one task. It need not be there yet.
#[utoipa::path(
    patch, path = "/v1/tasks/{name}/config", tag = "config",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 200, body = Config))
)]
pub(crate) async fn patch_task(cx: Context<TaskName>, headers: HeaderMap, Json(body): Json<ConfigPatch>) -> Result {
    change(&cx.api, &cx.caller, ConfigLayer::Task(&cx.id), &headers, body).await
}
