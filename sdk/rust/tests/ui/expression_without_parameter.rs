use umbel::prelude::*;

#[task(limit_key = "kwargs.nope", key_concurrency = 1, unique = "first", unique_by = ["kwargs.x.y", "args[2]", "kwargs.z"])]
fn add(ctx: &Context, x: i64, y: i64) -> i64 {
    let _ = ctx;
    x + y
}

#[task(unique_by = ["kwargs.x"])]
fn nothing() {}

fn main() {}
