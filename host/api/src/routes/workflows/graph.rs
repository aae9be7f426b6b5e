//! The graph of a workflow: as nodes, as a tree, as a picture.

use axum::{
    http::{StatusCode, header},
    response::IntoResponse as _,
};
use serde::Deserialize;
use umbel_broker::Results;
use utoipa::IntoParams;

use crate::{
    body::ok,
    extract::{Context, Query, WorkflowParam},
    footprint, graph_svg,
    problem::{Problem, Result},
    views::{Node, NodePage},
    workflow_tree::{self, Caps, Tree},
};

/// Nodes of a page when the caller does not say, and at most.
const DEFAULT_NODES: u32 = 200;
const MAX_NODES: u32 = umbel_broker::MAX_NODES_A_CALL;
/// Questions to the broker that one page may take. It ends there.
const MAX_QUESTIONS: usize = 20;
/// Nodes that one question looks at.
const NODES_A_QUESTION: u32 = 250;
/// The picture runs nothing and fetches nothing, wherever it is opened.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct NodesQuery {
    /// Number of the first node; 0 when not given.
    from: Option<u32>,
    /// From 1 to 1,000; 200 when not given.
    max: Option<u32>,
}

/// The nodes of a workflow with their edges, in order.
///
/// A page may be shorter than asked for: go on at `next_from` while there is one.
#[utoipa::path(
    get, path = "/v1/workflows/{id}/nodes", tag = "workflows", params(NodesQuery),
    responses((status = 200, body = NodePage))
)]
pub(crate) async fn nodes(cx: Context<WorkflowParam>, Query(query): Query<NodesQuery>) -> Result {
    let Context { api, caller, id, .. } = cx;
    let (from, max) = (query.from.unwrap_or(0), query.max.unwrap_or(DEFAULT_NODES));
    if !(1..=MAX_NODES).contains(&max) {
        return Err(Problem::invalid_query(format!("max: from 1 to {MAX_NODES}")));
    }
    let record = api.workflow(&caller.tenant, id).await?;
    let end = from.saturating_add(max).min(record.nodes);
    let (mut items, mut next) = (Vec::new(), from);
    for _ in 0..MAX_QUESTIONS {
        if next >= end {
            break;
        }
        let count = NODES_A_QUESTION.min(end - next);
        let page = api.broker.nodes(&caller.tenant, id, next, count, Results::Omitted).await?;
        next = page.next;
        items.extend(page.nodes.iter().map(|node| Node::of(id, node)));
    }
    ok(&NodePage { items, next_from: (next < record.nodes).then_some(next) })
}

/// The steps of a workflow, nested as they were written, with states and timings.
///
/// At most 2,000 nodes are shown; groups say how many members are left out.
#[utoipa::path(get, path = "/v1/workflows/{id}/tree", tag = "workflows", responses((status = 200, body = Tree)))]
pub(crate) async fn tree(Context { api, caller, id, .. }: Context<WorkflowParam>) -> Result {
    footprint::keep(api.trees.acquire(&caller.tenant).await?);
    let record = api.workflow(&caller.tenant, id).await?;
    ok(&workflow_tree::of(&*api.broker, &record, Caps::OF_TREE).await?)
}

/// The workflow as a picture, without scripts. Large groups are shown by their first members and a count.
#[utoipa::path(
    get, path = "/v1/workflows/{id}/graph.svg", tag = "workflows",
    responses((status = 200, content_type = "image/svg+xml", body = String))
)]
pub(crate) async fn graph(Context { api, caller, id, .. }: Context<WorkflowParam>) -> Result {
    footprint::keep(api.trees.acquire(&caller.tenant).await?);
    let record = api.workflow(&caller.tenant, id).await?;
    let tree = workflow_tree::of(&*api.broker, &record, Caps::OF_PICTURE).await?;
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((StatusCode::OK, headers, graph_svg::svg(&tree)).into_response())
}
