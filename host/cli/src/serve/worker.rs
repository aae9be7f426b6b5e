//! `umbel worker`: runs jobs from a broker that others share.

use umbel_control::{Control, ControlConfig};

use crate::{
    args::WorkerOptions,
    failure::Failure,
    serve::{
        broker::{self, BrokerUrl},
        data::Data,
        jobs,
        signals::Signals,
        watch,
    },
};

pub async fn run(options: WorkerOptions) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let data = Data::open(&options.broker.data)?;
    let url = BrokerUrl::from_flags(&options.broker, &data)?;
    if let BrokerUrl::Sqlite(_) = url {
        let message = "a SQLite broker belongs to one process, so a separate worker cannot use it";
        let help = "use `umbel dev` or `umbel server --concurrency N`, or a Redis: --broker redis://HOST:PORT/DB";
        return Err(Failure::new("sqlite_one_process", message).help(help));
    }
    let broker = broker::open(&url, &options.broker).await?;
    tokio::select! {
        ready = broker::wait_for(&*broker, &url) => ready?,
        () = signals.next() => return Ok(()),
    }
    let concurrency = options.concurrency.unwrap_or_else(jobs::default_concurrency);
    let runtime = data.runtime(data.modules().await?, concurrency).await?;
    // Any number of these may run: so retries and lost leases do not wait for a server that is away.
    let control = Control::start(broker.clone(), &ControlConfig::default());
    let mut worker = jobs::start(broker, runtime, &options.run, concurrency)?;
    let told = watch::until_told(&mut signals, Some(&mut worker), None).await;
    tracing::info!("draining; a second signal ends at once");
    signals.next_is_cold();
    worker.drain();
    worker.join().await;
    control.stop().await;
    told
}
