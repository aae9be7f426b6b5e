//! Asks to reach something, for the tests of approvals; and a task that tries what no permission gives.

use std::net::TcpStream;

use umbel::prelude::*;

/// Says that it ran.
#[task(permissions = ["http GET https://api.example.com/v1/"])]
fn import(page: u32) -> u32 {
    page
}

/// Connects as programs outside of a sandbox do.
#[task(max_retries = 5, retry_backoff = "1h")]
fn connect(address: String) -> TaskResult<()> {
    TcpStream::connect(address)?;
    Ok(())
}

umbel::module![import, connect, permissions: ["kv cursors"]];
