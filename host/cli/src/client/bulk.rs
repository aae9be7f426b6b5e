//! `umbel bulk`: one action on many jobs, which the service carries out by itself.

use std::time::{Duration, Instant};

use umbel_client::{Bulk, BulkAction, BulkState, NewBulk, fresh_key, typed};
use umbel_model::JobId;

use super::{Context, arguments, confirm, fetch};
use crate::args::{BulkFlags, BulkVerb};
use crate::{Exit, Failure, Result};

const COLUMNS: &str = "ID, ACTION, STATE, DRY RUN, FOUND = matched, DONE, SKIPPED, FAILED, CREATED = created_at, \
    FINISHED = finished_at";

const FIELDS: &str = "id, action, filter, dry run, state, found = matched, done, skipped, failed, \
    created = created_at, finished = finished_at, error";

/// How long is waited where nobody says.
pub(super) const LONG: Duration = Duration::from_secs(3_600);
/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(500);

pub async fn run(ctx: &Context, verb: BulkVerb) -> Result {
    let client = &ctx.client;
    match verb {
        BulkVerb::Cancel { flags, let_end } => {
            let bulk = new(BulkAction::Cancel, &flags)?;
            start(ctx, if let_end { bulk.let_end() } else { bulk }, &flags).await
        }
        BulkVerb::Redrive { flags, current, policy } => {
            let bulk = redrive(new(BulkAction::Redrive, &flags)?, current, policy.as_deref())?;
            start(ctx, bulk, &flags).await
        }
        BulkVerb::Forget { flags } => start(ctx, new(BulkAction::Forget, &flags)?, &flags).await,
        BulkVerb::RunNow { flags } => start(ctx, new(BulkAction::RunNow, &flags)?, &flags).await,
        BulkVerb::List => ctx.all("/v1/bulk", COLUMNS).await,
        BulkVerb::Show { id, wait: Some(ms) } => finish(ctx, id, Duration::from_millis(ms)).await,
        BulkVerb::Show { id, wait: None } => ctx.show(client.get(format!("/v1/bulk/{id}")), FIELDS).await,
        BulkVerb::Abort { id } => ctx.show(client.post(format!("/v1/bulk/{id}/abort")).repeatable(), FIELDS).await,
    }
}

fn new(action: BulkAction, flags: &BulkFlags) -> Result<NewBulk> {
    let header = arguments::header_filter(flags.selection.header.as_deref())?;
    let mut filter = flags.selection.filter(header);
    if action == BulkAction::Redrive {
        // Nothing else can be run again.
        filter.dead = Some(true);
    }
    let bulk = NewBulk::new(action, filter);
    Ok(if flags.dry_run { bulk.dry_run() } else { bulk })
}

/// Which module and policy the repetitions get.
pub(super) fn redrive(bulk: NewBulk, current: bool, policy: Option<&str>) -> Result<NewBulk> {
    let bulk = if current { bulk.current() } else { bulk };
    Ok(match policy {
        Some(text) => bulk.policy(arguments::policy_json(text)?),
        None => bulk,
    })
}

async fn start(ctx: &Context, bulk: NewBulk, flags: &BulkFlags) -> Result {
    if flags.selection.all && !flags.dry_run {
        let what = match bulk.action {
            BulkAction::Cancel => "cancel all jobs that have not ended?",
            BulkAction::Redrive => "run all dead jobs again?",
            BulkAction::Forget => "delete all jobs that have ended?",
            BulkAction::RunNow => "run all waiting jobs now?",
        };
        confirm(flags.yes, what)?;
    }
    // A dry run is for its count.
    let wait = flags.wait.map(Duration::from_millis).or_else(|| flags.dry_run.then_some(LONG));
    send(ctx, &bulk, wait).await
}

pub(super) async fn send(ctx: &Context, bulk: &NewBulk, wait: Option<Duration>) -> Result {
    let body = ctx.client.post("/v1/bulk").json(bulk).idempotency_key(fresh_key()?).text().await?;
    told(ctx, &body, wait).await
}

/// Prints an action that was started: as it is or, after the wait, as it ended.
pub(super) async fn told(ctx: &Context, body: &str, wait: Option<Duration>) -> Result {
    let bulk: Bulk = typed(body)?;
    match wait {
        Some(wait) => finish(ctx, bulk.id, wait).await,
        None => {
            ctx.terminal.note(&format!("it goes on by itself: umbel bulk show {} --wait", bulk.id));
            ctx.terminal.object(body, FIELDS)
        }
    }
}

/// Shows how far it is until it is over, and prints how it ended.
async fn finish(ctx: &Context, id: JobId, wait: Duration) -> Result {
    let until = Instant::now() + wait;
    let spinner = ctx.terminal.spinner(format!("action {id}"));
    let mut pause = GLANCE / 10;
    let (body, bulk) = loop {
        let (body, bulk): (_, Bulk) = fetch(ctx.client.get(format!("/v1/bulk/{id}"))).await?;
        let left = until.saturating_duration_since(Instant::now());
        if bulk.state.is_over() || left.is_zero() {
            break (body, bulk);
        }
        spinner.set_message(format!("action {id}: {}", counts(&bulk)));
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(GLANCE);
    };
    drop(spinner);
    ctx.terminal.object(&body, FIELDS)?;
    ended(&bulk)
}

fn counts(bulk: &Bulk) -> String {
    let Bulk { matched, done, skipped, failed, .. } = bulk;
    format!("{matched} found, {done} done, {skipped} skipped, {failed} failed")
}

fn ended(bulk: &Bulk) -> Result {
    let (id, counts) = (bulk.id, counts(bulk));
    let details = bulk.error.clone().into_iter().collect();
    let (code, how, exit) = match bulk.state {
        BulkState::Done if bulk.failed == 0 => return Ok(()),
        BulkState::Done => ("bulk_incomplete", "", Exit::Failure),
        BulkState::Running => ("wait_timeout", " is running after the wait", Exit::Failure),
        BulkState::Aborted => ("bulk_aborted", " was stopped", Exit::Conflict),
        BulkState::Failed => ("bulk_failed", " failed", Exit::Failure),
    };
    let failure = Failure::new(code, format!("action {id}{how}: {counts}")).details(details).exit(exit);
    Err(match bulk.state {
        BulkState::Running => failure.help(format!("umbel bulk show {id} --wait, or umbel bulk abort {id}")),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn an_action_is_sent_as_it_was_typed() {
        let of = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["umbel", "bulk"], args].concat()).unwrap();
            let Command::Bulk(verb) = cli.command else { panic!() };
            let bulk = match verb {
                BulkVerb::Forget { flags } => new(BulkAction::Forget, &flags),
                BulkVerb::Redrive { flags, current, policy } => {
                    new(BulkAction::Redrive, &flags).and_then(|bulk| redrive(bulk, current, policy.as_deref()))
                }
                _ => panic!(),
            };
            serde_json::to_value(bulk.unwrap()).unwrap()
        };
        let forget = serde_json::json!({"action": "forget", "filter": {"tag": "x", "header": "k:v"}, "dry_run": true});
        assert_eq!(of(&["forget", "--tag", "x", "--header", "k=v", "--dry-run"]), forget);
        let redrive = serde_json::json!({"action": "redrive", "filter": {"task": "t", "dead": true}, "digest": "current",
            "policy": {"max_retries": 2}});
        assert_eq!(of(&["redrive", "--task", "t", "--current", "--policy", r#"{"max_retries": 2}"#]), redrive);
    }

    #[test]
    fn how_an_action_ended_is_the_exit_code() {
        let bulk = |state: &str, failed: u64| {
            let bulk = serde_json::json!({"id": "01J00000000000000000000000", "state": state, "failed": failed});
            ended(&serde_json::from_value(bulk).unwrap()).map_err(|failure| (failure.code, failure.exit))
        };
        assert_eq!(bulk("done", 0), Ok(()));
        assert_eq!(bulk("done", 1), Err(("bulk_incomplete".into(), Exit::Failure)));
        assert_eq!(bulk("aborted", 0), Err(("bulk_aborted".into(), Exit::Conflict)));
        assert_eq!(bulk("running", 0), Err(("wait_timeout".into(), Exit::Failure)));
    }
}
