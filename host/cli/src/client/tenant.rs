//! `umbel tenant`.

use umbel_client::ControlPatch;

use super::{Context, control};
use crate::{Result, args::TenantVerb};

const FIELDS: &str = "name, paused, rate = rate_limit, burst = rate_burst, at once = concurrency";

pub async fn run(ctx: &Context, verb: TenantVerb) -> Result {
    let patch = match verb {
        TenantVerb::Show => return ctx.show(ctx.client.get("/v1/tenant"), FIELDS).await,
        TenantVerb::Pause => ControlPatch::default().paused(true),
        TenantVerb::Resume => ControlPatch::default().paused(false),
        TenantVerb::Limit(limits) => control::asked(limits.patch())?,
    };
    ctx.show(ctx.client.patch("/v1/tenant").json(&patch).repeatable(), FIELDS).await
}
