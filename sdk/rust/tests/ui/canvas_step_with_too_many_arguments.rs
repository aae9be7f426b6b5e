use umbel::prelude::*;

#[task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

umbel::module![add];

fn main() {
    let _ = chain![add::s(2, 2), add::s(2, 3, 4)];
}
