//! One attempt: the task runs natively with a fake context, and what it did becomes an outcome as a sandbox reports it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use serde_json::value::RawValue;
use umbel_model::{Failure, Outcome, outcome::PANIC};

use super::{Run, call::Arguments};
use crate::{Context, raw};

/// Runs the task. `time_limit_ms` is the hard limit, and what the task slept counts.
pub(super) fn run(run: &Run, context: &Context, arguments: &Arguments, time_limit_ms: u64) -> Outcome {
    // A task that panicked is not run again with this context, and what it recorded is whole.
    let returned = catch_unwind(AssertUnwindSafe(|| match arguments {
        Arguments::One(arguments) => run(context, arguments),
        Arguments::Each(items) => {
            let results: Result<Vec<String>, _> = items.iter().map(|arguments| run(context, arguments)).collect();
            results.map(|results| format!("[{}]", results.join(",")))
        }
    }));
    if context.slept() >= Duration::from_millis(time_limit_ms) {
        let message = format!("the attempt was stopped at its time limit of {time_limit_ms} ms");
        return Outcome::Trap(Failure::new("deadline", message));
    }
    match returned {
        Ok(Ok(result)) => match RawValue::from_string(result) {
            Ok(result) => Outcome::Value(result),
            Err(error) => Outcome::Trap(Failure::new("bad_output", error.to_string())),
        },
        Ok(Err(outcome)) => of_guest(outcome),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Outcome::Trap(Failure::new(PANIC, format!("panicked: {}", text.unwrap_or("(no text)"))))
        }
    }
}

fn of_guest(outcome: raw::Outcome) -> Outcome {
    let kept = |f: raw::Failure| Failure::new(f.kind, f.message).with_details(f.details);
    match outcome {
        raw::Outcome::Error(error) => {
            Outcome::Error { failure: kept(error.failure), retry_after_ms: error.retry_after_ms }
        }
        raw::Outcome::Fatal(failure) => Outcome::Fatal(kept(failure)),
        raw::Outcome::Snooze(delay_ms) => Outcome::Snooze { delay_ms },
        raw::Outcome::Reject(reason) => Outcome::Reject { reason },
        raw::Outcome::Ignore => Outcome::Ignore,
    }
}

/// The outcome's name in a job's history, and the failure that it carries.
pub(super) fn told(outcome: &Outcome) -> (&'static str, Option<Failure>) {
    match outcome {
        Outcome::Value(_) => ("succeeded", None),
        Outcome::Ignore => ("ignored", None),
        Outcome::Error { failure, .. } => ("error", Some(failure.clone())),
        Outcome::Fatal(failure) => ("fatal", Some(failure.clone())),
        Outcome::Snooze { .. } => ("snoozed", None),
        Outcome::Reject { reason } => ("rejected", Some(Failure::new("rejected", reason.clone()))),
        Outcome::Trap(failure) => ("trap", Some(failure.clone())),
        Outcome::Revoked => ("revoked", None),
        Outcome::Released => ("released", None),
    }
}
