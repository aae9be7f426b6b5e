use umbel::prelude::*;

struct Receipt {
    id: u32,
}

#[task]
fn ship(id: u32) -> Receipt {
    Receipt { id }
}

fn main() {}
