use umbel::prelude::*;

#[task]
fn wait(ctx: Context) {
    ctx.info("waiting");
}

fn main() {}
