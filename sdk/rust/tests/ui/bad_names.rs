use umbel::prelude::*;

#[task(name = "add numbers", queue = "", capabilities = ["a", "a"])]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
