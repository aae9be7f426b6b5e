use umbel::prelude::*;

#[task(retry_backoff = "10m..1s")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(retry_backoff = "1s to 10m")]
fn total(items: Vec<i64>) -> i64 {
    items.iter().sum()
}

fn main() {}
