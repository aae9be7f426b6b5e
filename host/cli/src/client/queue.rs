//! `umbel queue`.

use umbel_client::{Client, ControlPatch};
use umbel_model::QueueName;

use crate::{
    args::QueueVerb,
    client::{
        bulk, control,
        suggested::{QUEUES, suggested},
    },
    failure::Failure,
    output::{Column, Page, Terminal},
};

const COLUMNS: &[Column] = &[
    ("NAME", "/name"),
    ("QUEUED", "/queued"),
    ("RUNNING", "/running"),
    ("DELAYED", "/delayed"),
    ("DEAD", "/dead"),
    ("PAUSED", "/paused"),
    ("RATE", "/control/rate_limit"),
    ("BURST", "/control/rate_burst"),
    ("AT ONCE", "/control/concurrency"),
    ("EXCLUSIVE", "/control/exclusive"),
];

pub async fn run(client: &Client, verb: QueueVerb, terminal: &Terminal) -> Result<(), Failure> {
    let (name, sent) = match verb {
        QueueVerb::List => {
            let page: Page = client.get("/v1/queues").answer().await?;
            return terminal.list(&page, COLUMNS, "/name");
        }
        QueueVerb::Purge { name, yes } => return purge(client, &name, yes, terminal).await,
        QueueVerb::Delete { name } => {
            let sent = client.delete(format!("/v1/queues/{name}")).text().await;
            suggested(client, QUEUES, name.as_str(), sent).await?;
            return terminal.line(name.as_str());
        }
        QueueVerb::Pause { name } => {
            let sent = client.post(format!("/v1/queues/{name}/pause")).text().await;
            (name, sent)
        }
        QueueVerb::Resume { name } => {
            let sent = client.post(format!("/v1/queues/{name}/resume")).text().await;
            (name, sent)
        }
        QueueVerb::Set { name, limits, exclusive } => {
            let exclusive = exclusive.or_else(|| limits.none.then_some(false));
            let patch = control::asked(ControlPatch { exclusive, ..limits.patch() })?;
            let sent = client.patch(format!("/v1/queues/{name}")).json(&patch).repeatable().text().await;
            (name, sent)
        }
    };
    let body = suggested(client, QUEUES, name.as_str(), sent).await?;
    terminal.object(&body, COLUMNS, "/name")
}

async fn purge(client: &Client, name: &QueueName, yes: bool, terminal: &Terminal) -> Result<(), Failure> {
    super::confirm(yes, &format!("cancel everything that waits in {name}?"))?;
    let sent = client.post(format!("/v1/queues/{name}/purge")).text().await;
    let body = suggested(client, QUEUES, name.as_str(), sent).await?;
    bulk::told(client, &body, Some(bulk::LONG), terminal).await
}
