use umbel::prelude::*;

#[task]
fn count(items: impl Iterator<Item = u8>) -> usize {
    items.count()
}

fn main() {}
