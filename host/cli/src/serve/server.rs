//! `umbel server`: the API and the background services; with `--concurrency` a worker too.

use umbel_api::ApiConfig;

use super::{background, broker, broker::BrokerUrl, exposure, http, jobs, master_keys, signals::Signals, watch, web};
use crate::{Failure, Result, args::ServerOptions};

pub async fn run(options: ServerOptions) -> Result {
    let mut signals = Signals::listen()?;
    let (data, url) = broker::locate(&options.broker)?;
    if let (BrokerUrl::Sqlite(_), 0) = (&url, options.concurrency) {
        let message = "a SQLite broker belongs to one process, and this one would run no jobs";
        let help = "add --concurrency 8 to run jobs here too, or use --broker redis://… and `umbel worker`";
        return Err(Failure::new("sqlite_one_process", message).help(help));
    }
    let files = options.tls_cert.as_deref().zip(options.tls_key.as_deref());
    let certificate = files.map(|(certificate, key)| web::certificate(certificate, key)).transpose()?;
    let is_encrypted = certificate.is_some();
    let listener = web::listen(options.listen).await?;
    let broker = broker::open(&url, &options.broker, true).await?;
    let (store, bounds) = (data.modules().await?, options.bounds.bounds());
    let http = http::client(&options.run.http, listener.local_addr().ok(), &url).await?;
    let master_keys = master_keys::load(&options.run.master_keys).await?;
    let runtime = data.runtime(store.clone(), options.concurrency, bounds.clone(), http, master_keys.clone()).await?;
    // It answers from now on, with 503 as long as the broker does not: an operator sees what is missing.
    let min_schedule_interval_ms = options.background.min_schedule_interval;
    let api = ApiConfig { bounds: bounds.clone(), master_keys, min_schedule_interval_ms, ..ApiConfig::default() };
    let (mut web, tasks) = web::start(listener, certificate, broker.clone(), store.clone(), runtime.clone(), api)?;
    tracing::info!(address = web.url(), broker = url.shown(), data = %data.folder().display(), "server started");
    let _noted = exposure::warn(web.address, is_encrypted, options.behind_proxy, data.folder());
    tokio::select! {
        ready = broker::wait_for(&*broker, &url) => ready?,
        told = watch::until_told(&mut signals, None, Some(&mut web)) => return told.map(drop),
    }
    let control = background(broker.clone(), store, bounds, Some(tasks), &options.background);
    let mut worker = match options.concurrency {
        0 => None,
        n => Some(jobs::start(broker.clone(), runtime, jobs::config(&options.run, Some(n)))?),
    };
    let told = watch::until_told(&mut signals, worker.as_mut(), Some(&mut web)).await;
    watch::wind_down(worker.as_mut(), signals, &told, options.run.shutdown_timeout).await;
    web.stop().await;
    control.stop().await;
    told.map(drop)
}
