use umbel::prelude::*;

#[task]
async fn fetch(id: u32) -> u32 {
    id
}

umbel::module![fetch];

fn main() {}
