//! Arguments and results over 64 KiB are stored in the module store, and come back unchanged.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::on_both;

const LIMIT: Duration = Duration::from_secs(60);

/// Large values that lie under a data folder; what says whose they are is none.
fn values(data: &Path) -> Result<usize> {
    let mut count = 0;
    let mut open = vec![data.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let is_value = path.components().any(|part| part.as_os_str() == "values") && !path.ends_with("OWNER");
                count += usize::from(is_value);
            }
        }
    }
    Ok(count)
}

#[tokio::test]
async fn large_arguments_and_results_come_back_whole_and_go_with_their_job() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let large = "ä".repeat(150_000);
        let id = client.submit("ident", json!([large])).await?;
        let job = client.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "succeeded", "{}", job["error"]);
        let result = client.get(&format!("/v1/jobs/{id}/result")).await?;
        ensure!(result.status == 200 && result.json() == json!(large), "{} bytes", result.text.len());
        ensure!(values(&dev.data)? >= 2, "it is not in the module store");
        ensure!(client.delete(&format!("/v1/jobs/{id}")).await?.status == 204);
        ensure!(values(&dev.data)? == 0, "something is left of a forgotten job");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_large_result_passes_through_a_chain_and_a_chord() -> Result<()> {
    on_both(&[], async |dev| {
        dev.client.push("cases").await?;
        let large = "x".repeat(200_000);
        let chain = json!({"chain": [{"task": "echo", "args": [large]}, {"task": "plus", "args": ["!"]}]});
        let workflow = dev.client.run_canvas(&chain).await?;
        ensure!(workflow["state"] == "succeeded", "{}", workflow["error"]);
        let nodes = dev.client.nodes_of(workflow["id"].as_str().context("an id")?).await?;
        let last = nodes.iter().rev().find_map(|node| node["job"].as_str()).context("a job")?;
        let result = dev.client.get(&format!("/v1/jobs/{last}/result")).await?;
        let joined = result.json().as_str().map(str::len);
        ensure!(joined == Some(200_001), "{joined:?}");
        let member = json!({"task": "echo", "args": [large]});
        let chord = json!({"chord": [member, member], "body": {"task": "echo", "label": "body"}});
        let workflow = dev.client.run_canvas(&chord).await?;
        ensure!(workflow["state"] == "succeeded", "{}", workflow["error"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_redriven_job_has_its_own_large_arguments() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let large = "m".repeat(100_000);
        let id = client.submit("fail", json!([large])).await?;
        ensure!(client.ended(&id, LIMIT).await?["state"] == "failed");
        let again = client.post(&format!("/v1/dead/{id}/redrive"), &json!({})).await?.good()?;
        let again = again["id"].as_str().context("an id")?.to_owned();
        let job = client.ended(&again, LIMIT).await?;
        ensure!(job["error"]["kind"] == "Failed", "{}", job["error"]);
        client.delete(&format!("/v1/jobs/{id}")).await?;
        let job = client.job(&again).await?;
        ensure!(job["state"] == "failed", "{}", job["state"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_value_beyond_the_cap_is_a_clear_error_and_a_reference_cannot_be_forged() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let body = json!({"task": "ident", "args": ["x".repeat(40 << 20)]});
        let refused = client.post("/v1/jobs", &body).await?;
        ensure!(matches!(refused.status, 413 | 422), "{}: {}", refused.status, refused.text);
        let forged = json!({"$umbel:stored": {"sha256": "00", "bytes": 1, "of": "01M82B9KS4DFV9DEXTA06589KP"}});
        let result = client.result("ident", json!([forged])).await?;
        ensure!(result == forged, "what a guest returns comes back as it was: {result}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_raw_result_is_there_when_the_job_has_one() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let good = client.submit("add", json!([1, 2])).await?;
        let bad = client.submit("fail", json!([1])).await?;
        let waiting = client.submit_with("add", json!([1, 2]), json!({"countdown_ms": 60_000})).await?;
        client.ended(&good, LIMIT).await?;
        client.ended(&bad, LIMIT).await?;
        let result = async |id: &str| -> Result<(u16, Value)> {
            let answer = client.get(&format!("/v1/jobs/{id}/result")).await?;
            Ok((answer.status, answer.json()))
        };
        assert_eq!(result(&good).await?, (200, json!(3)));
        for id in [&bad, &waiting] {
            let (status, problem) = result(id).await?;
            ensure!(matches!(status, 404 | 409), "{status}: {problem}");
        }
        Ok(())
    })
    .await
}
