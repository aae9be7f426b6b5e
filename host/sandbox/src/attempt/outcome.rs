//! The outcome of an attempt: turns what the guest returned, or how it trapped, into a named outcome.

use umbel_model::{
    Failure, Frame, Outcome,
    outcome::{PANIC, truncated},
};
use wasmtime::{Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

use crate::{
    attempt::{frames, json, log::LastWords, state::State, text::clean, wasi_calls::TooMuch},
    bindings::{GuestOutcome, types},
};

/// The outcome of a guest that returned. Texts that it can make large are cut to the limits of the model.
pub(crate) fn returned(result: Result<String, GuestOutcome>, max_result_bytes: usize) -> Outcome {
    match result {
        Ok(text) if text.len() > max_result_bytes => Outcome::Trap(result_too_large(max_result_bytes)),
        Ok(text) => match json::checked(text) {
            Ok(value) => Outcome::Value(value),
            Err(problem) => Outcome::Trap(Failure::new("bad_output", problem)),
        },
        Err(GuestOutcome::Error(types::Retryable { failure, retry_after_ms })) => {
            Outcome::Error { failure: guest_failure(failure), retry_after_ms }
        }
        Err(GuestOutcome::Fatal(failure)) => Outcome::Fatal(guest_failure(failure)),
        Err(GuestOutcome::Snooze(delay_ms)) => Outcome::Snooze { delay_ms },
        Err(GuestOutcome::Reject(reason)) => {
            Outcome::Reject { reason: clean(&reason, umbel_model::outcome::MAX_MESSAGE_BYTES) }
        }
        Err(GuestOutcome::Ignore) => Outcome::Ignore,
    }
}

pub(crate) fn result_too_large(max: usize) -> Failure {
    let advice = "return a reference to it, or split the work";
    Failure::new("host_limit:result", format!("the result is larger than {max} bytes: {advice}"))
}

fn guest_failure(failure: types::Failure) -> Failure {
    let types::Failure { kind, message, details } = failure;
    let kind = clean(&kind, umbel_model::outcome::MAX_KIND_BYTES);
    let kind = if kind.is_empty() { "error".to_owned() } else { kind };
    let message = clean(&message, umbel_model::outcome::MAX_MESSAGE_BYTES);
    // The model checks that details are JSON and small; the depth is checked here, before anybody parses them.
    let (details, deep) = match details.map(json::checked) {
        Some(Ok(value)) => (Some(value.get().to_owned()), false),
        Some(Err(_)) => (None, true),
        None => (None, false),
    };
    let mut failure = Failure::new(kind, message).with_details(details);
    if deep {
        failure.message = truncated(failure.message, umbel_model::outcome::MAX_MESSAGE_BYTES - 64);
        failure.message.push_str(" (details dropped: not JSON or nested too deep)");
    }
    failure
}

/// Where in an attempt an error came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Instantiate,
    Call,
}

/// A call that ended with an error of wasmtime.
pub(crate) type Failed = (wasmtime::Error, Phase);

/// The outcome of an error of wasmtime. `max_result_bytes` is only for the message.
pub(crate) fn trapped(error: &wasmtime::Error, phase: Phase, state: &State, max_result_bytes: usize) -> Outcome {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let mut failure = named(error, phase, state, max_result_bytes, backtrace.is_some());
    failure.frames = backtrace.map(|backtrace| frames(backtrace, failure.kind == PANIC)).unwrap_or_default();
    Outcome::Trap(failure)
}

fn named(error: &wasmtime::Error, phase: Phase, state: &State, max_result_bytes: usize, in_guest: bool) -> Failure {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trap_failure(*trap, state, in_guest);
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Failure::new("trap:exit", format!("the guest called exit({code}) instead of returning"));
    }
    let text = clean(&format!("{:#}", error.root_cause()), 1_024);
    if error.downcast_ref::<TooMuch>().is_some() {
        return Failure::new("host_limit:call", text);
    }
    // Wasmtime gives these two no public type.
    if text.contains("fuel allocated for hostcalls") {
        return if in_guest {
            Failure::new("host_limit:call", "the guest handed too much to the host in one call")
        } else {
            result_too_large(max_result_bytes)
        };
    }
    if error.downcast_ref::<FieldMapError>().is_some() {
        return Failure::new("host_limit:http_fields", "the guest put too many or too large header fields together");
    }
    let is_table_full = matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full));
    if is_table_full || text.contains("resource table has no free keys") || text.contains("store handle limit") {
        return Failure::new("host_limit:handles", "the guest holds too many open resources");
    }
    match phase {
        _ if state.limiter.memory_refused => memory(state),
        Phase::Instantiate if state.limiter.table_refused => {
            Failure::new("host_limit:table", "the module's tables are larger than the sandbox allows")
        }
        Phase::Instantiate => Failure::new("trap:instantiate", format!("the module did not start: {text}")),
        Phase::Call if in_guest => Failure::new("trap:host_call", text),
        // Reading what the guest returned failed: a bad pointer, text that is not UTF-8, an unknown case.
        Phase::Call => Failure::new("bad_output", format!("what the guest returned cannot be read: {text}")),
    }
}

fn trap_failure(trap: Trap, state: &State, in_guest: bool) -> Failure {
    match trap {
        Trap::OutOfFuel => Failure::new("out_of_fuel", "the attempt used all of its fuel"),
        Trap::Interrupt => deadline(),
        Trap::StackOverflow => Failure::new("stack", "the guest's calls were nested too deep"),
        // An allocator that was refused memory ends so; or a C program that did not look at malloc's answer.
        Trap::UnreachableCodeReached | Trap::MemoryOutOfBounds if state.limiter.memory_refused => memory(state),
        Trap::UnreachableCodeReached => match state.log.last_words() {
            Some(LastWords { text, is_panic: true }) => Failure::new(PANIC, text),
            Some(LastWords { text, .. }) => Failure::new("trap:unreachable", format!("the guest aborted: {text}")),
            None => Failure::new("trap:unreachable", "the guest panicked or aborted and did not say why"),
        },
        other if !in_guest => Failure::new("bad_output", format!("what the guest returned cannot be read: {other}")),
        other => Failure::new(format!("trap:{}", snake_case(&format!("{other:?}"))), other.to_string()),
    }
}

pub(crate) fn deadline() -> Failure {
    Failure::new("deadline", "the attempt reached its hard time limit")
}

fn memory(state: &State) -> Failure {
    let max = state.limiter.max_bytes;
    Failure::new("memory", format!("the guest needed more than its memory limit of {max} bytes"))
}

/// `IntegerDivisionByZero` as `integer_division_by_zero`.
fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn frames(backtrace: &WasmBacktrace, is_panic: bool) -> Vec<Frame> {
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => frames::readable(name),
        None => format!("function {}", frame.func_index()),
    };
    let mut names: Vec<String> = backtrace.frames().iter().map(name).collect();
    if is_panic {
        frames::cut_panic_machinery(&mut names);
    }
    names.into_iter().map(|function| Frame { function }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_traps_are_stable() {
        assert_eq!(snake_case(&format!("{:?}", Trap::IntegerDivisionByZero)), "integer_division_by_zero");
        assert_eq!(snake_case(&format!("{:?}", Trap::MemoryOutOfBounds)), "memory_out_of_bounds");
    }

    #[test]
    fn a_guests_failure_is_cleaned_and_bounded() {
        let failure = types::Failure {
            kind: "\u{1b}[31mTimeout".into(),
            message: "x".repeat(100_000),
            details: Some("[".repeat(1_000) + &"]".repeat(1_000)),
        };
        let Outcome::Fatal(failure) = returned(Err(GuestOutcome::Fatal(failure)), 10) else { panic!() };
        assert_eq!(failure.kind, "Timeout");
        assert!(failure.message.len() <= umbel_model::outcome::MAX_MESSAGE_BYTES);
        assert!(failure.message.ends_with("nested too deep)"));
        assert!(failure.details.is_none());
    }

    #[test]
    fn a_result_over_the_limit_or_not_json_is_named() {
        let kind = |text: &str| match returned(Ok(text.into()), 10) {
            Outcome::Trap(failure) => failure.kind,
            _ => "value".into(),
        };
        assert_eq!(kind("\"12345678\""), "value");
        assert_eq!(kind("\"123456789\""), "host_limit:result");
        assert_eq!(kind("oops"), "bad_output");
    }
}
