use umbel::prelude::*;

#[task(memory = "64 elephants", fuel = "10X", rate_limit = "100/y", max_retries = "many")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
