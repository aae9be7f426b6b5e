use umbel::prelude::*;

fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn main() {
    let _ = chain![add(2, 2), 5];
}
