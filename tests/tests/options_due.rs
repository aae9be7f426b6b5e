//! Due jobs: a process that moves them may die or run twice, and a time is an instant in every time zone.
//!
//! What makes Celery's beat a risk can happen to delayed jobs and retries, too. Periodic schedules are in `schedules.rs`.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, DevOptions, Split, durable_redis, next_sunday_from, on_both, time_ms, until, written};

const LIMIT: Duration = Duration::from_secs(60);
/// Long enough to submit, and to kill somebody, before it is over.
const DELAY_MS: u64 = 6_000;
/// How much later than it was due a job may begin on a busy machine; for somebody who is dead it would wait for ever.
const LATE_MS: u64 = 20_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The longest that a job can be delayed is a year.
const FARTHEST_MS: u64 = 364 * DAY_MS;

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?)
}

fn delayed(n: u64, countdown_ms: u64) -> Value {
    json!({"task": "ident", "args": [n], "options": {"countdown_ms": countdown_ms}})
}

/// Jobs that are delayed, and jobs that failed once and wait for their retry. Returns their ids once they all wait.
async fn waiting(client: &Client, jobs: u64) -> Result<(Vec<String>, Vec<String>)> {
    let backoff = json!({"initial_ms": DELAY_MS, "max_ms": DELAY_MS, "jitter": false});
    let retried = |n: u64| json!({"task": "flaky", "args": [n, 1], "options": {"retry_backoff": backoff}});
    let retried = client.batch((0..jobs).map(retried)).await?;
    let delayed = client.batch((0..jobs).map(|n| delayed(n, DELAY_MS))).await?;
    until("all wait for their time", LIMIT, || async {
        let queues = client.get("/v1/queues").await?.good()?;
        Ok((queues["items"][0]["delayed"] == 2 * jobs).then_some(()))
    })
    .await?;
    Ok((delayed, retried))
}

/// Each ran once when it was due, and none waited for who is dead. Returns how late the last one was.
async fn each_ran_once(client: &Client, delayed: &[String], retried: &[String], wait_ms: u64) -> Result<u64> {
    let mut latest = 0;
    let ids = delayed.iter().map(|id| (id, &["succeeded"][..]));
    for (id, wanted) in ids.chain(retried.iter().map(|id| (id, &["error", "succeeded"][..]))) {
        let job = client.ended(id, LIMIT).await?;
        let outcomes: Vec<_> = job["history"].as_array().into_iter().flatten().map(|r| r["outcome"].as_str()).collect();
        ensure!(outcomes == wanted.iter().map(|&outcome| Some(outcome)).collect::<Vec<_>>(), "{job}");
        ensure!(job["deliveries"] == 1 && job["retries"] == wanted.len() - 1, "{job}");
        let waited = time_ms(&job, "started_at")?.checked_sub(time_ms(&job, "created_at")? + wait_ms);
        latest = latest.max(waited.with_context(|| format!("before it was due: {job}"))?);
    }
    ensure!(latest < LATE_MS, "one began {latest} ms after it was due");
    Ok(latest)
}

/// Celery's beat is one process: when it dies nothing is due any more, and a second one doubles everything.
#[tokio::test]
async fn jobs_that_are_due_run_once_beside_two_servers_of_which_one_is_killed() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 2, &[]).await?;
    let (_second, client) = split.another_server().await?;
    client.push("numbers").await?;
    // Both move what is due.
    let both = client.batch((0..200).map(|n| delayed(n, 300))).await?;
    each_ran_once(&client, &both, &[], 300).await?;
    let (delayed, retried) = waiting(&client, 100).await?;
    split.server.kill()?;
    let queues = client.get("/v1/queues").await?.good()?;
    ensure!(queues["items"][0]["delayed"] == 200, "the server was killed too late: {queues}");
    let late = each_ran_once(&client, &delayed, &retried, DELAY_MS).await?;
    println!("the last job began {late} ms after it was due");
    Ok(())
}

#[tokio::test]
async fn jobs_that_are_due_run_once_when_the_only_process_is_killed_before() -> Result<()> {
    on_both(&[], async |dev| {
        let (delayed, retried) = waiting(&dev.client, 50).await?;
        dev.process.kill()?;
        dev.restart().await?;
        each_ran_once(&dev.client, &delayed, &retried, DELAY_MS).await?;
        Ok(())
    })
    .await
}

/// Celery mixes times with and without zones: jobs run an hour late, twice, or never when the clocks change.
#[tokio::test]
async fn a_time_is_the_same_instant_whatever_the_zone_of_the_server() -> Result<()> {
    let redis = durable_redis();
    // Where clocks are set back on the first Sunday from this day; a local time that is there twice, its two offsets.
    let zones = [
        ("Europe/Berlin", (10, 25), 150, [120, 60], None),
        ("America/New_York", (11, 1), 90, [-240, -300], Some(redis.url())),
        ("Australia/Lord_Howe", (4, 1), 105, [660, 630], None),
    ];
    let now = now_ms()?;
    for (zone, _, _, _, broker) in &zones {
        let environment = vec![("TZ".to_owned(), (*zone).to_owned())];
        let dev = Dev::with(DevOptions { broker: broker.clone(), environment, ..DevOptions::default() }).await?;
        dev.client.push("numbers").await?;
        for (of, (month, day), minutes, offsets, _) in &zones {
            let midnight = next_sunday_from(*month, *day, now + DAY_MS);
            let twice = offsets.map(|offset| (midnight as i64 + (minutes - offset) * 60_000, offset));
            if twice[1].0 as u64 > now + FARTHEST_MS {
                println!("{of}: next year's change is too far away");
                continue;
            }
            let mut due = Vec::new();
            for (at, offset) in twice {
                let eta = written(at as u64, offset);
                let id = dev.client.submit_with("ident", json!([1]), json!({"eta": eta})).await?;
                let job = dev.client.job(&id).await?;
                ensure!(job["state"] == "scheduled" && time_ms(&job, "due_at")? == at as u64, "{eta} in {zone}: {job}");
                let shown = dev.command(&["job", "show", &id, "-o", "json"])?.env("TZ", zone).output()?;
                let shown: Value = serde_json::from_slice(&shown.stdout)?;
                ensure!(shown["due_at"] == job["due_at"], "{eta} in {zone}: {shown}");
                due.push((eta, at));
            }
            let local = |n: usize| &due[n].0[..19];
            ensure!(local(0) == local(1), "it is not the hour that is there twice: {due:?}");
            ensure!(due[1].1 - due[0].1 == (offsets[0] - offsets[1]) * 60_000, "{due:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_time_without_an_offset_is_refused_and_one_with_an_odd_offset_is_kept_to() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let local = written(now_ms()? + HOUR_MS, 0);
        let local = &local[..19];
        for option in ["eta", "expires_at"] {
            for text in [local.to_owned(), format!("{local}[Europe/Berlin]"), format!("{local} CET")] {
                let answer =
                    client.post("/v1/jobs", &json!({"task": "ident", "args": [1], "options": {option: text}})).await?;
                ensure!(answer.status == 422 && answer.code() == "invalid_option", "{text}: {}", answer.text);
                ensure!(answer.text.contains(option) && answer.text.contains("RFC 3339"), "{}", answer.text);
            }
        }
        let soon = now_ms()? + 1_500;
        let line = |offset| json!({"task": "ident", "args": [offset], "options": {"eta": written(soon, offset)}});
        for id in client.batch([345, -570, 840].into_iter().map(line)).await? {
            let job = client.ended(&id, LIMIT).await?;
            let started = time_ms(&job, "started_at")?;
            ensure!((soon..soon + LATE_MS).contains(&started), "{soon}: {job}");
        }
        Ok(())
    })
    .await
}
