//! The binary `umbel`.
fn main() {}
