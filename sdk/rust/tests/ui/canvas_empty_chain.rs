use umbel::prelude::*;

fn main() {
    let _ = chain![];
}
