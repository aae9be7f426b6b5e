use umbel::prelude::*;

#[task]
struct Order {
    id: u32,
}

fn main() {}
