//! `umbel job`.

mod follow;
mod submit;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use umbel_client::{Client, Job, MAX_WAIT};
use umbel_model::{JobId, JobState};

use crate::{
    args::{Format, JobVerb, ListOptions},
    client::{answer, arguments, causes, omitted, pages},
    failure::{Exit, Failure},
    output::{Column, Terminal, object, table_of, text_at},
};

pub(super) use self::follow::as_sent;

pub(super) const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("TASK", "/task"),
    ("QUEUE", "/queue"),
    ("STATE", "/state"),
    ("ATTEMPT", "/attempt"),
    ("CREATED", "/created_at"),
    ("ERROR", "/error/kind"),
];

const ROWS: &[Column] = &[
    ("id", "/id"),
    ("task", "/task"),
    ("state", "/state"),
    ("queue", "/queue"),
    ("priority", "/priority"),
    ("digest", "/digest"),
    ("arguments", "/arguments"),
    ("attempt", "/attempt"),
    ("max retries", "/max_retries"),
    ("deliveries", "/deliveries"),
    ("created", "/created_at"),
    ("due", "/due_at"),
    ("expires", "/expires_at"),
    ("started", "/started_at"),
    ("finished", "/finished_at"),
    ("worker", "/worker"),
    ("progress", "/progress/message"),
    ("reports", "/progress/state"),
    ("about it", "/progress/meta"),
    ("error", "/error/kind"),
    ("message", "/error/message"),
    ("redrive of", "/redrive_of"),
    ("workflow", "/workflow"),
    ("node", "/node/number"),
    ("label", "/node/label"),
    ("tags", "/tags"),
    ("headers", "/headers"),
    ("call", "/call"),
    ("replaced by", "/replaced_by"),
    ("result is", "/result_omitted"),
    ("traceparent", "/traceparent"),
];

pub async fn run(client: &Client, verb: JobVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        JobVerb::Submit(options) => submit::submit(client, &options, terminal).await,
        JobVerb::List(options) => list(client, &options, terminal).await,
        JobVerb::Show { id, wait } => {
            let body = match wait {
                None => client.get(format!("/v1/jobs/{id}")).text().await?,
                Some(ms) => ended(client, id, Duration::from_millis(ms), None, terminal).await?,
            };
            show(&body, terminal)
        }
        JobVerb::Result { id } => terminal.json(&raw_result(client, id).await?),
        JobVerb::Logs { id, follow } => follow::logs(client, id, follow, terminal).await,
        JobVerb::Events { id } => follow::events(client, id, terminal).await,
        JobVerb::Cancel { id, let_end } => {
            let request = client.post(format!("/v1/jobs/{id}/cancel"));
            let request = if let_end { request.json(&json!({ "terminate": false })) } else { request };
            let body = request.text().await?;
            let job: Job = answer(&body)?;
            terminal.note(match job.state {
                JobState::Revoked => "the job is revoked",
                _ if let_end => "it is left to end, and is not retried",
                _ => "its worker was asked to stop it",
            });
            brief(&body, &job, terminal)
        }
        JobVerb::Retry { id } => {
            let body = client.post(format!("/v1/jobs/{id}/retry")).text().await?;
            let job: Job = answer(&body)?;
            let new = job.id != id;
            terminal.note(if new { "a new job repeats it" } else { "it runs now" });
            brief(&body, &job, terminal)
        }
        JobVerb::Forget { ids } => forget(client, &ids, terminal).await,
    }
}

async fn list(client: &Client, options: &ListOptions, terminal: &Terminal) -> Result<(), Failure> {
    let states: Vec<&str> = options.state.iter().map(|state| state.as_str()).collect();
    let header = options.header.as_deref().map(arguments::stamp).transpose()?;
    let query = [
        ("state", Some(states.join(",")).filter(|states| !states.is_empty())),
        ("task", options.task.as_ref().map(ToString::to_string)),
        ("queue", options.queue.as_ref().map(ToString::to_string)),
        ("workflow", options.workflow.map(|workflow| workflow.to_string())),
        ("worker", options.worker.clone()),
        ("tag", options.tag.clone()),
        ("header", header.map(|(name, value)| format!("{name}:{value}"))),
        ("created_after", options.created_after.clone()),
        ("created_before", options.created_before.clone()),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    terminal.list(&pages(client, "/v1/jobs", &query, &options.page).await?, COLUMNS, "/id")
}

/// Deletes one after the other; those that cannot be deleted are named at the end.
async fn forget(client: &Client, ids: &[JobId], terminal: &Terminal) -> Result<(), Failure> {
    let (mut refused, mut exit) = (Vec::new(), Exit::NotFound);
    for id in ids {
        match client.forget(*id).await.map_err(Failure::from) {
            Ok(()) => terminal.line(&id.to_string())?,
            // One job: as it is.
            Err(failure) if ids.len() == 1 => return Err(failure),
            Err(failure) if matches!(failure.exit, Exit::NotFound | Exit::Conflict) => {
                if failure.exit == Exit::Conflict {
                    exit = Exit::Conflict;
                }
                refused.push(format!("{id}: {}", failure.code));
            }
            Err(failure) => return Err(failure),
        }
    }
    terminal.note(&format!("{} jobs are forgotten", ids.len() - refused.len()));
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::new("not_forgotten", format!("{} jobs were not forgotten", refused.len())).details(refused).exit(exit))
}

/// The job once it has ended.
async fn ended(
    client: &Client,
    id: JobId,
    wait: Duration,
    begun: Option<Instant>,
    terminal: &Terminal,
) -> Result<String, Failure> {
    let until = begun.unwrap_or_else(Instant::now) + wait;
    let spinner = begun.is_none().then(|| terminal.spinner(format!("waiting for job {id}")));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let body = client.get(format!("/v1/jobs/{id}")).wait(left.min(MAX_WAIT)).text().await?;
        let job: Job = answer(&body)?;
        if job.state.is_terminal() {
            return Ok(body);
        }
        if let Some(spinner) = &spinner {
            spinner.say(format!("job {id} is {}", job.state.as_str()));
        }
        if left.is_zero() {
            let message = format!("job {id} is {} after the wait", job.state.as_str());
            return Err(Failure::new("wait_timeout", message).help(format!("umbel job show {id} --wait")));
        }
    }
}

/// The result alone, as JSON text.
async fn raw_result(client: &Client, id: JobId) -> Result<String, Failure> {
    let text = client.get(format!("/v1/jobs/{id}/result")).text().await?;
    Ok(text.trim_end().to_owned())
}

/// Prints the result of a job that was waited for, or fails as it failed.
async fn result(client: &Client, body: &str, took: Duration, terminal: &Terminal) -> Result<(), Failure> {
    let job: Job = answer(body)?;
    if terminal.format != Format::Table {
        terminal.object(body, ROWS, "/id")?;
    } else if job.state == JobState::Succeeded {
        let result = match &job.result_omitted {
            // Too large to come with the job: by itself it may come.
            Some(why) => raw_result(client, job.id)
                .await
                .map_err(|_| omitted("job", job.id, why, job.replaced_by.unwrap_or(job.id)))?,
            None => job.result.as_ref().map_or("null", |result| result.get()).to_owned(),
        };
        terminal.note(&format!("job {} succeeded in {} ms", job.id, took.as_millis()));
        terminal.json(&result)?;
    }
    failed(&job)
}

/// A job that did not succeed ends the verb with exit code 3.
fn failed(job: &Job) -> Result<(), Failure> {
    if job.state == JobState::Succeeded {
        return Ok(());
    }
    let state = job.state.as_str();
    let failure = match &job.error {
        Some(error) => {
            let details = causes(error);
            Failure::new(error.kind.clone(), format!("job {} {state}: {}", job.id, error.message)).details(details)
        }
        None => Failure::new(state, format!("job {} is {state}", job.id)),
    };
    let again = match job.workflow {
        // A part of a workflow is done again with what comes after it.
        Some(workflow) => format!("umbel workflow resume {workflow}"),
        None => format!("umbel job retry {}", job.id),
    };
    Err(failure.exit(Exit::JobFailed).help(format!("umbel job logs {}; {again}", job.id)))
}

fn brief(body: &str, job: &Job, terminal: &Terminal) -> Result<(), Failure> {
    match terminal.format {
        Format::Table | Format::Id => terminal.line(&job.id.to_string()),
        Format::Json | Format::Jsonl => terminal.line(body.trim_end()),
    }
}

fn show(body: &str, terminal: &Terminal) -> Result<(), Failure> {
    terminal.object(body, ROWS, "/id")?;
    if terminal.format != Format::Table {
        return Ok(());
    }
    let job: Job = answer(body)?;
    if job.let_end && !job.state.is_terminal() {
        terminal.note("it was cancelled, and is left to end");
    }
    if let Some(result) = &job.result {
        terminal.json(&format!("\nresult\n{}", result.get()))?;
    }
    if let Some(error) = job.error.filter(|error| !error.frames.is_empty()) {
        terminal.line(&format!("\nframes\n{}", crate::safe_text::plain(&error.frames.join("\n"))))?;
    }
    let value = object(body)?;
    let history = value.pointer("/history").and_then(Value::as_array).cloned().unwrap_or_default();
    if history.is_empty() {
        return Ok(());
    }
    let pointers =
        ["/attempt", "/delivery", "/outcome", "/error/kind", "/ended_at", "/duration_us", "/fuel", "/worker"];
    let rows = history.iter().map(|line| pointers.iter().map(|pointer| text_at(line, pointer)).collect());
    let header = ["ATTEMPT", "DELIVERY", "OUTCOME", "ERROR", "ENDED", "MICROSECONDS", "FUEL", "WORKER"];
    terminal.line(&format!("\n{}", table_of(&header, rows)))
}
