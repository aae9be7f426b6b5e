use umbel::prelude::*;

#[task(priority = 10, memory = "1KiB", time_limit = "400d", max_deliveries = 0, max_retries = -1)]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
