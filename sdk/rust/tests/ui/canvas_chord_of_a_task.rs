use umbel::prelude::*;

#[task]
fn noop() {}

umbel::module![noop];

fn main() {
    let _ = chord![noop::s(), noop::s()];
}
