//! A minute of chaos; `cargo xtask chaos` makes ten of it, with more jobs.

use std::time::Duration;

use anyhow::{Result, ensure};
use umbel_tests::chaos::{self, Options};

#[tokio::test]
async fn every_job_ends_once_whatever_is_killed_stopped_cut_or_held_up() -> Result<()> {
    let options = Options { duration: Duration::from_secs(60), jobs: 2_000, seed: 20_261_122, workers: 4 };
    let report = chaos::run(options).await?;
    println!("{report}");
    ensure!(report.is_good(), "{report}");
    ensure!(report.faults().len() >= 16, "a fault was not injected: {:?}", report.faults().keys());
    Ok(())
}
