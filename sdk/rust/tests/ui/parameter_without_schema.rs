use umbel::prelude::*;

#[derive(Deserialize)]
struct Order {
    id: u32,
}

#[task]
fn ship(order: Order) -> u32 {
    order.id
}

fn main() {}
