//! Random histories: the same operations on a broker and on the in-memory model, with every answer compared.
//!
//! Crashes are deliveries that nobody settles, lost replies are operations done again, and stale workers settle and
//! renew with any token that was ever given out. The clock jumps, also backwards.

mod doing;
mod history;
mod perform;
mod properties;
mod requests;
mod schedules;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use umbel_model::{AttemptRecord, canvas::Plan};

use super::{broker_options::*, flows::*, registry::worker as worker_info, schedules::schedule_name, *};

/// How many histories, of how many steps.
#[derive(Debug, Clone)]
pub struct Histories {
    pub count: u32,
    pub max_steps: usize,
    pub seed: u64,
}

impl Histories {
    /// 500 histories of up to 40 steps, others in each run; `UMBEL_HISTORIES` and `UMBEL_SEED` choose others.
    pub fn from_env() -> Self {
        let count = random::number("UMBEL_HISTORIES").unwrap_or(500) as u32;
        Self { count, max_steps: 40, seed: random::seed() }
    }
}

const TENANTS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 2] = ["q1", "q2"];
const WORKERS: [&str; 2] = ["w1", "w2"];
/// Few ids, so that they meet again.
const JOBS: u8 = 24;
/// Blobs of each tenant that may be put: more than there may be.
const BLOBS: u8 = 8;
/// Rounds in which all that is left comes to its end.
const MAX_ROUNDS: u32 = 200;

pub use history::random_histories;
