//! `umbel worker list`.

use crate::{
    client::{Client, answer},
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
    let page: Page = answer(&client.get("/v1/workers").await?)?;
    terminal.list(&page, COLUMNS, "/id")
}
