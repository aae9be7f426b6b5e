//! Modules that ask to reach something: pushed by one token, approved by another, on both brokers.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Answer, Client, Dev, component::salted, guest, on_both};

fn digest(module: &Value) -> Result<String> {
    module["digest"].as_str().map(str::to_owned).context("a module has a digest")
}

async fn approve(client: &Client, digest: &str) -> Result<Answer> {
    client.post(&format!("/v1/modules/{digest}/approve"), &json!({})).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> Result<Value> {
    ensure!((answer.status, answer.code()) == (status, code.to_owned()), "{answer:?}");
    Ok(answer.json())
}

#[tokio::test]
async fn what_a_module_asks_for_waits_for_somebody_with_the_right_to_grant() -> Result<()> {
    on_both(&["--strict-permissions"], async |dev| {
        let pusher = dev.another(&["--tenant", "default"]).await?;
        let granter = dev.another(&["--tenant", "default", "--grant", "--name", "granter"]).await?;
        let other = dev.another(&["--tenant", "other"]).await?;
        let pushed = pusher.upload(guest("asks")?).await?.good()?;
        let first = digest(&pushed)?;
        let line = format!("umbel module approve {first}");
        assert_eq!((&pushed["approval"]["state"], &pushed["approval"]["command"]), (&json!("waits"), &json!(line)));
        assert_eq!(pushed["manifest"]["permissions"], json!(["kv cursors"]));
        assert_eq!(pushed["manifest"]["tasks"], json!({"import": ["http GET https://api.example.com/v1/"]}));
        refused(&pusher.post("/v1/jobs", &json!({"task": "import", "args": [7]})).await?, 404, "task_not_found")?;
        let deploy = pusher.post("/v1/tasks/import/deploy", &json!({"digest": first})).await?;
        ensure!(refused(&deploy, 409, "approval_needed")?["detail"].as_str().is_some_and(|text| text.contains(&line)));
        refused(&approve(&pusher, &first).await?, 403, "grant_needed")?;
        approve(&dev.client, &first).await?.good()?;
        assert_eq!(pusher.result("import", json!([7])).await?, json!(7));

        // The same under another digest is covered; a larger one waits, and what is deployed stays.
        let covered = pusher.upload(salted(&guest("asks")?, 1)).await?.good()?;
        assert_eq!(covered["approval"]["inherited_from"], json!(first));
        let larger = pusher.upload(guest("asks-more")?).await?.good()?;
        let missing = json!(["kv cursors", "secret api_key", "http GET,POST https://api.example.com/v1/"]);
        assert_eq!((&larger["approval"]["state"], &larger["approval"]["missing"]), (&json!("waits"), &missing));
        assert_eq!(pusher.result("import", json!([7])).await?, json!(7));
        let approved = approve(&granter, &digest(&larger)?).await?.good()?;
        assert_eq!(approved["approval"]["by"], "granter");
        assert_eq!(pusher.result("import", json!([7])).await?, json!(1_007));

        // A revoked version cannot be gone back to.
        granter.delete(&format!("/v1/modules/{}/approval", digest(&covered)?)).await?;
        refused(&pusher.post("/v1/tasks/import/rollback", &json!({})).await?, 409, "approval_needed")?;
        assert_eq!(pusher.result("import", json!([7])).await?, json!(1_007));

        // Another tenant decides for itself.
        assert_eq!(other.upload(guest("asks")?).await?.good()?["approval"]["state"], "waits");
        refused(&approve(&other, &first).await?, 403, "grant_needed")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn grants_of_a_tenant_and_bounds_of_its_operator_are_set_by_those_who_may() -> Result<()> {
    on_both(&[], async |dev| {
        let pusher = dev.another(&["--tenant", "default"]).await?;
        let operator = &dev.client;
        let list = json!({"permissions": ["kv cursors", "http https://*.example.com/"]});
        refused(&pusher.put("/v1/tenant/grants", &list).await?, 403, "grant_needed")?;
        operator.put("/v1/tenant/grants", &list).await?.good()?;
        assert_eq!(pusher.get("/v1/tenant/grants").await?.good()?["permissions"], list["permissions"]);
        refused(&pusher.put("/v1/tenants/default/grants", &list).await?, 403, "operator_needed")?;
        let bounds = json!({"permissions": ["network 10.0.0.0/8", "kv *"]});
        operator.put("/v1/tenants/default/grants", &bounds).await?.good()?;
        let shown = pusher.get("/v1/tenant/grants").await?.good()?;
        assert_eq!((&shown["bounds"], &shown["default_bounds"]), (&bounds["permissions"], &json!(false)));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dev_approves_at_the_push_and_the_command_line_says_so() -> Result<()> {
    let dev = Dev::start().await?;
    let path = dev.data.join("asks.wasm");
    fs::write(&path, guest("asks")?)?;
    let path = path.display().to_string();
    let said = |arguments: &[&str]| -> Result<(String, String)> {
        let output = dev.umbel(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok((text(&output.stdout), text(&output.stderr)))
    };
    let (pushed, note) = said(&["module", "push", &path])?;
    for part in ["+ kv cursors", "+ http GET https://api.example.com/v1/ (task import)", "pure"] {
        ensure!(pushed.contains(part), "{part}: {pushed}");
    }
    ensure!(note.contains("approved by umbel dev"), "{note}");
    let digest = digest(&serde_json::from_str(&said(&["module", "show", &pushed_digest(&pushed)?, "-o", "json"])?.0)?)?;
    ensure!(said(&["module", "manifest", &digest])?.0.contains("kv cursors"));
    said(&["module", "revoke", &digest])?;
    ensure!(said(&["module", "manifest", &digest])?.0.contains(&format!("umbel module approve {digest}")));
    said(&["module", "approve", &digest])?;
    said(&["tenant", "grants", "set", "kv *"])?;
    ensure!(said(&["tenant", "grants"])?.0.contains("kv *"));
    said(&["tenant", "grants", "clear"])?;
    said(&["tenant", "grants", "set", "--nothing", "--tenant", "default"])?;
    Ok(())
}

fn pushed_digest(text: &str) -> Result<String> {
    let digest = text.split_whitespace().find(|word| word.starts_with("sha256:"));
    digest.map(str::to_owned).context("a push prints the digest")
}

#[tokio::test]
async fn a_task_that_opens_a_socket_fails_for_good_and_is_told_what_there_is() -> Result<()> {
    let dev = Dev::start().await?;
    dev.client.push("asks").await?;
    let job = dev.client.run("connect", json!(["127.0.0.1:1"])).await?;
    assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("unsupported")), "{job}");
    ensure!(job["error"]["message"].as_str().is_some_and(|text| text.contains("umbel::http")), "{job}");
    Ok(())
}

/// What each guest of this repository can touch: its capabilities, what it asks for, and what its tasks ask for besides.
const MANIFESTS: &[(&str, &str)] = &[
    (
        "api-import",
        "http kv config; http GET https://api.example.com/v1/; http GET http://127.0.0.1:*/v1/; kv cursors; kv imported",
    ),
    ("asks", "pure; kv cursors; import: http GET https://api.example.com/v1/"),
    ("asks-more", "pure; kv cursors; secret api_key; import: http GET,POST https://api.example.com/v1/"),
    ("cases", "clock canvas"),
    ("charges", "clock"),
    ("csv-import", "kv blob; blob; kv rows"),
    ("fetch", "http; http GET http://127.0.0.1:*/"),
    ("greet", "pure"),
    ("growing", "canvas"),
    ("hostile", "clock canvas"),
    ("hostile-http", "http"),
    ("hostile-secrets", "http kv secret; http GET http://127.0.0.1:*/; secret sent; secret key reveal; kv loot"),
    ("images", "blob canvas; blob"),
    (
        "kv-counters",
        "kv; kv counters; kv recent; kv cursors; fill: kv *; keys: kv * read; read: kv * read; write: kv *",
    ),
    ("numbers", "clock"),
    ("orders", "clock canvas"),
    ("policies", "clock"),
    ("shop", "pure"),
    ("spends", "http kv; kv spent; http GET http://127.0.0.1:*/"),
    ("text", "canvas"),
    ("uptime", "http; http GET,POST https://*:*/; http GET,POST http://*:*/"),
    (
        "webhook",
        "http secret; http POST https://*:*/; http POST http://127.0.0.1:*/; deliver: secret hook_token; deliver: secret hook_key reveal",
    ),
];

#[tokio::test]
async fn the_manifest_of_each_guest_says_exactly_what_it_can_touch() -> Result<()> {
    let dev = Dev::start().await?;
    let mut shown = BTreeMap::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a guest has a name")?.to_owned();
        // Those are refused at the push.
        if path.extension().is_none_or(|extension| extension != "wasm") || name.starts_with("hostile-describe") {
            continue;
        }
        let request = dev.client.request(reqwest::Method::POST, "/v1/modules?dry_run=true");
        let request = request.header("content-type", "application/wasm").body(fs::read(&path)?);
        let checked = dev.client.send(request).await?.good()?;
        shown.insert(name, manifest(&checked["manifest"])?);
    }
    let wanted: BTreeMap<String, String> =
        MANIFESTS.iter().map(|(name, manifest)| ((*name).to_owned(), (*manifest).to_owned())).collect();
    let differ: Vec<String> = shown
        .iter()
        .filter(|(name, manifest)| wanted.get(*name) != Some(manifest))
        .map(|(name, manifest)| format!("    ({name:?}, {manifest:?}),"))
        .collect();
    ensure!(differ.is_empty(), "these are shown otherwise than MANIFESTS says:\n{}", differ.join("\n"));
    let gone: Vec<&String> = wanted.keys().filter(|name| !shown.contains_key(*name)).collect();
    ensure!(gone.is_empty(), "there are no such guests: {gone:?}");
    Ok(())
}

/// A manifest as one line.
fn manifest(shown: &Value) -> Result<String> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut parts = vec![list(&shown["capabilities"]).join(" ")];
    parts.extend(list(&shown["permissions"]));
    for (task, permissions) in shown["tasks"].as_object().into_iter().flatten() {
        parts.extend(list(permissions).into_iter().map(|permission| format!("{task}: {permission}")));
    }
    let is_pure = shown["pure"].as_bool().context("a manifest says whether it is pure")?;
    ensure!(is_pure == parts[0].is_empty(), "{shown}");
    if is_pure {
        parts[0] = "pure".to_owned();
    }
    Ok(parts.join("; "))
}
