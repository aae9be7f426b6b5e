//! `wasi:http` itself, as generated from `wit/`: for tasks that send or read bodies piece by piece. In the sandbox only.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

wit_bindgen::generate!({
    inline: "
        package umbel:http-client;
        world client {
            import wasi:http/types@0.2.0;
            import wasi:http/outgoing-handler@0.2.0;
        }
    ",
    world: "umbel:http-client/client",
    path: "../../wit",
    generate_all,
});

pub use self::wasi::{
    http::{outgoing_handler, types},
    io::{poll, streams},
};
