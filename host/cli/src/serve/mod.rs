//! The verbs that are the service: `dev`, `server`, `worker`, and those that open the broker themselves: `token`,
//! `doctor`, `backup`.

pub mod backup;
pub mod broker;
pub mod data;
pub mod dev;
pub mod dev_certificate;
pub mod doctor;
pub mod exposure;
pub mod http;
pub mod jobs;
pub mod logging;
pub mod master_keys;
pub mod profile;
pub mod server;
pub mod signals;
pub mod token;
pub mod watch;
pub mod web;
pub mod worker;

use std::{sync::Arc, time::Duration};

use umbel_broker::Broker;
use umbel_compose::TaskSource;
use umbel_control::{Control, ControlConfig, Dependencies};
use umbel_model::PolicyBounds;
use umbel_modules::ModuleStore;

use crate::args::BackgroundFlags;

/// The hidden verb of the compiler child.
pub const COMPILE_VERB: &str = "__compile";
/// Whose everything is until there are more tenants.
pub const DEFAULT_TENANT: &str = "default";

/// Starts the background services. `tasks`: what knows the tasks already; none where there is no API.
fn background(
    broker: Arc<dyn Broker>,
    store: ModuleStore,
    bounds: PolicyBounds,
    tasks: Option<Arc<dyn TaskSource>>,
    flags: &BackgroundFlags,
) -> Control {
    let unused_modules_after = Duration::from_millis(flags.keep_unused_modules);
    let blob_retention = Duration::from_millis(flags.keep_unused_blobs);
    let config = ControlConfig { unused_modules_after, blob_retention, ..ControlConfig::default() };
    Control::start(Dependencies { broker, store: Some(store), bounds, tasks }, &config)
}
