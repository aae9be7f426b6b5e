use umbel::prelude::*;

#[task(time_limit = "30 parsecs", expires = "30", result_ttl = 5)]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
