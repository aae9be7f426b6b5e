//! `umbel run`: one task of a module file, in the real sandbox, with no server and no broker.

use std::{path::Path, sync::Arc};

use serde_json::value::RawValue;
use umbel_model::{
    Failure as JobFailure, Outcome, ParameterText, Policy, PolicyBounds, Progress, TaskDescription, bind_text,
};
use umbel_sandbox::{AttemptInfo, Call, Host, LogLine, Prepared, Sandbox, StopHandle};

use crate::{
    args::{Format, RunOptions},
    client::arguments,
    failure::{Exit, Failure},
    output::{Terminal, bytes_text},
    serve::data,
    suggest::nearest,
};

/// Guests that may be in the sandbox: the description, then the task.
const SLOTS: u32 = 1;

pub async fn run(options: RunOptions, terminal: &Terminal) -> Result<(), Failure> {
    let sandbox = data::sandbox(SLOTS)?;
    let (prepared, tasks) = prepare(&sandbox, &options.module, terminal).await?;
    let task = pick(&tasks, options.task.as_ref().map(|name| name.as_str()))?;
    let arguments = bound(task, &options)?;
    let policy = policy(task, &options)?;
    let call = Call {
        task: task.name.as_str().into(),
        arguments: arguments.into(),
        fuel: policy.fuel,
        memory_bytes: policy.memory_bytes,
        time_limit_ms: policy.time_limit_ms,
        soft_time_limit_ms: policy.soft_time_limit_ms,
        info: AttemptInfo {
            job_id: "local".into(),
            queue: "local".into(),
            attempt: 1,
            delivery: 1,
            ..Default::default()
        },
    };
    let stop = StopHandle::new();
    let attempt = sandbox.run(&prepared, call, Arc::new(Stderr(*terminal)), &stop).await;
    let usage = attempt.usage;
    terminal.note(&format!(
        "{} µs, {} fuel, {} of memory",
        usage.duration_us,
        usage.fuel,
        bytes_text(usage.memory_bytes)
    ));
    finish(attempt.outcome, terminal)
}

/// Compiles and loads a module file, and asks it for its tasks.
pub async fn prepare(
    sandbox: &Sandbox,
    file: &Path,
    terminal: &Terminal,
) -> Result<(Prepared, Vec<TaskDescription>), Failure> {
    let module = std::fs::read(file).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Failure::new("file", format!("{} cannot be read: {error}", file.display())).exit(exit)
    })?;
    let spinner = terminal.spinner("compiling");
    let compiled = data::compiler().compile(&module).await.map_err(|e| Failure::new(e.code.as_str(), e.message))?;
    drop(spinner);
    let prepared = sandbox.load(compiled.into()).map_err(|e| Failure::new("sandbox", e.to_string()))?;
    let described = sandbox.describe(&prepared, &PolicyBounds::default()).await;
    let tasks = described.map_err(|e| Failure::new(e.code(), e.to_string()))?;
    Ok((prepared, tasks))
}

/// The task of that name; the only one if none is named.
pub fn pick<'a>(tasks: &'a [TaskDescription], wanted: Option<&str>) -> Result<&'a TaskDescription, Failure> {
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let Some(wanted) = wanted else {
        return match tasks {
            [only] => Ok(only),
            _ => Err(Failure::usage("the module has several tasks").help(format!("name one: {}", names.join(", ")))),
        };
    };
    tasks.iter().find(|task| task.name.as_str() == wanted).ok_or_else(|| {
        let failure = Failure::new("task_not_found", format!("the module has no task {wanted}")).exit(Exit::NotFound);
        match nearest(wanted, names.iter().copied()) {
            Some(near) => failure.help(format!("a task with a similar name exists: {near}")),
            None => failure.help(format!("it has: {}", names.join(", "))),
        }
    })
}

/// The arguments as one JSON object.
fn bound(task: &TaskDescription, options: &RunOptions) -> Result<String, Failure> {
    let named = arguments::named(&options.kwarg)?;
    let values: Vec<Box<RawValue>> = options.args.iter().map(|text| arguments::value(text)).collect();
    let parameters: Vec<ParameterText> = task.parameters.iter().map(ParameterText::from).collect();
    let kwargs = named.iter().map(|(name, value)| (name.as_str(), &**value));
    bind_text(&parameters, values.iter().map(|value| &**value), kwargs).map_err(|errors| {
        let details = errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect();
        Failure::new("invalid_arguments", format!("the arguments do not fit the task {}", task.name)).details(details)
    })
}

fn policy(task: &TaskDescription, options: &RunOptions) -> Result<Policy, Failure> {
    let mut policy = Policy::resolve(&task.policy);
    policy.fuel = options.fuel.unwrap_or(policy.fuel);
    policy.memory_bytes = options.memory.unwrap_or(policy.memory_bytes);
    if let Some(limit) = options.time_limit {
        policy.time_limit_ms = limit;
        policy.soft_time_limit_ms = policy.soft_time_limit_ms.min(limit.saturating_sub(1));
    }
    PolicyBounds::default().check(&policy).map_err(|e| Failure::usage(e.to_string()))?;
    Ok(policy)
}

/// Writes the log lines of a running guest to stderr.
struct Stderr(Terminal);

impl Host for Stderr {
    fn log(&self, line: LogLine) {
        let context = if line.context.is_empty() { String::new() } else { format!(" {}:", line.context) };
        self.0.note(&format!(
            "{:>9.3}s {:>5}{context} {}",
            line.elapsed.as_secs_f64(),
            line.level.as_str(),
            line.message
        ));
    }

    fn progress(&self, progress: Progress) {
        let total = if progress.total == 0 { String::new() } else { format!("/{}", progress.total) };
        self.0.note(&format!("progress {}{total} {}", progress.done, progress.message));
    }
}

fn finish(outcome: Outcome, terminal: &Terminal) -> Result<(), Failure> {
    let failed = |failure: JobFailure, what: &str| {
        let mut details: Vec<String> = failure.frames.iter().map(|frame| format!("at {}", frame.function)).collect();
        details.extend(failure.details.iter().map(|details| format!("details: {details}")));
        Err(Failure::new(failure.kind, format!("{what}: {}", failure.message)).details(details).exit(Exit::JobFailed))
    };
    let other = |code: &str, message: String| Err(Failure::new(code, message).exit(Exit::JobFailed));
    match outcome {
        Outcome::Value(result) if terminal.format == Format::Id => {
            drop(result);
            Ok(())
        }
        Outcome::Value(result) => terminal.json(result.get()),
        Outcome::Ignore => terminal.line("null"),
        Outcome::Error { failure, .. } => failed(failure, "the task failed, and would be retried"),
        Outcome::Fatal(failure) => failed(failure, "the task failed for good"),
        Outcome::Trap(failure) => failed(failure, "the sandbox stopped the task"),
        Outcome::Snooze { delay_ms } => other("snoozed", format!("the task wants to run again in {delay_ms} ms")),
        Outcome::Reject { reason } => other("rejected", format!("the task refuses the job: {reason}")),
        Outcome::Revoked | Outcome::Released => other("stopped", "the task was stopped".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn arguments_are_bound_with_all_their_digits() {
        let parameter =
            |name: &str, default| umbel_model::Parameter { name: name.into(), schema: true.into(), default };
        let task = TaskDescription {
            name: umbel_model::TaskName::new("t").unwrap(),
            description: String::new(),
            parameters: vec![parameter("a", None), parameter("b", None), parameter("c", Some("d".into()))],
            returns: None,
            policy: Default::default(),
        };
        let line = ["umbel", "run", "m.wasm", "t", "99999999999999999999999", "--kwarg", "b=x"];
        let crate::args::Command::Run(options) = crate::args::Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        assert_eq!(bound(&task, &options).unwrap(), r#"{"a":99999999999999999999999,"b":"x","c":"d"}"#);
    }
}
