//! `umbel tenant`.

use umbel_client::{Client, ControlPatch};

use crate::{
    args::TenantVerb,
    client::control,
    failure::Failure,
    output::{Column, Terminal},
};

const ROWS: &[Column] = &[
    ("name", "/name"),
    ("paused", "/paused"),
    ("rate", "/rate_limit"),
    ("burst", "/rate_burst"),
    ("at once", "/concurrency"),
];

pub async fn run(client: &Client, verb: TenantVerb, terminal: &Terminal) -> Result<(), Failure> {
    let patch = match verb {
        TenantVerb::Show => None,
        TenantVerb::Pause => Some(ControlPatch::default().paused(true)),
        TenantVerb::Resume => Some(ControlPatch::default().paused(false)),
        TenantVerb::Limit(limits) => Some(control::asked(limits.patch())?),
    };
    let body = match patch {
        None => client.get("/v1/tenant").text().await?,
        Some(patch) => client.patch("/v1/tenant").json(&patch).repeatable().text().await?,
    };
    terminal.object(&body, ROWS, "/name")
}
