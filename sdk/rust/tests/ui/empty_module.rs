use umbel::prelude::*;

umbel::module![];

fn main() {}
