//! Secrets through the real binary: where a value goes, and that it is nowhere else: not in a store, a log, a result, nor, soon after it
//! was used, in the memory of a process.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use memchr::memmem;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use umbel_tests::{Answer, Client, Dev, DevOptions, Process, Split, durable_redis, until};

/// A server of this test: keeps the heads and bodies of what it got, and answers with the credentials, in a field and in its body.
#[derive(Clone)]
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    /// `answer`: what stands in the head of each answer.
    fn start(answer: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let got: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = got.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || serve(stream, &kept, answer));
            }
        });
        Ok(Self { url, got })
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>, answer: &str) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{head}{}", String::from_utf8_lossy(&body)));
    let credentials: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("authorization: ")).collect();
    let credentials = credentials.join(" ");
    let length = credentials.len();
    let text = format!(
        "HTTP/1.1 {answer}\r\nx-echo: {credentials}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{credentials}"
    );
    let _ = stream.write_all(text.as_bytes());
}

/// A master key in a file of its user's.
fn master_key(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("master.key");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
    Ok(path)
}

/// What the operator lets tasks reach: this machine.
async fn open_bounds(client: &Client) -> Result<()> {
    let bounds = json!({"permissions": ["http http://127.0.0.1:*/", "network 127.0.0.0/8", "secret * reveal", "kv *"]});
    client.put("/v1/tenants/default/grants", &bounds).await?.good().map(drop)
}

async fn set(client: &Client, name: &str, query: &str, value: &str) -> Result<Answer> {
    let request = client.request(Method::PUT, &format!("/v1/secrets/{name}?{query}"));
    client.send(request.header("connection", "close").body(value.to_owned())).await
}

async fn push_approved(client: &Client, guest: &str) -> Result<()> {
    let digest = client.push(guest).await?["digest"].as_str().context("a digest")?.to_owned();
    client.post(&format!("/v1/modules/{digest}/approve"), &json!({})).await?.good().map(drop)
}

/// A value that is nowhere but where it was brought.
fn random_value(what: &str) -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{what}-{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

fn has(bytes: &[u8], value: &str) -> bool {
    let base64 = STANDARD.encode(value);
    // Without the last digits, which depend on what follows.
    [value.as_bytes(), &base64.as_bytes()[..base64.len() - 4]].iter().any(|form| memmem::find(bytes, form).is_some())
}

/// Where a value is in the memory of a process: the mappings, with what they map. Pages that are not there are passed over.
fn in_memory(process: u32, value: &str) -> Result<Vec<String>> {
    let (memory, pages) =
        (File::open(format!("/proc/{process}/mem"))?, File::open(format!("/proc/{process}/pagemap"))?);
    let mut found = Vec::new();
    let mut searched = 0;
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let (Some((from, to)), true) = (range.split_once('-'), rights.starts_with("rw")) else { continue };
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut present = vec![0; usize::try_from((to - from) / 4_096 * 8)?];
        if pages.read_exact_at(&mut present, from / 4_096 * 8).is_err() {
            continue;
        }
        let mut run = Vec::new();
        let is_there = |entry: &[u8]| entry[7] & 0xc0 != 0;
        for (at, entry) in (from..to).step_by(4_096).zip(present.chunks_exact(8)) {
            let mut page = vec![0; 4_096];
            if is_there(entry) && memory.read_exact_at(&mut page, at).is_ok() {
                searched += page.len();
                run.extend_from_slice(&page);
            }
        }
        if has(&run, value) {
            found.push(line.to_owned());
        }
    }
    ensure!(searched > 1 << 20, "only {searched} bytes of process {process} were searched");
    Ok(found)
}

async fn is_forgotten(process: &Process, value: &str, limit: Duration) -> Result<()> {
    until("the value is in no memory", limit, || async {
        let found = in_memory(process.id(), value)?;
        ensure!(found.is_empty(), "it is in {found:?}");
        Ok(Some(()))
    })
    .await
}

async fn split(redis: &str, home: &Path) -> Result<Split> {
    let key = master_key(home)?.display().to_string();
    let environment = [("UMBEL_MASTER_KEY_FILE", &*key), ("UMBEL_LOG_LEVEL", "trace")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let split = Split::within(environment, redis, 1, &["--concurrency", "2"]).await?;
    open_bounds(&split.client).await?;
    Ok(split)
}

#[tokio::test]
async fn a_secret_that_is_not_revealed_is_in_no_memory_after_it_was_set_and_sent() -> Result<()> {
    let (redis, home) = (durable_redis(), TempDir::new()?);
    let split = split(&redis.url(), home.path()).await?;
    let (client, value) = (&split.client, random_value("unrevealed")?);
    let receiver = Receiver::start("200 OK")?;
    // The search finds what is there.
    ensure!(
        !in_memory(split.server.id(), "secret set")?.is_empty() || !in_memory(split.server.id(), "/v1/")?.is_empty()
    );
    set(client, "sent", &format!("hosts={}", receiver.url), &value).await?.good()?;
    is_forgotten(&split.server, &value, Duration::from_secs(5)).await?;
    push_approved(client, "hostile-secrets").await?;
    for _ in 0..3 {
        let echoed = client.result("echo", json!([format!("{}/", receiver.url)])).await?;
        ensure!(!has(echoed.to_string().as_bytes(), &value), "{echoed}");
    }
    ensure!(receiver.got().iter().all(|got| got.contains(&format!("authorization: Bearer {value}\r\n"))));
    is_forgotten(&split.workers[0], &value, Duration::from_secs(5)).await?;
    is_forgotten(&split.server, &value, Duration::from_secs(5)).await?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", split.workers[0].id()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit of core files")?;
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    Ok(())
}

/// Everything that Redis has, uncompressed.
fn stored(redis: &umbel_tests::RedisServer) -> Result<Vec<u8>> {
    let mut connection = redis.connection();
    redis::cmd("CONFIG").arg("SET").arg("rdbcompression").arg("no").query::<()>(&mut connection)?;
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection)?;
    let mut all = Vec::new();
    for key in keys {
        all.extend_from_slice(&key);
        all.extend(redis::cmd("DUMP").arg(&key).query::<Option<Vec<u8>>>(&mut connection)?.unwrap_or_default());
    }
    Ok(all)
}

/// All that a guest did with a value that it had, and how its jobs look then.
async fn tell_everywhere(client: &Client) -> Result<String> {
    let mut seen = String::new();
    for how in ["value", "fail", "reject", "panic", "long"] {
        let job = client.run("tell", json!([how])).await?;
        let id = job["id"].as_str().context("an id")?;
        seen.push_str(&client.get(&format!("/v1/jobs/{id}")).await?.text);
        seen.push_str(&client.get(&format!("/v1/jobs/{id}/logs")).await?.text);
        ensure!(seen.contains("[secret key]"), "{how}: {seen}");
    }
    let loot = client.get("/v1/kv/loot/key").await?.text;
    ensure!(loot == "<[secret key]>", "{loot}");
    seen.push_str(&client.get("/v1/dead").await?.text);
    seen.push_str(&client.get("/v1/secrets").await?.text);
    Ok(seen)
}

#[tokio::test]
async fn a_revealed_secret_is_in_no_record_log_result_listing_or_store() -> Result<()> {
    let (redis, home) = (durable_redis(), TempDir::new()?);
    let split = split(&redis.url(), home.path()).await?;
    let (client, value) = (&split.client, random_value("revealed")?);
    set(client, "key", "reveal=true", &value).await?.good()?;
    push_approved(client, "hostile-secrets").await?;
    let seen = tell_everywhere(client).await?;
    ensure!(!has(seen.as_bytes(), &value), "{seen}");
    let store = stored(&redis)?;
    ensure!(has(&store, "[secret key]") && !has(&store, &value), "the value is in the store");
    for process in split.workers.iter().chain([&split.server]) {
        ensure!(!has(process.output().as_bytes(), &value), "the value is in a log");
    }
    Ok(())
}

#[tokio::test]
async fn on_sqlite_no_file_of_the_data_folder_has_a_value() -> Result<()> {
    let dev = Dev::with(DevOptions { arguments: vec!["--log-level".into(), "trace".into()], ..DevOptions::default() })
        .await?;
    let (client, value) = (&dev.client, random_value("revealed")?);
    open_bounds(client).await?;
    set(client, "key", "reveal=true", &value).await?.good()?;
    client.push("hostile-secrets").await?;
    let seen = tell_everywhere(client).await?;
    ensure!(!has(seen.as_bytes(), &value), "{seen}");
    ensure!(!has(dev.process.output().as_bytes(), &value), "the value is in the log");
    let mut searched = 0;
    for entry in fs::read_dir(&dev.data)? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path)?;
            searched += bytes.len();
            ensure!(!has(&bytes, &value), "the value is in {}", path.display());
        }
    }
    ensure!(searched > 4_096, "the database was searched");
    Ok(())
}

#[tokio::test]
async fn a_placeholder_that_is_misplaced_is_refused_and_nothing_is_sent() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    open_bounds(client).await?;
    client.push("hostile-secrets").await?;
    let (right, other) = (Receiver::start("200 OK")?, Receiver::start("200 OK")?);
    set(client, "sent", &format!("hosts={}", right.url), "correct horse battery").await?.good()?;
    for (url, how, says) in [
        (&other.url, "header", "may not be sent to"),
        (&other.url, "basic", "may not be sent to"),
        (&right.url, "query", "in the URL"),
        (&right.url, "path", "in the URL"),
    ] {
        let job = client.run("misplace", json!([format!("{url}/"), how])).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("http_denied")), "{how}: {job}");
        let id = job["id"].as_str().context("an id")?;
        let logs = client.get(&format!("/v1/jobs/{id}/logs")).await?.text;
        ensure!(logs.contains("secret `sent`") && logs.contains(says), "{how}: {logs}");
    }
    ensure!(other.got().is_empty() && right.got().is_empty(), "nothing is sent");
    Ok(())
}

#[tokio::test]
async fn a_redirect_to_another_host_does_not_get_the_secret() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    open_bounds(client).await?;
    client.push("hostile-secrets").await?;
    let other = Receiver::start("200 OK")?;
    let answer = format!("302 Found\r\nlocation: {}/", other.url).leak();
    let right = Receiver::start(answer)?;
    set(client, "sent", &format!("hosts={}", right.url), "correct horse battery").await?.good()?;
    let job = client.run("redirect", json!([format!("{}/", right.url)])).await?;
    assert_eq!(job["error"]["kind"], "http_denied", "{job}");
    ensure!(right.got().len() == 1 && other.got().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_web_hook_is_signed_and_sent_and_the_command_line_sets_its_secrets() -> Result<()> {
    let dev = Dev::start().await?;
    open_bounds(&dev.client).await?;
    dev.client.push("webhook").await?;
    let receiver = Receiver::start("200 OK")?;
    let said = |arguments: &[&str]| -> Result<String> {
        let output = dev.umbel(arguments)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr))
    };
    let file = dev.data.join("value");
    fs::write(&file, "correct horse battery\n")?;
    let file = file.display().to_string();
    said(&["secret", "set", "hook_token", "--host", &receiver.url, "--header-only", "--value-file", &file])?;
    fs::write(&file, "key-key-key")?;
    said(&["secret", "set", "hook_key", "--reveal", "--value-file", &file])?;
    let body = "The quick brown fox jumps over the lazy dog";
    let delivered = dev.client.result("deliver", json!([format!("{}/", receiver.url), body])).await?;
    assert_eq!(delivered, json!({"status": 200}));
    let got = receiver.got().pop().context("a request")?;
    ensure!(got.contains("authorization: Bearer correct horse battery\r\n") && got.ends_with(body), "{got}");
    let signature = "x-signature: sha256=fea744592628d5f116465df53697064e46d438ae282c30bef8b0b08b2c076c65\r\n";
    ensure!(got.contains(signature), "{got}");
    let rotated = said(&["secret", "rotate"])?;
    ensure!(rotated.contains('2'), "{rotated}");
    dev.client.result("deliver", json!([format!("{}/", receiver.url), body])).await?;
    said(&["secret", "rotate", "--master"])?;
    let listed = said(&["secret", "list"])? + &said(&["secret", "show", "hook_token"])?;
    ensure!(listed.contains("hook_key") && listed.contains(&receiver.url), "{listed}");
    ensure!(!listed.contains("horse") && !listed.contains("key-key"), "{listed}");
    said(&["secret", "rm", "hook_token"])?;
    // A worker uses what it knows for a second at most.
    let is_gone = || async {
        let job = dev.client.run("deliver", json!([format!("{}/", receiver.url), body])).await?;
        // One that it knew when it was asked for may be gone when it is sent.
        Ok((job["error"]["kind"] == "secret:not_found").then_some(()))
    };
    until("the secret is gone", Duration::from_secs(60), is_gone).await?;
    let none: Value = serde_json::from_str(&said(&["secret", "list", "-o", "json"])?)?;
    assert_eq!(none["items"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn without_a_master_key_no_secret_is_set_and_doctor_says_which_cannot_be_opened() -> Result<()> {
    let (redis, home) = (durable_redis(), TempDir::new()?);
    {
        let split = split(&redis.url(), home.path()).await?;
        set(&split.client, "key", "reveal=true", "the value").await?.good()?;
        let refused = split.another(&["--tenant", "default"])?;
        let refused = set(&refused, "key", "reveal=true", "the value").await?;
        assert_eq!((refused.status, refused.code()), (403, "grant_needed".to_owned()));
    }
    let split = Split::start(&redis.url(), 1, &[]).await?;
    let refused = set(&split.client, "key", "reveal=true", "the value").await?;
    assert_eq!((refused.status, refused.code()), (409, "no_master_key".to_owned()));
    push_approved(&split.client, "hostile-secrets").await?;
    open_bounds(&split.client).await?;
    let id = split.client.submit("tell", json!(["value"])).await?;
    let logs = until("the log says why", Duration::from_secs(20), || async {
        let logs = split.client.get(&format!("/v1/jobs/{id}/logs")).await?.text;
        Ok(logs.contains("master key").then_some(logs))
    });
    logs.await?;
    let doctor = split.umbel(&["doctor"])?;
    let said = String::from_utf8_lossy(&doctor.stderr).into_owned();
    ensure!(said.contains("opens 1 secrets, such as key of tenant default"), "{said}");
    Ok(())
}
