//! The command line: verbs, flags, and the environment variables behind them. No logic but parsing.

mod blob;
mod bulk;
mod config;
mod job;
mod kv;
mod manage;
mod schedule;
mod secret;
mod service;
mod usage;
mod worker;
mod workflow;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use umbel_model::{
    ConfigName, DigestPrefix, JobState, Permission, Rate, SecretName, TaskName,
    human::{duration_ms as duration, size_bytes as size},
};

pub use self::{
    blob::*, bulk::*, config::*, job::*, kv::*, manage::*, schedule::*, secret::*, service::*, usage::*, worker::*,
    workflow::*,
};

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 the job failed (when waiting), 4 not found, 5 token refused, 6 conflict,
7 unavailable, 75 start it again (`umbel worker --no-respawn`), 130 interrupted.
Client verbs find their server by the first of: --url and --token; UMBEL_URL and UMBEL_TOKEN; the profile that `umbel dev`
wrote to .umbel/ in this folder or above; ~/.config/umbel/profile.json.";

/// Runs background jobs, each in a WebAssembly sandbox of its own.
#[derive(Debug, Parser)]
#[command(name = "umbel", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub server: ServerFlags,
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(flatten)]
    pub logging: LoggingFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerFlags {
    /// Address of the server, such as https://umbel.example or http://127.0.0.1:7717
    #[arg(long, global = true, env = "UMBEL_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Bearer token
    #[arg(long, global = true, env = "UMBEL_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Authorities to trust with https instead of the system's (PEM)
    #[arg(long, global = true, env = "UMBEL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// Form of the output
    #[arg(short, long, global = true, env = "UMBEL_OUTPUT", default_value = "table", value_name = "FORMAT")]
    pub output: Format,
    /// The same as `-o json`
    #[arg(long, global = true)]
    pub json: bool,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// The server's answer as JSON
    Json,
    /// One JSON object a line
    Jsonl,
    /// Only ids or names, one a line
    Id,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log (stderr)")]
pub struct LoggingFlags {
    /// Form of log lines
    #[arg(long, global = true, env = "UMBEL_LOG_FORMAT", default_value = "human", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Lowest level to log, or a filter such as info,umbel_worker=debug
    #[arg(long, global = true, env = "UMBEL_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything in one process: API, worker, background services
    Dev(DevOptions),
    /// The API and the background services
    Server(ServerOptions),
    /// Run jobs from a broker, or show and control running workers
    Worker(WorkerCommand),
    /// Upload and show modules
    #[command(subcommand)]
    Module(ModuleVerb),
    /// Tasks: parameters, policies, and the module of each
    #[command(subcommand)]
    Task(TaskVerb),
    /// Run one task of a module file here, in the sandbox, with no server
    Run(RunOptions),
    /// Submit jobs and follow them
    #[command(subcommand)]
    Job(JobVerb),
    /// Follow the changes of all your jobs until interrupted
    Events(EventsOptions),
    /// Workflows: chains, groups and chords of tasks
    #[command(subcommand)]
    Workflow(WorkflowVerb),
    /// Schedules: start tasks and workflows at their times
    #[command(subcommand)]
    Schedule(ScheduleVerb),
    /// Queues: depths, pause, limits, purge
    #[command(subcommand)]
    Queue(QueueVerb),
    /// Blobs, files that jobs take and make: put, get, list
    #[command(subcommand)]
    Blob(BlobVerb),
    /// Key-value entries that tasks keep: read, write, list
    #[command(subcommand)]
    Kv(KvVerb),
    /// Values that tasks read: of all tasks, or of one
    #[command(subcommand)]
    Config(ConfigVerb),
    /// What your jobs used: attempts, CPU time, fuel, memory, requests, bytes
    Usage(UsageOptions),
    /// Secrets that tasks use and nobody reads: set, list, delete
    #[command(subcommand)]
    Secret(SecretVerb),
    /// Pause or limit all your jobs
    Tenant(TenantCommand),
    /// Routes: the queue that a task's jobs go to
    #[command(subcommand)]
    Routes(RoutesVerb),
    /// One action on many jobs
    #[command(subcommand)]
    Bulk(BulkVerb),
    /// The dead set: failed jobs that are kept
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Check the stored data of a broker, and repair it
    Doctor(DoctorOptions),
    /// Copy the SQLite broker to a new file, while a process uses it
    Backup(BackupOptions),
    /// Make tokens of the API, directly in the broker
    #[command(subcommand)]
    Token(TokenVerb),
    #[command(name = "__bench-sandbox", hide = true)]
    BenchSandbox(BenchOptions),
    /// Print completions for a shell, to be sourced
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub enum ModuleVerb {
    /// Upload a module and deploy its tasks
    Push {
        /// A component, or a core module with an embedded component type
        file: PathBuf,
        /// Only upload: the tasks keep their modules
        #[arg(long, conflicts_with = "take_over")]
        no_deploy: bool,
        /// Deploy tasks that belong to another module, too
        #[arg(long)]
        take_over: bool,
        /// Check the module and show what would change; store nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the modules of this tenant
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Show a module
    Show {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Delete a module to which no task points. Jobs that were submitted with it run to their end
    #[command(visible_alias = "rm")]
    Delete {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Show what a module can touch, what it asks to reach, and whether that is approved
    Manifest {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Approve what a module asks to reach, and deploy the tasks that wait for it; needs a token with the right to grant
    Approve {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Take the approval of a module back: its next calls are denied; needs a token with the right to grant
    Revoke {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Undo a push: point all tasks that point at a module back at the modules before it
    Rollback {
        /// Its digest, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// The module file
    pub module: PathBuf,
    /// The task; optional if the module has only one
    pub task: Option<TaskName>,
    /// Arguments: each is JSON if it can be read as JSON, and text otherwise; `@FILE` is what is in a file, `-` stdin, and `@@x` the
    /// text `@x`
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Argument by name; its value is written as those above
    #[arg(long, value_name = "NAME=VALUE")]
    pub kwarg: Vec<String>,
    /// Fuel, instead of the task's own
    #[arg(long)]
    pub fuel: Option<u64>,
    /// Memory, such as 64MiB, instead of the task's own
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// Hard time limit, such as 30s, instead of the task's own
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub time_limit: Option<u64>,
    /// What the task may reach, as in its module's permissions: 'http https://api.example.com/'; may be given several times.
    /// 'network 127.0.0.0/8' opens private addresses
    #[arg(long, value_name = "PERMISSION")]
    pub grant: Vec<Permission>,
    /// A value that the task reads as its configuration; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub config: Vec<(ConfigName, String)>,
    /// A secret for the task, whose value is in a file. It is sent wherever --grant lets the task send requests, and may be revealed;
    /// may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = local_secret)]
    pub secret: Vec<(SecretName, PathBuf)>,
    /// Certificates of authorities in PEM that are trusted instead of the system's, for requests of the task
    #[arg(long, env = "UMBEL_HTTP_CA_FILE", value_name = "FILE")]
    pub http_ca_file: Option<PathBuf>,
}

/// A secret and the file that has its value.
fn local_secret(text: &str) -> Result<(SecretName, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAME=FILE")?;
    Ok((SecretName::new(name).map_err(|error| error.to_string())?, file.into()))
}

#[derive(Debug, Args)]
pub struct EventsOptions {
    /// Only jobs of these tasks
    #[arg(long, value_delimiter = ',', value_name = "TASKS")]
    pub task: Vec<TaskName>,
    /// Only changes to these states
    #[arg(long, value_delimiter = ',', value_name = "STATES")]
    pub state: Vec<JobState>,
}

#[derive(Debug, Args)]
pub struct PageFlags {
    /// Number of items at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub limit: u32,
    /// Cursor of the list before, to continue it
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

/// A value, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

fn or_none<T>(text: &str, read: impl FnOnce(&str) -> Result<Option<T>, String>) -> Result<OrNone<T>, String> {
    if text == "none" { Ok(OrNone(None)) } else { read(text).map(OrNone) }
}

/// A rate such as `100/m`, or `none`.
fn rate(text: &str) -> Result<OrNone<String>, String> {
    or_none(text, |text| Ok(Rate::parse(text, 1)?.map(|_| text.to_owned())))
}

/// A whole number, or `none`.
fn number(text: &str) -> Result<OrNone<u32>, String> {
    let hint = |_| format!("{text:?} is neither a whole number nor `none`");
    or_none(text, |text| text.parse().map(Some).map_err(hint))
}

/// A duration in milliseconds, or `none`.
fn patience(text: &str) -> Result<OrNone<u64>, String> {
    or_none(text, |text| duration(text).map(Some))
}

/// One of these words, as the type that has them as its names.
fn choice<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: impl IntoIterator<Item = impl Into<PossibleValue>>,
) -> impl TypedValueParser<Value = T> {
    let name = |word: String| serde_json::from_value(word.into()).expect("each word is a name of the type");
    PossibleValuesParser::new(words).map(name)
}

/// A word of a choice, and what it means.
fn word(word: &'static str, help: &'static str) -> PossibleValue {
    PossibleValue::new(word).help(help)
}

/// A time as RFC 3339, such as 2026-01-31T12:00:00Z.
fn moment(text: &str) -> Result<String, String> {
    let read: Result<Timestamp, _> = text.parse();
    read.map(|_| text.to_owned()).map_err(|_| format!("{text:?} is not a time: write 2026-01-31T12:00:00Z"))
}

/// A time as RFC 3339, or how long ago it was: `1h`.
fn time(text: &str) -> Result<String, String> {
    let Ok(ms) = duration(text) else {
        return moment(text).map_err(|error| format!("{error}, or 1h for an hour ago"));
    };
    let ago = Timestamp::now().checked_sub(Duration::from_millis(ms));
    ago.map(|at| at.to_string()).map_err(|_| format!("{text:?} is before the first time that there is"))
}

/// A task of a module, its arguments, and the number of calls to measure.
#[derive(Debug, Args)]
pub struct BenchOptions {
    pub module: PathBuf,
    pub task: String,
    /// The arguments by name, a JSON object
    pub arguments: String,
    pub calls: usize,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_may_be_said_by_how_long_ago_it_was() {
        let ago = |text: &str| {
            let at: Timestamp = time(text).unwrap().parse().unwrap();
            Timestamp::now().as_millisecond() - at.as_millisecond()
        };
        assert!((3_600_000..3_660_000).contains(&ago("1h")), "{}", ago("1h"));
        assert_eq!(time("2026-01-31T12:00:00Z").unwrap(), "2026-01-31T12:00:00Z");
        assert!(time("yesterday").unwrap_err().contains("1h for an hour ago"));
    }

    #[test]
    fn no_argument_has_the_name_of_one_that_all_commands_have() {
        let words = ["umbel", "__bench-sandbox", "m.wasm", "noop", "{}", "10", "--json"];
        assert!(Cli::try_parse_from(words).unwrap().output.json);
        let all: Vec<clap::Id> = Cli::command().get_arguments().map(|arg| arg.get_id().clone()).collect();
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            for child in command.get_subcommands() {
                let twice = child.get_arguments().find(|arg| all.contains(arg.get_id()));
                assert!(twice.is_none(), "{}: {twice:?}", child.get_name());
                open.push(child.clone());
            }
        }
    }
}
