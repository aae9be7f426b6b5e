//! `umbel queue`.

use umbel_client::ControlPatch;
use umbel_model::QueueName;

use super::{Context, QUEUE, bulk, confirm, control};
use crate::{Result, args::QueueVerb};

const COLUMNS: &str = "NAME, QUEUED, RUNNING, DELAYED, DEAD, OLDEST = oldest_ready_age_ms, PAUSED, \
    RATE = control/rate_limit, BURST = control/rate_burst, AT ONCE = control/concurrency, EXCLUSIVE = control/exclusive";

pub async fn run(ctx: &Context, verb: QueueVerb) -> Result {
    let Context { client, terminal } = ctx;
    let post = |name: &QueueName, verb: &str| client.post(format!("/v1/queues/{name}/{verb}"));
    let (request, name) = match verb {
        QueueVerb::List => return ctx.all("/v1/queues", COLUMNS).await,
        QueueVerb::Purge { name, yes } => {
            confirm(yes, &format!("cancel everything that waits in {name}?"))?;
            let body = ctx.about(QUEUE, name.as_str(), post(&name, "purge").text().await).await?;
            return bulk::told(ctx, &body, Some(bulk::LONG)).await;
        }
        QueueVerb::Delete { name } => {
            let sent = client.delete(format!("/v1/queues/{name}")).text().await;
            ctx.about(QUEUE, name.as_str(), sent).await?;
            return terminal.line(name.as_str());
        }
        QueueVerb::Pause { name } => (post(&name, "pause"), name),
        QueueVerb::Resume { name } => (post(&name, "resume"), name),
        QueueVerb::Set { name, limits, exclusive } => {
            let exclusive = exclusive.or_else(|| limits.none.then_some(false));
            let patch = control::asked(ControlPatch { exclusive, ..limits.patch() })?;
            (client.patch(format!("/v1/queues/{name}")).json(&patch).repeatable(), name)
        }
    };
    terminal.object(&ctx.about(QUEUE, name.as_str(), request.text().await).await?, COLUMNS)
}
