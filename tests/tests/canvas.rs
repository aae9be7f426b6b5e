//! Workflows over HTTP beyond their results: resumption with old and new code, deadlines, pictures, the limits of hostile
//! guests and of hostile canvases, and the examples of the README.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, case::reached, durable_redis, until, workflow::labelled};

const LIMIT: Duration = Duration::from_secs(90);
/// Generous: this runs in a debug build beside a flood.
const SLOWEST_ANSWER: Duration = Duration::from_secs(2);

async fn dev() -> Result<Dev> {
    let dev = Dev::start().await?;
    dev.client.push("numbers").await?;
    dev.client.push("cases").await?;
    Ok(dev)
}

#[tokio::test]
async fn a_workflow_is_resumed_over_http_with_the_old_and_with_the_new_code() -> Result<()> {
    let dev = dev().await?;
    let client = &dev.client;
    // `add` fails on a sum that is too large, `deploy` makes it another module's task.
    let canvas = json!({"chain": [
        {"task": "echo", "args": [1], "label": "kept"},
        {"task": "add", "args": [i64::MAX], "label": "fails"},
    ]});
    let id = client.submit_canvas(&canvas).await?;
    let failed = client.workflow_over(&id, LIMIT).await?;
    ensure!(failed["state"] == "failed" && failed["error"]["kind"] == "upstream_failed", "{failed}");
    let old = client.get("/v1/tasks/add").await?.good()?["digest"].clone();
    let mended = mended_numbers()?;
    client.upload(mended).await?.good()?;
    let new = client.get("/v1/tasks/add").await?.good()?["digest"].clone();
    ensure!(old != new, "the upload moved nothing");
    for (choice, digest) in [("pinned", &old), ("current", &new)] {
        let resumed = client.post(&format!("/v1/workflows/{id}/resume"), &json!({"digest": choice})).await?.good()?;
        let resumed = resumed["id"].as_str().context("no id")?.to_owned();
        let over = client.workflow_over(&resumed, LIMIT).await?;
        ensure!(over["resume_of"] == id.as_str() && over["state"] == "failed", "{over}");
        let nodes = client.nodes_of(&resumed).await?;
        ensure!(labelled(&nodes, "kept", &["succeeded"]) == 1 && nodes[0]["started_at"].is_null(), "{nodes:?}");
        let fails = nodes.iter().find(|node| node["label"] == "fails").context("no such node")?;
        let job = client.job(fails["job"].as_str().unwrap_or_default()).await?;
        ensure!(job["digest"] == *digest, "{choice}: it ran {}, not {digest}", job["digest"]);
    }
    let good = client.run_canvas(&json!({"task": "echo", "args": [1]})).await?;
    let path = format!("/v1/workflows/{}/resume", good["id"].as_str().unwrap_or_default());
    let refused = client.post(&path, &json!({})).await?;
    ensure!(refused.status == 409, "a workflow that succeeded was resumed");
    Ok(())
}

/// The same module with another digest: a custom section more, which runs nothing.
fn mended_numbers() -> Result<Vec<u8>> {
    let mut bytes = umbel_tests::guest("numbers")?;
    bytes.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    Ok(bytes)
}

#[tokio::test]
async fn what_is_not_over_at_its_deadline_expires_and_is_stopped() -> Result<()> {
    let dev = dev().await?;
    let canvas =
        json!({"chain": [{"task": "later", "args": [60.0], "label": "runs"}, {"task": "echo", "label": "waits"}]});
    let start = Instant::now();
    let id = dev.client.submit_workflow(&json!({"canvas": canvas, "deadline_ms": 1_500})).await?;
    let over = dev.client.workflow_over(&id, LIMIT).await?;
    ensure!(over["state"] == "expired", "{over}");
    ensure!(start.elapsed() < Duration::from_secs(45), "the job was not stopped: {:?}", start.elapsed());
    let nodes = dev.client.nodes_of(&id).await?;
    ensure!(labelled(&nodes, "waits", &["expired"]) == 1, "{nodes:?}");
    Ok(())
}

#[tokio::test]
async fn a_workflow_is_deleted_with_all_that_is_its_own_when_its_time_is_over() -> Result<()> {
    let dev = dev().await?;
    let canvas = json!({"group": [{"task": "become_step", "kwargs": {"canvas": {"task": "echo", "args": [1]}}}]});
    let id = dev.client.submit_workflow(&json!({"canvas": canvas, "keep_ms": 1_000})).await?;
    dev.client.workflow_over(&id, LIMIT).await?;
    let jobs = dev.client.all_jobs_of(&id).await?;
    ensure!(jobs.len() == 2, "{jobs:?}");
    for path in [format!("/v1/workflows/{id}"), job_path(&jobs[0])?, job_path(&jobs[1])?] {
        until(format!("{path} is gone"), LIMIT, || async {
            Ok((dev.client.get(&path).await?.status == 404).then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn job_path(node: &Value) -> Result<String> {
    Ok(format!("/v1/jobs/{}", node["job"].as_str().context("a node without a job")?))
}

#[tokio::test]
async fn a_picture_has_no_script_and_escapes_what_people_wrote() -> Result<()> {
    let dev = dev().await?;
    let label = "<script>alert('x')</script>\"&]]>";
    let members: Vec<Value> = (0..500).map(|_| json!({"task": "echo", "args": [1], "label": label})).collect();
    let name = "<img src=x onerror=alert(1)>";
    let body = json!({"canvas": {"chord": members, "body": {"task": "echo", "label": label}}, "name": name});
    let id = dev.client.submit_workflow(&body).await?;
    dev.client.workflow_over(&id, LIMIT).await?;
    let picture = dev.client.get(&format!("/v1/workflows/{id}/graph.svg")).await?;
    ensure!(picture.status == 200, "{}", picture.text);
    let header = |name: &str| picture.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    ensure!(header("content-type").starts_with("image/svg+xml"), "{:?}", picture.headers);
    ensure!(header("content-security-policy").contains("default-src 'none'"), "{:?}", picture.headers);
    ensure!(header("x-content-type-options") == "nosniff", "{:?}", picture.headers);
    let text = picture.text.to_lowercase();
    ensure!(text.starts_with("<svg") || text.starts_with("<?xml"), "{}", &text[..80.min(text.len())]);
    for forbidden in ["<script", "<img", "<foreignobject", "<!entity", "javascript:", "<a ", "<image", "<use"] {
        ensure!(!text.contains(forbidden), "the picture has {forbidden}");
    }
    ensure!(!text.contains("onerror=") || text.contains("&lt;img"), "the name is there and not escaped");
    ensure!(text.contains("&lt;script"), "the label is not there, escaped");
    ensure!(text.len() < 200_000, "500 members were drawn one by one: {} bytes", text.len());
    Ok(())
}

#[tokio::test]
async fn canvases_that_cannot_be_are_refused_with_their_place_and_leave_nothing() -> Result<()> {
    let dev = dev().await?;
    let mut deep = json!({"task": "echo", "args": [1]});
    for _ in 0..60 {
        deep = json!({"group": [deep]});
    }
    let wide: Vec<Value> = (0..2_000).map(|_| json!({"task": "echo", "chunks": vec![[1]; 200], "size": 1})).collect();
    let refused = [
        (json!({"task": "nobody", "args": [1]}), 404, "/canvas"),
        (json!({"chain": []}), 422, "/canvas"),
        (json!({"group": [{"task": "add", "args": [1, "x"]}]}), 422, "/canvas/group/0/args/1"),
        (
            json!({"chain": [{"task": "echo", "args": [1]}, {"task": "add", "args": [1, 2]}]}),
            422,
            "/canvas/chain/1/args",
        ),
        (json!({"task": "echo", "chain": []}), 422, "/canvas"),
        (
            json!({"task": "echo", "args": [1], "options": {"idempotency_key": "x"}}),
            422,
            "/canvas/options/idempotency_key",
        ),
        (json!({"task": "echo", "args": [1], "options": {"priority": 12}}), 422, "/canvas/options"),
        (json!({"task": "echo", "args": [1], "surprise": 1}), 422, "/canvas"),
        (deep, 422, "/canvas/group/0"),
        (json!({"group": wide}), 422, "/canvas/group"),
    ];
    for (canvas, status, pointer) in refused {
        let answer = dev.client.post("/v1/workflows", &json!({"canvas": canvas})).await?;
        let shown = canvas.to_string().chars().take(120).collect::<String>();
        let at = answer.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned();
        ensure!(answer.status == status, "{shown}: {} {}", answer.status, answer.text);
        ensure!(at.starts_with(pointer), "{shown}: the place is {at:?}, not {pointer}: {}", answer.text);
    }
    let all = dev.client.workflows("").await?;
    ensure!(all.is_empty(), "a refused canvas left something: {all:?}");
    Ok(())
}

/// While `work` runs the API answers.
async fn answers_meanwhile<T>(client: &Client, work: impl Future<Output = Result<T>>) -> Result<T> {
    let probe = async {
        let mut slowest = Duration::ZERO;
        loop {
            let start = Instant::now();
            let answer = client.get("/v1/queues").await?;
            ensure!(answer.status == 200, "the API answers {}: {}", answer.status, answer.text);
            slowest = slowest.max(start.elapsed());
            ensure!(slowest < SLOWEST_ANSWER, "the API took {slowest:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        done = work => done,
        stopped = probe => stopped,
    }
}

#[tokio::test]
async fn a_flood_of_submissions_is_refused_and_the_service_answers() -> Result<()> {
    let dev = dev().await?;
    let client = &dev.client;
    answers_meanwhile(client, async {
        let floods: Vec<Value> = (0..8).map(|_| json!({"task": "flood", "args": [null, 1_000_000]})).collect();
        let over = client.run_canvas(&json!({"group": floods})).await?;
        ensure!(over["state"] == "succeeded", "{over}");
        for flood in over["result"].as_array().into_iter().flatten() {
            let refused = flood["refused"].as_str().unwrap_or_default();
            ensure!(refused.starts_with("host_limit:"), "it was refused for {refused:?}");
            ensure!(flood["taken"].as_u64() <= Some(2_000), "{flood}");
        }
        client.result("add", json!([1, 2])).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn endless_replacement_ends_at_its_limit() -> Result<()> {
    let dev = dev().await?;
    let over = answers_meanwhile(&dev.client, dev.client.run_canvas(&json!({"task": "forever"}))).await?;
    ensure!(over["state"] == "failed", "{over}");
    ensure!(over["error"].to_string().contains("host_limit:canvas_depth"), "{over}");
    Ok(())
}

#[tokio::test]
async fn a_fan_out_of_a_guest_is_limited() -> Result<()> {
    let dev = dev().await?;
    let client = &dev.client;
    let wide = client.run_canvas(&json!({"task": "burst", "args": [1_900]})).await?;
    ensure!(
        wide["state"] == "succeeded" && wide["result"].as_array().map(Vec::len) == Some(1_900),
        "{}",
        wide["state"]
    );
    let too_wide = client.run_canvas(&json!({"task": "burst", "args": [5_000]})).await?;
    ensure!(too_wide["error"].to_string().contains("host_limit:canvas"), "{too_wide}");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_breeds_is_held_by_its_rate_and_can_be_cancelled() -> Result<()> {
    let redis = durable_redis();
    let dev = Dev::on(&redis.url()).await?;
    let client = &dev.client;
    client.push("numbers").await?;
    client.push("cases").await?;
    let id = client.submit_canvas(&json!({"task": "breed", "label": "first"})).await?;
    answers_meanwhile(client, async {
        // Some generations, then it is stopped from outside.
        tokio::time::sleep(Duration::from_secs(3)).await;
        client.post(&format!("/v1/workflows/{id}/cancel"), &json!({})).await?.good()?;
        let over = client.workflow_over(&id, LIMIT).await?;
        // It may have met its limit just before.
        ensure!(over["state"] == "revoked" || over["state"] == "failed", "{over}");
        client.result("add", json!([1, 2])).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cancelled_workflow_stops_what_runs_and_is_over_soon() -> Result<()> {
    let dev = dev().await?;
    let canvas = json!({"chord": [
        {"task": "later", "args": [60.0], "label": "runs"}, {"task": "echo", "args": [1]},
    ], "body": {"task": "total", "label": "waits"}});
    let id = dev.client.submit_canvas(&canvas).await?;
    reached(&dev.client, &id, "runs", &["running"]).await?;
    let start = Instant::now();
    dev.client.post(&format!("/v1/workflows/{id}/cancel"), &json!({})).await?.good()?;
    let over = dev.client.workflow_over(&id, LIMIT).await?;
    ensure!(over["state"] == "revoked" && start.elapsed() < Duration::from_secs(30), "{:?}: {over}", start.elapsed());
    let nodes = dev.client.nodes_of(&id).await?;
    ensure!(labelled(&nodes, "runs", &["revoked"]) == 1 && labelled(&nodes, "waits", &["revoked"]) == 1, "{nodes:?}");
    let jobs = dev.client.jobs(&format!("workflow={id}")).await?;
    ensure!(jobs.len() == 3, "the workflow's jobs are listed: {jobs:?}");
    Ok(())
}

#[tokio::test]
async fn a_submission_with_a_key_is_one_workflow_however_often_it_is_sent() -> Result<()> {
    let dev = dev().await?;
    let body = json!({"canvas": {"group": [{"task": "echo", "args": [1]}]}, "idempotency_key": "one"});
    let first = dev.client.submit_workflow(&body).await?;
    let again = dev.client.submit_workflow(&body).await?;
    ensure!(first == again, "{first} and {again}");
    let other = json!({"canvas": {"group": [{"task": "echo", "args": [2]}]}, "idempotency_key": "one"});
    let refused = dev.client.post("/v1/workflows", &other).await?;
    ensure!((refused.status, refused.code().as_str()) == (422, "idempotency_conflict"), "{}", refused.text);
    ensure!(dev.client.workflows("").await?.len() == 1, "more than one workflow");
    Ok(())
}
