//! What jobs used: the sums of the usage API are those of the histories of the jobs, also when processes are killed.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, on_both, until};

/// How long something may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// The numbers of an attempt that are summed.
const NUMBERS: [&str; 10] = [
    "fuel",
    "cpu_us",
    "duration_us",
    "memory_kib_ms",
    "http_requests",
    "http_bytes_out",
    "http_bytes_in",
    "kv_operations",
    "blob_bytes_read",
    "blob_bytes_written",
];

/// The address of a server that answers each request with four bytes.
fn server() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell");
                        head.clear();
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Sums by task, of the histories of these jobs: the numbers, and how many attempts and lost deliveries there were.
async fn of_histories(client: &Client, jobs: &[String]) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let mut sums: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for id in jobs {
        let job = client.job(id).await?;
        let sum = sums.entry(job["task"].as_str().context("a task")?.to_owned()).or_default();
        for attempt in job["history"].as_array().context("a history")? {
            let is_lost = attempt["outcome"] == "lost";
            *sum.entry(if is_lost { "lost" } else { "attempts" }.to_owned()).or_default() += 1;
            for number in NUMBERS {
                *sum.entry(number.to_owned()).or_default() += attempt[number].as_u64().unwrap_or(0);
            }
        }
    }
    Ok(sums)
}

/// The same as the API has it.
async fn of_api(client: &Client, path: &str) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let page = client.get(path).await?.good()?;
    ensure!(page["next_cursor"].is_null(), "{page}");
    let sums = page["items"].as_array().context("items")?.iter().map(|sum| {
        let fields = sum.as_object().into_iter().flatten();
        let numbers = fields.filter_map(|(name, number)| Some((name.clone(), number.as_u64()?)));
        (sum["task"].as_str().unwrap_or_default().to_owned(), numbers.collect())
    });
    Ok(sums.collect())
}

fn number(sums: &BTreeMap<String, BTreeMap<String, u64>>, task: &str, name: &str) -> u64 {
    sums.get(task).and_then(|sum| sum.get(name)).copied().unwrap_or(0)
}

#[tokio::test]
async fn sums_are_those_of_the_histories_also_after_a_kill() -> Result<()> {
    let address = server()?;
    on_both(&[], async |dev| {
        let everything = json!({"permissions": ["kv *", "http http://127.0.0.1:*/", "network 127.0.0.0/8"]});
        dev.client.put("/v1/tenants/default/grants", &everything).await?.good()?;
        // `umbel dev` approves what is pushed.
        dev.client.push("spends").await?;
        let url = format!("http://{address}/");
        let mut jobs = Vec::new();
        for n in 0..4 {
            jobs.push(dev.client.submit("spend", json!([url, 2])).await?);
            jobs.push(dev.client.submit("add", json!([n, 1])).await?);
            jobs.push(dev.client.submit("flaky", json!([2])).await?);
            jobs.push(dev.client.submit("fail", json!([])).await?);
        }
        let nap = dev.client.submit("nap", json!([600.0])).await?;
        dev.client.reaches(&nap, "running").await?;
        dev.process.kill()?;
        dev.restart().await?;
        for id in &jobs {
            dev.client.ended(id, LIMIT).await?;
        }
        until("the nap was lost and runs again", LIMIT, || async {
            let job = dev.client.job(&nap).await?;
            let is_lost = job["history"].as_array().is_some_and(|history| history.len() == 1);
            Ok((is_lost && job["state"] == "running").then_some(()))
        })
        .await?;
        dev.client.post(&format!("/v1/jobs/{nap}/cancel"), &json!({})).await?.good()?;
        let ended = dev.client.ended(&nap, LIMIT).await?;
        ensure!(ended["state"] == "revoked", "{ended}");
        jobs.push(nap);

        let expected = of_histories(&dev.client, &jobs).await?;
        let by_task = of_api(&dev.client, "/v1/usage?by=task&since=2h").await?;
        assert_eq!(expected.keys().collect::<Vec<_>>(), by_task.keys().collect::<Vec<_>>());
        for (task, sum) in &expected {
            for (name, wanted) in sum {
                assert_eq!(number(&by_task, task, name), *wanted, "{name} of {task}");
            }
        }
        // It is what was done, and not only the same on both sides.
        // A job that ran when the process was killed runs once more, and what it used before is not known.
        let spent = by_task["spend"].clone();
        ensure!(spent["succeeded"] == 4 && spent["kv_operations"] == 8 && spent["http_requests"] == 4, "{spent:?}");
        ensure!(spent["http_bytes_out"] > 4 * 20 && spent["http_bytes_in"] > 4 * 20, "{spent:?}");
        assert_eq!(number(&by_task, "nap", "lost"), 1);
        assert_eq!((number(&by_task, "flaky", "retried"), number(&by_task, "flaky", "succeeded")), (8, 4));
        ensure!(number(&by_task, "fail", "failed") == 4 && number(&by_task, "nap", "other") == 1, "{by_task:?}");
        for (task, sum) in &by_task {
            ensure!(sum["cpu_us"] > 0 && sum["cpu_us"] <= sum["duration_us"], "{task}: {sum:?}");
            ensure!(sum["memory_kib_ms"] > 0 && sum["fuel"] > 0, "{task}: {sum:?}");
        }
        // The nap waited; the computing ones did not.
        let nap = &by_task["nap"];
        ensure!(nap["cpu_us"] * 2 < nap["duration_us"] || nap["duration_us"] < 100_000, "{nap:?}");

        let all = of_api(&dev.client, "/v1/usage?by=total").await?;
        for name in NUMBERS {
            let wanted: u64 = expected.values().filter_map(|sum| sum.get(name)).sum();
            assert_eq!(number(&all, "", name), wanted, "{name} in all");
        }
        let of_operator = of_api(&dev.client, "/v1/tenants/default/usage?by=total").await?;
        assert_eq!(of_operator, all);
        assert_eq!(of_api(&dev.client, "/v1/tenants/other/usage?by=total").await?, BTreeMap::new());
        let hours = dev.client.get("/v1/usage?by=hour").await?.good()?;
        let attempts: u64 =
            hours["items"].as_array().into_iter().flatten().filter_map(|sum| sum["attempts"].as_u64()).sum();
        assert_eq!(attempts, number(&all, "", "attempts"));

        let table = dev.umbel(&["usage", "--by", "task"])?;
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        ensure!(table.status.success() && text.contains("spend") && text.contains("CPU"), "{text}");
        let exact = dev.umbel(&["usage", "--by", "total", "--output", "json"])?;
        let exact: Value = serde_json::from_slice(&exact.stdout)?;
        assert_eq!(exact["items"][0]["fuel"], json!(number(&all, "", "fuel")));
        Ok(())
    })
    .await
}
