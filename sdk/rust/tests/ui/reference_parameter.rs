use umbel::prelude::*;

#[task]
fn shout(text: &str, bytes: &[u8]) -> String {
    format!("{text} {}", bytes.len())
}

fn main() {}
