//! `umbel queue`.

use umbel_client::Client;

use crate::{
    args::QueueVerb,
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
        QueueVerb::Pause { name } => client.post(format!("/v1/queues/{name}/pause")).text().await?,
        QueueVerb::Resume { name } => client.post(format!("/v1/queues/{name}/resume")).text().await?,
    };
    terminal.object(&body, COLUMNS, "/name")
}

async fn list(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let page: Page = client.get("/v1/queues").answer().await?;
    terminal.list(&page, COLUMNS, "/name")
}
