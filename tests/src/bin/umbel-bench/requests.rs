//! What a job with one HTTP request costs the worker beyond the same job without, and what 200 jobs take that wait for answers.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::until;

use crate::measure::Service;

/// Jobs of each kind.
const JOBS: usize = 5_000;
/// Jobs that wait for answers.
const WAITING: usize = 200;
const LIMIT: Duration = Duration::from_secs(120);

/// A web server on this machine that answers at once, or when it is told to.
#[derive(Default)]
struct Server {
    waiting: Mutex<usize>,
    told: Condvar,
}

impl Server {
    fn start() -> Result<(Arc<Self>, String)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = Arc::new(Self::default());
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                thread::spawn(move || server.serve(stream));
            }
        });
        Ok((server, url))
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut first = String::new();
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if first.is_empty() {
                    first.clone_from(&line);
                }
            }
            if first.contains("/wait") {
                let mut waiting = self.waiting.lock().ok()?;
                *waiting += 1;
                drop(self.told.wait(waiting).ok()?);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().map_or(0, |waiting| *waiting)
    }
}

pub async fn requests(broker: &str) -> Result<Value> {
    let slots = WAITING.to_string();
    let slots = ["--concurrency", &slots];
    let mut service = Service::start(broker, &slots).await?;
    let (server, url) = Server::start()?;
    let operator = service.another(&["--operator", "--grant"]).await?;
    let bounds = json!({"permissions": ["http http://127.0.0.1:*/", "network 127.0.0.0/8"]});
    operator.put("/v1/tenants/default/grants", &bounds).await?.good()?;
    let pushed = service.client().push("fetch").await?;
    let digest = pushed["digest"].as_str().context("a module has a digest")?;
    operator.post(&format!("/v1/modules/{digest}/approve"), &json!({})).await?.good()?;
    service.release(&slots).await?;
    // The first one connects.
    run(&service, &url, 1).await?;
    let worker = service.worker()?;
    let (threads, rss) = (worker.threads()?, worker.rss_mib()?);
    let job = json!({"task": "fetch", "args": [format!("{url}/wait")]});
    service.client().batch((0..WAITING).map(|_| job.clone())).await?;
    until("all wait for their answers", LIMIT, || async { Ok((server.waiting() == WAITING).then_some(())) }).await?;
    let worker = service.worker()?;
    let (more_threads, more_mib) = (worker.threads()? as i64 - threads as i64, worker.rss_mib()? - rss);
    server.told.notify_all();
    until("they have ended", LIMIT, || async { Ok((service.client().unfinished().await? == 0).then_some(())) }).await?;
    let without = run(&service, "", JOBS).await?;
    let with = run(&service, &url, JOBS).await?;
    Ok(json!({
        "what": "requests", "broker": broker, "n": JOBS,
        "without_us": without, "with_us": with, "request_us": with - without,
        "waiting": WAITING, "more_threads": more_threads, "more_mib": more_mib,
    }))
}

/// Processor time of the worker for each of so many jobs, microseconds.
async fn run(service: &Service, url: &str, n: usize) -> Result<f64> {
    let before = service.worker()?.cpu_s()?;
    let job = json!({"task": "fetch", "args": [url]});
    service.client().batch((0..n).map(|_| job.clone())).await?;
    until("all are done", LIMIT, || async { Ok((service.client().unfinished().await? == 0).then_some(())) }).await?;
    let failed = service.client().jobs("task=fetch&state=failed").await?;
    ensure!(failed.is_empty(), "{}", failed[0]);
    Ok((service.worker()?.cpu_s()? - before) * 1e6 / n as f64)
}
