//! Submits a run's jobs, each until it is acknowledged, and keeps what was seen of them.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{
    Options,
    plan::{self, Kind, Planned},
};
use crate::{Answer, Client, draw::Draw};

/// Most jobs of one request.
const BATCH: u64 = 40;
/// Requests under way at once.
const AT_ONCE: usize = 8;
/// Of one request; then it is repeated.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Between two tries of one request.
const PAUSE: Duration = Duration::from_millis(200);
/// One chord for so many jobs.
const JOBS_A_CHORD: u64 = 200;

/// Jobs that were submitted, and how they were seen.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) options: Options,
    pub(crate) client: Arc<Client>,
    seen: Mutex<Seen>,
    repeated: AtomicU64,
    looks: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Acknowledged jobs by number.
    pub(crate) ids: HashMap<u64, String>,
    /// Numbers of acknowledged jobs, to draw from.
    pub(crate) order: Vec<u64>,
    /// Acknowledged workflows by number.
    pub(crate) chords: HashMap<u64, String>,
    /// The first sight of jobs that had ended.
    pub(crate) ends: HashMap<u64, Value>,
    pub(crate) violations: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(options: Options, client: Arc<Client>) -> Self {
        let (repeated, looks) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { options, client, seen: Mutex::default(), repeated, looks }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn planned(&self, number: u64) -> Planned {
        Planned::of(self.options.seed, number)
    }

    pub(crate) fn looked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub(crate) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    fn acknowledged(&self, number: u64, id: &str) {
        let mut seen = self.seen();
        match seen.ids.insert(number, id.to_owned()) {
            None => seen.order.push(number),
            Some(before) if before == id => {}
            Some(before) => {
                seen.violations.push(format!("job {number} was acknowledged as {before} and as {id}: submitted twice"))
            }
        }
    }
}

/// Submits everything, spread over `span`.
pub(crate) async fn submit_all(ledger: Arc<Ledger>, start: Instant, span: Duration) -> Result<()> {
    let jobs = ledger.options.jobs;
    let mut draw = Draw::part(ledger.options.seed, u64::MAX / 2);
    let (mut chunks, mut first) = (Vec::new(), 0);
    while first < jobs {
        let last = (first + draw.between(1, BATCH)).min(jobs);
        chunks.push(first..last);
        first = last;
    }
    let submit = |chunk: Range<u64>| {
        let ledger = &ledger;
        async move {
            sleep_until(start + span.mul_f64(chunk.start as f64 / jobs as f64)).await;
            if chunk.start / JOBS_A_CHORD != chunk.end / JOBS_A_CHORD {
                chord(ledger, chunk.start).await?;
            }
            jobs_of(ledger, chunk).await
        }
    };
    stream::iter(chunks).map(|chunk| Ok(submit(chunk))).try_buffer_unordered(AT_ONCE).try_collect::<()>().await
}

/// Submits until every job of the chunk is acknowledged, then cancels those that are to be.
async fn jobs_of(ledger: &Ledger, chunk: Range<u64>) -> Result<()> {
    let planned: Vec<Planned> = chunk.map(|number| ledger.planned(number)).collect();
    let mut left: Vec<&Planned> = planned.iter().collect();
    while !left.is_empty() {
        let answers = match &left[..] {
            [one] => vec![submit_one(ledger, one).await?],
            many => submit_many(ledger, many).await?,
        };
        let mut refused = Vec::new();
        for (&planned, id) in left.iter().zip(answers) {
            match id {
                Some(id) => ledger.acknowledged(planned.number, &id),
                None => refused.push(planned),
            }
        }
        left = refused;
        if !left.is_empty() {
            ledger.repeated.fetch_add(left.len() as u64, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
    for planned in planned.iter().filter(|planned| planned.kind == Kind::Cancelled) {
        cancel(ledger, planned).await?;
    }
    Ok(())
}

/// The id, or none when it is to be tried again.
async fn submit_one(ledger: &Ledger, planned: &Planned) -> Result<Option<String>> {
    let request = ledger.client.request(Method::POST, "/v1/jobs").json(&planned.body(ledger.options.seed));
    let Some(answer) = send(ledger, request).await? else { return Ok(None) };
    Ok(Some(answer.json()["id"].as_str().context("a job without an id")?.to_owned()))
}

/// An id for each job, or none for those to be tried again.
async fn submit_many(ledger: &Ledger, many: &[&Planned]) -> Result<Vec<Option<String>>> {
    let body: String = many.iter().map(|planned| format!("{}\n", planned.body(ledger.options.seed))).collect();
    let request = ledger.client.request(Method::POST, "/v1/jobs/batch").header("content-type", "application/x-ndjson");
    let Some(answer) = send(ledger, request.body(body)).await? else { return Ok(vec![None; many.len()]) };
    let mut ids = Vec::with_capacity(many.len());
    for line in answer.text.lines().take(many.len()) {
        let line: Value = serde_json::from_str(line)?;
        let code = line["error"]["code"].as_str().unwrap_or_default();
        if !matches!(
            code,
            "" | "broker_unavailable" | "broker_refused" | "broker_full" | "request_timeout" | "too_many_requests"
        ) {
            bail!("a submission was refused: {line}");
        }
        ids.push(line["id"].as_str().map(str::to_owned));
    }
    ids.resize(many.len(), None);
    Ok(ids)
}

async fn chord(ledger: &Ledger, number: u64) -> Result<()> {
    let body = plan::chord(ledger.options.seed, number);
    let answer = insist(ledger, || ledger.client.request(Method::POST, "/v1/workflows").json(&body)).await?;
    let id = answer.json()["id"].as_str().context("a workflow without an id")?.to_owned();
    ledger.seen().chords.insert(number, id);
    Ok(())
}

async fn cancel(ledger: &Ledger, planned: &Planned) -> Result<()> {
    let id = ledger.seen().ids.get(&planned.number).cloned().context("it was acknowledged")?;
    let path = format!("/v1/jobs/{id}/cancel");
    insist(ledger, || ledger.client.request(Method::POST, &path)).await.map(drop)
}

/// Asks until there is an answer.
async fn insist(ledger: &Ledger, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Answer> {
    loop {
        if let Some(answer) = send(ledger, request()).await? {
            return Ok(answer);
        }
        ledger.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

/// None when the service could not answer, which is to be expected; another refusal is an error.
pub(crate) async fn send(ledger: &Ledger, request: reqwest::RequestBuilder) -> Result<Option<Answer>> {
    let Ok(answer) = ledger.client.send(request.timeout(REQUEST_LIMIT)).await else { return Ok(None) };
    match answer.status {
        200..300 => Ok(Some(answer)),
        429 | 503 | 507 => Ok(None),
        status => bail!("status {status}: {}", answer.text),
    }
}
