use umbel::prelude::*;

#[task(acks = "sometimes", on_worker_lost = "retry", ignore_result = "yes")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(retry_multiplier = 0, retry_fuel_factor = 1001, rate_burst = 0, concurrency = 0, rate_limit = "2000000/s")]
fn twice(x: i64) -> i64 {
    2 * x
}

#[task(retry_backoff = "5s", retry_multiplier = 3)]
fn same(x: i64) -> i64 {
    x
}

fn main() {}
