//! `umbel tenant`.

use umbel_client::{ControlPatch, Request};

use super::{Context, control};
use crate::{
    Result,
    args::{TenantCommand, TenantScope, TenantVerb},
};

const FIELDS: &str = "name, paused, rate = rate_limit, burst = rate_burst, at once = concurrency, \
                      paused by operator = operator/paused, operator's rate = operator/rate_limit, \
                      operator's at once = operator/concurrency";

pub async fn run(ctx: &Context, TenantCommand { verb, scope }: TenantCommand) -> Result {
    let path = match &scope.tenant {
        Some(tenant) => format!("/v1/tenants/{tenant}/control"),
        None => "/v1/tenant".to_owned(),
    };
    let patch = match verb {
        TenantVerb::Show => return ctx.show(of_scope(ctx.client.get(path), &scope), FIELDS).await,
        TenantVerb::Pause => ControlPatch::default().paused(true),
        TenantVerb::Resume => ControlPatch::default().paused(false),
        TenantVerb::Limit(limits) => control::asked(limits.patch())?,
    };
    ctx.show(of_scope(ctx.client.patch(path).json(&patch).repeatable(), &scope), FIELDS).await
}

fn of_scope(request: Request, scope: &TenantScope) -> Request {
    match (&scope.queue, &scope.task) {
        (Some(queue), _) => request.query("queue", queue.as_str()),
        (None, Some(task)) => request.query("task", task.as_str()),
        (None, None) => request,
    }
}
