//! A later version of `asks`, which asks for more.

use umbel::prelude::*;

/// Says that it ran, as the version before does not.
#[task(permissions = ["http GET,POST https://api.example.com/v1/"])]
fn import(page: u32) -> u32 {
    page + 1_000
}

#[task]
fn connect(address: String) -> String {
    address
}

umbel::module![import, connect, permissions: ["kv cursors", "secret api_key"]];
