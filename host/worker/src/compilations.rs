//! The compilations that run or wait for their turn, and those that failed.
//!
//! Invariants: a module is compiled once at a time; one whose compilation failed is compiled again only after a while, so
//! that its jobs do not keep the compiler busy.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use umbel_model::Digest;
use umbel_sandbox::Prepared;

use crate::error::{MAX_FAILURES, PrepareError};

/// Between two compilations of a module that failed. Less than a job that was snoozed for it waits.
const AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Failures that are remembered before old ones are forgotten, and how long that is.
const KEPT_FAILURES: usize = 1_024;
const FORGET_AFTER: Duration = Duration::from_secs(600);

type End = Option<Result<Prepared, PrepareError>>;

/// See the top of the file. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Compilations {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: HashMap<Digest, watch::Receiver<End>>,
    failed: HashMap<Digest, FailedOften>,
}

struct FailedOften {
    error: PrepareError,
    /// In a row.
    times: u32,
    at: Instant,
}

impl FailedOften {
    fn error(&self, digest: Digest) -> PrepareError {
        match &self.error {
            PrepareError::Unavailable(_, problem) if self.times >= MAX_FAILURES => {
                PrepareError::GivenUp(digest, problem.clone())
            }
            error => error.clone(),
        }
    }
}

/// A compilation that runs or waits for its turn.
#[derive(Clone)]
pub struct Compiling {
    end: watch::Receiver<End>,
}

impl std::fmt::Debug for Compiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiling").finish_non_exhaustive()
    }
}

impl Compiling {
    /// Waits for its end. Safe to drop at any await: the compilation goes on.
    pub async fn ended(mut self, digest: Digest) -> Result<Prepared, PrepareError> {
        let end = self.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or_else(|| Err(PrepareError::Unavailable(digest, "its compilation was stopped".into())))
    }
}

impl Compilations {
    /// No panic can leave it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The compilation of the module that runs, if one does; why it failed, if that was a short time ago.
    pub(crate) fn of(&self, digest: Digest) -> Result<Option<Compiling>, PrepareError> {
        let state = self.state();
        if let Some(failed) = state.failed.get(&digest)
            && failed.at.elapsed() < AGAIN_AFTER
        {
            return Err(failed.error(digest));
        }
        Ok(state.running.get(&digest).map(|end| Compiling { end: end.clone() }))
    }

    /// Begins a compilation in the background, unless one of the module runs. Call it within a tokio runtime.
    pub(crate) fn begin(
        &self,
        digest: Digest,
        compile: impl Future<Output = Result<Prepared, PrepareError>> + Send + 'static,
    ) -> Compiling {
        let mut state = self.state();
        if let Some(end) = state.running.get(&digest) {
            return Compiling { end: end.clone() };
        }
        let (ends, end) = watch::channel(None);
        state.running.insert(digest, end.clone());
        let running = Running { compilations: self.clone(), digest, ends };
        tokio::spawn(async move { running.end(compile.await) });
        Compiling { end }
    }
}

/// A compilation, which is not running any more when this is dropped, even by a panic.
struct Running {
    compilations: Compilations,
    digest: Digest,
    ends: watch::Sender<End>,
}

impl Running {
    fn end(self, result: Result<Prepared, PrepareError>) {
        self.compilations.state().ended(self.digest, &result);
        self.ends.send_replace(Some(result));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.compilations.state().running.remove(&self.digest);
    }
}

impl State {
    fn ended(&mut self, digest: Digest, result: &Result<Prepared, PrepareError>) {
        self.running.remove(&digest);
        if self.failed.len() >= KEPT_FAILURES {
            self.failed.retain(|_, failed| failed.at.elapsed() < FORGET_AFTER);
        }
        match result {
            Err(error @ (PrepareError::Refused(..) | PrepareError::Unavailable(..))) => {
                let times = self.failed.get(&digest).map_or(0, |failed| failed.times).saturating_add(1);
                self.failed.insert(digest, FailedOften { error: error.clone(), times, at: Instant::now() });
            }
            // A module that was missing or damaged may have been pushed again.
            _ => drop(self.failed.remove(&digest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_module_that_fails_again_and_again_is_given_up_and_not_compiled_for_each_job() {
        let (compilations, digest) = (Compilations::default(), Digest::of(b"module"));
        for times in 1..=MAX_FAILURES {
            let failing = async move { Err(PrepareError::Unavailable(digest, "no memory".into())) };
            assert!(compilations.begin(digest, failing).ended(digest).await.is_err());
            let given_up = matches!(compilations.of(digest), Err(PrepareError::GivenUp(..)));
            assert_eq!(given_up, times == MAX_FAILURES, "{times}");
        }
    }

    #[tokio::test]
    async fn a_compilation_that_panics_does_not_run_for_ever() {
        let (compilations, digest) = (Compilations::default(), Digest::of(b"module"));
        let panics = async move { panic!("as the test wants") };
        assert!(matches!(compilations.begin(digest, panics).ended(digest).await, Err(PrepareError::Unavailable(..))));
        assert!(compilations.of(digest).unwrap().is_none());
    }
}
