//! Stored records, as readers want them. `library/core.lua` has the format.

use serde_json::value::RawValue;
use umbel_broker::{NodeValue, Result, rules::history};
use umbel_model::{
    AttemptRecord, Failure, JobId, JobRecord, JobState, NodeRef, Progress, TenantId, UnixMs, WorkerId, WorkflowId,
    canvas::node_of,
};

use crate::{
    bytes::{FLAG_SPEC_APART, Reader, corrupt, some},
    nodes::Place,
};

const FLAG_CANCEL: u8 = 1;
const FLAG_NODE: u8 = 8;
const FLAG_REPLACED: u8 = 16;
const FLAG_LET_END: u8 = 64;

/// A record as it is stored.
#[derive(Debug)]
struct Raw<'a> {
    state: JobState,
    flags: u8,
    priority: u8,
    retries: u32,
    deliveries: u32,
    /// Created, expires, due, started, finished.
    times: [Option<UnixMs>; 5],
    fence: u64,
    token: &'a str,
    worker: &'a str,
    queue: &'a str,
    task: &'a str,
    /// The spec; of a node its place and its arguments.
    fixed: &'a [u8],
    /// Of a job that was replaced: the id of the workflow.
    result: &'a str,
    failure: &'a str,
    progress: &'a str,
    history_len: u64,
    history: &'a [u8],
    /// The rest of the usage of all attempts, those included that are kept apart; nothing if an older release wrote the record.
    used: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader(bytes);
        if r.u8()? != 1 {
            return Err(corrupt("its version is not known to this release"));
        }
        let state = *JobState::ALL.get(usize::from(r.u8()?)).ok_or_else(|| corrupt("its state is not known"))?;
        let mut raw = Self {
            state,
            flags: r.u8()?,
            priority: r.u8()?,
            retries: r.u32()?,
            deliveries: r.u32()?,
            // Behind the most deliveries; the fence behind the score, the token behind two retentions.
            times: r.skip(4)?.times()?,
            fence: r.skip(7)?.number(7)?,
            token: r.skip(12)?.text(1)?,
            worker: r.text(1)?,
            fixed: r.bytes(4)?,
            queue: "",
            task: "",
            result: r.text(4)?,
            failure: r.text(4)?,
            progress: r.text(4)?,
            history_len: r.number(1)?,
            history: r.bytes(4)?,
            used: b"",
        };
        raw.used = r.0;
        let mut fixed = Reader(raw.fixed);
        (raw.queue, raw.task, raw.fixed) = (fixed.text(1)?, fixed.text(1)?, fixed.0);
        Ok(raw)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag > 0
    }

    fn place(&self) -> Result<Option<(Place, &'a str)>> {
        self.has(FLAG_NODE).then(|| Place::read(self.fixed)).transpose()
    }

    fn child(&self) -> Result<Option<WorkflowId>> {
        self.has(FLAG_REPLACED).then(|| self.result.parse().map_err(corrupt)).transpose()
    }

    fn own_result(&self) -> Result<Option<Box<RawValue>>> {
        let text = some(self.result).filter(|_| !self.has(FLAG_REPLACED));
        text.map(|t| RawValue::from_string(t.to_owned())).transpose().map_err(corrupt)
    }
}

/// A record, and what its reader must look for elsewhere.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Without what is kept apart. Of a node, its spec is missing.
    pub(crate) record: JobRecord,
    /// Of its current or last delivery.
    pub(crate) token: String,
    /// Of a node.
    pub(crate) place: Option<Place>,
    /// Of a node: its arguments.
    pub(crate) spec_apart: bool,
    /// The rest of the usage of attempts that are kept apart.
    pub(crate) used_apart: Vec<String>,
}

/// Reads the record of the job with that member.
pub(crate) fn stored(name: &str, bytes: &[u8]) -> Result<Stored> {
    let (tenant, id) = name.rsplit_once(',').ok_or_else(|| corrupt("a member has no comma"))?;
    let id: JobId = id.parse().map_err(corrupt)?;
    let raw = Raw::read(bytes)?;
    let [created_at, expires_at, due_at, started_at, finished_at] = raw.times;
    let (place, node, spec) = match raw.place()? {
        Some((place, arguments)) => {
            let (workflow, number) = node_of(id);
            (Some(place), Some(NodeRef { workflow, number, arguments: arguments.to_owned() }), "")
        }
        None => (None, None, Reader(raw.fixed).rest()?),
    };
    let (mut history, mut used) = (Reader(raw.history), used(raw.used));
    let record = JobRecord {
        id,
        tenant: TenantId::new(tenant).map_err(corrupt)?,
        task: raw.task.parse().map_err(corrupt)?,
        queue: raw.queue.parse().map_err(corrupt)?,
        priority: raw.priority,
        state: raw.state,
        spec: spec.to_owned(),
        retries: raw.retries,
        deliveries: raw.deliveries,
        fence: raw.fence,
        cancel_requested: raw.has(FLAG_CANCEL),
        let_end: raw.has(FLAG_LET_END),
        created_at: created_at.unwrap_or_default(),
        // Of a job that is queued it says since when.
        due_at: due_at.filter(|_| matches!(raw.state, JobState::Scheduled | JobState::Retrying)),
        expires_at,
        started_at,
        finished_at,
        worker: some(raw.worker).map(WorkerId::new).transpose().map_err(corrupt)?,
        progress: parsed::<Progress>(raw.progress)?,
        result: raw.own_result()?,
        failure: parsed::<Failure>(raw.failure)?,
        history: (0..raw.history_len)
            .map(|_| read_attempt(history.bytes(4)?, used.next().unwrap_or_default()))
            .collect::<Result<_>>()?,
        node,
        child: raw.child()?,
    };
    let (token, spec_apart) = (raw.token.to_owned(), raw.has(FLAG_SPEC_APART));
    let used_apart = used.map(str::to_owned).collect();
    Ok(Stored { record, token, place, spec_apart, used_apart })
}

/// What a job of a workflow gives, from its record.
pub(crate) fn job_value(bytes: &[u8]) -> Result<NodeValue> {
    let raw = Raw::read(bytes)?;
    let (place, _) = raw.place()?.ok_or_else(|| corrupt("a node's record says that it is none"))?;
    Ok(NodeValue::Job {
        task: raw.task.parse().map_err(corrupt)?,
        state: raw.state,
        on_failure: place.on_failure,
        after: place.after,
        result: raw.own_result()?,
        failure: parsed::<Failure>(raw.failure)?,
        child: raw.child()?,
    })
}

/// An attempt as it is stored: a list, and the rest of its usage. `reap` in `maintenance.lua` writes the list of a lost delivery.
pub(crate) fn read_attempt(text: &[u8], more: &str) -> Result<AttemptRecord> {
    history::read(text, more).map_err(corrupt)
}

/// The rest of the usage of each attempt, of which nothing is known if it cannot be read.
fn used(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').map(|line| str::from_utf8(line).unwrap_or_default())
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<Option<T>> {
    some(text).map(serde_json::from_str).transpose().map_err(corrupt)
}
