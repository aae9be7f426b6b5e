use umbel::prelude::*;

#[task(limit_key = "customer", unique_by = ["kwargs.", "args[x]", "kwargs.x[0"])]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(unique_by = "kwargs.x")]
fn twice(x: i64) -> i64 {
    2 * x
}

fn main() {}
