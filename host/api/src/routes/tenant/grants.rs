//! What a tenant may reach at most: its own grants, and the operator's bounds.

use axum::http::HeaderMap;
use serde::Deserialize;
use umbel_broker::{DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_compose::{GrantLayer, GrantsDocument, default_bounds};
use umbel_model::{Permission, Permissions, TenantId};
use utoipa::ToSchema;

use crate::{
    etag::{if_match, tagged},
    extract::{Context, Json, Operator},
    problem::{Code, FieldError, Problem, Result, cut},
    records,
    state::Api,
    views::views,
};

/// Permissions that a problem names.
const NAMED: usize = 16;

views! {
    /// What the tenant may reach at most. A module reaches what it is approved for and what both lists allow.
    #[schema(as = Grants)]
    GrantsView from (own: Option<&Permissions>, bounds: Option<&Permissions>) {
        /// The tenant's own list; null: whatever its modules are approved for.
        permissions: Option<Vec<String>> = own.map(texts),
        /// The operator's bounds, which the tenant cannot widen.
        bounds: Vec<String> = texts(bounds.unwrap_or(default_bounds())),
        /// True: the operator set no bounds for this tenant, and those of each tenant hold.
        default_bounds: bool = bounds.is_none(),
    }
}

fn texts(list: &Permissions) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// A list of permissions beyond which nothing is allowed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantsBody {
    /// Such as `http https://api.example.com/` or `kv *`; an empty list allows nothing, null is no list.
    #[serde(deserialize_with = "required")]
    #[schema(required)]
    permissions: Option<Vec<String>>,
}

/// A field that must be there, and may be null.
fn required<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::deserialize(deserializer)
}

impl GrantsBody {
    /// The list, in the usual spelling.
    fn read(&self, layer: GrantLayer) -> Result<Option<Permissions>> {
        let Some(given) = &self.permissions else { return Ok(None) };
        if given.len() > umbel_model::permission::MAX_PERMISSIONS {
            let most = umbel_model::permission::MAX_PERMISSIONS;
            return Err(Problem::of_field(
                Code::InvalidPermission,
                "permissions",
                format!("at most {most} permissions"),
            ));
        }
        let (mut permissions, mut errors) = (Vec::new(), Vec::new());
        for (at, text) in given.iter().enumerate() {
            match text.parse::<Permission>() {
                Ok(permission) if layer == GrantLayer::Tenant && permission.is_operators() => {
                    let detail = format!("only an operator can grant `{permission}`, in the tenant's bounds");
                    errors.push(FieldError { pointer: format!("/permissions/{at}"), detail });
                }
                Ok(permission) => permissions.push(permission),
                Err(error) => {
                    let detail = cut(&error.to_string());
                    errors.push(FieldError { pointer: format!("/permissions/{at}"), detail });
                }
            }
        }
        if let Some(first) = errors.first() {
            let problem = Problem::invalid_permission(format!("{}: {}", first.pointer, first.detail));
            errors.truncate(NAMED);
            return Err(problem.errors(errors));
        }
        let list = Permissions::new(permissions);
        list.map(Some).map_err(|detail| Problem::of_field(Code::InvalidPermission, "permissions", detail))
    }
}

/// Both lists of a tenant; the version is that of the layer's record.
async fn show(api: &Api, tenant: &TenantId, layer: GrantLayer) -> Result {
    let (own, own_version) = GrantsDocument::read(&*api.broker, tenant, GrantLayer::Tenant).await?;
    let (bounds, bounds_version) = GrantsDocument::read(&*api.broker, tenant, GrantLayer::Operator).await?;
    let version = match layer {
        GrantLayer::Tenant => own_version,
        GrantLayer::Operator => bounds_version,
    };
    tagged(&GrantsView::new(own.as_ref(), bounds.as_ref()), version)
}

async fn put(api: &Api, tenant: &TenantId, layer: GrantLayer, headers: &HeaderMap, body: &GrantsBody) -> Result {
    let expect = match if_match(headers)? {
        None => Expect::Any,
        Some(0) => Expect::Absent,
        Some(version) => Expect::Version(version),
    };
    let permissions = body.read(layer)?;
    let write = match &permissions {
        Some(permissions) => {
            let grants = GrantsDocument { permissions: permissions.clone() };
            records::write_of(tenant, DocumentKind::Grants, layer.name(), expect, &grants)
        }
        None => PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Grants,
            name: layer.name().to_owned(),
            expect,
            body: None,
            held_bytes: 0,
        },
    };
    match api.broker.put_document(&write).await? {
        DocumentPut::Stored(_) => {}
        DocumentPut::Conflict(version) => {
            let detail = format!("the grants are at version {version}; read them again");
            return Err(Problem::version_conflict(detail));
        }
        DocumentPut::Full | DocumentPut::StorageFull => {
            return Err(Problem::too_many_documents("no document of this kind fits"));
        }
    }
    let count = permissions.as_ref().map(|permissions| permissions.iter().count());
    tracing::info!(%tenant, layer = layer.name(), permissions = ?count, "grants set");
    show(api, tenant, layer).await
}

/// What the tenant may reach at most.
#[utoipa::path(get, path = "/v1/tenant/grants", tag = "tenant", responses((status = 200, body = GrantsView)))]
pub(crate) async fn grants(Context { api, caller, .. }: Context) -> Result {
    show(&api, &caller.tenant, GrantLayer::Tenant).await
}

/// Replaces the tenant's own grants: its modules reach nothing beyond them. Needs the right `grant`. Holds at the next call of a
/// guest, at most a second later.
#[utoipa::path(
    put, path = "/v1/tenant/grants", tag = "tenant",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 200, body = GrantsView))
)]
pub(crate) async fn put_grants(cx: Context, headers: HeaderMap, Json(body): Json<GrantsBody>) -> Result {
    let Context { api, caller, .. } = cx;
    caller.must_grant()?;
    put(&api, &caller.tenant, GrantLayer::Tenant, &headers, &body).await
}

/// What a tenant may reach at most. For operators.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/grants", tag = "tenant", responses((status = 200, body = GrantsView)))]
pub(crate) async fn grants_any(Operator(cx): Operator<TenantId>) -> Result {
    show(&cx.api, &cx.id, GrantLayer::Operator).await
}

/// Replaces the operator's bounds of a tenant, which it cannot widen; null: those of each tenant. For operators.
#[utoipa::path(
    put, path = "/v1/tenants/{tenant}/grants", tag = "tenant",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 200, body = GrantsView))
)]
pub(crate) async fn put_grants_any(
    Operator(cx): Operator<TenantId>,
    headers: HeaderMap,
    Json(body): Json<GrantsBody>,
) -> Result {
    put(&cx.api, &cx.id, GrantLayer::Operator, &headers, &body).await
}
