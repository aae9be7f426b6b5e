use umbel::prelude::*;

#[task(time_limit = "30s", soft_time_limit = "1m")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(soft_time_limit = "10m")]
fn total(items: Vec<i64>) -> i64 {
    items.iter().sum()
}

fn main() {}
