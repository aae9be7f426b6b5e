//! Spends requests, key-value operations and fuel, for the tests of usage.

use umbel::{http, kv, prelude::*};

/// Asks a server of this machine, then counts so often; how often it was counted in all.
#[task(max_retries = 0)]
pub fn spend(url: String, #[default(1)] operations: u32) -> TaskResult<i64> {
    http::get(url).send()?.success()?;
    let mut sum = 0;
    for _ in 0..operations {
        sum = kv::bucket("spent").increment("all", 1)?;
    }
    Ok(sum)
}

umbel::module![spend, permissions: ["kv spent", "http GET http://127.0.0.1:*/"]];
