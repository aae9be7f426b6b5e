//! Hostile tenants beside a quiet one: memory stays within its limits, and the quiet one is served.
//!
//! Each attack lasts some seconds here, or as many as `UMBEL_ATTACK_SECONDS` says; `UMBEL_ATTACK` names one to be made alone.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, ensure};
use umbel_tests::attacks::ALL;

/// Of each attack on each broker.
const SECONDS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_tenant_is_served_and_memory_is_bounded_under_every_attack_on_sqlite() -> Result<()> {
    every_attack(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_tenant_is_served_and_memory_is_bounded_under_every_attack_on_redis() -> Result<()> {
    every_attack(true).await
}

async fn every_attack(on_redis: bool) -> Result<()> {
    let setting = |name: &str| std::env::var(name).ok();
    let seconds = setting("UMBEL_ATTACK_SECONDS").map_or(Ok(SECONDS), |text| text.parse())?;
    let only = setting("UMBEL_ATTACK");
    let mut wrong = String::new();
    for attack in ALL.iter().filter(|attack| only.as_deref().is_none_or(|only| only == attack.name)) {
        let outcome = attack.run(on_redis, Duration::from_secs(seconds)).await;
        let checked = outcome.and_then(|report| {
            println!("{}", report.to_json());
            report.check()
        });
        if let Err(e) = checked {
            writeln!(wrong, "{}: {e:#}", attack.name)?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}
