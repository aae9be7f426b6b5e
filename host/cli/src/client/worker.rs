//! `umbel worker list`.

use umbel_client::Client;

use crate::{
    failure::Failure,
    output::{Column, Page, Terminal},
};

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("RUNNING", "/running"),
    ("SLOTS", "/slots"),
    ("SETTLED", "/settled"),
    ("MEMORY", "/rss_bytes"),
    ("QUEUES", "/queues"),
    ("SINCE", "/started_at"),
    ("VERSION", "/version"),
];

pub async fn list(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let page: Page = client.get("/v1/workers").answer().await?;
    terminal.list(&page, COLUMNS, "/id")
}
