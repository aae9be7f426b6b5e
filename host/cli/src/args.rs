//! The command line: verbs, flags, and the environment variables behind them. No logic but parsing.

mod bulk;
mod job;
mod manage;
mod service;
mod worker;
mod workflow;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use umbel_model::{Digest, JobState, Rate, TaskName, human};

pub use self::workflow::{MapOptions, ShowOptions, Stamps, WorkflowSubmitOptions, WorkflowVerb};
pub use self::{
    bulk::{BulkFlags, BulkVerb},
    job::{Expiry, JobVerb, ListOptions, SubmitOptions},
    manage::{DeadVerb, QueueVerb, RedriveOptions, RouteChoice, RoutesVerb, TaskVerb, TenantVerb},
    service::{
        BoundFlags, BrokerFlags, DevOptions, DoctorOptions, Patience, QueueFlags, RunFlags, ServerOptions,
        TokenOptions, TokenVerb,
    },
    worker::{Scale, WorkerCommand, WorkerOptions, WorkerVerb},
};

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 the job failed (when waiting), 4 not found, 5 token refused, 6 conflict,
7 unavailable, 75 start it again (`umbel worker --no-respawn`), 130 interrupted.
Client verbs find their server by --url and --token, UMBEL_URL and UMBEL_TOKEN, the profile that `umbel dev` wrote
in .umbel/ here or above, or ~/.config/umbel/profile.json, in this order.";

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
    /// Address of the server, such as http://127.0.0.1:7717
    #[arg(long, global = true, env = "UMBEL_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Bearer token
    #[arg(long, global = true, env = "UMBEL_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// What stdout gets
    #[arg(
        short,
        long,
        global = true,
        env = "UMBEL_OUTPUT",
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// The same as `-o json`
    #[arg(long, global = true)]
    pub json: bool,
}

impl OutputFlags {
    /// What was asked for.
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// What stdout gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// What the server answered
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
    #[arg(long, global = true, env = "UMBEL_LOG_FORMAT", value_enum, default_value = "human", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Least level, or a filter such as info,umbel_worker=debug
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
    /// Run jobs from a broker; or look at workers and order them about
    Worker(WorkerCommand),
    /// Upload modules and look at them
    #[command(subcommand)]
    Module(ModuleVerb),
    /// Tasks: what they take, which module they point at
    #[command(subcommand)]
    Task(TaskVerb),
    /// Run one task of a module file here, in the sandbox, with no server
    Run(RunOptions),
    /// Submit jobs and follow them
    #[command(subcommand)]
    Job(JobVerb),
    /// What happens to all your jobs, as it happens, until it is interrupted
    Events(EventsOptions),
    /// Workflows: chains, groups and chords of tasks
    #[command(subcommand)]
    Workflow(WorkflowVerb),
    /// Queues: depths, pause, limits, purge
    #[command(subcommand)]
    Queue(QueueVerb),
    /// What holds for all your jobs: pause, limits
    #[command(subcommand)]
    Tenant(TenantVerb),
    /// Which queue a task's jobs go to
    #[command(subcommand)]
    Routes(RoutesVerb),
    /// One action on many jobs
    #[command(subcommand)]
    Bulk(BulkVerb),
    /// Failed jobs that are kept
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Look through a broker for what should not be there, and mend it
    Doctor(DoctorOptions),
    /// Tokens of the API, made directly in the broker
    #[command(subcommand)]
    Token(TokenVerb),
    #[command(name = "__bench-sandbox", hide = true)]
    BenchSandbox(BenchOptions),
    /// Completions for a shell, to be sourced
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub enum ModuleVerb {
    /// Upload a module and deploy its tasks
    Push {
        /// A component, or a core module with an embedded component type
        file: PathBuf,
        /// Only upload: leave the tasks where they point
        #[arg(long)]
        no_deploy: bool,
    },
    /// Modules of this tenant
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// One module
    Show { digest: Digest },
}

#[derive(Debug, Args)]
pub struct RunOptions {
    /// The module file
    pub module: PathBuf,
    /// The task; may be left out if the module has one
    pub task: Option<TaskName>,
    /// Arguments: each is JSON, or else text
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Argument by name
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
}

#[derive(Debug, Args)]
pub struct EventsOptions {
    /// Only jobs of these tasks
    #[arg(long, value_delimiter = ',', value_name = "TASKS")]
    pub task: Vec<TaskName>,
    /// Only changes to these states
    #[arg(long, value_parser = job_state, value_delimiter = ',', value_name = "STATES")]
    pub state: Vec<JobState>,
}

#[derive(Debug, Args)]
pub struct PageFlags {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub limit: u32,
    /// Go on where the last list stopped
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

/// A value, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// A rate such as `100/m`, or `none`.
fn rate(text: &str) -> Result<OrNone<String>, String> {
    if text == "none" {
        return Ok(OrNone(None));
    }
    Rate::parse(text, 1).map(|rate| OrNone(rate.map(|_| text.to_owned())))
}

/// A whole number, or `none`.
fn number(text: &str) -> Result<OrNone<u32>, String> {
    match text {
        "none" => Ok(OrNone(None)),
        _ => {
            text.parse().map(|n| OrNone(Some(n))).map_err(|_| format!("{text:?} is neither a whole number nor `none`"))
        }
    }
}

/// A time as RFC 3339, such as 2026-01-31T12:00:00Z.
fn time(text: &str) -> Result<String, String> {
    let read: Result<jiff::Timestamp, _> = text.parse();
    read.map(|_| text.to_owned()).map_err(|_| format!("{text:?} is not a time: write 2026-01-31T12:00:00Z"))
}

fn duration(text: &str) -> Result<u64, String> {
    human::duration_ms(text)
}

fn size(text: &str) -> Result<u64, String> {
    human::size_bytes(text)
}

fn job_state(text: &str) -> Result<JobState, String> {
    JobState::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        format!("use one of {}", names.join(", "))
    })
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
