//! `umbel dev`: API, worker and background services in one process.

use std::net::Ipv4Addr;

use sha2::{Digest as _, Sha256};
use umbel_api::{ApiConfig, NewToken};
use umbel_broker::{Broker, DocumentKind};
use umbel_model::TenantId;

use super::{
    DEFAULT_TENANT, background, broker, broker::BrokerUrl, data::Data, dev_certificate::DevCertificate, http, jobs,
    master_keys, profile::Profile, signals::Signals, token::make, watch, web,
};
use crate::{Failure, Result, args::DevOptions, output::Terminal};

pub async fn run(options: DevOptions, terminal: &Terminal) -> Result {
    let mut signals = Signals::listen()?;
    let (data, url) = broker::locate(&options.broker)?;
    let _lock = data.lock()?;
    let certificate = if options.tls { Some(DevCertificate::open(data.folder())?) } else { None };
    let listener = web::listen((Ipv4Addr::LOCALHOST, options.port).into()).await?;
    let broker = broker::open(&url, &options.broker, true).await?;
    tokio::select! {
        ready = broker::wait_for(&*broker, &url) => ready?,
        _ = signals.next() => return Ok(()),
    }
    let (config, bounds) = (jobs::config(&options.run, options.concurrency), options.bounds.bounds());
    let store = data.modules().await?;
    let http = http::client(&options.run.http, listener.local_addr().ok(), &url).await?;
    let master_keys = master_keys::load_or_make(&options.run.master_keys, data.folder()).await?;
    let runtime = data.runtime(store.clone(), config.concurrency, bounds.clone(), http, master_keys.clone()).await?;
    let token = token(&*broker, &data).await?;
    // Whoever reaches this service may use its token, which may approve.
    let approve_pushes = !options.strict_permissions;
    let min_schedule_interval_ms = options.background.min_schedule_interval;
    let (bounds_of_api, rest) = (bounds.clone(), ApiConfig::default());
    let api = ApiConfig { bounds: bounds_of_api, approve_pushes, master_keys, min_schedule_interval_ms, ..rest };
    let served = certificate.as_ref().map(DevCertificate::served);
    let (mut web, tasks) = web::start(listener, served, broker.clone(), store.clone(), runtime.clone(), api)?;
    let control = background(broker.clone(), store, bounds, Some(tasks), &options.background);
    let mut worker = jobs::start(broker.clone(), runtime, config)?;
    let profile = Profile { url: web.url(), token, ca_file: certificate.as_ref().map(DevCertificate::authority) };
    let path = profile.write(data.folder());
    let path = path.map_err(|e| Failure::new("data_folder", format!("the profile cannot be written: {e}")))?;
    terminal.line(&banner(&profile, &url, &data, &path.display().to_string()))?;
    let told = watch::until_told(&mut signals, Some(&mut worker), Some(&mut web)).await;
    watch::wind_down(Some(&mut worker), signals, &told, options.run.shutdown_timeout).await;
    web.stop().await;
    control.stop().await;
    told.map(drop)
}

fn banner(profile: &Profile, url: &BrokerUrl, data: &Data, path: &str) -> String {
    format!(
        "umbel {version} is up\n  address  {address}\n  token    {token}\n  broker   {broker}\n  data     {data}\n  profile  {path}\n\
         next: umbel module push module.wasm; umbel job submit TASK ARGS --wait; Ctrl-C ends it",
        version = env!("CARGO_PKG_VERSION"),
        address = profile.url,
        token = profile.token,
        broker = url.shown(),
        data = data.folder().display(),
    )
}

/// The token of the profile if the broker still knows it, else a new one.
async fn token(broker: &dyn Broker, data: &Data) -> Result<String> {
    let tenant = |name: &str| TenantId::new(name).expect("a fixed name that keeps the rule");
    if let Some(Profile { token, .. }) = Profile::read(data.folder()) {
        let name: String = Sha256::digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
        let known = broker.document(&tenant("system"), DocumentKind::ApiToken, &name).await?;
        // One that an earlier version made is no operator's: it is replaced.
        let operator = known.is_some_and(|document| {
            serde_json::from_str::<serde_json::Value>(&document.body).is_ok_and(|token| token["operator"] == true)
        });
        if operator {
            return Ok(token);
        }
    }
    let tenant = tenant(DEFAULT_TENANT);
    make(broker, NewToken { tenant: &tenant, name: "umbel dev", operator: true, grant: true, lives_ms: None }).await
}
