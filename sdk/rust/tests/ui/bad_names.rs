use umbel::prelude::*;

#[task(name = "add numbers", queue = "", permissions = ["blob", "blob"])]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {}
