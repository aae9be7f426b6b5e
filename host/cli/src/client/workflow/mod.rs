//! `umbel workflow`.

mod files;
mod live;
mod screen;
pub mod steps;
pub(in crate::client) mod submit;
mod tree;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use serde_json::json;
use umbel_client::{Client, Digests, MAX_WAIT, Request, Workflow, WorkflowState};
use umbel_model::WorkflowId;

use self::screen::Size;
use super::{Context, fetch, forget_each, not_succeeded, omitted};
use crate::args::{Format, ShowOptions, WorkflowVerb};
use crate::{Exit, Failure, Result, safe_text::plain};

const COLUMNS: &str = "ID, NAME, STATE, DONE = progress/done, FAILED = progress/failed, JOBS = progress/total, \
    CREATED = created_at, TAGS";

const FIELDS: &str = "id, name, state, tags, headers, created = created_at, deadline = deadline_at, \
    finished = finished_at, parent, resume of, error = error/kind, message = error/message, \
    result is = result_omitted";

/// How often the progress beside a spinner is looked at.
const GLANCE: Duration = Duration::from_secs(1);

pub async fn run(ctx: &Context, verb: WorkflowVerb) -> Result {
    let Context { client, terminal } = ctx;
    match verb {
        WorkflowVerb::Submit(options) => submit::submit(ctx, &options).await,
        WorkflowVerb::Map(options) => submit::map(ctx, &options).await,
        WorkflowVerb::List { state, page } => {
            let state = state.map(|state| state.as_str().to_owned());
            ctx.list("/v1/workflows", &[("state", state)], &page, COLUMNS).await
        }
        WorkflowVerb::Show(options) => show(ctx, &options).await,
        WorkflowVerb::Result { id, wait } => {
            let begun = Instant::now();
            let workflow: Workflow = match wait {
                None => path(client, id).answer().await?,
                Some(ms) => ended(ctx, id, begun + Duration::from_millis(ms)).await?.1,
            };
            if !workflow.state.is_terminal() {
                return Err(Failure::new("not_over", format!("workflow {id} is {}", workflow.state.as_str()))
                    .exit(Exit::Conflict)
                    .help(format!("umbel workflow result {id} --wait")));
            }
            bare_result(ctx, &workflow, wait.map(|_| begun))
        }
        WorkflowVerb::Cancel { id } => {
            let (body, workflow): (_, Workflow) = fetch(client.post(format!("/v1/workflows/{id}/cancel"))).await?;
            terminal.note(match workflow.state {
                WorkflowState::Revoked => "the workflow is revoked",
                _ => "what waits is revoked, what runs was asked to stop",
            });
            terminal.brief(&workflow.id.to_string(), &body)
        }
        WorkflowVerb::Forget { ids } => forget_each(ctx, "workflows", &ids, |id| client.forget_workflow(id)).await,
        WorkflowVerb::Resume { id, digest, current, wait } => {
            let digest = if current { Digests::Current } else { digest };
            let request = client.post(format!("/v1/workflows/{id}/resume")).json(&json!({ "digest": digest }));
            let begun = Instant::now();
            let (body, workflow): (_, Workflow) = fetch(request).await?;
            let modules = match digest {
                Digests::Current => "the modules that its tasks point at now",
                _ => "its own modules; --current takes those that its tasks point at now",
            };
            terminal.note(&format!("workflow {} goes on where {id} failed, with {modules}", workflow.id));
            told(ctx, &body, &workflow, wait, begun).await
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

async fn show(ctx: &Context, options: &ShowOptions) -> Result {
    if options.watch {
        return failed(&live::watch(ctx, options).await?);
    }
    let (body, workflow): (_, Workflow) = fetch(path(&ctx.client, options.id)).await?;
    ctx.terminal.object(&body, FIELDS)?;
    if ctx.terminal.format != Format::Table {
        return Ok(());
    }
    ctx.terminal.line(&format!("\n{}", tree::bar(&workflow.progress)))?;
    print_end(ctx, options, &workflow, true).await
}

/// Of a result, so many bytes are shown below a workflow's tree: a picture would bury it.
const SHOWN_RESULT_BYTES: usize = 4_096;

/// Prints the tree, if that is wanted, and below it the result; of a large one its size, and how to get it.
async fn print_end(ctx: &Context, options: &ShowOptions, workflow: &Workflow, with_tree: bool) -> Result {
    if with_tree {
        let size = Size { columns: usize::MAX, rows: options.lines as usize };
        ctx.terminal.line(&tree::lines(&ctx.client, options.id, size).await?.join("\n"))?;
    }
    let Some(result) = workflow.result.as_ref().map(|result| result.get()) else { return Ok(()) };
    let shown = match result.len() {
        0..=SHOWN_RESULT_BYTES => result.to_owned(),
        bytes => format!("{bytes} bytes: umbel workflow result {}", workflow.id),
    };
    ctx.terminal.json(&format!("\nresult\n{shown}"))
}

/// Prints the outcome of a submission or a resume: the id or, after the wait, the result.
pub(in crate::client) async fn told(
    ctx: &Context,
    body: &str,
    workflow: &Workflow,
    wait: Option<u64>,
    begun: Instant,
) -> Result {
    let Some(ms) = wait else {
        ctx.terminal.note(&format!("{}: umbel workflow show {} -w", workflow.state.as_str(), workflow.id));
        return ctx.terminal.brief(&workflow.id.to_string(), body);
    };
    let (body, workflow) = ended(ctx, workflow.id, begun + Duration::from_millis(ms)).await?;
    if ctx.terminal.format != Format::Table {
        ctx.terminal.object(&body, FIELDS)?;
        return failed(&workflow);
    }
    bare_result(ctx, &workflow, Some(begun))
}

/// The workflow once it is over.
async fn ended(ctx: &Context, id: WorkflowId, until: Instant) -> Result<(String, Workflow)> {
    let spinner = ctx.terminal.spinner(format!("waiting for workflow {id}"));
    let glance = if spinner.is_hidden() { MAX_WAIT } else { GLANCE };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let (body, workflow): (_, Workflow) = match fetch(path(&ctx.client, id).wait(left.min(glance))).await {
            Err(failure) if failure.code == "too_many_requests" && !left.is_zero() => continue,
            found => found?,
        };
        if workflow.state.is_terminal() {
            return Ok((body, workflow));
        }
        spinner.set_message(format!("workflow {id}: {}", tree::summary(&workflow.progress)));
        if left.is_zero() {
            let message = format!("workflow {id} is {} after the wait", workflow.state.as_str());
            return Err(Failure::new("wait_timeout", message).help(format!("umbel workflow result {id} --wait")));
        }
    }
}

/// The result as JSON, or the failure of a workflow that has none.
fn bare_result(ctx: &Context, workflow: &Workflow, begun: Option<Instant>) -> Result {
    failed(workflow)?;
    if let Some(begun) = begun {
        let took = begun.elapsed().as_millis();
        ctx.terminal.note(&format!("workflow {} succeeded in {took} ms", workflow.id));
    }
    if let Some(why) = &workflow.result_omitted {
        return Err(omitted("workflow", workflow.id, why, workflow.id));
    }
    ctx.terminal.json(workflow.result.as_ref().map_or("null", |result| result.get()))
}

/// A workflow that did not succeed ends the verb with exit code 3.
fn failed(workflow: &Workflow) -> Result {
    let id = workflow.id;
    if workflow.state == WorkflowState::Succeeded {
        return Ok(());
    }
    let failure = not_succeeded(&format!("workflow {id}"), workflow.state.as_str(), workflow.error.as_ref());
    Err(failure.help(format!("umbel workflow show {id}; umbel workflow resume {id}, after a fix with --current")))
}
