//! `umbel worker` with a verb: workers that are alive, and orders to them.

use serde_json::Value;
use umbel_client::{Client, Error, Request, Shutdown, WorkerPatch};

use crate::{
    args::{Format, WorkerVerb},
    client::{
        answer, job, pages,
        suggested::{WORKERS, suggested},
    },
    failure::{Exit, Failure},
    output::{Column, Page, Terminal},
};

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("RUNNING", "/running"),
    ("LEASES", "/leases"),
    ("SLOTS", "/slots"),
    ("SETTLED", "/settled"),
    ("MEMORY", "/rss_bytes"),
    ("QUEUES", "/queues"),
    ("SINCE", "/started_at"),
    ("VERSION", "/version"),
];

const ROWS: &[Column] = &[
    ("id", "/id"),
    ("host", "/host"),
    ("process", "/pid"),
    ("version", "/version"),
    ("state", "/state"),
    ("slots", "/slots"),
    ("least slots", "/min_slots"),
    ("most slots", "/max_slots"),
    ("running", "/running"),
    ("leases", "/leases"),
    ("settled", "/settled"),
    ("memory", "/rss_bytes"),
    ("queues", "/queues"),
    ("but not", "/exclude"),
    ("since", "/started_at"),
    ("last order", "/order"),
];

pub async fn run(client: &Client, verb: WorkerVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        WorkerVerb::List => {
            let page: Page = client.get("/v1/workers").answer().await?;
            terminal.list(&page, COLUMNS, "/id")
        }
        WorkerVerb::Show { id } => {
            let sent = client.get(path(&id)?).text().await;
            terminal.object(&suggested(client, WORKERS, &id, sent).await?, ROWS, "/id")
        }
        WorkerVerb::Jobs { id, page } => {
            // A worker that is gone has no jobs: it is told apart here.
            let sent = client.get(path(&id)?).text().await;
            suggested(client, WORKERS, &id, sent).await?;
            let jobs = pages(client, &format!("{}/jobs", path(&id)?), &[], &page).await?;
            terminal.list(&jobs, job::COLUMNS, "/id")
        }
        WorkerVerb::Drain { id } => post(client, &id, "drain", "it claims nothing more", terminal).await,
        WorkerVerb::Resume { id } => post(client, &id, "resume", "it claims again", terminal).await,
        WorkerVerb::Shutdown { id, mode } => {
            let mode: Shutdown = mode.into();
            let request = client.post(format!("{}/shutdown", path(&id)?)).json(&serde_json::json!({ "mode": mode }));
            ordered(client, &id, request, "it ends", terminal).await
        }
        WorkerVerb::Slots { id, n } => {
            let said = format!("it runs {n} at once");
            patch(client, &id, &WorkerPatch::default().slots(n), &said, terminal).await
        }
        WorkerVerb::Autoscale { min, max, .. } if min > max => {
            Err(Failure::usage(format!("the least, {min}, is more than the most, {max}")))
        }
        WorkerVerb::Autoscale { id, min, max } => {
            let said = format!("it runs {min} to {max} at once");
            patch(client, &id, &WorkerPatch::default().autoscale(min, max), &said, terminal).await
        }
        WorkerVerb::Queues { id, changes, all } => {
            let queues = if all { Vec::new() } else { queues(client, &id, &changes).await? };
            let said = if all { "it serves all queues".into() } else { format!("it serves {}", queues.join(", ")) };
            patch(client, &id, &WorkerPatch::default().queues(queues), &said, terminal).await
        }
    }
}

/// The address of a worker. An id with other characters than ids have would be another address.
fn path(id: &str) -> Result<String, Failure> {
    if umbel_model::WorkerId::new(id).is_err() {
        return Err(Failure::usage(format!("{id:?} is not the id of a worker")).help("umbel worker list shows them"));
    }
    Ok(format!("/v1/workers/{id}"))
}

async fn post(client: &Client, id: &str, verb: &str, said: &str, terminal: &Terminal) -> Result<(), Failure> {
    ordered(client, id, client.post(format!("{}/{verb}", path(id)?)), said, terminal).await
}

async fn patch(client: &Client, id: &str, patch: &WorkerPatch, said: &str, terminal: &Terminal) -> Result<(), Failure> {
    ordered(client, id, client.patch(path(id)?).json(patch), said, terminal).await
}

/// Sends an order; twice is the same as once.
async fn ordered(client: &Client, id: &str, request: Request, said: &str, terminal: &Terminal) -> Result<(), Failure> {
    let sent = request.repeatable().text().await;
    let forbidden = matches!(&sent, Err(Error::Problem(problem)) if problem.status == 403);
    let body = suggested(client, WORKERS, id, sent).await.map_err(|failure| match forbidden {
        true => failure.help("workers take orders from an operator's token: umbel token create --operator"),
        false => failure,
    })?;
    terminal.note(&format!("{said}, within a few seconds: umbel worker show {id}"));
    match terminal.format {
        Format::Table | Format::Id => terminal.line(id),
        Format::Json | Format::Jsonl if body.trim().is_empty() => Ok(()),
        Format::Json | Format::Jsonl => terminal.line(body.trim_end()),
    }
}

/// The queues that a worker shall serve.
async fn queues(client: &Client, id: &str, changes: &[String]) -> Result<Vec<String>, Failure> {
    let relative = changes.iter().any(|change| change.starts_with(['+', '-']));
    if !relative {
        return Ok(changes.to_vec());
    }
    let sent = client.get(path(id)?).text().await;
    let worker: Value = answer(&suggested(client, WORKERS, id, sent).await?)?;
    let now = worker["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    let now = now.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    changed(now, changes)
}

fn changed(mut queues: Vec<String>, changes: &[String]) -> Result<Vec<String>, Failure> {
    if queues.is_empty() {
        let message = "it serves all queues: none can be added or taken away";
        return Err(Failure::new("all_queues", message)
            .exit(Exit::Conflict)
            .help("name exactly those that it shall serve, without + and -"));
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
