use umbel::prelude::*;

#[task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "add")]
fn plus(x: i64, y: i64) -> i64 {
    x + y
}

umbel::module![add, plus];

fn main() {}
