use umbel::prelude::*;

#[task]
fn echo<T: Serialize>(value: T) -> T {
    value
}

fn main() {}
