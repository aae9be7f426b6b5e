use umbel::prelude::*;

#[task(priority = 1, priority = 2)]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
