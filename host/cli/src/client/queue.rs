//! `umbel queue`.

use crate::{
    args::QueueVerb,
    client::Client,
    failure::Failure,
    output::{Column, Page, Terminal},
};

const COLUMNS: &[Column] = &[
    ("NAME", "/name"),
    ("QUEUED", "/queued"),
    ("RUNNING", "/running"),
    ("DELAYED", "/delayed"),
    ("PAUSED", "/paused"),
];

pub async fn run(client: &Client, verb: QueueVerb, terminal: &Terminal) -> Result<(), Failure> {
    let body = match verb {
        QueueVerb::List => return list(client, terminal).await,
        QueueVerb::Pause { name } => client.post(&format!("/v1/queues/{name}/pause")).await?,
        QueueVerb::Resume { name } => client.post(&format!("/v1/queues/{name}/resume")).await?,
    };
    terminal.object(&body, COLUMNS, "/name")
}

async fn list(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let page: Page = crate::client::answer(&client.get("/v1/queues").await?)?;
    terminal.list(&page, COLUMNS, "/name")
}
