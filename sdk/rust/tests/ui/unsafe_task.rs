use umbel::prelude::*;

#[task]
unsafe fn poke(address: u32) -> u32 {
    address
}

fn main() {}
