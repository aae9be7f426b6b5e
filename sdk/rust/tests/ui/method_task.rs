use umbel::prelude::*;

struct Shop;

impl Shop {
    #[task]
    fn open(&self) {}
}

fn main() {}
