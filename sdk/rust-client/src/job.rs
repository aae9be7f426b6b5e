//! Jobs: submit, look, wait, read logs. What else is done with jobs is in `jobs`.

use std::{collections::BTreeMap, time::Duration};

use futures::Stream;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use umbel_model::{JobId, JobState, WorkflowId};

use crate::{
    canvas::{self, Signature},
    client::{Client, fresh_key, typed},
    error::{Error, FieldError},
    watch,
};

/// A job as the server shows it. Fields that this version does not know are left out.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Job {
    pub id: JobId,
    #[serde(default)]
    pub task: String,
    /// A submission that was stored while it could not be read back answers with its id alone: then `queued`.
    #[serde(default = "queued")]
    pub state: JobState,
    #[serde(default)]
    pub queue: String,
    /// Number of the current or last attempt, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// RFC 3339, as all times here.
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub started_at: Option<String>,
    #[serde(default)]
    pub finished_at: Option<String>,
    #[serde(default)]
    pub progress: Option<Progress>,
    /// JSON as the task wrote it.
    #[serde(default)]
    pub result: Option<Box<RawValue>>,
    /// Why a result that there is is not in the answer: `too_large`, `gone`.
    #[serde(default)]
    pub result_omitted: Option<String>,
    #[serde(default)]
    pub error: Option<JobError>,
    /// When it is tried again, or starts for the first time.
    #[serde(default, alias = "retry_at")]
    pub due_at: Option<String>,
    /// It was cancelled while it ran, and is left to end.
    #[serde(default)]
    pub let_end: bool,
    #[serde(default)]
    pub worker: Option<String>,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Header stamps.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its attempts that have ended, and the deliveries that were lost, in their order; of many the first and the last.
    #[serde(default)]
    pub history: Vec<Attempt>,
    /// The dead job that it repeats.
    #[serde(default)]
    pub redrive_of: Option<JobId>,
    /// The workflow that it is a node of.
    #[serde(default, alias = "workflow_id")]
    pub workflow: Option<WorkflowId>,
    /// Its place there.
    #[serde(default)]
    pub node: Option<NodePlace>,
    /// The workflow that replaced it: its result is the job's.
    #[serde(default)]
    pub replaced_by: Option<WorkflowId>,
}

/// A job's place in its workflow, and what it inherits of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NodePlace {
    pub number: u32,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn queued() -> JobState {
    JobState::Queued
}

/// How far a running job said it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub done: u64,
    /// 0: unknown.
    pub total: u64,
    pub message: String,
    /// A state of the task's own.
    pub state: Option<String>,
    /// Data of that state.
    pub meta: Option<Value>,
}

/// One line of a job's history.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// Of that attempt, from 1.
    pub delivery: u32,
    /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected`, `trap`, `revoked`, `lost`.
    pub outcome: String,
    pub worker: Option<String>,
    pub error: Option<JobError>,
    pub ended_at: Option<String>,
    pub fuel: u64,
    /// Peak of the guest's memory.
    pub memory_bytes: u64,
    pub duration_us: u64,
    /// The time of a thread that it took.
    pub cpu_us: u64,
    /// Memory × time, KiB·ms.
    pub memory_kib_ms: u64,
    pub http_requests: u64,
    pub http_bytes_out: u64,
    pub http_bytes_in: u64,
    pub kv_operations: u64,
    pub blob_bytes_read: u64,
    pub blob_bytes_written: u64,
}

/// Why a job failed.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct JobError {
    pub kind: String,
    /// Empty where the policy keeps none.
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub details: Option<Box<RawValue>>,
    /// The guest's functions when it trapped, innermost first.
    #[serde(default)]
    pub frames: Vec<String>,
}

/// A job that made what waited for it fail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FailedJob {
    pub job_id: JobId,
    pub task: String,
    pub kind: String,
    pub message: String,
}

impl JobError {
    /// Of `upstream_failed`: the jobs that failed, as many of them as the server names.
    pub fn failed_jobs(&self) -> Vec<FailedJob> {
        #[derive(Deserialize)]
        struct Details {
            failed: Vec<FailedJob>,
        }
        let details = self.details.as_ref().filter(|_| self.kind == "upstream_failed");
        let read = details.and_then(|details| serde_json::from_str(details.get()).ok());
        read.map(|details: Details| details.failed).unwrap_or_default()
    }
}

impl Job {
    /// The result of a job that succeeded, or why there is none.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if self.state == JobState::Succeeded {
            return output(self.id, self.result.as_deref(), self.result_omitted.as_deref());
        }
        Err(not_succeeded(self.id, self.state.as_str(), self.error.as_ref()))
    }
}

pub(crate) fn output<T: DeserializeOwned>(
    id: JobId,
    result: Option<&RawValue>,
    omitted: Option<&str>,
) -> Result<T, Error> {
    match omitted {
        Some(why) => Err(Error::ResultOmitted { id, why: why.to_owned() }),
        None => typed(result.map_or("null", RawValue::get)),
    }
}

pub(crate) fn not_succeeded(id: JobId, state: &'static str, error: Option<&JobError>) -> Error {
    let (kind, message) = error.map_or((state, "it has no result"), |error| (&error.kind, &error.message));
    Error::NotSucceeded { id, state, kind: kind.to_owned(), message: message.to_owned() }
}

/// The answer to a submission of a job that may be unique.
#[derive(Debug, Clone)]
pub struct Submitted {
    pub job: Job,
    /// Nothing was stored: a job like it holds their place, and this is that job.
    pub duplicate: bool,
}

/// The answer to one line of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Accepted {
    /// The job, when the line was taken.
    #[serde(default)]
    pub id: Option<JobId>,
    /// Its idempotency key was known.
    #[serde(default)]
    pub replayed: bool,
    #[serde(default)]
    pub error: Option<Refusal>,
}

/// Why a line of a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    pub code: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

/// Lines of a job's log.
#[derive(Debug, Clone, Deserialize)]
pub struct Lines {
    pub items: Vec<Line>,
    /// The `from` to go on with, now or when the job has written more.
    pub next_from: u64,
}

/// One line of a job's log, as the guest wrote it: escape it before a terminal sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    pub number: u64,
    pub at: String,
    pub attempt: u32,
    pub level: String,
    pub context: String,
    pub message: String,
}

impl watch::Watched for Job {
    type Seen = (JobState, u32, Option<Progress>);

    fn seen(&self) -> Self::Seen {
        (self.state, self.attempt, self.progress.clone())
    }

    fn is_over(&self) -> bool {
        self.state.is_terminal()
    }

    fn state_name(&self) -> &'static str {
        self.state.as_str()
    }
}

impl Client {
    /// Submits a job. It gets an idempotency key if it has none, so that it is submitted once when connections break;
    /// the server keeps a key for a day. Where that is too much for very many jobs, use `batch`.
    pub async fn submit(&self, call: Signature) -> Result<Job, Error> {
        Ok(self.submit_unique(call).await?.job)
    }

    /// The same, and says whether the job is one that was there before: see `Signature::unique`.
    pub async fn submit_unique(&self, call: Signature) -> Result<Submitted, Error> {
        let canvas::Single { call, key } = canvas::single(call)?;
        let key = key.map_or_else(fresh_key, Ok)?;
        let request = self.post("/v1/jobs").json(&call).idempotency_key(key);
        let (text, unique) = request.text_and_header("umbel-unique").await?;
        Ok(Submitted { job: typed(&text)?, duplicate: unique.as_deref() == Some("duplicate") })
    }

    /// Submits many jobs in one request; the answers are in their order. A connection that breaks within is an error, and
    /// some may have been submitted: give each call a key to repeat them safely. With a key each, they are repeated here.
    pub async fn batch(&self, calls: impl IntoIterator<Item = Signature>) -> Result<Vec<Accepted>, Error> {
        let (mut body, mut keyed, mut lines) = (Vec::new(), true, 0_usize);
        for call in calls {
            let single = canvas::single(call)?;
            keyed &= single.key.is_some();
            let call = single.line()?;
            serde_json::to_writer(&mut body, &call).map_err(|error| Error::Request(error.to_string()))?;
            body.push(b'\n');
            lines += 1;
        }
        if lines == 0 {
            return Ok(Vec::new());
        }
        let request = self.post("/v1/jobs/batch").body("application/x-ndjson", body);
        let text = if keyed { request.repeatable() } else { request }.text().await?;
        let answers: Vec<Accepted> = text.lines().map(typed).collect::<Result<_, _>>()?;
        // A body that passes a limit is answered up to there, with the reason in the last line.
        let refused = answers.last().and_then(|last| last.error.clone()).filter(|_| answers.len() != lines);
        match refused {
            Some(Refusal { code, detail, errors }) if answers.len() < lines => {
                let title = format!("{} of {lines} jobs were taken", answers.len().saturating_sub(1));
                Err(Error::Problem(Box::new(crate::Problem {
                    status: 413,
                    code,
                    title,
                    detail,
                    errors,
                    ..Default::default()
                })))
            }
            _ if answers.len() == lines => Ok(answers),
            _ => Err(Error::BadAnswer),
        }
    }

    /// A job as it is now.
    pub async fn job(&self, id: JobId) -> Result<Job, Error> {
        self.get(format!("/v1/jobs/{id}")).answer().await
    }

    /// The job once it has ended, however it ended; after `timeout` it is an `Error::WaitTimeout`.
    pub async fn wait(&self, id: JobId, timeout: Duration) -> Result<Job, Error> {
        watch::wait(self, &format!("/v1/jobs/{id}"), id, timeout).await
    }

    /// The job now, and again whenever its state, attempt or progress differs from the last time, looked at once in
    /// `every`; its end is told at once, and is the last item. An error is the last item too.
    pub fn watch(&self, id: JobId, every: Duration) -> impl Stream<Item = Result<Job, Error>> + Send + 'static {
        watch::watch(self.clone(), format!("/v1/jobs/{id}"), every)
    }

    /// Up to 200 lines of a job's log, from line `from`.
    pub async fn logs(&self, id: JobId, from: u64) -> Result<Lines, Error> {
        self.get(format!("/v1/jobs/{id}/logs")).query("from", from.to_string()).query("limit", "200").answer().await
    }
}
