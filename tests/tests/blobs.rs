//! Blobs through the whole service on both brokers: put, run, get; what a failed, killed or flooding attempt leaves; other tenants;
//! and a large blob in a worker whose memory stays small.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, on_both, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Puts a blob and returns its digest.
async fn put(client: &Client, bytes: impl Into<Vec<u8>>) -> Result<String> {
    let request = client.request(Method::PUT, "/v1/blobs").header("content-type", "text/csv").body(bytes.into());
    let blob = client.send(request).await?.good()?;
    Ok(blob["digest"].as_str().context("a blob has a digest")?.to_owned())
}

fn reference(digest: &str) -> Value {
    json!({ "$blob": digest })
}

async fn bytes(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let response = client.request(Method::GET, &format!("/v1/blobs/{digest}")).send().await?;
    ensure!(response.status() == StatusCode::OK, "{}: {}", response.status(), response.text().await?);
    Ok(response.bytes().await?.to_vec())
}

async fn digests(client: &Client) -> Result<Vec<String>> {
    let page = client.get("/v1/blobs?limit=200").await?.good()?;
    let items = page["items"].as_array().context("items")?;
    Ok(items.iter().filter_map(|item| item["digest"].as_str().map(str::to_owned)).collect())
}

/// Files below a folder of the data, in which nothing may be left.
fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// A folder of the store. The store deletes a folder that becomes empty, so it looks that the store itself is there: whoever counts
/// files that may not be there must not count those of a place that never was.
fn folder(data: &Path, name: &str) -> std::path::PathBuf {
    let store = data.join("modules");
    assert!(store.is_dir() && !data.join(name).exists(), "the store is not {}", store.display());
    store.join(name)
}

async fn until_no_copies(data: &Path) -> Result<()> {
    until("no copy is left", LIMIT, || async { Ok((files(&folder(data, "blob-uploads")) == 0).then_some(())) }).await
}

#[tokio::test]
async fn a_csv_file_is_imported_in_a_stream_and_its_report_is_a_blob_again() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let mut csv = String::from("id,name\n");
        for n in 0..1_000 {
            csv.push_str(&if n % 100 == 7 { format!("{n}\n") } else { format!("{n},\"name, {n}\"\n") });
        }
        let file = put(client, csv.clone()).await?;
        ensure!(put(client, csv.clone()).await? == file, "the same bytes are one blob");
        let done = client.result("import", json!([reference(&file)])).await?;
        assert_eq!((&done["rows"], &done["skipped"]), (&json!(990), &json!(10)));
        let report = done["report"]["$blob"].as_str().context("a report")?;
        let text = String::from_utf8(bytes(client, report).await?)?;
        ensure!(text.starts_with("line,problem\n9,1 fields instead of 2\n"), "{text}");
        let row = client.get("/v1/kv/rows/42").await?.good()?;
        assert_eq!(row["name"], "name, 42");
        // Both are referred to by the job, and can be deleted with it.
        for digest in [file.as_str(), report] {
            let refused = client.delete(&format!("/v1/blobs/{digest}")).await?;
            assert_eq!((refused.status, refused.code()), (409, "blob_in_use".into()));
        }
        let job = client.jobs("task=import").await?.remove(0);
        client.delete(&format!("/v1/jobs/{}", job["id"].as_str().context("an id")?)).await?;
        for digest in [file.as_str(), report] {
            assert_eq!(client.delete(&format!("/v1/blobs/{digest}")).await?.status, 204);
            assert_eq!(client.get(&format!("/v1/blobs/{digest}")).await?.status, 404);
        }
        assert_eq!(files(&folder(&dev.data, "blobs")), 0);
        until_no_copies(&dev.data).await
    })
    .await
}

#[tokio::test]
async fn a_reference_that_is_wrong_or_leads_nowhere_is_refused_at_submission() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let missing = format!("sha256:{}", "0".repeat(64));
        let refused = client.post("/v1/jobs", &json!({"task": "copy", "args": [reference(&missing)]})).await?;
        assert_eq!((refused.status, refused.code()), (422, "missing_blob".into()), "{}", refused.text);
        ensure!(refused.text.contains(&missing), "{}", refused.text);
        // `ident` of another module takes anything: the form is checked nevertheless.
        let wrong = json!([{"deep": [{"$blob": "sha256:12"}]}]);
        let refused = client.post("/v1/jobs", &json!({"task": "ident", "args": wrong})).await?;
        assert_eq!((refused.status, refused.code()), (422, "invalid_arguments".into()), "{}", refused.text);
        assert_eq!(refused.json()["errors"][0]["pointer"], "/args/0/deep/0", "{}", refused.text);
        let text = client.post("/v1/jobs", &json!({"task": "copy", "args": ["no blob"]})).await?;
        assert_eq!((text.status, text.code()), (422, "invalid_arguments".into()));
        let canvas = json!({"canvas": {"group": [{"task": "copy", "args": [reference(&missing)]}]}});
        let refused = client.post("/v1/workflows", &canvas).await?;
        assert_eq!((refused.status, refused.code()), (422, "missing_blob".into()), "{}", refused.text);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_blob_passes_through_a_chain_and_a_failed_attempt_leaves_none() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let first = put(client, "some bytes ").await?;
        let chain = json!({"chain": [{"task": "copy", "args": [reference(&first), 2]}, {"task": "copy", "args": [3]}]});
        let workflow = client.run_canvas(&chain).await?;
        ensure!(workflow["state"] == "succeeded", "{workflow}");
        let last = workflow["result"]["$blob"].as_str().with_context(|| workflow.to_string())?;
        assert_eq!(bytes(client, last).await?, "some bytes ".repeat(6).into_bytes());
        let before = digests(client).await?;
        assert_eq!(before.len(), 3);
        let failed = client.run("write_and_fail", json!(["nobody sees it"])).await?;
        assert_eq!(failed["error"]["kind"], "AsWanted", "{failed}");
        let written = failed["error"]["message"].as_str().context("its digest")?;
        assert_eq!(client.get(&format!("/v1/blobs/{written}")).await?.status, 404);
        assert_eq!(digests(client).await?, before);
        until_no_copies(&dev.data).await?;
        assert_eq!(files(&folder(&dev.data, "blobs")), 3);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_blob_that_is_deleted_while_it_is_read_is_a_clear_failure() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let digest = put(client, vec![b'x'; 1 << 20]).await?;
        // No reference: the task gets the digest as nothing that the service knows, and so it can be deleted.
        let id = client.submit("read_slowly", json!([reference(&digest)])).await?;
        until("it has read half", LIMIT, || async {
            Ok((client.job(&id).await?["progress"]["message"] == "half").then_some(()))
        })
        .await?;
        let refused = client.delete(&format!("/v1/blobs/{digest}")).await?;
        assert_eq!(refused.code(), "blob_in_use");
        // As an operator might do, or a disk that is broken.
        let file = folder(&dev.data, "blobs").join("default").join(&digest["sha256:".len()..]);
        fs::remove_file(&file).with_context(|| file.display().to_string())?;
        client.send(client.request(Method::PUT, "/v1/kv/rows/go").body("1")).await?.good()?;
        let job = client.ended(&id, LIMIT).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("blob:deleted")), "{job}");
        let lost = client.get(&format!("/v1/blobs/{digest}")).await?;
        assert_eq!((lost.status, lost.code()), (410, "blob_lost".into()));
        // Putting it again repairs it.
        assert_eq!(put(client, vec![b'x'; 1 << 20]).await?, digest);
        assert_eq!(bytes(client, &digest).await?.len(), 1 << 20);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_flood_of_blobs_stays_within_the_quota_and_leaves_nothing() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let limit = json!({"max_blob_bytes": 10 << 20});
        client.patch("/v1/tenants/default/storage", &limit).await?.good()?;
        let job = client.run("flood", json!([])).await?;
        ensure!(job["state"] != "succeeded", "{job}");
        let kind = job["error"]["kind"].as_str().unwrap_or_default();
        ensure!(matches!(kind, "blob:quota" | "storage_quota"), "{job}");
        assert_eq!(digests(client).await?.len(), 0);
        until_no_copies(&dev.data).await?;
        assert_eq!(files(&folder(&dev.data, "blobs")), 0);
        let refused = client.send(client.request(Method::PUT, "/v1/blobs").body(vec![0; 11 << 20])).await?;
        assert_eq!((refused.status, refused.code()), (507, "storage_quota".into()));
        let done = client.result("flood", json!([5])).await?;
        assert_eq!(done.as_array().map(Vec::len), Some(5));
        assert_eq!(digests(client).await?.len(), 5);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_result_for_which_there_is_no_room_leaves_no_bytes_of_its_blob() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.push("csv-import").await?;
        let id = client.submit("write_and_tell", json!(["x"])).await?;
        until("it has written", LIMIT, || async {
            Ok((client.job(&id).await?["progress"]["message"] == "half").then_some(()))
        })
        .await?;
        client.patch("/v1/tenants/default/storage", &json!({"max_job_bytes": 1})).await?.good()?;
        client.send(client.request(Method::PUT, "/v1/kv/rows/go").body("1")).await?.good()?;
        let job = client.ended(&id, LIMIT).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("storage_quota")), "{job}");
        assert_eq!(digests(client).await?.len(), 0);
        until_no_copies(&dev.data).await?;
        assert_eq!(files(&folder(&dev.data, "blobs")), 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_tenants_have_nothing_in_common() -> Result<()> {
    on_both(&[], async |dev| {
        let digest = put(&dev.client, "mine alone").await?;
        let other = dev.another(&["--tenant", "other", "--grant"]).await?;
        dev.client.get(&format!("/v1/blobs/{digest}")).await?;
        assert_eq!(other.get(&format!("/v1/blobs/{digest}")).await?.status, 404);
        assert_eq!(other.get(&format!("/v1/blobs/{digest}/info")).await?.status, 404);
        assert_eq!(other.delete(&format!("/v1/blobs/{digest}")).await?.status, 404);
        assert_eq!(digests(&other).await?.len(), 0);
        other.push("csv-import").await?;
        let refused = other.post("/v1/jobs", &json!({"task": "copy", "args": [reference(&digest)]})).await?;
        assert_eq!(refused.code(), "missing_blob", "{}", refused.text);
        // The same bytes are another blob there.
        assert_eq!(put(&other, "mine alone").await?, digest);
        assert_eq!(dev.client.delete(&format!("/v1/blobs/{digest}")).await?.status, 204);
        assert_eq!(bytes(&other, &digest).await?, b"mine alone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_killed_worker_was_writing_never_exists_and_the_next_attempt_makes_it() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &[]).await?;
    let client = &split.client;
    client.push("csv-import").await?;
    let digest_of = |module: &Value| module["digest"].as_str().map(str::to_owned).context("a digest");
    let pushed = client.get("/v1/modules").await?.good()?;
    let module = digest_of(&pushed["items"][0])?;
    // A server approves nothing by itself.
    let _ = client.post(&format!("/v1/modules/{module}/approve"), &json!({})).await?;
    let id = client.submit("write_slowly", json!(["0123456789"])).await?;
    until("it has written half", LIMIT, || async {
        Ok((client.job(&id).await?["progress"]["message"] == "half").then_some(()))
    })
    .await?;
    split.workers[0].kill()?;
    assert_eq!(digests(&split.client).await?.len(), 0);
    split.client.send(split.client.request(Method::PUT, "/v1/kv/rows/go").body("1")).await?.good()?;
    split.add_worker(&[])?;
    let job = split.client.ended(&id, LIMIT).await?;
    ensure!(job["state"] == "succeeded", "{job}");
    let blob = job["result"]["$blob"].as_str().context("a blob")?;
    assert_eq!(digests(&split.client).await?, [blob]);
    assert_eq!(bytes(&split.client, blob).await?.len(), 1_000_000);
    Ok(())
}

/// Above what the worker took before the jobs, MiB. Guests' memory is limited and given back; the blob has 64.
const MOST_MORE_MIB: f64 = 48.0;

#[tokio::test]
async fn a_large_blob_passes_through_a_guest_and_the_memory_of_the_service_stays_small() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("csv-import").await?;
    let small = put(client, vec![1; 4 << 20]).await?;
    client.result("copy", json!([reference(&small)])).await?;
    let large: Vec<u8> = (0..64_u32 << 20).map(|at| (at % 251) as u8).collect();
    let digest = put(client, large.clone()).await?;
    let before = dev.process.rss_mib()?;
    let id = client.submit("copy", json!([reference(&digest)])).await?;
    let mut most = before;
    until("the copy is made", LIMIT, || {
        most = most.max(dev.process.rss_mib().unwrap_or_default());
        async { Ok((client.job(&id).await?["state"] == "succeeded").then_some(())) }
    })
    .await?;
    ensure!(most - before < MOST_MORE_MIB, "{before:.0} MiB before, at most {most:.0} MiB");
    assert_eq!(client.job(&id).await?["result"], reference(&digest), "a copy has the same digest");
    let ranged = client.request(Method::GET, &format!("/v1/blobs/{digest}"));
    let ranged = ranged.header("range", "bytes=60000000-60000009").send().await?;
    assert_eq!(ranged.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(ranged.bytes().await?, large[60_000_000..60_000_010]);
    Ok(())
}

#[tokio::test]
async fn the_command_line_puts_lists_gets_and_submits_files() -> Result<()> {
    let dev = Dev::start().await?;
    dev.client.push("csv-import").await?;
    let file = dev.data.join("rows.csv");
    fs::write(&file, "id,name\n1,one\n")?;
    let path = file.display().to_string();
    let said = |arguments: &[&str]| -> Result<String> {
        let output = dev.umbel(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    };
    let digest = said(&["blob", "put", &path, "--type", "text/csv", "-o", "id"])?;
    ensure!(said(&["blob", "list"])?.contains(&digest[..20]));
    ensure!(said(&["blob", "show", &digest])?.contains("text/csv"));
    assert_eq!(said(&["blob", "get", &digest, "--range", "0-1"])?, "id");
    let copy = dev.data.join("copy.csv").display().to_string();
    said(&["blob", "get", &digest, "--to", &copy])?;
    assert_eq!(fs::read(&copy)?, fs::read(&file)?);
    let result = said(&["job", "submit", "import", &format!("@blob:{path}"), "--wait", "-o", "json"])?;
    let job: Value = serde_json::from_str(&result)?;
    assert_eq!(job["result"]["rows"], 1, "{job}");
    let result = said(&["job", "submit", "copy", "--kwarg", &format!("from=@blob:{path}"), "--wait", "-o", "json"])?;
    assert_eq!(serde_json::from_str::<Value>(&result)?["result"], reference(&digest));
    let refused = dev.umbel(&["blob", "rm", &digest])?;
    ensure!(!refused.status.success(), "jobs refer to it");
    for job in dev.client.jobs("").await? {
        dev.client.delete(&format!("/v1/jobs/{}", job["id"].as_str().context("an id")?)).await?;
    }
    said(&["blob", "rm", &digest])?;
    Ok(())
}
