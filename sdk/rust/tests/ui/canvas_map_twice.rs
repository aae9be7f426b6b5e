use umbel::prelude::*;

#[task]
fn inc(n: i64) -> i64 {
    n + 1
}

umbel::module![inc];

fn main() {
    let _ = inc::map([1, 2]).map([3]);
    let _ = group![inc::s(1)].kwarg("n", 2);
}
