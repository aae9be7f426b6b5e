//! The verbs that are the service: `dev`, `server`, `worker`, and those that open the broker themselves: `token`, `doctor`.

pub mod broker;
pub mod data;
pub mod dev;
pub mod doctor;
pub mod jobs;
pub mod logging;
pub mod profile;
pub mod server;
pub mod signals;
pub mod token;
pub mod watch;
pub mod web;
pub mod worker;

use umbel_model::TenantId;

/// The hidden verb of the compiler child.
pub const COMPILE_VERB: &str = "__compile";
/// Whose everything is until there are more tenants.
pub const DEFAULT_TENANT: &str = "default";

/// See `DEFAULT_TENANT`.
pub fn default_tenant() -> TenantId {
    TenantId::new(DEFAULT_TENANT).expect("a fixed name that keeps the rule")
}

/// Processor cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
