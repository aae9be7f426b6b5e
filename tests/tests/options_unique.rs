//! Uniqueness: one job for many submissions, by idempotency key or by what the jobs are.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use umbel_tests::{Client, on_both, time_ms};

const LIMIT: Duration = Duration::from_secs(60);

fn id_of(answer: &Value) -> Result<String> {
    Ok(answer["id"].as_str().with_context(|| format!("no id: {answer}"))?.to_owned())
}

async fn hold(client: &Client) -> Result<()> {
    client.result("ident", json!([0])).await?;
    client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
    Ok(())
}

async fn go(client: &Client) -> Result<()> {
    client.post("/v1/queues/default/resume", &json!({})).await?.good()?;
    Ok(())
}

/// Celery has no unique jobs; what is built around it looks first and submits then, which races.
#[tokio::test]
async fn of_many_submissions_at_once_one_job_is_made_and_all_are_told_which() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        hold(client).await?;
        let submit = |x: i64| {
            let body = json!({"task": "add", "args": [x, 2], "options": {"unique": "first"}});
            async move { client.post("/v1/jobs", &body).await }
        };
        let answers = try_join_all((0..20).map(|_| submit(1))).await?;
        let mut ids = BTreeSet::new();
        let mut duplicates = 0;
        for answer in &answers {
            duplicates += usize::from(answer.headers.get("umbel-unique").is_some_and(|told| told == "duplicate"));
            ids.insert(id_of(&answer.good()?)?);
        }
        ensure!(ids.len() == 1 && duplicates == 19, "{} jobs, {duplicates} duplicates", ids.len());
        let other = id_of(&submit(5).await?.good()?)?;
        ensure!(!ids.contains(&other), "other arguments are another job");
        go(client).await?;
        let first = ids.into_iter().next().context("a job")?;
        ensure!(client.ended(&first, LIMIT).await?["result"] == 3);
        let again = id_of(&submit(1).await?.good()?)?;
        ensure!(again != first, "it has ended, so there may be another");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn unique_by_some_arguments_for_a_period() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let submit = |x: i64, y: i64| {
            let options = json!({"unique": "first", "unique_by": ["kwargs.x"], "unique_for_ms": 60_000});
            let body = json!({"task": "add", "kwargs": {"x": x, "y": y}, "options": options});
            async move { id_of(&client.post("/v1/jobs", &body).await?.good()?) }
        };
        let first = submit(1, 2).await?;
        client.ended(&first, LIMIT).await?;
        ensure!(submit(1, 3).await? == first, "it has ended, but its period has not");
        ensure!(submit(2, 3).await? != first);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_latest_of_a_burst_runs_once_it_is_quiet_and_the_others_are_superseded() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let options = json!({"debounce_ms": 1_000, "unique_by": ["kwargs.x"]});
        let mut ids = Vec::new();
        for y in 0..5 {
            let body = json!({"task": "add", "kwargs": {"x": 1, "y": y}, "options": options});
            ids.push(client.submit_body(&body).await?);
        }
        let last = ids.pop().context("five jobs")?;
        let job = client.ended(&last, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["result"] == 5, "{job}");
        ensure!(time_ms(&job, "started_at")? >= time_ms(&job, "created_at")? + 1_000, "it did not wait: {job}");
        for id in &ids {
            let job = client.ended(id, LIMIT).await?;
            ensure!(job["state"] == "revoked" && job["error"]["kind"] == "superseded", "{job}");
            ensure!(job["started_at"].is_null(), "{job}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_idempotency_key_answers_with_its_job_and_refuses_another_body_also_after_a_crash() -> Result<()> {
    on_both(&[], async |dev| {
        let body = json!({"task": "add", "args": [1, 2]});
        let first = {
            let request = dev.client.request(Method::POST, "/v1/jobs").header("idempotency-key", "k").json(&body);
            id_of(&dev.client.send(request).await?.good()?)?
        };
        dev.process.kill()?;
        dev.restart().await?;
        let send = |body: Value| {
            let request = dev.client.request(Method::POST, "/v1/jobs").header("idempotency-key", "k").json(&body);
            dev.client.send(request)
        };
        ensure!(id_of(&send(body).await?.good()?)? == first);
        let answer = send(json!({"task": "add", "args": [1, 3]})).await?;
        assert_eq!((answer.status, answer.code().as_str()), (422, "idempotency_conflict"), "{}", answer.text);
        Ok(())
    })
    .await
}
