//! `umbel worker` with a verb: workers that are alive, and orders to them.

use serde_json::{Value, json};
use umbel_client::{Error, Request, WorkerPatch, typed};
use umbel_model::WorkerId;

use super::{Context, WORKER, job};
use crate::{Exit, Failure, Result, args::WorkerVerb};

const COLUMNS: &str = "ID, STATE, RUNNING, LEASES, SLOTS, SETTLED, MEMORY = rss_bytes, QUEUES, SINCE = started_at, \
    VERSION";

const FIELDS: &str = "id, host, process = pid, version, state, slots, least slots = min_slots, \
    most slots = max_slots, running, leases, settled, memory = rss_bytes, queues, but not = exclude, \
    since = started_at, last order = order";

pub async fn run(ctx: &Context, verb: WorkerVerb) -> Result {
    let Context { client, terminal } = ctx;
    let post = |id: &str, verb: &str| Ok::<_, Failure>(client.post(format!("{}/{verb}", path(id)?)));
    let patch = |id: &str, patch: WorkerPatch| Ok::<_, Failure>(client.patch(path(id)?).json(&patch));
    let (request, id, said) = match verb {
        WorkerVerb::List => return ctx.all("/v1/workers", COLUMNS).await,
        WorkerVerb::Show { id } => return terminal.object(&shown(ctx, &id).await?, FIELDS),
        WorkerVerb::Jobs { id, page } => {
            // A worker that is gone has no jobs: it is told apart here.
            shown(ctx, &id).await?;
            return ctx.list(&format!("{}/jobs", path(&id)?), &[], &page, job::COLUMNS).await;
        }
        WorkerVerb::Drain { id } => (post(&id, "drain")?, id, "it claims nothing more".to_owned()),
        WorkerVerb::Resume { id } => (post(&id, "resume")?, id, "it claims again".to_owned()),
        WorkerVerb::Shutdown { id, mode } => {
            (post(&id, "shutdown")?.json(&json!({ "mode": mode })), id, "it ends".to_owned())
        }
        WorkerVerb::Slots { id, n } => {
            (patch(&id, WorkerPatch::default().slots(n))?, id, format!("it runs {n} at once"))
        }
        WorkerVerb::Autoscale { min, max, .. } if min > max => {
            return Err(Failure::usage(format!("the least, {min}, is more than the most, {max}")));
        }
        WorkerVerb::Autoscale { id, min, max } => {
            let said = format!("it runs {min} to {max} at once");
            (patch(&id, WorkerPatch::default().autoscale(min, max))?, id, said)
        }
        WorkerVerb::Queues { id, changes, all } => {
            let queues = if all { Vec::new() } else { queues(ctx, &id, &changes).await? };
            let said = if all { "it serves all queues".into() } else { format!("it serves {}", queues.join(", ")) };
            (patch(&id, WorkerPatch::default().queues(queues))?, id, said)
        }
    };
    ordered(ctx, &id, request, &said).await
}

/// The address of a worker. An id with other characters than ids have would be another address.
fn path(id: &str) -> Result<String> {
    if WorkerId::new(id).is_err() {
        return Err(Failure::usage(format!("{id:?} is not the id of a worker")).help("umbel worker list shows them"));
    }
    Ok(format!("/v1/workers/{id}"))
}

/// The worker as the server shows it.
async fn shown(ctx: &Context, id: &str) -> Result<String> {
    let sent = ctx.client.get(path(id)?).text().await;
    ctx.about(WORKER, id, sent).await
}

/// Sends an order; twice is the same as once.
async fn ordered(ctx: &Context, id: &str, request: Request, said: &str) -> Result {
    let sent = request.repeatable().text().await;
    let forbidden = matches!(&sent, Err(Error::Problem(problem)) if problem.status == 403);
    let body = ctx.about(WORKER, id, sent).await.map_err(|failure| match forbidden {
        true => failure.help("workers take orders from an operator's token: umbel token create --operator"),
        false => failure,
    })?;
    ctx.terminal.note(&format!("{said}, within a few seconds: umbel worker show {id}"));
    ctx.terminal.brief(id, &body)
}

/// The queues that a worker shall serve.
async fn queues(ctx: &Context, id: &str, changes: &[String]) -> Result<Vec<String>> {
    if !changes.iter().any(|change| change.starts_with(['+', '-'])) {
        return Ok(changes.to_vec());
    }
    let worker: Value = typed(&shown(ctx, id).await?)?;
    let now = worker["queues"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    changed(now.collect(), changes)
}

fn changed(mut queues: Vec<String>, changes: &[String]) -> Result<Vec<String>> {
    if queues.is_empty() {
        let message = "it serves all queues: none can be added or taken away";
        let failure = Failure::new("all_queues", message).exit(Exit::Conflict);
        return Err(failure.help("name exactly those that it shall serve, without + and -"));
    }
    for change in changes {
        match change.split_at_checked(1) {
            Some(("+", name)) if !queues.iter().any(|queue| queue == name) => queues.push(name.to_owned()),
            Some(("+", _)) => {}
            Some(("-", name)) => queues.retain(|queue| queue != name),
            _ => {
                let message = format!("{change:?} has no sign, and others have");
                return Err(Failure::usage(message).help("write +NAME and -NAME, or exactly the queues to serve"));
            }
        }
    }
    if queues.is_empty() {
        return Err(Failure::usage("no queue would be left").help("umbel worker drain ID stops it from claiming"));
    }
    Ok(queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_added_at_the_end_and_taken_away() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let of = |now: &[&str], changes: &[&str]| changed(texts(now), &texts(changes)).map_err(|failure| failure.exit);
        assert_eq!(of(&["a", "b"], &["+c", "-a", "+b"]), Ok(texts(&["b", "c"])));
        assert_eq!(of(&["a"], &["-a"]), Err(Exit::Usage));
        assert_eq!(of(&["a"], &["+b", "c"]), Err(Exit::Usage));
        assert_eq!(of(&[], &["-a"]), Err(Exit::Conflict));
    }

    #[test]
    fn an_id_is_never_another_address() {
        assert_eq!(path("host-1-00ff").unwrap(), "/v1/workers/host-1-00ff");
        assert!(path("../jobs").is_err() && path("a?b").is_err() && path("").is_err());
    }
}
