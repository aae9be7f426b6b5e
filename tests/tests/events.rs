//! Events of a job: a stream that begins with what is, tells what happens, and goes on where it broke off.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use umbel_tests::{Client, on_both};

const LIMIT: Duration = Duration::from_secs(60);

/// One event.
#[derive(Debug, Clone)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// Reads events of a path until `enough` says so, or the stream ends.
async fn events(
    client: &Client,
    path: &str,
    last: Option<&str>,
    enough: impl FnMut(&Event) -> bool,
) -> Result<Vec<Event>> {
    read(open(client, path, last).await?, enough).await
}

/// A stream that has begun.
async fn open(client: &Client, path: &str, last: Option<&str>) -> Result<Response> {
    let mut request = client.request(Method::GET, path).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await?;
    ensure!(response.status() == 200, "{}: {}", response.status(), response.text().await?);
    Ok(response)
}

async fn read(response: Response, mut enough: impl FnMut(&Event) -> bool) -> Result<Vec<Event>> {
    let (mut stream, mut text, mut events) = (response.bytes_stream(), String::new(), Vec::new());
    loop {
        let Some(bytes) = tokio::time::timeout(LIMIT, stream.next()).await.context("nothing came")? else {
            return Ok(events);
        };
        text.push_str(&String::from_utf8_lossy(&bytes?));
        while let Some((block, rest)) = text.split_once("\n\n") {
            let event = parsed(block)?;
            text = rest.to_owned();
            if let Some(event) = event {
                let last = enough(&event);
                events.push(event);
                if last {
                    return Ok(events);
                }
            }
        }
    }
}

/// None for a comment, with an id or without.
fn parsed(block: &str) -> Result<Option<Event>> {
    let field = |name: &str| -> String {
        let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
    };
    if block.lines().all(|line| line.starts_with(':') || line.starts_with("id:") || line.is_empty()) {
        return Ok(None);
    }
    let data = field("data");
    let Ok(data) = serde_json::from_str(&data) else { bail!("{data:?} is no JSON in {block:?}") };
    Ok(Some(Event { name: field("event"), id: field("id"), data }))
}

fn states(events: &[Event]) -> Vec<&str> {
    events.iter().filter(|e| e.name == "state").filter_map(|e| e.data["state"].as_str()).collect()
}

#[tokio::test]
async fn a_jobs_events_end_with_its_end() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let options =
            json!({"countdown_ms": 300, "retry_backoff": {"initial_ms": 300, "max_ms": 300, "jitter": false}});
        let id = client.submit_with("flaky", json!([7, 1]), options).await?;
        let events = events(client, &format!("/v1/jobs/{id}/events"), None, |event| event.name == "end").await?;
        let last = events.last().context("no event")?;
        ensure!(last.name == "end" && last.data["state"] == "succeeded" && last.data["result"] == 7, "{last:?}");
        let states = states(&events);
        ensure!(states.contains(&"scheduled") && states.contains(&"retrying"), "{states:?}");
        ensure!(events.iter().all(|event| !event.id.is_empty()), "an event without an id: {events:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn log_lines_come_once_each_when_the_stream_is_taken_up_again() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push_over("policies").await?;
        let id = client.submit("chatty", json!([40, 25])).await?;
        let path = format!("/v1/jobs/{id}/events");
        let (mut lines, mut last) = (Vec::new(), None::<String>);
        loop {
            let mut seen = 0;
            // Broken off after five lines, each time.
            let events = events(client, &path, last.as_deref(), |event| {
                seen += usize::from(event.name == "log");
                seen == 5 || event.name == "end"
            })
            .await?;
            lines.extend(events.iter().filter(|e| e.name == "log").map(|e| e.data["message"].clone()));
            let event = events.last().context("the stream ended without an end")?;
            if event.name == "end" {
                break;
            }
            last = Some(event.id.clone());
        }
        let wanted: Vec<Value> = (0..40).map(|n| json!(format!("line {n}"))).collect();
        ensure!(lines == wanted, "{lines:?}");
        Ok(())
    })
    .await
}

/// One stream for all jobs of a tenant, broken off by its client and by a kill of the service.
#[tokio::test]
async fn the_changes_of_all_jobs_come_once_each_to_one_that_comes_back() -> Result<()> {
    on_both(&[], async |dev| {
        const PATH: &str = "/v1/events?task=ident";
        let first = open(&dev.client, PATH, None).await?;
        let mut ids = dev.client.batch((0..10).map(|n| json!({"task": "ident", "args": [n]}))).await?;
        let mut seen = 0;
        let mut told = read(first, |_| {
            seen += 1;
            seen == 7
        })
        .await?;
        for id in &ids {
            dev.client.ended(id, LIMIT).await?;
        }
        let last = told.last().context("an event")?.id.clone();
        dev.process.kill()?;
        dev.restart().await?;
        // What happened while nobody listened comes first, then what happens.
        let again = open(&dev.client, PATH, Some(&last)).await?;
        ids.push(dev.client.submit("ident", json!([10])).await?);
        dev.client.result("add", json!([1, 2])).await?;
        told.extend(
            read(again, |_| {
                seen += 1;
                seen == 33
            })
            .await?,
        );
        ensure!(told.iter().all(|event| event.name == "job" && event.data["task"] == "ident"), "{told:?}");
        let numbers = told.iter().map(|event| event.id.parse::<u64>()).collect::<Result<Vec<_>, _>>()?;
        ensure!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "ids do not rise: {numbers:?}");
        for id in &ids {
            let of = told.iter().filter(|event| event.data["job_id"] == *id);
            let states: Vec<_> = of.filter_map(|event| event.data["state"].as_str()).collect();
            ensure!(states == ["queued", "running", "succeeded"], "{id}: {states:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_task_says_what_it_is_doing() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push_over("policies").await?;
        let id = client.submit("stateful", json!([])).await?;
        let job = client.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["progress"]["state"].is_string(), "{job}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn callbacks_run_with_the_result_or_the_error() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let options = json!({"on_success": [{"task": "pair", "args": ["good"]}], "on_failure": [{"task": "ident"}]});
        let ran = async |task: &str, args: Value, callback: &str| -> Result<Value> {
            let job =
                client.post("/v1/jobs", &json!({"task": task, "args": args, "options": options})).await?.good()?;
            let workflow =
                job["workflow_id"].as_str().or(job["workflow"].as_str()).or(job["node"]["workflow"].as_str());
            let id = workflow.with_context(|| format!("a job without a workflow: {job}"))?.to_owned();
            client.workflow_over(&id, LIMIT).await?;
            let nodes = client.all_jobs_of(&id).await?;
            let node = nodes.iter().find(|node| node["task"] == callback && node["state"] == "succeeded");
            let node = node.with_context(|| format!("{callback} did not run: {nodes:?}"))?;
            Ok(client.job(node["job"].as_str().context("a job")?).await?["result"].clone())
        };
        let result = ran("add", json!([1, 2]), "pair").await?;
        ensure!(result == json!([3, "good"]) || result == json!(["good", 3]), "{result}");
        let error = ran("fail", json!(["boom"]), "ident").await?;
        ensure!(error.to_string().contains("boom"), "{error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_long_poll_answers_with_the_end() -> Result<()> {
    on_both(&[], async |dev| {
        let body = json!({"task": "nap", "args": [0.3]});
        let job = dev.client.post("/v1/jobs?wait=20s", &body).await?.good()?;
        ensure!(job["state"] == "succeeded", "{job}");
        Ok(())
    })
    .await
}
