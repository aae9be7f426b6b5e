use umbel::prelude::*;

#[task(retry_on = ["a*b", "", "not ascii: é"], throws = ["A", "A"], dont_retry_on = "Void")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(retry_on = ["bad_output", "out_of_fuel"])]
fn never(x: i64) -> i64 {
    x
}

fn main() {}
