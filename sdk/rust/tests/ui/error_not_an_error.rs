use umbel::prelude::*;

struct Broken;

#[task]
fn ship(id: u32) -> Result<u32, Broken> {
    if id == 0 { Err(Broken) } else { Ok(id) }
}

fn main() {}
