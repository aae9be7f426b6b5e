use umbel::prelude::*;

fn add(x: i64, y: i64) -> i64 {
    x + y
}

struct Order;

umbel::module![add];

mod other {
    umbel::module![super::Order];
}

fn main() {}
