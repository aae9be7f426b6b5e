use umbel::prelude::*;

#[task(unique = "first", debounce = "5s")]
fn first(x: i64) -> i64 {
    x
}

#[task(unique = "latest", unique_for = "5s")]
fn latest(x: i64) -> i64 {
    x
}

#[task(unique = "newest")]
fn newest(x: i64) -> i64 {
    x
}

#[task(debounce_max_wait = "5s")]
fn waits(x: i64) -> i64 {
    x
}

#[task(debounce = "1m", debounce_max_wait = "5s")]
fn hurries(x: i64) -> i64 {
    x
}

fn main() {}
