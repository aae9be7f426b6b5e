use umbel::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct OneWay {
    n: u8,
}

#[task]
fn one_way(value: OneWay) -> u8 {
    value.n
}

umbel::module![one_way];

fn main() {
    let _ = one_way::s(OneWay { n: 1 });
}
