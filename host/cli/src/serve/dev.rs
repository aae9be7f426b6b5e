//! `umbel dev`: API, worker and background services in one process.

use std::{net::Ipv4Addr, sync::Arc};

use sha2::{Digest as _, Sha256};
use umbel_broker::{Broker, DocumentKind};
use umbel_control::{Control, ControlConfig, Dependencies};
use umbel_model::TenantId;

use crate::{
    args::DevOptions,
    failure::Failure,
    output::Terminal,
    serve::{
        broker::{self, BrokerUrl},
        data::Data,
        default_tenant, jobs,
        profile::Profile,
        signals::Signals,
        watch, web,
    },
};

pub async fn run(options: DevOptions, terminal: &Terminal) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let data = Data::open(&options.broker.data)?;
    let _lock = data.lock()?;
    let listener = web::listen((Ipv4Addr::LOCALHOST, options.port).into()).await?;
    let url = BrokerUrl::from_flags(&options.broker, &data)?;
    let broker = broker::open(&url, &options.broker).await?;
    tokio::select! {
        ready = broker::wait_for(&*broker, &url) => ready?,
        _ = signals.next() => return Ok(()),
    }
    let concurrency = options.concurrency.unwrap_or_else(jobs::default_concurrency);
    let store = data.modules().await?;
    let runtime = data.runtime(store.clone(), concurrency, options.bounds.bounds()).await?;
    let token = token(&*broker, &data).await?;
    let dependencies =
        Dependencies { broker: broker.clone(), store: Some(store.clone()), bounds: options.bounds.bounds() };
    let mut web = web::start(listener, broker.clone(), store, runtime.clone(), options.bounds.bounds())?;
    let control = Control::start(dependencies, &ControlConfig::default());
    let mut worker = jobs::start(broker.clone(), runtime, &options.run, jobs::Size::fixed(concurrency))?;
    let profile = Profile { url: web.url(), token };
    let path = profile.write(data.folder());
    let path = path.map_err(|e| Failure::new("data_folder", format!("the profile cannot be written: {e}")))?;
    terminal.line(&banner(&profile, &url, &data, &path.display().to_string()))?;
    let told = watch::until_told(&mut signals, Some(&mut worker), Some(&mut web)).await;
    watch::wind_down(Some(&mut worker), signals, &told, options.run.shutdown_timeout).await;
    web.stop().await;
    control.stop().await;
    close(broker);
    told.map(drop)
}

/// The last owner closes the store, which may wait for the disk.
pub fn close(broker: Arc<dyn Broker>) {
    drop(broker);
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
async fn token(broker: &dyn Broker, data: &Data) -> Result<String, Failure> {
    if let Some(Profile { token, .. }) = Profile::read(data.folder()) {
        let home = TenantId::new("system").expect("a fixed name that keeps the rule");
        let name: String = Sha256::digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
        let known = broker.document(&home, DocumentKind::ApiToken, &name).await?;
        // One that an earlier version made is no operator's: it is replaced.
        let operator = known.is_some_and(|document| {
            serde_json::from_str::<serde_json::Value>(&document.body).is_ok_and(|token| token["operator"] == true)
        });
        if operator {
            return Ok(token);
        }
    }
    crate::serve::token::make(broker, &default_tenant(), "umbel dev", true).await
}
