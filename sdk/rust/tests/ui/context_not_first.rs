use umbel::prelude::*;

#[task]
fn wait(seconds: u64, ctx: &Context) -> u64 {
    ctx.info("waiting");
    seconds
}

fn main() {}
