use umbel::prelude::*;

#[task]
fn noop() {}

umbel::module![noop];

fn main() {
    let _ = chord![group![noop::s()]];
}
