//! From the host's call to the task and back: what the macros' code calls when a task runs.
//!
//! Invariants: arguments are parsed straight into the task's own struct, once; nothing of `describe` is touched; a
//! value that cannot be written as JSON is a final error and never half a result.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Context, TaskError,
    raw::{Declared, Failure, Outcome, TaskDescription},
};

/// A function with `#[task]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "put #[task] on a function of this name",
    note = "umbel::module![…] takes the names of functions with #[task]"
)]
pub trait Task {
    /// The name that callers use.
    const NAME: &'static str;
    /// What the task asks to reach, besides what its module does.
    const PERMISSIONS: &'static [&'static str] = &[];
    fn describe() -> TaskDescription;
    /// `arguments` is a JSON object by parameter name.
    fn run(context: &Context, arguments: &str) -> Result<String, Outcome>;
}

/// A module as `module![…]` makes it.
pub trait Module {
    fn describe() -> Vec<TaskDescription>;
    /// What the module and its tasks ask to reach.
    fn declare() -> Vec<Declared>;
    fn run(context: &Context, task: &str, arguments: &str) -> Result<String, Outcome>;
}

/// The host's call of `run`.
#[cfg(target_arch = "wasm32")]
pub fn enter<M: Module>(task: &str, arguments: &str) -> Result<String, Outcome> {
    crate::raw::install_reports();
    M::run(&Context::host(), task, arguments)
}

fn fatal(kind: &str, message: String) -> Outcome {
    Outcome::Fatal(Failure { kind: kind.to_owned(), message, details: None })
}

/// The arguments, or why they do not fit. The host has validated them against the schemas, so this is about what a
/// schema cannot say; it would recur, so it is final.
pub fn arguments<A: DeserializeOwned>(json: &str) -> Result<A, Outcome> {
    serde_json::from_str(json).map_err(|error| fatal("bad_arguments", error.to_string()))
}

/// The permissions of a task, or of the whole module, as the host reads them.
pub fn declared(task: Option<&str>, permissions: &[&str]) -> Vec<Declared> {
    let declared = |permission: &&str| Declared { task: task.map(str::to_owned), permission: (*permission).to_owned() };
    permissions.iter().map(declared).collect()
}

#[cold]
pub fn unknown_task(task: &str) -> Outcome {
    let shown: String = task.chars().take(128).collect();
    fatal("unknown_task", format!("this module has no task {shown:?}"))
}

fn written<T: Serialize>(value: &T) -> Result<String, Outcome> {
    serde_json::to_string(value)
        .map_err(|error| fatal("bad_output", format!("the result cannot be written as JSON: {error}")))
}

/// An error that a task may fail with.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a task",
    label = "a task's error implements `std::error::Error`, or is `TaskError`",
    note = "return `TaskResult<T>` and use `?`: it takes every `std::error::Error`, texts, `Fatal`, `Snooze`, …"
)]
pub trait TaskFailure {
    fn into_outcome(self) -> Outcome;
}

impl<E: Into<TaskError>> TaskFailure for E {
    fn into_outcome(self) -> Outcome {
        self.into().into_outcome()
    }
}

/// Finds out, by autoref, whether a task returned a `Result`. A type that only an alias hides is found too; by
/// `Serialize` alone an `Err` would look like a value.
pub struct Shape<R>(PhantomData<fn() -> R>);

impl<R> Shape<R> {
    pub fn of(_: &R) -> Self {
        Self(PhantomData)
    }
}

/// The task returned a `Result`.
pub struct IsResult;
/// The task returned a value.
pub struct IsValue;

pub trait ResultShape {
    fn shape(&self) -> IsResult;
}

impl<T, E> ResultShape for &Shape<Result<T, E>> {
    fn shape(&self) -> IsResult {
        IsResult
    }
}

pub trait PlainShape {
    fn shape(&self) -> IsValue;
}

impl<T> PlainShape for Shape<T> {
    fn shape(&self) -> IsValue {
        IsValue
    }
}

impl IsResult {
    pub fn finish<T: Serialize, E: TaskFailure>(self, returned: Result<T, E>) -> Result<String, Outcome> {
        match returned {
            Ok(value) => written(&value),
            Err(error) => Err(error.into_outcome()),
        }
    }
}

impl IsValue {
    pub fn finish<T: Serialize>(self, returned: T) -> Result<String, Outcome> {
        written(&returned)
    }
}

/// True if `name` is not among `before`. For a check when the guest is compiled.
pub const fn is_new(before: &[&str], name: &str) -> bool {
    let mut at = 0;
    while at < before.len() {
        if same(before[at].as_bytes(), name.as_bytes()) {
            return false;
        }
        at += 1;
    }
    true
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
