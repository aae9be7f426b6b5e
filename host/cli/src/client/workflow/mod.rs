//! `umbel workflow`.

mod files;
mod live;
mod screen;
pub mod steps;
mod submit;
mod tree;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use serde_json::json;
use umbel_client::{Client, Digests, MAX_WAIT, Request, Workflow, WorkflowState};
use umbel_model::WorkflowId;

use crate::{
    args::{Format, ShowOptions, WorkflowVerb},
    client::{answer, causes, omitted, pages},
    failure::{Exit, Failure},
    output::{Column, Terminal},
    safe_text::plain,
};

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("NAME", "/name"),
    ("STATE", "/state"),
    ("DONE", "/progress/done"),
    ("FAILED", "/progress/failed"),
    ("JOBS", "/progress/total"),
    ("CREATED", "/created_at"),
    ("TAGS", "/tags"),
];

const ROWS: &[Column] = &[
    ("id", "/id"),
    ("name", "/name"),
    ("state", "/state"),
    ("tags", "/tags"),
    ("headers", "/headers"),
    ("created", "/created_at"),
    ("deadline", "/deadline_at"),
    ("finished", "/finished_at"),
    ("parent", "/parent"),
    ("resume of", "/resume_of"),
    ("error", "/error/kind"),
    ("message", "/error/message"),
    ("result is", "/result_omitted"),
];

/// How often the progress beside a spinner is looked at.
const GLANCE: Duration = Duration::from_secs(1);

pub async fn run(client: &Client, verb: WorkflowVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        WorkflowVerb::Submit(options) => submit::submit(client, &options, terminal).await,
        WorkflowVerb::Map(options) => submit::map(client, &options, terminal).await,
        WorkflowVerb::List { state, page } => {
            let query: Vec<_> = state.map(|state| ("state", state.as_str().to_owned())).into_iter().collect();
            terminal.list(&pages(client, "/v1/workflows", &query, &page).await?, COLUMNS, "/id")
        }
        WorkflowVerb::Show(options) => show(client, &options, terminal).await,
        WorkflowVerb::Result { id, wait } => {
            let begun = Instant::now();
            let body = match wait {
                None => path(client, id).text().await?,
                Some(ms) => ended(client, id, Duration::from_millis(ms), terminal).await?,
            };
            let workflow: Workflow = answer(&body)?;
            if !workflow.state.is_terminal() {
                return Err(Failure::new("not_over", format!("workflow {id} is {}", workflow.state.as_str()))
                    .exit(Exit::Conflict)
                    .help(format!("umbel workflow result {id} --wait")));
            }
            bare_result(&workflow, wait.map(|_| begun.elapsed()), terminal)
        }
        WorkflowVerb::Cancel { id } => {
            let body = client.post(format!("/v1/workflows/{id}/cancel")).text().await?;
            let workflow: Workflow = answer(&body)?;
            terminal.note(match workflow.state {
                WorkflowState::Revoked => "the workflow is revoked",
                _ => "what waits is revoked, what runs was asked to stop",
            });
            brief(&body, &workflow, terminal)
        }
        WorkflowVerb::Resume { id, digest, wait } => {
            let digest: Digests = digest.into();
            let request = client.post(format!("/v1/workflows/{id}/resume")).json(&json!({ "digest": digest }));
            let begun = Instant::now();
            let body = request.text().await?;
            let workflow: Workflow = answer(&body)?;
            terminal.note(&format!("workflow {} goes on where {id} failed", workflow.id));
            told(client, &body, &workflow, wait, begun, terminal).await
        }
        WorkflowVerb::Graph { id } => {
            let picture = client.workflow_graph(id).await?;
            // A picture is for a file; whoever looks at it as text sees text.
            let shown = if io::stdout().is_terminal() { plain(&picture) } else { picture.as_str().into() };
            terminal.line(shown.trim_end())
        }
    }
}

fn path(client: &Client, id: WorkflowId) -> Request {
    client.get(format!("/v1/workflows/{id}"))
}

async fn show(client: &Client, options: &ShowOptions, terminal: &Terminal) -> Result<(), Failure> {
    if options.watch {
        let workflow = live::watch(client, options, terminal).await?;
        return failed(&workflow);
    }
    let body = path(client, options.id).text().await?;
    terminal.object(&body, ROWS, "/id")?;
    if terminal.format != Format::Table {
        return Ok(());
    }
    let workflow: Workflow = answer(&body)?;
    let steps = tree::read(client, options.id).await?;
    let size = screen::Size { columns: usize::MAX, rows: options.lines as usize };
    terminal.line(&format!("\n{}\n{}", tree::bar(&workflow.progress), steps.lines(size, now_ms()).join("\n")))?;
    if let Some(result) = &workflow.result {
        terminal.json(&shown_result(workflow.id, result.get()))?;
    }
    Ok(())
}

/// Of a result, so many bytes are shown below a workflow's tree: a picture would bury it.
const SHOWN_RESULT_BYTES: usize = 4_096;

/// The result under a workflow's tree; of a large one its size, and how to get it.
fn shown_result(id: WorkflowId, result: &str) -> String {
    match result.len() {
        0..=SHOWN_RESULT_BYTES => format!("\nresult\n{result}"),
        bytes => format!("\nresult\n{bytes} bytes: umbel workflow result {id}"),
    }
}

/// Prints the outcome of a submission or a resume: the id or, after the wait, the result.
async fn told(
    client: &Client,
    body: &str,
    workflow: &Workflow,
    wait: Option<u64>,
    begun: Instant,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let Some(ms) = wait else {
        terminal.note(&format!("{}: umbel workflow show {} -w", workflow.state.as_str(), workflow.id));
        return brief(body, workflow, terminal);
    };
    let left = Duration::from_millis(ms).saturating_sub(begun.elapsed());
    let body = ended(client, workflow.id, left, terminal).await?;
    let workflow: Workflow = answer(&body)?;
    if terminal.format != Format::Table {
        terminal.object(&body, ROWS, "/id")?;
        return failed(&workflow);
    }
    bare_result(&workflow, Some(begun.elapsed()), terminal)
}

/// The workflow once it is over.
async fn ended(client: &Client, id: WorkflowId, wait: Duration, terminal: &Terminal) -> Result<String, Failure> {
    let until = Instant::now() + wait;
    let spinner = terminal.spinner(format!("waiting for workflow {id}"));
    let glance = if io::stderr().is_terminal() { GLANCE } else { MAX_WAIT };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let body = path(client, id).wait(left.min(glance)).text().await?;
        let workflow: Workflow = answer(&body)?;
        if workflow.state.is_terminal() {
            return Ok(body);
        }
        spinner.say(format!("workflow {id}: {}", tree::summary(&workflow.progress)));
        if left.is_zero() {
            let message = format!("workflow {id} is {} after the wait", workflow.state.as_str());
            return Err(Failure::new("wait_timeout", message).help(format!("umbel workflow result {id} --wait")));
        }
    }
}

/// The result as JSON, or the failure of a workflow that has none.
fn bare_result(workflow: &Workflow, took: Option<Duration>, terminal: &Terminal) -> Result<(), Failure> {
    failed(workflow)?;
    if let Some(took) = took {
        terminal.note(&format!("workflow {} succeeded in {} ms", workflow.id, took.as_millis()));
    }
    if let Some(why) = &workflow.result_omitted {
        return Err(omitted("workflow", workflow.id, why, workflow.id));
    }
    terminal.json(workflow.result.as_ref().map_or("null", |result| result.get()))
}

/// A workflow that did not succeed ends the verb with exit code 3.
fn failed(workflow: &Workflow) -> Result<(), Failure> {
    if workflow.state == WorkflowState::Succeeded {
        return Ok(());
    }
    let (id, state) = (workflow.id, workflow.state.as_str());
    let failure = match &workflow.error {
        Some(error) => {
            let message = format!("workflow {id} {state}: {}", error.message);
            Failure::new(error.kind.clone(), message).details(causes(error))
        }
        None => Failure::new(state, format!("workflow {id} is {state}")),
    };
    Err(failure.exit(Exit::JobFailed).help(format!("umbel workflow show {id}; umbel workflow resume {id}")))
}

fn brief(body: &str, workflow: &Workflow, terminal: &Terminal) -> Result<(), Failure> {
    match terminal.format {
        Format::Table | Format::Id => terminal.line(&workflow.id.to_string()),
        Format::Json | Format::Jsonl => terminal.line(body.trim_end()),
    }
}

/// Now, to show how long something has been running. Milliseconds since the epoch by this machine's clock.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
