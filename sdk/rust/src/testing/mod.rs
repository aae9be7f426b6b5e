//! Jobs and their retries in memory, with a fake clock: for unit tests of what a task's policy does, in milliseconds.
//!
//! Put `umbel = { …, features = ["testing"] }` into the module's dev-dependencies.
//!
//! ```
//! use std::time::Duration;
//! use umbel::{prelude::*, testing::{App, JobState}};
//!
//! /// Charges an order; the bank is down at first.
//! #[task(max_retries = 3, retry_backoff = "1s..1m", dont_retry_on = ["Declined"])]
//! fn charge(ctx: &Context, order_id: u32) -> TaskResult<u32> {
//!     if ctx.attempt() < 3 {
//!         return Err(Retry::new("the bank is down").kind("Unavailable").into());
//!     }
//!     Ok(order_id)
//! }
//!
//! umbel::module![charge];
//!
//! # fn main() {
//! let mut app = App::new(umbel_module::Module).without_jitter();
//! let job = app.submit(charge::s(7)).unwrap();
//! app.run_until_idle();
//! assert_eq!(job.state(), JobState::Succeeded);
//! assert_eq!(job.delays(), [Duration::from_secs(1), Duration::from_secs(2)]);
//! # }
//! ```
//!
//! The host's own code (`umbel-model`) decides what follows an outcome, which layer of a policy has precedence, and how
//! arguments are bound. Not simulated, because it needs a broker or a sandbox: limits on rates and concurrency,
//! uniqueness, lost workers, fuel and memory (`App::trap` pretends that they ran out), JSON Schemas.
//!
//! Invariants: nothing waits and nothing is random but by the seed; one attempt runs at a time, in the order of time,
//! priority and submission.

mod attempt;
mod call;
mod flow;
mod job;
mod time;
mod turns;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
pub use umbel_model::{Failure, JobState, Policy, PolicyBounds};
use umbel_model::{ParameterText, PolicyPatch, canvas::Shape, plain};

pub use flow::Workflow;
pub use job::{Attempt, Job};

use crate::{
    Context, Refused, TaskResult,
    canvas::{Canvas, Options, Signature},
    raw::{self, TaskDescription},
    run::{Module, Task},
};
use job::Record;

/// Attempts of one `run_until_idle` or `advance`, so that a task that is retried for ever ends its test.
pub const MAX_ATTEMPTS: usize = 10_000;
/// 2026-01-01T00:00:00Z, as of `Context::fake`.
const START_MS: u64 = 1_767_225_600_000;

/// Runs a task with a JSON object of arguments.
pub(crate) type Run = dyn Fn(&Context, &str) -> Result<String, raw::Outcome> + Send + Sync;

pub(crate) struct Registered {
    parameters: Vec<ParameterText>,
    policy: PolicyPatch,
    run: Box<Run>,
}

/// Tasks, the jobs that were submitted, and a clock that stands still until it is moved.
pub struct App {
    tasks: BTreeMap<String, Registered>,
    /// The server's layer of each task's policy.
    server: BTreeMap<String, PolicyPatch>,
    bounds: PolicyBounds,
    jitter: bool,
    random: u64,
    now_ms: u64,
    jobs: Vec<Job>,
    flows: Vec<flow::Flow>,
    /// Work items of workflows.
    todo: VecDeque<flow::Todo>,
    /// Attempts that trap instead of running: job, number, why.
    traps: Vec<(usize, u32, Failure)>,
}

impl Default for App {
    /// An app without tasks.
    fn default() -> Self {
        Self {
            tasks: BTreeMap::new(),
            server: BTreeMap::new(),
            bounds: PolicyBounds::default(),
            jitter: true,
            random: 1,
            now_ms: START_MS,
            jobs: Vec::new(),
            flows: Vec::new(),
            todo: VecDeque::new(),
            traps: Vec::new(),
        }
    }
}

impl App {
    /// An app with the tasks of a module: `App::new(umbel_module::Module)`.
    pub fn new<M: Module>(module: M) -> Self {
        let _ = module;
        let mut app = Self::default();
        for task in M::describe() {
            let name = task.name.clone();
            app.register(task, move |context, arguments| M::run(context, &name, arguments));
        }
        app
    }

    /// With one more task: `App::default().with_task::<charge>()`.
    #[must_use]
    pub fn with_task<T: Task + 'static>(mut self) -> Self {
        self.register(T::describe(), T::run);
        self
    }

    /// With a stand-in for a task of another module. It gets an object of its arguments; all `parameters` are required.
    #[must_use]
    pub fn with_stand_in(
        mut self,
        task: &str,
        parameters: &[&str],
        run: impl Fn(&Context, Value) -> TaskResult<Value> + Send + Sync + 'static,
    ) -> Self {
        let parameter = |name: &&str| ParameterText { name: (*name).to_owned(), default: None };
        let parameters = parameters.iter().map(parameter).collect();
        let run = move |context: &Context, arguments: &str| {
            let arguments = crate::run::arguments(arguments)?;
            run(context, arguments).map(|value| value.to_string()).map_err(crate::TaskError::into_outcome)
        };
        let registered = Registered { parameters, policy: PolicyPatch::default(), run: Box::new(run) };
        self.tasks.insert(task.to_owned(), registered);
        self
    }

    /// Retries wait for all of their delay.
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// Other random delays than those of the seed 1. The same seed gives the same delays.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.random = seed;
        self
    }

    /// Other bounds than those that an operator has by default.
    #[must_use]
    pub fn with_bounds(mut self, bounds: PolicyBounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// # Panics
    /// If a description is not one that a server would take: then `cargo test` says what `umbel module push` would.
    fn register(
        &mut self,
        task: TaskDescription,
        run: impl Fn(&Context, &str) -> Result<String, raw::Outcome> + Send + Sync + 'static,
    ) {
        let policy: PolicyPatch = serde_json::from_str(&task.policy).expect("the macro writes a policy");
        let parameter = |p: raw::Parameter| {
            let default =
                p.default.map(|json| serde_json::value::RawValue::from_string(json).expect("a default is JSON"));
            ParameterText { name: p.name, default }
        };
        let parameters = task.parameters.into_iter().map(parameter).collect();
        self.tasks.insert(task.name, Registered { parameters, policy, run: Box::new(run) });
    }

    /// Sets the server's layer of a task's policy, which wins over the code and not over a call. Replaces what was set
    /// before. Fails on an option that is none, or that is of calls only.
    pub fn set_policy(&mut self, task: &str, options: Options) -> Result<(), Refused> {
        let code = self.registered(task)?.policy.clone();
        let Value::Object(options) = json(&options.json()?)? else { return Err(call::invalid("not an object")) };
        let server = call::patch(options)?;
        let decided = Policy::resolve(&code.overlaid(&server));
        self.bounds.check(&decided).map_err(|e| call::invalid(e.to_string()))?;
        self.server.insert(task.to_owned(), server);
        Ok(())
    }

    /// Submits a job. It runs when the clock is told to move, or by `run_due`. Options of the call are
    /// `charge::s(7).set(Options::new().max_retries(1))`.
    pub fn submit(&mut self, signature: Signature) -> Result<Job, Refused> {
        let canvas = flow::parsed(&Canvas::from(signature).json()?)?;
        let alone = canvas.link.is_empty() && canvas.link_error.is_empty();
        let (Shape::Task(signature), true) = (canvas.shape, alone) else {
            return Err(Refused::new("invalid_canvas", "a call with callbacks is a workflow: use App::start"));
        };
        let call = self.call(&signature, None)?;
        Ok(self.add(|number, now| Record::new(number, call, now)))
    }

    /// Starts a workflow: chains, groups, chords, callbacks.
    pub fn start(&mut self, canvas: impl Into<Canvas>) -> Result<Workflow, Refused> {
        self.start_flow(&canvas.into().json()?, None)
    }

    fn add(&mut self, record: impl FnOnce(usize, u64) -> Record) -> Job {
        let record = record(self.jobs.len(), self.now_ms);
        let job = Job(Arc::new(std::sync::Mutex::new(record)));
        self.jobs.push(job.clone());
        job
    }

    /// All jobs, in the order of submission; those of workflows too.
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The time of day, since 1970. An app starts at 2026-01-01T00:00:00Z.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    /// That attempt of the job traps with this kind instead of running: `out_of_fuel`, `memory`, `deadline`, `trap:…`.
    pub fn trap(&mut self, job: &Job, attempt: u32, kind: &str) {
        let failure = Failure::new(kind, "the test asked for it");
        self.traps.push((job.lock().number, attempt, failure));
    }

    /// Revokes a job that waits. False if it has ended.
    pub fn cancel(&mut self, job: &Job) -> bool {
        let number = job.lock().number;
        let ends = !job.state().is_terminal();
        if ends {
            self.revoke(number);
            self.settle_flows();
        }
        ends
    }

    /// Runs what is due, without moving the clock, except for what tasks sleep. Answers the number of attempts.
    pub fn run_due(&mut self) -> usize {
        self.run_until(self.now_ms)
    }

    /// Moves the clock, and runs what becomes due on the way. Answers the number of attempts.
    pub fn advance(&mut self, by: Duration) -> usize {
        let until = self.now_ms.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        let attempts = self.run_until(until);
        self.now_ms = self.now_ms.max(until);
        attempts
    }

    /// Moves the clock from one due job to the next until none is left, or after `MAX_ATTEMPTS`. Answers the number of
    /// attempts.
    pub fn run_until_idle(&mut self) -> usize {
        self.run_until(u64::MAX)
    }
}

fn json(text: &str) -> Result<Value, Refused> {
    serde_json::from_str(text).map_err(|e| Refused::new("invalid_canvas", plain(&e.to_string())))
}
