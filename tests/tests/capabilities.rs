//! Tasks that reach the world through the real service, on both brokers: a web API of this test, key-value entries, configuration; and
//! what happens to a job that runs when its rights are taken away.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Dev, on_both, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A web API with pages by their cursor, on 127.0.0.1.
#[derive(Clone, Default)]
struct Api {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pages: HashMap<String, Value>,
    /// Paths that were asked for, in order.
    asked: Vec<String>,
    /// How many requests are answered with 503.
    failures: u32,
    /// Beginnings of paths that are not answered yet.
    held: Vec<String>,
}

impl Api {
    fn start(self) -> Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let api = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = api.clone();
                thread::spawn(move || api.serve(stream));
            }
        });
        Ok((self, url))
    }

    fn serve(&self, mut stream: std::net::TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if line.trim().is_empty() {
                    break;
                }
                lines.push(line);
            }
            let path = lines.first()?.split(' ').nth(1)?.to_owned();
            let cursor = path.split_once("after=")?.1.split('&').next()?.to_owned();
            let answer = self.answer(path, &cursor);
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn answer(&self, path: String, cursor: &str) -> String {
        let mut state = self.inner.state.lock().expect("no thread panicked");
        state.asked.push(path.clone());
        self.inner.changed.notify_all();
        if state.failures > 0 {
            state.failures -= 1;
            return "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_owned();
        }
        let state = self
            .inner
            .changed
            .wait_while(state, |state| state.held.iter().any(|held| path.starts_with(held)))
            .expect("no thread panicked");
        let body = state.pages.get(cursor).map(Value::to_string).unwrap_or_default();
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let answer = act(&mut self.inner.state.lock().expect("no thread panicked"));
        self.inner.changed.notify_all();
        answer
    }

    fn page(&self, after: &str, ids: &[&str], next: Option<&str>) {
        let items: Vec<Value> = ids.iter().map(|id| json!({"id": id, "price": 7})).collect();
        self.with(|state| state.pages.insert(after.to_owned(), json!({"items": items, "next": next})));
    }
}

/// The service with the example that imports from an API of this machine.
async fn with_import(dev: &Dev, url: &str) -> Result<String> {
    let bounds = json!({"permissions": ["network 127.0.0.0/8", "http http://*:*", "kv *"]});
    dev.client.put("/v1/tenants/default/grants", &bounds).await?.good()?;
    dev.client.patch("/v1/tasks/import/config", &json!({"values": {"api_url": url}})).await?.good()?;
    let pushed = dev.client.push("api-import").await?;
    pushed["digest"].as_str().map(str::to_owned).context("a module has a digest")
}

async fn entry(dev: &Dev, path: &str) -> Result<Value> {
    Ok(dev.client.get(path).await?.json())
}

#[tokio::test]
async fn an_import_keeps_its_cursor_is_asked_to_wait_and_goes_on_where_it_ended() -> Result<()> {
    on_both(&[], async |dev| {
        let (api, url) = Api::default().start()?;
        api.page("", &["a", "b"], Some("p2"));
        api.page("p2", &["c"], Some("p3"));
        api.page("p3", &[], None);
        with_import(dev, &url).await?;
        dev.client
            .patch("/v1/config", &json!({"values": {"page_size": "2", "api_url": "http://127.0.0.1:1"}}))
            .await?
            .good()?;
        api.with(|state| state.failures = 1);
        let first = dev.client.run("import", json!(["shop", 1])).await?;
        ensure!(first["state"] == "succeeded", "{first}");
        assert_eq!(first["result"], json!({"pages": 1, "items": 2, "complete": false}));
        assert_eq!(first["retries"], 1, "{first}");
        assert_eq!(
            dev.client.result("import", json!(["shop"])).await?,
            json!({"pages": 2, "items": 1, "complete": true})
        );
        let asked: Vec<String> = ["", "", "p2", "p3"].map(|after| format!("/v1/shop?after={after}&limit=2")).into();
        assert_eq!(api.with(|state| state.asked.clone()), asked);
        assert_eq!(entry(dev, "/v1/kv/imported/shop%2Fa").await?, json!({"id": "a", "price": 7}));
        let keys = entry(dev, "/v1/kv/imported").await?;
        assert_eq!(keys["items"].as_array().map(Vec::len), Some(3), "{keys}");
        Ok(())
    })
    .await
}

/// Runs an import that waits for its second page while `act` takes its rights away, and answers how it ended.
async fn ends_after(dev: &Dev, url: &str, api: &Api, act: impl AsyncFnOnce(&str) -> Result<()>) -> Result<Value> {
    api.page("", &["a"], Some("p2"));
    api.page("p2", &["b"], None);
    let digest = with_import(dev, url).await?;
    api.with(|state| state.held.push("/v1/shop?after=p2&".into()));
    let job = dev.client.submit_with("import", json!(["shop"]), json!({"max_retries": 0})).await?;
    let has_asked = || async { Ok(api.with(|state| state.asked.iter().any(|path| path.contains("p2"))).then_some(())) };
    until("the job waits for its second page", LIMIT, has_asked).await?;
    act(&digest).await?;
    // A job that begins now shows that the worker knows.
    let denied = || async {
        let other = dev.client.submit_with("import", json!(["other"]), json!({"max_retries": 0})).await?;
        let other = dev.client.ended(&other, LIMIT).await?;
        let kind = other["error"]["kind"].as_str().unwrap_or_default().to_owned();
        Ok(["http_denied", "kv:denied"].contains(&kind.as_str()).then_some(()))
    };
    until("the worker denies it", LIMIT, denied).await?;
    api.with(|state| state.held.clear());
    dev.client.ended(&job, LIMIT).await
}

async fn log_of(dev: &Dev, job: &Value) -> Result<String> {
    let id = job["id"].as_str().context("a job has an id")?;
    Ok(dev.client.get(&format!("/v1/jobs/{id}/logs")).await?.good()?.to_string())
}

#[tokio::test]
async fn a_job_whose_approval_is_revoked_while_it_runs_is_denied_its_next_call() -> Result<()> {
    on_both(&[], async |dev| {
        let (api, url) = Api::default().start()?;
        let revoke = async |digest: &str| dev.client.delete(&format!("/v1/modules/{digest}/approval")).await.map(drop);
        let job = ends_after(dev, &url, &api, revoke).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("kv:denied")), "{job}");
        let log = log_of(dev, &job).await?;
        ensure!(log.contains("kv imported"), "the log names what is missing: {log}");
        // What it wrote before stays.
        assert_eq!(entry(dev, "/v1/kv/imported/shop%2Fa").await?["id"], "a");
        assert_eq!(dev.client.get("/v1/kv/imported/shop%2Fb").await?.status, 404);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_whose_tenant_is_narrowed_while_it_runs_is_denied_what_was_taken_away_only() -> Result<()> {
    on_both(&[], async |dev| {
        let (api, url) = Api::default().start()?;
        let narrow = async |_: &str| {
            let grants = json!({"permissions": ["kv cursors", "http http://127.0.0.1:*/v1/"]});
            dev.client.put("/v1/tenant/grants", &grants).await?.good().map(drop)
        };
        let job = ends_after(dev, &url, &api, narrow).await?;
        assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("kv:denied")), "{job}");
        let log = log_of(dev, &job).await?;
        ensure!(log.contains("tenant's grants") && log.contains("kv imported"), "{log}");
        // Given back, it goes on where it ended.
        dev.client.put("/v1/tenant/grants", &json!({"permissions": null})).await?.good()?;
        let again = || async {
            let job = dev.client.run("import", json!(["shop"])).await?;
            Ok((job["state"] == "succeeded").then_some(job["result"].clone()))
        };
        let result = until("the worker allows it", LIMIT, again).await?;
        assert_eq!(result, json!({"pages": 1, "items": 1, "complete": true}));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn values_are_set_on_the_command_line_and_read_by_the_next_job() -> Result<()> {
    let dev = Dev::start().await?;
    let said = |arguments: &[&str]| -> Result<String> {
        let output = dev.umbel(arguments)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (api, url) = Api::default().start()?;
    api.page("", &[], None);
    with_import(&dev, "http://127.0.0.1:1").await?;
    said(&["config", "set", "page_size=7", "note=\u{1b}[31m"])?;
    let listed = said(&["config", "set", &format!("api_url={url}"), "--task", "import"])?;
    ensure!(listed.contains(&format!("api_url={url}")) && listed.contains("page_size=7"), "{listed}");
    ensure!(!listed.contains('\u{1b}'), "what users set does not reach the terminal as it is");
    assert_eq!(said(&["config", "get", "page_size", "--task", "import"])?.trim(), "7");
    dev.client.result("import", json!(["shop"])).await?;
    assert_eq!(api.with(|state| state.asked.clone()), ["/v1/shop?after=&limit=7"]);
    said(&["config", "unset", "api_url", "--task", "import"])?;
    let missing = dev.umbel(&["config", "get", "api_url", "--task", "import"])?;
    assert_eq!(missing.status.code(), Some(4));
    ensure!(String::from_utf8_lossy(&missing.stderr).contains("config_not_found"));
    Ok(())
}
