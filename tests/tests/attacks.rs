//! Hostile tenants beside a quiet one: memory stays within its limits, and the quiet one is served.

use anyhow::Result;
use umbel_tests::attacks::every;

/// Of each attack on each broker.
const SECONDS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_tenant_is_served_and_memory_is_bounded_under_every_attack_on_sqlite() -> Result<()> {
    every(false, SECONDS, |report| println!("{report}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_tenant_is_served_and_memory_is_bounded_under_every_attack_on_redis() -> Result<()> {
    every(true, SECONDS, |report| println!("{report}")).await
}
