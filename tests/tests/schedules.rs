//! Schedules fire once, whoever dies; what each of its policies and orders does; files and imports by the command line.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, on_both, time_ms, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts the task each second.
fn each_second(task: &str, args: &Value) -> Value {
    json!({"start": {"task": task, "args": args}, "when": {"every": "1s"}, "catch_up": "all", "overlap": "allow"})
}

async fn put(client: &Client, name: &str, definition: &Value) -> Result<Value> {
    client.put(&format!("/v1/schedules/{name}"), definition).await?.good()
}

async fn schedule(client: &Client, name: &str) -> Result<Value> {
    client.get(&format!("/v1/schedules/{name}")).await?.good()
}

async fn order(client: &Client, name: &str, what: &str) -> Result<Value> {
    client.post(&format!("/v1/schedules/{name}/{what}"), &json!({})).await?.good()
}

/// The history, oldest first.
async fn fires(client: &Client, name: &str) -> Result<Vec<Value>> {
    let page = client.get(&format!("/v1/schedules/{name}/fires?limit=100")).await?.good()?;
    let mut fires = page["items"].as_array().context("a history without items")?.clone();
    fires.reverse();
    Ok(fires)
}

/// Entries of one kind that are about a time of the schedule.
fn of<'a>(fires: &'a [Value], verdict: &str) -> Vec<&'a Value> {
    fires.iter().filter(|fire| fire["verdict"] == verdict && fire["by_hand"] != true).collect()
}

/// Waits until the history has so many entries of a kind, and returns it.
async fn has(client: &Client, name: &str, verdict: &str, count: usize) -> Result<Vec<Value>> {
    until(format!("{name} has {count} × {verdict}"), LIMIT, || async {
        let fires = fires(client, name).await?;
        Ok((of(&fires, verdict).len() >= count).then_some(fires))
    })
    .await
}

/// The nominal times, milliseconds.
fn nominal(fires: &[&Value]) -> Result<Vec<u64>> {
    fires.iter().map(|fire| time_ms(fire, "nominal_at")).collect()
}

/// Each second has one start, and each start a job of its own that succeeds.
async fn each_second_once(client: &Client, name: &str) -> Result<()> {
    let fires = fires(client, name).await?;
    let started = of(&fires, "started");
    for pair in nominal(&started)?.windows(2) {
        ensure!(pair[1] == pair[0] + 1_000, "{name}: {} follows {}: {fires:?}", pair[1], pair[0]);
    }
    let jobs: BTreeSet<&str> = started.iter().filter_map(|fire| fire["job"].as_str()).collect();
    ensure!(jobs.len() == started.len(), "{name}: a job is there twice, or missing: {fires:?}");
    for (job, fire) in started.iter().filter_map(|fire| Some((fire["job"].as_str()?, fire))) {
        let job = client.ended(job, LIMIT).await?;
        ensure!(job["state"] == "succeeded", "{job}");
        let of_schedule = &job["schedule"];
        ensure!(of_schedule["name"] == name && of_schedule["nominal_at"] == fire["nominal_at"], "{job}");
    }
    Ok(())
}

/// Celery's beat is one process: when it dies nothing fires any more, and a second one doubles everything.
#[tokio::test]
async fn a_schedule_fires_each_second_once_beside_two_servers_of_which_one_is_killed() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 2, &[]).await?;
    let (_second, client) = split.another_server().await?;
    client.push("numbers").await?;
    let names = ["a", "b", "c", "d", "e"];
    for (n, name) in names.iter().enumerate() {
        put(&client, name, &each_second("ident", &json!([n]))).await?;
    }
    for name in names {
        has(&client, name, "started", 3).await?;
    }
    split.server.kill()?;
    for name in names {
        has(&client, name, "started", 8).await?;
    }
    for name in names {
        order(&client, name, "pause").await?;
        each_second_once(&client, name).await?;
    }
    // The jobs that there are are those of the history.
    for name in names {
        let fires = fires(&client, name).await?;
        let jobs = client.jobs(&format!("header=schedule:{name}")).await?;
        ensure!(jobs.len() == of(&fires, "started").len(), "{name}: {} jobs, {fires:?}", jobs.len());
    }
    Ok(())
}

#[tokio::test]
async fn what_was_missed_while_all_was_down_is_caught_up_as_the_schedule_says() -> Result<()> {
    on_both(&[], async |dev| {
        put(&dev.client, "all", &each_second("ident", &json!([1]))).await?;
        let mut latest = each_second("ident", &json!([2]));
        latest["catch_up"] = json!("latest");
        put(&dev.client, "latest", &latest).await?;
        for name in ["all", "latest"] {
            has(&dev.client, name, "started", 1).await?;
        }
        dev.process.kill()?;
        // Nobody is there who could say that time has passed.
        let down = Instant::now();
        until("three seconds have passed", LIMIT, || async {
            Ok((down.elapsed() > Duration::from_secs(3)).then_some(()))
        })
        .await?;
        dev.restart().await?;
        let latest = has(&dev.client, "latest", "missed", 1).await?;
        let missed = of(&latest, "missed")[0];
        ensure!(missed["reason"].is_string() && missed["nominal_at"].is_string(), "{missed}");
        let before = of(&fires(&dev.client, "all").await?, "started").len();
        has(&dev.client, "all", "started", before + 3).await?;
        for name in ["all", "latest"] {
            order(&dev.client, name, "pause").await?;
        }
        each_second_once(&dev.client, "all").await?;
        // What the other one left out and what it started are all seconds, too.
        let fires = fires(&dev.client, "latest").await?;
        let mut next = None;
        for fire in fires.iter().filter(|fire| ["started", "missed"].iter().any(|verdict| fire["verdict"] == *verdict))
        {
            let first = time_ms(fire, "nominal_at")?;
            ensure!(next.is_none_or(|next| first == next), "{first} is not {next:?}: {fires:?}");
            let last = if fire["through"].is_string() { time_ms(fire, "through")? } else { first };
            next = Some(last + 1_000);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_paused_schedule_starts_nothing_but_by_hand_and_goes_on() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        put(client, "s", &each_second("ident", &json!([7]))).await?;
        has(client, "s", "started", 1).await?;
        let paused = client.post("/v1/schedules/s/pause", &json!({"reason": "a test"})).await?.good()?;
        ensure!(paused["state"] == "paused" && paused["paused"]["reason"] == "a test", "{paused}");
        let before = of(&fires(client, "s").await?, "started").len();
        // Two of its times pass meanwhile.
        let nap = client.run("nap", json!([2.5])).await?;
        ensure!(nap["state"] == "succeeded", "{nap}");
        let by_hand = order(client, "s", "run").await?;
        let job = client.ended(by_hand["id"].as_str().context("a job without an id")?, LIMIT).await?;
        ensure!(job["result"] == 7, "{job}");
        let fires = fires(client, "s").await?;
        ensure!(of(&fires, "started").len() == before, "{fires:?}");
        ensure!(fires.iter().any(|fire| fire["by_hand"] == true && fire["job"] == by_hand["id"]), "{fires:?}");
        let resumed = order(client, "s", "resume").await?;
        ensure!(resumed["state"] == "active" && resumed["paused"].is_null(), "{resumed}");
        let fires = has(client, "s", "started", before + 2).await?;
        // Without `keep_missed` the times of the pause are dropped, and the history says so.
        ensure!(!of(&fires, "missed").is_empty() && !of(&fires, "resumed").is_empty(), "{fires:?}");
        let skipped = order(client, "s", "skip").await?;
        let fires = has(client, "s", "skipped", 1).await?;
        ensure!(of(&fires, "skipped")[0]["nominal_at"] == skipped["skipped_at"], "{skipped}: {fires:?}");
        ensure!(client.delete("/v1/schedules/s").await?.status == 204);
        let gone = client.get("/v1/schedules/s").await?;
        ensure!((gone.status, gone.code().as_str()) == (404, "schedule_not_found"), "{}", gone.text);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn times_that_come_while_a_run_is_not_over_are_left_out_or_wait() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        for (name, overlap) in [("skips", "skip"), ("waits", "buffer_one")] {
            let mut nap = each_second("nap", &json!([1.6]));
            nap["overlap"] = json!(overlap);
            put(client, name, &nap).await?;
        }
        let skips = has(client, "skips", "skipped", 2).await?;
        let waits = has(client, "waits", "skipped", 2).await?;
        for (name, fires) in [("skips", skips), ("waits", waits)] {
            ensure!(client.delete(&format!("/v1/schedules/{name}")).await?.status == 204);
            let mut ended_before = 0;
            let started = of(&fires, "started");
            ensure!(started.len() >= 2, "{name}: {fires:?}");
            for fire in started {
                let job = client.ended(fire["job"].as_str().context("a start without a job")?, LIMIT).await?;
                ensure!(time_ms(&job, "started_at")? >= ended_before, "{name}: two at a time: {fires:?}");
                ended_before = time_ms(&job, "finished_at")?;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_task_that_is_missing_is_recorded_and_the_schedule_recovers_with_the_push() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let unknown = client.put("/v1/schedules/s", &each_second("no_such_task", &json!([]))).await?;
        ensure!(unknown.status == 404 || unknown.status == 422, "{}", unknown.text);
        put(client, "s", &each_second("ident", &json!([3]))).await?;
        has(client, "s", "started", 1).await?;
        client.delete("/v1/tasks/ident").await?.good()?;
        let fires = has(client, "s", "retrying", 1).await?;
        ensure!(of(&fires, "retrying")[0]["reason"].as_str().is_some_and(|why| why.contains("ident")), "{fires:?}");
        let shown = schedule(client, "s").await?;
        ensure!(shown["retry"]["error"].is_string(), "{shown}");
        let before = of(&fires, "started").len();
        client.push("numbers").await?;
        has(client, "s", "started", before + 2).await?;
        order(client, "s", "pause").await?;
        // It caught up with all of them: none is left out.
        each_second_once(client, "s").await
    })
    .await
}

#[tokio::test]
async fn a_change_of_the_arguments_keeps_the_pending_fire_and_the_same_again_changes_nothing() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let start =
            put(client, "clock", &json!({"start": {"task": "ident", "args": [0]}, "when": {"every": "1s"}})).await?;
        let now = time_ms(&start, "created_at")?;
        let at = umbel_tests::written(now + 5_000, 0);
        let once = |n: u32| json!({"start": {"task": "ident", "args": [n]}, "when": {"at": &at}});
        let first = put(client, "s", &once(1)).await?;
        let second = put(client, "s", &once(2)).await?;
        let same = put(client, "s", &once(2)).await?;
        ensure!(second["version"] == first["version"].as_u64().unwrap_or_default() + 1, "{first}, {second}");
        ensure!(same["version"] == second["version"] && same["next_at"] == first["next_at"], "{first}, {same}");
        let taken = client.request(reqwest::Method::PUT, "/v1/schedules/s").header("if-none-match", "*");
        ensure!(client.send(taken.json(&once(3))).await?.status == 412);
        let fires = has(client, "s", "started", 1).await?;
        let job = of(&fires, "started")[0]["job"].as_str().context("a start without a job")?;
        ensure!(client.ended(job, LIMIT).await?["result"] == 2);
        let over = schedule(client, "s").await?;
        ensure!(over["state"] == "finished" && over["next_at"].is_null(), "{over}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_workflow_is_started_at_its_times_and_by_a_backfill() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let canvas = json!({"chain": [{"task": "add", "args": [1, 2]}, {"task": "mul", "args": [4]}]});
        let hourly = json!({"start": {"canvas": canvas, "name": "sums"}, "when": {"cron": "0 * * * *"}});
        let stored = put(client, "s", &hourly).await?;
        let now = time_ms(&stored, "created_at")?;
        let range = |dry_run| {
            json!({"from": umbel_tests::written(now - 3 * 3_600_000, 0), "to": umbel_tests::written(now, 0), "pace_ms": 100, "dry_run": dry_run})
        };
        let plan = client.post("/v1/schedules/s/backfill", &range(true)).await?.good()?;
        ensure!(plan["id"].is_null() && plan["count"].as_u64().is_some_and(|count| (3..=4).contains(&count)), "{plan}");
        let begun = client.post("/v1/schedules/s/backfill", &range(false)).await?.good()?;
        let count = plan["count"].as_u64().and_then(|count| usize::try_from(count).ok()).context("a count")?;
        let fires = has(client, "s", "started", count).await?;
        for fire in of(&fires, "started") {
            ensure!(fire["backfill"] == begun["id"], "{fire}");
            let id = fire["workflow"].as_str().context("a start without a workflow")?;
            let over = until(format!("{id} is over"), LIMIT, || async {
                let workflow = client.get(&format!("/v1/workflows/{id}?wait=10s")).await?.good()?;
                Ok((workflow["state"] == "succeeded").then_some(workflow))
            })
            .await?;
            ensure!(over["result"] == 12, "{over}");
        }
        Ok(())
    })
    .await
}

fn says(dev: &Dev, arguments: &[&str], code: i32) -> Result<String> {
    let output = dev.umbel(arguments)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "{arguments:?}: {:?}\n{out}\n{err}", output.status);
    Ok(format!("{out}{err}"))
}

#[tokio::test]
async fn a_beat_schedule_is_imported_applied_and_pruned() -> Result<()> {
    let dev = Dev::start().await?;
    dev.client.push("numbers").await?;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (beat, toml) = (file("beat.py"), file("crm.toml"));
    fs::write(
        &beat,
        "from celery.schedules import crontab\n\
         app.conf.timezone = 'Europe/Berlin'\n\
         app.conf.beat_schedule = {\n\
             'every hour': {'task': 'ident', 'schedule': 60 * 60, 'args': (1,), 'options': {'queue': 'low'}},\n\
             'nightly': {'task': 'ident', 'schedule': crontab(hour=3, minute=0), 'args': ('x',)},\n\
             'computed': {'task': 'ident', 'schedule': load()},\n\
         }\n",
    )?;
    let told = says(&dev, &["schedule", "import", &beat, "--write", &toml], 1)?;
    ensure!(told.contains("line 6: computed is not taken over") && told.contains("import_incomplete"), "{told}");
    let diff = says(&dev, &["schedule", "apply", "-f", &toml, "--dry-run"], 6)?;
    ensure!(diff.contains("+ every-hour") && diff.contains("+ nightly: ") && diff.contains("2 new"), "{diff}");
    says(&dev, &["schedule", "apply", "-f", &toml], 0)?;
    let again = says(&dev, &["schedule", "apply", "-f", &toml, "--dry-run"], 0)?;
    ensure!(again.contains("2 unchanged"), "{again}");
    let nightly = schedule(&dev.client, "nightly").await?;
    ensure!(nightly["zone"] == "Europe/Berlin" && nightly["source"] == "file:crm", "{nightly}");

    says(&dev, &["schedule", "create", "by-hand", "ident", "5", "--every", "1 day"], 0)?;
    let taken = says(&dev, &["schedule", "create", "by-hand", "ident", "5", "--every", "1 day"], 6)?;
    ensure!(taken.contains("--replace"), "{taken}");
    let text = fs::read_to_string(&toml)?;
    let (first, _) = text.split_once("[schedules.nightly]").context("a table of its own")?;
    fs::write(&toml, first.replace("1h", "2h"))?;
    let diff = says(&dev, &["schedule", "apply", "-f", &toml, "--prune", "--dry-run"], 6)?;
    ensure!(diff.contains("~ every-hour") && diff.contains(r#""1h""#) && diff.contains(r#""2h""#), "{diff}");
    ensure!(diff.contains("- nightly") && !diff.contains("by-hand"), "{diff}");
    let without_yes = says(&dev, &["schedule", "apply", "-f", &toml, "--prune"], 2)?;
    ensure!(without_yes.contains("--yes"), "{without_yes}");
    says(&dev, &["schedule", "apply", "-f", &toml, "--prune", "--yes"], 0)?;
    let names = says(&dev, &["schedule", "list", "-o", "id"], 0)?;
    ensure!(names.split_whitespace().eq(["by-hand", "every-hour"]), "{names}");
    let next = says(&dev, &["schedule", "next", "by-hand", "-n", "2"], 0)?;
    ensure!(next.contains("LOCAL") && next.contains("+00:00"), "{next}");
    let missing = says(&dev, &["schedule", "show", "by-hnd"], 4)?;
    ensure!(missing.contains("by-hand"), "{missing}");
    let ran = says(&dev, &["schedule", "run", "by-hand", "--wait"], 0)?;
    ensure!(ran.lines().next() == Some("5"), "{ran}");
    Ok(())
}
