use umbel::prelude::*;

#[task(key_rate_limit = "10/s", key_rate_burst = 2, key_concurrency = 1)]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
