//! `umbel run`: one task of a module file, in the real sandbox, with no server and no broker.

use std::{path::Path, sync::Arc};

use serde_json::value::RawValue;
use tokio::runtime::Handle;
use umbel_broker_sqlite::SqliteBroker;
use umbel_capabilities::{
    AttemptSecrets, Effective, FixedConfig, FixedGrants, Reach,
    http::{HttpClient, HttpConfig, OwnAddresses},
};
use umbel_compose::nearest;
use umbel_model::{
    Digest, Failure as JobFailure, Outcome, ParameterText, Permissions, Policy, PolicyBounds, Progress,
    TaskDescription, TenantId, bind_text,
};
use umbel_sandbox::{AttemptInfo, Call, Described, Host, LogLine, Prepared, Sandbox, StopHandle};
use umbel_worker::KeyValues;

use crate::args::{Format, RunOptions};
use crate::output::{Terminal, bytes_text};
use crate::{
    Exit, Failure, Result,
    client::arguments,
    local_secrets::LocalSecrets,
    serve::{DEFAULT_TENANT, data, http::check_authorities},
};

/// Guests that may be in the sandbox: the description, then the task.
const SLOTS: u32 = 1;

pub async fn run(options: RunOptions, terminal: &Terminal) -> Result {
    let sandbox = data::sandbox(SLOTS)?;
    let (prepared, described) = prepare(&sandbox, &options.module, terminal).await?;
    let task = pick(&described.tasks, options.task.as_ref().map(|name| name.as_str()))?;
    let reach = reach(&options, described.permissions.of_task(task.name.as_str()))?;
    let call = Call { reach, ..call(task, &policy(task, &options)?, bound(task, &options)?, "local") };
    let attempt = sandbox.run(&prepared, call, Arc::new(Stderr(*terminal)), &StopHandle::new()).await;
    let usage = attempt.usage;
    let (took_us, fuel, memory) = (usage.duration_us, usage.fuel, bytes_text(usage.memory_bytes));
    terminal.note(&format!("{took_us} µs, {fuel} fuel, {memory} of memory"));
    finish(attempt.outcome, terminal)
}

/// What `--grant` gives of what the task declares, under the same policy as in a worker. Where a task declares nothing, it stands for
/// the declaration too.
fn reach(options: &RunOptions, declared: Permissions) -> Result<Reach> {
    check_authorities(options.http_ca_file.as_deref())?;
    let granted =
        Permissions::new(options.grant.iter().cloned()).map_err(|e| Failure::usage(format!("--grant: {e}")))?;
    let tenant = TenantId::new(DEFAULT_TENANT).map_err(|e| Failure::usage(e.to_string()))?;
    let secrets = LocalSecrets::read(&tenant, &options.secret, &granted)?;
    let approved = if declared.is_empty() { granted.clone() } else { declared };
    let effective = Effective { operator: granted, tenant: None, approved };
    let grants = Arc::new(FixedGrants(Arc::new(effective)));
    let http = HttpConfig { ca_file: options.http_ca_file.clone(), ..HttpConfig::default() };
    let client = HttpClient::new(http, OwnAddresses::default(), Handle::current());
    let config = Arc::new(FixedConfig(Arc::new(options.config.iter().cloned().collect())));
    // What the task writes is gone with it.
    let store = SqliteBroker::in_memory().map_err(|e| Failure::new("store", e.to_string()))?;
    let kv = Arc::new(KeyValues::new(Arc::new(store), tenant.clone(), None, Handle::current()));
    let secrets = AttemptSecrets::new(Arc::new(secrets), grants.clone());
    let reach = Reach { grants, kv, config, secrets, ..Reach::default() };
    let Reach { grants, meter, secrets, .. } = reach.clone();
    let http = client.attempt(tenant, Digest::of(b"local"), grants, meter, secrets);
    Ok(Reach { http: Some(http), ..reach })
}

/// A call of a task within the limits of its policy, as a first attempt. `name` stands for the job and the queue.
pub fn call(task: &TaskDescription, policy: &Policy, arguments: String, name: &str) -> Call {
    let (job_id, queue) = (name.into(), name.into());
    Call {
        task: task.name.as_str().into(),
        arguments: arguments.into(),
        fuel: policy.fuel,
        memory_bytes: policy.memory_bytes,
        time_limit_ms: policy.time_limit_ms,
        soft_time_limit_ms: policy.soft_time_limit_ms,
        info: AttemptInfo { job_id, queue, attempt: 1, delivery: 1, ..Default::default() },
        reach: Default::default(),
    }
}

/// Compiles and loads a module file, and asks it for its tasks and permissions.
pub async fn prepare(sandbox: &Sandbox, file: &Path, terminal: &Terminal) -> Result<(Prepared, Described)> {
    let module = std::fs::read(file).map_err(|error| Failure::file(file.display(), &error))?;
    let spinner = terminal.spinner("compiling");
    let compiled = data::compiler().compile(&module).await.map_err(|e| Failure::new(e.code.as_str(), e.message))?;
    drop(spinner);
    let prepared = sandbox.load(compiled.into()).map_err(|e| Failure::new("sandbox", e.to_string()))?;
    let described = sandbox.describe(&prepared, &PolicyBounds::default()).await;
    let described = described.map_err(|e| Failure::new(e.code(), e.to_string()))?;
    Ok((prepared, described))
}

/// The task of that name; the only one if none is named.
pub fn pick<'a>(tasks: &'a [TaskDescription], wanted: Option<&str>) -> Result<&'a TaskDescription> {
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
fn bound(task: &TaskDescription, options: &RunOptions) -> Result<String> {
    let named = arguments::named(&options.kwarg)?;
    let values: Vec<Box<RawValue>> = arguments::all_given(&options.args)?;
    let parameters: Vec<ParameterText> = task.parameters.iter().map(ParameterText::from).collect();
    let kwargs = named.iter().map(|(name, value)| (name.as_str(), &**value));
    bind_text(&parameters, values.iter().map(|value| &**value), kwargs).map_err(|errors| {
        let details = errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect();
        Failure::new("invalid_arguments", format!("the arguments do not fit the task {}", task.name)).details(details)
    })
}

fn policy(task: &TaskDescription, options: &RunOptions) -> Result<Policy> {
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
        let LogLine { elapsed, level, context, message, .. } = line;
        let context = if context.is_empty() { context } else { format!(" {context}:") };
        self.0.note(&format!("{:>9.3}s {:>5}{context} {message}", elapsed.as_secs_f64(), level.as_str()));
    }

    fn progress(&self, progress: Progress) {
        let total = if progress.total == 0 { String::new() } else { format!("/{}", progress.total) };
        self.0.note(&format!("progress {}{total} {}", progress.done, progress.message));
    }
}

fn finish(outcome: Outcome, terminal: &Terminal) -> Result {
    let failed = |failure: JobFailure, what: &str| {
        let mut details: Vec<String> = failure.frames.iter().map(|frame| format!("at {}", frame.function)).collect();
        details.extend(failure.details.iter().map(|details| format!("details: {details}")));
        Err(Failure::new(failure.kind, format!("{what}: {}", failure.message)).details(details).exit(Exit::JobFailed))
    };
    let other = |code: &str, message: String| Err(Failure::new(code, message).exit(Exit::JobFailed));
    match outcome {
        Outcome::Value(_) if terminal.format == Format::Id => Ok(()),
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
        let json = |text: &str| serde_json::from_str::<umbel_model::JsonText>(text).unwrap();
        let parameter =
            |name: &str, default| umbel_model::Parameter { name: name.into(), schema: json("true"), default };
        let task = TaskDescription {
            name: umbel_model::TaskName::new("t").unwrap(),
            description: String::new(),
            parameters: vec![parameter("a", None), parameter("b", None), parameter("c", Some(json("\"d\"")))],
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
