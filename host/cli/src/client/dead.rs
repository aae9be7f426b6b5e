//! `umbel dead`.

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use umbel_client::{BulkAction, BulkFilter, Client, Digests, NewBulk, Redrive};

use crate::{
    args::{DeadVerb, Format, RedriveOptions},
    client::{answer, arguments, bulk, confirm, pages},
    failure::{Exit, Failure},
    output::{Column, Page, Terminal},
};

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("TASK", "/task"),
    ("QUEUE", "/queue"),
    ("ERROR", "/error/kind"),
    ("FINISHED", "/finished_at"),
    ("MESSAGE", "/error/message"),
];

const NEW: &[Column] = &[("NEW JOB", "/id"), ("REPEATS", "/redrive_of")];

#[derive(Debug, Deserialize)]
struct Redriven {
    items: Vec<Box<RawValue>>,
    refused: Vec<Refused>,
    more: bool,
}

#[derive(Debug, Deserialize)]
struct Refused {
    id: String,
    code: String,
}

pub async fn run(client: &Client, verb: DeadVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        DeadVerb::List(page) => terminal.list(&pages(client, "/v1/dead", &[], &page).await?, COLUMNS, "/id"),
        DeadVerb::Redrive(options) => redrive(client, &options, terminal).await,
    }
}

async fn redrive(client: &Client, options: &RedriveOptions, terminal: &Terminal) -> Result<(), Failure> {
    let changed = options.current || options.policy.is_some();
    match options.all {
        true => {
            confirm(options.yes, "run all dead jobs again?")?;
            if changed {
                let bulk = NewBulk::new(BulkAction::Redrive, BulkFilter::default().dead());
                let bulk = bulk::redrive(bulk, options.current, options.policy.as_deref())?;
                return bulk::send(client, &bulk, Some(bulk::LONG), terminal).await;
            }
            repeat(client, json!({ "all": true, "max": 10_000 }), terminal).await
        }
        false if changed => one_by_one(client, options, terminal).await,
        false => {
            let ids: Vec<String> = options.ids.iter().map(ToString::to_string).collect();
            repeat(client, json!({ "ids": ids }), terminal).await
        }
    }
}

/// Runs each again with another module or policy.
async fn one_by_one(client: &Client, options: &RedriveOptions, terminal: &Terminal) -> Result<(), Failure> {
    let digest = if options.current { Digests::Current } else { Digests::Pinned };
    let policy = options.policy.as_deref().map(arguments::policy_json).transpose()?.unwrap_or_default();
    let how = Redrive { digest, policy };
    let mut new = Vec::new();
    let mut ended = Ok(());
    for id in &options.ids {
        let sent = client.post(format!("/v1/dead/{id}/redrive")).json(&how).answer::<Box<RawValue>>().await;
        match sent {
            Ok(job) => new.push(job),
            // What was run again before is told, too.
            Err(error) => {
                ended = Err(Failure::from(error));
                break;
            }
        }
    }
    let count = new.len();
    if count > 0 {
        terminal.list(&Page { items: new, next_cursor: None }, NEW, "/id")?;
    }
    terminal.note(&format!("{count} jobs run again"));
    ended
}

async fn repeat(client: &Client, body: serde_json::Value, terminal: &Terminal) -> Result<(), Failure> {
    let body = client.post("/v1/dead/redrive").json(&body).text().await?;
    if terminal.format == Format::Json {
        terminal.line(body.trim_end())?;
    }
    let redriven: Redriven = answer(&body)?;
    let count = redriven.items.len();
    if terminal.format != Format::Json {
        terminal.list(&Page { items: redriven.items, next_cursor: None }, NEW, "/id")?;
    }
    terminal.note(&format!(
        "{count} jobs run again{}",
        if redriven.more { "; there are more, repeat the command" } else { "" }
    ));
    if redriven.refused.is_empty() {
        return Ok(());
    }
    let details = redriven.refused.iter().map(|refused| format!("{}: {}", refused.id, refused.code)).collect();
    let missing = redriven.refused.iter().all(|refused| refused.code == "job_not_found");
    let exit = if missing { Exit::NotFound } else { Exit::Conflict };
    let code = if missing { "job_not_found" } else { "not_dead" };
    Err(Failure::new(code, format!("{} jobs were not run again", redriven.refused.len())).details(details).exit(exit))
}
