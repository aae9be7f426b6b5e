//! `umbel job`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use umbel_client::{Client, Job, MAX_WAIT};
use umbel_model::{JobId, JobState};

use crate::{
    args::{Format, JobVerb, SubmitOptions},
    client::{answer, arguments, causes, omitted, pages, task::suggested},
    failure::{Exit, Failure},
    output::{Column, Page, Terminal, object, table_of, text_at},
};

const COLUMNS: &[Column] = &[
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
    ("error", "/error/kind"),
    ("message", "/error/message"),
    ("redrive of", "/redrive_of"),
    ("workflow", "/workflow"),
    ("node", "/node/number"),
    ("label", "/node/label"),
    ("tags", "/node/tags"),
    ("headers", "/node/headers"),
    ("call", "/call"),
    ("replaced by", "/replaced_by"),
    ("result is", "/result_omitted"),
    ("traceparent", "/traceparent"),
];

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Submission<'a> {
    task: &'a str,
    args: Vec<Box<RawValue>>,
    kwargs: std::collections::BTreeMap<String, Box<RawValue>>,
    options: Map<String, Value>,
}

pub async fn run(client: &Client, verb: JobVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        JobVerb::Submit(options) => submit(client, &options, terminal).await,
        JobVerb::List { state, task, queue, workflow, page } => {
            let mut query = Vec::new();
            query.extend(state.map(|state| ("state", state.as_str().to_owned())));
            query.extend(task.map(|task| ("task", task.to_string())));
            query.extend(queue.map(|queue| ("queue", queue.to_string())));
            query.extend(workflow.map(|workflow| ("workflow", workflow.to_string())));
            terminal.list(&pages(client, "/v1/jobs", &query, &page).await?, COLUMNS, "/id")
        }
        JobVerb::Show { id, wait } => {
            let body = match wait {
                None => client.get(format!("/v1/jobs/{id}")).text().await?,
                Some(ms) => ended(client, id, Duration::from_millis(ms), None, terminal).await?,
            };
            show(&body, terminal)
        }
        JobVerb::Logs { id, follow } => logs(client, id, follow, terminal).await,
        JobVerb::Cancel { id } => {
            let body = client.post(format!("/v1/jobs/{id}/cancel")).text().await?;
            let job: Job = answer(&body)?;
            terminal.note(match job.state {
                JobState::Revoked => "the job is revoked",
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
    }
}

async fn submit(client: &Client, options: &SubmitOptions, terminal: &Terminal) -> Result<(), Failure> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(options.policy()) else {
        return Err(Failure::usage("the options cannot be written as JSON"));
    };
    if let Some(ms) = options.countdown {
        fields.insert("countdown_ms".into(), ms.into());
    }
    if let Some(eta) = &options.eta {
        fields.insert("eta".into(), eta.as_str().into());
    }
    let submission = Submission {
        task: options.task.as_str(),
        args: options.args.iter().map(|text| arguments::value(text)).collect(),
        kwargs: arguments::named(&options.kwarg)?,
        options: fields,
    };
    let mut request = client.post("/v1/jobs").json(&submission);
    if let Some(key) = &options.idempotency_key {
        request = request.idempotency_key(key);
    }
    let wait = options.wait.map(Duration::from_millis);
    if let Some(wait) = wait {
        request = request.wait(wait);
    }
    let begun = Instant::now();
    let spinner = wait.map(|_| terminal.spinner(format!("waiting for {}", options.task)));
    let sent = request.text().await;
    let body = suggested(client, options.task.as_str(), sent).await?;
    let job: Job = answer(&body)?;
    let Some(wait) = wait else {
        terminal.note(&format!("{}: umbel job show {}", job.state.as_str(), job.id));
        return brief(&body, &job, terminal);
    };
    let left = wait.saturating_sub(begun.elapsed());
    let body = if job.state.is_terminal() { body } else { ended(client, job.id, left, Some(begun), terminal).await? };
    drop(spinner);
    result(&body, begun.elapsed(), terminal)
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

/// Prints the result of a job that was waited for, or fails as it failed.
fn result(body: &str, took: Duration, terminal: &Terminal) -> Result<(), Failure> {
    let job: Job = answer(body)?;
    if terminal.format != Format::Table {
        terminal.object(body, ROWS, "/id")?;
    } else if job.state == JobState::Succeeded {
        if let Some(why) = &job.result_omitted {
            return Err(omitted("job", job.id, why, job.replaced_by.unwrap_or(job.id)));
        }
        terminal.note(&format!("job {} succeeded in {} ms", job.id, took.as_millis()));
        terminal.json(job.result.as_ref().map_or("null", |result| result.get()))?;
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
    if let Some(result) = &job.result {
        terminal.json(&format!("\nresult\n{}", result.get()))?;
    }
    if let Some(error) = job.error.filter(|error| !error.frames.is_empty()) {
        terminal.line(&format!("\nframes\n{}", crate::output::plain(&error.frames.join("\n"))))?;
    }
    let value = object(body)?;
    let history = value.pointer("/history").and_then(Value::as_array).cloned().unwrap_or_default();
    if history.is_empty() {
        return Ok(());
    }
    let pointers = ["/attempt", "/delivery", "/outcome", "/error/kind", "/ended_at", "/duration_us", "/fuel"];
    let rows = history.iter().map(|line| pointers.iter().map(|pointer| text_at(line, pointer)).collect());
    let header = ["ATTEMPT", "DELIVERY", "OUTCOME", "ERROR", "ENDED", "MICROSECONDS", "FUEL"];
    terminal.line(&format!("\n{}", table_of(&header, rows)))
}

/// The lines of a log that the server has.
#[derive(Debug, Deserialize)]
struct Lines {
    items: Vec<Box<RawValue>>,
    next_from: u64,
}

async fn logs(client: &Client, id: JobId, follow: bool, terminal: &Terminal) -> Result<(), Failure> {
    let mut from = 0;
    let mut over = !follow;
    loop {
        let request = client.get(format!("/v1/jobs/{id}/logs")).query("from", from.to_string());
        let lines: Lines = request.query("limit", "200").answer().await?;
        let none = lines.items.is_empty();
        from = lines.next_from;
        print_lines(lines.items, terminal)?;
        if !none {
            continue;
        }
        if over {
            return Ok(());
        }
        let job: Job = client.get(format!("/v1/jobs/{id}")).wait(FOLLOW).answer().await?;
        // What it wrote last may have come after the look above: one more look.
        over = job.state.is_terminal();
    }
}

fn print_lines(items: Vec<Box<RawValue>>, terminal: &Terminal) -> Result<(), Failure> {
    if terminal.format != Format::Table {
        let jsonl = Terminal { format: Format::Jsonl };
        return jsonl.list(&Page { items, next_cursor: None }, &[], "/number");
    }
    for item in &items {
        let line = object(item.get())?;
        let context = text_at(&line, "/context");
        let context = if context.is_empty() { context } else { format!(" {context}:") };
        let (at, level) = (text_at(&line, "/at"), text_at(&line, "/level"));
        terminal.line(&format!("{at} {level:>5}{context} {}", text_at(&line, "/message")))?;
    }
    Ok(())
}
