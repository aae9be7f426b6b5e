use umbel::prelude::*;

#[task]
fn add(x: i64, #[optional] y: i64) -> i64 {
    x + y
}

fn main() {}
