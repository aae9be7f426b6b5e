//! `umbel job`.

mod follow;
pub(in crate::client) mod submit;

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use umbel_client::{Client, Digests, Job, MAX_WAIT, Progress, Request, typed};
use umbel_model::{JobId, JobState};

pub(super) use self::follow::{as_sent, follow};
use super::{Context, arguments, fetch, forget_each, not_succeeded, omitted};
use crate::args::{Format, JobVerb, ListOptions};
use crate::output::{object, table, text_at};
use crate::{
    Failure, Result,
    safe_text::{one_line, plain, shortened},
};

pub(super) const COLUMNS: &str = "ID, TASK, QUEUE, STATE, ATTEMPT, CREATED = created_at, \
    TOOK = started_at..finished_at, ERROR = error/kind";

const FIELDS: &str = "id, task, state, queue, priority, digest, arguments, attempt, max retries, deliveries, \
    created = created_at, waits since, due = due_at, expires = expires_at, started = started_at, finished = finished_at, \
    took = started_at..finished_at, worker, \
    progress = progress/message, done = progress/done, of = progress/total, reports = progress/state, about it = progress/meta, error = error/kind, \
    message = error/message, redrive of, workflow, node = node/number, label = node/label, tags, headers, call, \
    replaced by, result is = result_omitted, traceparent";

const HISTORY: &str = "ATTEMPT, DELIVERY, OUTCOME, ERROR = error/kind, ENDED = ended_at, TOOK = duration_us, CPU = cpu_us, \
    FUEL, MEMORY = memory_bytes, REQUESTS = http_requests, KV = kv_operations, WORKER";

/// How often a job is looked at while somebody sees its progress.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Characters of a progress message beside a spinner.
const MESSAGE_CHARS: usize = 60;

pub async fn run(ctx: &Context, verb: JobVerb) -> Result {
    let Context { client, terminal } = ctx;
    match verb {
        JobVerb::Submit(options) => submit::submit(ctx, &options).await,
        JobVerb::List(options) => list(ctx, &options).await,
        JobVerb::Show { id, wait } => {
            let body = match wait {
                None => job(client, id).text().await?,
                Some(ms) => {
                    let spinner = terminal.spinner(format!("waiting for job {id}"));
                    ended(client, id, Instant::now() + Duration::from_millis(ms), &spinner).await?.0
                }
            };
            show(ctx, &body)
        }
        JobVerb::Result { id } => terminal.json(&raw_result(client, id).await?),
        JobVerb::Logs { id, follow } => follow::logs(ctx, id, follow).await,
        JobVerb::Events { id } => follow::events(ctx, id).await,
        JobVerb::Cancel { id, let_end } => {
            let request = client.post(format!("/v1/jobs/{id}/cancel"));
            let request = if let_end { request.json(&json!({ "terminate": false })) } else { request };
            let (body, job): (_, Job) = fetch(request).await?;
            terminal.note(match job.state {
                JobState::Revoked => "the job is revoked",
                _ if let_end => "it is left to end, and is not retried",
                _ => "its worker was asked to stop it",
            });
            terminal.brief(&job.id.to_string(), &body)
        }
        JobVerb::Retry { id, current } => {
            let request = client.post(format!("/v1/jobs/{id}/retry"));
            let request = if current { request.json(&json!({ "digest": Digests::Current })) } else { request };
            let (body, job): (_, Job) = fetch(request).await?;
            let answer = object(&body)?;
            let digest = text_at(&answer, "/digest");
            terminal.note(&match (job.id == id, current) {
                (true, _) => "it runs now".to_owned(),
                (false, true) => format!("a new job repeats it with the module that its task points at now, {digest}"),
                (false, false) => {
                    format!("a new job repeats it with its own module, {digest}; --current takes the one of now")
                }
            });
            terminal.brief(&job.id.to_string(), &body)
        }
        JobVerb::Forget { ids } => forget_each(ctx, "jobs", &ids, |id| client.forget(id)).await,
    }
}

fn job(client: &Client, id: JobId) -> Request {
    client.get(format!("/v1/jobs/{id}"))
}

async fn list(ctx: &Context, options: &ListOptions) -> Result {
    let states: Vec<&str> = options.state.iter().map(|state| state.as_str()).collect();
    let query = [
        ("state", Some(states.join(",")).filter(|states| !states.is_empty())),
        ("task", options.task.as_ref().map(ToString::to_string)),
        ("queue", options.queue.as_ref().map(ToString::to_string)),
        ("workflow", options.workflow.map(|workflow| workflow.to_string())),
        ("worker", options.worker.clone()),
        ("tag", options.tag.clone()),
        ("header", arguments::header_filter(options.header.as_deref())?),
        ("created_after", options.created_after.clone()),
        ("created_before", options.created_before.clone()),
    ];
    ctx.list("/v1/jobs", &query, &options.page, COLUMNS).await?;
    if options.workflow.is_none() && ctx.terminal.format == Format::Table {
        ctx.terminal.note("jobs of workflows are left out: umbel workflow list, then umbel job list --workflow ID");
    }
    Ok(())
}

/// The job once it has ended; until then the spinner shows its state.
pub(in crate::client) async fn ended(
    client: &Client,
    id: JobId,
    until: Instant,
    spinner: &ProgressBar,
) -> Result<(String, Job)> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Who looks at a spinner wants to see the job get on.
        let patience = if spinner.is_hidden() { MAX_WAIT } else { LOOK_AGAIN };
        let (body, found): (_, Job) = match fetch(job(client, id).wait(left.min(patience))).await {
            Err(failure) if failure.code == "too_many_requests" && !left.is_zero() => continue,
            found => found?,
        };
        if found.state.is_terminal() {
            return Ok((body, found));
        }
        let stands = format!("job {id} is {}", stand_of(&found));
        if left.is_zero() {
            let failure = Failure::new("wait_timeout", format!("{stands} after the wait"));
            return Err(failure.help(format!("umbel job show {id} --wait")));
        }
        spinner.set_message(stands);
    }
}

/// `running, attempt 2, 3 of 10 done: charging`.
fn stand_of(job: &Job) -> String {
    let mut stand = job.state.as_str().to_owned();
    if job.attempt > 1 {
        stand.push_str(&format!(", attempt {}", job.attempt));
    }
    if let Some(Progress { done, total, message, .. }) = &job.progress {
        match total {
            0 => stand.push_str(&format!(", {done} done")),
            total => stand.push_str(&format!(", {done} of {total} done")),
        }
        if !message.is_empty() {
            stand.push_str(&format!(": {}", shortened(&one_line(message), MESSAGE_CHARS)));
        }
    }
    stand
}

/// The result alone, as JSON text.
async fn raw_result(client: &Client, id: JobId) -> Result<String> {
    let text = client.get(format!("/v1/jobs/{id}/result")).text().await?;
    Ok(text.trim_end().to_owned())
}

/// Prints the result of a job that was waited for, or fails as it failed.
pub(in crate::client) async fn result(ctx: &Context, body: &str, job: &Job, took: Duration) -> Result {
    let Context { client, terminal } = ctx;
    if terminal.format != Format::Table {
        terminal.object(body, FIELDS)?;
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
    failed(job)
}

/// A job that did not succeed ends the verb with exit code 3.
fn failed(job: &Job) -> Result {
    if job.state == JobState::Succeeded {
        return Ok(());
    }
    let again = match job.workflow {
        // A part of a workflow is done again with what comes after it.
        Some(workflow) => format!("umbel workflow resume {workflow}, after a fix with --current"),
        None => format!("umbel job retry {}, after a fix with --current", job.id),
    };
    let failure = not_succeeded(&format!("job {}", job.id), job.state.as_str(), job.error.as_ref());
    Err(failure.help(format!("umbel job logs {}; {again}", job.id)))
}

fn show(ctx: &Context, body: &str) -> Result {
    let terminal = &ctx.terminal;
    terminal.object(body, FIELDS)?;
    if terminal.format != Format::Table {
        return Ok(());
    }
    let fields = object(body)?;
    for what in fields["waits_for"].as_array().into_iter().flatten() {
        terminal.note(&format!("it waits: {}", text_at(what, "/detail")));
    }
    let job: Job = typed(body)?;
    if job.let_end && !job.state.is_terminal() {
        terminal.note("it was cancelled, and is left to end");
    }
    if let Some(result) = &job.result {
        terminal.json(&format!("\nresult\n{}", result.get()))?;
    }
    if let Some(error) = job.error.filter(|error| !error.frames.is_empty()) {
        terminal.line(&format!("\nframes\n{}", plain(&error.frames.join("\n"))))?;
    }
    match object(body)?.pointer_mut("/history").map(Value::take) {
        Some(Value::Array(history)) if !history.is_empty() => {
            terminal.line(&format!("\n{}", table(HISTORY, history.into_iter())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_waited_for_shows_its_state_its_attempt_and_its_progress() {
        let stand = |job: &str| {
            let id = r#""id": "00000000000000000000000001""#;
            stand_of(&typed(&format!("{{{id}, {job}}}")).unwrap())
        };
        assert_eq!(stand(r#""state": "queued", "attempt": 1"#), "queued");
        let progress = r#""progress": {"done": 3, "total": 10, "message": "a\nb"}"#;
        assert_eq!(
            stand(&format!(r#""state": "running", "attempt": 2, {progress}"#)),
            "running, attempt 2, 3 of 10 done: a b"
        );
    }
}
