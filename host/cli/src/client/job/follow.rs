//! `umbel job logs` and `umbel job events`; `follow` prints any feed of events.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use umbel_client::{Event, Feed, Job, JobEvent, Progress, typed};
use umbel_model::JobId;

use super::{failed, job};
use crate::client::Context;
use crate::output::{coloured, object, text_at};
use crate::safe_text::{escaped, one_line, plain};
use crate::{Result, args::Format};

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(500);

/// The lines of a log that the server has.
#[derive(Debug, Deserialize)]
struct Lines {
    items: Vec<Box<RawValue>>,
    next_from: u64,
}

pub(super) async fn logs(ctx: &Context, id: JobId, follow: bool) -> Result {
    let mut from = 0;
    let mut over = !follow;
    loop {
        let request = ctx.client.get(format!("/v1/jobs/{id}/logs")).query("from", from.to_string());
        let lines: Lines = request.query("limit", "200").answer().await?;
        from = lines.next_from;
        if !lines.items.is_empty() {
            lines.items.iter().try_for_each(|item| match ctx.terminal.format {
                Format::Table => ctx.terminal.line(&log_line(item.get())?),
                _ => ctx.terminal.line(item.get()),
            })?;
            continue;
        }
        if over {
            return Ok(());
        }
        let job: Job = job(&ctx.client, id).wait(FOLLOW).answer().await?;
        // What it wrote last may have come after the look above: one more look.
        over = job.state.is_terminal();
    }
}

/// A line of a log for people. What a guest wrote never looks like another line: its own line feeds are marked.
fn log_line(json: &str) -> Result<String> {
    let line = object(json)?;
    let context = one_line(&text_at(&line, "/context"));
    let context = if context.is_empty() { context } else { format!(" {context}:") };
    let (at, level) = (text_at(&line, "/at"), text_at(&line, "/level"));
    Ok(format!("{at} {level:>5}{context} {}", text_at(&line, "/message").replace('\n', "\n    | ")))
}

/// Prints what happens until the job has ended; a job that did not succeed ends the verb with exit code 3.
pub(super) async fn events(ctx: &Context, id: JobId) -> Result {
    let end = follow(ctx, ctx.client.feed(format!("/v1/jobs/{id}/events"), None), shown).await?;
    failed(&typed(&end.data)?)
}

/// Prints events, as `shown` says, until one that is named `end`, and returns that.
pub(in crate::client) async fn follow(
    ctx: &Context,
    mut feed: Feed,
    shown: impl Fn(&Event, Format) -> Result<Option<String>>,
) -> Result<Event> {
    loop {
        let event = feed.next().await?;
        if let Some(line) = shown(&event, ctx.terminal.format)? {
            ctx.terminal.line(&line)?;
        }
        if event.name == "end" {
            return Ok(event);
        }
    }
}

/// An event as an object; its data as it was sent: numbers keep all their digits.
pub(in crate::client) fn as_sent(event: &Event) -> String {
    let (name, id) = (Value::from(event.name.as_str()), Value::from(event.id.clone()));
    format!(r#"{{"event":{name},"id":{id},"data":{}}}"#, event.data)
}

/// An event as a line; none for what is not wanted, or is of a later version.
fn shown(event: &Event, format: Format) -> Result<Option<String>> {
    match format {
        Format::Json | Format::Jsonl => return Ok(Some(as_sent(event))),
        Format::Id => return Ok(event.id.as_deref().map(|id| plain(id).into_owned())),
        Format::Table => {}
    }
    Ok(match event.of_job()? {
        Some(JobEvent::Log(_)) => Some(log_line(&event.data)?),
        Some(JobEvent::Progress(progress)) => Some(format!("progress  {}", progress_text(&progress))),
        Some(JobEvent::State(change)) => {
            let due = change.due_at.map(|at| format!(", due {at}")).unwrap_or_default();
            let error = change.error.map(|error| format!(": {}: {}", error.kind, error.message)).unwrap_or_default();
            let rest = one_line(&format!("attempt {}{due}{error}", change.attempt));
            Some(format!("{}  {rest}", coloured(change.state.as_str())))
        }
        Some(JobEvent::End(job)) => Some(format!("{}  the job has ended", coloured(job.state.as_str()))),
        _ => None,
    })
}

fn progress_text(progress: &Progress) -> String {
    let Progress { done, total, message, state, meta } = progress;
    let mut parts = vec![if *total > 0 { format!("{done} of {total}") } else { done.to_string() }];
    parts.extend(state.clone());
    parts.extend(Some(message.clone()).filter(|message| !message.is_empty()));
    parts.extend(meta.as_ref().map(|meta| escaped(&meta.to_string()).into_owned()));
    one_line(&parts.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_for_people_and_objects_for_programs() {
        let event = |name: &str, data: &str| Event { id: Some("1.0".into()), name: name.into(), data: data.into() };
        let line = |event: &Event| {
            let line = shown(event, Format::Table).unwrap();
            line.map(|line| anstream::adapter::strip_str(&line).to_string())
        };
        let progress =
            event("progress", r#"{"done":1,"total":3,"message":"a\nb\u001b","state":"packing","meta":{"n":1}}"#);
        assert_eq!(line(&progress).unwrap(), "progress  1 of 3  packing  a b\u{fffd}  {\"n\":1}");
        let state =
            event("state", r#"{"state":"retrying","attempt":2,"retry_at":"T","error":{"kind":"k","message":"m"}}"#);
        assert_eq!(line(&state).unwrap(), "retrying  attempt 2, due T: k: m");
        let forged = event(
            "log",
            r#"{"number":0,"attempt":1,"at":"T","level":"info","context":"a\nT error","message":"x\nT error y"}"#,
        );
        assert_eq!(line(&forged).unwrap(), "T  info a T error: x\n    | T error y");
        assert_eq!(line(&event("later", "1")), None);
        let number = event("log", r#"{"message":"x","n":123456789012345678901234567890}"#);
        let json = shown(&number, Format::Jsonl).unwrap().unwrap();
        assert_eq!(json, format!(r#"{{"event":"log","id":"1.0","data":{}}}"#, number.data));
    }
}
