//! `umbel dead`.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use umbel_client::Client;

use crate::{
    args::{DeadVerb, Format},
    client::{answer, pages},
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
        DeadVerb::Redrive { all: true, yes, .. } => {
            confirm(yes)?;
            redrive(client, json!({ "all": true, "max": 10_000 }), terminal).await
        }
        DeadVerb::Redrive { ids, .. } => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            redrive(client, json!({ "ids": ids }), terminal).await
        }
    }
}

async fn redrive(client: &Client, body: serde_json::Value, terminal: &Terminal) -> Result<(), Failure> {
    let body = client.post("/v1/dead/redrive").json(&body).text().await?;
    if terminal.format == Format::Json {
        terminal.line(body.trim_end())?;
    }
    let redriven: Redriven = answer(&body)?;
    let count = redriven.items.len();
    if terminal.format != Format::Json {
        let columns: &[Column] = &[("NEW JOB", "/id"), ("REPEATS", "/redrive_of")];
        terminal.list(&Page { items: redriven.items, next_cursor: None }, columns, "/id")?;
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

/// Asks on a terminal; elsewhere `--yes` must say it.
fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("all dead jobs would run again").help("say that you mean it: --yes"));
    }
    let _ = write!(io::stderr().lock(), "run all dead jobs again? [y/N] ");
    let mut reply = String::new();
    let _ = io::stdin().read_line(&mut reply);
    if reply.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(Failure::quiet(Exit::Failure)) }
}
