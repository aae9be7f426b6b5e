//! The binary `umbel`: the service in one process or several, and its client verbs.
//!
//! Data goes to stdout, everything else to stderr. Exit codes are in `failure.rs` and docs/guides/cli.md.
//! This crate wires the others together and decides nothing about jobs.

mod args;
mod bench;
mod client;
mod failure;
mod local;
mod output;
mod safe_text;
mod serve;
mod suggest;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    failure::Failure,
    output::Terminal,
};

fn main() -> ExitCode {
    // Before anything else: the compiler child has a small memory limit and an empty environment.
    if std::env::args_os().nth(1).is_some_and(|first| first == serve::COMPILE_VERB) {
        return umbel_sandbox::compile_child_main();
    }
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.output.format());
    let ended = run(cli, &terminal);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

fn run(cli: Cli, terminal: &Terminal) -> Result<(), Failure> {
    let logging = &cli.logging;
    match cli.command {
        Command::Dev(options) => {
            logging.start()?;
            block_on(true, serve::dev::run(options, terminal))
        }
        Command::Server(options) => {
            logging.start()?;
            block_on(true, serve::server::run(options))
        }
        Command::Worker(args::WorkerCommand { verb: Some(verb), .. }) => {
            client(&cli.server, |client| async move { client::worker::run(&client, verb, terminal).await })
        }
        Command::Worker(args::WorkerCommand { verb: None, options }) => {
            logging.start()?;
            block_on(false, serve::worker::run(options))
        }
        Command::Doctor(options) => {
            logging.start()?;
            block_on(false, serve::doctor::run(options, terminal))
        }
        Command::Token(args::TokenVerb::Create(options)) => block_on(false, serve::token::create(options, terminal)),
        Command::Run(options) => {
            logging.start()?;
            block_on(true, local::run(options, terminal))
        }
        Command::BenchSandbox(options) => block_on(false, bench::run(options, terminal)),
        Command::Completions { shell } => output::completions(shell),
        Command::Module(verb) => {
            client(&cli.server, |client| async move { client::module::run(&client, verb, terminal).await })
        }
        Command::Task(verb) => {
            client(&cli.server, |client| async move { client::task::run(&client, verb, terminal).await })
        }
        Command::Job(verb) => {
            client(&cli.server, |client| async move { client::job::run(&client, verb, terminal).await })
        }
        Command::Events(options) => {
            client(&cli.server, |client| async move { client::events::run(&client, options, terminal).await })
        }
        Command::Workflow(verb) => {
            client(&cli.server, |client| async move { client::workflow::run(&client, verb, terminal).await })
        }
        Command::Queue(verb) => {
            client(&cli.server, |client| async move { client::queue::run(&client, verb, terminal).await })
        }
        Command::Tenant(verb) => {
            client(&cli.server, |client| async move { client::tenant::run(&client, verb, terminal).await })
        }
        Command::Routes(verb) => {
            client(&cli.server, |client| async move { client::routes::run(&client, verb, terminal).await })
        }
        Command::Bulk(verb) => {
            client(&cli.server, |client| async move { client::bulk::run(&client, verb, terminal).await })
        }
        Command::Dead(verb) => {
            client(&cli.server, |client| async move { client::dead::run(&client, verb, terminal).await })
        }
    }
}

/// Runs a client verb against the server that flags, environment or profile name.
fn client<F>(server: &args::ServerFlags, verb: impl FnOnce(umbel_client::Client) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let client = client::from_flags(server)?;
    block_on(false, verb(client))
}

/// The API shares its process with many connections and gets the cores; everything else is one thread.
fn block_on(many_threads: bool, main: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = if many_threads {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(serve::cores().clamp(2, 16));
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.thread_name("umbel-main").enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new("threads", format!("the threads cannot be started: {e}")))?;
    let ended = runtime.block_on(main);
    // Whatever blocks must not keep a process alive whose work is done.
    runtime.shutdown_background();
    ended
}
