//! A plain client of the HTTP API, with nothing of Umbel's own code in it.

use std::{sync::Mutex, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use crate::{guest, until};

/// Longest time a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// A client with a token.
#[derive(Debug)]
pub struct Client {
    url: String,
    token: Mutex<String>,
    http: reqwest::Client,
}

/// An answer of the server.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The `code` of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The body, if the status is one of success.
    pub fn good(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "status {}: {}", self.status, self.text);
        Ok(self.json())
    }
}

impl Client {
    pub fn new(url: &str, token: &str) -> Result<Self> {
        Self::trusting(url, token, umbel_tls::trusts_nobody())
    }

    /// A client that connects so with https.
    pub fn trusting(url: &str, token: &str, tls: rustls::ClientConfig) -> Result<Self> {
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        let http = http.timeout(REQUEST_LIMIT).no_proxy().build()?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), token: Mutex::new(token.to_owned()), http })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn token(&self) -> String {
        self.token.lock().map(|token| token.clone()).unwrap_or_default()
    }

    pub(crate) fn set_token(&self, token: &str) {
        if let Ok(mut kept) = self.token.lock() {
            token.clone_into(&mut kept);
        }
    }

    /// A request with the token, to be changed before it is sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.token())
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Changes something.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Uploads bytes as a module.
    pub async fn upload(&self, bytes: Vec<u8>) -> Result<Answer> {
        self.upload_to("/v1/modules", bytes).await
    }

    async fn upload_to(&self, path: &str, bytes: Vec<u8>) -> Result<Answer> {
        let request = self.request(Method::POST, path).header("content-type", "application/wasm").body(bytes);
        self.send(request).await
    }

    /// Uploads a guest and returns what the server says of it.
    pub async fn push(&self, name: &str) -> Result<Value> {
        self.upload(guest(name)?).await?.good().with_context(|| format!("pushing {name}"))
    }

    /// The same for a guest that has tasks with the names of another guest's.
    pub async fn push_over(&self, name: &str) -> Result<Value> {
        let pushed = self.upload_to("/v1/modules?take_over=true", guest(name)?).await?;
        pushed.good().with_context(|| format!("pushing {name}"))
    }

    /// Submits a job and returns its id.
    pub async fn submit(&self, task: &str, args: Value) -> Result<String> {
        self.submit_body(&json!({"task": task, "args": args})).await
    }

    /// Submits a job with options and returns its id.
    pub async fn submit_with(&self, task: &str, args: Value, options: Value) -> Result<String> {
        self.submit_body(&json!({"task": task, "args": args, "options": options})).await
    }

    /// Waits until the job is in this state and returns it.
    pub async fn reaches(&self, id: &str, state: &str) -> Result<Value> {
        until(format!("job {id} is {state}"), Duration::from_secs(60), || async {
            let job = self.job(id).await?;
            Ok((job["state"] == state).then_some(job))
        })
        .await
    }

    /// Submits a job and returns its id.
    pub async fn submit_body(&self, body: &Value) -> Result<String> {
        let job = self.post("/v1/jobs", body).await?.good()?;
        Ok(job["id"].as_str().context("a job without an id")?.to_owned())
    }

    /// Submits many jobs in one batch and returns their ids in order.
    pub async fn batch(&self, lines: impl Iterator<Item = Value>) -> Result<Vec<String>> {
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        let request = self.request(Method::POST, "/v1/jobs/batch").header("content-type", "application/x-ndjson");
        let answer = self.send(request.body(body)).await?;
        answer.good().context("batch")?;
        answer
            .text
            .lines()
            .map(|line| {
                let answer: Value = serde_json::from_str(line)?;
                Ok(answer["id"].as_str().with_context(|| format!("not accepted: {line}"))?.to_owned())
            })
            .collect()
    }

    pub async fn job(&self, id: &str) -> Result<Value> {
        self.get(&format!("/v1/jobs/{id}")).await?.good()
    }

    /// Waits until the job has ended and returns it.
    pub async fn ended(&self, id: &str, limit: Duration) -> Result<Value> {
        until(format!("job {id} ends"), limit, || async {
            let job = self.get(&format!("/v1/jobs/{id}?wait=10s")).await?.good()?;
            Ok(is_ended(&job).then_some(job))
        })
        .await
    }

    /// Submits a job and waits for its end.
    pub async fn run(&self, task: &str, args: Value) -> Result<Value> {
        let id = self.submit(task, args).await?;
        self.ended(&id, Duration::from_secs(60)).await
    }

    /// The result of a job that succeeds.
    pub async fn result(&self, task: &str, args: Value) -> Result<Value> {
        let job = self.run(task, args).await?;
        ensure!(job["state"] == "succeeded", "{task} ended {}: {}", job["state"], job["error"]);
        Ok(job["result"].clone())
    }

    /// Every job that a query finds, all pages.
    pub async fn jobs(&self, query: &str) -> Result<Vec<Value>> {
        self.listed(&format!("/v1/jobs?limit=200&{query}")).await
    }

    /// The items of all pages of a list.
    pub(crate) async fn listed(&self, path: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        // More pages than any scenario has: an endless list is an error and no hang.
        for _ in 0..10_000 {
            let page = self.get(&format!("{path}{cursor}")).await?.good()?;
            all.extend(page["items"].as_array().context("a page without items")?.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
        bail!("{path} does not end")
    }

    /// Jobs of all queues that have not ended.
    pub async fn unfinished(&self) -> Result<u64> {
        let queues = self.get("/v1/queues").await?.good()?;
        let queues = queues["items"].as_array().context("queues without items")?.clone();
        let count = |queue: &Value, field: &str| queue[field].as_u64().unwrap_or_default();
        Ok(queues.iter().map(|q| count(q, "queued") + count(q, "running") + count(q, "delayed")).sum())
    }
}

/// Whether a job's state is a last one.
pub(crate) fn is_ended(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("succeeded" | "failed" | "revoked" | "expired"))
}
