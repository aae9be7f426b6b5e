//! The command line: verbs, flags, and the environment variables behind them. No logic but parsing.

mod workflow;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use umbel_model::{Digest, JobId, JobState, PolicyPatch, QueueName, TaskName, WorkflowId, human};

pub use self::workflow::{MapOptions, ShowOptions, Stamps, WorkflowSubmitOptions, WorkflowVerb};

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 the job failed (when waiting), 4 not found, 5 token refused, 6 conflict,
7 unavailable, 130 interrupted.
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
    /// Run jobs from a broker; or `worker list`
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
    /// Workflows: chains, groups and chords of tasks
    #[command(subcommand)]
    Workflow(WorkflowVerb),
    /// Queues: depths, pause, resume
    #[command(subcommand)]
    Queue(QueueVerb),
    /// Failed jobs that are kept
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Tokens of the API, made directly in the broker
    #[command(subcommand)]
    Token(TokenVerb),
    #[command(name = "__bench-sandbox", hide = true)]
    BenchSandbox(crate::bench::BenchOptions),
    /// Completions for a shell, to be sourced
    Completions { shell: clap_complete::Shell },
}

/// What every process that opens a broker takes.
#[derive(Debug, Clone, Args)]
pub struct BrokerFlags {
    /// Where jobs are kept: sqlite:PATH or redis://HOST:PORT/DB
    #[arg(long, env = "UMBEL_BROKER", value_name = "URL", hide_env_values = true)]
    pub broker: Option<String>,
    /// Data folder: modules, compiled code, the SQLite file
    #[arg(long, env = "UMBEL_DATA", default_value = "./.umbel", value_name = "DIR")]
    pub data: PathBuf,
    /// Accept a Redis whose settings may lose jobs. For development only
    #[arg(long, env = "UMBEL_ALLOW_UNSAFE_REDIS")]
    pub allow_unsafe_redis: bool,
}

/// How a process runs jobs.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Queues to serve, the first one first; all queues in turn if not given
    #[arg(short = 'Q', long = "queues", env = "UMBEL_QUEUES", value_delimiter = ',', value_name = "NAMES")]
    pub queues: Vec<QueueName>,
    /// On SIGTERM, how long running jobs may go on before they are handed back
    #[arg(long, env = "UMBEL_GRACE", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub grace: u64,
    /// Threads for guests; as many as cores if not given
    #[arg(long, env = "UMBEL_GUEST_THREADS", value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub guest_threads: Option<u32>,
    /// Lease of a delivery; renewed at a third of it
    #[arg(long, env = "UMBEL_LEASE", default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub lease: u64,
}

#[derive(Debug, Args)]
pub struct DevOptions {
    /// Port on 127.0.0.1; 0 picks a free one
    #[arg(long, env = "UMBEL_PORT", default_value_t = 7717)]
    pub port: u16,
    #[command(flatten)]
    pub broker: BrokerFlags,
    /// Jobs at once
    #[arg(short, long, env = "UMBEL_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub concurrency: Option<u32>,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Debug, Args)]
pub struct ServerOptions {
    /// Address and port of the API
    #[arg(long, env = "UMBEL_LISTEN", default_value = "127.0.0.1:7717", value_name = "ADDR")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub broker: BrokerFlags,
    /// Also run so many jobs at once in this process. 0: none
    #[arg(short, long, env = "UMBEL_CONCURRENCY", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000), value_name = "N")]
    pub concurrency: u32,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct WorkerCommand {
    #[command(subcommand)]
    pub verb: Option<WorkerVerb>,
    #[command(flatten)]
    pub options: WorkerOptions,
}

#[derive(Debug, Subcommand)]
pub enum WorkerVerb {
    /// Workers that are alive
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Args)]
pub struct WorkerOptions {
    #[command(flatten)]
    pub broker: BrokerFlags,
    /// Jobs at once
    #[arg(short, long, env = "UMBEL_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub concurrency: Option<u32>,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it; it is shown only once
    Create(TokenOptions),
}

#[derive(Debug, Args)]
pub struct TokenOptions {
    #[command(flatten)]
    pub broker: BrokerFlags,
    /// What the token is for
    #[arg(long, default_value = "cli", value_name = "NAME")]
    pub name: String,
    /// Whose jobs it reaches
    #[arg(long, default_value = crate::serve::DEFAULT_TENANT, value_name = "TENANT")]
    pub tenant: umbel_model::TenantId,
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

#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Tasks of this tenant
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// One task: parameters, policy and where each value comes from, deploys
    Show { name: TaskName },
    /// Point a task at a module that was uploaded
    Deploy { name: TaskName, digest: Digest },
    /// Point a task at the module before
    Rollback { name: TaskName },
    /// Override the task's policy on the server; `null` takes an override back
    Set {
        name: TaskName,
        /// Fields of the policy, such as max_retries=5 queue=slow fuel=null
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
    },
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

#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// Submit a job and print its id; with --wait its result
    Submit(Box<SubmitOptions>),
    /// Jobs, newest first
    #[command(visible_alias = "ls")]
    List {
        #[arg(long, value_parser = job_state)]
        state: Option<JobState>,
        #[arg(long)]
        task: Option<TaskName>,
        #[arg(long)]
        queue: Option<QueueName>,
        /// Only jobs of this workflow
        #[arg(long, value_name = "ID")]
        workflow: Option<WorkflowId>,
        #[command(flatten)]
        page: PageFlags,
    },
    /// One job
    Show {
        id: JobId,
        /// Wait for its end, at most so long
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// What a job wrote
    Logs {
        id: JobId,
        /// Go on until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop a job, wherever it is
    Cancel { id: JobId },
    /// Run a waiting job now, or a failed one again as a new job
    Retry { id: JobId },
}

#[derive(Debug, Args)]
pub struct SubmitOptions {
    pub task: TaskName,
    /// Arguments: each is JSON, or else text
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Argument by name
    #[arg(long, value_name = "NAME=VALUE")]
    pub kwarg: Vec<String>,
    /// Start so long from now
    #[arg(long, value_parser = duration, value_name = "DURATION", conflicts_with = "eta")]
    pub countdown: Option<u64>,
    /// Start at this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub eta: Option<String>,
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// 0 to 9, 9 first
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    #[arg(long)]
    pub max_retries: Option<u32>,
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub time_limit: Option<u64>,
    /// Give up if it has not started so long after its submission
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub expires: Option<u64>,
    /// The same key twice is the same job
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the end, at most so long, and print the result
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub wait: Option<u64>,
}

impl SubmitOptions {
    /// The fields of the policy that were given.
    pub fn policy(&self) -> PolicyPatch {
        PolicyPatch {
            queue: self.queue.clone(),
            priority: self.priority,
            max_retries: self.max_retries,
            time_limit_ms: self.time_limit,
            expires_ms: self.expires,
            ..PolicyPatch::default()
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// Queues and how many jobs are where
    #[command(visible_alias = "ls")]
    List,
    /// Hand out no more jobs of a queue; running ones go on
    Pause { name: QueueName },
    /// Hand out a queue's jobs again
    Resume { name: QueueName },
}

#[derive(Debug, Subcommand)]
pub enum DeadVerb {
    /// The dead set, newest first
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Run dead jobs again, as new jobs
    Redrive {
        #[arg(required_unless_present = "all")]
        ids: Vec<JobId>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn worker_runs_and_worker_list_lists() {
        let list = Cli::try_parse_from(["umbel", "worker", "list"]).unwrap();
        assert!(matches!(list.command, Command::Worker(WorkerCommand { verb: Some(WorkerVerb::List), .. })));
        let run = Cli::try_parse_from(["umbel", "worker", "--broker", "redis://h", "-Q", "a,b", "--concurrency", "3"]);
        let Command::Worker(WorkerCommand { verb: None, options }) = run.unwrap().command else { panic!() };
        assert_eq!((options.run.queues.len(), options.concurrency), (2, Some(3)));
    }

    #[test]
    fn wait_takes_a_duration_or_none() {
        let wait = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["umbel", "job", "submit", "add", "2", "-3"], args].concat()).unwrap();
            let Command::Job(JobVerb::Submit(options)) = cli.command else { panic!() };
            assert_eq!(options.args, ["2", "-3"]);
            options.wait
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["--wait=30s"]), Some(30_000));
        assert_eq!(wait(&["--wait"]), Some(3_600_000));
    }
}
