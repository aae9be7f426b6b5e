//! From a schedule's definition to the job or workflow of one fire, or of a trial.

use std::collections::BTreeMap;

use async_trait::async_trait;
use umbel_broker::{NewJob, NewWorkflow};
use umbel_model::{
    Canvas, Digest, JobId, JsonError, LargeValue, ScheduleStamp, Stamps, TaskName, TenantId, UnixMs, WorkflowId,
    canvas::{Shape, Signature},
    plain,
};
use umbel_schedule::{Definition, DefinitionError, Start};

use crate::{Composer, Error, Fault, FaultKind, Head, JobTemplate, Options, Result, Rules, SubmissionKey, TaskSource};

/// Header stamps that a user may give a task with a schedule: one more says the schedule.
const MAX_HEADERS: usize = 15;
/// The header stamp that says the schedule: lists find its jobs by it.
const HEADER: &str = "schedule";

/// Where arguments are stored that are too large for a job's record.
#[async_trait]
pub trait LargeArguments: Send + Sync {
    /// Stores them for the job; in words why they are not.
    async fn put(&self, tenant: &TenantId, job: JobId, text: &str) -> Result<LargeValue, String>;
}

/// Stores nothing: for a trial.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotStored;

#[async_trait]
impl LargeArguments for NotStored {
    async fn put(&self, _: &TenantId, job: JobId, text: &str) -> Result<LargeValue, String> {
        Ok(LargeValue { sha256: Digest::of(text.as_bytes()), bytes: text.len() as u64, of: job })
    }
}

/// A run of a schedule that is to be composed.
#[derive(Clone, Copy)]
pub struct Scheduled<'a> {
    pub tasks: &'a dyn TaskSource,
    pub rules: &'a Rules,
    pub tenant: &'a TenantId,
    pub definition: &'a Definition,
    pub stamp: &'a ScheduleStamp,
    /// The request that started it, if one did, and its trace.
    pub request_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// The ids that it has as a job, or as a workflow.
    pub job: JobId,
    pub workflow: WorkflowId,
    pub key: Option<&'a SubmissionKey>,
    pub large: &'a dyn LargeArguments,
}

/// What is to be stored of a run.
#[derive(Debug)]
pub enum ScheduledRun {
    Job(Box<NewJob>),
    Workflow(Box<NewWorkflow>),
}

impl Scheduled<'_> {
    /// Looks the tasks up, checks the calls and decides the policies, as for a submission. Pointers of faults begin with `/start`.
    ///
    /// # Errors
    /// As for a submission; and an option that a schedule cannot have.
    pub async fn compose(&self) -> Result<ScheduledRun> {
        let start = &self.definition.written.start;
        let composed = match &start.task {
            Some(task) => self.task(start, task).await,
            None => self.canvas(start).await,
        };
        composed.map_err(placed)
    }

    async fn task(&self, start: &Start, task: &str) -> Result<ScheduledRun> {
        let name = TaskName::new(task).map_err(|error| fault(FaultKind::TaskNotFound, "/task", error.to_string()))?;
        let mut options = options_of(start)?;
        let mut stamps = self.stamps(std::mem::take(&mut options.tags), std::mem::take(&mut options.headers));
        stamps.request_id = self.request_id.map(str::to_owned);
        if !options.on_success.is_empty() || !options.on_failure.is_empty() {
            return self.job_with_callbacks(start, name, options, &stamps).await;
        }
        let facts = match self.definition.written.digest {
            None => self.tasks.task(self.tenant, &name).await?,
            Some(digest) => self.tasks.pinned(self.tenant, &name, digest).await?,
        };
        let facts = facts.ok_or_else(|| self.no_task(&name))?;
        let template = JobTemplate::new(facts, &options, self.tenant.clone(), stamps, self.rules)?;
        let args = start.args().map_err(|error| unreadable(&error))?;
        let kwargs = start.kwargs().map_err(|error| unreadable(&error))?;
        let draft = template.job(self.job, args.as_slice(), &kwargs, self.key.cloned()).await?;
        let stored = match draft.large_arguments() {
            Some(text) => Some(self.large.put(self.tenant, self.job, text).await.map_err(Error::Source)?),
            None => None,
        };
        Ok(ScheduledRun::Job(Box::new(draft.finish(stored))))
    }

    async fn job_with_callbacks(
        &self,
        start: &Start,
        name: TaskName,
        options: Options,
        stamps: &Stamps,
    ) -> Result<ScheduledRun> {
        if self.definition.written.digest.is_some() {
            let detail = "a task with callbacks is a workflow, whose modules are not pinned: take `digest` out";
            return Err(fault(FaultKind::Option, "/options/on_success", detail));
        }
        let mut signature = Signature::new(name);
        let args = start.args().map_err(|error| unreadable(&error))?;
        signature.args = args.as_slice().iter().map(|value| (*value).to_owned()).collect();
        for (name, value) in start.kwargs().map_err(|error| unreadable(&error))?.iter() {
            if signature.kwargs.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(fault(FaultKind::Arguments, "/kwargs", "an argument was given twice by name"));
            }
        }
        let (canvas, options, head) = with_callbacks(signature, options, self.head());
        let composer = self.composer(stamps, "");
        let workflow = composer.job_with_callbacks(canvas, options, head).await.map_err(callbacks_placed)?;
        Ok(ScheduledRun::Workflow(Box::new(workflow)))
    }

    async fn canvas(&self, start: &Start) -> Result<ScheduledRun> {
        let text = start.canvas.as_deref().map_or("null", |canvas| canvas.get());
        let canvas: Canvas = serde_json::from_str(text).map_err(|error| {
            let (pointer, detail) = match JsonError::of_text::<Canvas>(text) {
                Some(JsonError { pointer, detail }) => (pointer, detail),
                None => (String::new(), plain(&error.to_string())),
            };
            fault(FaultKind::Canvas, format!("/canvas{pointer}"), detail)
        })?;
        if start.deadline_ms == Some(0) {
            let detail = "write 1 or more milliseconds; leave it out for no deadline";
            return Err(fault(FaultKind::Option, "/deadline_ms", detail));
        }
        let mut stamps = self.stamps(start.tags.clone(), start.headers.clone());
        stamps.request_id = self.request_id.map(str::to_owned);
        let head = self.head();
        let head = Head {
            name: start.name.clone(),
            deadline_ms: start.deadline_ms.unwrap_or(0),
            keep_ms: start.keep_ms.unwrap_or(head.keep_ms),
            ..head
        };
        let workflow = self.composer(&stamps, "/canvas").workflow(canvas, head).await?;
        Ok(ScheduledRun::Workflow(Box::new(workflow)))
    }

    fn head(&self) -> Head {
        Head { key: self.key.cloned(), ..Head::new(self.workflow) }
    }

    fn composer<'c>(&'c self, stamps: &'c Stamps, pointer: &'c str) -> Composer<'c> {
        let Self { tasks, rules, tenant, .. } = *self;
        Composer { tasks, rules, tenant, stamps, now_ms: self.stamp.fired_at, pointer }
    }

    fn stamps(&self, tags: Vec<String>, mut headers: BTreeMap<String, String>) -> Stamps {
        headers.insert(HEADER.to_owned(), self.stamp.name.to_string());
        Stamps {
            traceparent: self.traceparent.map(str::to_owned),
            request_id: None,
            tags,
            headers,
            schedule: Some(self.stamp.clone()),
        }
    }

    fn no_task(&self, name: &TaskName) -> Error {
        let detail = match self.definition.written.digest {
            None => format!("no task `{name}`; push a module that describes it, or check the name"),
            Some(digest) => format!(
                "there is no module {digest}, or it does not describe `{name}`; push it again, or take `digest` out to run what is \
                 deployed"
            ),
        };
        fault(FaultKind::TaskNotFound, "/task", detail)
    }
}

/// The options of a task, without what only a single submission may have.
fn options_of(start: &Start) -> Result<Options> {
    let text = start.options.as_deref().map_or("null", |options| options.get());
    if text == "null" {
        return Ok(Options::default());
    }
    // Times are checked against a year from now only in what a schedule cannot have.
    let options = Options::parse(text, UnixMs::MAX)?;
    let only_once = [
        ("eta", matches!(options.start, Some(umbel_broker::Start::At(_))), "write `countdown_ms`"),
        ("expires_at", options.expires_at.is_some(), "write `expires_ms`"),
        ("idempotency_key", options.idempotency_key.is_some(), "each of its times has a key of its own: take it out"),
    ];
    if let Some((field, _, remedy)) = only_once.into_iter().find(|(_, given, _)| *given) {
        let detail = format!("it is for a single submission, and a schedule makes many: {remedy}");
        return Err(fault(FaultKind::Option, format!("/options/{field}"), detail));
    }
    if options.headers.keys().filter(|name| *name != HEADER).count() > MAX_HEADERS {
        let detail = format!("at most {MAX_HEADERS} with a schedule, whose name is one more");
        return Err(fault(FaultKind::Option, "/options/headers", detail));
    }
    Ok(options)
}

/// A job with callbacks as a workflow: the canvas, what is left of the options, and the head.
pub fn with_callbacks(signature: Signature, mut options: Options, head: Head) -> (Canvas, Options, Head) {
    // Nodes are kept as long as their workflow.
    let head = Head { keep_ms: options.policy.result_ttl_ms.unwrap_or(head.keep_ms), ..head };
    let link = std::mem::take(&mut options.on_success);
    let link_error = std::mem::take(&mut options.on_failure);
    (Canvas { link, link_error, ..Canvas::new(Shape::Task(signature)) }, options, head)
}

fn fault(kind: FaultKind, pointer: impl Into<String>, detail: impl Into<String>) -> Error {
    Fault::new(kind, pointer, detail).into()
}

/// Arguments that were no list or object would not have been a definition.
fn unreadable(error: &DefinitionError) -> Error {
    Error::Corrupt(error.to_string())
}

fn placed(error: Error) -> Error {
    let place = |fault: Fault| Fault { pointer: format!("/start{}", fault.pointer), ..fault };
    match error {
        Error::Refused(faults) => Error::Refused(faults.into_iter().map(place).collect()),
        other => other,
    }
}

/// Faults of the canvas, in the words of the options that it was made of.
fn callbacks_placed(error: Error) -> Error {
    let place = |pointer: &str| match pointer {
        _ if pointer.starts_with("/link_error/") => pointer.replacen("/link_error", "/options/on_failure", 1),
        _ if pointer.starts_with("/link/") => pointer.replacen("/link", "/options/on_success", 1),
        _ => pointer.to_owned(),
    };
    let place = |fault: Fault| Fault { pointer: place(&fault.pointer), ..fault };
    match error {
        Error::Refused(faults) => Error::Refused(faults.into_iter().map(place).collect()),
        other => other,
    }
}
