use umbel::prelude::*;

#[task]
fn echo<'a>(value: &'a str) -> &'a str {
    value
}

fn main() {}
