//! The binary `umbel`: the service in one process or several, and its client verbs.
//!
//! Data goes to stdout, everything else to stderr. Exit codes are in `failure.rs` and docs/guides/cli.md.
//! This crate wires the others together and decides nothing about jobs.

mod args;
mod bench;
mod client;
mod core_dumps;
mod failure;
mod local;
mod local_secrets;
mod output;
mod safe_text;
mod serve;

use std::{num::NonZero, process::ExitCode, thread::available_parallelism};

use clap::Parser as _;
use tokio::runtime::Builder;

use crate::{
    args::{Cli, Command, Format, TokenVerb, WorkerCommand},
    client::{
        Context, blob, bulk, config, dead, events, job, kv, module, queue, routes, schedule, secret, task, tenant,
        usage, worker, workflow,
    },
    failure::{Exit, Failure},
    output::Terminal,
};

/// Zeroes what is freed, once the process has had a secret in hand.
#[global_allocator]
static ALLOCATOR: umbel_secrets::ZeroingAllocator = umbel_secrets::ZeroingAllocator::new();

/// The outcome of a verb, or of a step of it.
type Result<T = (), E = Failure> = std::result::Result<T, E>;

fn main() -> ExitCode {
    // Before anything else: the compiler child has a small memory limit and an empty environment.
    if std::env::args_os().nth(1).is_some_and(|first| first == serve::COMPILE_VERB) {
        return umbel_sandbox::compile_child_main();
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result {
    umbel_tls::install_provider();
    // The API shares its process with many connections and gets the cores; everything else is one thread.
    let many_threads = matches!(cli.command, Command::Dev(_) | Command::Server(_) | Command::Run(_));
    let is_worker = matches!(cli.command, Command::Worker(WorkerCommand { verb: None, .. }));
    if many_threads || is_worker || matches!(cli.command, Command::Doctor(_)) {
        cli.logging.start()?;
    }
    block_on(many_threads, dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result {
    let terminal = Terminal { format: if cli.output.json { Format::Json } else { cli.output.output } };
    let context = || Context::new(&cli.server, terminal);
    match cli.command {
        Command::Dev(options) => serve::dev::run(options, &terminal).await,
        Command::Server(options) => serve::server::run(options).await,
        Command::Worker(WorkerCommand { verb: None, options }) => serve::worker::run(options).await,
        Command::Worker(WorkerCommand { verb: Some(verb), .. }) => worker::run(&context()?, verb).await,
        Command::Module(verb) => module::run(&context()?, verb).await,
        Command::Task(verb) => task::run(&context()?, verb).await,
        Command::Run(options) => local::run(options, &terminal).await,
        Command::Job(verb) => job::run(&context()?, verb).await,
        Command::Events(options) => events::run(&context()?, options).await,
        Command::Workflow(verb) => workflow::run(&context()?, verb).await,
        Command::Schedule(verb) => schedule::run(context, &terminal, verb).await,
        Command::Queue(verb) => queue::run(&context()?, verb).await,
        Command::Blob(verb) => blob::run(&context()?, verb).await,
        Command::Kv(verb) => kv::run(&context()?, verb).await,
        Command::Config(verb) => config::run(&context()?, verb).await,
        Command::Usage(options) => usage::run(&context()?, &options).await,
        Command::Secret(verb) => secret::run(&context()?, verb).await,
        Command::Tenant(command) => tenant::run(&context()?, command).await,
        Command::Routes(verb) => routes::run(&context()?, verb).await,
        Command::Bulk(verb) => bulk::run(&context()?, verb).await,
        Command::Dead(verb) => dead::run(&context()?, verb).await,
        Command::Backup(options) => serve::backup::run(options, &terminal).await,
        Command::Doctor(options) => serve::doctor::run(options, &terminal).await,
        Command::Token(TokenVerb::Create(options)) => serve::token::create(options, &terminal).await,
        Command::Token(TokenVerb::List(options)) => serve::token::list(options, &terminal).await,
        Command::Token(TokenVerb::Revoke(options)) => serve::token::revoke(options, &terminal).await,
        Command::BenchSandbox(options) => bench::run(options, &terminal).await,
        Command::Completions { shell } => output::completions(shell),
    }
}

fn block_on(many_threads: bool, main: impl Future<Output = Result>) -> Result {
    let mut builder = if many_threads { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    // For many threads only.
    builder.worker_threads(available_parallelism().map_or(1, NonZero::get).clamp(2, 16));
    let runtime = builder.thread_name("umbel-main").enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new("threads", format!("the threads cannot be started: {e}")))?;
    let ended = runtime.block_on(main);
    // Whatever blocks must not keep a process alive whose work is done.
    runtime.shutdown_background();
    ended
}
