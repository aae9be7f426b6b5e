//! Routing: which queue a job goes to, and in which order a worker serves its queues.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, on_both, time_ms};

const LIMIT: Duration = Duration::from_secs(60);

/// Jobs that lie in these queues in turn before the worker sees the first of them, so many in each.
async fn lying(client: &Client, queues: &[&str], each: usize, seconds: f64) -> Result<Vec<String>> {
    client.patch("/v1/tenant", &json!({"paused": true})).await?.good()?;
    let line = |n: usize| json!({"task": "nap", "args": [seconds], "options": {"queue": queues[n % queues.len()]}});
    let ids = client.batch((0..queues.len() * each).map(line)).await?;
    client.patch("/v1/tenant", &json!({"paused": false})).await?.good()?;
    Ok(ids)
}

/// The queues of these jobs in the order in which they were started.
async fn in_order(client: &Client, ids: impl Iterator<Item = &String>) -> Result<Vec<String>> {
    let mut starts = Vec::new();
    for id in ids {
        let job = client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded", "{job}");
        starts.push((time_ms(&job, "started_at")?, job["queue"].as_str().context("a queue")?.to_owned()));
    }
    starts.sort();
    Ok(starts.into_iter().map(|(_, queue)| queue).collect())
}

#[tokio::test]
async fn queues_are_served_in_strict_order_or_not_at_all() -> Result<()> {
    let arguments = ["-Q", "high,low", "--strict", "--exclude", "out", "--concurrency", "1"];
    on_both(&arguments, async |dev| {
        let ids = lying(&dev.client, &["low", "high", "out"], 40, 0.002).await?;
        let served = ids.iter().enumerate().filter(|(n, _)| n % 3 != 2).map(|(_, id)| id);
        let order = in_order(&dev.client, served).await?;
        let wanted = [vec!["high"; 40], vec!["low"; 40]].concat();
        ensure!(order == wanted, "a job of the low queue came before one of the high queue: {order:?}");
        ensure!(dev.client.jobs("queue=out&state=queued").await?.len() == 40, "an excluded queue was served");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn queues_with_weights_are_served_as_often_as_their_weights_say() -> Result<()> {
    on_both(&["--queue-weights", "often=3,seldom=1", "--concurrency", "1"], async |dev| {
        let ids = lying(&dev.client, &["seldom", "often"], 30, 0.04).await?;
        let order = in_order(&dev.client, ids.iter()).await?;
        // While both have jobs: three of four are of the one, a few more or less for what is claimed ahead.
        let often = order[..40].iter().filter(|queue| *queue == "often").count();
        ensure!((27..=30).contains(&often), "{often} of the first 40: {order:?}");
        let first = order[..20].iter().filter(|queue| *queue == "often").count();
        ensure!((12..=18).contains(&first), "{first} of the first 20: {order:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn routes_choose_the_queue_by_name_glob_and_regex_and_the_call_wins() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let routes = json!({"routes": [
            {"match": "add", "kind": "name", "queue": "sums"},
            {"match": "add*", "kind": "glob", "queue": "globbed"},
            {"match": "^(mul|tot.*)$", "kind": "regex", "queue": "numbers"},
            {"match": "mul", "kind": "name", "queue": "too-late"},
        ]});
        client.put("/v1/routes", &routes).await?.good()?;
        let queue_of = async |task: &str, args: Value, options: Value| -> Result<String> {
            let id = client.submit_with(task, args, options).await?;
            let job = client.ended(&id, LIMIT).await?;
            ensure!(job["state"] == "succeeded", "{job}");
            Ok(job["queue"].as_str().context("a queue")?.to_owned())
        };
        for (task, args, queue) in [
            ("add", json!([1, 2]), "sums"),
            ("add_to_all", json!([[1], 2]), "globbed"),
            ("mul", json!([2, 3]), "numbers"),
            ("total", json!([[1, 2]]), "numbers"),
            ("ident", json!([1]), "default"),
        ] {
            ensure!(queue_of(task, args.clone(), json!({})).await? == queue, "{task} does not go to {queue}");
            ensure!(
                queue_of(task, args, json!({"queue": "mine"})).await? == "mine",
                "a route won over the call of {task}"
            );
        }
        let batch = client.batch([json!({"task": "mul", "args": [2, 3]})].into_iter()).await?;
        ensure!(client.ended(&batch[0], LIMIT).await?["queue"] == "numbers", "a batch is routed as well");
        Ok(())
    })
    .await
}
