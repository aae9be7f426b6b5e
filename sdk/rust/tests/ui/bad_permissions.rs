use umbel::prelude::*;

#[task(permissions = ["http ftp://a", "kv", "network 10.0.0.0/8"])]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(permissions = "kv a")]
fn mul(x: i64, y: i64) -> i64 {
    x * y
}

#[task(capabilities = ["http:api.example.com"])]
fn sub(x: i64, y: i64) -> i64 {
    x - y
}

mod texts {
    umbel::module![super::add, permissions: ["secret ../x", "kv a"]];
}

mod order {
    umbel::module![permissions: ["kv a"], super::add];
}

mod word {
    umbel::module![super::add, permits: ["kv a"]];
}

fn main() {}
