//! Many submissions in one request: NDJSON in, one line of NDJSON out for each, in order.
//!
//! Lines are parsed while the chunk before them is being stored. The answers are held until the body has been read,
//! so that a client that writes all before it reads cannot lock itself up; their size has a limit. A failure within
//! the body cannot undo what was stored: it becomes the last line of the answer.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse as _,
};
use bytes::{Buf as _, Bytes, BytesMut};
use serde::Serialize;
use tokio::task::JoinHandle;
use umbel_broker::Submitted;
use umbel_compose::{JobTemplate, Options};
use umbel_model::JobId;

use crate::{
    body::{Checked, Chunks, is_declared_longer, media_type, object_of, or_drain, too_large},
    extract::Context,
    footprint,
    outcome::{Outcome, submitted},
    problem::{FieldError, Problem, Result},
    state::Api,
    storage_quota,
    submission::{NewJobs, Origin, Signature, known_job, options_of, submission_key},
};

/// Jobs stored in one step.
const CHUNK: usize = 500;
/// Bytes of lines that are stored in one step: the line that reaches them is the last.
const CHUNK_BYTES: usize = 4 << 20;
/// Templates kept within a chunk: tasks and options usually repeat.
const TEMPLATES: usize = 16;
/// Bytes of answers with details; beyond them an error is its code only.
const MAX_DETAILED_BYTES: usize = 16 << 20;

/// Submits many jobs: one submission a line, one answer a line.
///
/// A line is what `POST /v1/jobs` takes; blank lines are skipped. The answer to it is `{"id":…}`, with
/// `"replayed":true` when its idempotency key was known, `"duplicate":true` when it is a unique job that is there
/// already, or `{"error":{"code":…,"detail":…}}`. When the body is cut
/// short or passes a limit, the last line says so; what was stored before stays.
#[utoipa::path(
    post, path = "/v1/jobs/batch", tag = "jobs",
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, content_type = "application/x-ndjson", body = String))
)]
pub(crate) async fn submit_batch(cx: Context, headers: HeaderMap, body: Body) -> Result {
    let Context { api, caller, request_id, .. } = cx;
    let ((), body) = or_drain(check_headers(&api, &headers), body).await?;
    let (permit, body) = or_drain(api.batches.acquire(&caller.tenant).await, body).await?;
    footprint::keep(permit);
    let mut batch = Batch::new(&api, Origin::of(&caller, &request_id, &headers));
    if let Err(problem) = batch.read(body).await {
        if batch.lines == 0 {
            return Err(problem);
        }
        batch.entries.push(Err(problem));
    }
    batch.flush().await;
    batch.join().await;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/x-ndjson")], batch.answers).into_response())
}

fn check_headers(api: &Api, headers: &HeaderMap) -> Result<()> {
    let media_type = media_type(headers);
    if !matches!(&*media_type, "application/x-ndjson" | "application/ndjson" | "application/jsonl") {
        return Err(Problem::unsupported_media_type("send `Content-Type: application/x-ndjson`"));
    }
    if headers.contains_key("idempotency-key") {
        let detail = "Idempotency-Key: a batch has one key a line, in options.idempotency_key";
        return Err(Problem::invalid_header(detail));
    }
    if is_declared_longer(headers, api.config.max_batch_bytes as u64) {
        return Err(too_large(api.config.max_batch_bytes));
    }
    Ok(())
}

/// Places named in one line's error.
const LINE_ERRORS: usize = 4;

/// The outcome of reading a line: a job to store, or a refusal.
type Entry = Result<ToStore>;

struct ToStore {
    id: JobId,
    /// With an idempotency key: the hash of the line in canonical form.
    body: Option<String>,
}

/// A chunk being stored, and the lines that it answers.
struct InFlight {
    stored: JoinHandle<umbel_broker::Result<Vec<Submitted>>>,
    entries: Vec<Entry>,
}

struct Batch<'a> {
    api: &'a Api,
    origin: Origin,
    lines: usize,
    /// Bytes of the lines of this chunk.
    bytes: usize,
    templates: Vec<Prepared>,
    new: NewJobs,
    entries: Vec<Entry>,
    in_flight: Option<InFlight>,
    /// The broker's failure: the lines after it are not tried.
    failed: Option<Problem>,
    answers: Vec<u8>,
}

/// A template and the texts that it was made from.
struct Prepared {
    task: String,
    options: String,
    idempotency_key: Option<String>,
    template: JobTemplate,
}

impl<'a> Batch<'a> {
    fn new(api: &'a Api, origin: Origin) -> Self {
        Self {
            api,
            origin,
            lines: 0,
            bytes: 0,
            templates: Vec::new(),
            new: NewJobs::default(),
            entries: Vec::with_capacity(CHUNK),
            in_flight: None,
            failed: None,
            answers: Vec::new(),
        }
    }

    async fn read(&mut self, body: Body) -> Result<()> {
        let mut chunks = Chunks::new(self.api, body);
        let mut rest = BytesMut::new();
        let mut read = 0;
        while let Some(chunk) = chunks.next().await? {
            read += chunk.len();
            if read > self.api.config.max_batch_bytes {
                return Err(too_large(self.api.config.max_batch_bytes));
            }
            // Only the new part can hold the end of the line under way.
            let mut searched = rest.len();
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest[searched..].iter().position(|b| *b == b'\n') {
                let line = rest.split_to(searched + end);
                rest.advance(1);
                searched = 0;
                self.line(line.freeze()).await?;
            }
            if rest.len() > self.api.config.max_body_bytes {
                return Err(too_large(self.api.config.max_body_bytes));
            }
        }
        self.line(rest.freeze()).await
    }

    async fn line(&mut self, line: Bytes) -> Result<()> {
        let line = line.slice_ref(line.trim_ascii());
        if line.is_empty() {
            return Ok(());
        }
        if self.lines == self.api.config.max_batch_lines {
            let detail = format!("at most {} lines are taken", self.api.config.max_batch_lines);
            return Err(Problem::too_many_lines(detail));
        }
        self.lines += 1;
        self.bytes += line.len();
        let entry = match &self.failed {
            Some(problem) => Err(problem.clone()),
            None => self.add(line).await,
        };
        self.entries.push(entry);
        if self.entries.len() >= CHUNK || self.bytes >= CHUNK_BYTES {
            self.flush().await;
        }
        Ok(())
    }

    /// Prepares the job of a line.
    async fn add(&mut self, line: Bytes) -> Entry {
        if line.len() > self.api.config.max_body_bytes {
            return Err(too_large(self.api.config.max_body_bytes));
        }
        let line = Checked::new(self.api, line).await?;
        let signature: Signature<'_> = object_of(line.text())?;
        let options = signature.options.map_or("", |json| json.get());
        let at = match self.templates.iter().position(|p| p.task == *signature.task && p.options == options) {
            Some(at) => at,
            None => self.prepare(&signature.task, options).await?,
        };
        let prepared = &self.templates[at];
        let key = prepared.idempotency_key.as_ref().map(|key| submission_key(key, &line.0));
        let body = key.as_ref().map(|key| key.canonical_body.clone());
        let id = self.new.add(self.api, &prepared.template, &signature, key).await?;
        Ok(ToStore { id, body })
    }

    /// The index of a new template.
    async fn prepare(&mut self, task: &str, options: &str) -> Result<usize> {
        let parsed = if options.is_empty() { Options::default() } else { options_of(options)? };
        if !parsed.on_success.is_empty() || !parsed.on_failure.is_empty() {
            let detail = "on_success, on_failure: a line of a batch has none; use POST /v1/jobs or POST /v1/workflows";
            return Err(Problem::invalid_option(detail));
        }
        let idempotency_key = parsed.idempotency_key.clone();
        let template = self.origin.template(self.api, task, parsed).await?;
        if self.templates.len() == TEMPLATES {
            self.templates.clear();
        }
        self.templates.push(Prepared { task: task.into(), options: options.into(), idempotency_key, template });
        Ok(self.templates.len() - 1)
    }

    /// Hands the chunk to the broker once the one before is stored: jobs stay in order.
    async fn flush(&mut self) {
        self.join().await;
        // A deploy is seen by the next chunk.
        self.templates.clear();
        self.bytes = 0;
        let new = std::mem::take(&mut self.new);
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(CHUNK));
        if let Some(problem) = &self.failed {
            let problem = problem.clone();
            entries.into_iter().for_each(|entry| self.answer(entry.and(Err(problem.clone()))));
            return;
        }
        let (broker, store) = (self.api.broker.clone(), self.api.store.clone());
        let stored = tokio::spawn(async move { new.submit(&*broker, &store).await });
        self.in_flight = Some(InFlight { stored, entries });
    }

    /// Waits for the chunk in flight and writes its answers.
    async fn join(&mut self) {
        let Some(InFlight { stored, entries }) = self.in_flight.take() else { return };
        let stored = match stored.await {
            Ok(stored) => stored.map_err(Problem::from),
            Err(_) => Err(Problem::internal("storing the chunk failed; the server's log says more")),
        };
        let full = match &stored {
            Ok(answers) => storage_quota::of_any(self.api, &self.origin.tenant, answers).await,
            Err(_) => None,
        };
        let mut stored = stored.map(Vec::into_iter);
        for entry in entries {
            let outcome = match (entry, &mut stored) {
                (Err(problem), _) => Err(problem),
                (Ok(_), Err(problem)) => Err(problem.clone()),
                (Ok(ToStore { id, body }), Ok(answers)) => match answers.next() {
                    None => Err(Problem::no_broker_answer()),
                    Some(Submitted::Conflict(first)) => {
                        known_job(self.api, &self.origin.tenant, first, body.as_deref()).await
                    }
                    Some(answer) => submitted(answer, id, full.as_ref()),
                },
            };
            self.answer(outcome);
        }
        self.failed = stored.err();
    }

    fn answer(&mut self, outcome: Result<Outcome>) {
        match outcome {
            Ok(outcome) => {
                let known = match outcome {
                    Outcome::New(_) => "",
                    Outcome::Replayed(_) => r#","replayed":true"#,
                    Outcome::Duplicate(_) => r#","duplicate":true"#,
                };
                let line = format!("{{\"id\":\"{}\"{known}}}\n", outcome.id());
                self.answers.extend_from_slice(line.as_bytes());
            }
            Err(problem) => {
                let detailed = self.answers.len() < MAX_DETAILED_BYTES;
                let error = LineError {
                    code: problem.code(),
                    detail: if detailed { problem.detail() } else { "" },
                    retryable: problem.is_retryable(),
                    errors: if detailed { problem.first_errors(LINE_ERRORS) } else { &[] },
                };
                // Texts and numbers into memory: there is nothing to fail.
                if serde_json::to_writer(&mut self.answers, &Refused { error }).is_ok() {
                    self.answers.push(b'\n');
                }
            }
        }
    }
}

#[derive(Serialize)]
struct Refused<'a> {
    error: LineError<'a>,
}

#[derive(Serialize)]
struct LineError<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}
