//! Jobs, one by one and in batches: submitted, read, cancelled, forgotten.

use std::fmt::Display;

use async_trait::async_trait;
use umbel_broker::{
    Cancelled, Error, Forgot, JobActed, JobAction, JobPage, JobQuery, Jobs, Label, LogLine, MAX_QUERY_LABELS, NewJob,
    PAGE_SCAN, Result, RunNow, SUPERSEDED, Submitted, superseded_message,
};
use umbel_model::{Failure, JobId, JobRecord, JobState, TenantId};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    blobs::digest,
    bytes::{corrupt, json, some},
    connection::Repeat,
    encode,
    keys::member,
    unknown_code,
};

/// Jobs of one call: it stops everybody else while it runs, and 500 take about 3 ms.
pub(crate) const BATCH: usize = 500;
/// How the function `cancel` is told to leave alone what runs.
const ONLY_WAITING: u8 = 2;
/// The answer of the function `forget` for a node of a workflow.
const IS_NODE: i64 = -2;

#[async_trait]
impl Jobs for RedisBroker {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            let mut args = self.submit_limits()?;
            args.extend(encode::new_jobs(batch)?);
            let mut answer = self.answer("submit", args, Repeat::Safe).await?;
            for code in answer.text()?.bytes() {
                answers.push(submitted(code, || answer.text())?);
            }
        }
        Ok(answers)
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        let mut answer = self.answer("read", args([&member(tenant, id)]), Repeat::Safe).await?;
        if answer.done() { Ok(None) } else { answer.job().map(Some) }
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        let state = query.state.and_then(|state| JobState::ALL.iter().position(|s| *s == state));
        let mut args = args([
            &query.tenant,
            &if query.dead { "dead" } else { "jobs" },
            &or_nothing(query.before.as_ref()),
            &query.max,
            &PAGE_SCAN,
            &or_nothing(state.as_ref()),
            &or_nothing(query.task.as_ref()),
            &or_nothing(query.queue.as_ref()),
            &or_nothing(query.worker.as_ref()),
        ]);
        for label in query.labels.iter().take(MAX_QUERY_LABELS) {
            args.extend([label.hash().into_bytes(), label.text().into_bytes()]);
        }
        let mut answer = self.answer("list", args, Repeat::Safe).await?;
        let next = some(&answer.text()?).map(str::parse).transpose().map_err(corrupt)?;
        let mut jobs = answer.rest(|answer| Ok(answer.summary()?.0))?;
        jobs.retain(|job| Label::are_in(&query.labels, &job.spec));
        Ok(JobPage { jobs, next })
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        let Some(last) = u64::from(max).checked_sub(1).and_then(|n| from.checked_add(n)) else { return Ok(Vec::new()) };
        let bound = |n: u64| n.min(i64::MAX as u64);
        let key = self.connection.keys.logs(tenant, id);
        let lrange = redis::cmd("LRANGE").arg(key).arg(bound(from)).arg(bound(last)).to_owned();
        let mut answer = Answer::new(self.command(&lrange).await?)?;
        answer.rest(|answer| serde_json::from_slice(&answer.bytes()?).map_err(corrupt))
    }

    async fn act(&self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Result<Vec<JobActed>> {
        let (function, how, repeat) = match action {
            JobAction::Cancel { terminate } => ("cancel", u8::from(terminate), Repeat::Safe),
            JobAction::CancelWaiting => ("cancel", ONLY_WAITING, Repeat::Safe),
            JobAction::RunNow => ("run_now", 0, Repeat::Safe),
            JobAction::Forget => ("forget", 0, Repeat::OnlyUnsent),
        };
        let mut args = args([&how]);
        args.extend(ids.iter().map(|id| member(tenant, *id).into_bytes()));
        let codes: Vec<i64> = self.typed(function, args, repeat).await?;
        if codes.len() != ids.len() {
            return Err(unknown_code());
        }
        codes.into_iter().map(|code| acted(action, code)).collect()
    }
}

impl RedisBroker {
    /// The first arguments of the function `submit`.
    pub(crate) fn submit_limits(&self) -> Result<Vec<Vec<u8>>> {
        // The model has the words; the function puts the id in.
        let by = JobId::from_parts(0, 0);
        let superseded = json(&Failure::new(SUPERSEDED, superseded_message(by)))?;
        Ok(args([&self.limits.max_backlog, &self.limits.max_queues, &superseded, &by]))
    }
}

/// What a letter says of a submission; `other` is the id or the digest behind it.
pub(crate) fn submitted(code: u8, other: impl FnOnce() -> Result<String>) -> Result<Submitted> {
    let id = |text: String| text.parse().map_err(corrupt);
    Ok(match code {
        b'C' => Submitted::Created,
        b'E' => Submitted::Existing(id(other()?)?),
        b'X' => Submitted::Conflict(id(other()?)?),
        b'D' => Submitted::Duplicate(id(other()?)?),
        b'F' => Submitted::QueueFull,
        b'Q' => Submitted::TooManyQueues,
        b'N' => Submitted::NotDead,
        b'B' => Submitted::StorageFull,
        b'M' => Submitted::MissingBlob(digest(&other()?)?),
        _ => return Err(unknown_code()),
    })
}

/// What the code of a function means for one job.
fn acted(action: JobAction, code: i64) -> Result<JobActed> {
    let found = state(code)?;
    Ok(match action {
        JobAction::Cancel { .. } | JobAction::CancelWaiting => JobActed::Cancelled(match found {
            None => Cancelled::NotFound,
            Some(JobState::Running) if action == JobAction::CancelWaiting => Cancelled::Runs,
            Some(JobState::Running) => Cancelled::Requested,
            Some(state) if state.is_terminal() => Cancelled::AlreadyEnded(state),
            Some(_) => Cancelled::Revoked,
        }),
        JobAction::RunNow => JobActed::RunNow(match found {
            None => RunNow::NotFound,
            Some(JobState::Scheduled | JobState::Retrying) => RunNow::Queued,
            Some(state) => RunNow::NotWaiting(state),
        }),
        JobAction::Forget => JobActed::Forgot(match found {
            None if code == IS_NODE => Forgot::Node,
            None => Forgot::NotFound,
            Some(state) if state.is_terminal() => Forgot::Forgotten,
            Some(state) => Forgot::NotEnded(state),
        }),
    })
}

/// How a function is given what may be missing.
pub(crate) fn or_nothing(value: Option<&impl Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The state of a function's code; none for -1.
fn state(code: i64) -> Result<Option<JobState>> {
    if code < 0 {
        return Ok(None);
    }
    let state = usize::try_from(code).ok().and_then(|n| JobState::ALL.get(n));
    state.map(|s| Some(*s)).ok_or_else(|| Error::Corrupt("a job's state is not known".into()))
}
