use umbel::prelude::*;

#[task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

umbel::module![add];

fn main() {
    // Only the macros know that a step comes before.
    let _ = add::s(2);
}
