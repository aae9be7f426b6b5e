//! What goes into scripts and comes out of them, as bytes. The formats are those of the `struct` strings in `scripts/`:
//! little endian, texts behind their length. JSON texts are kept byte for byte.

use redis::Value;
use serde_json::value::RawValue;
use umbel_broker::{Claim, Delivery, Error, LogLine, NewJob, Renewal, Result, Settle, Start};
use umbel_model::{
    AttemptRecord, Failure, JobRecord, JobState, Progress, Resolution, TenantId, Token, UnixMs, Usage, WorkerId,
};

use crate::keys::member;

/// The largest time or duration that a record holds, milliseconds: 8,900 years. Six bytes.
const MAX_MS: u64 = (1 << 48) - 1;
/// A longer spec is kept under a key of its own, so that the record that changes with every step stays small.
const SPEC_INLINE_BYTES: usize = 1 << 10;

const FLAG_CANCEL: u8 = 1;
const FLAG_SPEC_APART: u8 = 2;
const FLAG_HISTORY_APART: u8 = 4;

/// Bytes for a script.
#[derive(Debug, Default)]
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn ms(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.min(MAX_MS).to_le_bytes()[..6]);
        self
    }

    /// A name of at most 255 bytes; longer ones cannot be made of the types that come here.
    fn name(mut self, text: &str) -> Self {
        debug_assert!(text.len() <= 255);
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn short(mut self, text: &str) -> Self {
        self.0.extend_from_slice(&(text.len() as u16).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn logs(mut self, lines: &[LogLine]) -> Result<Self> {
        let lines = &lines[..lines.len().min(usize::from(u16::MAX))];
        self.0.extend_from_slice(&(lines.len() as u16).to_le_bytes());
        for line in lines {
            self = self.text(&json(line)?);
        }
        Ok(self)
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Failed(format!("a value cannot be written as JSON: {e}")))
}

/// For `submit.lua`.
pub(crate) fn new_job(job: &NewJob) -> Result<Vec<u8>> {
    let apart = job.spec.len() > SPEC_INLINE_BYTES;
    let (inline, outside) = if apart { ("", job.spec.as_str()) } else { (job.spec.as_str(), "") };
    let mut fixed = Packed::default().name(job.queue.as_str()).name(job.task.as_str()).0;
    fixed.extend_from_slice(inline.as_bytes());
    let (start, start_ms) = match job.start {
        Start::Now => (0, 0),
        Start::After(ms) => (1, ms),
        Start::At(at) => (2, at),
    };
    let mut packed = Packed::default()
        .u8(job.priority.min(9))
        .u8(if apart { FLAG_SPEC_APART } else { 0 })
        .u32(job.max_deliveries)
        .u8(start)
        .ms(start_ms)
        .ms(job.expires_ms)
        .ms(job.result_ttl_ms)
        .ms(job.dead_ttl_ms)
        .name(&member(&job.tenant, job.id))
        .name(job.queue.as_str());
    packed = packed.u32(fixed.len() as u32);
    packed.0.extend_from_slice(&fixed);
    packed = packed.text(outside);
    packed = match &job.idempotency {
        Some(i) => {
            if i.key.len() > 1024 || i.body.len() > 1024 {
                return Err(Error::Failed("an idempotency key or body hash is longer than 1024 bytes".into()));
            }
            packed.short(&i.key).short(&i.body).ms(i.ttl_ms)
        }
        None => packed.short("").short("").ms(0),
    };
    Ok(packed.name(&job.redrive_of.map(|id| id.to_string()).unwrap_or_default()).0)
}

/// For `claiming.lua`.
pub(crate) fn claim(claim: &Claim, max: u32) -> Result<Vec<u8>> {
    // Better refused before than found out after the jobs were taken.
    Token::new(format!("{}-{max}", claim.token_seed))
        .map_err(|_| Error::Failed("the token seed of a claim is too long".into()))?;
    let queues = &claim.queues[..claim.queues.len().min(usize::from(u16::MAX))];
    let mut packed =
        Packed::default().name(claim.worker.as_str()).name(claim.token_seed.as_str()).ms(claim.lease_ms).u32(max);
    packed.0.extend_from_slice(&(queues.len() as u16).to_le_bytes());
    for queue in queues {
        packed = packed.name(queue.as_str());
    }
    Ok(packed.0)
}

/// For `settle.lua`.
pub(crate) fn settle(settle: &Settle) -> Result<Vec<u8>> {
    let (code, delay_ms, payload) = match &settle.resolution {
        Resolution::Succeed { result } => (0, 0, result.as_ref().map(|r| r.get().to_owned()).unwrap_or_default()),
        Resolution::Fail { failure } => (1, 0, json(failure)?),
        Resolution::Retry { delay_ms, failure } => (2, *delay_ms, json(failure)?),
        Resolution::Snooze { delay_ms } => (3, *delay_ms, String::new()),
        Resolution::Revoke => (4, 0, String::new()),
        Resolution::Release => (5, 0, String::new()),
    };
    let packed = Packed::default()
        .name(&member(&settle.tenant, settle.id))
        .name(settle.token.as_str())
        .u8(code)
        .ms(delay_ms)
        .text(&payload)
        .text(&settle.record.as_ref().map(attempt).transpose()?.unwrap_or_default())
        .text(&settle.progress.as_ref().map(json).transpose()?.unwrap_or_default());
    Ok(packed.logs(&settle.logs)?.0)
}

/// For `renew.lua`.
pub(crate) fn renewal(renewal: &Renewal) -> Result<Vec<u8>> {
    let packed = Packed::default()
        .name(&member(&renewal.tenant, renewal.id))
        .name(renewal.token.as_str())
        .text(&renewal.progress.as_ref().map(json).transpose()?.unwrap_or_default());
    Ok(packed.logs(&renewal.logs)?.0)
}

/// An attempt as a JSON array: half of the object's size, and there is one in every finished job. `reap.lua` writes
/// the same for a lost delivery.
type Attempt = (u32, u32, WorkerId, UnixMs, String, u64, u64, u64, Option<Failure>);

fn attempt(a: &AttemptRecord) -> Result<String> {
    let Usage { fuel, memory_bytes, duration_us } = a.usage;
    json(&(a.attempt, a.delivery, &a.worker, a.ended_at, &a.outcome, fuel, memory_bytes, duration_us, &a.failure))
}

fn read_attempt(text: &[u8]) -> Result<AttemptRecord> {
    let (attempt, delivery, worker, ended_at, outcome, fuel, memory_bytes, duration_us, failure): Attempt =
        serde_json::from_slice(text).map_err(corrupt)?;
    let usage = Usage { fuel, memory_bytes, duration_us };
    Ok(AttemptRecord { attempt, delivery, worker, ended_at, outcome, failure, usage })
}

pub(crate) fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::Corrupt(why.to_string())
}

/// Reads packed bytes in order.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| corrupt("it is too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.number(4)? as u32)
    }

    /// A time; 0 means none.
    fn time(&mut self) -> Result<Option<UnixMs>> {
        Ok(Some(self.number(6)?).filter(|ms| *ms > 0))
    }

    fn bytes(&mut self, length_bytes: usize) -> Result<&'a [u8]> {
        let n = self.number(length_bytes)? as usize;
        self.take(n)
    }

    fn text(&mut self, length_bytes: usize) -> Result<&'a str> {
        str::from_utf8(self.bytes(length_bytes)?).map_err(corrupt)
    }
}

/// A record, the token of its current or last delivery, and what its reader must look for elsewhere.
#[derive(Debug)]
struct Stored {
    record: JobRecord,
    token: String,
    spec_apart: bool,
    history_apart: bool,
}

fn stored(name: &str, bytes: &[u8]) -> Result<Stored> {
    let (tenant, id) = name.rsplit_once(',').ok_or_else(|| corrupt("a member has no comma"))?;
    let mut r = Reader(bytes);
    if r.number(1)? != 1 {
        return Err(corrupt("its version is not known to this release"));
    }
    let state = r.number(1)? as usize;
    let state = *JobState::ALL.get(state).ok_or_else(|| corrupt("its state is not known"))?;
    let flags = r.number(1)? as u8;
    let priority = r.number(1)? as u8;
    let (retries, deliveries, _max_deliveries) = (r.u32()?, r.u32()?, r.u32()?);
    let created_at = r.number(6)?;
    let (expires_at, due_at, started_at, finished_at) = (r.time()?, r.time()?, r.time()?, r.time()?);
    let (_score, fence, _result_ttl, _dead_ttl) = (r.number(7)?, r.number(7)?, r.number(6)?, r.number(6)?);
    let token = r.text(1)?.to_owned();
    let worker = Some(r.text(1)?).filter(|w| !w.is_empty());
    let mut fixed = Reader(r.bytes(4)?);
    let (queue, task) = (fixed.text(1)?, fixed.text(1)?);
    let spec = str::from_utf8(fixed.0).map_err(corrupt)?;
    let (result, failure, progress) = (r.text(4)?, r.text(4)?, r.text(4)?);
    let entries = r.number(1)?;
    let mut history = Reader(r.bytes(4)?);
    let record = JobRecord {
        id: id.parse().map_err(corrupt)?,
        tenant: TenantId::new(tenant).map_err(corrupt)?,
        task: task.parse().map_err(corrupt)?,
        queue: queue.parse().map_err(corrupt)?,
        priority,
        state,
        spec: spec.to_owned(),
        retries,
        deliveries,
        fence,
        cancel_requested: flags & FLAG_CANCEL > 0,
        created_at,
        due_at,
        expires_at,
        started_at,
        finished_at,
        worker: worker.map(WorkerId::new).transpose().map_err(corrupt)?,
        progress: parsed::<Progress>(progress)?,
        result: some(result).map(|t| RawValue::from_string(t.to_owned())).transpose().map_err(corrupt)?,
        failure: parsed::<Failure>(failure)?,
        history: (0..entries).map(|_| read_attempt(history.bytes(4)?)).collect::<Result<_>>()?,
    };
    let (spec_apart, history_apart) = (flags & FLAG_SPEC_APART > 0, flags & FLAG_HISTORY_APART > 0);
    Ok(Stored { record, token, spec_apart, history_apart })
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<Option<T>> {
    some(text).map(serde_json::from_str).transpose().map_err(corrupt)
}

/// The parts of a script's answer, in order.
#[derive(Debug)]
pub(crate) struct Answer(std::vec::IntoIter<Value>);

impl Answer {
    pub(crate) fn new(value: Value) -> Result<Self> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            other => Err(Error::Failed(format!("a script answered with a {}", kind_of(&other)))),
        }
    }

    pub(crate) fn done(&self) -> bool {
        self.0.len() == 0
    }

    fn next(&mut self) -> Result<Value> {
        self.0.next().ok_or_else(|| Error::Failed("a script's answer is too short".into()))
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(bytes),
            other => Err(Error::Failed(format!("a script answered with a {} for a text", kind_of(&other)))),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(corrupt)
    }

    pub(crate) fn number(&mut self) -> Result<i64> {
        match self.next()? {
            Value::Int(n) => Ok(n),
            other => Err(Error::Failed(format!("a script answered with a {} for a number", kind_of(&other)))),
        }
    }

    /// What `deliver` in `claiming.lua` appended.
    pub(crate) fn delivery(&mut self) -> Result<Delivery> {
        let (name, bytes) = (self.text()?, self.bytes()?);
        let Stored { record, token, spec_apart, .. } = stored(&name, &bytes)?;
        Ok(Delivery {
            tenant: record.tenant,
            id: record.id,
            queue: record.queue,
            token: Token::new(token).map_err(corrupt)?,
            fence: record.fence,
            spec: if spec_apart { self.text()? } else { record.spec },
            retries: record.retries,
            delivery: record.deliveries,
        })
    }

    /// What `read.lua` and `list.lua` append.
    pub(crate) fn job(&mut self) -> Result<JobRecord> {
        let (name, bytes) = (self.text()?, self.bytes()?);
        let Stored { mut record, spec_apart, history_apart, .. } = stored(&name, &bytes)?;
        if spec_apart {
            record.spec = self.text()?;
        }
        if history_apart {
            let mut entries = Self::new(self.next()?)?;
            while !entries.done() {
                record.history.push(read_attempt(&entries.bytes()?)?);
            }
        }
        Ok(record)
    }
}

/// What a value is, without what is in it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) => "number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "list",
        _ => "value of another kind",
    }
}
