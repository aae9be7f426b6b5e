//! `umbel dead`.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use umbel_client::{BulkAction, BulkFilter, Digests, NewBulk, Redrive};

use super::{Context, arguments, bulk, confirm, fetch};
use crate::args::{DeadVerb, Format, RedriveOptions};
use crate::{Exit, Failure, Result, output::Page};

const COLUMNS: &str = "ID, TASK, QUEUE, ERROR = error/kind, FINISHED = finished_at, TOOK = started_at..finished_at, MESSAGE = error/message";

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

pub async fn run(ctx: &Context, verb: DeadVerb) -> Result {
    match verb {
        DeadVerb::List(page) => ctx.list("/v1/dead", &[], &page, COLUMNS).await,
        DeadVerb::Redrive(options) => redrive(ctx, &options).await,
    }
}

async fn redrive(ctx: &Context, options: &RedriveOptions) -> Result {
    let changed = options.current || options.policy.is_some();
    if options.all {
        confirm(options.yes, "run all dead jobs again?")?;
    }
    match (options.all, changed) {
        (true, true) => {
            let bulk = NewBulk::new(BulkAction::Redrive, BulkFilter::default().dead());
            let bulk = bulk::redrive(bulk, options.current, options.policy.as_deref())?;
            bulk::send(ctx, &bulk, Some(bulk::LONG)).await
        }
        (true, false) => repeat(ctx, json!({ "all": true, "max": 10_000 })).await,
        (false, true) => one_by_one(ctx, options).await,
        (false, false) => repeat(ctx, json!({ "ids": options.ids })).await,
    }
}

/// Runs each again with another module or policy.
async fn one_by_one(ctx: &Context, options: &RedriveOptions) -> Result {
    let digest = if options.current { Digests::Current } else { Digests::Pinned };
    let policy = options.policy.as_deref().map(arguments::policy_json).transpose()?.unwrap_or_default();
    let how = Redrive { digest, policy };
    let mut new = Vec::new();
    let mut ended = Ok(());
    for id in &options.ids {
        match ctx.client.post(format!("/v1/dead/{id}/redrive")).json(&how).answer().await {
            Ok(job) => new.push(job),
            // What was run again before is told, too.
            Err(error) => {
                ended = Err(error.into());
                break;
            }
        }
    }
    let count = new.len();
    if count > 0 {
        list(ctx, new)?;
    }
    ctx.terminal.note(&format!("{count} jobs run again, {}", modules(options.current)));
    ended
}

/// Which modules the new jobs run.
fn modules(current: bool) -> &'static str {
    if current {
        "with the modules that their tasks point at now"
    } else {
        "with their own modules; --current takes those that their tasks point at now"
    }
}

/// Prints the new jobs.
fn list(ctx: &Context, items: Vec<Box<RawValue>>) -> Result {
    ctx.terminal.list(&Page { items, next_cursor: None }, "NEW JOB = id, REPEATS = redrive_of")
}

async fn repeat(ctx: &Context, request: Value) -> Result {
    let (body, redriven): (_, Redriven) = fetch(ctx.client.post("/v1/dead/redrive").json(&request)).await?;
    let Redriven { items, refused, more } = redriven;
    let count = items.len();
    match ctx.terminal.format {
        Format::Json => ctx.terminal.line(body.trim_end())?,
        _ => list(ctx, items)?,
    }
    let rest = if more { "; there are more, repeat the command" } else { "" };
    ctx.terminal.note(&format!("{count} jobs run again, {}{rest}", modules(false)));
    if refused.is_empty() {
        return Ok(());
    }
    let missing = refused.iter().all(|refused| refused.code == "job_not_found");
    let (code, exit) = if missing { ("job_not_found", Exit::NotFound) } else { ("not_dead", Exit::Conflict) };
    let details = refused.iter().map(|refused| format!("{}: {}", refused.id, refused.code)).collect();
    Err(Failure::new(code, format!("{} jobs were not run again", refused.len())).details(details).exit(exit))
}
