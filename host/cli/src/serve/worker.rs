//! `umbel worker`: runs jobs from a broker that others share.

use std::{os::unix::process::CommandExt as _, process::Command};

use umbel_worker::{End, WorkerConfig};

use super::{background, broker, broker::BrokerUrl, http, jobs, master_keys, signals::Signals, watch, watch::Told};
use crate::{Exit, Failure, Result, args::WorkerOptions};

pub async fn run(options: WorkerOptions) -> Result {
    let mut signals = Signals::listen()?;
    let (data, url) = broker::locate(&options.broker)?;
    if let BrokerUrl::Sqlite(_) = url {
        let message = "a SQLite broker belongs to one process, so a separate worker cannot use it";
        let help = "use `umbel dev` or `umbel server --concurrency N`, or a Redis: --broker redis://HOST:PORT/DB";
        return Err(Failure::new("sqlite_one_process", message).help(help));
    }
    let broker = broker::open(&url, &options.broker, true).await?;
    tokio::select! {
        ready = broker::wait_for(&*broker, &url) => ready?,
        _ = signals.next() => return Ok(()),
    }
    let (config, bounds) = (config(&options), options.bounds.bounds());
    let most = config.autoscale.map_or(config.concurrency, |(_, max)| max);
    let store = data.modules().await?;
    let http = http::client(&options.run.http, None, &url).await?;
    let master_keys = master_keys::load(&options.run.master_keys).await?;
    // With room for more slots than there are now, so that `umbel worker slots` can add some; without, where address space
    // is short.
    let runtime = match data.runtime(store.clone(), room(most), bounds.clone(), http.clone(), master_keys.clone()).await
    {
        Ok(runtime) => runtime,
        Err(_) => data.runtime(store.clone(), most, bounds.clone(), http, master_keys).await?,
    };
    // Any number of these may run: so retries and lost leases do not wait for a server that is away.
    let control = background(broker.clone(), store, bounds, None, &options.background);
    let mut worker = jobs::start(broker, runtime, config)?;
    let told = watch::until_told(&mut signals, Some(&mut worker), None).await;
    watch::wind_down(Some(&mut worker), signals, &told, options.run.shutdown_timeout).await;
    control.stop().await;
    match told? {
        Told::Worker(End::MaxMemory) if worker.settled() == 0 => {
            // It would start anew for ever.
            let message = "--max-memory is less than the process needs before its first job";
            Err(Failure::usage(message).help("give it at least 256MiB"))
        }
        Told::Worker(End::MaxJobs | End::MaxMemory) => Err(anew(options.no_respawn)),
        Told::Worker(_) | Told::Signal(_) => Ok(()),
    }
}

fn config(options: &WorkerOptions) -> WorkerConfig {
    let scale = options.autoscale;
    WorkerConfig {
        autoscale: scale.map(|scale| (scale.min, scale.max)),
        max_jobs: options.max_jobs.unwrap_or(0),
        max_memory_bytes: options.max_memory.unwrap_or(0),
        ..jobs::config(&options.run, options.concurrency.or(scale.map(|scale| scale.min)))
    }
}

/// Slots to reserve address space for: four times as many as asked for, in reason.
fn room(most: u32) -> u32 {
    most.saturating_mul(4).max(64).min(most.max(2_048))
}

/// Becomes the same program with the same arguments and fresh memory: same process id, so that a supervisor sees nothing.
/// Returns only if that is not wanted or cannot be done.
fn anew(no_respawn: bool) -> Failure {
    if !no_respawn {
        tracing::info!("starting anew");
        let mut arguments = std::env::args_os();
        // This very binary, even if its file was replaced meanwhile: another version is started by whoever deploys it.
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let error = command.args(arguments).exec();
        tracing::warn!(%error, "it cannot be started anew");
    }
    Failure::quiet(Exit::Again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_more_slots_but_not_without_end() {
        assert_eq!([1, 8, 100, 1_000, 5_000].map(room), [64, 64, 400, 2_048, 5_000]);
    }
}
