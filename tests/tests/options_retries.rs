//! Retries: how many, of what, when, and with how much fuel; every attempt is in the history.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Split, durable_redis, on_both, proxy::Proxy, time_ms, until};

const LIMIT: Duration = Duration::from_secs(60);

fn outcomes(job: &Value) -> Vec<&str> {
    job["history"].as_array().into_iter().flatten().filter_map(|record| record["outcome"].as_str()).collect()
}

#[tokio::test]
async fn each_attempt_is_in_the_history_with_what_it_took() -> Result<()> {
    on_both(&[], async |dev| {
        let backoff = json!({"initial_ms": 50, "max_ms": 60, "jitter": false});
        let id = dev.client.submit_with("flaky", json!([7, 2]), json!({"retry_backoff": backoff})).await?;
        let job = dev.client.ended(&id, LIMIT).await?;
        assert_eq!((&job["state"], &job["result"], &job["retries"]), (&json!("succeeded"), &json!(7), &json!(2)));
        assert_eq!(outcomes(&job), ["error", "error", "succeeded"]);
        for record in job["history"].as_array().into_iter().flatten().take(2) {
            ensure!(record["error"]["kind"] == "Flaky" && record["error"]["message"].is_string(), "{record}");
            ensure!(record["worker"].is_string() && record["fuel"].as_u64() > Some(0), "{record}");
            ensure!(record["memory_bytes"].as_u64() > Some(0) && record["duration_us"].as_u64() > Some(0), "{record}");
        }
        // A delay of 50 ms and one of 60, by the broker's clock.
        ensure!(time_ms(&job, "finished_at")? >= time_ms(&job, "created_at")? + 110, "{job}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn max_retries_is_the_number_of_retries_and_none_of_a_kind_that_is_not_named() -> Result<()> {
    on_both(&[], async |dev| {
        let options = json!({"max_retries": 2, "retry_backoff": {"initial_ms": 1, "max_ms": 1}});
        let id = dev.client.submit_with("flaky", json!([1, 50]), options).await?;
        let job = dev.client.ended(&id, LIMIT).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("Flaky")), "{job}");
        assert_eq!(outcomes(&job), ["error"; 3]);
        for options in [json!({"dont_retry_on": ["Fla*"]}), json!({"retry_on": ["Timeout", "Unavailable"]})] {
            let id = dev.client.submit_with("flaky", json!([1, 50]), options).await?;
            let job = dev.client.ended(&id, LIMIT).await?;
            ensure!(job["state"] == "failed" && job["retries"] == 0, "{job}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failure_that_its_task_expects_is_no_alarm_and_has_no_frames() -> Result<()> {
    on_both(&["--log-level", "info"], async |dev| {
        dev.client.push("hostile").await?;
        let mut ids = Vec::new();
        for options in [json!({}), json!({"throws": ["trap:*"]})] {
            let id = dev.client.submit_with("panic", json!([]), options).await?;
            let job = dev.client.ended(&id, LIMIT).await?;
            ensure!(job["state"] == "failed" && job["error"]["kind"] == "panic" && job["retries"] == 0, "{job}");
            ids.push((id, job));
        }
        let frames = |of: &Value| of["error"]["frames"].as_array().map_or(0, Vec::len);
        let [(alarm, plain), (expected, quiet)] = &ids[..] else { anyhow::bail!("two jobs") };
        ensure!(frames(plain) > 0 && frames(&plain["history"][0]) > 0, "a trap has frames: {plain}");
        ensure!(frames(quiet) == 0 && frames(&quiet["history"][0]) == 0, "{quiet}");
        dev.process.terminate(LIMIT).await?;
        let log = dev.process.output();
        let line = |id: &str| log.lines().find(|line| line.contains(id) && line.contains("failed")).unwrap_or_default();
        ensure!(line(alarm).contains("WARN"), "no alarm: {log}");
        ensure!(line(expected).contains("INFO") && !line(expected).contains("WARN"), "{}", line(expected));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_deadline_is_retried_only_when_it_is_named() -> Result<()> {
    on_both(&[], async |dev| {
        let mut options =
            json!({"time_limit_ms": 100, "max_retries": 1, "retry_backoff": {"initial_ms": 1, "max_ms": 1}});
        for (named, retries) in [(json!([]), 0), (json!(["*"]), 0), (json!(["deadline"]), 1)] {
            options["retry_on"] = named;
            let id = dev.client.submit_with("nap", json!([30.0]), options.clone()).await?;
            let job = dev.client.ended(&id, LIMIT).await?;
            assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("deadline")), "{job}");
            ensure!(job["retries"] == retries, "{options}: {job}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_that_ran_out_of_fuel_gets_more_when_its_policy_says_so() -> Result<()> {
    on_both(&[], async |dev| {
        let mut options =
            json!({"fuel": 100_000, "retry_on": ["out_of_fuel"], "retry_backoff": {"initial_ms": 1, "max_ms": 1}});
        let id = dev.client.submit_with("fib", json!([20]), options.clone()).await?;
        let job = dev.client.ended(&id, LIMIT).await?;
        ensure!(job["error"]["kind"] == "out_of_fuel" && job["retries"] == 0, "the same again is of no use: {job}");
        options["retry_fuel_factor"] = 10.into();
        let id = dev.client.submit_with("fib", json!([20]), options).await?;
        let job = dev.client.ended(&id, LIMIT).await?;
        assert_eq!((&job["state"], &job["result"]), (&json!("succeeded"), &json!(6_765)), "{job}");
        ensure!(job["retries"].as_u64() > Some(0), "{job}");
        Ok(())
    })
    .await
}

/// Celery's retry is a second publish that can fail; here it is a change of state that is fenced: lost replies, repeated
/// settles and claims whose answer nobody heard cost no retry, and give none.
#[tokio::test]
async fn retries_are_exact_while_replies_of_the_broker_are_lost() -> Result<()> {
    let redis = durable_redis();
    let proxy = Proxy::start(redis.port()).await?;
    let mut split = Split::start(&redis.url(), 0, &[]).await?;
    split.client.push("numbers").await?;
    split.add_worker_by(&proxy.redis_url(), &["--lease", "2s", "--concurrency", "8"])?;
    let options = json!({"max_deliveries": 100, "retry_backoff": {"initial_ms": 20, "max_ms": 100}});
    let line = |n: u64| json!({"task": "flaky", "args": [n, n % 4], "options": options});
    let ids = split.client.batch((0..600).map(line)).await?;
    // Not each of them, or nothing would ever be done.
    let mut looks = 0;
    until("nothing is left", LIMIT, || {
        looks += 1;
        if looks % 5 == 1 {
            proxy.lose_reply();
        }
        async { Ok((split.client.unfinished().await? == 0).then_some(())) }
    })
    .await?;
    proxy.heal();
    println!("{} replies were lost", proxy.replies_lost());
    ensure!(proxy.replies_lost() > 0, "no reply was lost");
    for (n, id) in (0_u64..).zip(&ids) {
        let job = split.client.job(id).await?;
        let mut wanted = vec!["error"; (n % 4) as usize];
        wanted.push("succeeded");
        // A claim whose reply was lost is a delivery that was, and in the history too.
        let settled: Vec<&str> = outcomes(&job).into_iter().filter(|outcome| *outcome != "lost").collect();
        ensure!(job["result"] == n && job["retries"] == n % 4 && settled == wanted, "{job}");
    }
    Ok(())
}
