//! `umbel schedule`.

mod apply;
mod create;
mod diff;
mod file;
mod import;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use umbel_client::{Job, NextTime, NextTimes, Workflow, fresh_key, typed};
use umbel_model::ScheduleName;

use super::{Context, SCHEDULE, job, workflow};
use crate::{
    Result,
    args::{Format, ScheduleVerb},
    output::{Terminal, table_of, text_at},
    safe_text::one_line,
};

const COLUMNS: &str =
    "NAME, STATE, NEXT = next_at, STARTS = start/task, WHEN = describe, PAUSED = paused/reason, PROBLEM";
const FIELDS: &str = "name, state, when = describe, written = when, zone, starts = start, starts at, ends at, overlap, catch up, \
                      catch up window ms, jitter ms, window ms, max runs, pause after failures, keep missed, digest, description, source, \
                      version, next = next_at, due = due_at, paused since = paused/since, paused because = paused/reason, \
                      runs started = started, failures in a row = failures, waiting, not started = retry/nominal_at, \
                      because = retry/error, tried again = retry/at, runs, backfills, created = created_at, changed = changed_at, \
                      zone database, problem";
const FIRES: &str = "NUMBER, VERDICT, NOMINAL = nominal_at, THROUGH, COUNT, AT, JOB, WORKFLOW, BACKFILL, REASON";

/// Fields as they were written: numbers keep all their digits.
type Body = BTreeMap<String, Box<RawValue>>;

pub async fn run(context: impl Fn() -> Result<Context>, terminal: &Terminal, verb: ScheduleVerb) -> Result {
    match verb {
        // Reads a file, and needs no server unless it is told to apply it.
        ScheduleVerb::Import(options) => import::run(context, terminal, &options).await,
        verb => verb_with(&context()?, verb).await,
    }
}

async fn verb_with(ctx: &Context, verb: ScheduleVerb) -> Result {
    let client = &ctx.client;
    match verb {
        ScheduleVerb::Create(options) => create::run(ctx, &options).await,
        ScheduleVerb::List { prefix, state, task, source, page } => {
            let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
            let query =
                [("prefix", prefix), ("state", state), ("task", task.map(|task| task.to_string())), ("source", source)];
            ctx.list("/v1/schedules", &query, &page, COLUMNS).await
        }
        ScheduleVerb::Show { name } => {
            let sent = client.get(path(&name)).text().await;
            ctx.terminal.object(&ctx.about(SCHEDULE, name.as_str(), sent).await?, FIELDS)
        }
        ScheduleVerb::Pause { name, reason } => {
            let request = client.post(format!("{}/pause", path(&name))).json(&json!({ "reason": reason }));
            brief(ctx, &name, request.repeatable().text().await, "it is paused").await
        }
        ScheduleVerb::Resume { name } => {
            let request = client.post(format!("{}/resume", path(&name))).repeatable();
            brief(ctx, &name, request.text().await, "it goes on").await
        }
        ScheduleVerb::Run { name, wait } => start(ctx, &name, wait).await,
        ScheduleVerb::Skip { name } => {
            let sent = client.post(format!("{}/skip", path(&name))).text().await;
            let body = ctx.about(SCHEDULE, name.as_str(), sent).await?;
            let view: Value = typed(&body)?;
            let (skipped, next) = (text_at(&view, "/skipped_at"), text_at(&view, "/next_at"));
            let next = if next.is_empty() { "never".into() } else { next };
            ctx.terminal.note(&format!("{skipped} is left out; the next one is {next}"));
            ctx.terminal.brief(name.as_str(), &body)
        }
        ScheduleVerb::Backfill { name, from, to, pace, dry_run } => {
            let body = json!({ "from": from, "to": to, "pace_ms": pace, "dry_run": dry_run });
            backfill(ctx, &name, &body).await
        }
        ScheduleVerb::BackfillAbort { name, id } => {
            let id = percent(&id);
            let sent = client.delete(format!("{}/backfills/{id}", path(&name))).text().await;
            brief(ctx, &name, sent, "the backfill has ended; what it has started goes on").await
        }
        ScheduleVerb::Next { name, count, from } => {
            let request = client.get(format!("{}/next", path(&name))).query("count", count.to_string());
            let request = from.into_iter().fold(request, |request, from| request.query("from", from));
            next(ctx, &ctx.about(SCHEDULE, name.as_str(), request.text().await).await?)
        }
        ScheduleVerb::History { name, page } => ctx.list(&format!("{}/fires", path(&name)), &[], &page, FIRES).await,
        ScheduleVerb::Delete { names } => delete(ctx, &names).await,
        ScheduleVerb::Apply(options) => apply::run(ctx, &options).await,
        ScheduleVerb::Import(_) => Ok(()),
    }
}

fn path(name: &ScheduleName) -> String {
    format!("/v1/schedules/{name}")
}

/// A part of a path: ids are letters and digits, and whatever else is typed must not become another path.
fn percent(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

async fn brief(
    ctx: &Context,
    name: &ScheduleName,
    sent: std::result::Result<String, umbel_client::Error>,
    done: &str,
) -> Result {
    let body = ctx.about(SCHEDULE, name.as_str(), sent).await?;
    ctx.terminal.note(done);
    ctx.terminal.brief(name.as_str(), &body)
}

/// Starts its job or workflow now.
async fn start(ctx: &Context, name: &ScheduleName, wait: Option<u64>) -> Result {
    #[derive(Deserialize)]
    struct Kind {
        task: Option<String>,
    }
    let begun = Instant::now();
    let request = ctx.client.post(format!("{}/run", path(name))).idempotency_key(fresh_key()?);
    let body = ctx.about(SCHEDULE, name.as_str(), request.text().await).await?;
    if typed::<Kind>(&body)?.task.is_none() {
        let started: Workflow = typed(&body)?;
        return workflow::told(ctx, &body, &started, wait, begun).await;
    }
    let started: Job = typed(&body)?;
    let Some(wait) = wait.map(Duration::from_millis) else {
        ctx.terminal.note(&format!("{}: umbel job show {}", started.state.as_str(), started.id));
        return ctx.terminal.brief(&started.id.to_string(), &body);
    };
    let spinner = ctx.terminal.spinner(format!("waiting for {name}"));
    let (body, ended) = match started.state.is_terminal() {
        true => (body, started),
        false => job::ended(&ctx.client, started.id, begun + wait, &spinner).await?,
    };
    drop(spinner);
    job::result(ctx, &body, &ended, begun.elapsed()).await
}

async fn backfill(ctx: &Context, name: &ScheduleName, body: &Value) -> Result {
    let sent = ctx.client.post(format!("{}/backfill", path(name))).json(body).text().await;
    let body = ctx.about(SCHEDULE, name.as_str(), sent).await?;
    let plan: umbel_client::BackfillPlan = typed(&body)?;
    if let Some(id) = &plan.id {
        ctx.terminal
            .note(&format!("it goes on by itself; to end it: umbel schedule backfill-abort {name} {}", one_line(id)));
    }
    ctx.terminal.object(&body, "id, times = count, first, last")
}

async fn delete(ctx: &Context, names: &[ScheduleName]) -> Result {
    for name in names {
        let sent = ctx.client.delete(path(name)).text().await;
        ctx.about(SCHEDULE, name.as_str(), sent).await?;
        ctx.terminal.line(name.as_str())?;
    }
    Ok(())
}

fn next(ctx: &Context, body: &str) -> Result {
    let times: NextTimes = typed(body)?;
    match ctx.terminal.format {
        Format::Json | Format::Jsonl => return ctx.terminal.line(body.trim_end()),
        Format::Id => return times.items.iter().try_for_each(|time| ctx.terminal.line(&one_line(&time.at))),
        Format::Table => {}
    }
    ctx.terminal.line(&one_line(&times.describe))?;
    print_times(&ctx.terminal, &times.items)?;
    if let Some(note) = &times.note {
        ctx.terminal.note(note);
    }
    ctx.terminal.note(&format!("by the zone database {}", times.zone_database));
    Ok(())
}

/// Times as the zone's clock shows them.
fn print_times(terminal: &Terminal, times: &[NextTime]) -> Result {
    if times.is_empty() {
        terminal.note("it never fires again");
        return Ok(());
    }
    let row = |time: &NextTime| {
        let due = if time.due_at == time.at { String::new() } else { one_line(&time.due_at) };
        let local = format!(
            "{} {}",
            one_line(time.weekday.get(..3).unwrap_or_default()),
            one_line(&time.local).replace('T', " ")
        );
        let offset = format!("{} {}", one_line(&time.offset), one_line(&time.abbreviation));
        vec![
            local,
            offset,
            one_line(&time.at),
            due,
            time.marks.iter().map(|mark| marked(mark)).collect::<Vec<_>>().join(", "),
        ]
    };
    terminal.line(&table_of(&["LOCAL", "OFFSET", "UTC", "DUE", "NOTE"], times.iter().map(row)))
}

/// What a mark of a time means.
fn marked(mark: &str) -> String {
    match mark {
        "offset_changed" => "the clock has changed",
        "moved_out_of_gap" => "the written time is skipped by the clock, this is the first after it",
        "first_of_two" => "the first of two such times",
        "second_of_two" => "the second of two such times",
        other => return one_line(other),
    }
    .to_owned()
}

/// What was stored, or would be: in English, with the next times.
fn stored(terminal: &Terminal, body: &str) -> Result {
    let stored: umbel_client::StoredSchedule = typed(body)?;
    if terminal.format != Format::Table {
        return terminal.brief(&one_line(&stored.name), body);
    }
    terminal.line(&format!("{}: {}", one_line(&stored.name), one_line(&stored.describe)))?;
    print_times(terminal, &stored.next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_part_of_a_path_whatever_is_typed() {
        assert_eq!(percent("01ABC-z_"), "01ABC-z_");
        assert_eq!(percent("../x?y"), "%2E%2E%2Fx%3Fy");
    }

    #[test]
    fn marks_are_said_in_words_and_those_of_newer_servers_as_they_are() {
        assert_eq!(marked("first_of_two"), "the first of two such times");
        assert_eq!(marked("new\u{1b}"), "new\u{fffd}");
    }
}
