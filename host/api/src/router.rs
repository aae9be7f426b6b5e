//! The routes, as an index of the API.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode, Uri, header},
    middleware as layer,
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    known_queries::KnownQueries,
    middleware::{Front, middleware},
    openapi::{Base, complete, corrected},
    problem::Problem,
    routes::{
        approvals, blobs, bulk, config, dead, health, jobs, kv, modules, queues, schedules, secrets, tasks, tenant,
        tokens, usage, workers, workflows,
    },
    state::Api,
};

fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(modules::push, modules::list))
        .routes(routes!(modules::show, modules::delete))
        .routes(routes!(modules::rollback))
        .routes(routes!(approvals::manifest))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::revoke))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show, tasks::patch, tasks::delete))
        .routes(routes!(tasks::deploy))
        .routes(routes!(tasks::rollback))
        .routes(routes!(jobs::submit::submit, jobs::list::list))
        .routes(routes!(jobs::batch::submit_batch))
        .routes(routes!(tasks::control))
        .routes(routes!(jobs::show, jobs::forget))
        .routes(routes!(jobs::output::result))
        .routes(routes!(jobs::events::follow))
        .routes(routes!(tenant::events::follow_all))
        .routes(routes!(jobs::output::logs))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(workflows::submit::submit, workflows::list))
        .routes(routes!(workflows::show, workflows::forget))
        .routes(routes!(workflows::graph::nodes))
        .routes(routes!(workflows::graph::tree))
        .routes(routes!(workflows::graph::graph))
        .routes(routes!(workflows::cancel))
        .routes(routes!(workflows::resume::resume))
        .routes(routes!(queues::list))
        .routes(routes!(queues::patch))
        .routes(routes!(queues::delete))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::purge))
        .routes(routes!(tenant::show, tenant::patch))
        .routes(routes!(tenant::show_any, tenant::patch_any))
        .routes(routes!(tenant::storage::storage_show))
        .routes(routes!(tenant::storage::storage_show_any, tenant::storage::storage_patch_any))
        .routes(routes!(tenant::grants::grants, tenant::grants::put_grants))
        .routes(routes!(tenant::grants::grants_any, tenant::grants::put_grants_any))
        .routes(routes!(tenant::routes, tenant::put_routes))
        .routes(routes!(config::of_tenant, config::patch_tenant))
        .routes(routes!(config::of_task, config::patch_task))
        .routes(routes!(kv::buckets))
        .routes(routes!(kv::list, kv::delete_bucket))
        .routes(routes!(kv::get, kv::put, kv::delete))
        .routes(routes!(kv::increment))
        .routes(routes!(usage::usage))
        .routes(routes!(usage::usage_any))
        .routes(routes!(blobs::put, blobs::list))
        .routes(routes!(blobs::get, blobs::delete))
        .routes(routes!(blobs::info))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::show, secrets::put, secrets::delete))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::rewrap))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::times::preview))
        .routes(routes!(schedules::show, schedules::put, schedules::delete))
        .routes(routes!(schedules::orders::pause))
        .routes(routes!(schedules::orders::resume))
        .routes(routes!(schedules::orders::skip))
        .routes(routes!(schedules::run::run))
        .routes(routes!(schedules::orders::backfill))
        .routes(routes!(schedules::orders::abort_backfill))
        .routes(routes!(schedules::times::next))
        .routes(routes!(schedules::times::fires))
        .routes(routes!(bulk::submit, bulk::list))
        .routes(routes!(bulk::show))
        .routes(routes!(bulk::abort))
        .routes(routes!(dead::list))
        .routes(routes!(dead::redrive_many))
        .routes(routes!(dead::redrive_one))
        .routes(routes!(workers::list))
        .routes(routes!(workers::show, workers::patch))
        .routes(routes!(workers::jobs))
        .routes(routes!(workers::drain))
        .routes(routes!(workers::resume))
        .routes(routes!(workers::shutdown))
        .routes(routes!(tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::version))
}

/// The OpenAPI document.
pub fn openapi() -> serde_json::Value {
    corrected(&complete(documented().into_openapi()))
}

/// The whole API. Everything but `GET /livez` wants a token.
pub fn router(api: impl Into<Arc<Api>>) -> Router {
    let api = api.into();
    let (routes, document) = documented().split_for_parts();
    let document = complete(document);
    let front = Front { api: api.clone(), known_queries: Arc::new(KnownQueries::of(&document)) };
    // Written once: the document does not change while the server runs.
    let text = Bytes::from(corrected(&document).to_string());
    let spec =
        move || async move { (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text).into_response() };
    routes
        .route("/v1/openapi.json", get(spec))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(layer::from_fn_with_state(front, middleware))
        .with_state(api)
}

async fn no_route(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(128).collect();
    Problem::route_not_found(format!("{path}; GET /v1/openapi.json lists what there is")).into_response()
}

async fn no_method(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(128).collect();
    let method: String = method.as_str().chars().take(16).collect();
    Problem::method_not_allowed(format!("{path} does not know {method}")).into_response()
}
